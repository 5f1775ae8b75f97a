//! The record of a training step, and the factor that clips its gradient.

use super::PARTS;
use super::lab::{Lab, N, POISON};
use super::{Access, Kernel, KernelSpec, Real, lanes};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut, clock};

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "record",
        source: include_str!("../../shaders/record.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
            Access::ReadWrite,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["0.5 * (value_it[i] + value_ti[i])", "value_it[i]"],
};

/// Floats of a step's record: loss, mean p, mean n, gradient norm, 1 if clipped, three zeros.
pub const RECORD: usize = 8;

params!(pairs: u32, count: u32, step: u32, max_norm: f32);

/// The inputs of a step's record. Slices are `[pairs]`; `parts` are the parts of the squared gradient norm.
#[derive(Clone, Copy)]
pub struct StepRecord<'a> {
    pub positive: Slice<'a, f32>,
    /// n of both directions.
    pub value: [Slice<'a, f32>; 2],
    pub loss: [Slice<'a, f32>; 2],
    pub parts: Slice<'a, f32>,
    pub pairs: usize,
    pub count: usize,
    /// Row of the records to write.
    pub step: usize,
    /// Largest gradient norm; 0 clips nothing.
    pub max_norm: f32,
}

/// Writes row `step` of `records [steps, 8]` and the clip `factor [1]`.
pub fn record(
    commands: &mut Commands,
    from: StepRecord,
    mut records: SliceMut<f32>,
    mut factor: SliceMut<f32>,
) -> Result<()> {
    let StepRecord { positive, value, loss, parts, pairs, count, step, max_norm } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("record");
            let value = [value[0].host()?, value[1].host()?];
            let loss = [loss[0].host()?, loss[1].host()?];
            let row = &mut records.host()?[step * RECORD..][..RECORD];
            let positive = &positive.host()?[..pairs];
            factor.host()?[0] = reference(positive, value, loss, &parts.host()?[..count], max_norm, row);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params { pairs: pairs as u32, count: count as u32, step: step as u32, max_norm };
            let regions = [
                positive.region()?,
                value[0].region()?,
                value[1].region()?,
                loss[0].region()?,
                loss[1].region()?,
                parts.region()?,
                records.region()?,
                factor.region()?,
            ];
            recorder.dispatch(
                &KERNEL.spec,
                &lanes(recorder),
                &params,
                &regions,
                [1, 1, 1],
                5.0 * pairs as f64,
            )
        }
    }
}

/// [`record`] as a plain loop over one row of the records; returns the clip factor.
pub fn reference<T: Real>(
    positive: &[T],
    value: [&[T]; 2],
    loss: [&[T]; 2],
    parts: &[T],
    max_norm: T,
    row: &mut [T],
) -> T {
    let pairs = positive.len();
    let sum = |values: &[T]| values[..pairs].iter().fold(T::zero(), |sum, &x| sum + x);
    let count = T::of(pairs as f64);
    let norm = parts.iter().fold(T::zero(), |sum, &x| sum + x).sqrt();
    let clipped = max_norm > T::zero() && norm > max_norm;
    row.fill(T::zero());
    row[0] = sum(loss[0]) + sum(loss[1]);
    row[1] = sum(positive) / count;
    row[2] = T::of(0.5) * (sum(value[0]) + sum(value[1])) / count;
    row[3] = norm;
    row[4] = if clipped { T::one() } else { T::zero() };
    if clipped { max_norm / (norm + T::of(1e-6)) } else { T::one() }
}

fn check(lab: &mut Lab) -> Result<()> {
    let [positive, it, ti, loss_it, loss_ti] = [(); 5].map(|()| lab.vector(N));
    let (positive, it, ti, loss_it, loss_ti) = (positive?, it?, ti?, loss_it?, loss_ti?);
    let parts = lab.numbers(PARTS).iter().map(|x| 1.0 + x).collect();
    let parts = lab.pair(parts)?;
    for max_norm in [0.0, 2.0, 1e3] {
        let (mut records, mut factor) = (lab.poison(3 * RECORD)?, lab.poison(1)?);
        let from = StepRecord {
            positive: positive.get(),
            value: [it.get(), ti.get()],
            loss: [loss_it.get(), loss_ti.get()],
            parts: parts.get(),
            pairs: N,
            count: PARTS,
            step: 1,
            max_norm,
        };
        lab.run(|commands| record(commands, from, records.get_mut(), factor.get_mut()))?;
        let mut expected = [f64::from(POISON); 3 * RECORD];
        let (wide_it, wide_ti, l_it, l_ti) = (it.wide(), ti.wide(), loss_it.wide(), loss_ti.wide());
        let row = &mut expected[RECORD..2 * RECORD];
        let (value, loss) = ([&wide_it[..], &wide_ti[..]], [&l_it[..], &l_ti[..]]);
        let clip = reference(&positive.wide(), value, loss, &parts.wide(), max_norm.into(), row);
        let found = lab.read(&records, RECORD..2 * RECORD)?;
        lab.compare_values(&found, &expected[RECORD..2 * RECORD]);
        lab.compare(&factor, &[clip])?;
    }
    Ok(())
}
