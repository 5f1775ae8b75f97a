//! The joint head: its options, where its parameters lie, and its encoders on the device.

mod checksum;
mod config;
mod encoder;
mod ensemble;
mod file;
mod fourier;
mod gated;
mod head;
#[cfg(feature = "native")]
mod host;
mod landmarks;
mod layout;
mod perceptron;
mod pooling;
mod segment;
mod standardizer;
#[cfg(feature = "native")]
mod state_dict;

pub(crate) use config::GATED_WIDTH;
pub use config::{EncoderKind, HeadConfig, Pooling, SignedRoot};
pub(crate) use encoder::Encoder;
pub(crate) use ensemble::MAX_MEMBERS;
pub(crate) use file::{FORMAT, HeadFile, encode};
#[cfg(feature = "native")]
pub(crate) use file::{read_bytes, write};
pub use head::{Head, Side};
#[cfg(feature = "native")]
pub use host::{EncoderGradients, Gpo, GpoGradients, Pooled};
#[cfg(feature = "native")]
pub(crate) use landmarks::Landmarks;
pub(crate) use layout::LANDMARK_BANDWIDTH;
pub(crate) use layout::Layout;
#[cfg(feature = "native")]
pub(crate) use layout::{BANDWIDTH, FourierLayout};
pub(crate) use segment::{Kind, Segment};
pub use standardizer::Standardizer;
#[cfg(feature = "native")]
pub(crate) use state_dict::StateDict;
