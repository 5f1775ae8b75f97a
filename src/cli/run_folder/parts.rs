//! Whether the files of a folder are parts of one run.

use super::{BEST, LAST, METRICS, epoch_of, fault, read_metrics};
use crate::cli::shown;
use serde_json::Value;
use std::path::Path;
use wgoal::{Checkpoint, Result, TrainConfig};

/// The end of every advice about a foreign file.
const ADVICE: &str = "put back the file of this run, or start a new run in another --out";

/// Checks that last, best and metrics are parts of the run with this id and these options. An older version wrote no id;
/// then only the options and the figures are compared. A missing or damaged best is no fault: the run writes it again.
///
/// # Errors
/// A part of another run.
pub(super) fn check(out: &Path, run: &str, config: &TrainConfig, last: Option<&Checkpoint>) -> Result<()> {
    let found = |part: &Checkpoint| match part.run() {
        "" => "that of other options".to_string(),
        id => format!("that of run {id}"),
    };
    if let Some(last) = last.filter(|last| !last.is_of(run, config)) {
        let expected = format!("the checkpoint of the run in config.json{}", named(run));
        return Err(fault(&out.join(LAST), &expected, found(last), ADVICE));
    }
    let best = out.join(BEST);
    if let Some(best_head) = Checkpoint::load(&best).ok().filter(|best| !best.is_of(run, config)) {
        let expected = format!("the head of the run in config.json{}", named(run));
        let advice = "move it elsewhere; the run then writes its own";
        return Err(fault(&best, &expected, found(&best_head), advice));
    }
    check_metrics(out, run, last)
}

/// The id in brackets, if there is one.
fn named(run: &str) -> String {
    if run.is_empty() { String::new() } else { format!(" ({run})") }
}

/// Compares the lines with the id, and the line of the best epoch with the checkpoint.
fn check_metrics(out: &Path, run: &str, last: Option<&Checkpoint>) -> Result<()> {
    let path = out.join(METRICS);
    let best = last.and_then(Checkpoint::best);
    for (number, line) in read_metrics(&path)?.lines().enumerate() {
        // What is not JSON is a line that a killed run has left half written.
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let thing = || out.join(format!("{METRICS} line {}", number + 1));
        let id = line["run"].as_str().unwrap_or_default();
        if !run.is_empty() && !id.is_empty() && id != run {
            return Err(fault(
                &thing(),
                &format!("an epoch of run {run}"),
                format!("one of run {id}"),
                ADVICE,
            ));
        }
        if let Some(best) = best.filter(|best| line["epoch"] == best.epoch)
            && let Some(found) = line["val"]["rsum"].as_f64()
            && found != best.recall.rsum
        {
            let expected = format!("the validation rsum of {LAST}, {:.1}", best.recall.rsum);
            return Err(fault(&thing(), &expected, format!("{found:.1}"), ADVICE));
        }
    }
    Ok(())
}

/// Says which lines and heads of a resumed run are gone. The lines of the metrics are those that the run keeps, `done`
/// epochs have ended, and the first line should be that of epoch `first`.
pub(super) fn note_lost(out: &Path, kept: &str, first: u64, done: u64) {
    let there: Vec<u64> = kept.lines().filter_map(epoch_of).collect();
    let lost: Vec<u64> = (first..=done).filter(|epoch| !there.contains(epoch)).collect();
    let path = out.join(METRICS);
    match lost[..] {
        [] => {}
        [one] => always!("warning: {} has lost the line of epoch {one}; the run goes on", shown(&path)),
        [from, .., to] => {
            let (path, count) = (shown(&path), lost.len());
            always!("warning: {path} has lost {count} lines of the epochs {from} to {to}; the run goes on");
        }
    }
}

/// Says that a resumed run writes its best head again. It must be there, because it is written before the checkpoint.
pub(super) fn note_restored(best: &Path) {
    match Checkpoint::load(best) {
        Ok(_) => {}
        Err(_) if best.symlink_metadata().is_err() => {
            always!("warning: {} is missing; it is written again from {LAST}", shown(best));
        }
        Err(_) => always!("warning: {} is damaged; it is written again from {LAST}", shown(best)),
    }
}
