//! What a head is worth: embeddings of a dataset, recall, two-stage retrieval.

#[cfg(feature = "native")]
mod embed;
mod recall;
#[cfg(feature = "native")]
mod rerank;

pub use recall::{Ranking, Recall};
#[cfg(feature = "native")]
pub use rerank::Candidates;
