//! Tests other negatives than the hardest, sums of objectives, the memory bank and gradients from outside, through the
//! public API. The expected values come from plain loops.

use crate::common::random::Random;
use crate::common::{Outcome, Suite, check};
use libtest_mimic::Failed;
use wgoal::gradient::{GradientOptions, Gradients};
use wgoal::model::Side;
use wgoal::optim::Optimizer;
use wgoal::train::Features;
use wgoal::{Device, Head, Objective, Pipeline, TrainConfig};

const PAIRS: usize = 37;
const DIM: usize = 6;

struct Batch {
    images: Vec<f32>,
    texts: Vec<f32>,
    ids: Vec<u32>,
}

impl Batch {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (images, mut texts) = (random.values(PAIRS * DIM), random.values(PAIRS * DIM));
        // Positives tend to have higher similarities, so that negatives lie on both sides of them.
        texts.iter_mut().zip(&images).for_each(|(text, image)| *text += 0.5 * image);
        let ids = random.indices(PAIRS, 30);
        Self { images: unit(images), texts: unit(texts), ids }
    }

    fn gradients(&self, device: &Device, objective: &str, scale: f32) -> Result<Gradients, Failed> {
        let objective: Objective = objective.parse()?;
        let options = GradientOptions::default().with(|c| {
            c.ids = Some(&self.ids);
            c.scale = scale;
        });
        Ok(objective.gradients(device, (&self.images, DIM), (&self.texts, DIM), options)?)
    }

    fn s(&self, i: usize, j: usize) -> f64 {
        dot(&self.images[i * DIM..][..DIM], &self.texts[j * DIM..][..DIM])
    }
}

fn unit(mut values: Vec<f32>) -> Vec<f32> {
    for row in values.chunks_exact_mut(DIM) {
        let norm = dot(row, row).sqrt() as f32;
        row.iter_mut().for_each(|x| *x /= norm);
    }
    values
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn near(what: &str, found: &[f32], expected: &[f64], allowed: f64) -> Outcome {
    let size = expected.iter().fold(1e-30f64, |size, x| size.max(x.abs()));
    for (k, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs() / size;
        check(error <= allowed, format!("{what}[{k}]: {found}, expected {expected}, error {error:.1e}"))?;
    }
    Ok(())
}

fn sigma(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// The weights of `nca:lin` with default parameters.
fn nca_lin(p: f64, n: f64) -> [f64; 2] {
    let t = sigma(n - p);
    [t * (1.0 - p), t * n]
}

/// The weights of `cir:sig` with default parameters.
fn cir_sig(p: f64, n: f64) -> [f64; 2] {
    let t = sigma((1.0 - p).powi(2) + n * n - 0.5);
    [t * sigma(-2.0 * (p - 0.5)), t * sigma(10.0 * (n - 0.5))]
}

/// Adds up all triplets whose negative is chosen, with the weights that `weigh` gives. Returns dX, dY and the sum of n
/// − p.
fn brute(
    batch: &Batch,
    choose: impl Fn(f64, Vec<(f64, usize)>) -> Vec<(f64, usize)>,
    weigh: impl Fn(f64, f64) -> [f64; 2],
) -> (Vec<f64>, Vec<f64>, f64) {
    let (mut dx, mut dy, mut loss) = (vec![0.0; PAIRS * DIM], vec![0.0; PAIRS * DIM], 0.0);
    for (anchor, texts_are_anchors) in (0..PAIRS).flat_map(|anchor| [(anchor, false), (anchor, true)]) {
        let at = |other: usize| if texts_are_anchors { (other, anchor) } else { (anchor, other) };
        let s = |other: usize| batch.s(at(other).0, at(other).1);
        let p = s(anchor);
        let mut negatives: Vec<_> =
            (0..PAIRS).filter(|&k| batch.ids[k] != batch.ids[anchor]).map(|k| (s(k), k)).collect();
        negatives.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (n, k) in choose(p, negatives) {
            let [pull, push] = weigh(p, n);
            loss += n - p;
            for (weight, (i, j)) in [(-pull, at(anchor)), (push, at(k))] {
                for d in 0..DIM {
                    dx[i * DIM + d] += weight * f64::from(batch.texts[j * DIM + d]);
                    dy[j * DIM + d] += weight * f64::from(batch.images[i * DIM + d]);
                }
            }
        }
    }
    (dx, dy, loss)
}

fn by_definition(device: &Device) -> Outcome {
    type Chooser = fn(f64, Vec<(f64, usize)>) -> Vec<(f64, usize)>;
    let chosen: [(&str, Chooser); 4] = [
        ("top:3", |_, negatives| negatives.into_iter().take(3).collect()),
        ("top:1000", |_, negatives| negatives),
        ("semi-hard", |p, negatives| negatives.into_iter().filter(|(n, _)| *n < p).take(1).collect()),
        ("all", |_, negatives| negatives),
    ];
    for seed in 0..2 {
        let batch = Batch::new(seed);
        for (name, choose) in chosen {
            for (weights, weigh) in [("nca:lin", nca_lin as fn(f64, f64) -> [f64; 2]), ("cir:sig", cir_sig)] {
                let found = batch.gradients(device, &format!("{weights}@{name}"), 0.5)?;
                let (dx, dy, loss) = brute(&batch, choose, weigh);
                let half = |values: Vec<f64>| values.into_iter().map(|x| 0.5 * x).collect::<Vec<_>>();
                let what = format!("{weights}@{name}, seed {seed}");
                near(&format!("{what}: dX"), &found.images, &half(dx), 5e-6)?;
                near(&format!("{what}: dY"), &found.texts, &half(dy), 5e-6)?;
                near(&format!("{what}: loss"), &[found.loss], &[loss], 2e-6)?;
            }
        }
    }
    Ok(())
}

/// Objectives that are equal bit for bit.
fn same(device: &Device) -> Outcome {
    let batch = Batch::new(3);
    for (a, b) in
        [("hinge@all", "hinge-sum"), ("cir:sig-ms@top:1", "cir:sig-ms"), ("cir:lin@all", "circle@all")]
    {
        let (x, y) = (batch.gradients(device, a, 1.0)?, batch.gradients(device, b, 1.0)?);
        check(x.images.iter().any(|x| *x != 0.0), format!("{a}: no gradient"))?;
        check(x.images == y.images && x.texts == y.texts, format!("{a} and {b} differ"))?;
    }
    Ok(())
}

fn sums(device: &Device) -> Outcome {
    let batch = Batch::new(4);
    let sum = batch.gradients(device, "infonce+0.5*cir:sig-ms+2*hinge@all+0.25*nca:con@top:2", 0.5)?;
    let parts = [("infonce", 1.0), ("cir:sig-ms", 0.5), ("hinge@all", 2.0), ("nca:con@top:2", 0.25)];
    let (mut dx, mut dy, mut loss) = (vec![0.0; PAIRS * DIM], vec![0.0; PAIRS * DIM], 0.0);
    for (name, weight) in parts {
        let part = batch.gradients(device, name, 0.5)?;
        dx.iter_mut().zip(&part.images).for_each(|(sum, x)| *sum += weight * f64::from(*x));
        dy.iter_mut().zip(&part.texts).for_each(|(sum, x)| *sum += weight * f64::from(*x));
        loss += weight * f64::from(part.loss);
        if name == "infonce" {
            near("dt", &[sum.temperature], &[part.temperature.into()], 1e-6)?;
        }
    }
    near("dX", &sum.images, &dx, 2e-6)?;
    near("dY", &sum.texts, &dy, 2e-6)?;
    near("loss", &[sum.loss], &[loss], 2e-6)
}

/// A head whose features are as wide as its embeddings, and its pipeline.
fn pipeline(device: &Device, config: &TrainConfig) -> Result<(Head, Pipeline), Failed> {
    let head = Head::new(DIM, DIM, DIM, 5)?;
    let pipeline = Pipeline::new(device, head.clone(), config, PAIRS)?;
    Ok((head, pipeline))
}

const SIDES: [Side; 2] = [Side::Image, Side::Text];

/// The weight [dim, dim], then the bias.
fn parameters(head: &Head, side: Side) -> Vec<f32> {
    let (weight, bias) = head.side(side);
    [weight, bias].concat()
}

fn descent(memory_bank: usize) -> TrainConfig {
    TrainConfig::default().with(|c| {
        c.optimizer = Optimizer::Sgd(wgoal::optim::Sgd::default().with(|c| c.momentum = 0.0));
        c.weight_decay = 0.0;
        c.clip = 0.0;
        c.embed = DIM;
        c.memory_bank = memory_bank;
    })
}

/// The unit embeddings of one side in f64, from its parameters.
fn embed(parameters: &[f64], features: &[f32]) -> Vec<f64> {
    let mut rows = Vec::new();
    for features in features.chunks_exact(DIM) {
        let z: Vec<f64> = (0..DIM)
            .map(|k| {
                let weight = &parameters[k * DIM..][..DIM];
                let product: f64 = weight.iter().zip(features).map(|(w, &x)| w * f64::from(x)).sum();
                product + parameters[DIM * DIM + k]
            })
            .collect();
        let norm = z.iter().map(|z| z * z).sum::<f64>().sqrt();
        rows.extend(z.into_iter().map(|z| z / norm));
    }
    rows
}

/// The loss of `con:con`, or of the hinge if there is a margin, with the earlier batches as further negatives.
fn bank_loss(
    sides: &[Vec<f64>; 2],
    bank: &[(&Batch, [Vec<f64>; 2])],
    batch: &Batch,
    margin: Option<f64>,
) -> f64 {
    let [x, y] = [embed(&sides[0], &batch.images), embed(&sides[1], &batch.texts)];
    let dot = |a: &[f64], i: usize, b: &[f64], j: usize| -> f64 {
        (0..DIM).map(|d| a[i * DIM + d] * b[j * DIM + d]).sum()
    };
    let mut loss = 0.0;
    for (a, b, other) in [(&x, &y, 1), (&y, &x, 0)] {
        for i in 0..PAIRS {
            let p = dot(a, i, b, i);
            let own = (0..PAIRS).filter(|&k| batch.ids[k] != batch.ids[i]).map(|k| dot(a, i, b, k));
            let banked = bank.iter().flat_map(|(earlier, rows)| {
                let different = (0..PAIRS).filter(|&k| earlier.ids[k] != batch.ids[i]);
                different.map(|k| dot(a, i, &rows[other], k)).collect::<Vec<_>>()
            });
            let n = own.chain(banked).fold(-1.0, f64::max);
            loss += margin.map_or(n - p, |margin| (margin + n - p).max(0.0));
        }
    }
    loss
}

/// Runs three batches with learning rate 0 through a bank that holds two. Then the gradient of the fourth batch is
/// compared with differences of its loss.
fn memory_bank(device: &Device) -> Outcome {
    for (name, margin) in [("con:con", None), ("hinge", Some(f64::from(0.2f32)))] {
        let objective: Objective = name.parse()?;
        // The bank size is rounded down to two batches.
        let (head, mut pipeline) = pipeline(device, &descent(2 * PAIRS + 5))?;
        let batches = [10, 11, 12, 13].map(Batch::new);
        let features =
            |batch: &Batch| -> (Vec<f32>, Vec<f32>) { (batch.images.clone(), batch.texts.clone()) };
        for (k, batch) in batches.iter().enumerate() {
            let (images, texts) = features(batch);
            let rate = if k == 3 { 1.0 } else { 0.0 };
            pipeline.step(Features { images: &images, texts: &texts, ids: &batch.ids }, &objective, rate)?;
        }
        let records = pipeline.records()?;
        let sides = SIDES.map(|side| parameters(&head, side).into_iter().map(f64::from).collect::<Vec<_>>());
        let held = |k: usize| {
            (&batches[k], [embed(&sides[0], &batches[k].images), embed(&sides[1], &batches[k].texts)])
        };
        let all = [held(0), held(1), held(2)];
        for (k, record) in records.iter().enumerate() {
            let bank = &all[k.saturating_sub(2)..k];
            let expected = bank_loss(&sides, bank, &batches[k], margin);
            near(&format!("{name}, loss of step {k}"), &[record.loss], &[expected], 5e-6)?;
        }
        let after = pipeline.head()?;
        for (s, side) in SIDES.into_iter().enumerate() {
            let change = parameters(&head, side).into_iter().zip(parameters(&after, side));
            let found: Vec<f32> = change.map(|(before, after)| before - after).collect();
            let expected: Vec<f64> = (0..found.len())
                .map(|k| {
                    let at = |step: f64| {
                        let mut moved = sides.clone();
                        moved[s][k] += step;
                        bank_loss(&moved, &all[1..3], &batches[3], margin)
                    };
                    (at(1e-5) - at(-1e-5)) / 2e-5
                })
                .collect();
            near(&format!("{name}, gradient of side {s}"), &found, &expected, 2e-5)?;
        }
        // After the bank is emptied, the same batch sees only its own negatives.
        pipeline.start_epoch(7);
        let (images, texts) = features(&batches[3]);
        let mut alone = Pipeline::new(device, after, &descent(0), PAIRS)?;
        let mut losses = Vec::new();
        for pipeline in [&mut pipeline, &mut alone] {
            pipeline.step(
                Features { images: &images, texts: &texts, ids: &batches[3].ids },
                &objective,
                0.0,
            )?;
            losses.extend(pipeline.records()?.last().map(|record| record.loss));
        }
        check(losses[0] == losses[1], format!("an emptied bank: {losses:?}"))?;
    }
    Ok(())
}

/// Adding the negative of the objective's own gradient leaves a gradient of 0.
fn external(device: &Device) -> Outcome {
    let objective: Objective = "nca:lin".parse()?;
    let batch = Batch::new(6);
    let features = Features { images: &batch.images, texts: &batch.texts, ids: &batch.ids };
    let (before, mut with) = pipeline(device, &descent(0))?;
    let mut against = |images: &[f32], texts: &[f32]| {
        let options = GradientOptions::default().with(|c| c.ids = Some(&batch.ids));
        let own = objective.gradients(&Device::cpu(), (images, DIM), (texts, DIM), options)?;
        Ok([own.images, own.texts].map(|own| own.iter().map(|x| -x).collect()))
    };
    with.step_with(features, [&[], &[]], &objective, 1.0, &mut against)?;
    let (_, mut without) = pipeline(device, &descent(0))?;
    without.step(features, &objective, 1.0)?;
    let largest = |after: Head| {
        let of = |head: &Head| SIDES.map(|side| parameters(head, side)).concat();
        of(&before).iter().zip(of(&after)).fold(0.0f32, |largest, (a, b)| largest.max((a - b).abs()))
    };
    let (left, whole) = (largest(with.head()?), largest(without.head()?));
    check(whole > 1e-2 && left <= 1e-5 * whole, format!("{left} is left of {whole}"))?;

    for (gradients, says) in [
        (
            [vec![0.0; 5], vec![0.0; PAIRS * DIM]],
            "external gradient at images: expected 37 x 6 finite numbers, found 5",
        ),
        (
            [vec![0.0; PAIRS * DIM], vec![f32::NAN; PAIRS * DIM]],
            "external gradient at texts: expected 37 x 6 finite",
        ),
    ] {
        let error = with.step_with(features, [&[], &[]], &objective, 1.0, &mut |_, _| Ok(gradients.clone()));
        let error = error.err().map(|error| error.to_string()).unwrap_or_default();
        check(error.starts_with(says), error)?;
    }
    Ok(())
}

fn names() -> Outcome {
    for (name, shown) in [
        ("cir:sig-ms@top:5", "cir:sig-ms@top:5"),
        ("hinge@hardest", "hinge"),
        ("infonce + 0.5*cir:sig-ms", "infonce+0.5*cir:sig-ms"),
        ("hinge@image-to-text@top:2", "hinge@top:2@image-to-text"),
        ("1*nca:lin", "nca:lin"),
        ("2*hinge", "2*hinge"),
    ] {
        let objective: Objective = name.parse()?;
        check(objective.to_string() == shown, format!("{name} is shown as {objective}"))?;
        let written = serde_json::to_string(&objective).map_err(|e| e.to_string())?;
        let read: Objective = serde_json::from_str(&written).map_err(|e| e.to_string())?;
        check(read == objective, written)?;
    }
    for (name, says) in [
        ("cir:sig-ms@all", "--negatives all: expected a pair weight without relative sets"),
        ("infonce@top:2", "--negatives top:2: expected an objective on triplets"),
        ("hinge-sum@top:2", "--negatives top:2: expected an objective on triplets"),
        ("cir:lin@top:0", "negatives: expected hardest, semi-hard, top:K"),
        ("cir:lin@easy", "negatives: expected hardest, semi-hard, top:K"),
        ("x*cir:lin", "objective `x*cir:lin`, before cir:lin: expected a number, found `x`"),
        ("-1*cir:lin", "objective -1*cir:lin: expected weights above 0"),
        ("infonce+0*cir:lin", "objective infonce+0*cir:lin: expected weights above 0"),
        (
            "infonce+infonce-masked",
            "objective infonce+infonce-masked: expected InfoNCE or SigLIP at most once",
        ),
        ("siglip+0.5*infonce", "objective siglip+0.5*infonce: expected InfoNCE or SigLIP at most once"),
        ("siglip@image-to-text", "@image-to-text: expected an objective with two directions, so not siglip"),
        ("hinge@image-to-text@text-to-image", "@text-to-image: expected an objective with two directions"),
        ("siglip@top:2", "--negatives top:2: expected an objective on triplets"),
        ("infonce+", "objective ``: expected"),
        ("infonce+custom", "objective `custom`: expected a file"),
    ] {
        let error = name.parse::<Objective>().err().map(|error| error.to_string()).unwrap_or_default();
        check(error.starts_with(says), format!("{name}: {error}"))?;
    }
    let banked = |objective: &str| -> Outcome {
        let config = {
            let mut options = TrainConfig::default();
            options.objective = objective.parse()?;
            options.memory_bank = 512;
            options
        };
        Ok(config.validate()?)
    };
    banked("infonce+0.5*cir:sig-ms")?;
    for objective in ["infonce", "hinge-sum", "cir:lin@all", "lifted"] {
        check(banked(objective).is_err(), format!("a bank for {objective}"))?;
    }
    let small = Pipeline::new(&Device::cpu(), Head::new(DIM, DIM, DIM, 0)?, &descent(PAIRS - 1), PAIRS);
    let error = small.err().map(|error| error.to_string()).unwrap_or_default();
    check(error.starts_with("--memory-bank: expected at least a batch, 37 pairs, found 36"), error)
}

pub fn tests(suite: &mut Suite) {
    suite.each("by_definition", by_definition);
    suite.each("same", same);
    suite.each("sums", sums);
    suite.each("memory_bank", memory_bank);
    suite.each("external", external);
    suite.once("names", names);
}
