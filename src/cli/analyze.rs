//! `wgoal analyze`: what kind of gradient an objective has.

use super::{ObjectiveArgs, print_json, refuse_overwriting, say};
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wgoal::data::write_file;
use wgoal::{Result, TrainConfig};

#[derive(Args)]
pub struct AnalyzeArgs {
    /// The objective, as --objective would name it
    #[arg(value_name = "OBJECTIVE")]
    name: Option<String>,
    #[command(flatten)]
    objective: ObjectiveArgs,
    /// One line of JSON
    #[arg(long)]
    json: bool,
    /// Draw T P+ and T P- over p and n into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl AnalyzeArgs {
    pub fn run(self) -> Result<()> {
        let arguments = ObjectiveArgs { objective: self.name.or(self.objective.objective), ..self.objective };
        if let Some(out) = &self.plot {
            refuse_overwriting("--plot", out, arguments.weights.clone())?;
        }
        let objective = arguments.apply(TrainConfig::default().objective)?;
        let analysis = objective.analyze_with(progress(Duration::from_secs(1)))?;
        if let Some(path) = &self.plot {
            write_file(path, wgoal::analysis::plot(&objective)?.as_bytes())?;
        }
        if self.json {
            return print_json(&analysis);
        }
        say(analysis)
    }
}

/// Writes a line with the share of the work that is done, one per interval.
fn progress(interval: Duration) -> impl FnMut(f64) {
    let mut last = Instant::now();
    move |share| {
        if last.elapsed() >= interval {
            last = Instant::now();
            note!("analyzing: {:.0} %", 100.0 * share);
        }
    }
}
