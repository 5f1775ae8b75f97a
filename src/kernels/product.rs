//! Matrix products as data: the operands, and the variants in which the shaders compute them.

use super::{Access, KernelSpec};
use crate::device::{DeviceKind, Gpu, Mat, Slice};

params!(rows: u32, cols: u32, inner: u32, a_stride: u32, b_stride: u32, c_stride: u32, add_bias: u32);

/// The contract of a shader. `operands` says how A and B are bound.
const fn spec(name: &'static str, source: &'static str, operands: Access, workgroup: [u32; 3]) -> KernelSpec {
    let bindings = match operands {
        Access::Image => &[Access::Image, Access::Image, Access::Read, Access::ReadWrite],
        _ => &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    };
    KernelSpec { name, source, params: Params::MEMBERS, bindings, workgroup }
}

pub(super) const TILED: KernelSpec =
    spec("matmul", include_str!("../../shaders/matmul.wgsl"), Access::Read, [16, 16, 1]);

pub(super) const REGISTERS: KernelSpec =
    spec("matmul_registers", include_str!("../../shaders/matmul_registers.wgsl"), Access::Read, [8, 8, 1]);

pub(super) const SUBGROUPS: KernelSpec =
    spec("matmul_subgroups", include_str!("../../shaders/matmul_subgroups.wgsl"), Access::Image, [8, 1, 1]);

/// A way to compute the product: a shader and its constants.
#[derive(Debug)]
pub struct MatmulVariant {
    /// Name, as in `WGOAL_MATMUL`.
    pub name: &'static str,
    pub(super) spec: &'static KernelSpec,
    constants: &'static [(&'static str, u32)],
    /// Rows and columns of C that a workgroup computes.
    pub(super) tile: (usize, usize),
    /// Lanes that every subgroup of the device must have; 0 if the shader uses no subgroups.
    subgroup: u32,
}

impl MatmulVariant {
    /// Whether the device grants all that the shader needs beyond the minimum of wgoal.
    pub fn runs_on(&self, gpu: &Gpu) -> bool {
        self.subgroup <= gpu.subgroup() && (gpu.has_images() || !self.spec.bindings.contains(&Access::Image))
    }

    /// Number of slices of the inner dimension, which are summed separately.
    pub(super) fn slices(&self) -> u32 {
        self.constants.iter().find(|(name, _)| *name == "SLICES").map_or(1, |(_, slices)| *slices)
    }

    /// The shader and its constants for one orientation of the operands, and for adding to C or overwriting it.
    pub fn shader(
        &self,
        a_transposed: bool,
        b_transposed: bool,
        accumulate: bool,
    ) -> (&'static KernelSpec, Vec<(&'static str, String)>) {
        let mut constants: Vec<_> =
            self.constants.iter().map(|(name, value)| (*name, format!("{value}u"))).collect();
        constants.push(("A_TRANSPOSED", a_transposed.to_string()));
        constants.push(("B_TRANSPOSED", b_transposed.to_string()));
        constants.push(("ACCUMULATE", accumulate.to_string()));
        (self.spec, constants)
    }
}

/// A variant of `matmul.wgsl`. `tile` follows from the constants.
const fn tiled(
    name: &'static str,
    constants: &'static [(&'static str, u32)],
    tile: (usize, usize),
) -> MatmulVariant {
    MatmulVariant { name, spec: &TILED, constants, tile, subgroup: 0 }
}

/// All variants: those for GPUs, from large products to small ones, then those for software adapters.
pub static MATMUL_VARIANTS: [MatmulVariant; 9] = [
    tiled("tiled 64x64", &[("LANES_X", 16), ("LANES_Y", 16), ("STEP", 16)], (64, 64)),
    tiled("tiled 32x64", &[("LANES_X", 16), ("LANES_Y", 8), ("STEP", 16)], (32, 64)),
    tiled("tiled 32x32", &[("LANES_X", 8), ("LANES_Y", 8), ("STEP", 16)], (32, 32)),
    tiled("tiled 32x32, step 8", &[("LANES_X", 8), ("LANES_Y", 8), ("STEP", 8)], (32, 32)),
    tiled("4 slices 32x32", &[("LANES_X", 8), ("LANES_Y", 8), ("STEP", 16), ("SLICES", 4)], (32, 32)),
    tiled("4 slices 32x32, step 8", &[("LANES_X", 8), ("LANES_Y", 8), ("STEP", 8), ("SLICES", 4)], (32, 32)),
    tiled("16 slices 16x16", &[("LANES_X", 4), ("LANES_Y", 4), ("STEP", 8), ("SLICES", 16)], (16, 16)),
    MatmulVariant {
        name: "registers 8x8",
        spec: &REGISTERS,
        constants: &[("LANES_X", 4), ("LANES_Y", 2)],
        tile: (16, 32),
        subgroup: 0,
    },
    MatmulVariant { name: "subgroups 32x4", spec: &SUBGROUPS, constants: &[], tile: (32, 32), subgroup: 8 },
];

/// Variants to choose from on a device. The first is used if nothing is measured. On a GPU, all have the same number of
/// slices, so they sum in the same order.
pub(super) fn candidates(gpu: &Gpu, [rows, cols, _]: [usize; 3], slices: u32) -> Vec<&'static MatmulVariant> {
    let [tiled @ .., registers, subgroups] = &MATMUL_VARIANTS;
    if is_software(gpu) {
        return [subgroups, registers].into_iter().filter(|variant| variant.runs_on(gpu)).collect();
    }
    let mut fitting: Vec<_> = tiled.iter().filter(|variant| variant.slices() == slices).collect();
    // If there are too few 64 x 64 tiles to occupy a GPU, a variant with smaller tiles comes first.
    if slices == 1 && rows * cols < 64 * 64 * 64 {
        fitting[..=2].rotate_right(1);
    }
    fitting
}

/// Number of slices of the inner dimension that keeps a GPU busy, for C of any size.
pub(super) fn slices([rows, cols, inner]: [usize; 3]) -> u32 {
    match rows * cols {
        0x10_0000.. => 1,
        0x1_0000.. => 4,
        _ if inner < 256 => 4,
        _ => 16,
    }
}

pub(super) fn is_software(gpu: &Gpu) -> bool {
    matches!(gpu.info().kind, DeviceKind::Software | DeviceKind::Cpu)
}

/// The operands of a product.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub a: Mat<'a>,
    pub b: Mat<'a>,
    /// Whether Aᵀ takes the place of A. `b_transposed` is the same for B.
    pub a_transposed: bool,
    pub b_transposed: bool,
    /// Added to every row of the result.
    pub bias: Option<Slice<'a, f32>>,
    /// Add to C instead of overwriting it.
    pub accumulate: bool,
    /// Whether a GPU may sum slices of the inner dimension separately if C is small. That is faster, but the bits of a
    /// row then depend on the number of rows.
    pub sliced: bool,
    /// How a GPU computes it; `None` chooses by device and shape.
    pub variant: Option<&'static MatmulVariant>,
}

impl<'a> Product<'a> {
    /// A Bᵀ
    pub fn nt(a: Mat<'a>, b: Mat<'a>) -> Self {
        Self { b_transposed: true, ..Self::nn(a, b) }
    }

    /// Aᵀ B
    pub fn tn(a: Mat<'a>, b: Mat<'a>) -> Self {
        Self { a_transposed: true, ..Self::nn(a, b) }
    }

    /// A B
    pub fn nn(a: Mat<'a>, b: Mat<'a>) -> Self {
        let (a_transposed, b_transposed, accumulate, sliced) = (false, false, false, false);
        Self { a, b, a_transposed, b_transposed, bias: None, accumulate, sliced, variant: None }
    }
}
