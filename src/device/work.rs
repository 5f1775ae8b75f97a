//! Work for a GPU in its order: recorded, handed over and submitted in bounded pieces.
//!
//! A [`Recorder`] collects dispatches and hands them to its [`Gpu`], which holds them with the uploads among them until they
//! are worth a submission. Nothing here knows what a kernel computes. The file is long because the order of work is one matter.

use super::gpu::{Gpu, IMAGE_ROW, Memory, Pipeline, Region, lock};
use super::select::DeviceKind;
use super::spec::KernelSpec;
use super::staging::{STAGED, Staged};
use crate::{Error, Result};
use encase::internal::WriteInto;
use encase::{ShaderType, UniformBuffer};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use web_time::Instant;

/// Rows by which a matrix larger than a binding is split: 64 numbers, one a row, end where a binding may begin.
pub(crate) const ROWS_AT_ONCE: usize = 64;

/// Bytes between two parameter blocks: the largest `min_uniform_buffer_offset_alignment` in use.
const PARAM_SLOT: u64 = 256;
/// Bytes of parameter blocks that a submission can hold, those of 256 dispatches.
pub(super) const PARAMS: u64 = PARAM_SLOT * 256;
/// Submissions that may be under way before the host waits, so that their uploads cannot pile up in memory.
const MAX_IN_FLIGHT: usize = 3;
/// What a submission should take at most, in seconds: far below the watchdogs of drivers (about 2 s on Windows).
const SUBMISSION: f64 = 0.1;
/// What a submission should take at least, unless more work comes too late for that: short steps share one.
const TOGETHER: f64 = 0.005;

/// Work in its order, with the parameters of its dispatches.
pub(super) struct Work {
    pub items: Vec<Item>,
    pub params: Vec<u8>,
    /// Of the dispatches, in floating-point operations.
    cost: f64,
    /// Bytes of the uploads.
    staged: u64,
    begun: Instant,
}

pub(super) enum Item {
    Upload(Upload),
    Image(ImageCopy),
    Dispatch(Dispatch),
}

/// From memory that the host has written, to a buffer.
pub(super) struct Upload {
    from: Staged,
    to: wgpu::Buffer,
    offset: u64,
}

/// Of a region, for a kernel that reads it from an image.
pub(super) struct ImageCopy {
    pub from: wgpu::Buffer,
    pub offset: u64,
    pub bytes: u64,
    pub to: wgpu::Texture,
}

pub(super) struct Dispatch {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
    /// Of the parameters.
    offset: u32,
    grid: [u32; 3],
    /// For the profile: what it is, and its bytes and floating-point operations.
    pub what: Cow<'static, str>,
    pub bytes: f64,
    pub cost: f64,
}

/// Submissions under way, and what those before have taught about the device's speed.
pub(super) struct Flight {
    submissions: VecDeque<Submission>,
    /// Submissions of work so far.
    count: u64,
    /// Cost per second.
    rate: f64,
    /// When the last submission was seen to end.
    ended: Instant,
}

struct Submission {
    index: wgpu::SubmissionIndex,
    cost: f64,
    begun: Instant,
}

impl Flight {
    /// Of a device that is thought to do so much in one submission.
    pub fn new(work_per_submit: f64) -> Self {
        Self {
            submissions: VecDeque::new(),
            count: 0,
            rate: work_per_submit / SUBMISSION,
            ended: Instant::now(),
        }
    }
}

impl Default for Work {
    fn default() -> Self {
        Self { items: Vec::new(), params: Vec::new(), cost: 0.0, staged: 0, begun: Instant::now() }
    }
}

impl Work {
    /// More work, after this.
    fn append(&mut self, mut more: Work) {
        if self.items.is_empty() {
            self.begun = Instant::now();
        }
        let before = self.params.len() as u32;
        for item in &mut more.items {
            if let Item::Dispatch(dispatch) = item {
                dispatch.offset += before;
            }
        }
        self.items.append(&mut more.items);
        self.params.append(&mut more.params);
        self.cost += more.cost;
        self.staged += more.staged;
    }
}

impl Item {
    pub fn is_dispatch(&self) -> bool {
        matches!(self, Self::Dispatch(_))
    }

    /// All but dispatches, which come in passes.
    pub fn encode_copy(&self, encoder: &mut wgpu::CommandEncoder) {
        match self {
            Self::Upload(Upload { from, to, offset }) => {
                encoder.copy_buffer_to_buffer(from.buffer(), 0, to, *offset, from.len() as u64);
            }
            Self::Image(copy) => copy.encode(encoder),
            Self::Dispatch(_) => {}
        }
    }

    pub fn encode_dispatch(&self, pass: &mut wgpu::ComputePass) {
        if let Self::Dispatch(Dispatch { pipeline, bindings, offset, grid: [x, y, z], .. }) = self {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, bindings, &[*offset]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}

impl ImageCopy {
    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let texels = (self.bytes / 16) as u32;
        let (rows, rest) = (texels / IMAGE_ROW, texels % IMAGE_ROW);
        for (y, width, height) in [(0, IMAGE_ROW, rows), (rows, rest, 1)] {
            if width == 0 || height == 0 {
                continue;
            }
            let layout = wgpu::TexelCopyBufferLayout {
                offset: self.offset + 16 * u64::from(y) * u64::from(IMAGE_ROW),
                bytes_per_row: Some(16 * IMAGE_ROW),
                rows_per_image: None,
            };
            let mut target = self.to.as_image_copy();
            target.origin.y = y;
            encoder.copy_buffer_to_texture(
                wgpu::TexelCopyBufferInfo { buffer: &self.from, layout },
                target,
                wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
            );
        }
    }
}

impl Gpu {
    /// Overwrites bytes, a multiple of 4 of them, after the work that was handed over before.
    pub(super) fn write(&self, memory: &Memory, offset: u64, bytes: &[u8]) -> Result<()> {
        if !self.stages() {
            self.flush()?;
        }
        if lock(&self.0.pending).items.is_empty() {
            // wgpu puts it before whatever is submitted next.
            self.0.queue.write_buffer(&memory.buffer, offset, bytes);
            return self.check();
        }
        self.upload(memory, offset, self.stage(bytes.len(), |mut to| to.copy_from_slice(bytes))?)
    }

    /// Copies staged bytes to their place, after the work that was handed over before.
    pub(super) fn upload(&self, memory: &Memory, offset: u64, from: Staged) -> Result<()> {
        let staged = from.len() as u64;
        let upload = Item::Upload(Upload { from, to: memory.buffer.clone(), offset });
        self.hand_over(Work { items: vec![upload], staged, ..Work::default() })
    }

    /// Work to do after all that was handed over before. It waits for more, unless it is worth a submission by now, or the first
    /// of it has waited long.
    fn hand_over(&self, work: Work) -> Result<()> {
        let mut pending = lock(&self.0.pending);
        if (pending.params.len() + work.params.len()) as u64 > PARAMS {
            self.submit(std::mem::take(&mut pending))?;
        }
        pending.append(work);
        let enough = pending.cost >= lock(&self.0.flight).rate * TOGETHER
            || pending.staged >= STAGED as u64
            || (pending.cost > 0.0 && pending.begun.elapsed().as_secs_f64() >= TOGETHER);
        if enough { self.submit(std::mem::take(&mut pending)) } else { self.check() }
    }

    /// Submits all that was handed over.
    pub(super) fn flush(&self) -> Result<()> {
        let mut pending = lock(&self.0.pending);
        self.submit(std::mem::take(&mut pending))
    }

    /// Gives work to the driver, and waits if too many submissions are under way. The caller has what is pending locked:
    /// submissions keep their order, and parameters are written and used at once.
    fn submit(&self, work: Work) -> Result<()> {
        if work.items.is_empty() {
            return self.check();
        }
        #[cfg(feature = "native")]
        if lock(&self.0.profile).is_some() {
            return self.submit_timed(&work);
        }
        let inner = &self.0;
        let mut encoder = inner.device.create_command_encoder(&Default::default());
        for items in work.items.chunk_by(|item, next| item.is_dispatch() && next.is_dispatch()) {
            if items[0].is_dispatch() {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                items.iter().for_each(|item| item.encode_dispatch(&mut pass));
            } else {
                items[0].encode_copy(&mut encoder);
            }
        }
        inner.queue.write_buffer(&inner.params, 0, &work.params);
        let index = inner.queue.submit([encoder.finish()]);
        for item in work.items {
            if let Item::Upload(Upload { from, .. }) = item {
                self.recycle(from);
            }
        }
        let oldest = {
            let mut flight = lock(&inner.flight);
            flight.count += 1;
            flight.submissions.push_back(Submission { index, cost: work.cost, begun: Instant::now() });
            if flight.submissions.len() > MAX_IN_FLIGHT { flight.submissions.pop_front() } else { None }
        };
        match oldest {
            Some(submission) => self.finish(submission),
            None => self.check(),
        }
    }

    /// Submissions of work so far.
    pub fn submissions(&self) -> u64 {
        lock(&self.0.flight).count
    }

    /// Waits for a submission and learns from it.
    fn finish(&self, submission: Submission) -> Result<()> {
        self.poll(Some(submission.index))?;
        let mut flight = lock(&self.0.flight);
        let now = Instant::now();
        let seconds = now.duration_since(submission.begun.max(flight.ended)).as_secs_f64();
        flight.ended = now;
        // Short ones say more about overhead than about speed. Half the old estimate stays: one slow submission, of
        // which compilation may be part, must not shrink the next to nothing.
        if seconds > 1e-3 && submission.cost > 1e6 {
            flight.rate = (0.5 * flight.rate + 0.5 * submission.cost / seconds).clamp(1e8, 1e14);
        }
        Ok(())
    }

    /// Lets the device catch up with everything. In a browser it returns at once.
    pub(super) fn wait(&self) -> Result<()> {
        self.flush()?;
        self.poll(None)
    }

    /// Waits for everything submitted, or for one submission.
    pub(super) fn poll(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let poll = wgpu::PollType::Wait { submission_index, timeout: None };
        if let Err(error) = self.0.device.poll(poll) {
            lock(&self.0.faults).tell(error.to_string());
        }
        self.check()
    }
}

/// Collects dispatches for a GPU; see [`super::Commands`].
pub struct Recorder {
    gpu: Gpu,
    /// Invocations of a workgroup of the row kernels, a power of two.
    pub lanes: u32,
    /// Cost that one dispatch should have. Fixed by the kind of device, not by its measured speed: where work is split
    /// decides in which order sums are taken.
    pub budget: f64,
    /// Bytes of the largest storage binding.
    pub max_binding: usize,
    /// Whether every dispatch is timed.
    pub(crate) profiled: bool,
    /// What the next dispatches are called in a profile, if not as their kernel.
    pub(crate) what: Option<String>,
    work: Work,
}

impl Recorder {
    pub(super) fn new(gpu: Gpu) -> Self {
        // On a software adapter a barrier is a switch of coroutines: one vector's worth of lanes has the fewest.
        let lanes = if gpu.info().kind == DeviceKind::Software { 8 } else { 64 };
        let (budget, max_binding) = (gpu.info().work_per_submit(), gpu.max_binding());
        let profiled = lock(&gpu.0.profile).is_some();
        Self { gpu, lanes, budget, max_binding, profiled, what: None, work: Work::default() }
    }

    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Rows of `stride` floats that one binding and one dimension of a grid hold: a multiple of [`ROWS_AT_ONCE`], so that what
    /// follows them is aligned. Rows so wide that there is no such number are refused by whoever brings them.
    pub fn rows_per_binding(&self, stride: usize) -> usize {
        let rows = self.max_binding / (4 * stride.max(1));
        (rows.min(65_535) / ROWS_AT_ONCE * ROWS_AT_ONCE).max(ROWS_AT_ONCE)
    }

    /// Elements of four bytes that one binding holds, aligned likewise.
    pub fn elements_per_binding(&self) -> usize {
        (self.max_binding / 256 * 64).max(64)
    }

    /// Queues one dispatch. `grid` counts workgroups; `cost` is an estimate in floating-point operations, which
    /// bounds the work of one submission.
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

#[cfg(all(test, feature = "native"))]
mod tests {
    use crate::device::{Adapters, Buffer, Device};

    /// An adapter that checks everything and computes nothing.
    fn noop() -> Device {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::NOOP;
        descriptor.backend_options.noop = wgpu::NoopBackendOptions::enabled();
        let instance = wgpu::Instance::new(descriptor);
        let adapters = pollster::block_on(Adapters::of(&instance, Some(crate::device::DeviceKind::Other)));
        adapters.open("gpu").unwrap()
    }

    #[test]
    fn a_fault_is_told_once_and_a_lost_device_stays_lost() {
        let adapters = Adapters::find();
        let real = adapters.devices().into_iter().map(|info| adapters.open(&info.index.to_string()).unwrap());
        for device in real.chain([noop()]) {
            let Device::Gpu(gpu) = &device else { continue };
            let work = || -> crate::Result<()> {
                let buffer = Buffer::from_slice(&device, "numbers", &[1u32, 2, 3, 4])?;
                device.wait(buffer.read(&device, 0..4)).map(drop)
            };
            work().unwrap();
            // No usage: the driver says so, and nothing else is wrong.
            let descriptor = wgpu::BufferDescriptor {
                label: None,
                size: 4,
                usage: wgpu::BufferUsages::empty(),
                mapped_at_creation: false,
            };
            drop(gpu.0.device.create_buffer(&descriptor));
            let message = work().unwrap_err().to_string();
            assert!(message.contains("work without a driver error"), "{device}: {message}");
            work().unwrap_or_else(|error| panic!("{device}: {error}"));
            // Asking for times tells of nothing, and keeps what there is to tell.
            drop(gpu.0.device.create_buffer(&descriptor));
            device.profile(true);
            device.profile(false);
            assert!(work().is_err(), "{device}");
            work().unwrap_or_else(|error| panic!("{device}: {error}"));
            gpu.destroy();
            for _ in 0..3 {
                assert!(work().is_err(), "{device} is lost");
            }
        }
    }
}
