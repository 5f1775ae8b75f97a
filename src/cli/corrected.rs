//! Fits the correction for hubs to a head, and says what it changes.

use serde::Serialize;
use std::fmt;
use wgoal::eval::{Correction, Fitted, Hubness};
use wgoal::model::Side;
use wgoal::{Checkpoint, Dataset, Device, Recall, Result, Split};

/// Recall with the correction for hubs.
#[derive(Serialize)]
pub struct Corrected {
    pub val: Recall,
    /// Missing if the dataset has no test split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Recall>,
    hubness: Hubness,
    /// Of images and of texts.
    weights: [f32; 2],
    /// Training images and captions in the bank.
    bank: [usize; 2],
    /// What the bank adds to the file of the head.
    bytes: usize,
}

impl Corrected {
    /// The recall, for the report of the run.
    pub fn recall(&self) -> wgoal::report::Corrected {
        wgoal::report::Corrected { val: self.val, test: self.test }
    }
}

/// Fits the correction that the configuration of the head asks for. `None` if it asks for none, or if none improves
/// validation, which a note says.
pub fn fit(checkpoint: &mut Checkpoint, device: &Device, dataset: &Dataset) -> Result<Option<Corrected>> {
    let choice = checkpoint.config().correction;
    if choice == Correction::None {
        return Ok(None);
    }
    let Fitted { correction, corrected: val, plain, .. } = checkpoint.fit_correction(device, dataset)?;
    let Some(correction) = correction else {
        note!("no correction for hubs: none raises the validation rsum of {:.1}", plain.rsum);
        return Ok(None);
    };
    let has_test = !dataset.split(Split::Test).images.is_empty();
    let test = has_test.then(|| checkpoint.recall(device, dataset, Split::Test, 1)).transpose()?;
    let bank = [Side::Image, Side::Text].map(|side| correction.items(side));
    let (hubness, weights) = (correction.hubness(), correction.weights());
    let bytes = 2 * (bank[0] + bank[1]) * checkpoint.head().dim();
    Ok(Some(Corrected { val, test, hubness, weights, bank, bytes }))
}

impl fmt::Display for Corrected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { val, test, hubness, weights: [images, texts], bank, bytes } = self;
        let shown = test.unwrap_or(*val);
        writeln!(
            f,
            "corrected for hubs: R@1 {:.1} {:.1}, rsum {:.1} of 600 (validation {:.1})",
            shown.i2t.r1, shown.t2i.r1, shown.rsum, val.rsum
        )?;
        let size = *bytes as f64 / 1e6;
        write!(
            f,
            "correction: {hubness}, weights {images} of images and {texts} of texts; a bank of {} training images and {} \
             captions, {size:.1} MB in the file of the head",
            bank[0], bank[1]
        )
    }
}
