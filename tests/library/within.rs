//! Checkpoints within an epoch: a run that is resumed from one ends with the bits of a run without an interruption.

use crate::job::on_ranks;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use wgoal::cluster::{Communicator, SLICES};
use wgoal::data::Dataset;
use wgoal::model::EncoderKind;
use wgoal::objective::EqualCaptions;
use wgoal::train::{Epoch, Event, Every, Shuffle};
use wgoal::{Checkpoint, Device, ErrorKind, TrainConfig, Trainer};

/// Epochs of a few steps.
fn config(objective: &str, change: impl FnOnce(&mut TrainConfig)) -> TrainConfig {
    TrainConfig::default().with(|c| {
        c.objective = objective.parse().unwrap();
        c.embed = 8;
        c.epochs = 2;
        c.batch = 128;
        change(c);
    })
}

fn dataset() -> Arc<Dataset> {
    Arc::new(Dataset::open("data/clipart-mini").unwrap())
}

/// What the results of an epoch are, without times.
fn result(epoch: &Epoch) -> String {
    let mut value = serde_json::to_value(epoch).unwrap();
    let entries = value.as_object_mut().unwrap();
    ["seconds", "waited"].iter().for_each(|name| drop(entries.remove(*name)));
    value.to_string()
}

/// The end of a run: the bytes of its checkpoint, and the results of its epochs.
#[derive(PartialEq)]
struct End {
    checkpoint: Vec<u8>,
    epochs: Vec<String>,
}

/// Trains to the end.
fn end(mut trainer: Trainer) -> End {
    let epochs = trainer.epochs().map(|epoch| result(&epoch.unwrap())).collect();
    End { checkpoint: bytes(&trainer.checkpoint().unwrap()), epochs }
}

/// The file of a checkpoint.
fn bytes(checkpoint: &Checkpoint) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    checkpoint.save(&path).unwrap();
    std::fs::read(path).unwrap()
}

/// A checkpoint as its file gives it.
fn through_a_file(checkpoint: &Checkpoint) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    checkpoint.save(&path).unwrap();
    Checkpoint::load(&path).unwrap()
}

/// A run, and its checkpoints after every step that is not the last one of its epoch. `ranks` shares it.
fn run(config: &TrainConfig, ranks: Option<Arc<dyn Communicator>>) -> (End, Vec<Checkpoint>) {
    let mut trainer = Trainer::new(&Device::cpu(), dataset(), config.clone()).unwrap();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let first = ranks.as_ref().is_none_or(|ranks| ranks.rank() == 0);
    ranks.map_or(Ok(()), |ranks| trainer.share(ranks)).unwrap();
    if first {
        let to = taken.clone();
        trainer.checkpoint_every(Every::Steps(1), move |checkpoint| {
            to.lock().unwrap().push(checkpoint.clone());
            Ok(())
        });
    }
    let end = end(trainer);
    let taken = std::mem::take(&mut *taken.lock().unwrap());
    (end, taken)
}

type Change = fn(&mut TrainConfig);

/// Runs that differ in what an epoch carries from step to step.
const CASES: [(&str, Change); 5] = [
    ("con:con", |c| c.dropout = 0.2),
    ("hinge", |c| {
        (c.memory_bank, c.bank_warmup, c.ema) = (300, 0, 0.9);
        c.equal_captions = EqualCaptions::Mask;
    }),
    ("cir:sig-ms", |c| {
        (c.memory_bank, c.bank_warmup, c.warmup_epochs) = (256, 1, 1);
    }),
    ("siglip", |c| {
        (c.batch, c.l2_sp) = (24, 0.1);
        c.shuffle = Shuffle::Blocks { window: Some(400) };
    }),
    ("infonce", |c| c.text_encoder = EncoderKind::ResidualMlp),
];

#[test]
fn a_run_resumed_within_an_epoch_ends_with_the_same_bits() {
    for (name, change) in CASES {
        let config = config(name, change);
        let (whole, checkpoints) = run(&config, None);
        let plain = end(Trainer::new(&Device::cpu(), dataset(), config.clone()).unwrap());
        assert!(plain == whole, "{name}: checkpoints change nothing");
        let steps = (checkpoints.len() + 2) / 2;
        assert!(steps > 3);
        // The first step, a step in the middle, and the last but one, of both epochs.
        for at in [0, steps / 2, steps - 2, steps - 1, steps + 1, 2 * steps - 3] {
            let checkpoint = through_a_file(&checkpoints[at]);
            let (epoch, step) = (at / (steps - 1), at % (steps - 1) + 1);
            assert_eq!((checkpoint.epoch(), checkpoint.step()), (epoch, step), "{name}");
            let trainer = Trainer::resume(&Device::cpu(), dataset(), checkpoint.clone()).unwrap();
            assert_eq!((trainer.epoch(), trainer.step()), (epoch, step));
            assert!(
                bytes(&trainer.checkpoint().unwrap()) == bytes(&checkpoint),
                "{name}: nothing is lost before the next step"
            );
            let found = end(trainer);
            assert!(
                found.checkpoint == whole.checkpoint,
                "{name}: resumed after step {step} of epoch {epoch}"
            );
            assert_eq!(
                found.epochs,
                whole.epochs[epoch..],
                "{name}: resumed after step {step} of epoch {epoch}"
            );
        }
    }
}

#[test]
fn ranks_resume_within_an_epoch_on_another_number_of_ranks() {
    let config = config("hinge", |c| (c.memory_bank, c.bank_warmup, c.slices) = (300, 0, SLICES));
    let (whole, alone) = run(&config, None);
    let (of_ranks, shared) = on_ranks(3, |ranks| run(&config, Some(ranks))).swap_remove(0);
    let files = |checkpoints: &[Checkpoint]| checkpoints.iter().map(bytes).collect::<Vec<_>>();
    assert!(
        of_ranks == whole && files(&shared) == files(&alone),
        "a checkpoint does not depend on the number of ranks"
    );
    let at = shared.len() / 2 + 1;
    let resumed = on_ranks(2, |ranks| {
        let mut trainer = Trainer::resume(&Device::cpu(), dataset(), shared[at].clone()).unwrap();
        trainer.share(ranks).unwrap();
        end(trainer)
    });
    assert!(resumed.iter().all(|found| found.checkpoint == whole.checkpoint));
    assert!(resumed.iter().all(|found| found.epochs == whole.epochs[1..]), "counts are those of all ranks");
}

#[test]
fn a_run_that_is_stopped_can_be_saved_where_it_is() {
    let config = config("con:con", |_| ());
    let (whole, checkpoints) = run(&config, None);
    for last in [1, 2, checkpoints.len() / 2 + 1] {
        let mut trainer = Trainer::new(&Device::cpu(), dataset(), config.clone()).unwrap();
        let steps = trainer.steps_per_epoch();
        trainer.on_event(move |event| match event {
            Event::Step { step, .. } if step == last => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert_eq!(trainer.run_epoch().unwrap_err().kind(), ErrorKind::Stopped);
        let checkpoint = trainer.checkpoint().unwrap();
        assert_eq!((checkpoint.epoch(), checkpoint.step()), (0, last));
        if last < steps {
            assert!(bytes(&checkpoint) == bytes(&checkpoints[last - 1]));
        }
        // Also after the last step, before the validation.
        assert!(end(Trainer::resume(&Device::cpu(), dataset(), checkpoint).unwrap()) == whole);
    }
}
