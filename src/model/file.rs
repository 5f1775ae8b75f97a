//! A head as a safetensors file: its parameters by name, and its configuration as JSON in the metadata.
//!
//! Checkpoints of runs are such files with more tensors and metadata.

use super::checksum::{CHECKSUM, DIGITS, checksum, digits};
use super::ensemble::{MAX_MEMBERS, prefix as member};
use super::segment::Segment;
use super::{Head, HeadConfig, Layout, Standardizer};
#[cfg(feature = "native")]
use crate::io::{Streams, read_safetensors, write_whole};
use crate::{Error, Result};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

/// Version of the file's layout. Files of [`WITHOUT_CHECKSUM`] are read too.
pub(crate) const FORMAT: u32 = 2;

/// The layout before files had a checksum.
const WITHOUT_CHECKSUM: u32 = 1;

/// The advice for a file that holds no head.
const ADVICE: &str = "give a best.safetensors or last.safetensors that wgoal wrote";

/// The metadata of a head. The metadata of a run contain the same fields and more.
#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
    config: HeadConfig,
    dims: [usize; 2],
}

/// The name, shape and values of each tensor.
pub(crate) type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

impl Head {
    /// Writes the head to a temporary file, syncs it and renames it into place. If `path` is a link, the link stays and
    /// the file that it points to is replaced.
    ///
    /// # Errors
    /// Any failure to write, also if `path` is a pipe or a device. An older file then stays as it is.
    #[cfg(feature = "native")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path.as_ref(), &self.to_bytes()?)
    }

    /// The bytes of the file that [`Head::save`] writes.
    ///
    /// # Errors
    /// None that is expected.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let description = Description { format: FORMAT, config: self.config(), dims: self.layout.dims };
        let mut tensors = self.tensors("");
        tensors.extend(self.standardizers());
        encode(&tensors, &Vec::new(), &description)
    }

    /// Reads the head of a file that [`Head::save`] wrote, or of a checkpoint.
    ///
    /// # Errors
    /// A missing, damaged or foreign file; the message says what is wrong with it.
    #[cfg(feature = "native")]
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let bytes = read_bytes(path.as_ref())?;
        let file = HeadFile::open(path.as_ref(), &bytes)?;
        file.own_head()
    }

    /// The options of the head.
    pub fn config(&self) -> HeadConfig {
        HeadConfig { ensemble: self.each().count(), ..self.layout.config(self.standardize.is_some()) }
    }

    /// The parameters. `prefix` is put in front of each name.
    pub(crate) fn tensors(&self, prefix: &str) -> Tensors {
        let mut tensors = self.layout.tensors(&self.values, prefix, |_| true);
        for (k, other) in (2..).zip(&self.others) {
            tensors.extend(other.tensors(&(prefix.to_string() + &member(k))));
        }
        tensors
    }

    /// The same of `values` that are arranged like the parameters, without what never changes.
    pub(crate) fn changing_tensors(&self, values: &[f32], prefix: &str) -> Tensors {
        self.layout.tensors(values, prefix, |segment| !segment.is_fixed())
    }

    /// The standardisation of both sides, if there is one.
    pub(crate) fn standardizers(&self) -> Tensors {
        let mut tensors = Vec::new();
        for (name, standardizer) in ["image", "text"].iter().zip(self.standardize.iter().flatten()) {
            let Standardizer { mean, inverse_std } = standardizer;
            tensors.push((format!("{name}.mean"), vec![mean.len()], mean.clone()));
            tensors.push((format!("{name}.inverse_std"), vec![inverse_std.len()], inverse_std.clone()));
        }
        tensors
    }
}

impl Layout {
    fn tensors(&self, values: &[f32], prefix: &str, wanted: impl Fn(&Segment) -> bool) -> Tensors {
        let absent = |values: &[f32]| values.iter().all(|&x| x == 0.0);
        let wanted = |s: &Segment| wanted(s) && (!s.may_be_absent() || !absent(&s.get(values)));
        let tensor = |s: Segment| (format!("{prefix}{}", s.name), s.shape(), s.get(values));
        self.segments().into_iter().filter(wanted).map(tensor).collect()
    }
}

/// Writes the bytes of a head as a file that appears whole or not at all.
#[cfg(feature = "native")]
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, Streams::Refused, |out| out.write_all(bytes))
}

/// The bytes of a file with tensors, with `halves` as F16, and with `metadata` as JSON.
pub(crate) fn encode(tensors: &Tensors, halves: &Tensors, metadata: &impl Serialize) -> Result<Vec<u8>> {
    let unwritable = |e: &dyn Display| {
        Error::checkpoint("checkpoint", "one that can be written", e, "report this as a bug")
    };
    let metadata = serde_json::to_string(metadata).map_err(|e| unwritable(&e))?;
    let fields = metadata.strip_prefix('{').ok_or_else(|| unwritable(&"metadata without fields"))?;
    let metadata = format!("{CHECKSUM}{}\",{fields}", "0".repeat(DIGITS));
    let mut views = Vec::new();
    for (name, shape, values) in tensors {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values));
        views.push((name, view.map_err(|e| unwritable(&e))?));
    }
    let round = |values: &[f32]| values.iter().map(|&x| f16::from_f32(x).to_bits()).collect::<Vec<_>>();
    let rounded: Vec<Vec<u16>> = halves.iter().map(|(_, _, values)| round(values)).collect();
    for ((name, shape, _), values) in halves.iter().zip(&rounded) {
        let view = TensorView::new(Dtype::F16, shape.clone(), bytemuck::cast_slice(values));
        views.push((name, view.map_err(|e| unwritable(&e))?));
    }
    // Use only one key, because the order of several keys would change from run to run.
    let metadata = HashMap::from([("wgoal".to_string(), metadata)]);
    let mut bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| unwritable(&e))?;
    let digits = digits(&bytes).ok_or_else(|| unwritable(&"no place for the checksum"))?;
    let checksum = checksum(&bytes, digits.clone());
    bytes[digits].copy_from_slice(checksum.as_bytes());
    Ok(bytes)
}

const WHOLE: &str = "a whole safetensors file";

/// The bytes of a file that holds a head.
///
/// # Errors
/// A file that cannot be read.
#[cfg(feature = "native")]
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    read_safetensors(path)
        .map_err(|obstacle| obstacle.error(crate::ErrorKind::Checkpoint, path.display(), WHOLE, ADVICE))
}

/// An open file that holds a head.
pub(crate) struct HeadFile<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    metadata: String,
    /// Whether the file has a checksum. It is then right.
    checked: bool,
}

impl<'a> HeadFile<'a> {
    pub fn open(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let fault =
            |expected: &str, found: &dyn Display| Error::checkpoint(path.display(), expected, found, ADVICE);
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| fault(WHOLE, &e))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| fault(WHOLE, &e))?;
        let metadata = metadata.metadata().as_ref().and_then(|metadata| metadata.get("wgoal"));
        let metadata = metadata.ok_or_else(|| fault("metadata `wgoal`", &"none"))?.clone();
        let mut checked = false;
        if let Some(rest) = metadata.strip_prefix(CHECKSUM) {
            let written = rest.get(..DIGITS).unwrap_or(rest);
            let found = digits(bytes).map(|digits| checksum(bytes, digits));
            if found.as_deref() != Some(written) {
                let found =
                    found.map_or_else(|| "no place for it".into(), |found| format!("{found}: damaged"));
                let advice = "copy the file again, or train again";
                return Err(Error::checkpoint(path.display(), format!("checksum {written}"), found, advice));
            }
            checked = true;
        }
        Ok(Self { path, tensors, metadata, checked })
    }

    /// Whether the file has a checksum. Files of older versions have none.
    pub fn has_checksum(&self) -> bool {
        self.checked
    }

    /// An error about this file.
    pub fn fault(&self, expected: impl Display, found: impl Display) -> Error {
        Error::checkpoint(self.path.display(), expected, found, ADVICE)
    }

    /// Parses the metadata.
    pub fn metadata<T: for<'de> Deserialize<'de>>(&self) -> Result<T> {
        let format: serde_json::Value =
            serde_json::from_str(&self.metadata).map_err(|e| self.fault("metadata in JSON", e))?;
        let expected = if self.checked { FORMAT } else { WITHOUT_CHECKSUM };
        if format["format"] != expected {
            let checksum = if self.checked { "a checksum" } else { "no checksum" };
            let found = format!("format {} with {checksum}", format["format"]);
            return Err(self.fault(format!("format {FORMAT} with a checksum"), found));
        }
        serde_json::from_str(&self.metadata).map_err(|e| self.fault("metadata of a run", e))
    }

    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.tensor(name).ok().map(|tensor| tensor.shape().to_vec())
    }

    /// The layout of a head with these widths and options. Widths that no head can have are an error. `prefix` is before
    /// the names of its tensors.
    pub fn layout(&self, dims: [usize; 2], config: &HeadConfig, prefix: &str) -> Result<Layout> {
        let mut layout = Layout::of(dims, config);
        if config.landmarks > 0 {
            let count = |side: &str| {
                let name = format!("{prefix}{side}.landmarks.shift");
                let tensor = self.tensors.tensor(&name);
                let count = tensor.ok().and_then(|tensor| tensor.shape().first().copied());
                let count = count.filter(|&count| count > 0);
                count.ok_or_else(|| self.fault(format!("tensor {name} of 1 number or more"), "none"))
            };
            layout.landmarks.counts = [count("image")?, count("text")?];
        }
        if dims.contains(&0) || layout.largest() >= 1 << 31 || config.embed == 0 {
            return Err(self.fault("widths of a head", format!("{dims:?} to {}", config.embed)));
        }
        Ok(layout)
    }

    /// The values of a tensor of this shape.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensors.tensor(name).map_err(|_| self.fault(format!("tensor {name}"), "none"))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(self.fault(format!("tensor {name} of F32 {shape:?}"), found));
        }
        let values = bytemuck::pod_collect_to_vec::<u8, f32>(tensor.data());
        match values.iter().position(|x| !x.is_finite()) {
            None => Ok(values),
            Some(at) => {
                let found = format!("{} at {at}", values[at]);
                Err(self.fault(format!("finite numbers in tensor {name}"), found))
            }
        }
    }

    /// The rows of an F16 tensor of this width: 1 or more.
    pub fn rows(&self, name: &str, width: usize) -> Result<Vec<f32>> {
        let tensor = self.tensors.tensor(name).map_err(|_| self.fault(format!("tensor {name}"), "none"))?;
        let fits = matches!(*tensor.shape(), [rows, found] if rows > 0 && found == width);
        if tensor.dtype() != Dtype::F16 || !fits {
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(self.fault(format!("tensor {name} of F16 [rows, {width}]"), found));
        }
        let values = bytemuck::pod_collect_to_vec::<u8, u16>(tensor.data());
        Ok(values.into_iter().map(|bits| f16::from_bits(bits).to_f32()).collect())
    }

    /// Reads the tensors whose names begin with `prefix`, and arranges them like the parameters of a head. Takes what
    /// never changes from `fixed`, which is arranged like that; without it, all tensors are expected.
    pub fn values(&self, layout: &Layout, prefix: &str, fixed: Option<&[f32]>) -> Result<Vec<f32>> {
        // A file may claim any widths. Its tensors must have them before as much memory is allocated.
        for segment in layout.segments() {
            let name = format!("{prefix}{}", segment.name);
            let needed = !segment.is_fixed() || fixed.is_none();
            if needed && !segment.may_be_absent() && self.shape(&name) != Some(segment.shape()) {
                self.read(&name, &segment.shape())?;
            }
        }
        let mut values = vec![0.0; layout.len()];
        for segment in layout.segments() {
            let name = format!("{prefix}{}", segment.name);
            if segment.may_be_absent() && !self.has(&name) {
                continue;
            }
            if segment.is_fixed()
                && let Some(fixed) = fixed
            {
                values[segment.range.clone()].copy_from_slice(&fixed[segment.range]);
                continue;
            }
            let found = self.read(&name, &segment.shape())?;
            segment.set(&mut values, &found)?;
        }
        Ok(values)
    }

    /// Reads the head, with the options that the metadata have.
    pub fn own_head(&self) -> Result<Head> {
        let Description { config, dims, .. } = self.metadata()?;
        self.head(dims, &config)
    }

    /// Reads the head, with all its members.
    pub fn head(&self, dims: [usize; 2], config: &HeadConfig) -> Result<Head> {
        if !(1..=MAX_MEMBERS).contains(&config.ensemble) {
            return Err(self.fault(format!("an ensemble of 1 to {MAX_MEMBERS}"), config.ensemble));
        }
        let mut head = self.one(dims, config, "")?;
        for number in 2..=config.ensemble {
            let other = self.one(dims, config, &member(number))?;
            head.others.push(Head { standardize: head.standardize.clone(), ..other });
        }
        Ok(head)
    }

    /// Reads one member, whose tensors have these words before their names. The first one brings the standardisation.
    fn one(&self, dims: [usize; 2], config: &HeadConfig, prefix: &str) -> Result<Head> {
        let layout = self.layout(dims, config, prefix)?;
        let values = self.values(&layout, prefix, None)?;
        let mut head = Head { layout, values, standardize: None, others: Vec::new() };
        if !prefix.is_empty() {
            return Ok(head);
        }
        if config.standardize {
            let side = |name: &str, dim: usize| -> Result<Standardizer> {
                let (mean, inverse_std) = (format!("{name}.mean"), format!("{name}.inverse_std"));
                let mean = self.read(&mean, &[dim])?;
                Ok(Standardizer { mean, inverse_std: self.read(&inverse_std, &[dim])? })
            };
            head.standardize = Some([side("image", layout.dims[0])?, side("text", layout.dims[1])?]);
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EncoderKind, Pooling, SignedRoot};

    #[test]
    fn a_head_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.safetensors");
        let config = HeadConfig::default().with(|c| {
            c.embed = 6;
            c.text_pooling = Pooling::Gpo;
            c.image_encoder = EncoderKind::ResidualMlp;
            c.text_encoder = EncoderKind::GatedMlp;
            c.gated_width = 3;
            c.signed_root = SignedRoot::Images;
            c.random_features = 7;
        });
        let mut head = Head::for_config(5, 3, &config, 7).unwrap();
        head.save(&path).unwrap();
        assert_eq!(Head::load(&path).unwrap(), head);
        assert_eq!(head.config(), config);
        let side = |dim| Standardizer { mean: vec![0.5; dim], inverse_std: vec![2.0; dim] };
        head.standardize = Some([side(5), side(3)]);
        head.save(&path).unwrap();
        assert_eq!(Head::load(&path).unwrap(), head);
        let other =
            Head { standardize: head.standardize.clone(), ..Head::for_config(5, 3, &config, 8).unwrap() };
        let ensemble = Head::ensemble(vec![head, other]).unwrap();
        ensemble.save(&path).unwrap();
        assert_eq!(Head::load(&path).unwrap(), ensemble);
        assert_eq!((ensemble.config().ensemble, ensemble.dim()), (2, 12));
        std::fs::write(&path, "text").unwrap();
        let error = Head::load(&path).unwrap_err().to_string();
        assert!(error.contains("expected a whole safetensors file"), "{error}");
    }
    #[test]
    fn every_flipped_bit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.safetensors");
        Head::for_config(3, 2, &HeadConfig::default().with(|c| c.embed = 2), 7).unwrap().save(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let open = |bytes: &[u8]| {
            HeadFile::open(&path, bytes).and_then(|file| file.own_head()).map_err(|error| error.to_string())
        };
        assert!(open(&bytes).is_ok());
        for at in 0..8 * bytes.len() {
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(open(&bytes).is_err(), "bit {at}");
            bytes[at / 8] ^= 1 << (at % 8);
        }
    }
}
