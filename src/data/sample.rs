//! A sample of a long list of rows: runs of neighbours, in which equal rows show, and which the disk reads in one piece.

use crate::io::RowList;

/// Items per run of neighbours in a sample.
pub(super) const RUN: usize = 64;

/// At most `most` of `items`, in runs of neighbours that are spread from the first to the last.
pub(super) fn sample(items: &RowList, most: usize) -> RowList {
    if items.len() <= most {
        return items.clone();
    }
    let (runs, last) = ((most / RUN).max(1), items.len() - RUN.min(items.len()));
    let start = |run: usize| if runs > 1 { run * last / (runs - 1) } else { 0 };
    (0..runs).flat_map(|run| items.between(start(run)..start(run) + RUN)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_runs_from_the_first_to_the_last() {
        let items: RowList = (0..1000).map(|i| 3 * i).collect();
        assert_eq!(sample(&items, 1000), items);
        let some = sample(&items, 256);
        assert_eq!((some.len(), some.at(0), some.at(255)), (256, 0, 2997));
        assert!(some.chunks(RUN).all(|run| run.windows(2).all(|pair| pair[1] == pair[0] + 3)));
        assert_eq!(sample(&items, 64), items.to_vec()[..64]);
    }
}
