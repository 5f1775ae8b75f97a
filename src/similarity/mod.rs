//! Similarities of embeddings without a gradient: strips, the best candidates, sampled negatives.

mod sampled;
mod strips;
#[cfg(feature = "native")]
mod top_k;

#[cfg(feature = "native")]
pub use sampled::hard_negatives;
pub use sampled::{HardNegatives, NegativeOptions, hard_negatives_async};
pub(crate) use strips::Strips;
#[cfg(feature = "native")]
pub use top_k::TopK;
