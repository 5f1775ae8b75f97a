//! Bindings: matrices larger than the largest binding are bound in pieces and give the same numbers. Bind groups are
//! made once.

use crate::common::random::Random;
use crate::common::{Outcome, Suite, check};
use libtest_mimic::Failed;
use wgoal::device::Adapters;
use wgoal::gradient::GradientOptions;
use wgoal::optim::Optimizer;
use wgoal::train::Features;
use wgoal::{Device, Head, Objective, Pipeline, TrainConfig};

/// The largest binding in bytes. Features, embeddings, similarities and weights of the cases below are larger. 64 rows
/// of them, and vectors, are smaller.
const BINDING: usize = 66 << 10;

/// Opens the same adapter again, with small bindings.
fn limited(device: &Device) -> Result<Device, Failed> {
    let other = Adapters::find().open(&device.info().index.to_string())?;
    if let Some(gpu) = other.adapter() {
        gpu.limit_bindings(BINDING);
    }
    Ok(other)
}

fn objectives() -> Result<Vec<Objective>, Failed> {
    let names = ["hinge", "hinge-sum", "infonce", "infonce-masked", "con:con", "nca:lin-ms", "cir:sig-ms"];
    Ok(names.iter().map(|name| name.parse()).collect::<wgoal::Result<_>>()?)
}

fn near(what: &str, found: &[f32], expected: &[f32], allowed: f32) -> Outcome {
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    let good = largest > 0.0 && worst <= allowed * largest && found.len() == expected.len();
    check(good, format!("{what}: {worst:e} of {largest:e}"))
}

/// Gradients at 331 embeddings of width 65: 90 KB per side, 443 KB of similarities.
fn gradients(device: &Device) -> Outcome {
    let (pairs, dim) = (331, 65);
    let mut random = Random::new(7);
    let (x, y) = (random.values(pairs * dim), random.values(pairs * dim));
    let ids = random.indices(pairs, pairs);
    let limited = limited(device)?;
    for objective in objectives()? {
        let options = GradientOptions::default().with(|c| {
            c.normalize = true;
            c.ids = Some(&ids);
        });
        let whole = objective.gradients(device, (&x, dim), (&y, dim), options)?;
        let parts = objective.gradients(&limited, (&x, dim), (&y, dim), options)?;
        check(whole.hardest_text_index == parts.hardest_text_index, format!("{objective}: other negatives"))?;
        near(&format!("{objective} images"), &parts.images, &whole.images, 2e-6)?;
        near(&format!("{objective} texts"), &parts.texts, &whole.texts, 2e-6)?;
    }
    Ok(())
}

/// One step with each optimiser. Features are 200 x 130 and 200 x 257, embeddings 129 wide, so the weights take 68 and
/// 134 KB.
fn steps(device: &Device) -> Outcome {
    let (pairs, dims, embed) = (200, [130, 257], 129);
    let mut random = Random::new(8);
    let (images, texts) = (random.values(pairs * dims[0]), random.values(pairs * dims[1]));
    let ids = random.indices(pairs, pairs);
    let limited = limited(device)?;
    for optimizer in
        [Optimizer::default(), Optimizer::Sgd(wgoal::optim::Sgd::default().with(|c| c.momentum = 0.9))]
    {
        let run = |device: &Device| -> Result<_, Failed> {
            // The learning rate is so large that errors of the gradient show.
            let config = TrainConfig::default().with(|c| c.optimizer = optimizer);
            let mut pipeline = Pipeline::new(device, Head::new(dims[0], dims[1], embed, 3)?, &config, pairs)?;
            let batch = Features { images: &images, texts: &texts, ids: &ids };
            pipeline.step(batch, &"infonce".parse()?, 1e-2)?;
            let head = pipeline.head()?;
            let sides = [wgoal::data::Side::Image, wgoal::data::Side::Text].map(|side| head.side(side));
            Ok((pipeline.records()?[0], sides))
        };
        let (whole, parts) = (run(device)?, run(&limited)?);
        near("norm", &[parts.0.gradient_norm], &[whole.0.gradient_norm], 1e-6)?;
        near("loss", &[parts.0.loss], &[whole.0.loss], 1e-6)?;
        for ((weight, bias), (weight_parts, bias_parts)) in whole.1.iter().zip(&parts.1) {
            // AdamW's first step is the sign of the gradient times the learning rate, except where the gradient is
            // close to 0.
            near("weight", weight_parts, weight, 1e-3)?;
            near("bias", bias_parts, bias, 1e-3)?;
        }
    }
    Ok(())
}

/// From the third step on, a step makes no bind group. The second step does, because two buffers have been swapped. No
/// bind group outlives the buffers that it binds.
fn bound_once(device: &Device) -> Outcome {
    let Some(gpu) = device.adapter() else { return Err("not an adapter".into()) };
    let (pairs, dims, embed) = (21, [37, 19], 11);
    let mut random = Random::new(10);
    let (images, texts) = (random.values(pairs * dims[0]), random.values(pairs * dims[1]));
    let ids = random.indices(pairs, pairs);
    let before = gpu.bind_groups();
    for name in ["hinge", "cir:sig-ms", "infonce", "siglip"] {
        let objective = name.parse()?;
        let head = Head::new(dims[0], dims[1], embed, 3)?;
        let mut pipeline = Pipeline::new(device, head, &TrainConfig::default(), pairs)?;
        let mut counts = Vec::new();
        for _ in 0..5 {
            pipeline.step(Features { images: &images, texts: &texts, ids: &ids }, &objective, 1e-3)?;
            counts.push(gpu.bind_groups() - before);
        }
        let settled = counts[0] > 20 && counts[2..] == [counts[1]; 3];
        check(settled, format!("{objective}: {counts:?} bind groups"))?;
        drop(pipeline);
        let left = gpu.bind_groups();
        check(left == before, format!("{objective}: {left} bind groups are left of {before}"))?;
    }
    Ok(())
}

/// Short steps, each with its own batch and ids, give the same bits whether they share submissions or not. If uploads
/// can be delayed, the steps share submissions.
fn submissions(device: &Device) -> Outcome {
    let (pairs, dims, embed, steps) = (5, [7, 9], 3, 6);
    let objective = "cir:sig-ms".parse()?;
    let config = TrainConfig::default().with(|c| {
        c.memory_bank = 2 * pairs;
        c.mask_same_image = true;
    });
    let run = |waits: bool| -> Result<_, Failed> {
        let mut random = Random::new(11);
        let mut pipeline = Pipeline::new(device, Head::new(dims[0], dims[1], embed, 3)?, &config, pairs)?;
        device.finish()?;
        let count = || if let Some(gpu) = device.adapter() { gpu.submissions() } else { 0 };
        let before = count();
        for _ in 0..steps {
            let (images, texts) = (random.values(pairs * dims[0]), random.values(pairs * dims[1]));
            let ids = random.indices(pairs, pairs);
            pipeline.step(Features { images: &images, texts: &texts, ids: &ids }, &objective, 1e-2)?;
            if waits {
                device.finish()?;
            }
        }
        let (head, records) = (pipeline.head()?, pipeline.records()?);
        Ok((count() - before, head, records))
    };
    run(true)?;
    let (apart, head_apart, records_apart) = run(true)?;
    let (mut together, head, records) = run(false)?;
    check(records == records_apart, format!("{records:?} together, {records_apart:?} apart"))?;
    check(head == head_apart, "the heads differ")?;
    check(records.windows(2).all(|pair| pair[0] != pair[1]), format!("steps of one batch: {records:?}"))?;
    let Some(gpu) = device.adapter() else { return Ok(()) };
    let shares = gpu.info().backend != "gl";
    // A busy machine may be too slow for sharing now and then.
    for _ in 0..20 {
        if shares && together >= apart {
            together = run(false)?.0;
        }
    }
    let fits = if shares { together < steps as u64 } else { together >= steps as u64 };
    check(fits && apart >= steps as u64, format!("{together} submissions together, {apart} apart"))
}

/// A step on 8,000 pairs with features 1280 and 384 wide and embeddings 256 wide. The memory of the device while the
/// step runs includes the copies that uploads make, even if they are freed by then.
fn a_large_batch_needs_little_memory(device: &Device) -> Outcome {
    let (pairs, dims, embed) = (8000, [1280, 384], 256);
    // A device of its own, with empty memory.
    let device = Device::open(&device.info().index.to_string())?;
    let Some(gpu) = device.adapter() else { return Err("not an adapter".into()) };
    let before = gpu.memory().ok_or("the backend keeps no account of memory")?;
    let mut random = Random::new(9);
    let (images, texts) = (random.values(pairs * dims[0]), random.values(pairs * dims[1]));
    let ids = random.indices(pairs, pairs);
    let mut pipeline =
        Pipeline::new(&device, Head::new(dims[0], dims[1], embed, 3)?, &TrainConfig::default(), pairs)?;
    pipeline.step(Features { images: &images, texts: &texts, ids: &ids }, &"hinge".parse()?, 1e-3)?;
    let uploads = 4 * (images.len() + texts.len()) as u64;
    let under_way = gpu.memory().ok_or("no account")? - before + uploads;
    let record = pipeline.records()?[0];
    println!("{} MB on the device, loss {}", under_way / 1_000_000, record.loss);
    // Features and their upload copies alone take 106 MB. A smaller value would show that they were not counted.
    check((100_000_000..300_000_000).contains(&under_way), format!("{under_way} bytes"))?;
    check(record.loss > 0.0 && record.gradient_norm > 0.0, format!("{record:?}"))
}

pub fn tests(suite: &mut Suite) {
    suite.each("gradients", gradients);
    suite.each("steps", steps);
    suite.each_adapter("bound_once", bound_once);
    suite.each("submissions", submissions);
    suite.only("lavapipe", "a_large_batch_needs_little_memory", a_large_batch_needs_little_memory);
}
