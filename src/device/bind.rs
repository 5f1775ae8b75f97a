//! Pipelines and bind groups. Each is made at its first use and kept for later calls.

use super::faults::{lock, refusal};
use super::gpu::{Gpu, Region};
use super::image::{Image, ImageCopy, images_hold};
use super::pipeline::{Bound, Constant, Part, Pipeline};
use super::spec::{Access, KernelSpec, specialise};
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// Most bind groups to keep; beyond that all are dropped and made again. Without a limit, batches of local features,
/// whose sizes differ, would add new ones forever.
const MAX_BOUND: usize = 2048;

/// Whether drivers check the bounds of every index and loop of the kernels. They do in debug builds, unless
/// `WGOAL_SHADER_CHECKS` is `on` or `off`.
fn shader_checks() -> bool {
    match super::variable("WGOAL_SHADER_CHECKS").as_deref() {
        Some("on") => true,
        Some("off") => false,
        _ => cfg!(debug_assertions),
    }
}

impl Gpu {
    /// Whether an image can hold as many bytes as a binding; see [`Access::Image`].
    pub fn has_images(&self) -> bool {
        images_hold(&self.0.device, self.max_binding())
    }

    /// The image of a binding, with room for `bytes`.
    fn image(&self, binding: u32, bytes: u64) -> Result<Image> {
        let device = &self.0.device;
        let (image, smaller) =
            lock(&self.0.images).get(device, binding, bytes, |label, bytes, descriptor| {
                self.within_memory(label, bytes, |device| device.create_texture(descriptor))
            })?;
        if let Some(smaller) = smaller {
            self.unbind(|part| matches!(part, Part::Image(view) if *view == smaller));
        }
        Ok(image)
    }

    /// The bind group of these regions for a kernel, and the copies into images that must run first. The group is made
    /// at its first use and kept until one of its buffers is dropped.
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
            // A binding consists of whole vec4s, and every allocation is rounded up to them.
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

    /// Builds the pipeline of a kernel variant on first use. If the driver refuses it, the error holds the driver's
    /// message.
    /// The function is long because one error scope covers all that it makes: the shader module, the layouts and the
    /// pipeline.
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
        // The text of a section has several lines. The label keeps only the first line.
        let label = label.lines().next().unwrap_or_default();
        let source = lock(&self.0.replaced).get(spec.name).cloned();
        let source = specialise(source.as_deref().unwrap_or(spec.source), constants)?;
        let device = &self.0.device;
        // A failure of the driver's compiler is an internal error. It says more than the errors that follow from it.
        let refusal = refusal(device, [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal]);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let module = if shader_checks() {
            device.create_shader_module(descriptor)
        } else {
            // SAFETY: every kernel guards its own indices and loops, and the tests run the kernels with the checks on.
            // The code of a weight file is written by src/objective/custom, which guards its indices, loops and
            // divisions.
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
