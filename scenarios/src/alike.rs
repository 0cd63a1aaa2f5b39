//! Beginnings of prompts that have no tokens: those of one name are alike.

use orchestrion_world::ledger::digest_of;
use orchestrion_world::prefix::{PREFIXES_OF_TASK, PrefixKey, length};

/// As a door would find them in a prompt of `prompt` tokens, the first `shared` of which are those of all that are
/// called so.
pub(crate) fn beginnings(name: &str, shared: u32, prompt: u32) -> Box<[PrefixKey]> {
    let places = (0..PREFIXES_OF_TASK).take_while(|&place| length(place) <= shared && length(place) < prompt);
    places.map(|place| PrefixKey(digest_of(&(name, place as u64)).0 as u64)).collect()
}
