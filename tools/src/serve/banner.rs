//! What `orch serve` says to the person who started it, on stdout, a few lines in all.

use orchestrion_gpu::engine::Makes;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

/// A model that is served, in words.
#[derive(Debug)]
pub(crate) struct Served {
    pub name: String,
    pub pool: String,
    /// For instance `host engine (AVX2, 2 threads)`.
    pub engine: String,
    /// Where its chat template comes from.
    pub chats: String,
    pub makes: Makes,
}

pub(crate) fn opened(address: SocketAddr, journal: &Path) {
    say(&format!("Orchestrion {} on http://{address}", crate::version::line()));
    say(&format!("journal   {}", journal.display()));
}

pub(crate) fn ready(address: SocketAddr, models: &[Served]) {
    for Served { name, pool, engine, chats, .. } in models {
        let of = if models.len() > 1 { format!(" in pool {pool}") } else { String::new() };
        say(&format!("model     {name}{of}, {engine}, {chats}"));
    }
    let (name, makes) = models.first().map_or(("", Makes::Text), |served| (&*served.name, served.makes));
    say(&format!("dashboard http://{address}/ui"));
    say("ready. Try:");
    let (path, body) = match makes {
        Makes::Text => {
            ("chat/completions", r#""stream":true,"messages":[{"role":"user","content":"Name three colours."}]"#)
        }
        Makes::Vectors => ("embeddings", r#""input":["a cat sat on the mat","a feline on a rug"]"#),
        Makes::Scores => ("rerank", r#""query":"who sat?","documents":["a cat sat on the mat","rugs are red"]"#),
    };
    say(&format!("  curl -N http://{address}/v1/{path} -H 'content-type: application/json' \\"));
    say(&format!("    -d '{{\"model\":\"{name}\",{body}}}'"));
}

pub(crate) fn stopping() {
    say("stopping: open streams get 10 s; once more Ctrl-C ends at once");
}

fn say(line: &str) {
    // Whoever started the server may have closed its stdout; it serves all the same.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
