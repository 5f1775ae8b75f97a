//! What a head is worth: embeddings of a dataset, recall and other measures, two-stage retrieval.

#[cfg(feature = "native")]
mod bandwidth;
mod correction;
#[cfg(feature = "native")]
mod embed;
#[cfg(feature = "native")]
mod hubness;
#[cfg(feature = "native")]
mod landmarks;
mod measures;
mod ranks;
#[cfg(feature = "native")]
mod raw;
mod recall;
#[cfg(feature = "native")]
mod rerank;
mod truth;

#[cfg(feature = "native")]
pub(crate) use bandwidth::sample_mean;
pub use correction::Correction;
#[cfg(feature = "native")]
pub use hubness::{BANK, Fitted, Hubness, HubnessCorrection};
#[cfg(feature = "native")]
pub(crate) use landmarks::LandmarkItems;
pub use measures::{Evaluation, Measures};
pub use ranks::Ranks;
pub use recall::{Ranking, Recall};
#[cfg(feature = "native")]
pub use rerank::Candidates;
pub use truth::Truth;
