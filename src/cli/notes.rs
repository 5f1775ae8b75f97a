//! What `wgoal train` prints at the start of a run, at a doubtful end, and when a run is stopped.

use super::outcome::chance;
use super::{quoted, shown};
use std::path::Path;
use wgoal::model::Side;
use wgoal::train::Best;
use wgoal::{Result, Split, TrainConfig, Trainer};

/// Prints what is trained and where the run is written.
pub fn note_start(trainer: &Trainer, out: &Path) -> Result<()> {
    let (captions, config) = (trainer.dataset().split(Split::Train).texts.len(), trainer.config());
    let head = trainer.head()?;
    let trained = |name: &str| !name.ends_with("mlp.running") && !fixed_logits(config).contains(&name);
    let counted = head.parameters().into_iter().filter(|(name, _)| trained(name));
    let parameters: usize = counted.map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let [image, text] = [Side::Image, Side::Text].map(|side| head.feature_dim(side));
    let embed = config.embed;
    note!("head: images {image} to {embed}, captions {text} to {embed}; {parameters} parameters");
    let steps = trainer.steps_per_epoch();
    note!("training {} with {steps} steps per epoch, into {}", config.objective, shown(out));
    if config.batch > captions {
        note!("note: every step trains on all {captions} pairs, fewer than --batch {}", config.batch);
    }
    if config.batch.min(captions) == 1 && config.memory_bank == 0 {
        note!("note: a batch of one pair has no negatives");
    }
    Ok(())
}

/// The parameters of the logits that are not learned.
fn fixed_logits(config: &TrainConfig) -> &'static [&'static str] {
    match config.objective.logits() {
        Some(logits) if logits.learned && logits.has_bias => &[],
        Some(logits) if logits.learned => &["logit_bias"],
        _ => &["temperature", "logit_bias"],
    }
}

/// Warns of a run whose validation stayed near chance. A run of only a few epochs may still be near it.
pub fn note_doubts(trainer: &Trainer, best: Best, collapsed: bool) {
    let val = chance(trainer, Split::Val);
    if !collapsed && trainer.epoch() >= 5 && best.recall.is_at_chance(val) {
        note!(
            "warning: validation stayed near chance (rsum {:.1}, chance {val:.1}): check that text_to_image names \
             the image of every caption, and that images and texts are in the order of their features",
            best.recall.rsum
        );
    }
}

/// How far a run that was stopped has come.
pub fn reached(trainer: &Trainer) -> String {
    let (epoch, epochs) = (trainer.epoch(), trainer.config().epochs);
    match trainer.step() {
        0 if epoch == 0 => "in the first epoch".into(),
        0 => format!("after epoch {epoch} of {epochs}"),
        step => {
            format!("after step {step} of {} in epoch {} of {epochs}", trainer.steps_per_epoch(), epoch + 1)
        }
    }
}

/// What a run that ended early has saved in `out`, and the command that continues it, with the folder `top`.
pub fn saved(trainer: &Trainer, folders: [&Path; 2]) -> String {
    saved_of([trainer.epoch(), trainer.step()], folders)
}

/// The same of these epochs, and of these steps of the next one.
fn saved_of([epochs, steps]: [usize; 2], [out, top]: [&Path; 2]) -> String {
    let number = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    let parts: Vec<_> = [(epochs, "epoch"), (steps, "step")].into_iter().filter(|(n, _)| *n > 0).collect();
    let is = if parts.iter().map(|(n, _)| n).sum::<usize>() == 1 { "is" } else { "are" };
    let named: Vec<_> = parts.into_iter().map(|(n, what)| number(n, what)).collect();
    let (what, verb) = match named.is_empty() {
        true => ("no epoch is saved yet".to_string(), "start again"),
        false => (format!("{} {is} saved in {}", named.join(" and "), out.display()), "continue"),
    };
    format!("{what}: {verb} with `wgoal train --resume --out {}`", quoted(top))
}

#[cfg(all(test, unix))]
mod tests {
    use super::saved_of;
    use crate::cli::train::TrainArgs;
    use clap::FromArgMatches;
    use std::path::Path;

    #[test]
    fn what_is_saved_is_counted() {
        let saved = |counts| saved_of(counts, [Path::new("run"); 2]);
        let rest = " with `wgoal train --resume --out run`";
        assert_eq!(saved([0, 0]), format!("no epoch is saved yet: start again{rest}"));
        assert_eq!(saved([1, 0]), format!("1 epoch is saved in run: continue{rest}"));
        assert_eq!(saved([0, 1]), format!("1 step is saved in run: continue{rest}"));
        assert_eq!(saved([2, 0]), format!("2 epochs are saved in run: continue{rest}"));
        assert_eq!(saved([1, 7]), format!("1 epoch and 7 steps are saved in run: continue{rest}"));
    }

    /// The advised command, copied into a shell, resumes the run in its folder.
    #[test]
    fn the_advised_command_names_the_folder() {
        for out in ["runs/a", "my runs/it's $HOME"] {
            let advice = saved_of([3, 0], [Path::new(out); 2]);
            let (_, command) = advice.split_once("`wgoal ").unwrap();
            let (command, _) = command.rsplit_once('`').unwrap();
            let script = format!("printf '%s\\n' {command}");
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let arguments = String::from_utf8(output.stdout).unwrap();
            let mut matches = crate::cli::help::command()
                .try_get_matches_from(std::iter::once("wgoal").chain(arguments.lines()))
                .unwrap();
            let (_, mut train) = matches.remove_subcommand().unwrap();
            let args = TrainArgs::from_arg_matches_mut(&mut train).unwrap();
            assert_eq!((args.out.as_deref(), args.resume), (Some(Path::new(out)), Some(None)), "{advice}");
        }
    }
}
