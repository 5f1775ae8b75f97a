//! Options and commands by the names that other tools use, and what they are called here.

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;
use wgoal::Plain;

/// An option, and what other tools call it. Only names that no command of wgoal has itself are found here.
const OPTIONS: &[(&str, &[&str])] = &[
    ("lr", &["learning-rate", "base-lr", "init-lr", "step-size", "alpha-lr"]),
    ("objective", &["loss", "loss-fn", "loss-function", "loss-type", "criterion", "gradient"]),
    ("objectives", &["losses", "criteria"]),
    ("patience", &["early-stopping", "early-stop", "early-stopping-patience", "es-patience"]),
    (
        "batch",
        &["batch-size", "batchsize", "bs", "bsz", "b", "train-batch-size", "per-device-train-batch-size"],
    ),
    (
        "epochs",
        &["num-epochs", "max-epochs", "n-epochs", "nepochs", "num-train-epochs", "epoch", "e", "max-epoch"],
    ),
    (
        "embed",
        &["dim", "embedding-dim", "embed-dim", "emb-dim", "embed-size", "embedding-size", "embedding-width"],
    ),
    ("embed", &["proj-dim", "projection-dim", "out-dim", "output-dim", "latent-dim", "hidden-size"]),
    ("weight-decay", &["wd", "decay", "l2"]),
    ("optimizer", &["optim", "optimiser", "opt"]),
    (
        "out",
        &["output", "output-dir", "out-dir", "outdir", "save-dir", "save-path", "save", "run-dir", "exp-dir"],
    ),
    (
        "out",
        &[
            "o",
            "log-dir",
            "logdir",
            "logger-name",
            "checkpoint-dir",
            "model-dir",
            "output-path",
            "output-file",
        ],
    ),
    ("temperature", &["temp", "t", "softmax-temperature", "init-temperature"]),
    ("logit-bias", &["bias", "init-bias", "init-logit-bias"]),
    ("learn-temperature", &["learnable-temperature", "learned-temperature", "learnable-temp"]),
    ("seed", &["random-seed", "rng-seed", "manual-seed", "s"]),
    ("seeds", &["random-seeds", "seed-list", "num-seeds"]),
    (
        "clip",
        &["grad-clip", "clip-grad", "clip-grad-norm", "gradient-clip", "gradient-clip-val", "max-grad-norm"],
    ),
    ("clip", &["grad-clip-norm", "clip-norm", "max-norm"]),
    ("schedule", &["scheduler", "lr-scheduler", "lr-schedule", "lr-scheduler-type"]),
    ("lr-warmup", &["warmup", "warmup-steps", "warmup-ratio", "num-warmup-steps", "lr-warmup-steps"]),
    ("lr-drop", &["milestones", "lr-update", "lr-steps", "decay-epochs", "lr-milestones"]),
    ("dropout", &["drop", "drop-rate", "input-dropout", "dropout-rate"]),
    ("resume", &["continue", "resume-training"]),
    ("memory-bank", &["xbm", "xbm-size", "queue-size", "memory-size", "bank-size"]),
    ("negatives", &["mining", "miner", "negative-mining", "hard-negatives"]),
    ("betas", &["beta-1", "adam-betas", "adam-beta1", "adam-beta2", "beta1", "beta2"]),
    ("epsilon", &["eps", "adam-epsilon", "adam-eps"]),
    ("momentum", &["sgd-momentum"]),
    ("nesterov", &["nesterov-momentum"]),
    ("init", &["init-from", "pretrained", "from-pretrained", "warm-start", "finetune", "start-from"]),
    ("init", &["load-weights", "pretrained-weights", "init-head"]),
    ("recipe", &["preset", "training-recipe"]),
    ("split", &["data-split", "subset", "eval-split"]),
    ("top", &["topk", "top-k"]),
    ("folds", &["fold", "num-folds", "fold5"]),
    ("format", &["output-format", "file-format", "fmt"]),
    ("device", &["accelerator", "backend", "d"]),
    ("standardize", &["standardise", "zscore", "z-score", "normalize-features", "whiten"]),
    ("image-encoder", &["img-encoder", "visual-encoder"]),
    ("text-encoder", &["txt-encoder", "caption-encoder"]),
    ("image-pooling", &["img-pooling", "visual-pooling", "region-pooling"]),
    ("text-pooling", &["txt-pooling", "caption-pooling", "token-pooling"]),
    ("grid", &["param-grid", "search-space", "sweep-grid"]),
    ("config", &["config-file", "cfg", "conf", "c"]),
    ("json", &["as-json", "json-output"]),
    ("quiet", &["silent", "q", "no-progress"]),
    ("k", &["ks", "recall-k", "recall-at", "at-k", "cutoffs"]),
    ("margin", &["m", "triplet-margin"]),
];

/// Names whose advice is not just another name: the option that the command must have (none, if empty), the names, what
/// they are, and what to do.
const ADVICE: &[(&str, &[&str], &str, &str)] = &[
    ("device", &["gpu", "cuda", "use-gpu", "use-cuda", "mps", "metal"], OTHER, "use --device gpu"),
    ("device", &["cpu", "no-cuda", "no-gpu", "cpu-only"], OTHER, "use --device cpu"),
    (
        "",
        &["fp16", "bf16", "amp", "half", "mixed-precision", "precision", "use-amp", "dtype", "tf32"],
        "one that wgoal does not offer, because it computes in f32",
        "leave it out",
    ),
    (
        "",
        &["workers", "num-workers", "j", "jobs", "n-jobs", "dataloader-workers", "prefetch", "pin-memory"],
        "one that wgoal does not need, because it reads batches ahead by itself",
        "leave it out",
    ),
    (
        "",
        &["threads", "num-threads", "cpu-threads", "nthreads"],
        "one that wgoal does not have",
        "leave it out; the environment variable RAYON_NUM_THREADS limits the threads",
    ),
    (
        "",
        &["local-rank", "world-size", "distributed", "ddp", "gpus", "num-gpus", "devices", "n-gpu"],
        "one that wgoal does not have, because it trains on one device",
        "leave it out",
    ),
    (
        "",
        &["compile", "torch-compile", "deterministic", "cudnn-benchmark"],
        "one that wgoal does not need",
        "leave it out",
    ),
    ("objective", &["max-violation"], OTHER, "use --objective hinge, the hinge on the hardest negative"),
];

const OTHER: &str = "a name from another tool";

/// Options of other tools that name the dataset.
const DATASET: [&str; 10] = [
    "data",
    "dataset",
    "data-dir",
    "data-path",
    "data-root",
    "dataset-path",
    "dataset-dir",
    "data-name",
    "features",
    "input",
];

/// Commands, and what other tools call them.
const COMMANDS: &[(&str, &[&str])] = &[
    ("train", &["fit", "training", "run", "finetune", "fine-tune"]),
    ("eval", &["evaluate", "evaluation", "test", "validate", "val", "recall"]),
    ("embed", &["encode", "extract", "predict", "inference", "infer", "export", "project"]),
    ("baseline", &["cca", "ridge", "baselines", "closed-form"]),
    ("sweep", &["grid", "grid-search", "tune", "hpo", "compare-objectives"]),
    ("bench", &["benchmark", "speed", "perf", "profile"]),
    ("devices", &["device", "gpus", "list-devices", "adapters", "gpu"]),
    ("doctor", &["check", "selftest", "self-test", "diagnose", "verify"]),
    ("analyze", &["analyse", "analysis"]),
    ("gradient", &["grad", "gradients", "loss"]),
    ("search", &["query", "retrieve", "find", "lookup"]),
    ("rank", &["ranking", "rankings", "trec"]),
    ("inspect", &["stats", "describe", "summary", "info"]),
    ("split", &["splits", "make-splits", "divide"]),
    ("completions", &["completion", "complete", "shell-completions", "autocomplete"]),
    ("config", &["configuration", "defaults", "init", "show-config"]),
];

/// What an unknown option is, and what to do instead of giving it.
pub struct Suggestion {
    pub found: String,
    pub advice: String,
}

fn is_option(command: &Command, name: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_long() == Some(name))
}

/// A suggestion for an option that `command` does not have. `name` has no dashes in front. `value` is what follows it.
pub fn option(command: &Command, name: &str, value: Option<&str>) -> Option<Suggestion> {
    let name = name.trim_start_matches('-').to_lowercase().replace('_', "-");
    let use_option = |found: &str, option: &str| {
        Some(Suggestion { found: found.into(), advice: format!("use --{option}") })
    };
    if is_option(command, &name) {
        return use_option(&format!("another spelling of --{name}"), &name);
    }
    let listed = OPTIONS.iter().filter(|(_, names)| names.contains(&name.as_str()));
    if let Some((here, _)) = listed.into_iter().find(|(here, _)| is_option(command, here)) {
        return use_option(OTHER, here);
    }
    let special = ADVICE.iter().find(|(needs, names, ..)| {
        names.contains(&name.as_str()) && (needs.is_empty() || is_option(command, needs))
    });
    if let Some((_, _, found, advice)) = special {
        return Some(Suggestion { found: (*found).into(), advice: (*advice).into() });
    }
    let has_dataset = command.get_positionals().any(|arg| arg.get_id() == "dataset");
    if has_dataset && DATASET.contains(&name.as_str()) {
        let value = value.unwrap_or("my-features");
        let name = command.get_bin_name().or(command.get_display_name()).unwrap_or(command.get_name());
        let advice =
            format!("give the path without an option, as in `{name} {}`", super::quoted(value.as_ref()));
        return Some(Suggestion { found: OTHER.into(), advice });
    }
    // A name may be misspelt, and from another tool.
    let own = command.get_arguments().filter_map(|arg| arg.get_long()).map(|long| (long, long));
    let others = OPTIONS.iter().flat_map(|(here, names)| names.iter().map(move |name| (*name, *here)));
    let others = others.filter(|(name, here)| name.len() > 3 && is_option(command, here));
    let near = nearest(&name, own.chain(others).map(|(name, _)| name))?;
    let here = OPTIONS.iter().find(|(_, names)| !is_option(command, near) && names.contains(&near));
    use_option("an unknown option", here.map_or(near, |(here, _)| here))
}

/// The name that is spelled most like `name`, if any is close.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = |known: &str| strsim::normalized_damerau_levenshtein(name, known);
    names.max_by(|a, b| near(a).total_cmp(&near(b))).filter(|known| near(known) > 0.6)
}

/// The command that the arguments name, such as `bench step`.
fn named<'a>(root: &'a Command, arguments: &[OsString]) -> &'a Command {
    let mut command = root;
    for argument in arguments.iter().skip(1) {
        match argument.to_str().and_then(|name| command.find_subcommand(name)) {
            Some(found) => command = found,
            None if command.has_subcommands() => {}
            None => break,
        }
    }
    command
}

/// The message and the usage for an error of clap, if wgoal can say more than clap.
pub fn explain(root: &Command, arguments: &[OsString], error: &clap::Error) -> Option<String> {
    let mut root = root.clone();
    root.build();
    let command = named(&root, arguments);
    let called = command.get_bin_name().unwrap_or("wgoal");
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let line = match error.kind() {
        ErrorKind::UnknownArgument => {
            let found = text(ContextKind::InvalidArg)?;
            let (written, value) = as_written(found, arguments)?;
            let name = written.trim_start_matches('-');
            let Suggestion { found, advice } = option(command, name, value.as_deref())?;
            format!("{}: expected an option of `{called}`, found {found}; {advice}", Plain(&written))
        }
        ErrorKind::InvalidSubcommand => {
            let found = text(ContextKind::InvalidSubcommand)?;
            let name = found.to_lowercase();
            let listed = COMMANDS.iter().find(|(_, names)| names.contains(&name.as_str()));
            let names = || command.get_subcommands().map(|command| command.get_name());
            let here = listed.map(|(here, _)| *here).filter(|here| names().any(|name| name == *here));
            let here = here.or_else(|| nearest(&name, names()))?;
            format!(
                "{}: expected a command of `{called}`, found another name; use `{called} {here}`",
                Plain(found)
            )
        }
        // An option with a list of values.
        ErrorKind::InvalidValue => {
            let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue) else { return None };
            let (argument, found) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
            let argument =
                argument.split([' ', '[']).find(|part| !part.is_empty())?.trim_matches(['<', '>', ']']);
            if valid.is_empty() || found.is_empty() {
                return None;
            }
            let suggested = match error.get(ContextKind::SuggestedValue) {
                Some(ContextValue::String(suggested)) => Some(suggested.clone()),
                _ => nearest(&found.to_lowercase(), valid.iter().map(String::as_str)).map(String::from),
            };
            let advice = match suggested {
                Some(suggested) if argument.starts_with('-') => format!("use {argument} {suggested}"),
                Some(suggested) => format!("use {suggested}"),
                None => "use one of them".into(),
            };
            let valid = valid.join(", ");
            format!("{argument}: expected one of {valid}, found '{}'; {advice}", Plain(found))
        }
        _ => return None,
    };
    let usage = command.clone().render_usage();
    Some(format!("{line}\n\n{usage}\n\nFor more information, try '--help'."))
}

/// The option as the user wrote it, where clap names one letter of `-lr` only, and what follows it.
fn as_written(found: &str, arguments: &[OsString]) -> Option<(String, Option<String>)> {
    if !found.starts_with('-') {
        return None;
    }
    let names = |argument: &str| match found.strip_prefix("--") {
        Some(_) => argument.split('=').next() == Some(found),
        None => !argument.starts_with("--") && argument.starts_with(found),
    };
    let mut arguments = arguments.iter().skip(1).map(|argument| argument.to_string_lossy());
    let written = arguments.find(|argument| names(argument))?.into_owned();
    let next = arguments.next().filter(|next| !next.starts_with('-')).map(String::from);
    match written.split_once('=') {
        Some((name, value)) => Some((name.into(), Some(value.into()))),
        None => Some((written, next)),
    }
}
