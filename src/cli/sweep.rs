//! `wgoal sweep`: trains many objectives with several seeds, and compares them in a table. It can be resumed.

use super::config::{Resolved, save_sweep};
use super::data::warn_of_data;
use super::interrupt::Interrupt;
use super::job::Job;
use super::options::{RunOptions, Unused, note_init, warn};
use super::run_folder::Lock;
use super::train::dataset_path;
use super::{DeviceArg, duration, make_folder, print_json, say, shown, to_json};
use clap::{Args, Parser};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wgoal::io::{LINES, read_text, write_regular};
use wgoal::report::{PAGE, sweep_page};
use wgoal::sweep::{Sweep, SweepProgress, Table, Variant};
use wgoal::{Dataset, Error, ErrorKind, Objective, Result, Split, TrainConfig};

const EXAMPLES: &str = "\
Examples:
  wgoal sweep my-features --out table
  wgoal sweep my-features --objectives hinge,infonce,cir:sig-ms --out table
  wgoal sweep my-features --grid tau=1,5,10 lr=1e-4,5e-4 --out table";

/// `--objectives` and `--seeds` replace two options of a run, which the help therefore hides.
#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
#[command(mut_arg("objective", |arg| arg.hide(true)), mut_arg("seed", |arg| arg.hide(true)))]
#[command(mut_arg("correction", |arg| arg.hide(true)))]
pub struct SweepArgs {
    /// Folder, .safetensors or .npz file with features [default: data/clipart-mini]
    ///
    /// It holds images, texts, text_to_image, split_train, split_val and split_test.
    dataset: Option<PathBuf>,
    /// Objectives to compare, or `all`
    ///
    /// `all` means the 15 GOAL combinations, hinge and infonce.
    #[arg(
        long,
        value_name = "all|LIST",
        value_delimiter = ',',
        default_value = "all",
        help_heading = "Sweep"
    )]
    objectives: Vec<String>,
    /// Seeds: each objective is trained once with each seed
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0,1,2", help_heading = "Sweep")]
    seeds: Vec<u64>,
    /// Options of train with values to try, as in tau=1,5,10 lr=1e-4,5e-4
    ///
    /// Every combination of the values is tried. The table shows each objective with its best combination, the one with
    /// the highest mean validation rsum.
    #[arg(long, value_name = "OPTION=LIST", num_args = 1.., help_heading = "Sweep")]
    grid: Vec<String>,
    /// Objective to compare the others with [default: con:con, or else the first]
    ///
    /// A paired t-test compares the test rsum of each objective with that of this one.
    #[arg(long, value_name = "NAME", help_heading = "Sweep")]
    baseline: Option<String>,
    #[command(flatten)]
    options: RunOptions,
    #[command(flatten)]
    device: DeviceArg,
    /// TOML file with options, as `wgoal config sweep` prints it [default: none]
    ///
    /// Options on the command line win over the file.
    #[allow(dead_code, reason = "read before the arguments are parsed")]
    #[arg(long, value_name = "FILE", help_heading = "Other", display_order = 998)]
    config: Option<PathBuf>,
    /// Folder for results and heads
    ///
    /// It receives sweep.toml, results.jsonl with the learning curves, table.md, table.csv, table.json, report.html and
    /// the best heads. The same command continues a sweep that was stopped.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: PathBuf,
    /// Print the table as one line of JSON, as in table.json
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// The options of one point of the grid.
#[derive(Parser)]
struct Point {
    #[command(flatten)]
    options: RunOptions,
}

/// An option and the values to try.
struct Axis {
    option: String,
    values: Vec<String>,
}

fn refuse(option: &str, expected: &str, found: impl std::fmt::Display, advice: &str) -> Error {
    Error::new(ErrorKind::Config, option, expected, found, advice)
}

impl Axis {
    fn parse(text: &str) -> Result<Self> {
        let usable = |(option, values): (&str, &str)| {
            let values: Vec<String> = values.split(',').map(String::from).collect();
            let whole = !option.is_empty() && values.iter().all(|value| !value.is_empty());
            whole.then(|| Self { option: option.into(), values })
        };
        text.split_once('=').and_then(usable).ok_or_else(|| {
            let advice = "give an option of train with the values to try, as in tau=1,5,10";
            refuse("--grid", "OPTION=LIST", text, advice)
        })
    }

    /// The options of a point with one of the values.
    fn options(&self, value: &str) -> Result<RunOptions> {
        let text = format!("{}={value}", self.option);
        if ["objective", "seed", "recipe"].contains(&self.option.as_str()) {
            let advice = "give --objectives, --seeds, or one --recipe for all";
            return Err(refuse("--grid", "an option that a grid can vary", text, advice));
        }
        let point = Point::try_parse_from(["wgoal", &format!("--{text}")]).map_err(|e| {
            let message = e.to_string();
            let first = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
            refuse("--grid", "options of train with values that they take", &text, first)
        })?;
        Ok(point.options)
    }
}

/// Whether a value of `--grid` is not OPTION=LIST, or is a path.
pub fn is_dataset(text: &str) -> bool {
    !text.contains('=') || Path::new(text).exists()
}

impl SweepArgs {
    /// The command. The function is long because every check comes before the first run.
    pub fn run(mut self, job: &Job) -> Result<u8> {
        self.take_dataset()?;
        if let Some(name) = &self.options.objective.objective {
            return Err(refuse("--objective", "--objectives", name, "name it in --objectives"));
        }
        if let Some(seed) = self.options.seed {
            return Err(refuse("--seed", "--seeds", seed, "name it in --seeds"));
        }
        let path = dataset_path(self.dataset.clone());
        let dataset = Arc::new(Dataset::open(&path)?);
        let bases = self.bases(&dataset)?;
        let variants = self.variants(&bases, &dataset)?;
        let configs: Vec<&TrainConfig> = variants.iter().map(|variant| &variant.config).collect();
        if let Some(config) = configs.iter().find(|config| config.ensemble > 1) {
            let advice = "leave it out, and give it to wgoal train with the options that the sweep chooses";
            return Err(refuse("--ensemble", "1 in a sweep", config.ensemble, advice));
        }
        warn_of_data(&dataset, &configs, &Split::ALL);
        note_init(&configs);
        let sweep = Sweep::new(variants.clone(), self.seeds.clone(), self.baseline.as_deref())?;
        let total = variants.len() * self.seeds.len();
        let interrupt = Interrupt::watch()?;
        // Each process trains whole runs. The devices of a sweep may differ, and the results name them.
        let device = self.device.open_in(job, None)?.with_ranks(job.ranks()).stop_when(interrupt.flag());
        let _lock = job.is_first().then(|| self.folder()).transpose()?;
        let (start, mut first, in_folder) = (Instant::now(), 0, Cell::new(0));
        let resolved = self.resolved(&bases, &variants, (&*dataset, &*path));
        let swept = sweep.run(
            &device,
            Arc::clone(&dataset),
            &self.out,
            |SweepProgress { run, lost, done, total, .. }| {
                in_folder.set(done);
                if let Some(head) = lost {
                    let what = if head.exists() { "damaged" } else { "missing" };
                    return always!("warning: {} is {what}; it is trained again", shown(head));
                }
                let Some(run) = run else {
                    first = done;
                    // Now it is known that the folder is of this sweep. Its runs do not need the file.
                    if job.is_first()
                        && let Err(error) = save_sweep(&self.out, &resolved)
                    {
                        note!("note: no options for another sweep: {error}");
                    }
                    let out = shown(&self.out);
                    return note!("{done} of {total} runs are in {out}");
                };
                let left = start.elapsed().as_secs_f64() / (done - first) as f64 * (total - done) as f64;
                let result = match (&run.best, &run.diverged) {
                    (Some(best), _) => format!("val rsum {:5.1} in epoch {}", best.recall.rsum, best.epoch),
                    (None, why) => format!("diverged: {}", why.as_deref().unwrap_or_default()),
                };
                note!(
                    "{done}/{total}  {:10} {}  seed {}  {result}  {:.1} s, about {} left",
                    run.objective,
                    run.point,
                    run.seed,
                    run.seconds,
                    duration(left)
                );
            },
        );
        let table = match (swept, interrupt.signal()) {
            (Err(error), Some(signal)) if error.kind() == ErrorKind::Stopped => {
                let (name, done, out) = (signal.name(), in_folder.get(), shown(&self.out));
                if job.is_first() {
                    always!(
                        "stopped by {name}; {done} of {total} runs are in {out}: give the same command again to go on"
                    );
                }
                return Ok(signal.exit_code());
            }
            (swept, _) => swept?,
        };
        drop(interrupt);
        if job.is_first() {
            self.write(&table)?;
        }
        let without = |row: &&wgoal::sweep::Row| row.point.is_none();
        let diverged: Vec<_> = table.rows.iter().filter(without).map(|row| &row.objective[..]).collect();
        let advice = "lower --lr, set --clip, or use milder --tau, --alpha, --beta, in another --out";
        if diverged.len() == table.rows.len() {
            let expected = "an objective whose runs finish with all seeds";
            let found = "none: a run diverged at every point";
            return Err(Error::new(ErrorKind::Diverged, self.out.display(), expected, found, advice));
        }
        if !diverged.is_empty() {
            note!("warning: {} diverged at every point: {advice}", diverged.join(", "));
        }
        Ok(0)
    }

    /// Makes the folder, if it is missing, and locks it.
    fn folder(&self) -> Result<Lock> {
        let lock = Lock::of(&make_folder(&self.out)?)?;
        refuse_foreign_tables(&self.out)?;
        Ok(lock)
    }

    /// Writes the tables and the report, and prints the table.
    fn write(&self, table: &Table) -> Result<()> {
        let markdown = table.to_markdown();
        write_regular(&self.out.join("table.csv"), table.to_csv().as_bytes())?;
        write_regular(&self.out.join("table.json"), (to_json(table)? + "\n").as_bytes())?;
        write_regular(&self.out.join("table.md"), markdown.as_bytes())?;
        // The tables are written even if the report fails.
        match sweep_page(table).and_then(|page| write_regular(&self.out.join(PAGE), page.as_bytes())) {
            Ok(()) => note!("report: {}", shown(&self.out.join(PAGE))),
            Err(error) => note!("note: no report: {error}"),
        }
        if self.json { print_json(table) } else { say(markdown.trim_end()) }
    }

    /// The list of `--grid` also takes a dataset that follows it. A value that is not OPTION=LIST, or that is a path, is
    /// the dataset.
    fn take_dataset(&mut self) -> Result<()> {
        let Some(place) = self.grid.iter().position(|text| is_dataset(text)) else { return Ok(()) };
        if let Some(dataset) = &self.dataset {
            let found = format!("{}, besides the dataset {}", self.grid[place], dataset.display());
            let advice = "give an option of train with the values to try, as in tau=1,5,10";
            return Err(refuse("--grid", "OPTION=LIST", found, advice));
        }
        self.dataset = Some(self.grid.remove(place).into());
        self.take_dataset()
    }

    /// What the sweep does, for the file in its folder.
    fn resolved<'a>(
        &'a self,
        bases: &'a [TrainConfig],
        variants: &'a [Variant],
        dataset: (&'a Dataset, &'a Path),
    ) -> Resolved<'a> {
        let mut own = vec![
            ("objectives", self.objectives()),
            ("seeds", self.seeds.iter().map(u64::to_string).collect()),
            ("device", vec![self.device.name().to_string()]),
        ];
        if !self.grid.is_empty() {
            own.push(("grid", self.grid.clone()));
        }
        own.extend(self.baseline.iter().map(|name| ("baseline", vec![name.clone()])));
        own.extend(self.options.objective.negatives.iter().map(|name| ("negatives", vec![name.clone()])));
        Resolved { own, recipe: self.recipe(), bases, variants, dataset }
    }

    /// The recipe that all runs start from.
    fn recipe(&self) -> &str {
        self.options.recipe.as_deref().unwrap_or("goal")
    }

    /// The configuration of each objective, without the values of the grid.
    fn bases(&self, dataset: &Dataset) -> Result<Vec<TrainConfig>> {
        let base = |name| {
            let mut options = self.options.clone();
            options.objective.objective = Some(name);
            Ok(options.start(dataset, self.recipe())?.0)
        };
        self.objectives().into_iter().map(base).collect()
    }

    /// Every objective at every point of the grid that changes its configuration.
    fn variants(&self, bases: &[TrainConfig], dataset: &Dataset) -> Result<Vec<Variant>> {
        let axes = self.grid.iter().map(|text| Axis::parse(text)).collect::<Result<Vec<_>>>()?;
        let mut variants = Vec::new();
        for config in bases {
            let mut points = vec![Variant { point: String::new(), config: config.clone() }];
            for axis in &axes {
                let (mut finer, mut matters) = (Vec::new(), false);
                for coarse in &points {
                    for value in &axis.values {
                        let config = axis.options(value)?.apply(coarse.config.clone())?;
                        matters |= config != coarse.config;
                        let point = format!("{} {}={value}", coarse.point, axis.option).trim_start().into();
                        finer.push(Variant { point, config });
                    }
                }
                // An option without effect on an objective, such as --tau on InfoNCE, adds no points.
                if matters {
                    points = finer;
                }
            }
            variants.extend(points);
        }
        self.warn_unused(&axes, &variants, dataset)?;
        Ok(variants)
    }

    /// Warns of options without effect in all runs, including those of the grid.
    fn warn_unused(&self, axes: &[Axis], variants: &[Variant], dataset: &Dataset) -> Result<()> {
        let unused = |options: &RunOptions| -> Vec<_> {
            variants.iter().map(|run| options.unused(&run.config, dataset)).collect()
        };
        warn(&Unused::in_all(unused(&self.options)));
        for axis in axes {
            let options = axis.values.iter().map(|value| axis.options(value)).collect::<Result<Vec<_>>>()?;
            warn(&Unused::in_all(options.iter().flat_map(unused).collect()));
        }
        Ok(())
    }

    /// The names of the objectives, with `all` expanded.
    fn objectives(&self) -> Vec<String> {
        let names = self.objectives.iter().flat_map(|name| match name.as_str() {
            "all" => {
                let goal = Objective::goal_combinations().map(|objective| objective.to_string());
                goal.chain(["hinge", "infonce"].map(String::from)).collect()
            }
            name => vec![name.to_string()],
        });
        names.collect()
    }
}

/// Refuses to overwrite a table that is not from an earlier call: one without results beside it, or of another form.
fn refuse_foreign_tables(out: &Path) -> Result<()> {
    let results = out.join("results.jsonl").exists();
    let is_ours = |name: &str, text: &str| match name {
        "table.md" => text.lines().next().is_some_and(|line| line.ends_with(": recall on the test split")),
        PAGE => text.contains(": wgoal sweep</title>"),
        "table.csv" => text.starts_with("objective,point,diverged,"),
        _ => serde_json::from_str::<serde_json::Value>(text).is_ok_and(|table| {
            ["dataset", "seeds", "baseline", "rows"].iter().all(|key| table.get(key).is_some())
        }),
    };
    for name in ["table.md", "table.csv", "table.json", PAGE] {
        let path = out.join(name);
        let found = match read_text(&path, LINES) {
            Err(obstacle) if obstacle.is_missing() => continue,
            Ok(text) if results && is_ours(name, &text) => continue,
            Ok(_) => "another file".to_string(),
            Err(obstacle) => obstacle.found().to_string(),
        };
        let advice = "move it elsewhere, or choose another --out";
        let expected = "no file, or the table of this sweep";
        return Err(Error::new(ErrorKind::Config, path.display(), expected, found, advice));
    }
    Ok(())
}
