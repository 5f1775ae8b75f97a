//! On the CPU, a training step allocates only a few short lists. The matrix products keep a buffer per thread. All other
//! memory is allocated together with the pipeline. The gradient of a large batch takes the memory of a strip of
//! similarities, never of all of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use wgoal::gradient::{GradientContext, GradientOptions};
use wgoal::train::Features;
use wgoal::{Device, Head, Objective, Pipeline, TrainConfig};

/// The system's allocator. It counts calls and bytes.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are allocated now, and the most since this was last set.
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// The tests run one after the other, because the counts are those of the process.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size(), Relaxed);
        MOST.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The allocations of one step, and their bytes. The first steps are not counted, because threads start and buffers of
/// the libraries grow in them.
fn of_a_step(name: &str) -> (usize, usize) {
    const PAIRS: usize = 128;
    /// On a busy machine a thread may start late and grow its buffers in a later step. The smallest of several steps is
    /// therefore used.
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
    let _alone = ALONE.lock();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for name in ["hinge", "cir:sig-ms", "infonce", "siglip", "hinge-sum", "lifted", "cir:con@top:3"] {
            let (calls, bytes) = pool.install(|| of_a_step(name));
            println!("{name}, {threads} threads: {calls} allocations, {bytes} bytes");
            // For each product, every thread packs its share.
            let products = if ["hinge", "cir:sig-ms", "cir:con@top:3"].contains(&name) { 5 } else { 7 };
            // InfoNCE has two lists for each of 16 tasks.
            let lists = if name == "infonce" { 32 } else { 0 };
            let (most_calls, most_bytes) = (80 + 20 * threads + lists, threads * products * 50_000);
            assert!(calls < most_calls && bytes < most_bytes, "{name}: {calls} allocations of {bytes} bytes");
        }
    }
}

/// The most memory that the gradient of a batch holds, in MB, beside the gradient itself.
fn of_a_gradient(pairs: usize, computed: bool) -> usize {
    const DIM: usize = 4;
    let rows = |shift: f32| (0..pairs * DIM).map(|k| (k as f32 * 1.37 + shift).sin()).collect::<Vec<f32>>();
    let (images, texts) = (rows(0.0), rows(0.5));
    let [mut dx, mut dy] = [vec![0.0; pairs * DIM], vec![0.0; pairs * DIM]];
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    let mut context = GradientContext::new(&Device::cpu(), &"siglip".parse().unwrap(), pairs, DIM).unwrap();
    if computed {
        let options = GradientOptions::default().with(|c| c.normalize = true);
        let value = context.gradients(&images, &texts, options, [&mut dx, &mut dy]).unwrap();
        assert!(value.loss > 0.0 && dx.iter().chain(&dy).any(|x| *x != 0.0));
    }
    (MOST.load(Relaxed) - before) >> 20
}

/// All similarities of 32,768 pairs would take 4 GiB, and those of 8,192 pairs 256 MiB. A strip of them has 32 MiB.
#[test]
fn the_gradient_of_a_large_batch_holds_one_strip_of_similarities() {
    let _alone = ALONE.lock();
    // The products of every thread keep a buffer from the first one on. It is no part of the count.
    rayon::broadcast(|_| of_a_gradient(256, true));
    // Computing takes little memory beside that of the context.
    for (pairs, computed, most) in [(8192, false, 40), (8192, true, 48), (32_768, false, 56)] {
        let megabytes = of_a_gradient(pairs, computed);
        println!("{megabytes} MB for {pairs} pairs, computed: {computed}");
        assert!(megabytes <= most, "{megabytes} MB for {pairs} pairs, computed: {computed}");
    }
}
