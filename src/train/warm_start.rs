//! Warm start: a run that starts from the head in a file.

use super::TrainConfig;
use super::init::{Init, InitFile};
use crate::data::{Dataset, FNV_OFFSET, fnv};
use crate::device::Device;
use crate::model::{EncoderKind, Head, HeadConfig, HeadFile, Side, StateDict, read_bytes};
use crate::{Error, Result};
use safetensors::tensor::SafeTensors;
use std::fmt;
use std::path::Path;

/// A head that a run starts from, with the file that it comes from.
///
/// ```
/// use wgoal::{Dataset, Device, Head, TrainConfig, Trainer};
/// use wgoal::train::WarmStart;
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("head.safetensors");
/// let (device, data) = (Device::cpu(), Dataset::open("data/clipart-mini")?);
/// Head::for_dataset(&data, &TrainConfig::default().with(|c| c.embed = 8).head(), 3)?.save(&path)?;
/// let config = TrainConfig::default().with(|c| c.epochs = 1).starting_from(&WarmStart::read(&path)?);
/// assert_eq!(config.embed, 8);
/// let trainer = Trainer::new(&device, data, config)?;
/// # Ok::<(), wgoal::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WarmStart {
    /// Path and hash, for [`Init::File`].
    pub file: InitFile,
    /// The head.
    pub head: Head,
    /// Whether wgoal wrote the file. Then the head brings its poolings, its encoder and its standardisation with it.
    pub is_own: bool,
    /// Names of the tensors that the head does not use.
    pub unused: Vec<String>,
}

impl WarmStart {
    /// Reads a head that wgoal wrote (of a run, a baseline, or [`Head::save`]), or a PyTorch state dict of two linear
    /// layers saved as safetensors.
    ///
    /// In a state dict, the layer of a side is SIDE`.weight` or SIDE`.`LAYER`.weight` (also with `_` for the first `.`) of
    /// shape `[D, width]`, with an optional `.bias [D]`. SIDE is `image`, `img`, `visual`, `vision`, `image_encoder` or
    /// `img_enc`; for texts `text`, `txt`, `caption`, `text_encoder` or `txt_enc`. LAYER is `fc`, `linear`, `proj`,
    /// `projection` or `head`. The parameters `visual.proj` and `text_projection` of CLIP are `[width, D]`. Names may start
    /// with `module.` or `model.`.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another kind. The message lists the tensors that were found.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_bytes(path).map_err(|error| about_pickles(path, error))?;
        let file =
            InitFile { path: path.into(), hash: format!("{:016x}", fnv(FNV_OFFSET, bytes.iter().copied())) };
        let whole = |e: safetensors::SafeTensorError| {
            Error::checkpoint(path.display(), "a whole safetensors file", e, "save the file again")
        };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(whole)?;
        if metadata.metadata().as_ref().is_some_and(|metadata| metadata.contains_key("wgoal")) {
            let head = HeadFile::open(path, &bytes)?.own_head()?;
            return Ok(Self { file, head, is_own: true, unused: Vec::new() });
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(whole)?;
        let (head, unused) = StateDict::new(path, &tensors).head()?;
        Ok(Self { file, head, is_own: false, unused })
    }
}

/// A file that `torch.save` wrote is an archive or a pickle. Says how to convert it.
fn about_pickles(path: &Path, error: Error) -> Error {
    let start = crate::io::read_start(path, 2).unwrap_or_default();
    if start != *b"PK" && start.first() != Some(&0x80) {
        return error;
    }
    let name = path.display();
    let advice = format!(
        "it looks like a file of torch.save: convert it with safetensors.torch.save_file(torch.load('{name}', \
         map_location='cpu'), '{}')",
        path.with_extension("safetensors").display()
    );
    error.with_advice(advice)
}

impl TrainConfig {
    /// The same configuration for a run that starts from a head: with [`Init::File`], and with the options of the head
    /// ([`TrainConfig::head`]).
    ///
    /// Change an option of the input afterwards only if the file is a state dict, because such a file does not say how
    /// its features were made.
    #[must_use]
    pub fn starting_from(self, start: &WarmStart) -> Self {
        let head = start.head.config();
        Self {
            init: Init::File(start.file.clone()),
            embed: head.embed,
            image_pooling: head.image_pooling,
            text_pooling: head.text_pooling,
            image_encoder: head.image_encoder,
            text_encoder: head.text_encoder,
            gated_width: head.gated_width,
            signed_root: head.signed_root,
            standardize: head.standardize,
            random_features: head.random_features,
            landmarks: head.landmarks,
            ..self
        }
    }
}

impl InitFile {
    /// The head in this file, for a run of `config`.
    ///
    /// # Errors
    /// Those of [`WarmStart::read`]; a file that has changed; options or features of another head.
    pub(crate) fn head(&self, device: &Device, dataset: &Dataset, config: &TrainConfig) -> Result<Head> {
        let start = self.fitting(dataset, config)?;
        if start.is_own {
            return match start.head.config() == config.head() {
                true => Ok(start.head),
                false => start.head.extended(&config.head(), config.seed),
            };
        }
        let mut head = Head::for_dataset_on(device, dataset, &config.head(), (config.seed, config.slices))?;
        for side in [Side::Image, Side::Text] {
            let (weight, bias) = start.head.side(side);
            head.set_side(side, &weight, &bias)?;
            head.silence_mlp(side);
        }
        Ok(head)
    }

    /// Reads the file, and checks that a run of `config` can start from it.
    ///
    /// # Errors
    /// Those of [`InitFile::head`].
    pub(crate) fn fitting(&self, dataset: &Dataset, config: &TrainConfig) -> Result<WarmStart> {
        let start = WarmStart::read(&self.path)?;
        let fault = |expected: &dyn fmt::Display, found: &dyn fmt::Display, advice: &str| {
            Error::config(format!("--init {}", self.path.display()), expected, found, advice)
        };
        if start.file != *self {
            let [expected, found] =
                [self, &start.file].map(|file| format!("a file with the hash {}", file.hash));
            return Err(fault(&expected, &found, "restore the file, or give --init again"));
        }
        let (own, given) = (start.head.config(), config.head());
        if own.ensemble > 1 {
            let advice = "give the head of one of its members, in the folder members of its run";
            return Err(fault(&"one head", &format!("an ensemble of {}", own.ensemble), advice));
        }
        // A perceptron that the head lacks can be added to it.
        let extended = |own, given| if own == EncoderKind::Linear { given } else { own };
        let largest = HeadConfig {
            image_encoder: extended(own.image_encoder, given.image_encoder),
            text_encoder: extended(own.text_encoder, given.text_encoder),
            gated_width: if own.encoders().contains(&EncoderKind::GatedMlp) {
                own.gated_width
            } else {
                given.gated_width
            },
            ..own.clone()
        };
        if start.is_own && largest != given {
            let (expected, found) = differences(&own, &given);
            let advice = "leave the option out, or start from another head";
            return Err(fault(&expected, &found, advice));
        }
        if own.embed != given.embed {
            let advice = "leave --embed out, or start from another file";
            let [expected, found] = [own.embed, given.embed].map(|width| format!("--embed {width}"));
            return Err(fault(&expected, &found, advice));
        }
        if !start.is_own && !config.extends_linear() {
            let advice = "use poolings other than gpo";
            return Err(fault(&"poolings without learned weights", &"pooling gpo", advice));
        }
        let pooling = if start.is_own { own.pooling() } else { config.pooling() };
        let sides = [Side::Image, Side::Text].into_iter().zip(pooling);
        let widths = sides.map(|(side, pooling)| dataset.width(side, pooling)).collect::<Result<Vec<_>>>()?;
        let [p, q] = [Side::Image, Side::Text].map(|side| start.head.feature_dim(side));
        if widths != [p, q] {
            return Err(fault(
                &format!("features of its widths, {p} for images and {q} for texts"),
                &format!("{} and {}", widths[0], widths[1]),
                "give the features of the encoders that the head was trained on, or change the poolings",
            ));
        }
        Ok(start)
    }
}

/// The options that differ, as `--embed 8`.
fn differences(own: &HeadConfig, given: &HeadConfig) -> (String, String) {
    let options = |config: &HeadConfig| match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(options)) => options,
        _ => Default::default(),
    };
    let (own, given) = (options(own), options(given));
    let shown = |name: &str, value: &serde_json::Value| {
        let value = match value {
            serde_json::Value::Bool(on) => if *on { "on" } else { "off" }.to_string(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        format!("--{} {value}", name.replace('_', "-"))
    };
    let differ = own.iter().filter(|(name, value)| given.get(*name) != Some(*value));
    let pairs = differ.map(|(name, value)| (shown(name, value), shown(name, &given[name])));
    let (own, given): (Vec<_>, Vec<_>) = pairs.unzip();
    (own.join(", "), given.join(", "))
}
