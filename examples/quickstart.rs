//! Trains a joint head on the example dataset and prints its recall on images it has never seen.
//!
//!     cargo run --release --example quickstart

use wgoal::{Dataset, Device, Objective, Split, TrainConfig, Trainer};

fn main() -> wgoal::Result<()> {
    let device = Device::auto()?;
    println!("on {device}: {}", device.info().reason);
    let data = Dataset::open("data/clipart-mini")?;
    let objective: Objective = "cir:sig-ms".parse()?;
    let config = TrainConfig::default().with(|c| {
        c.objective = objective;
        c.epochs = 10;
        c.standardize = true;
        c.dropout = 0.5;
    });

    let mut trainer = Trainer::new(&device, data, config)?;
    println!("untrained: rsum {:.1}", trainer.recall(Split::Test)?.rsum);
    for epoch in trainer.epochs() {
        println!("{}", epoch?);
    }
    if let Some(best) = trainer.best() {
        println!("{}", trainer.recall_of(best.head(), Split::Test)?);
    }
    Ok(())
}
