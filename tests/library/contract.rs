//! Checks every shader against its contract, `KernelSpec`, in every variant.

use crate::variants::{Constants, has_subgroups, numbers, specs, variants};
use std::collections::BTreeMap;
use wgoal::device::{Access, KernelSpec, specialise};
use wgpu::naga::proc::Layouter;
use wgpu::naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use wgpu::naga::{
    AddressSpace, ImageClass, ImageDimension, Module, Scalar, StorageAccess, StorageFormat, TypeInner,
    front::wgsl,
};

/// The storage buffers, invocations and bytes of workgroup memory that every adapter allows a kernel.
const STORAGE_BUFFERS: usize = 8;
const INVOCATIONS: u32 = 256;
const WORKGROUP_MEMORY: u32 = 16 << 10;

fn parse(spec: &KernelSpec, constants: &Constants) -> Module {
    let name = spec.name;
    let source = specialise(spec.source, constants).unwrap_or_else(|e| panic!("{name}: {e}"));
    let module = wgsl::parse_str(&source)
        .unwrap_or_else(|e| panic!("{name} {constants:?}: {}", e.emit_to_string(&source)));
    // Only the core of WGSL is allowed, apart from subgroups.
    let mut validator = match has_subgroups(spec.source) {
        true => Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP),
        false => Validator::new(ValidationFlags::all(), Capabilities::empty()),
    };
    let validation = validator
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::BASIC | SubgroupOperationSet::BALLOT)
        .validate(&module);
    validation.unwrap_or_else(|e| panic!("{name} {constants:?}: {}", e.emit_to_string(&source)));
    module
}

#[test]
fn every_variant_keeps_its_contract() {
    for (spec, constants) in variants() {
        let module = parse(spec, &constants);
        let constants = numbers(&constants);
        let what = format!("{} {constants:?}", spec.name);
        let entries: Vec<_> = module.entry_points.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(entries, ["main"], "{what}");
        let workgroup = module.entry_points[0].workgroup_size;
        let constant = |name: &str| {
            let value = constants.iter().find(|(n, _)| *n == name);
            value.map(|(_, value)| value.trim_end_matches('u').parse().unwrap())
        };
        let expected = match (constant("LANES"), constant("LANES_X"), constant("LANES_Y")) {
            (Some(lanes), ..) => [lanes, 1, 1],
            (_, Some(x), Some(y)) => [x, y, constant("SLICES").unwrap_or(1)],
            _ => spec.workgroup,
        };
        assert_eq!(workgroup, expected, "{what}");
        assert!(workgroup.iter().product::<u32>() <= INVOCATIONS, "{what}");
        bindings(&what, spec, &module);
        assert!(workgroup_memory(&module) <= WORKGROUP_MEMORY, "{what}: {}", workgroup_memory(&module));
    }
}

fn bindings(what: &str, spec: &KernelSpec, module: &Module) {
    assert!(spec.bindings.len() <= STORAGE_BUFFERS, "{what}");
    let mut found = BTreeMap::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = &variable.binding else { continue };
        assert_eq!(binding.group, 0, "{what}");
        assert!(found.insert(binding.binding, variable).is_none(), "{what}: binding {}", binding.binding);
    }
    assert!(found.keys().copied().eq(0..=spec.bindings.len() as u32), "{what}: {:?}", found.keys());
    for (binding, variable) in found {
        if binding == 0 {
            assert_eq!(variable.space, AddressSpace::Uniform, "{what}");
            assert_eq!(members(module, &module.types[variable.ty].inner), spec.params, "{what}");
            continue;
        }
        let access = match spec.bindings[binding as usize - 1] {
            Access::Read => StorageAccess::LOAD,
            Access::ReadWrite => StorageAccess::LOAD | StorageAccess::STORE,
            Access::Image => {
                let class =
                    ImageClass::Storage { format: StorageFormat::Rgba32Float, access: StorageAccess::LOAD };
                let image = TypeInner::Image { dim: ImageDimension::D2, arrayed: false, class };
                assert_eq!(module.types[variable.ty].inner, image, "{what}: binding {binding}");
                continue;
            }
        };
        assert_eq!(variable.space, AddressSpace::Storage { access }, "{what}: binding {binding}");
    }
}

/// The names and types of a parameter block's members, which have no gaps between them.
fn members<'a>(module: &'a Module, block: &'a TypeInner) -> Vec<(&'a str, &'static str)> {
    let TypeInner::Struct { members, .. } = block else { panic!("the parameters are {block:?}") };
    let member = |(i, member): (usize, &'a wgpu::naga::StructMember)| {
        assert_eq!(member.offset, 4 * i as u32, "{member:?}");
        let ty = match module.types[member.ty].inner {
            TypeInner::Scalar(Scalar::U32) => "u32",
            TypeInner::Scalar(Scalar::F32) => "f32",
            ref other => panic!("{member:?} is {other:?}"),
        };
        (member.name.as_deref().unwrap_or_default(), ty)
    };
    members.iter().enumerate().map(member).collect()
}

fn workgroup_memory(module: &Module) -> u32 {
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    shared.map(|(_, variable)| layouter[variable.ty].to_stride()).sum()
}

#[test]
fn every_shader_file_is_one_kernel_and_says_what_it_does() {
    let mut names: Vec<_> = specs().map(|spec| format!("{}.wgsl", spec.name)).collect();
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut files = Vec::new();
    for file in std::fs::read_dir(&directory).unwrap() {
        files.push(file.unwrap().file_name().into_string().unwrap());
    }
    names.sort();
    files.sort();
    assert_eq!(names, files);
    for spec in specs() {
        let page = std::fs::read_to_string(directory.join(spec.name).with_extension("wgsl")).unwrap();
        assert_eq!(spec.source, page, "{} has another page's source", spec.name);
        let header = page.lines().next().and_then(|line| line.strip_prefix("// ")).unwrap_or_default();
        assert!(header.len() > 10, "{} starts with no comment", spec.name);
    }
}

#[test]
fn a_constant_that_is_not_there_once_is_refused() {
    let page = "const A = 1u;\n    const A = 2u;\nconst AB = 3u;\n";
    let a = |value: &str| [("A", value.to_string())];
    let specialised = specialise(page, &a("7u")).unwrap();
    assert_eq!(specialised, "const A = 7u;\n    const A = 2u;\nconst AB = 3u;");
    let none = specialise("const AB = 1u;", &a("7u")).unwrap_err().to_string();
    assert!(none.contains("shader constant A") && none.contains("none"), "{none}");
    let two = specialise("const A = 1u;\nconst A = 2u;", &a("7u")).unwrap_err().to_string();
    assert!(two.contains("shader constant A") && two.contains("several"), "{two}");
}
