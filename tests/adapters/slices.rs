//! Batches in slices, which several processes share, on every device: the same bits on any number of processes, and the
//! result of a batch without slices up to rounding.

use crate::common::job::on_ranks;
use crate::common::{Outcome, Suite, check};
use std::sync::Arc;
use wgoal::cluster::{Alone, Communicator};
use wgoal::model::Side;
use wgoal::objective::EqualCaptions;
use wgoal::{Dataset, Device, Head, TrainConfig, Trainer};

/// A bank of two batches of 100 pairs. A slice of 32 to 36 pairs does not fill the tiles of a product.
fn config(objective: &str) -> TrainConfig {
    TrainConfig::default().with(|c| {
        c.objective = objective.parse().unwrap();
        (c.embed, c.epochs, c.batch, c.slices) = (12, 1, 100, 3);
        (c.memory_bank, c.bank_warmup, c.equal_captions) = (200, 0, EqualCaptions::Mask);
    })
}

fn trained(device: &Device, ranks: Arc<dyn Communicator>, config: &TrainConfig) -> wgoal::Result<Head> {
    let mut trainer = Trainer::new(device, Dataset::open("data/clipart-mini")?, config.clone())?;
    if config.slices > 0 {
        trainer.share(ranks)?;
    }
    trainer.run_epoch()?;
    trainer.head()
}

fn weights(head: &Head) -> Vec<f32> {
    [Side::Image, Side::Text].map(|side| head.side(side).0).concat()
}

fn shared_bank(device: &Device) -> Outcome {
    for objective in ["cir:sig-ms", "hinge@top:2+infonce"] {
        let sliced = config(objective);
        let alone = weights(&trained(device, Arc::new(Alone), &sliced)?);
        for found in on_ranks(2, |ranks| trained(device, ranks, &sliced)) {
            check(weights(&found?) == alone, format!("{objective}: other bits on two processes"))?;
        }
        let whole = sliced.clone().with(|c| c.slices = 0);
        let whole = weights(&trained(device, Arc::new(Alone), &whole)?);
        let most = whole.iter().fold(0f32, |most, a| most.max(a.abs()));
        let far = whole.iter().zip(&alone).fold(0f32, |far, (a, b)| far.max((a - b).abs()));
        check(far < 1e-3 * most, format!("{objective}: {far} of {most} from a batch without slices"))?;
        check(far > 0.0, format!("{objective}: slices add in another order"))?;
    }
    Ok(())
}

pub fn tests(suite: &mut Suite) {
    suite.each("a_shared_bank_has_the_same_bits_on_two_processes", shared_bank);
}
