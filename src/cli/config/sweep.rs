//! The options of a sweep as they are in effect, for `sweep.toml` in its folder.

use super::super::options::{Unused, parameters};
use super::super::{help, quoted, shown};
use super::resolved::{Values, absolute, is_foreign, of, with_values};
use super::{SWEEP, write};
use std::path::Path;
use wgoal::io::write_regular;
use wgoal::sweep::Variant;
use wgoal::{Dataset, Result, TrainConfig};

/// The first words of the file.
const START: &str = "# The options of this sweep";

/// What a sweep does.
pub struct Resolved<'a> {
    /// The options that only a sweep has, by name. The path of the dataset may be relative.
    pub own: Vec<(&'static str, Vec<String>)>,
    pub recipe: &'a str,
    /// The configuration of each objective, without the values of the grid.
    pub bases: &'a [TrainConfig],
    pub variants: &'a [Variant],
    pub dataset: (&'a Dataset, &'a Path),
}

/// Writes `sweep.toml` into the folder of a sweep: every option that decides its results. Keeps a file of this name that
/// wgoal did not write.
///
/// # Errors
/// The file cannot be written.
pub fn save_sweep(folder: &Path, sweep: &Resolved) -> Result<()> {
    let path_of_sweep = folder.join(SWEEP);
    if is_foreign(&path_of_sweep, START) {
        note!("note: {} is not from a sweep, so it stays as it is", shown(&path_of_sweep));
        return Ok(());
    }
    let (dataset, path) = sweep.dataset;
    let mut values = common(sweep.bases);
    // Options without effect in all runs would only cause warnings.
    if let Some(options) = with_values(&values) {
        let unused = |run: &Variant| options.unused(&run.config, dataset);
        for Unused { option, .. } in Unused::in_all(sweep.variants.iter().map(unused).collect()) {
            values.remove(option);
        }
    }
    // The recipe gives the values in which the objectives differ.
    values.insert("recipe".into(), vec![sweep.recipe.to_string()]);
    values.insert("dataset".into(), vec![absolute(path)]);
    values.extend(sweep.own.iter().map(|(name, list)| (name.to_string(), list.clone())));
    let head = format!(
        "{START}, by wgoal {}. To repeat it, in another folder:\n\
         #   wgoal sweep --config {} --out NEW\n",
        env!("CARGO_PKG_VERSION"),
        quoted(&path_of_sweep),
    );
    write_regular(&path_of_sweep, write::render(&help::command(), "sweep", &head, &values).as_bytes())
}

/// The values that are the same in all configurations. A parameter of objectives is compared where the objective reads it.
fn common(bases: &[TrainConfig]) -> Values {
    // What `--objectives` and `--seeds` say, and what the caller knows.
    const OTHERS: [&str; 3] = ["objective", "seed", "negatives"];
    const CUSTOM: [&str; 2] = ["weights", "param"];
    let each: Vec<(Values, Vec<&str>)> =
        bases.iter().map(|config| (of(config), parameters(&config.objective))).collect();
    let mut values = Values::new();
    for (name, value) in each.iter().flat_map(|(values, _)| values) {
        let of_objectives = each.iter().any(|(_, read)| read.contains(&&name[..]));
        let matters = |(values, read): &&(Values, Vec<&str>)| match name.as_str() {
            name if CUSTOM.contains(&name) => values.contains_key(name),
            name => !of_objectives || read.contains(&name),
        };
        let same = each.iter().filter(matters).all(|(values, _)| values.get(name) == Some(value));
        if same && !OTHERS.contains(&&name[..]) {
            values.insert(name.clone(), value.clone());
        }
    }
    values
}
