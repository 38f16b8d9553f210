//! `brig-rt` on bundles that lie, contradict themselves or race: whatever is refused leaves nothing, whatever runs is
//! confined. One module per theme; this file only lists them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bundle;
mod callers;
mod escapes;
mod order;
mod races;
mod table;
