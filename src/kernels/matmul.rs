//! C = op(A) op(B) (+ bias) (+ C). Three pages in variants that differ by constants: `matmul.wgsl` (tiled through workgroup
//! memory), `matmul_registers.wgsl` (no barrier, for software adapters) and `matmul_subgroups.wgsl` (rows handed round a
//! subgroup, for those of them that have one). The file is that one product: its variants, their choice, both branches.

use super::cpu_product::cpu_product;
use super::lab::{D, Lab, N};
#[cfg(feature = "native")]
use super::tuning::{Class, measured};
use super::{Access, Kernel, KernelSpec, Real, chunks};
use crate::device::{
    Commands, Device, DeviceKind, Gpu, Mat, MatMut, Recorder, Region, Slice, check_variable, clock_of, padded,
};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::OnceLock;

/// The kernel of a shader, with operands A and B as they come to it.
const fn kernel(
    [name, source]: [&'static str; 2],
    operands: Access,
    workgroup: [u32; 3],
    check: fn(&mut Lab) -> Result<()>,
    mutation: [&'static str; 2],
) -> Kernel {
    let bindings = match operands {
        Access::Image => &[Access::Image, Access::Image, Access::Read, Access::ReadWrite],
        _ => &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    };
    let spec = KernelSpec { name, source, params: Params::MEMBERS, bindings, workgroup };
    Kernel { spec, tolerance: 1e-5, check, mutation }
}

pub(super) static TILED: Kernel = kernel(
    ["matmul", include_str!("../../shaders/matmul.wgsl")],
    Access::Read,
    [16, 16, 1],
    |lab| check(lab, &TILED.spec),
    ["k < STEP;", "k + 1u < STEP;"],
);

pub(super) static REGISTERS: Kernel = kernel(
    ["matmul_registers", include_str!("../../shaders/matmul_registers.wgsl")],
    Access::Read,
    [8, 8, 1],
    |lab| check(lab, &REGISTERS.spec),
    ["c11 += b1 * a1;", "c11 += b1 * a0;"],
);

pub(super) static SUBGROUPS: Kernel = kernel(
    ["matmul_subgroups", include_str!("../../shaders/matmul_subgroups.wgsl")],
    Access::Image,
    [8, 1, 1],
    |lab| check(lab, &SUBGROUPS.spec),
    ["c7 += y * high(r3);", "c7 += y * high(r2);"],
);

/// A way to compute the product: which page, with which constants.
#[derive(Debug)]
pub struct MatmulVariant {
    /// As in a list of them.
    pub name: &'static str,
    spec: &'static KernelSpec,
    constants: &'static [(&'static str, u32)],
    /// Rows and columns of C that a workgroup computes.
    tile: (usize, usize),
    /// Lanes that every subgroup of the device must have; 0 where the page knows of none.
    subgroup: u32,
}

impl MatmulVariant {
    /// Whether the device grants what the page needs beyond the floor.
    pub fn runs_on(&self, gpu: &Gpu) -> bool {
        self.subgroup <= gpu.subgroup() && (gpu.has_images() || !self.spec.bindings.contains(&Access::Image))
    }

    /// Parts of the inner dimension that are summed on their own.
    pub(super) fn slices(&self) -> u32 {
        self.constants.iter().find(|(name, _)| *name == "SLICES").map_or(1, |(_, slices)| *slices)
    }

    /// The page and its constants for one orientation of the operands, and for adding to C or overwriting it.
    pub fn page(
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

/// Constants of `matmul.wgsl`, and the rows and columns that they come to.
const fn tiled(
    name: &'static str,
    constants: &'static [(&'static str, u32)],
    tile: (usize, usize),
) -> MatmulVariant {
    MatmulVariant { name, spec: &TILED.spec, constants, tile, subgroup: 0 }
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
        spec: &REGISTERS.spec,
        constants: &[("LANES_X", 4), ("LANES_Y", 2)],
        tile: (16, 32),
        subgroup: 0,
    },
    MatmulVariant {
        name: "subgroups 32x4",
        spec: &SUBGROUPS.spec,
        constants: &[],
        tile: (32, 32),
        subgroup: 8,
    },
];

/// Variants to choose from on a device, the one to take unmeasured first. On a GPU those of as many slices: they take their sums
/// in one order.
pub(super) fn candidates(gpu: &Gpu, [rows, cols, _]: [usize; 3], slices: u32) -> Vec<&'static MatmulVariant> {
    let [tiled @ .., registers, subgroups] = &MATMUL_VARIANTS;
    if is_software(gpu) {
        return [subgroups, registers].into_iter().filter(|variant| variant.runs_on(gpu)).collect();
    }
    let mut fitting: Vec<_> = tiled.iter().filter(|variant| variant.slices() == slices).collect();
    // Enough 64 x 64 tiles to occupy a GPU, or else smaller ones.
    if slices == 1 && rows * cols < 64 * 64 * 64 {
        fitting[..=2].rotate_right(1);
    }
    fitting
}

/// Slices of the inner dimension that keep a GPU busy with C of any size.
fn slices([rows, cols, inner]: [usize; 3]) -> u32 {
    match rows * cols {
        0x10_0000.. => 1,
        0x1_0000.. => 4,
        _ if inner < 256 => 4,
        _ => 16,
    }
}

fn is_software(gpu: &Gpu) -> bool {
    matches!(gpu.info().kind, DeviceKind::Software | DeviceKind::Cpu)
}

/// Whether `WGOAL_MATMUL` says something that is known.
///
/// # Errors
/// It says something else; the message lists what it may say.
pub fn check_environment() -> Result<()> {
    let variants: Vec<_> = MATMUL_VARIANTS.iter().map(|variant| variant.name).collect();
    let expected = format!("fixed, measure, or one of: {}", variants.join("; "));
    check_variable("WGOAL_MATMUL", &expected, |value| {
        ["fixed", "measure"].contains(&value) || variants.contains(&value)
    })
}

/// The variant for a product. `WGOAL_MATMUL` may name one, or say `fixed` (nothing is measured) or `measure` (even on a
/// software adapter, where every further pipeline costs more than a choice could save).
fn choose(gpu: &Gpu, product: &Product, shape: [usize; 3], slices: u32) -> Result<&'static MatmulVariant> {
    static ASKED: OnceLock<String> = OnceLock::new();
    let asked = ASKED.get_or_init(|| crate::device::variable("WGOAL_MATMUL").unwrap_or_default()).as_str();
    let measures = match asked {
        // A pretended device (noop) would be measured at doing nothing.
        "" => !is_software(gpu) && gpu.info().backend != "noop",
        "fixed" => false,
        "measure" => true,
        name => {
            let named = MATMUL_VARIANTS.iter().find(|variant| variant.name == name && variant.runs_on(gpu));
            return named.ok_or_else(|| {
                let here = MATMUL_VARIANTS.iter().filter(|variant| variant.runs_on(gpu));
                let names: Vec<_> = here.map(|variant| variant.name).collect();
                let expected = format!("fixed, measure, or one of: {}", names.join("; "));
                Error::config("WGOAL_MATMUL", expected, name, "unset it to have the device's best")
            });
        }
    };
    #[cfg(feature = "native")]
    if let (true, Some(class)) = (measures, Class::of(product, shape, slices)) {
        return Ok(measured(gpu, class));
    }
    // A browser cannot wait for a measurement.
    let _ = (measures, product);
    Ok(candidates(gpu, shape, slices)[0])
}

/// The operands of a product.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub a: Mat<'a>,
    pub b: Mat<'a>,
    /// Use Aᵀ, Bᵀ in their place.
    pub a_transposed: bool,
    pub b_transposed: bool,
    /// Added to every row of the result.
    pub bias: Option<Slice<'a, f32>>,
    /// Add to C instead of overwriting it.
    pub accumulate: bool,
    /// Where C is small, a GPU may sum parts of the inner dimension on their own. That is quicker, but the bits of a row then
    /// depend on how many rows there are.
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

params!(rows: u32, cols: u32, inner: u32, a_stride: u32, b_stride: u32, c_stride: u32, add_bias: u32);

/// The matrix product of `shaders/matmul.wgsl`. C's shape decides `rows` and `cols`.
pub fn matmul(commands: &mut Commands, product: Product, mut c: MatMut) -> Result<()> {
    let Product { a, b, a_transposed, b_transposed, bias, accumulate, .. } = product;
    let (rows, cols) = (c.rows, c.cols);
    let inner = if a_transposed { a.rows } else { a.cols };
    assert_eq!(rows, if a_transposed { a.cols } else { a.rows });
    assert_eq!(inner, if b_transposed { b.cols } else { b.rows });
    assert_eq!(cols, if b_transposed { b.rows } else { b.cols });
    match commands {
        Commands::Cpu => {
            let [m, n, k] = [rows, cols, inner].map(|n| n as f64);
            let (bytes, flops) = (4.0 * (m * k + k * n + m * n), 2.0 * m * n * k);
            let _clock = clock_of(|| described(&product, rows, cols, inner), flops, bytes);
            let (stride, a_rows, b_rows) = (c.stride, a.rows, b.rows);
            let (a_step, b_step) = (a.stride() as isize, b.stride() as isize);
            let (a_along, a_across) = if a_transposed { (a_step, 1) } else { (1, a_step) };
            let (b_along, b_across) = if b_transposed { (1, b_step) } else { (b_step, 1) };
            let (a, b, c) = (a.data.host()?, b.data.host()?, c.data.host()?);
            let fits = a.len() >= a_rows * a_step as usize && b.len() >= b_rows * b_step as usize;
            assert!(fits && (rows == 0 || c.len() >= (rows - 1) * stride + cols));
            let operands = [(a, a_along, a_across), (b, b_along, b_across)];
            cpu_product([rows, cols, inner], operands, (c, stride), accumulate);
            for row in c.chunks_mut(stride).take(rows) {
                if let Some(bias) = &bias {
                    row[..cols].iter_mut().zip(bias.host()?).for_each(|(c, b)| *c += b);
                }
                row[cols..padded(cols)].fill(0.0);
            }
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (a_stride, b_stride, c_stride) = (a.stride(), b.stride(), c.stride);
            let [row_step, col_step, inner_step] = steps(recorder, &product, &c);
            let (a, b, c) = (a.data.region()?, b.data.region()?, c.data.region()?);
            let bias = bias.map(|bias| bias.region()).transpose()?;
            // Of the whole, whatever pieces it is computed in.
            let slices = if product.sliced { slices([rows, cols, inner]) } else { 1 };
            for r in chunks(rows, row_step) {
                for col in chunks(cols, col_step) {
                    for k in chunks(inner, inner_step) {
                        let first = k.start == 0;
                        let bias = bias.filter(|_| first).map(|bias| bias.part(col.clone()));
                        let params = Params {
                            rows: r.len() as u32,
                            cols: col.len() as u32,
                            inner: k.len() as u32,
                            a_stride: a_stride as u32 / 4,
                            b_stride: b_stride as u32 / 4,
                            c_stride: c_stride as u32 / 4,
                            add_bias: bias.is_some().into(),
                        };
                        let (a_rows, a_cols) = if a_transposed { (&k, &r) } else { (&r, &k) };
                        let (b_rows, b_cols) = if b_transposed { (&col, &k) } else { (&k, &col) };
                        let regions = [
                            window(a, a_stride, a_rows, a_cols),
                            window(b, b_stride, b_rows, b_cols),
                            bias.unwrap_or(Region::NOTHING),
                            window(c, c_stride, &r, &col),
                        ];
                        let variant = match product.variant {
                            Some(variant) => variant,
                            None => choose(recorder.gpu(), &product, [r.len(), col.len(), k.len()], slices)?,
                        };
                        let (spec, constants) =
                            variant.page(a_transposed, b_transposed, accumulate || !first);
                        let (tile_rows, tile_cols) = variant.tile;
                        let grid = [padded(col.len()).div_ceil(tile_cols), r.len().div_ceil(tile_rows), 1];
                        let cost = 2.0 * r.len() as f64 * col.len() as f64 * k.len() as f64;
                        recorder.what =
                            recorder.profiled.then(|| described(&product, r.len(), col.len(), k.len()));
                        recorder.dispatch(spec, &constants, &params, &regions, grid, cost)?;
                        recorder.what = None;
                    }
                }
            }
            Ok(())
        }
    }
}

/// Name of a product in a profile.
fn described(product: &Product, rows: usize, cols: usize, inner: usize) -> String {
    let letter = |transposed| if transposed { 't' } else { 'n' };
    let orientation = [product.a_transposed, product.b_transposed].map(letter);
    format!("matmul {}{} {rows}x{cols}x{inner}", orientation[0], orientation[1])
}

/// The part of a region of row-major storage that holds some columns of some rows.
fn window<'a>(region: Region<'a>, stride: usize, rows: &Range<usize>, cols: &Range<usize>) -> Region<'a> {
    region.part(rows.start * stride + cols.start..(rows.end - 1) * stride + padded(cols.end))
}

/// Addends of a sum before it is put away: the error of a longer one in f32 grows with what it has come to.
const ADDENDS: usize = 2048;

/// Rows, columns and inner steps to take at a time, so that each operand fits a binding and the work a submission. Work is
/// split by rows of C, or by inner steps where A is stored by them. Multiples of 64, for alignment, unless it is all.
fn steps(recorder: &Recorder, product: &Product, c: &MatMut) -> [usize; 3] {
    let Product { a, b, a_transposed, b_transposed, .. } = *product;
    let inner = if a_transposed { a.rows } else { a.cols };
    let held = |stride: usize| recorder.rows_per_binding(stride);
    let [mut row_step, mut col_step, mut inner_step] =
        [c.rows.min(held(c.stride)), c.cols, inner.min(ADDENDS)];
    let a_step = if a_transposed { &mut inner_step } else { &mut row_step };
    *a_step = held(a.stride()).min(*a_step);
    let b_step = if b_transposed { &mut col_step } else { &mut inner_step };
    *b_step = held(b.stride()).min(*b_step);
    let cost = 2.0 * row_step as f64 * col_step as f64 * inner_step as f64;
    let by_work = if a_transposed { &mut inner_step } else { &mut row_step };
    let within = (*by_work as f64 * recorder.budget / cost) as usize / 64 * 64;
    *by_work = within.max(64).min(*by_work);
    [row_step, col_step, inner_step]
}

/// [`matmul`] as a plain loop; operands and result are padded matrices, `a_shape` and `b_shape` their stored shapes.
pub fn reference<T: Real>(
    (a, a_shape, a_transposed): (&[T], [usize; 2], bool),
    (b, b_shape, b_transposed): (&[T], [usize; 2], bool),
    bias: Option<&[T]>,
    accumulate: bool,
    c: &mut [T],
) {
    let [rows, inner] = if a_transposed { [a_shape[1], a_shape[0]] } else { a_shape };
    let cols = if b_transposed { b_shape[0] } else { b_shape[1] };
    let (a_stride, b_stride, c_stride) = (padded(a_shape[1]), padded(b_shape[1]), padded(cols));
    for i in 0..rows {
        for j in 0..c_stride {
            let out = &mut c[i * c_stride + j];
            if j >= cols {
                *out = T::zero();
                continue;
            }
            let mut sum = bias.map_or(T::zero(), |bias| bias[j]);
            for k in 0..inner {
                let x = if a_transposed { a[k * a_stride + i] } else { a[i * a_stride + k] };
                let y = if b_transposed { b[j * b_stride + k] } else { b[k * b_stride + j] };
                sum += x * y;
            }
            *out = if accumulate { *out + sum } else { sum };
        }
    }
}

/// Every variant of a shader that the device can run, and every orientation.
fn check(lab: &mut Lab, spec: &KernelSpec) -> Result<()> {
    const P: usize = 131;
    let device = lab.device;
    let runs = |variant: &&MatmulVariant| match device {
        Device::Cpu(_) => true,
        Device::Gpu(gpu) => variant.runs_on(gpu),
    };
    let own = MATMUL_VARIANTS.iter().filter(|variant| variant.spec.name == spec.name);
    for variant in own.filter(runs) {
        for (a_transposed, b_transposed) in [(false, true), (false, false), (true, false)] {
            let (a_shape, b_shape) =
                (if a_transposed { [P, N] } else { [N, P] }, if b_transposed { [D, P] } else { [P, D] });
            let (a, b) = (lab.matrix(a_shape[0], a_shape[1])?, lab.matrix(b_shape[0], b_shape[1])?);
            let bias = lab.vector(padded(D))?;
            let mut c = lab.poison(N * padded(D))?;
            let product = Product {
                a: a.mat(a_shape[0], a_shape[1]),
                b: b.mat(b_shape[0], b_shape[1]),
                a_transposed,
                b_transposed,
                bias: Some(bias.get()),
                accumulate: false,
                sliced: false,
                variant: Some(variant),
            };
            lab.run(|commands| matmul(commands, product, c.mat_mut(N, D)))?;
            let mut expected = c.wide();
            let (a, b) = ((&a.wide()[..], a_shape, a_transposed), (&b.wide()[..], b_shape, b_transposed));
            reference(a, b, Some(&bias.wide()), false, &mut expected);
            lab.compare(&c, &expected)?;
        }
    }
    Ok(())
}
