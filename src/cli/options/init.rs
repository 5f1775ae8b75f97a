//! `--init`: what a run starts from.

use crate::cli::data::checkpoint_path;
use crate::cli::run_folder::BEST;
use crate::cli::shown;
use std::path::Path;
use wgoal::train::{Init, LANDMARKS, WarmStart};
use wgoal::{Error, ErrorKind, Plain, Result, TrainConfig};

/// `base` with the start that is given. A head in a file brings its options with it, which the others may change.
pub fn starting(given: Option<&Path>, base: TrainConfig) -> Result<TrainConfig> {
    let Some(given) = given else { return Ok(base) };
    let init = match given.to_str() {
        Some("xavier") => Init::Xavier,
        Some("cca") => Init::Cca,
        Some("kcca") => Init::KernelCca,
        _ => {
            // A run reads the file only when it starts.
            if matches!(&base.init, Init::File(file) if file.path == given || file.path == given.join(BEST)) {
                return Ok(base);
            }
            return Ok(base.starting_from(&warm_start(given)?));
        }
    };
    Ok(base.with(|config| {
        if init == Init::KernelCca && config.random_features == 0 && config.landmarks == 0 {
            config.landmarks = LANDMARKS;
        }
        config.init = init;
    }))
}

/// The head in the file of --init.
fn warm_start(given: &Path) -> Result<WarmStart> {
    if given.exists() {
        return WarmStart::read(checkpoint_path(given)?);
    }
    let nearest = ["xavier", "cca", "kcca"]
        .into_iter()
        .find(|name| strsim::damerau_levenshtein(name, &given.to_string_lossy().to_lowercase()) <= 2);
    let advice = match nearest {
        Some(name) => format!("use --init {name}"),
        None => "check the path, or use --init xavier".into(),
    };
    let expected = "xavier, cca, kcca, or a safetensors file with a head";
    Err(Error::new(
        ErrorKind::Config,
        "--init",
        expected,
        format!("{}, no such file", given.display()),
        advice,
    ))
}

/// Notes what a state dict holds besides the two layers that runs start from.
pub fn note_init(configs: &[&TrainConfig]) {
    let mut noted = Vec::new();
    for config in configs {
        let Init::File(file) = &config.init else { continue };
        if noted.contains(&&file.path) {
            continue;
        }
        noted.push(&file.path);
        let Ok(WarmStart { unused, .. }) = WarmStart::read(&file.path) else { continue };
        if !unused.is_empty() {
            let (count, names) = (unused.len(), unused.join(", "));
            note!("note: {}: {count} other tensors are not used: {}", shown(&file.path), Plain(names));
        }
    }
}
