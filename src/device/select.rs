//! Finds devices and chooses one, with the reason.

use super::Backend;
use super::{Cpu, Device, Gpu, check_environment, variable};
use crate::{Error, Result};
use serde::Serialize;
use std::fmt;

/// What kind of machine a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeviceKind {
    /// A GPU with its own memory.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU of a virtual machine, or one that does not report its kind.
    Other,
    /// A GPU interface that runs on the CPU.
    Software,
    /// The CPU itself.
    Cpu,
}

/// What a device is.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Position in [`Device::list`]; 0 for a CPU that was opened without looking at the list.
    pub index: usize,
    /// The name that the driver reports.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl`, `webgpu` or `native`.
    pub backend: String,
    /// What kind of machine it is.
    pub kind: DeviceKind,
    /// Driver and version, where known.
    pub driver: String,
    /// The largest storage binding in bytes; 0 for the CPU, which has no such limit.
    pub max_binding: u64,
    /// Other limits of the adapter; absent for the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<DeviceLimits>,
    /// Why it was chosen; empty in a list.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Limits of an adapter that a kernel may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeviceLimits {
    /// Largest buffer, in bytes.
    pub buffer: u64,
    /// Storage buffers per shader.
    pub storage_buffers: u32,
    /// Workgroup memory, in bytes.
    pub workgroup_memory: u32,
    /// Invocations per workgroup.
    pub invocations: u32,
    /// Workgroups per dimension of a dispatch.
    pub workgroups: u32,
}

impl From<wgpu::Limits> for DeviceLimits {
    fn from(limits: wgpu::Limits) -> Self {
        Self {
            buffer: limits.max_buffer_size,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            invocations: limits.max_compute_invocations_per_workgroup,
            workgroups: limits.max_compute_workgroups_per_dimension,
        }
    }
}

impl DeviceInfo {
    pub(super) fn native_cpu(index: usize) -> Self {
        Self {
            index,
            name: format!("CPU, {} threads", rayon::current_num_threads()),
            backend: "native".into(),
            kind: DeviceKind::Cpu,
            driver: std::env::consts::ARCH.into(),
            max_binding: 0,
            limits: None,
            reason: String::new(),
        }
    }

    fn of(index: usize, adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        // wgpu reports llvmpipe as a CPU, and a GL driver often does not report its kind.
        let software = ["llvmpipe", "softpipe", "swiftshader", "basic render"]
            .iter()
            .any(|name| info.name.to_lowercase().contains(name));
        let kind = match info.device_type {
            _ if software => DeviceKind::Software,
            wgpu::DeviceType::Cpu => DeviceKind::Software,
            wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
            _ => DeviceKind::Other,
        };
        Self {
            index,
            // A browser does not tell it.
            name: if info.name.is_empty() { "GPU".into() } else { info.name },
            backend: info.backend.to_string(),
            kind,
            driver: [info.driver, info.driver_info].join(" ").trim().to_string(),
            max_binding: adapter.limits().max_storage_buffer_binding_size,
            limits: Some(adapter.limits().into()),
            reason: String::new(),
        }
    }

    /// Floating-point operations of one submission: about 100 ms on a slow device of each kind, so that no watchdog
    /// stops it.
    pub(super) fn work_per_submit(&self) -> f64 {
        match self.kind {
            DeviceKind::Discrete => 2e11,
            DeviceKind::Integrated | DeviceKind::Other => 2e10,
            DeviceKind::Software | DeviceKind::Cpu => 2e9,
        }
    }

    /// Whether every word of the request occurs in the device's backend, name or driver.
    fn matches(&self, request: &str) -> bool {
        // Mesa's Vulkan rasteriser is known as lavapipe but reports the name llvmpipe.
        let alias = if self.backend == "vulkan" && self.name.contains("llvmpipe") { "lavapipe" } else { "" };
        let text = format!("{} {} {} {alias}", self.backend, self.name, self.driver).to_lowercase();
        let request = request.to_lowercase();
        request.split([' ', ':', ',']).all(|word| text.contains(word))
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.backend)
    }
}

/// The adapters of this machine, from one search.
pub struct Adapters {
    adapters: Vec<wgpu::Adapter>,
    infos: Vec<DeviceInfo>,
    /// Adapters that the kernels cannot run on, with the reason.
    refused: Vec<String>,
}

/// Advice if wgpu finds no adapter.
const NO_ADAPTER: &str = "install a driver (Debian, Ubuntu: apt install mesa-vulkan-drivers libvulkan1; \
     Fedora: dnf install mesa-vulkan-drivers vulkan-loader; Arch: pacman -S vulkan-icd-loader and vulkan-radeon, \
     vulkan-intel or nvidia-utils; Windows: the GPU vendor's driver; macOS: Metal is built in), or use --device cpu";

impl Adapters {
    /// Asks wgpu for the adapters of the backends in `WGPU_BACKEND`, by default of all backends.
    pub async fn find_async() -> Self {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = variable("WGPU_BACKEND")
            .map_or(wgpu::Backends::all(), |names| wgpu::Backends::from_comma_list(&names));
        // Validation layers serve wgpu's own developers. wgpu validates every call itself.
        descriptor.flags = wgpu::InstanceFlags::empty().with_env();
        let mut found = Self::none();
        #[cfg(target_os = "linux")]
        if let Some(instance) = quiet_vulkan(&descriptor) {
            found.add(&instance, None).await;
            descriptor.backends.remove(wgpu::Backends::VULKAN);
        }
        found.add(&wgpu::Instance::new(descriptor), None).await;
        found
    }

    /// The adapters of an instance. `kind` replaces the kind of each adapter, so that tests can simulate other
    /// machines.
    pub async fn of(instance: &wgpu::Instance, kind: Option<DeviceKind>) -> Self {
        let mut found = Self::none();
        found.add(instance, kind).await;
        found
    }

    fn none() -> Self {
        Self { adapters: Vec::new(), infos: Vec::new(), refused: Vec::new() }
    }

    async fn add(&mut self, instance: &wgpu::Instance, kind: Option<DeviceKind>) {
        for adapter in instance.enumerate_adapters(wgpu::Backends::all()).await {
            let info = DeviceInfo::of(self.infos.len(), &adapter);
            if let Some(lack) = below_floor(&adapter) {
                self.refused.push(format!("{info} has {lack}"));
                continue;
            }
            self.infos.push(DeviceInfo { kind: kind.unwrap_or(info.kind), ..info });
            self.adapters.push(adapter);
        }
    }

    /// All devices, the native CPU last.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let mut devices = self.infos.clone();
        devices.push(DeviceInfo::native_cpu(devices.len()));
        devices
    }

    /// [`Device::open`] without waiting.
    pub async fn open_async(&self, request: &str) -> Result<Device> {
        check_environment()?;
        let name = variable("WGPU_ADAPTER_NAME");
        let power = variable("WGPU_POWER_PREF").unwrap_or_default().trim().to_lowercase();
        match request {
            "auto" | "gpu" => {
                let mut candidates: Vec<&DeviceInfo> = self.infos.iter().collect();
                if let Some(name) = &name {
                    candidates.retain(|info| info.matches(name));
                    if candidates.is_empty() {
                        return Err(self.nothing_fits(&format!("WGPU_ADAPTER_NAME={name}")));
                    }
                }
                candidates.sort_by_key(|info| rank(info, &power));
                let named = name.is_some();
                match candidates.first() {
                    Some(best) if request == "gpu" || named || best.kind != DeviceKind::Software => {
                        let reason = match (named, best.kind) {
                            (true, _) => "named by WGPU_ADAPTER_NAME",
                            (_, DeviceKind::Discrete) => "a discrete GPU",
                            (_, DeviceKind::Integrated) => "an integrated GPU",
                            (_, DeviceKind::Software) => "no GPU found, a software adapter was asked for",
                            _ => "the only GPU found",
                        };
                        self.open_adapter(best.index, reason).await
                    }
                    Some(_) => {
                        Ok(cpu("no GPU found, only a software adapter, which is slower", self.infos.len()))
                    }
                    None if request == "auto" && self.refused.is_empty() => Ok(cpu("no GPU found", 0)),
                    None if request == "auto" => {
                        Ok(cpu(&format!("no GPU that can be used: {}", self.refused.join("; ")), 0))
                    }
                    None => {
                        let found = match variable("WGPU_BACKEND") {
                            _ if !self.refused.is_empty() => self.refused.join("; "),
                            Some(backend) => format!("none with WGPU_BACKEND={backend}"),
                            None => "none".into(),
                        };
                        Err(Error::device("--device gpu", "a graphics adapter", found, NO_ADAPTER))
                    }
                }
            }
            _ => {
                let devices = self.devices();
                let fitting = match request.parse::<usize>() {
                    Ok(index) => devices.get(index),
                    Err(_) => devices.iter().find(|info| !request.trim().is_empty() && info.matches(request)),
                };
                match fitting {
                    Some(info) if info.kind == DeviceKind::Cpu => Ok(cpu("asked for", info.index)),
                    Some(info) => self.open_adapter(info.index, "asked for").await,
                    None => Err(self.nothing_fits(&format!("--device {request}"))),
                }
            }
        }
    }

    async fn open_adapter(&self, index: usize, reason: &str) -> Result<Device> {
        let info = DeviceInfo { reason: reason.into(), ..self.infos[index].clone() };
        Ok(Device::of(Backend::Gpu(Gpu::open(&self.adapters[index], info).await?)))
    }

    fn nothing_fits(&self, thing: &str) -> Error {
        let names: Vec<_> = self.devices().iter().map(|info| format!("{} {info}", info.index)).collect();
        let expected = "auto, gpu, cpu, an index or part of a name";
        let found = match self.refused.is_empty() {
            true => "no such device".to_string(),
            false => format!("no such device that can be used ({})", self.refused.join("; ")),
        };
        Error::device(thing, expected, found, format!("choose one of: {}", names.join("; ")))
    }
}

/// A Vulkan instance without the Wayland extension, for a machine without Wayland. With the extension, Mesa's layer
/// that orders devices would look for Wayland, and libwayland would print on standard error that `XDG_RUNTIME_DIR` is
/// not set. `None` if that variable is set to an absolute path, or if there is no Vulkan.
#[cfg(target_os = "linux")]
fn quiet_vulkan(descriptor: &wgpu::InstanceDescriptor) -> Option<wgpu::Instance> {
    use wgpu::hal::{InstanceDescriptor, api::Vulkan, vulkan};
    let can_be_there =
        std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|folder| std::path::Path::new(&folder).is_absolute());
    if can_be_there || !descriptor.backends.contains(wgpu::Backends::VULKAN) {
        return None;
    }
    let descriptor = InstanceDescriptor {
        name: "wgpu",
        flags: descriptor.flags,
        memory_budget_thresholds: descriptor.memory_budget_thresholds,
        backend_options: descriptor.backend_options.clone(),
        telemetry: None,
        display: None,
    };
    // SAFETY: wgpu makes the same list of extensions on a system without Wayland. The extension is needed only for
    // surfaces of Wayland windows. Nothing here makes one, and the instance does not leave this module.
    unsafe {
        let without_wayland = |arguments: vulkan::CreateInstanceCallbackArgs| {
            arguments.extensions.retain(|name| *name != c"VK_KHR_wayland_surface");
        };
        let instance = vulkan::Instance::init_with_callback(&descriptor, Some(Box::new(without_wayland)));
        instance.ok().map(|instance| wgpu::Instance::from_hal::<Vulkan>(instance))
    }
}

/// What an adapter lacks of the minimum that the kernels need; `None` if nothing.
fn below_floor(adapter: &wgpu::Adapter) -> Option<String> {
    if !adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS) {
        return Some("no compute shaders".into());
    }
    let info = adapter.get_info();
    if let (wgpu::Backend::Gl, Some(lack)) = (info.backend, below_gl_floor(&info.driver_info)) {
        return Some(lack);
    }
    let limits = adapter.limits();
    let floor = [
        (limits.max_storage_buffers_per_shader_stage, 8, "storage buffers a stage"),
        (limits.max_compute_invocations_per_workgroup, 256, "invocations a workgroup"),
        (limits.max_compute_workgroup_storage_size, 16 << 10, "bytes of workgroup memory"),
    ];
    let lack = floor.into_iter().find(|(granted, needed, _)| granted < needed);
    lack.map(|(granted, needed, what)| format!("{granted} {what} of the {needed} needed"))
}

/// What a GL driver lacks, judged by its version text. wgpu asks for desktop GL 3.3, and NVIDIA's drivers return
/// exactly that version. It has compute shaders only as an extension, and wgpu cannot write shaders for it.
fn below_gl_floor(version: &str) -> Option<String> {
    // For example `4.5 (Core Profile) Mesa 22.3.6`. The text of GLES begins with its name, so it has no number here.
    let mut numbers =
        version.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < (4, 3) => {
            Some(format!("GL {major}.{minor} of the 4.3 needed (its Vulkan driver may do)"))
        }
        _ => None,
    }
}

fn cpu(reason: &str, index: usize) -> Device {
    Device::of(Backend::Cpu(Cpu(DeviceInfo { reason: reason.into(), ..DeviceInfo::native_cpu(index) })))
}

/// The order of devices, the best first: by kind of machine, then by interface (GL only if nothing else drives the same
/// GPU).
fn rank(info: &DeviceInfo, power: &str) -> (usize, usize) {
    let kind = match (info.kind, power) {
        (DeviceKind::Integrated, "low") => 0,
        (DeviceKind::Discrete, _) => 1,
        (DeviceKind::Integrated, _) => 2,
        (DeviceKind::Other, _) => 3,
        (DeviceKind::Software | DeviceKind::Cpu, _) => 4,
    };
    (kind, usize::from(info.backend == "gl"))
}

#[cfg(feature = "native")]
impl Adapters {
    /// See [`Adapters::find_async`].
    pub fn find() -> Self {
        super::wait(Self::find_async())
    }

    /// See [`Device::open`].
    pub fn open(&self, request: &str) -> Result<Device> {
        super::wait(self.open_async(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gl_without_shaders_to_write_is_refused() {
        assert_eq!(below_gl_floor("4.5 (Core Profile) Mesa 22.3.6"), None);
        assert_eq!(below_gl_floor("4.3.0 NVIDIA 580.159.04"), None);
        assert_eq!(below_gl_floor("OpenGL ES 3.1 Mesa 22.3.6"), None);
        let refused = below_gl_floor("3.3.0 NVIDIA 580.159.04").unwrap_or_default();
        assert!(refused.starts_with("GL 3.3 of the 4.3 needed"), "{refused}");
    }
}
