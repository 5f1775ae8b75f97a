//! The one file that knows wgpu's buffers, bind groups, pipelines and submissions.
//!
//! A [`Recorder`] collects dispatches and hands them over in submissions of bounded work. Nothing here knows what a
//! kernel computes; [`KernelSpec`] is the whole contract with a shader. The file is long because no other may know
//! these things.

use super::profile::Profile;
use super::select::{DeviceInfo, DeviceKind};
use crate::kernels::{Access, KernelSpec, MatmulVariant, specialise};
use crate::{Error, Result};
use encase::internal::WriteInto;
use encase::{ShaderType, UniformBuffer};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use web_time::Instant;

/// Bytes between two parameter blocks: the largest `min_uniform_buffer_offset_alignment` in use.
const PARAM_SLOT: u64 = 256;
/// Dispatches a submission can hold.
const PARAM_SLOTS: u64 = 256;
/// Submissions that may be queued before the host waits, so that uploads cannot pile up in memory.
const MAX_IN_FLIGHT: usize = 3;
/// Texels of 16 bytes in a row of the images that some kernels read their operands from, as those pages know.
const IMAGE_ROW: u32 = 2048;
/// Texels at the end of such a row that hold nothing: rows of a matrix would else lie a power of two apart in memory, where
/// a cache has few places for them (a product of 2,048-wide rows is 1.5 times as fast on lavapipe).
const IMAGE_GAP: u32 = 4;
/// What a submission should take, in seconds: far below the watchdogs of drivers (about 2 s on Windows).
const SUBMISSION: f64 = 0.1;

/// A GPU (or a software adapter) opened through wgpu.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: DeviceInfo,
    /// Lanes that every subgroup has; 0 where shaders cannot use subgroups.
    subgroup: u32,
    params: wgpu::Buffer,
    /// Bound where a kernel's optional input is absent.
    nothing: wgpu::Buffer,
    pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
    /// What was bound before, so that a step like one before makes nothing: see [`Gpu::bind`].
    bound: Mutex<HashMap<Bound, wgpu::BindGroup>>,
    /// An image for each binding that a kernel reads as one, as large as was ever needed; see [`Access::Image`].
    images: Mutex<HashMap<u32, Image>>,
    /// Shaders that stand in for a kernel's own; see [`Gpu::replace_shader`].
    replaced: Mutex<HashMap<String, String>>,
    /// Bytes of the largest storage binding; see [`Gpu::limit_bindings`].
    max_binding: AtomicUsize,
    flight: Mutex<Flight>,
    fault: Arc<Mutex<Option<String>>>,
    /// The kernel that was handed over last, for the report of a lost device.
    last: Mutex<&'static str>,
    /// Matrix products that were measured, once the first is.
    #[cfg(not(target_arch = "wasm32"))]
    choices: Mutex<Option<crate::kernels::Choices>>,
    /// What each kernel took, while [`Gpu::profile`] asks for it.
    profile: Mutex<Option<Profile>>,
}

/// Submissions under way, and what those before have taught about the device's speed.
struct Flight {
    submissions: VecDeque<Submission>,
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

struct Pipeline {
    layout: wgpu::BindGroupLayout,
    pipeline: wgpu::ComputePipeline,
}

/// What is bound to a kernel; the parameters come first.
#[derive(PartialEq, Eq, Hash)]
struct Bound {
    layout: wgpu::BindGroupLayout,
    parts: Vec<Part>,
}

#[derive(PartialEq, Eq, Hash)]
enum Part {
    /// With offset and size in bytes.
    Buffer(wgpu::Buffer, u64, u64),
    Image(wgpu::TextureView),
}

/// Texels are the vec4s of a region in their order.
#[derive(Clone)]
struct Image {
    texture: wgpu::Texture,
    view: wgpu::TextureView,
}

/// The copy of a region that a kernel reads from an image.
struct Copied {
    buffer: wgpu::Buffer,
    offset: u64,
    bytes: u64,
    image: wgpu::Texture,
}

impl Copied {
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
            let mut target = self.image.as_image_copy();
            target.origin.y = y;
            encoder.copy_buffer_to_texture(
                wgpu::TexelCopyBufferInfo { buffer: &self.buffer, layout },
                target,
                wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
            );
        }
    }
}

/// Bind groups that are kept at most, before all are made anew: batches of local features differ in their sizes, and would add to
/// them without end.
const MAX_BOUND: usize = 2048;

/// Device memory of one buffer.
pub struct Memory {
    buffer: wgpu::Buffer,
    gpu: Gpu,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // They would keep the memory alive.
        self.gpu.unbind(|part| matches!(part, Part::Buffer(buffer, ..) if *buffer == self.buffer));
    }
}

/// A part of a buffer, in bytes.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    buffer: Option<&'a wgpu::Buffer>,
    offset: u64,
    size: u64,
}

impl Memory {
    /// A part in elements of four bytes.
    pub(super) fn region(&self, start: usize, len: usize) -> Region<'_> {
        Region { buffer: Some(&self.buffer), offset: start as u64 * 4, size: len as u64 * 4 }
    }
}

impl Region<'_> {
    /// A part in elements of four bytes.
    pub(crate) fn part(self, elements: std::ops::Range<usize>) -> Self {
        let (start, len) = (elements.start as u64 * 4, elements.len() as u64 * 4);
        Self { offset: self.offset + start, size: len, ..self }
    }

    /// Elements of four bytes.
    pub(crate) fn len(self) -> usize {
        self.size as usize / 4
    }

    /// Stands for an absent optional input.
    pub const NOTHING: Region<'static> = Region { buffer: None, offset: 0, size: 16 };
}

/// Whether drivers are to bound every index and loop of the kernels: in debug builds, unless `WGOAL_SHADER_CHECKS` says `on`
/// or `off`.
fn shader_checks() -> bool {
    match std::env::var("WGOAL_SHADER_CHECKS").as_deref() {
        Ok("on") => true,
        Ok("off") => false,
        _ => cfg!(debug_assertions),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, what the driver says against objects that are made; called, its first word.
#[cfg(not(target_arch = "wasm32"))]
fn refusal(device: &wgpu::Device, of: wgpu::ErrorFilter) -> impl FnOnce() -> Option<wgpu::Error> {
    let scope = device.push_error_scope(of);
    || crate::blocking::wait(scope.pop())
}

/// A browser would tell later, and nothing here can wait: its word goes to the handler of uncaptured errors, so that it
/// comes out of a later [`Gpu::check`].
#[cfg(target_arch = "wasm32")]
fn refusal(_: &wgpu::Device, _: wgpu::ErrorFilter) -> impl FnOnce() -> Option<wgpu::Error> {
    || None
}

impl Gpu {
    pub(super) async fn open(adapter: &wgpu::Adapter, info: DeviceInfo) -> Result<Self> {
        let limits = adapter.limits();
        let max_binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let optional = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("wgoal"),
                required_features: adapter.features() & optional,
                required_limits: limits,
                experimental_features: wgpu::ExperimentalFeatures::disabled(),
                memory_hints: wgpu::MemoryHints::Performance,
                trace: wgpu::Trace::Off,
            })
            .await
            .map_err(|e| {
                let advice = "update the driver, or choose another device (`wgoal devices` lists them)";
                Error::device(&info.name, "an adapter that opens", e, advice)
            })?;
        let subgroup = match device.features().contains(wgpu::Features::SUBGROUP) {
            true => adapter.get_info().subgroup_min_size,
            false => 0,
        };
        let fault = Arc::new(Mutex::new(None));
        let seen = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&seen).get_or_insert(error.to_string());
        }));
        let seen = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            lock(&seen).get_or_insert(format!("the device was lost ({reason:?}): {message}"));
        });
        let make = |label, size, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        use wgpu::BufferUsages as Use;
        let params = make("params", PARAM_SLOT * PARAM_SLOTS, Use::UNIFORM | Use::COPY_DST);
        let nothing = make("nothing", 16, Use::STORAGE | Use::COPY_SRC);
        let rate = info.work_per_submit() / SUBMISSION;
        Ok(Self(Arc::new(Inner {
            device,
            queue,
            info,
            subgroup,
            params,
            nothing,
            pipelines: Mutex::default(),
            bound: Mutex::default(),
            images: Mutex::default(),
            replaced: Mutex::default(),
            max_binding: AtomicUsize::new(usize::try_from(max_binding).unwrap_or(usize::MAX)),
            flight: Mutex::new(Flight { submissions: VecDeque::new(), rate, ended: Instant::now() }),
            fault,
            last: Mutex::new("nothing yet"),
            #[cfg(not(target_arch = "wasm32"))]
            choices: Mutex::default(),
            profile: Mutex::default(),
        })))
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// What was measured of matrix products.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn choices(&self) -> MutexGuard<'_, Option<crate::kernels::Choices>> {
        lock(&self.0.choices)
    }

    /// Lanes that every subgroup has at least; 0 where shaders cannot use subgroups.
    pub fn subgroup(&self) -> u32 {
        self.0.subgroup
    }

    /// The largest storage binding, in bytes.
    pub fn max_binding(&self) -> usize {
        self.0.max_binding.load(Ordering::Relaxed)
    }

    /// Whether an image can hold what a binding can; see [`Access::Image`].
    pub fn has_images(&self) -> bool {
        let most = self.0.device.limits().max_texture_dimension_2d;
        most >= IMAGE_ROW + IMAGE_GAP
            && u64::from(most) * 16 * u64::from(IMAGE_ROW) >= self.max_binding() as u64
    }

    /// Bytes that are allocated at the moment, where the backend keeps an account: staging of uploads included.
    pub fn memory(&self) -> Option<u64> {
        self.0.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// The first fault the driver reported, as an error.
    fn check(&self) -> Result<()> {
        match lock(&self.0.fault).as_ref() {
            None => Ok(()),
            Some(fault) => Err(Error::device(
                format!("{}, last given kernel {}", self.0.info, lock(&self.0.last)),
                "work without a driver error",
                fault.trim(),
                "resume from the last checkpoint with --resume, with a smaller --batch or on another --device",
            )),
        }
    }

    pub(super) fn allocate(&self, label: &str, bytes: usize) -> Result<Memory> {
        let size = bytes.max(16).next_multiple_of(16) as u64;
        let most = self.0.device.limits().max_buffer_size;
        if size > most {
            return Err(Error::device(
                format!("buffer {label} on {}", self.0.info.name),
                format!("at most {most} bytes in one buffer"),
                format!("{size} bytes"),
                "use a smaller --batch or --embed, or --device cpu",
            ));
        }
        use wgpu::BufferUsages as Use;
        let buffer = self.within_memory(label, size, |device| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: Use::STORAGE | Use::COPY_SRC | Use::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        Ok(Memory { buffer, gpu: self.clone() })
    }

    /// What `make` makes, unless the device has no memory for it.
    fn within_memory<T>(&self, label: &str, bytes: u64, make: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
        let refusal = refusal(&self.0.device, wgpu::ErrorFilter::OutOfMemory);
        let made = make(&self.0.device);
        match refusal() {
            None => Ok(made),
            Some(error) => Err(Error::device(
                format!("{label} on {}", self.0.info.name),
                format!("{bytes} bytes of device memory"),
                error,
                "use a smaller --batch or --embed, or --device cpu",
            )),
        }
    }

    /// The image of a binding, large enough for so many bytes.
    fn image(&self, binding: u32, bytes: u64) -> Result<Image> {
        let mut images = lock(&self.0.images);
        let rows = (bytes / 16).div_ceil(u64::from(IMAGE_ROW)) as u32;
        let smaller = match images.get(&binding) {
            Some(image) if image.texture.height() >= rows => return Ok(image.clone()),
            smaller => smaller.map(|image| image.view.clone()),
        };
        // Doubled, so that it is not made often.
        let most = self.0.device.limits().max_texture_dimension_2d.max(rows);
        let height = rows.next_power_of_two().min(most);
        let size = wgpu::Extent3d { width: IMAGE_ROW + IMAGE_GAP, height, depth_or_array_layers: 1 };
        let label = format!("image of binding {binding}");
        let bytes = 16 * u64::from(size.width) * u64::from(height);
        let texture = self.within_memory(&label, bytes, |device| {
            device.create_texture(&wgpu::TextureDescriptor {
                label: Some(&label),
                size,
                mip_level_count: 1,
                sample_count: 1,
                dimension: wgpu::TextureDimension::D2,
                format: wgpu::TextureFormat::Rgba32Float,
                usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_DST,
                view_formats: &[],
            })
        })?;
        let image = Image { view: texture.create_view(&Default::default()), texture };
        images.insert(binding, image.clone());
        if let Some(smaller) = smaller {
            self.unbind(|part| matches!(part, Part::Image(view) if *view == smaller));
        }
        Ok(image)
    }

    /// Forgets the bind groups that have such a part: they would keep its memory.
    fn unbind(&self, gone: impl Fn(&Part) -> bool) {
        lock(&self.0.bound).retain(|bound, _| !bound.parts.iter().any(&gone));
    }

    pub(super) fn write(&self, memory: &Memory, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.queue.write_buffer(&memory.buffer, offset, bytes);
        self.check()
    }

    /// Copies bytes back once everything submitted before has finished.
    pub(super) async fn read(&self, memory: &Memory, offset: u64, size: usize) -> Result<Vec<u8>> {
        self.read_buffer(&memory.buffer, offset, size).await
    }

    async fn read_buffer(&self, buffer: &wgpu::Buffer, offset: u64, size: usize) -> Result<Vec<u8>> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let staging = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: size as u64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.0.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size as u64);
        self.0.queue.submit([encoder.finish()]);
        let (sender, receiver) = futures_channel::oneshot::channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            let _ = sender.send(result);
        });
        self.wait(None)?;
        let refused = |found: String| {
            let advice = "resume from the last checkpoint with --resume, or choose another --device";
            Error::device(&self.0.info.name, "a result that can be read back", found, advice)
        };
        match receiver.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return self.check().and(Err(refused(error.to_string()))),
            Err(_) => return self.check().and(Err(refused("a device that stopped answering".into()))),
        }
        let mapped = staging.slice(..).get_mapped_range().map_err(|e| refused(e.to_string()))?;
        let bytes = mapped.to_vec();
        self.check()?;
        Ok(bytes)
    }

    /// Lets the device catch up: with everything, or with one submission. In a browser it returns at once.
    pub(super) fn wait(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let poll = wgpu::PollType::Wait { submission_index, timeout: None };
        if let Err(error) = self.0.device.poll(poll) {
            lock(&self.0.fault).get_or_insert(error.to_string());
        }
        self.check()
    }

    /// Makes the device lose itself, for tests of what happens then.
    pub fn destroy(&self) {
        self.0.device.destroy();
    }

    /// Makes the largest storage binding smaller from now on, for tests of how work is split by it.
    pub fn limit_bindings(&self, bytes: usize) {
        self.0.max_binding.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Runs `source` in the place of a kernel's shader from now on, for tests of what a wrong driver would do.
    pub fn replace_shader(&self, kernel: &str, source: String) {
        lock(&self.0.replaced).insert(kernel.into(), source);
        lock(&self.0.pipelines).clear();
        lock(&self.0.bound).clear();
    }

    /// From now on, times every dispatch on its own, or no longer. What was timed since the last call comes back.
    pub(super) fn profile(&self, on: bool) -> Profile {
        std::mem::replace(&mut *lock(&self.0.profile), on.then(Profile::default)).unwrap_or_default()
    }

    /// Cost that one submission should have, by what earlier ones took.
    fn work_per_submit(&self) -> f64 {
        lock(&self.0.flight).rate * SUBMISSION
    }

    /// Waits for a submission and learns from it.
    fn finish(&self, submission: Submission) -> Result<()> {
        self.wait(Some(submission.index))?;
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

    /// Bind groups that are kept at the moment.
    pub fn bind_groups(&self) -> usize {
        lock(&self.0.bound).len()
    }

    /// The bind group of these regions for a kernel, and what is to be copied into images before; made on first use, and
    /// gone with any of the buffers.
    fn bind(
        &self,
        spec: &KernelSpec,
        pipeline: &Pipeline,
        params_size: u64,
        regions: &[Region],
    ) -> Result<(wgpu::BindGroup, Vec<Copied>)> {
        let inner = &self.0;
        let mut parts = vec![Part::Buffer(inner.params.clone(), 0, params_size)];
        let mut copied = Vec::new();
        for ((binding, region), access) in (1..).zip(regions).zip(spec.bindings) {
            let buffer = region.buffer.unwrap_or(&inner.nothing).clone();
            // A binding is whole vec4s; the allocation is rounded up to them.
            let bytes = region.size.next_multiple_of(16);
            parts.push(match access {
                Access::Read | Access::ReadWrite => Part::Buffer(buffer, region.offset, bytes),
                Access::Image => {
                    let image = self.image(binding, bytes)?;
                    copied.push(Copied { buffer, offset: region.offset, bytes, image: image.texture });
                    Part::Image(image.view)
                }
            });
        }
        let mut kept = lock(&inner.bound);
        let bound = Bound { layout: pipeline.layout.clone(), parts };
        if let Some(group) = kept.get(&bound) {
            return Ok((group.clone(), copied));
        }
        let resource = |part| match part {
            &Part::Buffer(ref buffer, offset, size) => {
                let size = wgpu::BufferSize::new(size);
                wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
            }
            Part::Image(view) => wgpu::BindingResource::TextureView(view),
        };
        let entry = |(binding, part)| wgpu::BindGroupEntry { binding, resource: resource(part) };
        let group = inner.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(spec.name),
            layout: &bound.layout,
            entries: &(0..).zip(&bound.parts).map(entry).collect::<Vec<_>>(),
        });
        if kept.len() >= MAX_BOUND {
            kept.clear();
        }
        kept.insert(bound, group.clone());
        Ok((group, copied))
    }

    /// Builds the pipeline of a kernel variant on first use; a driver's refusal is an error with the driver's words.
    fn pipeline(&self, spec: &'static KernelSpec, constants: &[(&str, String)]) -> Result<Arc<Pipeline>> {
        let key = constants
            .iter()
            .fold(spec.name.to_string(), |key, (name, value)| format!("{key} {name}={value}"));
        // A section's text begins on a line of its own.
        let label = key.lines().next().unwrap_or_default();
        if let Some(pipeline) = lock(&self.0.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        let source = lock(&self.0.replaced).get(spec.name).cloned();
        let source = specialise(source.as_deref().unwrap_or(spec.source), constants)?;
        let device = &self.0.device;
        let refusal = refusal(device, wgpu::ErrorFilter::Validation);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let module = if shader_checks() {
            device.create_shader_module(descriptor)
        } else {
            // SAFETY: every kernel guards its own indices and loops; the tests run them with the checks on.
            unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let buffer = |ty, dynamic| wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: dynamic,
            min_binding_size: None,
        };
        let storage = |access: &Access| match access {
            Access::Read => buffer(wgpu::BufferBindingType::Storage { read_only: true }, false),
            Access::ReadWrite => buffer(wgpu::BufferBindingType::Storage { read_only: false }, false),
            Access::Image => wgpu::BindingType::StorageTexture {
                access: wgpu::StorageTextureAccess::ReadOnly,
                format: wgpu::TextureFormat::Rgba32Float,
                view_dimension: wgpu::TextureViewDimension::D2,
            },
        };
        let params = buffer(wgpu::BufferBindingType::Uniform, true);
        let types = std::iter::once(params).chain(spec.bindings.iter().map(storage));
        let visibility = wgpu::ShaderStages::COMPUTE;
        let entry = |(binding, ty)| wgpu::BindGroupLayoutEntry { binding, visibility, ty, count: None };
        let entries: Vec<_> = (0..).zip(types).map(entry).collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(spec.name),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(spec.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            // Every kernel writes its workgroup memory before it reads it.
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        if let Some(error) = refusal() {
            return Err(Error::device(
                format!("kernel {label} on {}", self.0.info.name),
                "a shader that the driver accepts",
                error,
                "choose another --device and report this with the output of `wgoal devices`",
            ));
        }
        let pipeline = Arc::new(Pipeline { layout, pipeline });
        lock(&self.0.pipelines).insert(key.clone(), pipeline.clone());
        Ok(pipeline)
    }
}

struct Dispatch {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
    /// Into the images that it reads.
    copied: Vec<Copied>,
    offset: u32,
    grid: [u32; 3],
    /// For the profile: what it is, and its bytes and floating-point operations.
    what: String,
    bytes: f64,
    cost: f64,
}

impl Dispatch {
    fn encode(&self, pass: &mut wgpu::ComputePass) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bindings, &[self.offset]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

/// Collects dispatches for a GPU; see [`super::Commands`].
pub struct Recorder {
    gpu: Gpu,
    /// Invocations of a workgroup of the row kernels, a power of two.
    pub lanes: u32,
    /// The matrix product to use whatever the shape; `None` chooses by device and shape.
    pub matmul: Option<&'static MatmulVariant>,
    /// Cost that one dispatch should have. Fixed by the kind of device, not by its measured speed: where work is split
    /// decides in which order sums are taken.
    pub budget: f64,
    /// Bytes of the largest storage binding.
    pub max_binding: usize,
    /// What the next dispatches are called in a profile, if not as their kernel.
    pub(crate) what: Option<String>,
    dispatches: Vec<Dispatch>,
    params: Vec<u8>,
    cost: f64,
}

impl Recorder {
    pub(super) fn new(gpu: Gpu) -> Self {
        // On a software adapter a barrier is a switch of coroutines: one vector's worth of lanes has the fewest.
        let lanes = if gpu.info().kind == DeviceKind::Software { 8 } else { 64 };
        let (budget, max_binding) = (gpu.info().work_per_submit(), gpu.max_binding());
        Self {
            gpu,
            lanes,
            matmul: None,
            budget,
            max_binding,
            what: None,
            dispatches: Vec::new(),
            params: Vec::new(),
            cost: 0.0,
        }
    }

    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Rows of `stride` floats that one binding and one dimension of a grid hold: a multiple of 64, so that what follows
    /// them is aligned.
    pub fn rows_per_binding(&self, stride: usize) -> usize {
        let rows = self.max_binding / (4 * stride.max(1));
        (rows.min(65_535) / 64 * 64).max(64)
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
        let inner = &self.gpu.0.clone();
        let limit = inner.device.limits().max_compute_workgroups_per_dimension as usize;
        if grid.contains(&0) || grid.iter().any(|&n| n > limit) || regions.len() != spec.bindings.len() {
            return Err(Error::device(
                format!("kernel {}", spec.name),
                format!("1 to {limit} workgroups a dimension and {} bindings", spec.bindings.len()),
                format!("{grid:?} and {}", regions.len()),
                "use a smaller --batch, or --device cpu",
            ));
        }
        let full = self.params.len() as u64 == PARAM_SLOT * PARAM_SLOTS;
        if full || (self.cost > 0.0 && self.cost + cost > self.gpu.work_per_submit()) {
            self.submit()?;
        }
        let pipeline = self.gpu.pipeline(spec, constants)?;
        let mut block = UniformBuffer::new(Vec::new());
        block
            .write(params)
            .map_err(|e| Error::device(spec.name, "parameters that fit", e, "report this as a bug"))?;
        let mut block = block.into_inner();
        block.resize(block.len().next_multiple_of(16), 0);
        let offset = self.params.len();
        let size = block.len() as u64;
        self.params.extend_from_slice(&block);
        self.params.resize(offset + PARAM_SLOT as usize, 0);

        let (bindings, copied) = self.gpu.bind(spec, &pipeline, size, regions)?;
        *lock(&inner.last) = spec.name;
        let grid = grid.map(|n| n as u32);
        let what = self.what.clone().unwrap_or_else(|| spec.name.into());
        let bytes =
            regions.iter().filter(|region| region.buffer.is_some()).map(|region| region.size as f64).sum();
        let offset = offset as u32;
        self.dispatches.push(Dispatch { pipeline, bindings, copied, offset, grid, what, bytes, cost });
        self.cost += cost;
        Ok(())
    }

    /// Hands the queued dispatches to the device, waiting first if too many submissions are under way.
    pub fn submit(&mut self) -> Result<()> {
        if self.dispatches.is_empty() {
            return self.gpu.check();
        }
        #[cfg(not(target_arch = "wasm32"))]
        if lock(&self.gpu.0.profile).is_some() {
            return self.submit_timed();
        }
        let inner = &self.gpu.0;
        let mut encoder = inner.device.create_command_encoder(&Default::default());
        // A pass takes no copies.
        for together in self.dispatches.chunk_by(|_, next| next.copied.is_empty()) {
            together[0].copied.iter().for_each(|copied| copied.encode(&mut encoder));
            let mut pass = encoder.begin_compute_pass(&Default::default());
            together.iter().for_each(|dispatch| dispatch.encode(&mut pass));
        }
        let oldest = {
            // The parameters are written and used under one lock: two recorders share the buffer.
            let mut flight = lock(&inner.flight);
            inner.queue.write_buffer(&inner.params, 0, &self.params);
            let index = inner.queue.submit([encoder.finish()]);
            flight.submissions.push_back(Submission { index, cost: self.cost, begun: Instant::now() });
            if flight.submissions.len() > MAX_IN_FLIGHT { flight.submissions.pop_front() } else { None }
        };
        self.dispatches.clear();
        self.params.clear();
        self.cost = 0.0;
        match oldest {
            Some(submission) => self.gpu.finish(submission),
            None => self.gpu.check(),
        }
    }

    /// Each dispatch in a pass of its own between two timestamps, where the adapter has them; else in a submission of
    /// its own, so that its time holds the latency of one.
    #[cfg(not(target_arch = "wasm32"))]
    fn submit_timed(&mut self) -> Result<()> {
        let inner = self.gpu.0.clone();
        let (dispatches, params) = (std::mem::take(&mut self.dispatches), std::mem::take(&mut self.params));
        self.cost = 0.0;
        self.gpu.wait(None)?;
        inner.queue.write_buffer(&inner.params, 0, &params);
        inner.queue.submit([]);
        self.gpu.wait(None)?;
        let count = 2 * dispatches.len() as u32;
        let mut seconds = Vec::new();
        if inner.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            let queries = inner.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let times = inner.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: 8 * u64::from(count),
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let mut encoder = inner.device.create_command_encoder(&Default::default());
            for (i, dispatch) in (0..).zip(&dispatches) {
                let label = Some(&dispatch.what[..]);
                let timed = |begins: bool| wgpu::ComputePassDescriptor {
                    label,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: begins.then_some(2 * i),
                        end_of_pass_write_index: (!begins).then_some(2 * i + 1),
                    }),
                };
                // Copies count, and they lie between passes.
                drop(encoder.begin_compute_pass(&timed(true)));
                dispatch.copied.iter().for_each(|copied| copied.encode(&mut encoder));
                dispatch.encode(&mut encoder.begin_compute_pass(&timed(false)));
            }
            encoder.resolve_query_set(&queries, 0..count, &times, 0);
            inner.queue.submit([encoder.finish()]);
            let times = crate::blocking::wait(self.gpu.read_buffer(&times, 0, 8 * count as usize))?;
            let times: Vec<u64> = bytemuck::pod_collect_to_vec(&times);
            let period = f64::from(inner.queue.get_timestamp_period()) * 1e-9;
            seconds.extend(times.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period));
        } else {
            for dispatch in &dispatches {
                let start = Instant::now();
                let mut encoder = inner.device.create_command_encoder(&Default::default());
                dispatch.copied.iter().for_each(|copied| copied.encode(&mut encoder));
                dispatch.encode(&mut encoder.begin_compute_pass(&Default::default()));
                inner.queue.submit([encoder.finish()]);
                self.gpu.wait(None)?;
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        if let Some(profile) = lock(&inner.profile).as_mut() {
            for (dispatch, seconds) in dispatches.iter().zip(seconds) {
                profile.add(&dispatch.what, seconds, dispatch.cost, dispatch.bytes);
            }
        }
        self.gpu.check()
    }
}
