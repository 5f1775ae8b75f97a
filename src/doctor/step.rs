//! Compares one training step of the device with the same step in f64, built from the reference implementations.

use super::{Lab, error};
use crate::Result;
use crate::data::Side;
use crate::device::{pad_rows, padded};
use crate::gradient::Field;
use crate::kernels::reference;
use crate::model::{Head, Layout, Segment};
use crate::objective::{Objective, PairWeight, Term};
use crate::optim::{Optimizer, Sgd};
use crate::train::TrainConfig;
use crate::train::{Features, Pipeline};

const PAIRS: usize = 67;
const DIMS: [usize; 2] = [45, 29];
const EMBED: usize = 37;

/// The error that rounding of the similarities may cause. `sig-ms` weights amplify it most.
pub(super) fn allowed(objective: &Objective) -> f64 {
    let steep = |term: Term| matches!(term.objective, Objective::Goal(_, PairWeight::SigMs, _));
    if objective.terms().into_iter().any(steep) { 2e-4 } else { 5e-5 }
}

/// Runs one step of plain gradient descent with learning rate 1. The change of the parameters is then the gradient.
pub(super) fn check(lab: &mut Lab, objective: &Objective) -> Result<f64> {
    let config = TrainConfig {
        objective: objective.clone(),
        optimizer: Optimizer::Sgd(Sgd { momentum: 0.0, nesterov: false }),
        weight_decay: 0.0,
        clip: 0.0,
        embed: EMBED,
        ..Default::default()
    };
    let head = Head::new(DIMS[0], DIMS[1], EMBED, 1)?;
    let (images, texts) = (lab.numbers(PAIRS * DIMS[0]), lab.numbers(PAIRS * DIMS[1]));
    let ids = lab.indices(PAIRS, 50)?.host;
    let mut pipeline = Pipeline::new(lab.device, head.clone(), &config, PAIRS)?;
    pipeline.step(Features { images: &images, texts: &texts, ids: &ids }, objective, 1.0)?;
    let records = pipeline.records()?;
    let after = pipeline.head()?;

    let (loss, gradient) = twin_gradient(&head, [&images, &texts], &ids, objective)?;
    let trained = 0..head.layout.temperature().start;
    let change: Vec<f32> = trained.clone().map(|k| head.values[k] - after.values[k]).collect();
    // The change is a difference of parameters near 1, so it is exact up to their last bit.
    let largest = gradient[trained.clone()].iter().fold(0.0f64, |largest, g| largest.max(g.abs()));
    let resolution = f64::from(f32::EPSILON) / largest.max(f64::MIN_POSITIVE);
    let gradient_error = (error(&change, &gradient[trained]) - resolution).max(0.0);
    let loss_error = match &records[..] {
        [record] => error(&[record.loss], &[loss]),
        _ => f64::INFINITY,
    };
    Ok(gradient_error.max(loss_error))
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// The loss, and the gradient at the parameters in their layout.
fn twin_gradient(
    head: &Head,
    features: [&[f32]; 2],
    ids: &[u32],
    objective: &Objective,
) -> Result<(f64, Vec<f64>)> {
    let layout = head.layout;
    let features = [wide(&pad_rows(features[0], DIMS[0])), wide(&pad_rows(features[1], DIMS[1]))];
    let size = PAIRS * padded(EMBED);
    let mut unit = [vec![0.0; size], vec![0.0; size]];
    let mut norms = [vec![0.0; PAIRS], vec![0.0; PAIRS]];
    for side in [Side::Image, Side::Text] {
        let s = side as usize;
        let (weight, bias) = parameters(&layout, head, side);
        let mut z = vec![0.0; size];
        let operands = ((&features[s][..], [PAIRS, DIMS[s]], false), (&weight[..], [EMBED, DIMS[s]], true));
        reference::matmul(operands.0, operands.1, Some(&bias), false, &mut z);
        reference::l2norm(&z, EMBED, &mut unit[s], &mut norms[s]);
    }
    let (loss, d_unit) = field(&unit, ids, objective)?;
    let mut gradient = vec![0.0; layout.len()];
    for side in [Side::Image, Side::Text] {
        let s = side as usize;
        let mut dz = vec![0.0; size];
        reference::l2norm_backward(&d_unit[s], &unit[s], &norms[s], EMBED, &mut dz);
        let Segment { range, .. } = layout.weight(side);
        let operands = ((&dz[..], [PAIRS, EMBED], true), (&features[s][..], [PAIRS, DIMS[s]], false));
        reference::matmul(operands.0, operands.1, None, false, &mut gradient[range]);
        reference::column_sum(&dz, EMBED, &mut gradient[layout.bias(side).range]);
    }
    Ok((loss, gradient))
}

fn parameters(layout: &Layout, head: &Head, side: Side) -> (Vec<f64>, Vec<f64>) {
    let of = |segment: Segment| wide(&head.values[segment.range]);
    (of(layout.weight(side)), of(layout.bias(side)))
}

/// The loss, and its gradients at the normalised embeddings.
fn field([x, y]: &[Vec<f64>; 2], ids: &[u32], objective: &Objective) -> Result<(f64, [Vec<f64>; 2])> {
    let (shape, square) = ([PAIRS, EMBED], [PAIRS, PAIRS]);
    let mut s = vec![0.0; PAIRS * padded(PAIRS)];
    reference::matmul((x, shape, false), (y, shape, true), None, false, &mut s);
    let Field { a, loss, .. } = Field::at(objective, &s, PAIRS, Some(ids))?;
    let mut gradients = [vec![0.0; x.len()], vec![0.0; x.len()]];
    reference::matmul((&a, square, false), (y, shape, false), None, false, &mut gradients[0]);
    reference::matmul((&a, square, true), (x, shape, false), None, false, &mut gradients[1]);
    Ok((loss, gradients))
}
