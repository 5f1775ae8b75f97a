//! A step on the CPU allocates no more than the packing buffers of the `gemm` crate and a few short lists: memory is made
//! with the pipeline.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use wgoal::train::Features;
use wgoal::{Device, Head, Objective, Pipeline, TrainConfig};

/// The system's allocator, counting.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of one step, and their bytes, after steps in which threads start and buffers of the libraries grow.
fn of_a_step(name: &str) -> (usize, usize) {
    const PAIRS: usize = 128;
    /// A thread that comes late to a busy machine grows its buffers in a later step: the least of these tells.
    const STEPS: usize = 20;
    let wave = |n: usize| (0..n).map(|k| (k as f32 * 1.37).sin()).collect::<Vec<f32>>();
    let (images, texts) = (wave(PAIRS * 320), wave(PAIRS * 96));
    let ids: Vec<u32> = (0..PAIRS as u32).collect();
    let objective: Objective = name.parse().unwrap();
    let config = TrainConfig::default();
    let head = Head::new(320, 96, 64, 0).unwrap();
    let mut pipeline = Pipeline::new(&Device::cpu(), head, &config, PAIRS).unwrap();
    let batch = Features { images: &images, texts: &texts, ids: &ids };
    let counts = (0..3 + STEPS).map(|_| {
        let (calls, bytes) = (CALLS.load(Relaxed), BYTES.load(Relaxed));
        pipeline.step(batch, &objective, 1e-4).unwrap();
        (CALLS.load(Relaxed) - calls, BYTES.load(Relaxed) - bytes)
    });
    counts.skip(3).min().unwrap()
}

#[test]
fn a_step_on_the_cpu_allocates_no_more_than_packing_buffers_and_short_lists() {
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for name in ["hinge", "cir:sig-ms", "infonce", "hinge-sum", "lifted", "cir:con@top:3"] {
            let (calls, bytes) = pool.install(|| of_a_step(name));
            println!("{name}, {threads} threads: {calls} allocations, {bytes} bytes");
            // A thread packs for each product what its share needs.
            let products = if ["hinge", "cir:sig-ms", "cir:con@top:3"].contains(&name) { 5 } else { 7 };
            let (most_calls, most_bytes) = (80 + 20 * threads, threads * products * 50_000);
            assert!(calls < most_calls && bytes < most_bytes, "{name}: {calls} allocations of {bytes} bytes");
        }
    }
}
