//! The gradient of an objective at a batch of embeddings.
//!
//! `Workspace::gradient` is the list of dispatches that training uses. [`crate::Objective::gradients`] computes the
//! gradient for callers with their own encoder. `Field` is the same gradient in f64 on the CPU, for checks and
//! analysis.

mod bank;
mod captions;
mod checks;
mod compose;
mod embeddings;
mod field;
mod mining;
mod numbers;
mod relation;
mod several;
mod shard;
mod shared_bank;
mod structure;
mod terms;
mod values;
mod workspace;

pub(crate) use bank::Bank;
pub(crate) use checks::check_embeddings;
#[cfg(feature = "native")]
pub(crate) use checks::check_rows;
pub use embeddings::GradientContext;
pub(crate) use field::Field;
pub use numbers::numbers;
pub(crate) use relation::LeftOut;
pub use relation::Relation;
pub(crate) use shard::{SHARES_BANK, Shard};
pub(crate) use structure::Structure;
pub(crate) use terms::weight_params;
pub use values::{GradientOptions, GradientValue, Gradients, Rows};
pub(crate) use workspace::{Inputs, Workspace, check_pairs};
