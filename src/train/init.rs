//! What a run starts from: random weights, a closed form, or the head in a file.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::{Path, PathBuf};

/// What the weights of the head are before training.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Init {
    /// Random (Glorot and Bengio, 2010), as in VSE++.
    #[default]
    Xavier,
    /// Canonical correlation analysis of the training pairs; see [`crate::train::Baseline`]. Linear heads only.
    Cca,
    /// Kernel CCA of the training pairs, with random features ([`crate::train::TrainConfig::random_features`]); see
    /// [`crate::train::ClosedForm::KernelCca`]. Linear heads only.
    #[serde(rename = "kcca")]
    KernelCca,
    /// The head in a file; see `WarmStart`.
    File(InitFile),
}

impl Init {
    /// Whether it is a closed form, which is fitted when the run starts.
    pub fn is_closed_form(&self) -> bool {
        matches!(self, Self::Cca | Self::KernelCca)
    }
}

/// A file that a run starts from: its path, and a hash of its bytes. Two of them are equal if their hashes are. A run
/// reads the file only when it starts, so a resumed run does not need it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InitFile {
    /// Where the file was when the run started.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub path: PathBuf,
    /// FNV-1a of its bytes, as 16 hexadecimal digits.
    pub hash: String,
}

impl PartialEq for InitFile {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for InitFile {}

impl std::hash::Hash for InitFile {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

fn as_text<S: Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    path.to_string_lossy().serialize(to)
}

fn from_text<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<PathBuf, D::Error> {
    String::deserialize(from).map(PathBuf::from)
}
