//! Several processes that train together, as threads of this one: the same bits on any number of them.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use wgoal::cluster::{Communicator, SLICES};
use wgoal::model::{EncoderKind, Side};
use wgoal::objective::EqualCaptions;
use wgoal::train::Event;
use wgoal::{Checkpoint, Dataset, Device, ErrorKind, Result, TrainConfig, Trainer};

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

fn config(objective: &str, change: impl FnOnce(&mut TrainConfig)) -> TrainConfig {
    TrainConfig::default().with(|c| {
        c.objective = objective.parse().unwrap();
        c.embed = 8;
        c.epochs = 1;
        c.batch = 150;
        c.slices = SLICES;
        change(c);
    })
}

fn trained(ranks: Option<Arc<dyn Communicator>>, config: &TrainConfig) -> Checkpoint {
    let dataset = Dataset::open("data/clipart-mini").unwrap();
    let mut trainer = Trainer::new(&Device::cpu(), dataset, config.clone()).unwrap();
    ranks.map_or(Ok(()), |ranks| trainer.share(ranks)).unwrap();
    trainer.train(|_, _| Ok(())).unwrap();
    trainer.checkpoint().unwrap()
}

type Change = fn(&mut TrainConfig);

/// Runs that differ in what they need of the whole batch.
const CASES: [(&str, Change); 14] = [
    ("con:con", |_| ()),
    ("cir:sig-ms", |c| c.dropout = 0.3),
    ("infonce", |_| ()),
    ("infonce-masked", |c| c.equal_captions = EqualCaptions::Mask),
    ("siglip", |_| ()),
    ("hinge", |c| {
        c.memory_bank = 300;
        c.ema = 0.9;
    }),
    ("hinge-sum", |c| c.clip = 0.0),
    ("con:lin@all", |_| ()),
    ("0.5*hinge@top:3+infonce@image-to-text", |_| ()),
    ("hinge@semi-hard", |_| ()),
    ("multi-similarity", |c| c.mask_same_image = false),
    ("lifted@positives:mean", |_| ()),
    ("circle-all@positives:log-sum", |_| ()),
    ("triplet@positives:hardest", |_| ()),
];

#[test]
fn any_number_of_ranks_trains_the_same_bits() {
    for (at, (name, change)) in CASES.into_iter().enumerate() {
        let config = config(name, change);
        let alone = trained(None, &config);
        // All numbers of ranks for the first, and the other cases with one each.
        let sizes = if at == 0 { vec![1, 2, 3, 4, 8] } else { vec![[2, 3, 4, 8][at % 4]] };
        for size in sizes {
            for (rank, found) in on_ranks(size, |ranks| trained(Some(ranks), &config)).iter().enumerate() {
                assert!(*found == alone, "{name}: rank {rank} of {size} differs from one process");
            }
        }
    }
}

#[test]
fn a_gated_perceptron_is_shared() {
    let config = config("con:con", |c| {
        c.image_encoder = EncoderKind::GatedMlp;
        c.gated_width = 1;
        c.epochs = 1;
    });
    let alone = trained(None, &config);
    assert!(on_ranks(3, |ranks| trained(Some(ranks), &config)).iter().all(|found| *found == alone));
}

#[test]
fn slices_change_only_rounding() {
    for (name, change) in CASES {
        let one = |slices| {
            config(name, |c| {
                change(c);
                (c.slices, c.epochs) = (slices, 1);
            })
        };
        let [whole, sliced] = [0, SLICES].map(|slices| trained(None, &one(slices)));
        let weights =
            |run: &Checkpoint| [Side::Image, Side::Text].map(|side| run.head().side(side).0).concat();
        let (whole, sliced) = (weights(&whole), weights(&sliced));
        assert!(whole != sliced, "{name}: other sums");
        let [most, far] = whole
            .iter()
            .zip(&sliced)
            .fold([0f32; 2], |[most, far], (a, b)| [most.max(a.abs()), far.max((a - b).abs())]);
        assert!(far < 1e-3 * most, "{name}: {far} of {most}");
    }
}

#[test]
fn one_rank_that_stops_stops_all() {
    let config = config("con:con", |c| c.batch = 100);
    let found = on_ranks(3, |ranks| {
        let rank = ranks.rank();
        let dataset = Dataset::open("data/clipart-mini").unwrap();
        let mut trainer = Trainer::new(&Device::cpu(), dataset, config.clone()).unwrap();
        trainer.share(ranks).unwrap();
        trainer.on_event(move |event| match event {
            Event::Step { step: 2, .. } if rank == 1 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        let error = trainer.run_epoch().unwrap_err();
        (error.kind(), error.to_string())
    });
    for (kind, message) in found {
        assert_eq!(kind, ErrorKind::Stopped);
        assert!(message.contains("a request to stop after step 2;"), "{message}");
    }
}

#[test]
fn what_slices_cannot_follow_is_refused() {
    let dataset = Arc::new(Dataset::open("data/clipart-mini").unwrap());
    let refused = |config: TrainConfig| {
        let config = config.with(|c| c.epochs = 1);
        let found = on_ranks(3, |ranks| {
            let mut trainer = Trainer::new(&Device::cpu(), dataset.clone(), config.clone())?;
            trainer.share(ranks)
        });
        found.into_iter().next().unwrap().unwrap_err().to_string()
    };
    let [perceptron, structure, whole, small] = [
        refused(config("con:con", |c| c.text_encoder = EncoderKind::ResidualMlp)),
        refused(config("con:con", |c| c.structure = 1.0)),
        refused(config("con:con", |c| c.slices = 0)),
        refused(config("con:con", |c| c.batch = 20)),
    ];
    let alone = "; change it, or train in one process without --slices";
    assert_eq!(
        perceptron,
        format!(
            "--text-encoder: expected an encoder without batch norm, since a batch is divided into slices, \
             found residual-mlp{alone}"
        )
    );
    assert_eq!(
        structure,
        format!("--structure: expected 0, since a batch is divided into slices, found 1{alone}")
    );
    assert_eq!(
        whole,
        "slices of a batch: expected at least one per process, found 0; \
         set TrainConfig::slices, for example to cluster::SLICES"
    );
    assert_eq!(
        small,
        "number of processes: expected at most 2, since a batch of 20 pairs has 2 slices (--slices 8), found 3; \
         start 2 processes, or give a larger --batch"
    );
}
