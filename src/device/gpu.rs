//! The one file that knows bind groups; it makes wgpu's buffers, images and pipelines, too.
//!
//! What is submitted, and when, is in the file beside, [`super::work`]. Nothing here knows what a kernel computes;
//! [`KernelSpec`] is the whole contract with a shader. The file is long because no other may know these things.

use super::profile::Profile;
use super::select::DeviceInfo;
use super::spec::{Access, KernelSpec, specialise};
use super::staging::Free;
use super::work::{Flight, ImageCopy, PARAMS, Work};
use crate::{Error, Result};
use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Texels of 16 bytes in a row of the images that some kernels read their operands from, as those pages know.
pub(super) const IMAGE_ROW: u32 = 2048;
/// Texels at the end of such a row that hold nothing: rows of a matrix would else lie a power of two apart in memory, where
/// a cache has few places for them.
const IMAGE_GAP: u32 = 4;

/// A GPU (or a software adapter) opened through wgpu.
#[derive(Clone)]
pub struct Gpu(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    info: DeviceInfo,
    /// Lanes that every subgroup has; 0 where shaders cannot use subgroups.
    subgroup: u32,
    pub params: wgpu::Buffer,
    /// Bound where a kernel's optional input is absent.
    nothing: wgpu::Buffer,
    /// Of each kernel, with the constants that its page was specialised by.
    pipelines: Mutex<HashMap<&'static str, Vec<(Vec<Constant>, Arc<Pipeline>)>>>,
    /// What was bound before, so that a step like one before makes nothing: see [`Gpu::bind`].
    bound: Mutex<HashMap<Bound, wgpu::BindGroup>>,
    /// An image for each binding that a kernel reads as one, as large as was ever needed; see [`Access::Image`].
    images: Mutex<HashMap<u32, Image>>,
    /// Shaders that stand in for a kernel's own; see [`Gpu::replace_shader`].
    replaced: Mutex<HashMap<String, String>>,
    /// Bytes of the largest storage binding; see [`Gpu::limit_bindings`].
    max_binding: AtomicUsize,
    /// What was handed over and not yet submitted.
    pub pending: Mutex<Work>,
    pub free: Free,
    pub flight: Mutex<Flight>,
    pub faults: Arc<Mutex<Faults>>,
    /// The kernel that was handed over last, for the report of a lost device.
    pub last: Mutex<&'static str>,
    /// What a layer above keeps with the device; see [`Gpu::slot`].
    slot: OnceLock<Box<dyn Any + Send + Sync>>,
    /// What each kernel took, while [`Gpu::profile`] asks for it.
    pub profile: Mutex<Option<Profile>>,
}

/// What the driver has reported.
#[derive(Default)]
pub(super) struct Faults {
    /// Of work that came to nothing: one error says so, and the device goes on.
    told: Option<String>,
    /// That the device is lost: everything is an error from then on.
    lost: Option<String>,
}

impl Faults {
    /// Takes note of what the next [`Gpu::check`] is to report. The first counts.
    pub fn tell(&mut self, fault: String) {
        self.told.get_or_insert(fault);
    }
}

/// Name and value.
type Constant = (String, String);

pub(super) struct Pipeline {
    layout: wgpu::BindGroupLayout,
    pub pipeline: wgpu::ComputePipeline,
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

/// Bind groups that are kept at most, before all are made anew: batches of local features differ in their sizes, and would add to
/// them without end.
const MAX_BOUND: usize = 2048;

/// Device memory of one buffer.
pub struct Memory {
    pub(super) buffer: wgpu::Buffer,
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

    /// What a kernel reads or writes of it; 0 where an optional input is absent.
    pub(super) fn bytes(self) -> u64 {
        if self.buffer.is_some() { self.size } else { 0 }
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
    match super::variable("WGOAL_SHADER_CHECKS").as_deref() {
        Some("on") => true,
        Some("off") => false,
        _ => cfg!(debug_assertions),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, what the driver says against objects that are made; called, its first word.
#[cfg(feature = "native")]
fn refusal<const N: usize>(
    device: &wgpu::Device,
    of: [wgpu::ErrorFilter; N],
) -> impl FnOnce() -> Option<wgpu::Error> {
    let scopes = of.map(|of| device.push_error_scope(of));
    // The innermost first; all of them, whatever it holds.
    || scopes.into_iter().rev().filter_map(|scope| super::wait::wait(scope.pop())).reduce(|first, _| first)
}

/// A browser would tell later, and nothing here can wait: its word goes to the handler of uncaptured errors, so that it
/// comes out of a later [`Gpu::check`].
#[cfg(not(feature = "native"))]
fn refusal<const N: usize>(
    _: &wgpu::Device,
    _: [wgpu::ErrorFilter; N],
) -> impl FnOnce() -> Option<wgpu::Error> {
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
        let faults = Arc::new(Mutex::new(Faults::default()));
        let seen = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| lock(&seen).tell(error.to_string())));
        let seen = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            let fault = format!("the device was lost ({reason:?}): {message}");
            lock(&seen).lost.get_or_insert(fault);
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
        let params = make("params", PARAMS, Use::UNIFORM | Use::COPY_DST);
        let nothing = make("nothing", 16, Use::STORAGE | Use::COPY_SRC);
        let flight = Flight::new(info.work_per_submit());
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
            pending: Mutex::default(),
            free: Free::default(),
            flight: Mutex::new(flight),
            faults,
            last: Mutex::new("nothing yet"),
            slot: OnceLock::new(),
            profile: Mutex::default(),
        })))
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// What a layer above keeps for as long as the device is open: made by `make` at the first call. There is one such slot,
    /// of one type; `None` where it was filled with another.
    #[cfg(feature = "native")]
    pub(crate) fn slot<T: Send + Sync + 'static>(&self, make: impl FnOnce(&Self) -> T) -> Option<&T> {
        self.0.slot.get_or_init(|| Box::new(make(self))).downcast_ref()
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

    /// The first fault that the driver has reported since the last call, as an error. A lost device stays at fault.
    pub(super) fn check(&self) -> Result<()> {
        let fault = {
            let mut faults = lock(&self.0.faults);
            let told = faults.told.take();
            faults.lost.clone().or(told)
        };
        match fault {
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
    pub(super) fn within_memory<T>(
        &self,
        label: &str,
        bytes: u64,
        make: impl FnOnce(&wgpu::Device) -> T,
    ) -> Result<T> {
        let refusal = refusal(&self.0.device, [wgpu::ErrorFilter::OutOfMemory]);
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

    /// Copies bytes back once everything handed over before has finished.
    pub(super) async fn read(&self, memory: &Memory, offset: u64, size: usize) -> Result<Vec<u8>> {
        self.flush()?;
        self.read_buffer(&memory.buffer, offset, size).await
    }

    pub(super) async fn read_buffer(
        &self,
        buffer: &wgpu::Buffer,
        offset: u64,
        size: usize,
    ) -> Result<Vec<u8>> {
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
        self.poll(None)?;
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

    /// Bind groups that are kept at the moment.
    pub fn bind_groups(&self) -> usize {
        lock(&self.0.bound).len()
    }

    /// The bind group of these regions for a kernel, and what is to be copied into images before; made on first use, and
    /// gone with any of the buffers.
    pub(super) fn bind(
        &self,
        spec: &KernelSpec,
        pipeline: &Pipeline,
        params_size: u64,
        regions: &[Region],
    ) -> Result<(wgpu::BindGroup, Vec<ImageCopy>)> {
        let inner = &self.0;
        let mut parts = vec![Part::Buffer(inner.params.clone(), 0, params_size)];
        let mut copies = Vec::new();
        for ((binding, region), access) in (1..).zip(regions).zip(spec.bindings) {
            let buffer = region.buffer.unwrap_or(&inner.nothing).clone();
            // A binding is whole vec4s; the allocation is rounded up to them.
            let bytes = region.size.next_multiple_of(16);
            parts.push(match access {
                Access::Read | Access::ReadWrite => Part::Buffer(buffer, region.offset, bytes),
                Access::Image => {
                    let image = self.image(binding, bytes)?;
                    copies.push(ImageCopy { from: buffer, offset: region.offset, bytes, to: image.texture });
                    Part::Image(image.view)
                }
            });
        }
        let mut kept = lock(&inner.bound);
        let bound = Bound { layout: pipeline.layout.clone(), parts };
        if let Some(group) = kept.get(&bound) {
            return Ok((group.clone(), copies));
        }
        let resource = |part| match part {
            &Part::Buffer(ref buffer, offset, size) => {
                let size = wgpu::BufferSize::new(size);
                wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
            }
            Part::Image(view) => wgpu::BindingResource::TextureView(view),
        };
        let entry = |(binding, part)| wgpu::BindGroupEntry { binding, resource: resource(part) };
        let refusal = refusal(&inner.device, [wgpu::ErrorFilter::Validation]);
        let group = inner.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(spec.name),
            layout: &bound.layout,
            entries: &(0..).zip(&bound.parts).map(entry).collect::<Vec<_>>(),
        });
        if let Some(error) = refusal() {
            return Err(Error::device(
                format!("kernel {} on {}", spec.name, inner.info.name),
                "memory that the device binds",
                error,
                "use a smaller --batch or --embed, or --device cpu",
            ));
        }
        if kept.len() >= MAX_BOUND {
            kept.clear();
        }
        kept.insert(bound, group.clone());
        Ok((group, copies))
    }

    /// Builds the pipeline of a kernel variant on first use; a driver's refusal is an error with the driver's words.
    pub(super) fn pipeline(
        &self,
        spec: &'static KernelSpec,
        constants: &[(&str, String)],
    ) -> Result<Arc<Pipeline>> {
        let same = |kept: &[Constant]| {
            kept.len() == constants.len()
                && kept.iter().zip(constants).all(|((a, x), (b, y))| a == b && x == y)
        };
        let made = |pipelines: &HashMap<_, Vec<(Vec<Constant>, Arc<Pipeline>)>>| {
            let of_kernel = pipelines.get(spec.name)?;
            of_kernel.iter().find(|(kept, _)| same(kept)).map(|(_, pipeline)| pipeline.clone())
        };
        if let Some(pipeline) = made(&lock(&self.0.pipelines)) {
            return Ok(pipeline);
        }
        let label = constants
            .iter()
            .fold(spec.name.to_string(), |label, (name, value)| format!("{label} {name}={value}"));
        // A section's text begins on a line of its own.
        let label = label.lines().next().unwrap_or_default();
        let source = lock(&self.0.replaced).get(spec.name).cloned();
        let source = specialise(source.as_deref().unwrap_or(spec.source), constants)?;
        let device = &self.0.device;
        // A driver's compiler that fails counts as an internal error, and tells more than what follows from it.
        let refusal = refusal(device, [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal]);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let module = if shader_checks() {
            device.create_shader_module(descriptor)
        } else {
            // SAFETY: every kernel guards its own indices and loops; the tests run them with the checks on. A weight
            // file stands in them as src/objective/custom writes it, which guards its indices, loops and divisions.
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
        let constants = constants.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        lock(&self.0.pipelines).entry(spec.name).or_default().push((constants, pipeline.clone()));
        Ok(pipeline)
    }
}
