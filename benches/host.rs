//! What the host does for a training step on a GPU: to record it, and wgpu's part of submitting it. On wgpu's pretended
//! device, which computes nothing: the driver's own part is not in it, and there is no result to check.
//!
//! `cargo bench --bench host`

use divan::Bencher;
use divan::counter::ItemsCount;
use wgoal::device::Adapters;
use wgoal::device::DeviceKind;
use wgoal::train::Features;
use wgoal::{Head, Pipeline, TrainConfig};

fn main() {
    divan::main();
}

const PAIRS: usize = 128;
/// Steps of an iteration.
const STEPS: usize = 16;

#[divan::bench(args = ["hinge", "cir:sig-ms"])]
fn step(bencher: Bencher, objective: &str) {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::NOOP;
    descriptor.backend_options.noop = wgpu::NoopBackendOptions::enabled();
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(Adapters::of(&instance, Some(DeviceKind::Discrete)));
    let device = adapters.open("0").expect("a pretended device");
    let objective = objective.parse().expect("an objective");
    let config = TrainConfig::default().with(|c| {
        c.mask_same_image = false;
        c.objective = objective;
    });
    // Narrow features: no time for uploads.
    let head = Head::new(8, 8, 256, 0).expect("a head");
    let mut pipeline = Pipeline::new(&device, head, &config, PAIRS).expect("a pipeline");
    let (images, texts) = (vec![0.5; PAIRS * 8], vec![0.25; PAIRS * 8]);
    let ids: Vec<u32> = (0..PAIRS as u32).collect();
    let mut steps = || -> wgoal::Result<()> {
        for _ in 0..STEPS {
            let batch = Features { images: &images, texts: &texts, ids: &ids };
            pipeline.step(batch, &config.objective, config.lr)?;
        }
        device.finish()
    };
    steps().expect("steps");
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| steps().expect("steps"));
}
