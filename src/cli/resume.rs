//! The options of `train --resume`: those of the run so far, and the changes that are allowed.

use super::options::RunOptions;
use super::run_folder::Earlier;
use wgoal::optim::Schedule;
use wgoal::{Checkpoint, Error, ErrorKind, Result, TrainConfig};

fn refuse(
    thing: &str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
    advice: &str,
) -> Error {
    Error::new(ErrorKind::Config, thing, expected, found, advice)
}

/// The options of the run so far, changed by the given ones. A recipe counts only when the run starts: it does not undo
/// options that were given then.
///
/// # Errors
/// If another recipe is given, or an option other than the number of epochs and the patience changes.
pub fn config(options: &RunOptions, earlier: &Earlier) -> Result<TrainConfig> {
    const ADVICE: &str = "leave the option out, or start a new run in another --out";
    if let Some(recipe) = options.recipe.as_ref().filter(|recipe| **recipe != earlier.recipe) {
        let [old, new] = [&earlier.recipe, recipe].map(|recipe| format!("--recipe {recipe}"));
        return Err(refuse("--resume", old, new, ADVICE));
    }
    let before = &earlier.config;
    let config = options.apply(before.clone())?;
    let same = config.clone().with(|c| {
        c.epochs = before.epochs;
        c.patience = before.patience;
    });
    if same == *before {
        return Ok(config);
    }
    let (old, new) = (serde_json::to_value(before), serde_json::to_value(&same));
    let changed = match (old, new) {
        (Ok(serde_json::Value::Object(old)), Ok(serde_json::Value::Object(new))) => old
            .iter()
            .filter(|(key, value)| new.get(*key) != Some(*value))
            .map(|(key, value)| (format!("{key} = {value}"), format!("{key} = {}", new[key])))
            .collect(),
        _ => Vec::new(),
    };
    let (expected, found): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
    Err(refuse("--resume", expected.join(", "), found.join(", "), ADVICE))
}

/// The checkpoint with the epochs and the patience of `config`.
///
/// # Errors
/// If the run has done more epochs than `config` asks for. If more epochs or another patience are given, but patience
/// still ends the run.
pub fn checkpoint(checkpoint: Checkpoint, config: &TrainConfig) -> Result<Checkpoint> {
    let (done, epochs, patience) = (checkpoint.epoch(), config.epochs, config.patience);
    if done > epochs {
        let expected = format!("at least {done}, the epochs that the run has done");
        return Err(refuse("--epochs", expected, epochs, "give this number, or more to continue"));
    }
    let step = checkpoint.step();
    if step > 0 && done == epochs {
        let expected = format!("at least {}, because the run is within this epoch", done + 1);
        return Err(refuse("--epochs", expected, epochs, "give this number, or more to continue"));
    }
    let best = checkpoint.best().map_or(0, |best| best.epoch);
    let stale = done - best;
    if done < epochs && patience > 0 && stale >= patience {
        let advice = format!("to continue, add --patience 0, or a --patience above {stale}");
        let before = checkpoint.config();
        if (epochs, patience) != (before.epochs, before.patience) {
            let found = format!(
                "one that --patience {patience} ended after epoch {done}, because epoch {best} was the best"
            );
            return Err(refuse("--resume", "a run that can continue", found, &advice));
        }
        note!("note: --patience {patience} ended the run after epoch {done} of {epochs}; {advice}");
    } else if step > 0 {
        note!("resuming after step {step} in epoch {} of {epochs}", done + 1);
    } else {
        note!("resuming after epoch {done} of {epochs}");
    }
    Ok(checkpoint.with_epochs(epochs).with_patience(patience))
}

/// Prints how the run differs from its start, after `done` epochs.
pub fn note_changes(before: &TrainConfig, config: &TrainConfig, steps: usize, done: usize) {
    let mut changes = Vec::new();
    if config.patience != before.patience {
        changes.push(format!("--patience {} instead of {}", config.patience, before.patience));
    }
    if config.epochs != before.epochs {
        let mut parts = vec![format!("{} epochs instead of {}", config.epochs, before.epochs)];
        let [total, before_total] = [config, before].map(|config| (steps * config.epochs) as u64);
        let [rising, before_rising] =
            [(config, total), (before, before_total)].map(|(c, n)| c.lr_warmup.steps(n));
        if rising != before_rising {
            parts
                .push(format!("the learning rate rises until step {rising} instead of step {before_rising}"));
        }
        if config.schedule != Schedule::Constant {
            let it = if parts.len() > 1 { "it" } else { "the learning rate" };
            parts
                .push(format!("{it} falls until epoch {} instead of epoch {}", config.epochs, before.epochs));
        }
        let step = (steps * done) as u64;
        let [rate, before_rate] = [(config, total), (before, before_total)]
            .map(|(config, total)| config.learning_rate(done, step, total));
        if rate != before_rate && done < config.epochs {
            parts.push(format!("the next step trains at {rate:.3e} instead of {before_rate:.3e}"));
        }
        let (first, rest) = (parts.remove(0), parts);
        changes.push(if rest.is_empty() { first } else { format!("{first}: {}", rest.join(", ")) });
    }
    changes.iter().for_each(|change| note!("note: {change}"));
}
