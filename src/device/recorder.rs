//! Records dispatches for a GPU.

use super::faults::lock;
use super::gpu::{Gpu, Region};
use super::select::DeviceKind;
use super::spec::KernelSpec;
use super::work::{Dispatch, Item, PARAM_SLOT, PARAMS, SUBMISSION, Work};
use crate::{Error, Result};
use encase::internal::WriteInto;
use encase::{ShaderType, UniformBuffer};
use std::borrow::Cow;

/// A matrix larger than a binding is split at multiples of this many rows. A vector with one f32 per row is then split
/// at multiples of 256 bytes, where a binding may begin.
pub(crate) const ROWS_AT_ONCE: usize = 64;

/// Collects dispatches for a GPU; see [`super::Commands`].
pub struct Recorder {
    gpu: Gpu,
    /// Invocations per workgroup of the row kernels, a power of two.
    pub lanes: u32,
    /// Cost that one dispatch should have. It depends on the kind of device and not on its measured speed, because the
    /// split of the work decides the order of sums.
    pub budget: f64,
    /// Bytes of the largest storage binding.
    pub max_binding: usize,
    /// Whether every dispatch is timed.
    pub(crate) profiled: bool,
    /// Name of the next dispatches in a profile; `None` for the name of their kernel.
    pub(crate) what: Option<String>,
    work: Work,
}

impl Recorder {
    pub(super) fn new(gpu: Gpu) -> Self {
        // On a software adapter every barrier switches between coroutines. A workgroup of one vector of lanes has the
        // fewest switches.
        let lanes = if gpu.info().kind == DeviceKind::Software { 8 } else { 64 };
        let (budget, max_binding) = (gpu.info().work_per_submit(), gpu.max_binding());
        let profiled = lock(&gpu.0.profile).is_some();
        Self { gpu, lanes, budget, max_binding, profiled, what: None, work: Work::default() }
    }

    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Rows of `stride` floats that fit one binding and one dimension of a grid. This is a multiple of
    /// [`ROWS_AT_ONCE`], so that the next rows are aligned, and at least one such multiple. The caller refuses rows
    /// that are too wide for it.
    pub fn rows_per_binding(&self, stride: usize) -> usize {
        let rows = self.max_binding / (4 * stride.max(1));
        (rows.min(65_535) / ROWS_AT_ONCE * ROWS_AT_ONCE).max(ROWS_AT_ONCE)
    }

    /// Elements of four bytes that fit one binding, aligned in the same way.
    pub fn elements_per_binding(&self) -> usize {
        (self.max_binding / 256 * 64).max(64)
    }

    /// Queues one dispatch. `grid` counts workgroups. `cost` is an estimate in floating-point operations, which limits
    /// the work of one submission.
    pub fn dispatch<P: ShaderType + WriteInto>(
        &mut self,
        spec: &'static KernelSpec,
        constants: &[(&str, String)],
        params: &P,
        regions: &[Region],
        grid: [usize; 3],
        cost: f64,
    ) -> Result<()> {
        let inner = &self.gpu.0;
        let limit = inner.device.limits().max_compute_workgroups_per_dimension as usize;
        if grid.contains(&0) || grid.iter().any(|&n| n > limit) || regions.len() != spec.bindings.len() {
            return Err(Error::device(
                format!("kernel {}", spec.name),
                format!("1 to {limit} workgroups a dimension and {} bindings", spec.bindings.len()),
                format!("{grid:?} and {}", regions.len()),
                "use a smaller --batch, or --device cpu",
            ));
        }
        let most = self.gpu.max_binding() as u64;
        if let Some(size) = regions.iter().map(|region| region.bytes()).find(|&size| size > most) {
            return Err(Error::device(
                format!("kernel {} on {}", spec.name, self.gpu.info().name),
                format!("at most {most} bytes of a matrix or vector at once"),
                format!("{size} bytes"),
                "use a smaller --batch or --embed, or --device cpu",
            ));
        }
        let full = self.work.params.len() as u64 == PARAMS;
        let most = lock(&inner.flight).rate * SUBMISSION;
        if full || (self.work.cost > 0.0 && self.work.cost + cost > most) {
            self.submit()?;
        }
        let pipeline = self.gpu.pipeline(spec, constants)?;
        let mut block = UniformBuffer::new(Vec::new());
        block
            .write(params)
            .map_err(|e| Error::device(spec.name, "parameters that fit", e, "report this as a bug"))?;
        let mut block = block.into_inner();
        block.resize(block.len().next_multiple_of(16), 0);
        let offset = self.work.params.len();
        let (bindings, copies) = self.gpu.bind(spec, &pipeline, block.len() as u64, regions)?;
        self.work.params.extend_from_slice(&block);
        self.work.params.resize(offset + PARAM_SLOT as usize, 0);

        *lock(&self.gpu.0.last) = spec.name;
        let (offset, grid) = (offset as u32, grid.map(|n| n as u32));
        let what = self.what.clone().map_or(Cow::Borrowed(spec.name), Cow::Owned);
        let bytes = regions.iter().map(|region| region.bytes() as f64).sum();
        self.work.items.extend(copies.into_iter().map(Item::Image));
        let dispatch = Dispatch { pipeline, bindings, offset, grid, what, bytes, cost };
        self.work.items.push(Item::Dispatch(dispatch));
        self.work.cost += cost;
        Ok(())
    }

    /// Hands the queued dispatches to the device.
    pub fn submit(&mut self) -> Result<()> {
        self.gpu.hand_over(std::mem::take(&mut self.work))
    }
}
