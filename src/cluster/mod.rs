//! The processes of one job, called ranks, and how they share a batch.
//!
//! [`Communicator`] is what training needs of a job: to join what each rank has, in the order of the ranks. [`Alone`] is
//! a process without others. `Mpi` is a job that `mpirun` has started (feature `mpi`). [`Slices`] divides a batch.

mod alone;
#[cfg(feature = "mpi")]
mod mpi;
mod parts;
mod slices;
#[cfg(feature = "native")]
mod sum;
mod team;
mod tree;
#[cfg(feature = "native")]
mod waiting;

pub use alone::Alone;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub(crate) use parts::Parts;
pub use slices::{SLICES, Slices};
#[cfg(feature = "native")]
pub(crate) use sum::sum;
pub(crate) use team::Team;
pub use team::end;
pub(crate) use tree::{Node, Tree};
#[cfg(feature = "native")]
pub(crate) use waiting::Measured;
#[cfg(feature = "native")]
pub use waiting::Waited;

use crate::{Error, Result};
use bytemuck::Pod;

/// The processes of a job. All ranks make the same calls in the same order.
pub trait Communicator: Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes, at least 1.
    fn size(&self) -> usize;

    /// The number of this process among those of its machine, from 0, and their number.
    fn local(&self) -> [usize; 2];

    /// The name of the machine of this process; empty if it is not known.
    fn machine(&self) -> String {
        String::new()
    }

    /// Joins the bytes of all ranks in the order of the ranks, on every rank. Rank r gives `lens[r]` bytes. `whole` has
    /// room for all of them.
    ///
    /// # Errors
    /// The network fails.
    fn gather(&self, own: &[u8], lens: &[usize], whole: &mut [u8]) -> Result<()>;

    /// Sends a part to every rank. `own` has the parts for the ranks in their order, that of rank r with `to[r]` bytes.
    /// `whole` receives the parts from all ranks in their order, `from[r]` bytes from rank r. Neither has more than 2^31 - 1
    /// bytes.
    ///
    /// # Errors
    /// The network fails.
    fn exchange(&self, own: &[u8], to: &[usize], from: &[usize], whole: &mut [u8]) -> Result<()>;

    /// Ends all processes of the job at once, with this exit code. What they were doing is lost. A process alone goes on,
    /// and returns the code to end with.
    fn abort(&self, code: u8) -> u8;
}

/// Joins the elements of all ranks in the order of the ranks. Rank r gives `lens[r]` elements.
pub(crate) fn gather<T: Pod>(ranks: &dyn Communicator, own: &[T], lens: &[usize]) -> Result<Vec<T>> {
    let (rank, size) = (ranks.rank(), ranks.size());
    if lens.len() != size || lens[rank] != own.len() {
        let expected = format!("{:?} elements of {size} ranks", lens);
        let found = format!("{} of rank {rank}", own.len());
        return Err(Error::config("a gather over ranks", expected, found, "report this as a bug of wgoal"));
    }
    let mut whole = vec![T::zeroed(); lens.iter().sum()];
    let bytes: Vec<_> = lens.iter().map(|len| len * size_of::<T>()).collect();
    ranks.gather(bytemuck::cast_slice(own), &bytes, bytemuck::cast_slice_mut(&mut whole))?;
    Ok(whole)
}

/// Sends parts of `own` to the ranks, `to[r]` elements to rank r, and joins those from the ranks, `from[r]` elements from
/// rank r.
pub(crate) fn exchange<T: Pod>(
    ranks: &dyn Communicator,
    own: &[T],
    [to, from]: [&[usize]; 2],
) -> Result<Vec<T>> {
    let mut whole = vec![T::zeroed(); from.iter().sum()];
    let [to, from] = [to, from].map(|lens| lens.iter().map(|len| len * size_of::<T>()).collect::<Vec<_>>());
    ranks.exchange(bytemuck::cast_slice(own), &to, &from, bytemuck::cast_slice_mut(&mut whole))?;
    Ok(whole)
}

/// Waits until all ranks are here. Returns the largest of their numbers.
///
/// # Errors
/// The network fails.
pub fn largest(ranks: &dyn Communicator, own: u8) -> Result<u8> {
    let all = gather(ranks, &[own], &vec![1; ranks.size()])?;
    Ok(all.into_iter().max().unwrap_or(own))
}

/// Waits until all ranks are here. Returns whether any of them says yes.
///
/// # Errors
/// The network fails.
pub fn any(ranks: &dyn Communicator, yes: bool) -> Result<bool> {
    Ok(largest(ranks, u8::from(yes))? > 0)
}

/// One text of every rank, in the order of the ranks.
///
/// # Errors
/// The network fails.
pub fn texts(ranks: &dyn Communicator, own: &str) -> Result<Vec<String>> {
    let lens = gather(ranks, &[own.len() as u64], &vec![1; ranks.size()])?;
    let lens: Vec<_> = lens.into_iter().map(|len| len as usize).collect();
    let joined = gather(ranks, own.as_bytes(), &lens)?;
    let mut rest = joined.as_slice();
    Ok(lens
        .into_iter()
        .map(|len| {
            let (text, after) = rest.split_at(len);
            rest = after;
            String::from_utf8_lossy(text).into_owned()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_alone_gathers_what_it_has() {
        assert_eq!(gather(&Alone, &[1.5f32, 2.5], &[2]).unwrap(), [1.5, 2.5]);
        assert_eq!(texts(&Alone, "cpu").unwrap(), ["cpu"]);
        assert!(any(&Alone, true).unwrap() && !any(&Alone, false).unwrap());
        assert!(gather(&Alone, &[1u32], &[2]).is_err());
    }
}
