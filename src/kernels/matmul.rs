//! C = op(A) op(B) (+ bias) (+ C). Three shaders compute it, in variants that differ by constants: `matmul.wgsl` (tiled
//! through workgroup memory), `matmul_registers.wgsl` (no barriers, for software adapters) and `matmul_subgroups.wgsl`
//! (rows passed between the lanes of a subgroup, for software adapters that have subgroups). This file chooses the
//! variant and computes the product on both kinds of device.

use super::cpu_product::cpu_product;
use super::lab::{D, Lab, N};
use super::product::{
    self, MATMUL_VARIANTS, MatmulVariant, Params, Product, candidates, is_software, slices,
};
#[cfg(feature = "native")]
use super::tuning::{Class, measured};
use super::{Kernel, KernelSpec, Real, chunks};
use crate::device::{
    Backend, Commands, Device, Gpu, MatMut, Recorder, Region, check_variable, clock_of, padded,
};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::OnceLock;

/// The kernel entry of a shader.
const fn kernel(spec: KernelSpec, check: fn(&mut Lab) -> Result<()>, mutation: [&'static str; 2]) -> Kernel {
    Kernel { spec, tolerance: 1e-5, check, mutation }
}

pub(super) static TILED: Kernel =
    kernel(product::TILED, |lab| check(lab, &TILED.spec), ["k < STEP;", "k + 1u < STEP;"]);

pub(super) static REGISTERS: Kernel =
    kernel(product::REGISTERS, |lab| check(lab, &REGISTERS.spec), ["c11 += b1 * a1;", "c11 += b1 * a0;"]);

pub(super) static SUBGROUPS: Kernel = kernel(
    product::SUBGROUPS,
    |lab| check(lab, &SUBGROUPS.spec),
    ["c7 += y * high(r3);", "c7 += y * high(r2);"],
);

/// Checks that the value of `WGOAL_MATMUL` is known.
///
/// # Errors
/// The value is unknown. The message lists the known values.
pub fn check_environment() -> Result<()> {
    let variants: Vec<_> = MATMUL_VARIANTS.iter().map(|variant| variant.name).collect();
    let expected = format!("fixed, measure, or one of: {}", variants.join("; "));
    check_variable("WGOAL_MATMUL", &expected, |value| {
        ["fixed", "measure"].contains(&value) || variants.contains(&value)
    })
}

/// Chooses the variant for a product. `WGOAL_MATMUL` may name a variant, or be `fixed` (measures nothing) or `measure`
/// (measures even on a software adapter, where each further pipeline costs more than a choice could save).
fn choose(gpu: &Gpu, product: &Product, shape: [usize; 3], slices: u32) -> Result<&'static MatmulVariant> {
    static ASKED: OnceLock<String> = OnceLock::new();
    let asked = ASKED.get_or_init(|| crate::device::variable("WGOAL_MATMUL").unwrap_or_default()).as_str();
    let measures = match asked {
        // The noop backend computes nothing, so there is nothing to measure.
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
        return Ok(measured(gpu, class, matmul));
    }
    // A browser cannot wait for a measurement.
    let _ = (measures, product);
    Ok(candidates(gpu, shape, slices)[0])
}

/// Computes the matrix product. The shape of C decides `rows` and `cols`.
// The function is long because it holds both branches, and the three nested loops of the GPU share all their variables.
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
            // The slices depend on the whole shape, not on the pieces in which it is computed.
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
                            variant.shader(a_transposed, b_transposed, accumulate || !first);
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

/// The part of a row-major region that holds some columns of some rows.
fn window<'a>(region: Region<'a>, stride: usize, rows: &Range<usize>, cols: &Range<usize>) -> Region<'a> {
    region.part(rows.start * stride + cols.start..(rows.end - 1) * stride + padded(cols.end))
}

/// Largest number of products that one dispatch sums. The rounding error of an f32 sum grows with its value, so a
/// longer sum is added to C in parts.
const ADDENDS: usize = 2048;

/// Rows, columns and inner steps per dispatch, so that each operand fits a binding and the work fits a submission. Work
/// is split by rows of C, or by inner steps if A is stored by them. Each number is a multiple of 64, for alignment,
/// unless it covers everything.
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

/// [`matmul`] as a plain loop. Operands and result are padded matrices; `a_shape` and `b_shape` are the stored shapes.
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

/// Checks every variant of a shader that the device can run, in every orientation.
fn check(lab: &mut Lab, spec: &KernelSpec) -> Result<()> {
    const P: usize = 131;
    let device = lab.device;
    let runs = |variant: &&MatmulVariant| match device {
        Device(Backend::Cpu(_), ..) => true,
        Device(Backend::Gpu(gpu), ..) => variant.runs_on(gpu),
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
