//! A job of MPI, through the crate `mpi`.

use super::Communicator;
use crate::{Error, Result};
use mpi::datatype::PartitionMut;
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

/// The first bytes of the parts, if each had these lengths.
fn starts(lens: &[usize]) -> Vec<usize> {
    lens.iter().scan(0, |start, len| Some(std::mem::replace(start, *start + len))).collect()
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
        let piece = (AT_ONCE / self.size).max(1);
        let places = starts(lens);
        let most = lens.iter().copied().max().unwrap_or(0);
        let inner = self.inner();
        for first in (0..most).step_by(piece) {
            let now: Vec<usize> = lens.iter().map(|len| len.saturating_sub(first).min(piece)).collect();
            let mut joined = vec![0; now.iter().sum()];
            let counts: Vec<i32> = now.iter().map(|&len| len as i32).collect();
            let at: Vec<i32> = starts(&now).into_iter().map(|start| start as i32).collect();
            let part = &own[first.min(own.len())..(first + piece).min(own.len())];
            inner.world.all_gather_varcount_into(part, &mut PartitionMut::new(&mut joined[..], counts, at));
            let mut rest = joined.as_slice();
            for (place, len) in places.iter().zip(now) {
                let (part, after) = rest.split_at(len);
                whole[place + first..][..len].copy_from_slice(part);
                rest = after;
            }
        }
        Ok(())
    }

    fn abort(&self, code: u8) -> u8 {
        self.inner().world.abort(code.into())
    }
}
