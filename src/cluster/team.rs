//! Work that the ranks of a job divide outside of training: each computes its parts, and all have the whole.
//!
//! Every exchange begins with a few numbers from each rank: whether its part succeeded, what the work is, and how much
//! it gives. So an error of one rank becomes the error of all, and ranks that do different work notice it.

use super::{Communicator, gather, texts};
use crate::{Error, ErrorKind, Result};
use bytemuck::Pod;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// The ranks of a job that divide work.
pub(crate) struct Team {
    ranks: Arc<dyn Communicator>,
    /// Whether the ranks were found to do different work. From then on, none waits for another.
    apart: AtomicBool,
    /// How often the ranks have met.
    met: AtomicU64,
}

impl Team {
    pub fn new(ranks: Arc<dyn Communicator>) -> Self {
        Self { ranks, apart: AtomicBool::new(false), met: AtomicU64::new(0) }
    }

    /// The parts of this rank.
    pub fn share(&self, parts: usize) -> Range<usize> {
        share(parts, self.ranks.rank(), self.ranks.size())
    }

    /// Joins what the ranks have computed, in the order of the ranks. `what` names the work. If a rank has failed, its
    /// error is the error of all.
    ///
    /// # Errors
    /// Those of the work on any rank; ranks that do different work.
    pub fn join<T: Pod>(&self, what: &str, own: Result<Vec<T>>) -> Result<Vec<T>> {
        let (own, lens) = self.meet(what, own, Vec::len)?;
        gather(&*self.ranks, &own, &lens)
    }

    /// What every rank says, in the order of the ranks.
    ///
    /// # Errors
    /// Those of [`Team::join`].
    #[cfg(feature = "native")]
    pub fn texts(&self, what: &str, own: Result<String>) -> Result<Vec<String>> {
        let (own, _) = self.meet(what, own, String::len)?;
        texts(&*self.ranks, &own)
    }

    /// The ranks of the team.
    pub fn ranks(&self) -> &dyn Communicator {
        &*self.ranks
    }

    /// Waits until all ranks are here with what they have done. Returns it with its length on every rank.
    pub fn meet<T>(&self, what: &str, own: Result<T>, len: impl Fn(&T) -> usize) -> Result<(T, Vec<usize>)> {
        if self.apart.load(Ordering::Relaxed) {
            return own.and_then(|_| Err(apart(what, self.ranks.rank())));
        }
        let count = self.met.fetch_add(1, Ordering::Relaxed);
        let len = own.as_ref().map_or(FAILED, |own| len(own) as u64);
        let lens = meet(&*self.ranks, what, [count, len])
            .inspect_err(|_| self.apart.store(true, Ordering::Relaxed))?;
        let Some(failed) = lens.iter().position(|&len| len == FAILED) else {
            return Ok((own?, lens.into_iter().map(|len| len as usize).collect()));
        };
        let said = own.as_ref().err().map_or_else(String::new, to_text);
        let errors = texts(&*self.ranks, &said)?;
        match own {
            Err(error) if failed == self.ranks.rank() => Err(error),
            _ => Err(from_text(&errors[failed])),
        }
    }
}

/// The parts of a rank if the ranks divide `parts` parts: neighbours, and one for the first rank if there is any.
pub(crate) fn share(parts: usize, rank: usize, size: usize) -> Range<usize> {
    (parts * rank).div_ceil(size)..(parts * (rank + 1)).div_ceil(size)
}

/// The length of what a rank gives that has failed.
const FAILED: u64 = u64::MAX;

/// Waits until all ranks are here, and returns what each gives: a length, or [`FAILED`].
/// They must have met as often before, for the same work.
fn meet(ranks: &dyn Communicator, what: &str, [count, len]: [u64; 2]) -> Result<Vec<u64>> {
    let own = [name(what), count, len];
    let all = gather(ranks, &own, &vec![own.len(); ranks.size()])?;
    match all.chunks_exact(own.len()).all(|other| other[..2] == own[..2]) {
        true => Ok(all.chunks_exact(own.len()).map(|other| other[2]).collect()),
        false => Err(apart(what, ranks.rank())),
    }
}

/// Waits until all ranks have come to the end of their work.
///
/// # Errors
/// A rank that still waits for others to do work with it.
pub fn end(ranks: &dyn Communicator) -> Result<()> {
    meet(ranks, "the end", [0, 0]).map(|_| ())
}

/// A number for the name of the work.
fn name(what: &str) -> u64 {
    xxh3_64(what.as_bytes())
}

/// The error of ranks that do different work.
fn apart(what: &str, rank: usize) -> Error {
    let (expected, found) = ("the same work on all of them", format!("{what} on process {rank} alone"));
    let advice = "start the job again, and report this as a bug of wgoal if it happens again";
    Error::new(ErrorKind::Device, "processes of the job", expected, found, advice)
}

/// The kinds of errors, in the order of their numbers in a text.
const KINDS: [ErrorKind; 6] = [
    ErrorKind::Data,
    ErrorKind::Config,
    ErrorKind::Device,
    ErrorKind::Checkpoint,
    ErrorKind::Diverged,
    ErrorKind::Stopped,
];

/// What stands between the parts of an error. No part has this character.
const BETWEEN: char = '\0';

/// An error as a text for other ranks.
fn to_text(error: &Error) -> String {
    let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(0).to_string();
    let parts = [&kind, error.thing(), error.expected(), error.found(), error.advice()];
    parts.map(|part| part.replace(BETWEEN, " ")).join(&BETWEEN.to_string())
}

fn from_text(text: &str) -> Error {
    let mut parts = text.split(BETWEEN);
    let kind = parts.next().and_then(|kind| kind.parse::<usize>().ok()).unwrap_or(0);
    let [thing, expected, found, advice] = [(); 4].map(|()| parts.next().unwrap_or_default());
    Error::new(KINDS.get(kind).copied().unwrap_or(ErrorKind::Data), thing, expected, found, advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Alone;

    #[test]
    fn shares_cover_all_parts_in_order() {
        for parts in [0, 1, 2, 5, 16, 17] {
            for size in 1..=8 {
                let shares: Vec<_> = (0..size).map(|rank| share(parts, rank, size)).collect();
                assert_eq!(
                    shares.iter().cloned().flatten().collect::<Vec<_>>(),
                    (0..parts).collect::<Vec<_>>()
                );
                let lens: Vec<_> = shares.iter().map(ExactSizeIterator::len).collect();
                assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= 1, "{lens:?}");
                assert!(parts == 0 || lens[0] > 0);
            }
        }
    }

    #[test]
    fn an_error_keeps_its_parts_as_a_text() {
        for kind in KINDS {
            let error = Error::new(kind, "thing", "a; b", "c\n", "d, \u{0}e");
            let back = from_text(&to_text(&error));
            assert_eq!(back.kind(), kind);
            let parts =
                |error: &Error| [error.thing(), error.expected(), error.found(), error.advice()].join("|");
            assert_eq!(parts(&back), parts(&error).replace('\0', " "));
        }
    }

    #[test]
    fn a_process_alone_joins_what_it_has_and_keeps_its_error() {
        let team = Team::new(Arc::new(Alone));
        assert_eq!(team.join("x", Ok(vec![1.5f32])).unwrap(), [1.5]);
        assert_eq!(team.texts("x", Ok("a".into())).unwrap(), ["a"]);
        let error = team.join::<u32>("x", Err(Error::config("a", "b", "c", "d"))).unwrap_err();
        assert_eq!(error.to_string(), "a: expected b, found c; d");
    }
}
