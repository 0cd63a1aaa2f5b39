//! Three hundred clients with every bad habit, and what the journal has to say about them afterwards; ten
//! times the load that a server can take; and a thousand connections that are held and not used.

use crate::server::{Server, Setup, orch};
use crate::sse::{Event, Events};
use crate::{ALONE, draw};
use reqwest::Client;
use serde_json::{Value, json};
use std::time::Duration;

const CLIENTS: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_load_is_served_as_far_as_it_goes() {
    let _alone = ALONE.lock().await;
    crate::overload::ten_times_the_load().await;
}

/// How a client's task ended, as the server told it.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Refused(u16),
    Ended(String),
}

fn terminals(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|e| e.name == "end" || e.name == "error").collect()
}

async fn stream(client: &Client, url: &str, id: &str) -> Events {
    Events::of(client.get(format!("{url}/v1/tasks/{id}/stream")).send().await.unwrap()).await
}

async fn misbehave(client: Client, url: String, number: u64) -> Told {
    let dice = |n: u64| draw(number * 16 + n);
    let mut body = json!({
        "model_ref": "tiny", "prompt": format!("Client {number} says"), "max_tokens": 1 + dice(0) % 60,
        "temperature": 0.8, "priority": if dice(1) % 4 == 0 { "batch" } else { "interactive" },
    });
    if dice(2) % 5 == 0 {
        body["deadline_ms"] = json!(1 + dice(3) % 250);
    }
    tokio::time::sleep(Duration::from_millis(dice(4) % 1_500)).await;
    let response = client.post(format!("{url}/v1/tasks")).json(&body).send().await.unwrap();
    let status = response.status().as_u16();
    let answer: Value = response.json().await.unwrap();
    if status != 202 {
        assert!(matches!(status, 400 | 429), "{answer}");
        return Told::Refused(status);
    }
    let id = answer["task_id"].as_str().unwrap().to_owned();
    match dice(5) % 4 {
        0 => {
            tokio::time::sleep(Duration::from_millis(dice(6) % 150)).await;
            let cancel = client.post(format!("{url}/v1/tasks/{id}/cancel")).send().await.unwrap();
            assert_eq!(cancel.status().as_u16(), 204);
            let late = stream(&client, &url, &id).await.rest().await;
            let cancelled = terminals(&late)[0].data["code"] == "CANCELLED";
            assert!(!cancelled || late.iter().all(|e| e.name != "token"), "a token after the cancel: {late:?}");
        }
        1 => {
            // Hangs up in the middle, and comes back for the rest.
            let mut reader = stream(&client, &url, &id).await;
            for _ in 0..dice(7) % 10 {
                if reader.next().await.is_none() {
                    break;
                }
            }
        }
        _ => {}
    }
    let events = stream(&client, &url, &id).await.rest().await;
    let numbers: Vec<u64> = events.iter().filter_map(|e| e.data["i"].as_u64()).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "no gap, no repetition");
    let ends = terminals(&events);
    assert_eq!(ends.len(), 1, "{events:?}");
    assert_eq!(events.last(), Some(ends[0]), "nothing after the end");
    let said = ends[0].data["code"].as_str().unwrap_or("end");
    Told::Ended(said.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_that_are_held_disturb_nobody() {
    let _alone = ALONE.lock().await;
    crate::slow::those_who_hold_disturb_nobody().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_clients_leave_a_journal_that_replays() {
    let _alone = ALONE.lock().await;
    let more = "[queue]\ninteractive_max = 64\nbatch_max = 32\n[placement]\npolicy = \"least-loaded\"\n".into();
    let mut server = Server::start(&Setup { pools: 2, slots: 4, simd: "scalar", more, ..Setup::default() });
    let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let crowd: Vec<_> = (0..CLIENTS).map(|n| tokio::spawn(misbehave(client.clone(), server.url.clone(), n))).collect();
    let mut told = vec![];
    for member in crowd {
        told.push(member.await.unwrap());
    }
    let ended = |how: &str| told.iter().filter(|t| **t == Told::Ended(how.into())).count();
    assert!(ended("end") > 100 && ended("CANCELLED") > 10 && ended("DEADLINE_UNMET") > 0, "{told:?}");
    assert!(server.stop().success());

    let journal = server.journal();
    let path = journal.to_str().unwrap();
    let (well, report, errors) = orch(&["replay", path]);
    assert!(well, "{errors}");
    println!("{report}");

    let (well, report, errors) = orch(&["replay", path, "--set", "placement.policy=pack"]);
    assert!(well && report.contains("first decision"), "{report}{errors}");

    flipped_bits_are_found(&journal);
}

/// One bit in each of many places: always found, and the place named.
fn flipped_bits_are_found(journal: &std::path::Path) {
    let segment = journal.join("00000001.orj");
    let whole = std::fs::read(&segment).unwrap();
    for n in 0..20 {
        let mut damaged = whole.clone();
        let at = (draw(n) % damaged.len() as u64) as usize;
        damaged[at] ^= 1 << (draw(n + 100) % 8);
        std::fs::write(&segment, damaged).unwrap();
        let (well, report, errors) = orch(&["replay", journal.to_str().unwrap()]);
        // A crash leaves a last record like one whose bit flipped: it is cut off, and said.
        assert!(!well || report.contains("was not written to its end"), "bit {n} at byte {at}: {report}");
        let named = ["00000001.orj, record ", "00000001.orj, header"].iter().any(|place| errors.contains(place));
        assert!(well || named || errors.contains("it does not begin with ORJH"), "{errors}");
    }
    std::fs::write(&segment, whole).unwrap();
}
