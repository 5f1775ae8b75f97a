//! A call that fails changes nothing. Calls whose arguments do not fit are refused on every device.

use crate::common::random::Random;
use crate::common::{Outcome, Replaced, Suite, check};
use libtest_mimic::Failed;
use wgoal::doctor::kernels;
use wgoal::gradient::GradientOptions;
use wgoal::model::{EncoderKind, Pooling};
use wgoal::objective::{InfonceParams, SiglipParams};
use wgoal::pooling::Gpo;
use wgoal::rerank::Candidates;
use wgoal::similarity::{NegativeOptions, hard_negatives};
use wgoal::train::Features;
use wgoal::{Device, Error, ErrorKind, Head, Objective, Pipeline, Result, TrainConfig};

const PAIRS: usize = 6;
const DIMS: [usize; 2] = [7, 5];
const EMBED: usize = 8;

fn objective(temperature: f32) -> Objective {
    with_temperature(temperature, true)
}

fn with_temperature(temperature: f32, learn_temperature: bool) -> Objective {
    let infonce = InfonceParams::default().with(|c| {
        c.temperature = temperature;
        c.learn_temperature = learn_temperature;
        c.leave_out = false;
    });
    let mined = "cir:con".parse().unwrap();
    Objective::Sum(vec![(1.0, Objective::Infonce(infonce)), (0.5, mined)])
}

/// Learned pooling, batch norm, a memory bank, a mask and a learned temperature: everything whose state a step changes.
fn config() -> TrainConfig {
    TrainConfig::default().with(|c| {
        c.objective = objective(0.1);
        c.embed = EMBED;
        c.image_pooling = Pooling::Gpo;
        c.text_pooling = Pooling::Gpo;
        c.image_encoder = EncoderKind::ResidualMlp;
        c.memory_bank = 2 * PAIRS;
    })
}

struct Batch {
    images: Vec<f32>,
    texts: Vec<f32>,
    offsets: [Vec<u32>; 2],
    ids: Vec<u32>,
}

impl Batch {
    fn new(random: &mut Random) -> Self {
        let offsets = [4, 3].map(|longest| {
            let mut offsets = vec![0];
            (0..PAIRS).for_each(|i| offsets.push(offsets[i] + 1 + random.below(longest) as u32));
            offsets
        });
        let [images, texts] = [0, 1].map(|s| random.values(offsets[s][PAIRS] as usize * DIMS[s]));
        Self { images, texts, offsets, ids: random.indices(PAIRS, 4) }
    }

    fn features(&self) -> Features<'_> {
        Features { images: &self.images, texts: &self.texts, ids: &self.ids }
    }

    fn step(&self, pipeline: &mut Pipeline, objective: &Objective) -> Result<()> {
        let [image, text] = &self.offsets;
        pipeline.step_local(self.features(), [image, text], objective, 1e-2)
    }

    /// Runs a step with gradients from outside.
    fn step_with(
        &self,
        pipeline: &mut Pipeline,
        objective: &Objective,
        gradients: impl Fn() -> Result<[Vec<f32>; 2]> + Send + Sync,
    ) -> Result<()> {
        let [image, text] = &self.offsets;
        let mut external = |_: &[f32], _: &[f32]| gradients();
        pipeline.step_with(self.features(), [image, text], objective, 1e-2, &mut external)
    }
}

/// Tries every way in which a step can fail before the last kernel. Returns `true` for each that failed.
fn failures(pipeline: &mut Pipeline, batch: &Batch) -> Vec<bool> {
    let objective_now = objective(0.1);
    let size = PAIRS * EMBED;
    let refused = || Error::new(ErrorKind::Config, "the closure", "something", "nothing", "give up");
    let [image, text] = &batch.offsets;
    let mut with = |gradients: Result<[Vec<f32>; 2]>, objective: &Objective| {
        batch.step_with(pipeline, objective, move || gradients.clone()).is_err()
    };
    let mut failed = vec![
        with(Err(refused()), &objective_now),
        // With another temperature, and with none.
        with(Err(refused()), &objective(0.4)),
        with(Err(refused()), &"hinge".parse().unwrap()),
        with(Ok([vec![0.0; size], vec![0.0; size - 1]]), &objective_now),
        with(Ok([vec![f32::NAN; size], vec![0.0; size]]), &objective_now),
    ];
    let mut step = |features, offsets, objective: &Objective| {
        pipeline.step_local(features, offsets, objective, 1e-2).is_err()
    };
    let whole = batch.features();
    failed.extend([
        step(Features { ids: &batch.ids[1..], ..whole }, [image, text], &objective_now),
        step(Features { images: &batch.images[1..], ..whole }, [image, text], &objective_now),
        step(Features { texts: &batch.texts[DIMS[1]..], ..whole }, [image, text], &objective_now),
        step(whole, [image, &[]], &objective_now),
        step(whole, [image, &[0, 2, 2, 3, 4, 5, text[PAIRS]]], &objective_now),
        step(whole, [image, text], &objective(-1.0)),
    ]);
    failed
}

/// Steps with failures between them give the same bits as the steps alone.
fn failed_steps(device: &Device) -> Outcome {
    let run = |fails: bool| -> std::result::Result<_, Failed> {
        let mut random = Random::new(21);
        let mut pipeline = Pipeline::new(
            device,
            Head::for_config(DIMS[0], DIMS[1], &config().head(), 0)?,
            &config(),
            PAIRS,
        )?;
        for step in 0..5 {
            let (batch, other) = (Batch::new(&mut random), Batch::new(&mut random));
            if fails {
                let failed = failures(&mut pipeline, &other);
                check(failed.iter().all(|&failed| failed), format!("not refused: {failed:?}"))?;
            }
            match step {
                3 => {
                    let gradients = || Ok([vec![0.25; PAIRS * EMBED], vec![-0.5; PAIRS * EMBED]]);
                    batch.step_with(&mut pipeline, &objective(0.1), gradients)?;
                }
                _ => batch.step(&mut pipeline, &objective(0.1))?,
            }
        }
        Ok((pipeline.head()?, pipeline.steps(), pipeline.records()?))
    };
    let (alone, between) = (run(false)?, run(true)?);
    check(alone.1 == 5 && alone.2.len() == 5, format!("{} steps, {:?}", alone.1, alone.2))?;
    check(alone.2 == between.2, format!("alone {:?}\nbetween {:?}", alone.2, between.2))?;
    for (name, _) in alone.0.parameters() {
        let [a, b] = [&alone.0, &between.0].map(|head| head.parameter(&name));
        let (a, b) = (a?, b?);
        check(a == b && a.iter().all(|x| x.is_finite()), format!("{name}: {a:?} alone, {b:?} between"))?;
    }
    check(alone.1 == between.1, "steps")
}

/// The driver refuses a kernel, early or late in a step.
fn refused_kernels(device: &Device) -> Outcome {
    const KERNELS: [&str; 4] = ["l2norm", "batch_norm_backward", "record", "adamw"];
    let Some(gpu) = device.adapter() else { return Err("not an adapter".into()) };
    let run = |fails: bool, learned: bool| -> std::result::Result<_, Failed> {
        let mut random = Random::new(22);
        let mut pipeline = Pipeline::new(
            device,
            Head::for_config(DIMS[0], DIMS[1], &config().head(), 0)?,
            &config(),
            PAIRS,
        )?;
        for name in KERNELS {
            let kernel = &kernels().find(|kernel| kernel.spec.name == name).ok_or("no such kernel")?.spec;
            let (batch, other) = (Batch::new(&mut random), Batch::new(&mut random));
            if fails {
                let _refused = Replaced::new(gpu, kernel, "this is no shader".into());
                let failed = other.step(&mut pipeline, &with_temperature(0.3, learned)).is_err();
                check(failed, format!("{name} was taken"))?;
            }
            batch.step(&mut pipeline, &with_temperature(0.1, learned))?;
        }
        Ok((pipeline.head()?, pipeline.steps(), pipeline.records()?))
    };
    for learned in [true, false] {
        let (alone, between) = (run(false, learned)?, run(true, learned)?);
        check(alone.2 == between.2, format!("alone {:?}\nbetween {:?}", alone.2, between.2))?;
        check(alone.0 == between.0 && alone.1 == between.1, "the heads differ")?;
    }
    Ok(())
}

/// A step reads the temperature that earlier steps have learned. Its loss is that of a first step with this
/// temperature.
fn learned_temperature(device: &Device) -> Outcome {
    let config = TrainConfig::default().with(|c| c.mask_same_image = false);
    let mut random = Random::new(24);
    let (images, texts) = (random.values(PAIRS * DIMS[0]), random.values(PAIRS * DIMS[1]));
    let batch = Features { images: &images, texts: &texts, ids: &[] };
    let objective = |temperature| {
        Objective::Infonce(InfonceParams::default().with(|c| {
            c.temperature = temperature;
            c.learn_temperature = true;
            c.leave_out = false;
        }))
    };
    let mut pipeline = Pipeline::new(device, Head::new(DIMS[0], DIMS[1], EMBED, 3)?, &config, PAIRS)?;
    for _ in 0..3 {
        pipeline.step(batch, &objective(0.2), 1e-2)?;
        let head = pipeline.head()?;
        let mut first = Pipeline::new(device, head.clone(), &config, PAIRS)?;
        first.step(batch, &objective(head.temperature()), 1e-2)?;
        pipeline.records()?;
        let mut next = Pipeline::new(device, head.clone(), &config, PAIRS)?;
        next.step(batch, &objective(0.2), 1e-2)?;
        pipeline.step(batch, &objective(0.2), 1e-2)?;
        let [found, expected, other] = [&mut pipeline, &mut first, &mut next].map(|p| p.records());
        let (found, expected, other) = (found?[0].loss, expected?[0].loss, other?[0].loss);
        check(found == expected, format!("{found}, expected {expected}"))?;
        check(expected != other, format!("{} makes no difference to 0.2", head.temperature()))?;
    }
    Ok(())
}

/// The same of SigLIP's temperature and bias. A step with neither leaves the bias, and InfoNCE sets it to 0.
fn learned_bias(device: &Device) -> Outcome {
    let config = TrainConfig::default().with(|c| c.mask_same_image = false);
    let mut random = Random::new(25);
    let (images, texts) = (random.values(PAIRS * DIMS[0]), random.values(PAIRS * DIMS[1]));
    let batch = Features { images: &images, texts: &texts, ids: &[] };
    let objective = |temperature, logit_bias, learn_temperature| {
        Objective::Siglip(SiglipParams::default().with(|c| {
            (c.temperature, c.logit_bias) = (temperature, logit_bias);
            c.learn_temperature = learn_temperature;
        }))
    };
    let mut pipeline = Pipeline::new(device, Head::new(DIMS[0], DIMS[1], EMBED, 3)?, &config, PAIRS)?;
    for _ in 0..3 {
        pipeline.step(batch, &objective(0.2, -3.0, true), 1e-2)?;
        let head = pipeline.head()?;
        let (t, b) = (head.temperature(), head.logit_bias());
        check(t != 0.2 && b != -3.0 && (b + 3.0).abs() < 0.1, format!("temperature {t}, bias {b}"))?;
        let mut first = Pipeline::new(device, head.clone(), &config, PAIRS)?;
        first.step(batch, &objective(t, b, true), 1e-2)?;
        let mut next = Pipeline::new(device, head.clone(), &config, PAIRS)?;
        next.step(batch, &objective(t, -3.0, true), 1e-2)?;
        pipeline.records()?;
        pipeline.step(batch, &objective(0.2, -3.0, true), 1e-2)?;
        let [found, expected, other] = [&mut pipeline, &mut first, &mut next].map(|p| p.records());
        let (found, expected, other) = (found?[0].loss, expected?[0].loss, other?[0].loss);
        check(found == expected, format!("{found}, expected {expected}"))?;
        check(expected != other, format!("{b} makes no difference to -3"))?;
    }
    let learned = pipeline.head()?.logit_bias();
    pipeline.step(batch, &"hinge".parse()?, 1e-2)?;
    check(pipeline.head()?.logit_bias() == learned, "the hinge changes the bias")?;
    pipeline.step(batch, &objective(0.3, -4.0, false), 1e-2)?;
    let head = pipeline.head()?;
    check([head.temperature(), head.logit_bias()] == [0.3, -4.0], "fixed ones are not in the head")?;
    pipeline.step(batch, &"infonce".parse()?, 1e-2)?;
    let head = pipeline.head()?;
    check([head.temperature(), head.logit_bias()] == [0.07, 0.0], "InfoNCE has a bias")
}

fn refused<T>(found: Result<T>, words: &str) -> Outcome {
    let message = found.err().map(|error| error.to_string()).unwrap_or_default();
    check(message.contains(words), format!("`{message}` should say `{words}`"))
}

/// Matrices of other shapes with the same number of values are refused.
fn shapes(device: &Device) -> Outcome {
    let mut random = Random::new(23);
    let (x, y) = (random.values(64), random.values(64));
    let objective: Objective = "hinge".parse()?;
    let gradients = |x, y| objective.gradients(device, x, y, GradientOptions::default());
    let drawn = |x, y| hard_negatives(device, x, y, NegativeOptions::default());
    refused(gradients((&x, 16), (&y, 8)), "found [4, 16] and [8, 8]; give one text embedding for each")?;
    refused(drawn((&x, 16), (&y, 8)), "found [4, 16] and [8, 8]")?;
    refused(Candidates::top(device, (&x, 16), (&y, 8), 2), "expected the width of the images, 16, found 8")?;
    refused(gradients((&x, 16), (&y[..48], 16)), "found [4, 16] and [3, 16]")?;
    refused(gradients((&x[1..], 16), (&y, 16)), "image embeddings: expected whole rows of width 16")?;
    refused(gradients((&x, 16), (&[], 16)), "text embeddings: expected whole rows")?;
    refused(gradients((&x, 0), (&y, 0)), "image embeddings: expected whole rows of width 0")?;
    gradients((&x, 16), (&y, 16))?;
    Ok(())
}

/// The fields of a pooling operator are public, so wrong values are refused.
fn pooling_fields(device: &Device) -> Outcome {
    let good = Gpo::new(4, 3, 0)?;
    let wide = |hidden: usize| Gpo {
        hidden,
        weight_ih: [vec![0.1; 12 * hidden], vec![0.1; 12 * hidden]],
        weight_hh: [vec![0.1; 3 * hidden * hidden], vec![0.1; 3 * hidden * hidden]],
        bias_ih: [vec![0.1; 3 * hidden], vec![0.1; 3 * hidden]],
        bias_hh: [vec![0.1; 3 * hidden], vec![0.1; 3 * hidden]],
        v: vec![0.1; hidden],
        ..good.clone()
    };
    let uneven = [vec![0.1; 10], vec![0.1; 8]];
    for (gpo, words) in [
        (Gpo { hidden: 300, ..good.clone() }, "states of 1 to 256, found 4 and 300"),
        (wide(300), "states of 1 to 256, found 4 and 300"),
        (wide(0), "found 4 and 0"),
        (Gpo { encoding: 3, ..good.clone() }, "an even width"),
        (Gpo { encoding: 0, ..good.clone() }, "an even width"),
        (Gpo { encoding: 6, ..good.clone() }, "gpo.weight_ih: expected 54 values a direction, found 36"),
        (Gpo { bias_hh: uneven, ..good.clone() }, "gpo.bias_hh: expected 9 values a direction, found 10"),
        (Gpo { v: vec![0.0; 4], ..good.clone() }, "gpo.v"),
        (Gpo { v: vec![f32::NAN; 3], ..good.clone() }, "finite parameters, found NaN"),
    ] {
        let features = [1.0, 2.0, 3.0, 4.0];
        refused(gpo.pool(device, &features, &[2], 2), words)?;
        refused(gpo.pool_backward(device, &features, &[2], 2, &[1.0, 1.0]), words)?;
    }
    good.pool(device, &[1.0, 2.0, 3.0, 4.0], &[2], 2)?;
    Ok(())
}

pub fn tests(suite: &mut Suite) {
    suite.each("failed_steps", failed_steps);
    suite.each("learned_temperature", learned_temperature);
    suite.each("learned_bias", learned_bias);
    suite.each_adapter("refused_kernels", refused_kernels);
    suite.each("shapes", shapes);
    suite.each("pooling_fields", pooling_fields);
}
