//! `wgoal analyze`: properties of the gradient of an objective.

use super::{ObjectiveArgs, print_json, refuse_overwriting, say};
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wgoal::data::write_file;
use wgoal::{Result, TrainConfig};

const EXAMPLES: &str = "\
Examples:
  wgoal analyze cir:sig-ms
  wgoal analyze nca:lin --tau 3 --plot plane.svg
  wgoal analyze --weights my-weights.wgsl";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct AnalyzeArgs {
    /// The objective; --objective names it too [default: cir:sig-ms]
    #[arg(value_name = "OBJECTIVE")]
    name: Option<String>,
    #[command(flatten)]
    objective: ObjectiveArgs,
    /// Print the result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Draw the gradient over the similarities p and n, as an SVG file
    ///
    /// It shows the pull T P+ on the positive and the push T P- on the negative.
    #[arg(long, value_name = "FILE.svg", help_heading = "Output")]
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

/// Prints the percentage of finished work, one line per interval.
fn progress(interval: Duration) -> impl FnMut(f64) {
    let mut last = Instant::now();
    move |share| {
        if last.elapsed() >= interval {
            last = Instant::now();
            note!("analyzing: {:.0} %", 100.0 * share);
        }
    }
}
