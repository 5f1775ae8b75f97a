//! Numbers: the two types that reference implementations compute with, vector loops, random streams, statistics.

mod random;
mod real;
mod simd;
#[cfg(feature = "native")]
mod statistics;

pub(crate) use random::{Purpose, random};
pub use real::Real;
pub(crate) use real::without_subnormals;
pub(crate) use simd::{chunks, dot, sigma, vectorized};
#[cfg(feature = "native")]
pub use statistics::TTest;
#[cfg(feature = "native")]
pub(crate) use statistics::{deviation, mean};
