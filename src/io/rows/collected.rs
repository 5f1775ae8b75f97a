//! Collects rows one after the other, and decides how a list of them is kept.

use super::{Kept, RowList, Run};

/// Rows per run from which on runs replace a list. A run takes as much memory as six rows below 2^32.
const WORTH: usize = 16;
/// So many runs are collected before it is known whether they are worth it.
const FEW: usize = 1 << 16;

/// Rows that are being collected, one after the other: runs, until there are too many of them.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    runs: Vec<Run>,
    len: usize,
    /// The row after the last one; `None` if there is no such number.
    next: Option<u64>,
    list: Option<Kept>,
}

impl Collected {
    /// Adds a row.
    pub fn push(&mut self, row: u64) {
        match &mut self.list {
            None => {
                self.push_run(row, 1);
                if self.runs.len() > FEW && self.runs.len() * WORTH > self.len {
                    self.list = Some(list(&self.take()));
                }
            }
            Some(Kept::Long(rows)) => rows.push(row),
            Some(kept) => match (u32::try_from(row), kept) {
                (Ok(row), Kept::Short(rows)) => rows.push(row),
                (_, kept) => {
                    let mut rows: Vec<u64> =
                        RowList(std::mem::replace(kept, Kept::Short(Vec::new()))).to_vec();
                    rows.push(row);
                    *kept = Kept::Long(rows);
                }
            },
        }
    }

    /// Adds neighbours.
    pub fn push_run(&mut self, start: u64, len: usize) {
        if len == 0 {
            return;
        }
        if self.list.is_some() {
            return (0..len as u64).for_each(|at| self.push(start + at));
        }
        if self.len == 0 || self.next != Some(start) {
            self.runs.push(Run { first: self.len, start });
        }
        self.len += len;
        self.next = start.checked_add(len as u64);
    }

    /// What was collected as runs.
    fn take(&mut self) -> RowList {
        RowList(Kept::Runs(std::mem::take(&mut self.runs), self.len))
    }

    /// The list. It is kept in runs if these are long enough.
    pub fn finish(mut self) -> RowList {
        let (rows, count) = match self.list.take() {
            Some(list) => {
                let rows = RowList(list);
                let count = rows.runs().count();
                (rows, count)
            }
            None => {
                let count = self.runs.len();
                (self.take(), count)
            }
        };
        let worth = count > 0 && count.saturating_mul(WORTH) <= rows.len();
        match (&rows.0, worth) {
            (Kept::Runs(..), true) | (Kept::Short(_) | Kept::Long(_), false) => rows,
            (Kept::Runs(..), false) => RowList(list(&rows)),
            (_, true) => {
                let mut runs = Self::default();
                rows.runs().for_each(|(start, len)| runs.push_run(start, len));
                runs.take()
            }
        }
    }
}

/// The rows one by one.
fn list(rows: &RowList) -> Kept {
    let short: Result<Vec<u32>, _> = rows.iter().map(u32::try_from).collect();
    short.map_or_else(|_| Kept::Long(rows.to_vec()), Kept::Short)
}
