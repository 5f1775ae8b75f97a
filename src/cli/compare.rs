//! `wgoal compare`: runs side by side.

use super::{print_json, refuse_overwriting, say, shown};
use clap::Args;
use std::path::PathBuf;
use wgoal::Result;
use wgoal::report::{Comparison, Run};

const EXAMPLES: &str = "\
Examples:
  wgoal compare runs/a runs/b
  wgoal compare runs/a runs/b --html compare.html";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct CompareArgs {
    /// Folders of runs, which may still be training
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Also write a page with the table and the learning curves [default: no page]
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    html: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl CompareArgs {
    pub fn run(self) -> Result<()> {
        if let Some(path) = &self.html {
            let names = ["config.json", "metrics.jsonl", "similarities.jsonl", "result.json"];
            let inputs = self.runs.iter().flat_map(|run| names.map(|name| run.join(name)));
            refuse_overwriting("--html", path, inputs)?;
        }
        let runs = self.runs.iter().map(Run::open).collect::<Result<Vec<_>>>()?;
        let comparison = Comparison::of(&runs);
        if let Some(path) = &self.html {
            wgoal::data::write_file(path, comparison.to_html(&runs)?.as_bytes())?;
            note!("page: {}", shown(path));
        }
        if self.json {
            return print_json(&comparison);
        }
        let ended = comparison.runs.iter().all(|run| run.ended);
        say(&comparison)?;
        if !ended {
            note!("note: a run that has not ended has no test recall");
        }
        Ok(())
    }
}
