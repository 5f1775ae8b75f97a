//! Datasets of cached image and text features, and the training batches made of them.
//!
//! Owns opening a dataset, every check of its files, its splits and its captions. It computes no features,
//! trains nothing, and reads the values of features only when a row is asked for.

mod array;
mod arrays;
mod assign;
mod batch;
#[cfg(feature = "native")]
mod columns;
mod content;
#[cfg(feature = "native")]
mod content_cache;
mod dataset;
#[cfg(feature = "native")]
mod disk;
mod divide;
#[cfg(feature = "native")]
mod embeddings;
mod features;
mod file;
mod files;
mod fingerprint;
#[cfg(feature = "native")]
mod folder;
#[cfg(feature = "native")]
mod foreign;
mod hash;
mod header;
#[cfg_attr(not(feature = "native"), path = "held_in_memory.rs")]
mod held;
#[cfg(feature = "native")]
mod inspect;
mod lines;
mod local;
#[cfg(feature = "native")]
mod look;
#[cfg(feature = "native")]
mod manifest;
mod npy;
#[cfg(feature = "native")]
mod npz;
mod numbers;
#[cfg(not(feature = "native"))]
mod one_by_one;
mod open;
mod order;
#[cfg(feature = "native")]
mod parts;
#[cfg(feature = "native")]
mod pool;
mod positioned;
mod preprocess;
mod relation;
mod sample;
#[cfg(feature = "native")]
mod scan;
#[cfg(feature = "native")]
mod shards;
mod splits;
mod statistics;
#[cfg(feature = "native")]
mod summary;
#[cfg(feature = "native")]
mod suspicions;
#[cfg(feature = "parquet")]
mod tables;
mod tensors;
#[cfg(feature = "native")]
mod whole;
#[cfg(feature = "native")]
mod worker;

pub use crate::gradient::Relation;
pub use crate::io::{RowIter, RowList};
#[cfg(feature = "native")]
pub use crate::io::{
    Values, write_file, write_ids_npy, write_matrix_fbin, write_matrix_fvecs, write_matrix_npy, write_tensors,
};
pub use crate::model::{Side, Standardizer};
pub use crate::objective::EqualCaptions;
pub use arrays::Arrays;
pub use batch::{Batch, Batches, steps_per_epoch};
pub(crate) use batch::{Epoch as BatchesOf, rows_of_steps};
pub use dataset::Dataset;
pub use divide::Division;
#[cfg(feature = "native")]
pub use embeddings::Embeddings;
#[cfg(feature = "native")]
pub(crate) use embeddings::make_unit;
#[cfg(feature = "native")]
pub(crate) use fingerprint::{FNV_OFFSET, fnv};
#[cfg(feature = "native")]
pub use inspect::{ArrayInspection, Found, Inspection, SharedRows};
#[cfg(feature = "native")]
pub use numbers::{read_ids_npy, read_positions_npy};
#[cfg(feature = "native")]
pub(crate) use order::bytes as order_bytes;
pub(crate) use order::check as check_order;
pub use order::{block_order, pair_order};
pub(crate) use preprocess::ReadAhead;
pub use preprocess::{Preprocess, row_stride};
pub use splits::{Split, SplitRows};
#[cfg(feature = "native")]
pub use summary::{SideSummary, SplitSummary, Spread, Summary};
#[cfg(feature = "native")]
pub use suspicions::Suspicion;
#[cfg(feature = "native")]
pub use whole::{read_matrix_npy, read_rows_npy};
#[cfg(feature = "native")]
pub use worker::read_batches_alone;
