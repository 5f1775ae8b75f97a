//! Files. Only regular files are read. A written file appears whole or not at all.
//!
//! In a browser there are no files. There, only the words of messages are left.

mod allocator;
#[cfg(feature = "native")]
mod cache;
#[cfg(feature = "parquet")]
mod columns;
#[cfg(feature = "native")]
mod kind;
#[cfg(feature = "native")]
mod matrix;
#[cfg(feature = "native")]
mod nearest;
#[cfg(feature = "native")]
mod partial;
#[cfg(feature = "native")]
mod place;
mod quoted;
#[cfg(feature = "native")]
mod read;
mod rows;
mod words;
#[cfg(feature = "native")]
mod write;

#[cfg(feature = "native")]
pub use allocator::Allocator;
pub(crate) use allocator::may_fail;
#[cfg(feature = "native")]
pub(crate) use cache::cache_folder;
#[cfg(feature = "parquet")]
pub use columns::{Column, write_arrow, write_parquet};
#[cfg(all(feature = "bench", feature = "native"))]
pub(crate) use matrix::write_npy_header;
#[cfg(feature = "native")]
pub use matrix::{write_ids_npy, write_matrix_fbin, write_matrix_fvecs, write_matrix_npy};
#[cfg(feature = "native")]
pub use partial::remove_partial;
#[cfg(feature = "native")]
pub use place::{is_standard_output, same_file};
pub use quoted::quoted;
#[cfg(feature = "native")]
pub use quoted::shell_word;
#[cfg(feature = "native")]
pub use read::{LINES, SMALL, open, read, read_text};
#[cfg(feature = "native")]
pub(crate) use read::{read_safetensors, read_start};
pub(crate) use rows::Collected;
pub use rows::{RowIter, RowList};
pub use words::Obstacle;
#[cfg(feature = "native")]
pub(crate) use write::{Streams, write_whole};
#[cfg(feature = "native")]
pub use write::{Values, write_file, write_regular, write_tensors};

/// Longest safetensors header in bytes: the limit of the format.
pub(crate) const MAX_SAFETENSORS_HEADER: u64 = 100_000_000;
