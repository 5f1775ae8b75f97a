//! Several processes that train together, as threads of this one: the same bits on any number of them.

use crate::job::on_ranks;
use std::ops::ControlFlow;
use std::sync::Arc;
use wgoal::cluster::{Communicator, SLICES};
use wgoal::data::Arrays;
use wgoal::model::{EncoderKind, Pooling, Side};
use wgoal::objective::{CustomWeights, EqualCaptions, Objective};
use wgoal::train::{Event, Gather};
use wgoal::{Checkpoint, Dataset, Device, ErrorKind, TrainConfig, Trainer};

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
const CASES: [(&str, Change); 17] = [
    ("con:con", |_| ()),
    ("cir:sig-ms", |c| c.dropout = 0.3),
    ("con:sig-ms", |c| {
        c.gather = Gather::F16;
    }),
    ("infonce", |_| ()),
    ("infonce-masked", |c| c.equal_captions = EqualCaptions::Mask),
    ("siglip", |_| ()),
    ("hinge", |c| {
        (c.memory_bank, c.bank_warmup, c.ema) = (300, 0, 0.9);
    }),
    ("cir:sig-ms", |c| {
        (c.memory_bank, c.bank_warmup, c.equal_captions) = (450, 0, EqualCaptions::Mask);
    }),
    ("hinge@top:3+con:con@semi-hard", |c| {
        (c.batch, c.memory_bank, c.bank_warmup) = (140, 290, 0);
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

/// 160 images of 1 to 3 regions, each with one text of 1 to 4 tokens.
fn local() -> Arc<Dataset> {
    let wave = |rows: usize, width: usize, seed: usize| {
        (0..rows * width).map(|k| ((k * 37 + seed * 11) as f32 * 0.13).sin()).collect::<Vec<f32>>()
    };
    let offsets = |most: u64| {
        let ends = (0..160u64).scan(0, |end, k| {
            *end += 1 + k * 7 % most;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect::<Vec<u64>>()
    };
    let (regions, tokens) = (offsets(3), offsets(4));
    let [r, t] = [&regions, &tokens].map(|offsets| *offsets.last().unwrap() as usize);
    let rows = |range: std::ops::Range<u64>| range.collect::<Vec<_>>();
    let arrays = Arrays::new()
        .with_features("images", &[160, 6], &wave(160, 6, 1))
        .with_features("texts", &[160, 5], &wave(160, 5, 2))
        .with_features("image_regions", &[r, 6], &wave(r, 6, 3))
        .with_features("text_tokens", &[t, 5], &wave(t, 5, 4))
        .with_rows("region_offsets", &regions)
        .with_rows("text_offsets", &tokens)
        .with_rows("split_train", &rows(0..130))
        .with_rows("split_val", &rows(130..145))
        .with_rows("split_test", &rows(145..160));
    Arc::new(Dataset::from_arrays("local", arrays).unwrap())
}

#[test]
fn pooled_local_features_and_own_weights_are_shared() {
    let source = "override k: f32 = 2.0;
        fn triplet_weight(p: f32, n: f32) -> f32 { return exp(k * (n - p)); }
        fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0 - p, max(n, 0.0)); }";
    let weights = CustomWeights::new("mine.wgsl", source, [("k", 1.5)]).unwrap();
    let config = config("con:con", |c| {
        c.objective = Objective::Custom { weights, margin: None };
        (c.image_pooling, c.text_pooling, c.size_augment) = (Pooling::Gpo, Pooling::Gpo, true);
        (c.batch, c.epochs, c.dropout) = (130, 2, 0.1);
    });
    let dataset = local();
    let trained = |ranks: Option<Arc<dyn Communicator>>| {
        let mut trainer = Trainer::new(&Device::cpu(), dataset.clone(), config.clone()).unwrap();
        ranks.map_or(Ok(()), |ranks| trainer.share(ranks)).unwrap();
        trainer.train(|_, _| Ok(())).unwrap();
        trainer.checkpoint().unwrap()
    };
    let alone = trained(None);
    for size in [2, 3] {
        for (rank, found) in on_ranks(size, |ranks| trained(Some(ranks))).iter().enumerate() {
            assert!(*found == alone, "rank {rank} of {size} differs from one process");
        }
    }
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
        let tolerance = if one(0).gather == Gather::F16 { 0.05 } else { 1e-3 };
        assert!(far < tolerance * most, "{name}: {far} of {most}");
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
