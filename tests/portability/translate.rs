//! Translates a shader into the languages that wgpu passes to drivers, with naga and wgpu's options.

use naga::back::{glsl, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use naga::{AddressSpace, Module, ResourceBinding, ShaderStage};
use std::error::Error;

type Written = Result<Vec<u8>, Box<dyn Error>>;

/// Runtime checks: debug builds and tests request them, release builds do not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Checks {
    On,
    Off,
}

impl Checks {
    fn on(self) -> bool {
        self == Self::On
    }

    fn policies(self) -> BoundsCheckPolicies {
        let policy = if self.on() { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
        BoundsCheckPolicies { index: policy, buffer: policy, ..Default::default() }
    }
}

/// The number of each bound object, and whether it is written.
fn bindings(module: &Module) -> impl Iterator<Item = (ResourceBinding, bool)> + '_ {
    module.global_variables.iter().filter_map(|(_, variable)| {
        let writable = match variable.space {
            AddressSpace::Storage { access } => access.contains(naga::StorageAccess::STORE),
            _ => false,
        };
        variable.binding.map(|binding| (binding, writable))
    })
}

/// SPIR-V for the oldest Vulkan that wgpu supports, or for the newest.
pub fn spirv(module: &Module, info: &ModuleInfo, checks: Checks, lang_version: (u8, u8)) -> Written {
    use spv::Capability::{GroupNonUniform, GroupNonUniformBallot, GroupNonUniformShuffle, Matrix, Shader};
    let subgroups = [GroupNonUniform, GroupNonUniformBallot, GroupNonUniformShuffle]
        .into_iter()
        .filter(|_| lang_version >= (1, 3));
    let options = spv::Options {
        lang_version,
        flags: spv::WriterFlags::empty(),
        capabilities: Some([Shader, Matrix].into_iter().chain(subgroups).collect()),
        bounds_check_policies: checks.policies(),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: checks.on(),
        emit_int_div_checks: checks.on(),
        ..Default::default()
    };
    let entry = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    let words = spv::write_vec(module, info, &options, Some(&entry))?;
    Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
}

/// GLSL ES 3.10, the first version with compute shaders.
pub fn glsl(module: &Module, info: &ModuleInfo, checks: Checks) -> Written {
    let options = glsl::Options {
        version: glsl::Version::new_gles(310),
        binding_map: bindings(module).map(|(binding, _)| (binding, binding.binding as u8)).collect(),
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    let pipeline = glsl::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: "main".into(),
        multiview: None,
    };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, checks.policies())?.write()?;
    Ok(text.into_bytes())
}

/// HLSL for FXC (shader model 5.1) or DXC (6.0).
pub fn hlsl(module: &Module, info: &ModuleInfo, checks: Checks, shader_model: hlsl::ShaderModel) -> Written {
    let target = |(binding, _): (ResourceBinding, bool)| {
        let register =
            hlsl::BindTarget { register: binding.binding, restrict_indexing: true, ..Default::default() };
        (binding, register)
    };
    let options = hlsl::Options {
        shader_model,
        binding_map: bindings(module).map(target).collect(),
        fake_missing_bindings: false,
        // The source of num_workgroups.
        special_constants_binding: Some(hlsl::BindTarget { space: 1, ..Default::default() }),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: checks.on(),
        force_loop_bounding: checks.on(),
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())) };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None)?;
    Ok(text.into_bytes())
}

/// The language of Metal 2.0. No compiler for it runs outside macOS, so the test checks its words instead.
pub fn msl(module: &Module, info: &ModuleInfo, checks: Checks) -> Written {
    // A slot among the buffers and one among the textures. An object uses the slot of its kind.
    let target = |(binding, mutable): (ResourceBinding, bool)| {
        let slot = Some(binding.binding as u8);
        (binding, msl::BindTarget { buffer: slot, texture: slot, mutable, ..Default::default() })
    };
    let resources = msl::EntryPointResources {
        resources: bindings(module).map(target).collect(),
        sizes_buffer: Some(30),
        ..Default::default()
    };
    let options = msl::Options {
        lang_version: (2, 0),
        per_entry_point_map: [("main".to_string(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: checks.policies(),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: checks.on(),
        emit_int_div_checks: checks.on(),
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, "main".into())),
        allow_and_force_point_size: false,
        vertex_pulling_transform: false,
        vertex_buffer_mappings: Vec::new(),
        binding_array_length_map: Default::default(),
    };
    let (text, translation) = msl::write_string(module, info, &options, &pipeline)?;
    for entry in translation.entry_point_names {
        entry?;
    }
    // A shader with subgroups runs only on adapters with subgroups.
    let fails = METAL_FAILS.iter().filter(|(word, _)| *word != "simd_" || !text.contains("simd_broadcast("));
    match fails.clone().find(|(word, _)| text.contains(word)) {
        Some((word, why)) => Err(format!("`{word}`: {why}").into()),
        None => Ok(text.into_bytes()),
    }
}

/// Words that Metal compilers refuse or interpret differently.
const METAL_FAILS: &[(&str, &str)] = &[
    ("atomic_float", "only Metal 3 adds floats atomically"),
    ("atomic<float>", "only Metal 3 adds floats atomically"),
    ("double", "Metal has no f64"),
    ("INFINITY", "fast mathematics assumes that there is no infinity"),
    ("NAN", "fast mathematics assumes that there are no NaNs"),
    ("isnan(", "fast mathematics assumes that there are no NaNs"),
    ("isinf(", "fast mathematics assumes that there is no infinity"),
    ("simd_", "older GPUs have no SIMD-group functions"),
];
