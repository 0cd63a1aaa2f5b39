//! The promises, in users' words, kept over real HTTP against the product's own binary.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a promise is broken")]

mod server;
mod sse;
mod steps;

use cucumber::World as _;
use cucumber::writer::Libtest;

#[tokio::main]
async fn main() {
    let features = concat!(env!("CARGO_MANIFEST_DIR"), "/../features");
    steps::Session::cucumber()
        // Two cores: more servers at a time would only wait for each other.
        .max_concurrent_scenarios(2)
        .fail_on_skipped()
        .with_writer(Libtest::or_basic())
        .run_and_exit(features)
        .await;
}
