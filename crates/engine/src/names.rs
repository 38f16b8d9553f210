//! Names for containers that were given none. Owns the words; must not know which names are taken.

use crate::error::Result;
use crate::id::random_hex;

const MOODS: [&str; 48] = [
    "able", "airy", "ample", "avid", "bold", "brave", "brisk", "calm", "civil", "clear", "coastal", "deft", "eager",
    "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad", "grand", "hardy", "hearty", "jolly", "keen", "kind",
    "lively", "lucid", "merry", "mild", "neat", "nimble", "noble", "placid", "plucky", "proud", "quick", "quiet",
    "rapid", "ready", "sober", "solid", "steady", "sturdy", "swift", "tidy", "trim", "vivid",
];

const SAILORS: [&str; 48] = [
    "amundsen",
    "anson",
    "baffin",
    "baltazar",
    "barents",
    "baret",
    "behaim",
    "bering",
    "bougainville",
    "bowditch",
    "cabot",
    "cabral",
    "cook",
    "cousteau",
    "crozet",
    "dampier",
    "davis",
    "dias",
    "drake",
    "earle",
    "elcano",
    "flinders",
    "franklin",
    "frobisher",
    "gama",
    "harrison",
    "hartog",
    "hudson",
    "kerguelen",
    "lisle",
    "magellan",
    "maury",
    "mercator",
    "nansen",
    "parry",
    "piccard",
    "ross",
    "sharp",
    "slocum",
    "tasman",
    "tharp",
    "torres",
    "tupaia",
    "vancouver",
    "vespucci",
    "wallis",
    "weddell",
    "zheng",
];

/// A name such as `brisk_tasman`; `attempt` > 0 adds a number, so that a caller that retries gets elsewhere.
pub fn random_name(attempt: u32) -> Result<String> {
    let hex = random_hex(3)?;
    let number = u32::from_str_radix(&hex, 16).unwrap_or_default() as usize;
    let (mood, sailor) = (MOODS[number % MOODS.len()], SAILORS[(number / MOODS.len()) % SAILORS.len()]);
    Ok(if attempt == 0 { format!("{mood}_{sailor}") } else { format!("{mood}_{sailor}{}", number % 1000) })
}
