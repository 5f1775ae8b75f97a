//! The hinge step of `wgoal bench step` in burn, on its wgpu backend: a line a shape.
//!
//! ```sh
//! cd scripts/burn_step && cargo run --release -- [--gpu] N:P:Q:D ...
//! ```
//!
//! Two linear heads, L2 norm, hinge on the hardest negatives, AdamW, on the software adapter that burn finds, or its best
//! GPU. A sample is four steps or 20 ms of them, as in `wgoal bench step`, of which the last reads the loss. The first step
//! holds burn's tuning, unless its cache does.

use burn::backend::Autodiff;
use burn::backend::wgpu::{Wgpu, WgpuDevice};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::{Distribution, Tensor};
use std::time::Instant;

type B = Autodiff<Wgpu>;

#[derive(Module, Debug)]
struct Heads<B: burn::tensor::backend::Backend> {
    image: Linear<B>,
    text: Linear<B>,
}

fn unit(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let norms = (x.clone() * x.clone()).sum_dim(1).sqrt().add_scalar(1e-8);
    x / norms
}

fn main() {
    let (flags, shapes): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|argument| argument == "--gpu");
    let device = if flags.is_empty() { WgpuDevice::Cpu } else { WgpuDevice::default() };
    for shape in shapes {
        let sizes: Option<Vec<usize>> = shape.split(':').map(|size| size.parse().ok()).collect();
        let Some(&[n, p, q, d]) = sizes.as_deref() else {
            eprintln!("{shape}: expected N:P:Q:D, four whole numbers, as in 128:1280:384:256");
            std::process::exit(2);
        };
        let uniform = Distribution::Uniform(-1.0, 1.0);
        let images = Tensor::<B, 2>::random([n, p], uniform, &device);
        let texts = Tensor::<B, 2>::random([n, q], uniform, &device);
        let own = Tensor::<B, 2>::eye(n, &device);
        let mut heads = Heads {
            image: LinearConfig::new(p, d).init(&device),
            text: LinearConfig::new(q, d).init(&device),
        };
        let mut optimizer = AdamWConfig::new().with_weight_decay(1e-4).init::<B, Heads<B>>();
        let mut step = |read: bool| {
            let x = unit(heads.image.forward(images.clone()));
            let y = unit(heads.text.forward(texts.clone()));
            let s = x.matmul(y.transpose());
            let positive = (s.clone() * own.clone()).sum_dim(1);
            // The own pair is no negative.
            let off = own.clone().mul_scalar(-10.0);
            let to_text = (s.clone() - positive.clone() + off.clone()).add_scalar(0.2).clamp_min(0.0);
            let to_image = (s - positive.transpose() + off).add_scalar(0.2).clamp_min(0.0);
            let loss = to_text.max_dim(1).sum() + to_image.max_dim(0).sum();
            let gradients = GradientsParams::from_grads(loss.backward(), &heads);
            heads = optimizer.step(5e-4, heads.clone(), gradients);
            if read { loss.into_scalar() } else { 0.0 }
        };
        let begin = Instant::now();
        let first = step(true);
        let first_ms = 1e3 * begin.elapsed().as_secs_f64();
        let mut last = first;
        for _ in 0..10 {
            last = step(true);
        }
        assert!(last < first, "the loss must fall on one batch: {first} {last}");
        let mut sample = |steps: usize| {
            let begin = Instant::now();
            for _ in 1..steps {
                step(false);
            }
            step(true);
            1e3 * begin.elapsed().as_secs_f64() / steps as f64
        };
        let steps = ((20.0 / sample(4)) as usize).clamp(4, 256);
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < 3.0 {
            times.push(sample(steps));
        }
        times.sort_by(f64::total_cmp);
        println!(
            "{shape} {:.2} ms a step, median of {}, first {first_ms:.0} ms",
            times[times.len() / 2],
            steps * times.len()
        );
    }
}
