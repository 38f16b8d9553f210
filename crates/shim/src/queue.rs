//! Bytes that wait to be written.
//!
//! Owns: a first-in first-out buffer that costs nothing while it is empty. Must not: limit itself (its users look at
//! [`Queue::len`] before they read more) or do input or output.

/// Bytes in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    /// How much of `bytes` is gone already.
    start: usize,
}

impl Queue {
    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds to the end.
    pub(crate) fn push(&mut self, more: &[u8]) {
        // Moving the rest to the front only when it is the smaller half keeps the cost per byte constant.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(more);
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Forgets the first `count` bytes; the memory is given back when nothing is left.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.is_empty() {
            self.clear();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Queue::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_gives_memory_back() {
        let mut queue = Queue::default();
        queue.push(b"abc");
        queue.consume(2);
        queue.push(b"def");
        assert_eq!((queue.waiting(), queue.len()), (&b"cdef"[..], 4));
        queue.consume(9);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes.capacity(), 0);
    }
}
