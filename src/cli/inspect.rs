//! `wgoal inspect`: what is in a dataset, in one table.

use super::{print_json, say, shown};
use clap::Args;
use std::path::PathBuf;
use wgoal::data::{ArrayInspection, Found, Inspection, SharedRows};
use wgoal::{Dataset, Error, ErrorKind, Plain, Result};

/// From this size on, the command says that reading takes a while.
const LONG: u64 = 1 << 30;

const EXAMPLES: &str = "\
Examples:
  wgoal inspect my-features
  wgoal inspect my-features --json";

#[derive(Args)]
#[command(before_long_help = EXAMPLES)]
pub struct InspectArgs {
    /// Folder, .safetensors or .npz file with features
    ///
    /// The command reads all features once. It needs no GPU. It fails if the dataset has a fault that other commands
    /// refuse.
    dataset: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl InspectArgs {
    pub fn run(self) -> Result<()> {
        let dataset = Dataset::open_to_inspect(&self.dataset)?;
        if dataset.feature_bytes() >= LONG {
            note!("reading {:.1} GB of features", dataset.feature_bytes() as f64 / 1e9);
        }
        let found = dataset.inspect();
        if self.json {
            print_json(&found)?
        } else {
            self.print(&found)?
        }
        if found.faults.is_empty() {
            return Ok(());
        }
        let (expected, advice) = ("a dataset without faults", "mend what is listed above");
        let faults = match found.faults.len() {
            1 => "1 fault".to_string(),
            count => format!("{count} faults"),
        };
        Err(Error::new(ErrorKind::Data, self.dataset.display(), expected, faults, advice))
    }

    fn print(&self, found: &Inspection) -> Result<()> {
        say(format!("{}\n{}", shown(&self.dataset), found.summary))?;
        if found.paired {
            say("pairs: text i is the caption of image i, because there is no text_to_image")?;
        }
        if found.divided && !found.summary.splits.is_empty() {
            say("no split files: commands divide the images in this way")?;
        }
        say("")?;
        let (of_arrays, of_splits) = (arrays(&found.arrays), splits(&found.leaks));
        for table in [of_arrays, of_splits].iter().filter(|table| !table.is_empty()) {
            say(lines(table))?;
        }
        for fault in &found.faults {
            say(format!("fault: {}", Plain(fault)))?;
        }
        for remark in &found.remarks {
            say(format!("{}: {}", if remark.grave { "warning" } else { "note" }, Plain(remark)))?;
        }
        if found.faults.is_empty() && found.remarks.is_empty() {
            say("nothing is unusual")?;
        }
        Ok(())
    }
}

/// A row of a table: a name and one cell for each column.
type Row = (&'static str, Vec<String>);

fn arrays(arrays: &[ArrayInspection]) -> Vec<Row> {
    let row = |name, cell: &dyn Fn(&ArrayInspection) -> String| (name, arrays.iter().map(cell).collect());
    let length = |which: usize| {
        move |array: &ArrayInspection| array.row_lengths.map_or("-".into(), |lengths| number(lengths[which]))
    };
    let rows = [
        row("", &|array| short(&array.name)),
        row("rows x columns", &|array| format!("{} x {}", array.shape[0], array.shape[1])),
        row("type", &|array| Plain(&array.value_type).to_string()),
        row("length of rows, smallest", &length(0)),
        row("  median", &length(1)),
        row("  largest", &length(2)),
        row("largest value", &|array| number(array.largest_value)),
        row("zero rows", &|array| cell(array.zero_rows)),
        row("rows with NaN or infinity", &|array| cell(array.rows_not_finite)),
        row("rows equal to an earlier row", &|array| cell(array.repeated_rows)),
        row("captions equal to one of another image", &|array| cell(array.equal_captions)),
        row("rows of extreme length", &|array| cell(array.rows_of_extreme_length)),
        row("constant columns", &|array| cell(array.constant_columns)),
        row("nearly constant columns", &|array| cell(array.nearly_constant_columns)),
    ];
    rows.into()
}

/// A row for each kind of leak, a column for each pair of splits.
fn splits(shared: &[SharedRows]) -> Vec<Row> {
    if shared.is_empty() {
        return Vec::new();
    }
    let row = |name, cell: &dyn Fn(&SharedRows) -> String| (name, shared.iter().map(cell).collect());
    vec![
        row("shared by splits", &|shared| shared.splits.join(" and ")),
        row("images in both", &|shared| shared.same_images.to_string()),
        row("images with equal features", &|shared| shared.equal_images.to_string()),
        row("captions with equal features", &|shared| shared.equal_captions.to_string()),
    ]
}

/// A number and the first place, such as `5, first 33`.
fn cell(found: Found) -> String {
    found.first.map_or("0".into(), |first| format!("{}, first {first}", found.count))
}

fn number(value: f32) -> String {
    match value.abs() {
        x if x == 0.0 || (1e-3..1e5).contains(&x) => format!("{value:.3}"),
        _ => format!("{value:.3e}"),
    }
}

/// The file and the array of a label, without the folder.
fn short(label: &str) -> String {
    let name = label.rsplit(['/', '\\']).next().unwrap_or(label);
    Plain(name).to_string()
}

/// The lines of a table, in columns.
fn lines(rows: &[Row]) -> String {
    let columns = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().map(|(_, cells)| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let names = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, cells) in rows {
        let cells = cells.iter().zip(&widths).map(|(cell, &width)| format!("  {cell:width$}"));
        let line = format!("{name:names$}{}", cells.collect::<String>());
        text += line.trim_end();
        text.push('\n');
    }
    text
}
