//! Several processes of a job as threads of this one.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use wgoal::Result;
use wgoal::cluster::Communicator;

/// What the ranks have given so far, and how many have taken it.
#[derive(Default)]
struct Table {
    parts: Vec<Option<Vec<u8>>>,
    taken: usize,
}

/// A rank that is a thread.
struct Thread {
    rank: usize,
    size: usize,
    table: Arc<(Mutex<Table>, Condvar)>,
}

impl Communicator for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local(&self) -> [usize; 2] {
        [self.rank, self.size]
    }

    fn gather(&self, own: &[u8], lens: &[usize], whole: &mut [u8]) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(120);
        let (table, changed) = &*self.table;
        let mut table = changed
            .wait_timeout_while(table.lock().unwrap(), PATIENCE, |table| {
                table.parts[self.rank].is_some() || table.taken > 0
            })
            .unwrap()
            .0;
        table.parts[self.rank] = Some(own.to_vec());
        changed.notify_all();
        let all = |table: &mut Table| !table.parts.iter().all(Option::is_some);
        let (mut table, late) = changed.wait_timeout_while(table, PATIENCE, all).unwrap();
        assert!(!late.timed_out(), "a rank has ended");
        let parts = table.parts.iter().flatten();
        assert!(parts.clone().map(Vec::len).eq(lens.iter().copied()), "ranks disagree");
        let mut rest = whole;
        for part in parts {
            let (to, after) = rest.split_at_mut(part.len());
            to.copy_from_slice(part);
            rest = after;
        }
        table.taken += 1;
        if table.taken == self.size {
            *table = Table { parts: vec![None; self.size], taken: 0 };
            changed.notify_all();
        } else {
            let own = |table: &mut Table| table.taken > 0;
            drop(changed.wait_timeout_while(table, PATIENCE, own).unwrap());
        }
        Ok(())
    }

    fn exchange(&self, own: &[u8], to: &[usize], from: &[usize], whole: &mut [u8]) -> Result<()> {
        let numbers: Vec<u8> = to.iter().flat_map(|&len| (len as u64).to_le_bytes()).collect();
        let mut all = vec![0; 8 * self.size * self.size];
        self.gather(&numbers, &vec![8 * self.size; self.size], &mut all)?;
        let all: Vec<usize> = all.as_chunks().0.iter().map(|len| u64::from_le_bytes(*len) as usize).collect();
        let sent: Vec<usize> = all.chunks(self.size).map(|to| to.iter().sum()).collect();
        let mut joined = vec![0; sent.iter().sum()];
        self.gather(own, &sent, &mut joined)?;
        let (mut rest, mut into) = (&joined[..], whole);
        for (to, from) in all.chunks(self.size).zip(from) {
            assert_eq!(to[self.rank], *from, "ranks disagree");
            let before = to[..self.rank].iter().sum();
            let (part, after) = into.split_at_mut(*from);
            part.copy_from_slice(&rest[before..][..*from]);
            (rest, into) = (&rest[to.iter().sum()..], after);
        }
        Ok(())
    }

    fn abort(&self, code: u8) -> u8 {
        panic!("rank {} ends the job with {code}", self.rank)
    }
}

/// Runs `work` on every rank. Each has its own pool, because a rank that waits for others keeps a thread.
pub fn on_ranks<T: Send>(size: usize, work: impl Fn(Arc<dyn Communicator>) -> T + Sync) -> Vec<T> {
    let table = Arc::new((Mutex::new(Table { parts: vec![None; size], taken: 0 }), Condvar::new()));
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let (table, work) = (table.clone(), &work);
                scope.spawn(move || {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
                    pool.install(|| work(Arc::new(Thread { rank, size, table })))
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}
