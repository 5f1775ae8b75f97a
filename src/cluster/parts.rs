//! The parts of a pass over items: strips of neighbours that the ranks of a job can divide.

use super::team::share;
use std::ops::Range;

/// Items in strips, and the strips in parts. The parts do not depend on the number of processes.
pub(crate) struct Parts {
    items: usize,
    strip: usize,
    count: usize,
}

impl Parts {
    /// Items in strips of `strip` items. The strips make at most `slices` parts, and one part without slices.
    pub fn new(items: usize, strip: usize, slices: usize) -> Self {
        Self { items, strip, count: slices.clamp(1, items.div_ceil(strip).max(1)) }
    }

    /// The number of parts.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The items of each strip of a part.
    pub fn strips(&self, part: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let Self { items, strip, count } = *self;
        let strips = share(items.div_ceil(strip), part, count);
        strips.map(move |at| at * strip..items.min((at + 1) * strip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_items_once() {
        for items in [1, 10, 11, 20, 95, 100] {
            for slices in [0, 1, 2, 3, 8, 20] {
                let parts = Parts::new(items, 10, slices);
                assert_eq!(parts.count(), slices.clamp(1, items.div_ceil(10)));
                let strips: Vec<_> = (0..parts.count()).flat_map(|part| parts.strips(part)).collect();
                assert_eq!(
                    strips.iter().cloned().flatten().collect::<Vec<_>>(),
                    (0..items).collect::<Vec<_>>()
                );
                assert!(strips[1..].iter().all(|strip| strip.start % 10 == 0));
            }
        }
    }
}
