//! A device is lost in the middle of a run. The error says so, and the resumed run gives the same bits.

use crate::common::{Outcome, Suite, check};
use std::ops::ControlFlow;
use std::sync::Arc;
use wgoal::train::Event;
use wgoal::{Dataset, Device, ErrorKind, TrainConfig, Trainer};

fn config() -> TrainConfig {
    TrainConfig::default().with(|c| {
        c.embed = 16;
        c.epochs = 3;
    })
}

fn lost(device: &Device) -> Outcome {
    let data = Arc::new(Dataset::open(concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini"))?);
    let open = || Device::open(&device.info().index.to_string());
    let folder = tempfile::tempdir()?;
    let last = folder.path().join("last.safetensors");

    let mut whole = Trainer::new(device, data.clone(), config())?;
    whole.epochs().try_for_each(|epoch| epoch.map(|_| ()))?;

    let doomed = open()?;
    let mut trainer = Trainer::new(&doomed, data.clone(), config())?;
    trainer.on_event({
        let doomed = doomed.clone();
        move |event| {
            if let (Event::Step { epoch: 2, step: 5, .. }, Some(gpu)) = (event, doomed.adapter()) {
                gpu.destroy();
            }
            ControlFlow::Continue(())
        }
    });
    trainer.run_epoch()?;
    trainer.checkpoint()?.save(&last)?;
    let saved = std::fs::read(&last)?;
    let error = trainer.run_epoch().err().ok_or("a destroyed device should be an error")?;
    let message = error.to_string();
    check(error.kind() == ErrorKind::Device, message.clone())?;
    check(message.contains("last given kernel") && message.contains("resume"), message.clone())?;
    check(!message.contains('\n'), message)?;
    // Every later call gives an error too, not a panic.
    check(trainer.run_epoch().is_err() && trainer.checkpoint().is_err(), "the device is gone")?;
    drop(trainer);
    // The last good checkpoint stands, with nothing beside it.
    check(std::fs::read(&last)? == saved, "the checkpoint has changed")?;
    check(std::fs::read_dir(folder.path())?.count() == 1, "a file is left beside the checkpoint")?;

    let mut resumed = Trainer::resume(&open()?, data, wgoal::Checkpoint::load(&last)?)?;
    resumed.epochs().try_for_each(|epoch| epoch.map(|_| ()))?;
    check(resumed.checkpoint()? == whole.checkpoint()?, "the resumed run should end at the same bits")
}

pub fn tests(suite: &mut Suite) {
    suite.each_adapter("lost", lost);
}
