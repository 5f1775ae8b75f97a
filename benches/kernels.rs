//! Kernels of a training step, on every device of the machine: `cargo bench`, or `cargo bench -- matmul`.
//!
//! Each is checked against its f64 reference before it is timed.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use std::fmt;
use std::sync::LazyLock;
use wgoal::device::{Adapters, Buffer, Commands, Matrix};
use wgoal::kernels::{self, Block, Candidates, Hardest, Product, reference};
use wgoal::optim::{self, AdamwParams};
use wgoal::{Device, Result};

fn main() {
    divan::main();
}

/// A device under its name.
#[derive(Clone)]
struct Named(Device);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn devices() -> &'static [Named] {
    static DEVICES: LazyLock<Vec<Named>> = LazyLock::new(|| {
        let adapters = Adapters::find();
        let open = |info: wgoal::device::DeviceInfo| adapters.open(&info.index.to_string()).ok().map(Named);
        adapters.devices().into_iter().filter_map(open).collect()
    });
    &DEVICES
}

/// Any numbers of both signs.
fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// Records, submits and waits.
fn run(device: &Device, record: impl FnOnce(&mut Commands) -> Result<()>) {
    let mut commands = device.commands();
    let ran = record(&mut commands).and_then(|()| commands.submit()).and_then(|()| device.finish());
    ran.unwrap_or_else(|error| panic!("{device}: {error}"));
}

fn check(device: &Device, what: &str, found: &[f32], expected: &[f64]) {
    let largest = expected.iter().fold(1e-30f64, |largest, x| largest.max(x.abs()));
    for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let near = (f64::from(found) - expected).abs() <= 1e-4 * largest;
        assert!(near, "{what}[{i}] on {device} is {found}, expected {expected}");
    }
}

/// Pairs of a batch and width of its embeddings, as in `wgoal bench step`.
const N: usize = 128;
const D: usize = 256;

/// Rows, columns and inner steps, and which operand is transposed: those of a step, and a cube.
const PRODUCTS: [(&str, [usize; 3]); 4] =
    [("nt", [N, D, 1280]), ("nt", [N, N, D]), ("tn", [D, 1280, N]), ("nt", [512, 512, 512])];

fn products() -> Vec<(Named, &'static str, [usize; 3])> {
    let of = |device: &Named| PRODUCTS.map(|(orientation, shape)| (device.clone(), orientation, shape));
    devices().iter().flat_map(of).collect()
}

/// So that divan can print it.
struct Case((Named, &'static str, [usize; 3]));

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, orientation, [rows, cols, inner]) = &self.0;
        write!(f, "{orientation} {rows}x{cols}x{inner}, {device}")
    }
}

#[divan::bench(args = products().into_iter().map(Case))]
fn matmul(bencher: Bencher, Case((Named(device), orientation, [rows, cols, inner])): &Case) {
    let (rows, cols, inner) = (*rows, *cols, *inner);
    let [a_transposed, b_transposed] = [*orientation == "tn", *orientation == "nt"];
    let a_shape = if a_transposed { [inner, rows] } else { [rows, inner] };
    let b_shape = if b_transposed { [cols, inner] } else { [inner, cols] };
    let (a_values, b_values) = (numbers(rows * inner), numbers(inner * cols));
    let matrix = |[rows, cols]: [usize; 2], values: &[f32]| {
        Matrix::from_rows(device, "bench", rows, cols, values).expect("memory of the device")
    };
    let (a, b) = (matrix(a_shape, &a_values), matrix(b_shape, &b_values));
    let mut c = Matrix::new(device, "bench", rows, cols).expect("memory of the device");
    let product = Product { a_transposed, b_transposed, ..Product::nn(a.view(), b.view()) };
    let mut work = || run(device, |commands| kernels::matmul(commands, product, c.view_mut()));
    work();
    let mut expected = vec![0.0; rows * cols];
    let (wide_a, wide_b) = (wide(&a_values), wide(&b_values));
    reference::matmul(
        (&wide_a, a_shape, a_transposed),
        (&wide_b, b_shape, b_transposed),
        None,
        false,
        &mut expected,
    );
    let found = device.wait(c.to_rows(device)).expect("a result");
    check(device, "matmul", &found, &expected);
    let mut work = || run(device, |commands| kernels::matmul(commands, product, c.view_mut()));
    // A multiply and an add are two.
    bencher.counter(ItemsCount::new(2 * rows * cols * inner)).bench_local(&mut work);
}

#[divan::bench(args = devices())]
fn l2norm(bencher: Bencher, Named(device): &Named) {
    let values = numbers(N * D);
    let z = Matrix::from_rows(device, "bench", N, D, &values).expect("memory of the device");
    let mut x = Matrix::new(device, "bench", N, D).expect("memory of the device");
    let mut norms = Buffer::new(device, "bench", N).expect("memory of the device");
    run(device, |commands| kernels::l2norm(commands, z.view(), x.view_mut(), norms.view_mut()));
    let (mut unit, mut lengths) = (vec![0.0; N * D], vec![0.0; N]);
    reference::l2norm(&wide(&values), D, &mut unit, &mut lengths);
    check(device, "x", &device.wait(x.to_rows(device)).expect("a result"), &unit);
    bencher.counter(BytesCount::new(8 * N * D)).bench_local(|| {
        run(device, |commands| kernels::l2norm(commands, z.view(), x.view_mut(), norms.view_mut()));
    });
}

/// Every other pair is a candidate.
const ANY: Candidates = Candidates { ids: None, exclude_own: false, below: None };

#[divan::bench(args = devices())]
fn hardest(bencher: Bencher, Named(device): &Named) {
    let values = numbers(N * N);
    let s = Matrix::from_rows(device, "bench", N, N, &values).expect("memory of the device");
    let buffer = || Buffer::<f32>::new(device, "bench", N).expect("memory of the device");
    let (mut positive, mut value) = (buffer(), buffer());
    let mut index = Buffer::<u32>::new(device, "bench", N).expect("memory of the device");
    let block = Block::images(0, N, N);
    let mut work = || {
        let out = Hardest { positive: positive.view_mut(), value: value.view_mut(), index: index.view_mut() };
        run(device, |commands| kernels::hardest(commands, &block, s.view(), ANY, out));
    };
    work();
    let (mut p, mut n, mut h) = (vec![0.0; N], vec![0.0; N], vec![0; N]);
    reference::hardest(&block, &wide(&values), (None, false, None), (&mut p, &mut n, &mut h));
    check(device, "hardest", &device.wait(value.read(device, 0..N)).expect("a result"), &n);
    let mut work = || {
        let out = Hardest { positive: positive.view_mut(), value: value.view_mut(), index: index.view_mut() };
        run(device, |commands| kernels::hardest(commands, &block, s.view(), ANY, out));
    };
    bencher.counter(BytesCount::new(4 * N * N)).bench_local(&mut work);
}

#[divan::bench(args = devices())]
fn adamw(bencher: Bencher, Named(device): &Named) {
    const LEN: usize = 1664 * D;
    let buffer = |values: &[f32]| Buffer::from_slice(device, "bench", values).expect("memory of the device");
    let values = numbers(LEN);
    let (g, factor) = (buffer(&values), buffer(&[1.0]));
    let (mut w, mut m, mut v) = (buffer(&values), buffer(&[0.0; LEN]), buffer(&[0.0; LEN]));
    let (betas, bounds) = ((0.9, 0.999), (f32::MIN, f32::MAX));
    let params = AdamwParams { learning_rate: 1e-3, betas, epsilon: 1e-8, decay: 1e-2, step: 1, bounds };
    let mut work = || {
        let state = [w.view_mut(), m.view_mut(), v.view_mut()];
        run(device, |commands| optim::adamw(commands, &params, (g.view(), factor.view()), state, LEN));
    };
    work();
    let (wide_g, mut expected) = (wide(&values), wide(&values));
    optim::reference::adamw(
        &params,
        (&wide_g, 1.0),
        [&mut expected, &mut vec![0.0; LEN], &mut vec![0.0; LEN]],
    );
    check(device, "w", &device.wait(w.read(device, 0..LEN)).expect("a result"), &expected);
    let mut work = || {
        let state = [w.view_mut(), m.view_mut(), v.view_mut()];
        run(device, |commands| optim::adamw(commands, &params, (g.view(), factor.view()), state, LEN));
    };
    bencher.counter(BytesCount::new(28 * LEN)).bench_local(&mut work);
}
