//! The kernels. Each has one shader in `shaders/` and one file here with its registry entry ([`Kernel`]), its dispatch
//! function of the same name, and its reference.
//!
//! A reference is a plain loop, generic over `f32` and `f64`. Every adapter is tested against the reference in f64.
//! With `--device cpu`, the reference runs in f32, except for matrix products, which use other crates.
//! [`crate::device::padded`] describes the layout of matrices.

#[macro_use]
mod params;
pub(crate) use params::params;

mod accumulate;
mod batch_norm;
mod blend;
mod ceiling;
mod column_sum;
mod compose;
mod cosine;
mod cpu_product;
mod dense_field;
mod dense_sum;
mod exponential_field;
mod exponential_sum;
mod gate;
mod gaussian;
mod gpo;
mod gpo_weights;
mod gru;
mod hardest;
mod hardest_plain;
mod infonce;
mod infonce_at_once;
mod kernel;
mod l2norm;
pub mod lab;
mod lab_local;
mod leave_out;
mod log_sum_exp;
mod matmul;
mod mined_order;
mod neighbourhood;
mod positive_field;
mod positives;
mod product;
mod ranks;
mod record;
mod relative;
mod scan;
mod siglip;
mod sum_squares;
mod summed;
#[cfg(feature = "native")]
mod tuning;
mod weights;
mod widen;

pub use accumulate::accumulate;
pub use batch_norm::{NormGradient, batch_norm, batch_norm_backward};
pub use blend::blend;
pub use ceiling::ceiling;
pub use column_sum::column_sum;
pub use compose::{Composition, compose};
pub use cosine::{cosine, cosine_backward};
pub use dense_field::dense_field;
pub use dense_sum::{Dense, dense_sum};
pub use exponential_field::{ExponentialLoss, ExponentialParams, PerAnchor, PositiveForm, exponential_field};
pub use exponential_sum::{Known, exponential_sum};
pub use gate::{gate, gate_backward};
pub use gaussian::{gaussian, gaussian_backward};
pub use gpo::{Ragged, gpo, gpo_backward, gpo_dots, gpo_order};
pub use gpo_weights::{gpo_weights, gpo_weights_backward};
pub use gru::{Chains, GRU_UNITS, GruGradient, GruTrace, GruWeights, gru, gru_backward};
pub use hardest::{Below, Candidates, Hardest, hardest};
pub use infonce::{InfonceField, infonce};
pub use infonce_at_once::{InfonceAtOnce, infonce_at_once};
pub use kernel::Kernel;
pub use l2norm::{l2norm, l2norm_backward};
pub use leave_out::{NOTHING, leave_out};
pub use log_sum_exp::{SameImage, log_sum_exp};
pub use matmul::{check_environment, matmul};
pub use mined_order::{MAX_PAIRS, SortForm, mined_keys, mined_order};
pub use neighbourhood::neighbourhood;
pub use positive_field::{Pulled, positive_field};
pub use positives::{Aggregate, PositivesParams, positives};
pub use product::{MATMUL_VARIANTS, MatmulVariant, Product};
pub use ranks::{RightCandidates, ranks};
pub use record::{RECORD, StepRecord, record};
pub use relative::{Relative, relative};
pub use siglip::{SiglipField, siglip};
pub use sum_squares::{PARTS, sum_squares};
pub use weights::{PositivePart, WeightParams, loss_at, weight_sections, weights, weights_at};
pub use widen::widen;

/// The references, for tests to compare with.
pub mod reference {
    pub use super::accumulate::reference as accumulate;
    pub use super::batch_norm::{backward_reference as batch_norm_backward, reference as batch_norm};
    pub use super::blend::reference as blend;
    pub use super::ceiling::reference as ceiling;
    pub use super::column_sum::reference as column_sum;
    pub use super::compose::reference as compose;
    pub use super::cosine::{backward_reference as cosine_backward, reference as cosine};
    pub use super::dense_field::reference as dense_field;
    pub use super::dense_sum::reference as dense_sum;
    pub use super::exponential_field::{reference as exponential_field, whole_reference as exponential};
    pub use super::exponential_sum::reference as exponential_sum;
    pub use super::gate::{backward_reference as gate_backward, reference as gate};
    pub use super::gaussian::{backward_reference as gaussian_backward, reference as gaussian};
    pub use super::gpo::{
        backward_reference as gpo_backward, dots_reference as gpo_dots, order_reference as gpo_order,
        reference as gpo,
    };
    pub use super::gpo_weights::{backward_reference as gpo_weights_backward, reference as gpo_weights};
    pub use super::gru::{backward_reference as gru_backward, reference as gru};
    pub use super::hardest::reference as hardest;
    pub use super::infonce::reference as infonce;
    pub use super::l2norm::{backward_reference as l2norm_backward, reference as l2norm};
    pub use super::leave_out::reference as leave_out;
    pub use super::log_sum_exp::reference as log_sum_exp;
    pub use super::matmul::reference as matmul;
    pub use super::mined_order::reference as mined_order;
    pub use super::neighbourhood::reference as neighbourhood;
    pub use super::positive_field::{Anchors, reference as positive_field};
    pub use super::positives::reference as positives;
    pub use super::ranks::reference as ranks;
    pub use super::record::reference as record;
    pub use super::relative::reference as relative;
    pub use super::siglip::reference as siglip;
    pub use super::sum_squares::reference as sum_squares;
    pub use super::weights::reference as weights;
    pub use super::widen::reference as widen;
}

use leave_out::is_left_out;
use scan::{LANES, Lanes, NO_PAIR, Scan};

use crate::Result;
use crate::device::Access;
use crate::device::{KernelSpec, Recorder, Region, padded};
pub use crate::math::Real;
use crate::math::{chunks, dot, sigma, vectorized};

/// All kernels except those of optimisers, which are in `optim`.
pub static KERNELS: &[&Kernel] = &[
    &accumulate::KERNEL,
    &batch_norm::KERNEL,
    &batch_norm::BACKWARD,
    &blend::KERNEL,
    &ceiling::KERNEL,
    &column_sum::KERNEL,
    &compose::KERNEL,
    &cosine::KERNEL,
    &cosine::BACKWARD,
    &dense_field::KERNEL,
    &dense_sum::KERNEL,
    &gate::KERNEL,
    &gate::BACKWARD,
    &gaussian::KERNEL,
    &gaussian::BACKWARD,
    &gpo::KERNEL,
    &gpo::BACKWARD,
    &gpo::DOTS,
    &gpo::ORDER,
    &gpo_weights::KERNEL,
    &gpo_weights::BACKWARD,
    &gru::KERNEL,
    &gru::BACKWARD,
    &exponential_field::KERNEL,
    &exponential_sum::KERNEL,
    &hardest::KERNEL,
    &infonce::KERNEL,
    &l2norm::KERNEL,
    &l2norm::BACKWARD,
    &leave_out::KERNEL,
    &log_sum_exp::KERNEL,
    &matmul::TILED,
    &matmul::REGISTERS,
    &matmul::SUBGROUPS,
    &mined_order::KERNEL,
    &neighbourhood::KERNEL,
    &positive_field::KERNEL,
    &positives::KERNEL,
    &ranks::KERNEL,
    &record::KERNEL,
    &relative::KERNEL,
    &siglip::KERNEL,
    &sum_squares::KERNEL,
    &weights::KERNEL,
    &widen::KERNEL,
];

/// The kernels that can use custom weights.
pub fn weighing_kernels() -> [&'static Kernel; 3] {
    [&weights::KERNEL, &dense_sum::KERNEL, &dense_field::KERNEL]
}

/// The `LANES` constant of the row kernels on this recorder's device.
fn lanes(recorder: &Recorder) -> [(&'static str, String); 1] {
    [("LANES", format!("{}u", recorder.lanes))]
}

/// A block of the similarity matrix as one direction sees it: anchors against candidates.
///
/// Both are numbered by pair. Images are the rows and texts are the columns of the same stored block.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    pub anchors: usize,
    pub candidates: usize,
    pub anchor_stride: usize,
    pub candidate_stride: usize,
    /// Pair number of the first anchor.
    pub anchor_offset: usize,
    /// Pair number of the first candidate.
    pub candidate_offset: usize,
}

impl Block {
    /// Images `first..first + rows` as anchors against all `pairs` texts.
    pub fn images(first: usize, rows: usize, pairs: usize) -> Self {
        Self {
            anchors: rows,
            candidates: pairs,
            anchor_stride: padded(pairs),
            candidate_stride: 1,
            anchor_offset: first,
            candidate_offset: 0,
        }
    }

    /// All `pairs` texts as anchors against images `first..first + rows`.
    pub fn texts(first: usize, rows: usize, pairs: usize) -> Self {
        Self {
            anchors: pairs,
            candidates: rows,
            anchor_stride: 1,
            candidate_stride: padded(pairs),
            anchor_offset: 0,
            candidate_offset: first,
        }
    }
}

/// Dispatches a kernel with one workgroup per row, as many rows at a time as bindings hold. Each of the `regions` comes
/// with its number of floats per row. `flops` is the work per row, and `params` takes a number of rows.
fn by_rows<P: encase::ShaderType + encase::internal::WriteInto>(
    recorder: &mut Recorder,
    spec: &'static KernelSpec,
    rows: usize,
    regions: &[(Region, usize)],
    flops: usize,
    params: impl Fn(usize) -> P,
) -> Result<()> {
    let widest = regions.iter().map(|&(_, stride)| stride).max().unwrap_or(1);
    for rows in chunks(rows, recorder.rows_per_binding(widest)) {
        let part = |stride: usize| rows.start * stride..rows.end * stride;
        let regions: Vec<_> = regions.iter().map(|&(region, stride)| region.part(part(stride))).collect();
        let cost = (flops * rows.len()) as f64;
        recorder.dispatch(spec, &lanes(recorder), &params(rows.len()), &regions, [rows.len(), 1, 1], cost)?;
    }
    Ok(())
}

/// Dispatches an elementwise kernel over `len` elements, as many at a time as bindings hold. `shared` is bound whole,
/// after the first of the `regions`. `flops` is the work per element, and `params` takes a number of vec4s.
pub(crate) fn by_elements<P: encase::ShaderType + encase::internal::WriteInto>(
    recorder: &mut Recorder,
    spec: &'static KernelSpec,
    len: usize,
    shared: Region,
    regions: &[Region],
    flops: f64,
    params: impl Fn(u32) -> P,
) -> Result<()> {
    // Largest number of workgroups; each takes a share of the elements.
    const GROUPS: usize = 4096;
    for part in chunks(len, recorder.elements_per_binding()) {
        let mut regions: Vec<_> = regions.iter().map(|region| region.part(part.clone())).collect();
        regions.insert(1, shared);
        let grid = [(part.len() / 4).div_ceil(recorder.lanes as usize).min(GROUPS), 1, 1];
        let params = params(part.len() as u32 / 4);
        recorder.dispatch(spec, &lanes(recorder), &params, &regions, grid, flops * part.len() as f64)?;
    }
    Ok(())
}
