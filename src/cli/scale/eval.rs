//! Evaluation of many candidates, against the similarities in it.

use super::{Products, median, numbers, shape, unit_rows};
use crate::cli::bench::wrong;
use crate::cli::{DeviceArg, print_json, say};
use clap::Args;
use serde::Serialize;
use wgoal::{Error, ErrorKind, Recall, Result};

#[derive(Args)]
pub struct EvalBench {
    /// Images : captions : embedding width; captions belong to images in turn
    #[arg(long, value_name = "N:M:D", default_value = "5000:25000:1024")]
    shape: String,
    #[command(flatten)]
    device: DeviceArg,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct EvalTimes {
    device: String,
    shape: String,
    /// Recall in both directions, embeddings given.
    seconds: f64,
    /// The similarities of both directions alone.
    products: f64,
    ratio: f64,
}

impl EvalBench {
    pub fn run(self) -> Result<()> {
        let [n, m, d] = shape(&self.shape, "N:M:D")?;
        // In fewer dimensions others come near by chance, and the right caption would not rank first.
        const LEAST: usize = 16;
        if d < LEAST {
            let expected = format!("embeddings at least {LEAST} wide");
            return Err(Error::new(ErrorKind::Config, "--shape", expected, d, "make D larger"));
        }
        let device = self.device.open()?;
        let mut images: Vec<_> = numbers().take(n * d).collect();
        unit_rows(&mut images, d);
        let truth: Vec<u32> = (0..m).map(|text| (text % n) as u32).collect();
        // Every caption is its image with a little of the next: the right one ranks first.
        let row = |image: u32| &images[image as usize * d..][..d];
        let mut texts: Vec<f32> = truth
            .iter()
            .flat_map(|&own| row(own).iter().zip(row((own + 1) % n as u32)).map(|(a, b)| a + 0.1 * b))
            .collect();
        unit_rows(&mut texts, d);
        let mut found = None;
        let seconds = median(|| {
            found = Some(Recall::of(&device, &images, &texts, d, &truth)?);
            Ok(())
        })?;
        let perfect = found.filter(|found| found.rsum == 600.0);
        perfect.ok_or_else(|| wrong("recall", "rsum 600", format!("{found:?}")))?;
        // One after the other, each with its memory: the similarities are large.
        let alone = |shape| Products::new(&device, &[(shape, false)])?.seconds();
        let products = alone([n, m, d])? + alone([m, n, d])?;
        let times = EvalTimes {
            device: device.to_string(),
            shape: self.shape,
            seconds,
            products,
            ratio: seconds / products,
        };
        if self.json {
            return print_json(&times);
        }
        let EvalTimes { device, shape, ratio, .. } = times;
        say(format!(
            "evaluation {shape} on {device}: {seconds:.2} s in both directions, {products:.2} s of it in matrix products \
             timed alone, ratio {ratio:.2}"
        ))
    }
}
