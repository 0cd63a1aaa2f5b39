// The page's two halves: figures from /status once a second, and one streamed chat completion at a time.
"use strict";
let running = null;
const at = (id) => document.getElementById(id);
const NAMES = {
  workers_ready: "workers ready", queue_depth: "waiting", active_leases: "running", tasks_enqueued: "accepted",
  tasks_done: "done", tasks_cancelled: "cancelled", tasks_failed: "failed", tokens_in: "tokens in", tokens_out: "tokens out",
};

function show(status) {
  at("state").textContent = status.ready ? "ready" : "no worker is ready yet";
  at("state").classList.toggle("ready", status.ready);
  at("version").textContent = "version " + status.version;
  at("totals").replaceChildren(...Object.entries(NAMES).map(([key, name]) => {
    const box = document.createElement("div");
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = name;
    value.textContent = status.totals[key].toLocaleString();
    box.append(term, value);
    return box;
  }));
  const models = at("model");
  if (models.dataset.known !== status.answering.join()) {
    models.dataset.known = status.answering.join();
    models.replaceChildren(...status.answering.map((name) => new Option(name)));
  }
  // A server that is still loading may come to have one.
  at("none").hidden = status.answering.length > 0 || !status.ready;
  at("send").disabled = running !== null || status.answering.length === 0;
}

// A server with tokens refuses until one is typed in; it stays in this page alone.
function headers() {
  return at("key").value ? { authorization: "Bearer " + at("key").value } : {};
}

async function refresh() {
  try {
    const response = await fetch("/status", { headers: headers() });
    at("asks").hidden = response.ok && !at("key").value;
    if (response.ok) show(await response.json());
    else at("state").textContent = (await response.json()).message;
  } catch {
    at("state").textContent = "the server does not answer";
    at("state").classList.remove("ready");
  }
  setTimeout(refresh, 1000);
}

async function ask(event) {
  event.preventDefault();
  running = new AbortController();
  at("send").disabled = true;
  at("stop").disabled = false;
  const answer = at("answer");
  answer.textContent = "";
  answer.classList.remove("error");
  try {
    const body = {
      model: at("model").value, stream: true, stream_options: { include_usage: true },
      temperature: Number(at("temperature").value), max_completion_tokens: Number(at("max").value),
      messages: [{ role: "user", content: at("prompt").value }],
    };
    const response = await fetch("/v1/chat/completions", {
      method: "POST", headers: { "content-type": "application/json", ...headers() }, body: JSON.stringify(body), signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    await read(response.body.pipeThrough(new TextDecoderStream()).getReader(), answer);
  } catch (error) {
    if (error.name !== "AbortError") {
      answer.classList.add("error");
      answer.textContent += (answer.textContent ? "\n\n" : "") + error.message;
    }
  }
  running = null;
  at("send").disabled = false;
  at("stop").disabled = true;
}

async function read(reader, answer) {
  let rest = "", first = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      if (!frame.startsWith("data: ") || frame === "data: [DONE]") continue;
      const chunk = JSON.parse(frame.slice(6));
      if (chunk.error) throw new Error(chunk.error.message);
      const text = chunk.choices[0]?.delta?.content;
      if (text) {
        first ||= performance.now();
        answer.append(text);
      }
      if (chunk.usage) {
        const seconds = (performance.now() - first) / 1000;
        at("pace").textContent = `${chunk.usage.completion_tokens} tokens in ${seconds.toFixed(1)} s`;
      }
    }
  }
}

at("ask").addEventListener("submit", ask);
at("stop").addEventListener("click", () => running?.abort());
refresh();
