//! Which bytes of a file are there: sorted, disjoint ranges that grow together.
//! Arithmetic only; must not touch files.

use std::ops::Range;

/// Sorted ranges that neither overlap nor touch, none of them empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spans(Vec<Range<u64>>);

impl Spans {
    /// The first `len` bytes.
    pub(super) fn prefix(len: u64) -> Spans {
        let mut spans = Spans::default();
        spans.add(0..len);
        spans
    }

    /// Adds a range, which may overlap what is there. An empty or reversed one is nothing.
    pub(super) fn add(&mut self, new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        let first = self.0.partition_point(|span| span.end < new.start);
        let last = self.0.partition_point(|span| span.start <= new.end);
        let merged = match self.0.get(first..last) {
            Some([only]) => only.start.min(new.start)..only.end.max(new.end),
            Some([lowest, .., highest]) => lowest.start.min(new.start)..highest.end.max(new.end),
            _ => new,
        };
        self.0.splice(first..last, [merged]);
    }

    /// How many bytes are there from the first one on, without a gap.
    pub(super) fn prefix_len(&self) -> u64 {
        self.0.first().filter(|span| span.start == 0).map_or(0, |span| span.end)
    }

    /// Whether nothing lies beyond the prefix.
    pub(super) fn is_prefix(&self) -> bool {
        self.0.len() <= 1 && self.prefix_len() == self.0.first().map_or(0, |span| span.end)
    }

    /// How many bytes are there.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|span| span.end - span.start).sum()
    }

    /// What is missing of the first `len` bytes.
    pub(super) fn gaps(&self, len: u64) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = 0;
        for span in &self.0 {
            gaps.push(at..span.start.min(len));
            at = span.end.min(len);
        }
        gaps.push(at..len);
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_together() {
        let mut spans = Spans::prefix(10);
        assert!(spans.is_prefix());
        for range in [20..30, 40..50, 25..26, 5..5, 60..70] {
            spans.add(range);
        }
        assert_eq!((spans.prefix_len(), spans.total(), spans.is_prefix()), (10, 40, false));
        assert_eq!(spans.gaps(65), [10..20, 30..40, 50..60]);
        assert_eq!(spans.gaps(35), [10..20, 30..35]);
        assert_eq!(spans.gaps(5), []);
        spans.add(30..40);
        assert_eq!(spans.gaps(70), [10..20, 50..60]);
        spans.add(8..61);
        assert_eq!(spans, Spans::prefix(70));
        let mut late = Spans::default();
        late.add(3..4);
        assert_eq!((late.prefix_len(), late.is_prefix()), (0, false));
        assert_eq!(late.gaps(6), [0..3, 4..6]);
    }

    #[test]
    fn any_order_is_the_same_as_a_bitmap() {
        let mut seed = 7u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let (mut spans, mut bits) = (Spans::default(), [false; 64]);
            for _ in 0..12 {
                let start = next(64);
                let end = (start + next(9)).min(64);
                spans.add(start..end);
                (start..end).for_each(|at| bits[at as usize] = true);
            }
            let missing: Vec<u64> = spans.gaps(64).into_iter().flatten().collect();
            let expected: Vec<u64> = (0..64).filter(|at| !bits[*at as usize]).collect();
            assert_eq!(missing, expected);
            assert_eq!(spans.total(), 64 - expected.len() as u64);
            assert_eq!(spans.prefix_len(), expected.first().copied().unwrap_or(64));
        }
    }
}
