//! The threads of rayon's global pool, which compute on the CPU.

use crate::{Error, ErrorKind, Result};
use rayon::{ThreadBuilder, ThreadPoolBuilder};
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Starts the threads of rayon's global pool, if there is no pool yet. rayon itself would start them when they are first
/// needed, and panic if the system allows fewer than wanted. Here the pool has the threads that the system allows, at
/// least one. Results do not depend on their number. Returns how many threads are missing.
///
/// # Errors
/// The system allows no thread at all.
pub fn start_threads() -> Result<usize> {
    static MISSING: OnceLock<Result<usize>> = OnceLock::new();
    MISSING.get_or_init(start).clone()
}

fn start() -> Result<usize> {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
    let cores = || thread::available_parallelism().map_or(1, NonZero::get);
    let wanted = asked.filter(|&threads| threads > 0).unwrap_or_else(cores);
    // Each thread waits for its place in the pool. So it is known how many there are before the pool is made.
    let (mut waiting, mut refused): (Vec<Sender<ThreadBuilder>>, _) = (Vec::new(), None);
    while waiting.len() < wanted && refused.is_none() {
        let (sender, place) = channel::<ThreadBuilder>();
        let work = move || place.recv().into_iter().for_each(ThreadBuilder::run);
        match thread::Builder::new().name("pool".into()).spawn(work) {
            Ok(_) => waiting.push(sender),
            Err(error) => refused = Some(error),
        }
    }
    let threads = waiting.len();
    if let Some(error) = refused.filter(|_| threads == 0) {
        let advice = "raise the limit of processes (ulimit -u), or end other processes";
        return Err(Error::new(ErrorKind::Device, "the CPU", "a thread to compute on", error, advice));
    }
    let mut waiting = waiting.into_iter();
    let pool = ThreadPoolBuilder::new().num_threads(threads).spawn_handler(move |place| {
        let sent = waiting.next().map(|sender| sender.send(place).is_ok());
        if sent == Some(true) { Ok(()) } else { Err(std::io::ErrorKind::WouldBlock.into()) }
    });
    // It is an error only if a caller has made a pool already. That pool then serves.
    let _ = pool.build_global();
    Ok(wanted - threads)
}
