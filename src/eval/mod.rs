//! What a head is worth: embeddings of a dataset, recall and other measures, two-stage retrieval.

mod bandwidth;
mod correction;
mod embed;
mod hubness;
mod landmarks;
mod measures;
mod ranks;
mod raw;
mod recall;
#[cfg(feature = "native")]
mod rerank;
mod truth;

#[cfg(feature = "native")]
pub(crate) use bandwidth::sample_mean;
pub use correction::Correction;
#[cfg(feature = "native")]
pub use hubness::{BANK, Fitted};
pub use hubness::{Hubness, HubnessCorrection};
pub(crate) use landmarks::LandmarkItems;
pub use measures::{Evaluation, Measures};
pub use ranks::Ranks;
pub use recall::{Ranking, Recall};
#[cfg(feature = "native")]
pub use rerank::Candidates;
pub use truth::Truth;
