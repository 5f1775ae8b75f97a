//! A job of MPI, through the crate `mpi`.

use super::Communicator;
use crate::{Error, Result};
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::{Threading, Universe};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that one call of MPI moves at most. MPI counts in 32 bits.
const AT_ONCE: usize = 1 << 30;

/// The processes that `mpirun` or `srun` has started. When it is dropped, this process leaves the job, and waits for
/// the others.
pub struct Mpi {
    rank: usize,
    size: usize,
    local: [usize; 2],
    inner: Mutex<Inner>,
}

struct Inner {
    world: SimpleCommunicator,
    // It is dropped last, because it ends the use of MPI.
    _universe: Universe,
}

// SAFETY: `Inner` holds handles of MPI, which belong to the process, not to a thread. MPI was asked for calls from any
// thread, one at a time. The mutex around `Inner` lets one thread call.
unsafe impl Send for Inner {}

impl Mpi {
    /// Joins the job. A process can do so once.
    ///
    /// # Errors
    /// This process has joined before, or the MPI library allows no calls from several threads.
    pub fn join() -> Result<Self> {
        let advice = "use an MPI library that was built with threads";
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized) else {
            let advice = "keep what the first call returned";
            return Err(Error::config("MPI", "a process that joins once", "a second call", advice));
        };
        if threading < Threading::Serialized {
            let expected = "calls from any thread (MPI_THREAD_SERIALIZED)";
            return Err(Error::config("MPI", expected, format!("{threading:?}"), advice));
        }
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        let machine = world.split_shared(world.rank());
        let local = [machine.rank() as usize, machine.size() as usize];
        // Before the universe, which ends the use of MPI.
        drop(machine);
        Ok(Self { rank, size, local, inner: Mutex::new(Inner { world, _universe: universe }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where each part begins, if the parts have these lengths.
fn starts<T: Copy + Default + std::ops::Add<Output = T>>(lens: &[T]) -> Vec<T> {
    let mut next = T::default();
    let mut start = |len| {
        let sum = next + len;
        std::mem::replace(&mut next, sum)
    };
    lens.iter().map(|&len| start(len)).collect()
}

/// Lengths as MPI counts them.
fn counts(lens: &[usize]) -> Vec<i32> {
    lens.iter().map(|&len| len as i32).collect()
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local(&self) -> [usize; 2] {
        self.local
    }

    fn machine(&self) -> String {
        mpi::environment::processor_name().unwrap_or_default()
    }

    fn gather(&self, own: &[u8], lens: &[usize], whole: &mut [u8]) -> Result<()> {
        // MPI libraries may refuse the address of nothing.
        if whole.is_empty() {
            return Ok(());
        }
        let inner = self.inner();
        if whole.len() <= AT_ONCE {
            let counts = counts(lens);
            let mut whole = PartitionMut::new(whole, &counts[..], starts(&counts));
            inner.world.all_gather_varcount_into(own, &mut whole);
            return Ok(());
        }
        let piece = (AT_ONCE / self.size).max(1);
        let places = starts(lens);
        let most = lens.iter().copied().max().unwrap_or(0);
        for first in (0..most).step_by(piece) {
            let now: Vec<usize> = lens.iter().map(|len| len.saturating_sub(first).min(piece)).collect();
            let mut joined = vec![0; now.iter().sum()];
            let counts = counts(&now);
            let part = &own[first.min(own.len())..(first + piece).min(own.len())];
            let mut into = PartitionMut::new(&mut joined[..], &counts[..], starts(&counts));
            inner.world.all_gather_varcount_into(part, &mut into);
            let mut rest = joined.as_slice();
            for (place, len) in places.iter().zip(now) {
                let (part, after) = rest.split_at(len);
                whole[place + first..][..len].copy_from_slice(part);
                rest = after;
            }
        }
        Ok(())
    }

    fn exchange(&self, own: &[u8], to: &[usize], from: &[usize], whole: &mut [u8]) -> Result<()> {
        let largest = own.len().max(whole.len());
        if i32::try_from(largest).is_err() {
            let advice = "report this as a bug of wgoal";
            return Err(Error::config("an exchange of ranks", "below 2^31 bytes", largest, advice));
        }
        let [to, from] = [counts(to), counts(from)];
        let own = Partition::new(own, &to[..], starts(&to));
        let mut whole = PartitionMut::new(whole, &from[..], starts(&from));
        self.inner().world.all_to_all_varcount_into(&own, &mut whole);
        Ok(())
    }

    fn abort(&self, code: u8) -> u8 {
        self.inner().world.abort(code.into())
    }
}
