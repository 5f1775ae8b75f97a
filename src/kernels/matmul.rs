//! C = op(A) op(B) (+ bias) (+ C). Two pages, `matmul.wgsl` (tiled through workgroup memory) and
//! `matmul_registers.wgsl` (no barrier, for software adapters), in variants that differ by constants only.

use super::{Access, KernelSpec, Real};
use crate::Result;
use crate::device::{Commands, DeviceKind, Mat, MatMut, Region, Slice, padded};
use std::ops::Range;

const BINDINGS: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::ReadWrite];

pub(super) static TILED_SPEC: KernelSpec = KernelSpec {
    name: "matmul",
    source: include_str!("../../shaders/matmul.wgsl"),
    params: Params::MEMBERS,
    bindings: BINDINGS,
    workgroup: [16, 16, 1],
};

pub(super) static REGISTERS_SPEC: KernelSpec = KernelSpec {
    name: "matmul_registers",
    source: include_str!("../../shaders/matmul_registers.wgsl"),
    params: Params::MEMBERS,
    bindings: BINDINGS,
    workgroup: [8, 8, 1],
};

/// A way to compute the product: which page, with which constants.
#[derive(Debug)]
pub struct MatmulVariant {
    pub name: &'static str,
    spec: &'static KernelSpec,
    /// `LANES_X`, `LANES_Y` and, tiled only, `STEP`.
    constants: &'static [(&'static str, u32)],
    /// Outputs of an invocation, rows and columns alike.
    outputs: usize,
}

impl MatmulVariant {
    fn constant(&self, name: &str) -> usize {
        self.constants.iter().find(|(n, _)| *n == name).map_or(1, |&(_, value)| value as usize)
    }

    /// Rows and columns of C that a workgroup computes.
    fn tile(&self) -> (usize, usize) {
        (self.outputs * self.constant("LANES_Y"), self.outputs * self.constant("LANES_X"))
    }

    /// The page and its constants for one orientation of the operands.
    pub fn page(
        &self,
        a_transposed: bool,
        b_transposed: bool,
    ) -> (&'static KernelSpec, Vec<(&'static str, String)>) {
        let mut constants: Vec<_> =
            self.constants.iter().map(|(name, value)| (*name, format!("{value}u"))).collect();
        constants.push(("A_TRANSPOSED", a_transposed.to_string()));
        constants.push(("B_TRANSPOSED", b_transposed.to_string()));
        (self.spec, constants)
    }
}

/// All variants: for large products, for small ones, for software adapters.
pub static MATMUL_VARIANTS: [MatmulVariant; 3] = [
    MatmulVariant {
        name: "tiled 64x64",
        spec: &TILED_SPEC,
        constants: &[("LANES_X", 16), ("LANES_Y", 16), ("STEP", 16)],
        outputs: 4,
    },
    MatmulVariant {
        name: "tiled 32x32",
        spec: &TILED_SPEC,
        constants: &[("LANES_X", 8), ("LANES_Y", 8), ("STEP", 16)],
        outputs: 4,
    },
    MatmulVariant {
        name: "registers 8x8",
        spec: &REGISTERS_SPEC,
        constants: &[("LANES_X", 4), ("LANES_Y", 2)],
        outputs: 8,
    },
];

fn choose(kind: DeviceKind, rows: usize, cols: usize) -> &'static MatmulVariant {
    match kind {
        DeviceKind::Software | DeviceKind::Cpu => &MATMUL_VARIANTS[2],
        // Enough 64 x 64 tiles to occupy a GPU, or else smaller ones.
        _ if rows * cols >= 64 * 64 * 64 => &MATMUL_VARIANTS[0],
        _ => &MATMUL_VARIANTS[1],
    }
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
        Self { a, b, a_transposed: false, b_transposed: false, bias: None, accumulate: false }
    }
}

params!(rows: u32, cols: u32, inner: u32, a_stride: u32, b_stride: u32, c_stride: u32, add_bias: u32, accumulate: u32);

/// The matrix product of `shaders/matmul.wgsl`. C's shape decides `rows` and `cols`.
pub fn matmul(commands: &mut Commands, product: Product, mut c: MatMut) -> Result<()> {
    let Product { a, b, a_transposed, b_transposed, bias, accumulate } = product;
    let (rows, cols) = (c.rows, c.cols);
    let inner = if a_transposed { a.rows } else { a.cols };
    assert_eq!(rows, if a_transposed { a.cols } else { a.rows });
    assert_eq!(inner, if b_transposed { b.cols } else { b.rows });
    assert_eq!(cols, if b_transposed { b.rows } else { b.cols });
    match commands {
        Commands::Cpu => {
            let (stride, a_rows, b_rows) = (c.stride, a.rows, b.rows);
            let (a_step, b_step) = (a.stride() as isize, b.stride() as isize);
            let (a_cs, a_rs) = if a_transposed { (a_step, 1) } else { (1, a_step) };
            let (b_cs, b_rs) = if b_transposed { (b_step, 1) } else { (1, b_step) };
            let (a, b, c) = (a.data.host()?, b.data.host()?, c.data.host()?);
            let fits = a.len() >= a_rows * a_step as usize && b.len() >= b_rows * b_step as usize;
            assert!(fits && (rows == 0 || c.len() >= (rows - 1) * stride + cols));
            let threads = gemm::Parallelism::Rayon(0);
            // SAFETY: the shapes above describe the slices exactly; C does not alias A or B (it is borrowed mutably).
            unsafe {
                gemm::gemm(
                    rows,
                    cols,
                    inner,
                    c.as_mut_ptr(),
                    1,
                    stride as isize,
                    accumulate,
                    a.as_ptr(),
                    a_cs,
                    a_rs,
                    b.as_ptr(),
                    b_cs,
                    b_rs,
                    1.0f32,
                    1.0f32,
                    false,
                    false,
                    false,
                    threads,
                );
            }
            for row in c.chunks_mut(stride).take(rows) {
                if let Some(bias) = &bias {
                    row[..cols].iter_mut().zip(bias.host()?).for_each(|(c, b)| *c += b);
                }
                row[cols..padded(cols)].fill(0.0);
            }
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let cost = 2.0 * rows as f64 * cols as f64 * inner as f64;
            if let Some(pieces) = pieces(if a_transposed { inner } else { rows }, cost, recorder.budget) {
                return in_pieces(commands, product, c, pieces);
            }
            let variant = recorder.matmul.unwrap_or_else(|| choose(recorder.gpu().info().kind, rows, cols));
            let (spec, constants) = variant.page(a_transposed, b_transposed);
            let params = Params {
                rows: rows as u32,
                cols: cols as u32,
                inner: inner as u32,
                a_stride: a.stride() as u32 / 4,
                b_stride: b.stride() as u32 / 4,
                c_stride: c.stride as u32 / 4,
                add_bias: bias.is_some().into(),
                accumulate: accumulate.into(),
            };
            let bias = bias.map_or(Ok(Region::NOTHING), |bias| bias.region())?;
            let regions = [a.data.region()?, b.data.region()?, bias, c.data.region()?];
            let (tile_rows, tile_cols) = variant.tile();
            let grid = [padded(cols).div_ceil(tile_cols), rows.div_ceil(tile_rows), 1];
            recorder.dispatch(spec, &constants, &params, &regions, grid, cost)
        }
    }
}

/// Ranges of at least 64 of `n`, each of which costs at most `budget`; none where one does.
fn pieces(n: usize, cost: f64, budget: f64) -> Option<impl Iterator<Item = Range<usize>>> {
    let step = ((n as f64 * budget / cost) as usize / 64 * 64).max(64);
    (step < n).then(|| (0..n).step_by(step).map(move |first| first..(first + step).min(n)))
}

/// A product that is more than a submission should hold: by rows of C, or by inner steps where A is stored by them.
fn in_pieces(
    commands: &mut Commands,
    product: Product,
    mut c: MatMut,
    pieces: impl Iterator<Item = Range<usize>>,
) -> Result<()> {
    for piece in pieces {
        let a = product.a.part(&piece);
        if product.a_transposed {
            let first = piece.start == 0;
            let (accumulate, bias) = (product.accumulate || !first, product.bias.filter(|_| first));
            let b = product.b.part(&piece);
            let all = 0..c.rows;
            matmul(commands, Product { a, b, accumulate, bias, ..product }, c.part(&all))?;
        } else {
            matmul(commands, Product { a, ..product }, c.part(&piece))?;
        }
    }
    Ok(())
}

/// [`matmul`] as a plain loop; operands and result are padded matrices, `a_shape` and `b_shape` their stored shapes.
pub fn twin<T: Real>(
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
