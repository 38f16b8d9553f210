//! The store's upkeep as a noun: collecting, measuring, checking. Each of these has a file of its own; this one only names
//! them together.

use crate::store::Store;

/// What keeps the store in order.
#[derive(Clone, Copy)]
pub struct Upkeep<'a> {
    pub(crate) store: &'a Store,
}
