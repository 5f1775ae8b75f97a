//! Where the work runs: a GPU through wgpu, or the CPU.
//!
//! [`Device`] is a value, not a type parameter. The training pipeline is written once against [`Commands`], and each
//! kernel either dispatches its shader or runs its CPU reference.

#[doc(hidden)]
mod bind;
#[doc(hidden)]
mod buffer;
mod environment;
mod faults;
#[doc(hidden)]
mod gpu;
#[cfg(not(feature = "native"))]
mod held_back;
mod image;
mod pipeline;
mod profile;
#[doc(hidden)]
mod recorder;
mod select;
mod shared;
#[doc(hidden)]
mod spec;
#[doc(hidden)]
mod staged;
mod staging;
mod submit;
#[cfg(feature = "native")]
mod threads;
#[cfg(feature = "native")]
mod timing;
#[cfg(feature = "native")]
mod wait;
mod work;

#[doc(hidden)]
pub use buffer::{
    Buffer, Element, Mat, MatMut, Matrix, Slice, SliceMut, Upload, pad_rows, padded, unpad_rows,
};
pub use environment::check_environment;
pub(crate) use environment::{check as check_variable, variable};
#[doc(hidden)]
pub use gpu::{Gpu, Region};
pub use profile::{KernelTime, Profile};
pub(crate) use profile::{clock, clock_of};
pub(crate) use recorder::ROWS_AT_ONCE;
#[doc(hidden)]
pub use recorder::Recorder;
pub use select::{Adapters, DeviceInfo, DeviceKind, DeviceLimits};
pub(crate) use spec::section_lines;
#[doc(hidden)]
pub use spec::{Access, KernelSpec, specialise};
#[doc(hidden)]
pub use staged::Staged;
#[cfg(feature = "native")]
pub use threads::start_threads;
#[cfg(feature = "native")]
pub(crate) use wait::wait;

use crate::cluster::Team;
use crate::{Error, ErrorKind, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The native CPU. Kernels run their CPU reference on all cores.
#[derive(Clone)]
pub struct Cpu(DeviceInfo);

/// Where kernels run: the native CPU, or an adapter opened through wgpu. Cloning is cheap, and a clone is the same
/// device.
#[derive(Clone)]
pub struct Device(
    pub(crate) Backend,
    pub(crate) Option<Arc<AtomicBool>>,
    /// The processes that divide the work on it.
    pub(crate) Option<Arc<Team>>,
);

/// What a device is.
#[derive(Clone)]
pub(crate) enum Backend {
    Cpu(Cpu),
    Gpu(Gpu),
}

impl Device {
    pub(crate) fn of(backend: Backend) -> Self {
        Self(backend, None, None)
    }

    /// The same device, but lets another thread stop what takes long on it. Once `stop` is true, training, embedding,
    /// evaluation, search, closed forms and large gradients end soon, with an error of the kind
    /// [`crate::ErrorKind::Stopped`]. A matrix decomposition that has begun is finished first.
    #[must_use]
    pub fn stop_when(&self, stop: Arc<AtomicBool>) -> Self {
        Self(self.0.clone(), Some(stop), self.2.clone())
    }

    /// The error of work that was asked to stop. Long work calls this between its parts.
    pub(crate) fn check_stop(&self) -> Result<()> {
        match &self.1 {
            Some(stop) if stop.load(Ordering::Relaxed) => {
                let advice = "call again to start from the beginning";
                let (thing, found) = (format!("work on {self}"), "a request to stop");
                Err(Error::new(ErrorKind::Stopped, thing, "to reach its end", found, advice))
            }
            _ => Ok(()),
        }
    }

    /// The native CPU.
    pub fn cpu() -> Self {
        Self::of(Backend::Cpu(Cpu(DeviceInfo { reason: "asked for".into(), ..DeviceInfo::native_cpu(0) })))
    }

    /// [`Device::open`] without waiting.
    ///
    /// # Errors
    /// Those of [`Device::open`].
    pub async fn open_async(request: &str) -> Result<Self> {
        check_environment()?;
        match request {
            // This asks no driver.
            "cpu" => Ok(Self::cpu()),
            _ => Adapters::find_async().await.open_async(request).await,
        }
    }

    /// [`Device::list`] without waiting.
    pub async fn list_async() -> Vec<DeviceInfo> {
        Adapters::find_async().await.devices()
    }

    /// The adapter; `None` for the native CPU.
    #[doc(hidden)]
    pub fn adapter(&self) -> Option<&Gpu> {
        if let Self(Backend::Gpu(gpu), ..) = self { Some(gpu) } else { None }
    }

    /// What the device is, and why it was chosen.
    pub fn info(&self) -> &DeviceInfo {
        match self {
            Self(Backend::Cpu(cpu), ..) => &cpu.0,
            Self(Backend::Gpu(gpu), ..) => gpu.info(),
        }
    }

    /// Most bytes of a strip of similarities.
    fn max_binding(&self) -> usize {
        // On the CPU, a strip should stay near the caches. On a GPU, `PORTABLE` is what every adapter grants.
        const CPU_STRIP: usize = 32 << 20;
        const PORTABLE: usize = 128 << 20;
        match self {
            Self(Backend::Cpu(_), ..) => CPU_STRIP,
            Self(Backend::Gpu(gpu), ..) => gpu.max_binding().min(PORTABLE),
        }
    }

    /// Rows of a `rows` x `cols` product over `inner` to compute at a time: as many as fit a binding and the work of
    /// one submission. If that is not all rows, it is a multiple of 64 for alignment, or of 16 where 64 rows do not
    /// fit.
    ///
    /// # Errors
    /// The rows are so wide that a binding does not hold 16 of them.
    pub(crate) fn strip_rows(&self, rows: usize, cols: usize, inner: usize) -> Result<usize> {
        let by_memory = self.max_binding() / (4 * padded(cols.max(inner).max(1)));
        let by_work = match self {
            Self(Backend::Cpu(_), ..) => usize::MAX,
            Self(Backend::Gpu(gpu), ..) => {
                (gpu.info().work_per_submit() / (2.0 * cols.max(1) as f64 * inner.max(1) as f64)) as usize
            }
        };
        // A kernel may use one workgroup per row, and a dimension of the grid has at most 65,535 workgroups.
        let strip = by_memory.min(by_work).min(65_535);
        if strip >= rows {
            return Ok(rows);
        }
        // Rows begin at multiples of 16 bytes and bindings at multiples of 256, so every 16th row can begin a binding.
        const ALIGNED: usize = 16;
        let bound = matches!(self, Self(Backend::Gpu(_), ..));
        if bound && by_memory < ALIGNED.min(rows) {
            let most = self.max_binding() / (4 * ALIGNED);
            return Err(Error::device(
                format!("similarities on {self}"),
                format!(
                    "at most {most} candidates, and embeddings as wide, of which a binding holds {ALIGNED} rows"
                ),
                cols.max(inner),
                "compare with fewer at once, or use --device cpu",
            ));
        }
        let strip =
            if bound && by_memory < 64 { by_memory / ALIGNED * ALIGNED } else { (strip / 64 * 64).max(64) };
        Ok(strip.min(rows))
    }

    /// Turns the timing of each kernel on or off. Returns the times since the last call. The CPU has one table for all
    /// threads of the process.
    ///
    /// On a GPU a timed step takes longer as a whole: its kernels do not overlap, and each submission waits.
    pub fn profile(&self, on: bool) -> Profile {
        match self {
            Self(Backend::Cpu(_), ..) => profile::on_cpu(on),
            Self(Backend::Gpu(gpu), ..) => gpu.profile(on),
        }
    }

    /// Waits until all work handed over is done. In a browser it returns at once.
    pub fn finish(&self) -> Result<()> {
        match self {
            Self(Backend::Cpu(_), ..) => Ok(()),
            Self(Backend::Gpu(gpu), ..) => gpu.wait(),
        }
    }

    /// The result of work on this device. Without a browser this waits on the calling thread, and CPU work runs on a thread
    /// of rayon's pool.
    #[cfg(feature = "native")]
    pub(crate) async fn done<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        self.wait(work)
    }

    /// The result of work on this device.
    #[cfg(not(feature = "native"))]
    pub(crate) async fn done<T>(&self, work: impl Future<Output = T>) -> T {
        work.await
    }

    /// In a browser, waits until the device can take more work. Elsewhere a submission itself waits.
    pub(crate) async fn keep_up(&self) -> Result<()> {
        #[cfg(not(feature = "native"))]
        if let Self(Backend::Gpu(gpu), ..) = self {
            gpu.keep_up().await?;
        }
        Ok(())
    }

    /// Prepares elements for an [`Upload`], on any thread. `None` if the device gains nothing by it, or cannot do it.
    pub fn stage<T: Element>(&self, values: &[T]) -> Option<Staged> {
        match self {
            Self(Backend::Cpu(_), ..) => None,
            Self(Backend::Gpu(gpu), ..) => {
                let bytes: &[u8] = bytemuck::cast_slice(values);
                gpu.stage_ahead(bytes.len(), |mut to| to.copy_from_slice(bytes))
            }
        }
    }

    /// Like [`Device::stage`], but sends the values as f16, which halves the bytes. Every value must be exact in f16,
    /// and their number must be even.
    pub fn stage_halves(&self, values: &[f32]) -> Option<Staged> {
        const AT_ONCE: usize = 1024;
        match self {
            Self(Backend::Gpu(gpu), ..) => gpu.stage_ahead(values.len() * size_of::<f16>(), |mut to| {
                let mut halves = [f16::ZERO; AT_ONCE];
                for (values, first) in values.chunks(AT_ONCE).zip((0..).step_by(AT_ONCE * size_of::<f16>())) {
                    let halves = &mut halves[..values.len()];
                    halves.convert_from_f32_slice(values);
                    let bytes: &[u8] = bytemuck::cast_slice(halves.reinterpret_cast());
                    to.slice(first..first + bytes.len()).copy_from_slice(bytes);
                }
            }),
            Self(Backend::Cpu(_), ..) => None,
        }
    }

    /// Starts recording work.
    pub fn commands(&self) -> Commands {
        match self {
            Self(Backend::Cpu(_), ..) => Commands::Cpu,
            Self(Backend::Gpu(gpu), ..) => Commands::Gpu(Recorder::new(gpu.clone())),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info().fmt(f)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.info())
    }
}

#[doc(hidden)]
/// Work for a device. On the CPU a kernel runs when it is called. On a GPU it is queued until [`Commands::submit`].
pub enum Commands {
    Cpu,
    Gpu(Recorder),
}

impl Commands {
    /// Hands the queued work to the device, which runs it in order. Does not wait for it.
    pub fn submit(&mut self) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::Gpu(recorder) => recorder.submit(),
        }
    }
}

#[cfg(feature = "native")]
impl Device {
    /// The best device of this machine: a discrete GPU, else an integrated one, else the native CPU. A software adapter
    /// is used only if `WGPU_ADAPTER_NAME` names it.
    ///
    /// The variables `WGPU_BACKEND`, `WGPU_ADAPTER_NAME` and `WGPU_POWER_PREF` (`low` prefers an integrated GPU) are
    /// honoured.
    pub fn auto() -> Result<Self> {
        Self::open("auto")
    }

    /// The best adapter that wgpu finds, software adapters last.
    ///
    /// # Errors
    /// There is no adapter; the message names the packages to install.
    pub fn gpu() -> Result<Self> {
        Self::open("gpu")
    }

    /// The device that `request` names: `auto`, `gpu`, `cpu`, an index of [`Device::list`], or words that all occur in
    /// a device's backend, name or driver, such as `vulkan` or `gl:llvmpipe`.
    ///
    /// # Errors
    /// No device fits; the message lists the devices. Or a variable such as `WGPU_BACKEND` has an unknown value.
    pub fn open(request: &str) -> Result<Self> {
        wait(Self::open_async(request))
    }

    /// Every device of this machine, the native CPU last.
    pub fn list() -> Vec<DeviceInfo> {
        wait(Self::list_async())
    }
}

/// Every adapter of this machine, for unit tests. Mark a test that calls this as `ignore`, because it cannot test
/// anything on a machine without an adapter. `scripts/test` installs adapters and runs the ignored tests.
#[cfg(all(test, feature = "native"))]
pub(crate) fn every_adapter() -> Vec<Device> {
    let adapters = Adapters::find();
    let real = adapters.devices().into_iter().filter(|info| info.kind != DeviceKind::Cpu);
    let devices: Vec<_> = real.map(|info| adapters.open(&info.index.to_string()).unwrap()).collect();
    assert!(!devices.is_empty(), "no adapter here: see scripts/test");
    devices
}

#[cfg(all(test, feature = "native"))]
mod tests {
    use super::*;

    #[test]
    fn a_strip_on_the_cpu_has_no_limit() {
        assert_eq!(Device::cpu().strip_rows(1000, 40_000_000, 4).unwrap(), 64, "nothing is bound there");
    }

    #[test]
    #[ignore = "needs an adapter: run scripts/test"]
    fn strips_fit_a_binding_or_are_refused() {
        for device in every_adapter() {
            let info = device.info();
            let most = device.max_binding();
            let cols = most / (4 * 55);
            assert_eq!(device.strip_rows(1000, cols, 4).unwrap(), 48, "{info}");
            assert_eq!(device.strip_rows(12, most / (4 * 20), 4).unwrap(), 12, "{info}");
            let error = device.strip_rows(1000, most / (4 * 15), 4).unwrap_err().to_string();
            assert!(error.contains("candidates") && error.ends_with("use --device cpu"), "{error}");
        }
    }
}
