//! `wgoal train --ensemble`: the members one after the other, each a run in its own folder, then the head that they make.

use super::*;
use crate::cli::outcome::reported as reported_split;
use crate::cli::run_folder::{MEMBERS, Started, fault};

/// What a member is worth.
#[derive(Serialize)]
pub(super) struct Member {
    seed: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bandwidth: Vec<f64>,
    best_epoch: usize,
    /// Validation rsum.
    val: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<f64>,
}

/// The members that are trained so far.
#[derive(Default)]
struct Trained {
    heads: Vec<Checkpoint>,
    results: Vec<Member>,
    /// The rsums of the best start by validation.
    start: Option<[f64; 2]>,
    /// The last trainer.
    trainer: Option<Trainer>,
}

/// Trains an ensemble. A run that was stopped goes on with the member that it had reached.
pub(super) fn train(args: &TrainArgs, plan: Plan) -> Result<u8> {
    let Plan { lock, earlier, path, dataset, config, recipe, device } = plan;
    warn(&args.options.unused(&config, &dataset));
    let interrupt = Interrupt::watch()?;
    let start = Started {
        dataset: &path,
        device: &device,
        recipe: &recipe,
        resumed: earlier.is_some(),
        changes: &[],
    };
    let name = format!("{}-ensemble", name(&dataset, &config));
    let (folder, _lock) = RunFolder::of_ensemble(args.out.clone(), lock, &name, start, &config)?;
    config::save(&folder, &recipe, &config, (&*dataset, &*path), args.device.name())?;
    let (began, members) = (Instant::now(), config.members());
    let mut trained = Trained::default();
    for (number, member) in (1..).zip(&members) {
        // The last trainer is not needed any more.
        trained.trainer = None;
        note!("\nmember {number} of {}: {}", members.len(), described(member));
        let own = folder.join(MEMBERS).join(number.to_string());
        let trainer = trainer(&device, &dataset, member, earlier_member(&own, member)?)?;
        let changes = changes(member);
        let mut run = RunFolder::open(Some(own), None, "", &trainer, &device, &path, &recipe, &changes)?;
        config::save(run.path(), &recipe, member, (&*dataset, &*path), args.device.name())?;
        run.keep(config::RUN);
        if let Some(code) = train_member(args, (trainer, run), &folder, &interrupt, &mut trained)? {
            return Ok(code);
        }
    }
    drop(interrupt);
    let seconds_training = began.elapsed().as_secs_f64();
    let Trained { heads, results, start, trainer } = trained;
    let mut checkpoint = Checkpoint::ensemble(&device, &dataset, heads, config)?;
    let (Some(trainer), Some(best)) = (trainer, checkpoint.best()) else {
        return Err(Error::new(
            ErrorKind::Config,
            "--ensemble",
            "a member",
            "none",
            "give --ensemble 1 or more",
        ));
    };
    let corrected = fit_correction(&mut checkpoint, &trainer);
    checkpoint.save(folder.join(BEST))?;
    let recorder = Recorder::of_ensemble(&folder, !args.no_report);
    let ended = Ended { best, checkpoint, corrected, seconds_training, members: results, start };
    args.report(&trainer, ended, &folder, recorder, &recipe)?;
    Ok(0)
}

/// Trains a member to its end. Returns the exit code if a signal stopped it.
fn train_member(
    args: &TrainArgs,
    (mut trainer, mut run): (Trainer, RunFolder),
    top: &Path,
    interrupt: &Interrupt,
    trained: &mut Trained,
) -> Result<Option<u8>> {
    let mut recorder = args.begin(&trainer, &mut run)?;
    run.checkpoint_every(&mut trainer, args.every()?);
    let collapsed = epochs(&mut trainer, &mut run, &mut recorder, (interrupt, &Job::alone()), top)?;
    run.restore_deleted(&trainer)?;
    if let Some(signal) = interrupt.signal() {
        run.save_within(&trainer)?;
        let (number, saved) = (trained.heads.len() + 1, saved(&trainer, [run.path(), top]));
        always!("stopped by {} in member {number} {}; {}", signal.name(), reached(&trainer), Plain(saved));
        return Ok(Some(signal.exit_code()));
    }
    let (Some(best), Some(checkpoint)) = (trainer.best_epoch(), trainer.best()) else {
        let advice = "give --epochs 1 or more";
        return Err(Error::new(ErrorKind::Config, "training", "an epoch", "none", advice));
    };
    note_doubts(&trainer, best, collapsed);
    let split = reported_split(trainer.dataset());
    if let (Some(start), Some(head)) = (trainer.start(), trainer.start_head())
        && trained.start.is_none_or(|[val, _]| start.val.rsum > val)
    {
        trained.start = Some([start.val.rsum, trainer.recall_of(head, split)?.rsum]);
    }
    let test = (split == Split::Test).then(|| trainer.recall_of(checkpoint.head(), split)).transpose()?;
    let (val, rsum) = (best.recall.rsum, test.map(|test| test.rsum));
    let on_test = rsum.map_or(String::new(), |rsum| format!(", test rsum {rsum:.1}"));
    note!("member {}: best epoch {}, validation rsum {val:.1}{on_test}", trained.heads.len() + 1, best.epoch);
    recorder.finish(&trainer, &checkpoint, test, None, Vec::new());
    let TrainConfig { seed, bandwidth, .. } = trainer.config().clone();
    trained.results.push(Member { seed, bandwidth, best_epoch: best.epoch, val, test: rsum });
    trained.heads.push(checkpoint);
    trained.trainer = Some(trainer);
    Ok(None)
}

/// In what a member differs from the others.
fn described(member: &TrainConfig) -> String {
    match &member.bandwidth[..] {
        [bandwidth] => format!("seed {}, bandwidth {bandwidth}", member.seed),
        _ => format!("seed {}", member.seed),
    }
}

/// The same as options.
fn changes(member: &TrainConfig) -> Vec<(&'static str, String)> {
    let mut changes = vec![("--ensemble", "1".to_string()), ("--seed", member.seed.to_string())];
    if let [bandwidth] = member.bandwidth[..] {
        changes.push(("--bandwidth", bandwidth.to_string()));
    }
    changes
}

/// The checkpoint of a member that an earlier process has begun.
///
/// # Errors
/// A folder with another run.
fn earlier_member(folder: &Path, member: &TrainConfig) -> Result<Option<Checkpoint>> {
    if !RunFolder::is_run(folder) {
        return Ok(None);
    }
    let earlier = RunFolder::load(folder)?;
    let same = earlier.config.clone().with(|c| (c.epochs, c.patience) = (member.epochs, member.patience));
    match same == *member {
        true => Ok(earlier.checkpoint),
        false => {
            let (expected, advice) = ("the member of this ensemble", "remove the folder to train it again");
            Err(fault(folder, expected, "a run with other options", advice))
        }
    }
}
