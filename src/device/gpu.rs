//! A GPU: its open device, its memory, and reading results back.
//!
//! Nothing here knows what a kernel computes. `bind.rs` makes pipelines and bind groups, `submit.rs` submits work.

use super::faults::{Faults, lock, refusal};
use super::image::Images;
use super::pipeline::{Bound, Constant, Part, Pipeline};
use super::profile::Profile;
use super::select::DeviceInfo;
use super::staged::Free;
use super::work::{Flight, Item, PARAMS, ReadBack, Work};
use crate::{Error, Result};
use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// What to do when a device fails.
const LOST: &str = match cfg!(feature = "native") {
    true => "resume from the last checkpoint with --resume, with a smaller --batch or on another --device",
    false => {
        "open the device again and continue from the last checkpoint, with a smaller batch if it fails again"
    }
};

/// A GPU (or a software adapter) opened through wgpu.
#[derive(Clone)]
pub struct Gpu(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: DeviceInfo,
    /// Smallest number of lanes in a subgroup; 0 if shaders cannot use subgroups.
    subgroup: u32,
    pub params: wgpu::Buffer,
    /// Bound if a kernel's optional input is absent.
    pub nothing: wgpu::Buffer,
    /// Pipelines by kernel, each with the constants of its shader variant.
    pub pipelines: Mutex<HashMap<&'static str, Vec<(Vec<Constant>, Arc<Pipeline>)>>>,
    /// Bind groups of earlier calls, so that a repeated step makes no new ones: see [`Gpu::bind`].
    pub bound: Mutex<HashMap<Bound, wgpu::BindGroup>>,
    pub images: Mutex<Images>,
    /// Shaders that replace a kernel's own; see [`Gpu::replace_shader`].
    pub replaced: Mutex<HashMap<String, String>>,
    /// Bytes of the largest storage binding; see [`Gpu::limit_bindings`].
    max_binding: AtomicUsize,
    /// Work handed over and not yet submitted.
    pub pending: Mutex<Work>,
    pub free: Free,
    pub flight: Mutex<Flight>,
    pub faults: Arc<Mutex<Faults>>,
    /// The kernel handed over last, for the report of a lost device.
    pub last: Mutex<&'static str>,
    /// Data that a higher layer keeps with the device; see [`Gpu::slot`].
    slot: OnceLock<Box<dyn Any + Send + Sync>>,
    /// The time of each kernel, while [`Gpu::profile`] is on.
    pub profile: Mutex<Option<Profile>>,
}

/// Device memory of one buffer.
pub struct Memory {
    pub(super) buffer: wgpu::Buffer,
    gpu: Gpu,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Bind groups would keep the memory alive.
        self.gpu.unbind(|part| matches!(part, Part::Buffer(buffer, ..) if *buffer == self.buffer));
    }
}

/// A part of a buffer, in bytes.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    pub(super) buffer: Option<&'a wgpu::Buffer>,
    pub(super) offset: u64,
    pub(super) size: u64,
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

    /// Bytes that a kernel reads or writes; 0 for an absent optional input.
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

impl Gpu {
    /// Opens an adapter. The function is long because it lists everything that an open adapter holds.
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
                Error::device(&info.name, "an adapter that opens", &e, advice).with_source(Arc::new(e))
            })?;
        let subgroup = match device.features().contains(wgpu::Features::SUBGROUP) {
            true => adapter.get_info().subgroup_min_size,
            false => 0,
        };
        let faults = Arc::new(Mutex::new(Faults::default()));
        let seen = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| lock(&seen).tell(error.to_string())));
        let flight = Flight::new(info.work_per_submit());
        let seen = faults.clone();
        #[cfg(not(feature = "native"))]
        let ends = flight.held.ends();
        device.set_device_lost_callback(move |reason, message| {
            let fault = format!("the device was lost ({reason:?}): {message}");
            lock(&seen).lost.get_or_insert(fault);
            #[cfg(not(feature = "native"))]
            ends.wake();
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
        #[cfg_attr(
            target_arch = "wasm32",
            allow(clippy::arc_with_non_send_sync, reason = "a browser's device stays on its thread")
        )]
        let inner = Arc::new(Inner {
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
        });
        Ok(Self(inner))
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Data that a higher layer keeps while the device is open. The first call makes it with `make`. There is one slot,
    /// of one type: the result is `None` if the slot holds another type.
    #[cfg(feature = "native")]
    pub(crate) fn slot<T: Send + Sync + 'static>(&self, make: impl FnOnce(&Self) -> T) -> Option<&T> {
        self.0.slot.get_or_init(|| Box::new(make(self))).downcast_ref()
    }

    /// Smallest number of lanes in a subgroup; 0 if shaders cannot use subgroups.
    pub fn subgroup(&self) -> u32 {
        self.0.subgroup
    }

    /// The largest storage binding, in bytes.
    pub fn max_binding(&self) -> usize {
        self.0.max_binding.load(Ordering::Relaxed)
    }

    /// Turns the timing of each dispatch on or off. Returns the times since the last call.
    pub(super) fn profile(&self, on: bool) -> Profile {
        // The next call reports the fault.
        if let Err(error) = self.flush() {
            lock(&self.0.faults).tell(error.found().into());
        }
        std::mem::replace(&mut *lock(&self.0.profile), on.then(Profile::default)).unwrap_or_default()
    }

    /// Bytes allocated at the moment, staging of uploads included. `None` if the backend does not count them.
    pub fn memory(&self) -> Option<u64> {
        self.0.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// Returns the first fault that the driver reported since the last call as an error. A lost device returns an error
    /// every time.
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
                LOST,
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

    /// Returns what `make` makes, or an error if the device has no memory for it.
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

    /// Drops the bind groups with such a part, because they would keep its memory alive.
    pub(super) fn unbind(&self, gone: impl Fn(&Part) -> bool) {
        lock(&self.0.bound).retain(|bound, _| !bound.parts.iter().any(&gone));
    }

    /// Copies bytes back after all work handed over has finished. The copy is the last item of that work, so it counts
    /// among the submissions in flight.
    pub(super) async fn read(&self, memory: &Memory, offset: u64, size: usize) -> Result<Vec<u8>> {
        if size == 0 {
            self.flush()?;
            return Ok(Vec::new());
        }
        let to = self.read_back_buffer(size);
        let copy = Item::ReadBack(ReadBack { from: memory.buffer.clone(), offset, to: to.clone() });
        self.submit_with(Work { items: vec![copy], ..Work::default() })?;
        // A buffer can be mapped once its copy is submitted.
        #[cfg(not(feature = "native"))]
        self.keep_up().await?;
        self.map(&to).await
    }

    /// Copies all of a buffer back, apart from other work.
    #[cfg(feature = "native")]
    pub(super) async fn read_buffer(&self, buffer: &wgpu::Buffer, size: usize) -> Result<Vec<u8>> {
        let to = self.read_back_buffer(size);
        let mut encoder = self.0.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &to, 0, size as u64);
        self.0.queue.submit([encoder.finish()]);
        self.map(&to).await
    }

    /// Memory that the device writes and the host reads.
    fn read_back_buffer(&self, size: usize) -> wgpu::Buffer {
        self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: size as u64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// The contents of a buffer, after the work submitted so far.
    async fn map(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        buffer.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            let _ = sender.send(result);
        });
        self.poll(None)?;
        let refused =
            |found: String| Error::device(&self.0.info.name, "a result that can be read back", found, LOST);
        match receiver.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return self.check().and(Err(refused(error.to_string()))),
            Err(_) => return self.check().and(Err(refused("a device that stopped answering".into()))),
        }
        let mapped = buffer.slice(..).get_mapped_range().map_err(|e| refused(e.to_string()))?;
        let bytes = mapped.to_vec();
        self.check()?;
        Ok(bytes)
    }

    /// Destroys the device, for tests of a lost device.
    pub fn destroy(&self) {
        self.0.device.destroy();
    }

    /// Lowers the limit of a storage binding from now on, for tests of how work is split.
    pub fn limit_bindings(&self, bytes: usize) {
        self.0.max_binding.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Replaces a kernel's shader by `source` from now on, for tests of a wrong driver.
    pub fn replace_shader(&self, kernel: &str, source: String) {
        lock(&self.0.replaced).insert(kernel.into(), source);
        lock(&self.0.pipelines).remove(kernel);
        lock(&self.0.bound).clear();
    }

    /// Number of bind groups kept at the moment.
    pub fn bind_groups(&self) -> usize {
        lock(&self.0.bound).len()
    }
}
