//! Several positives per anchor: what they become, and the pull on each of them.

use super::bench::{Outcome, ROUNDING, each_lanes, exp_error, sum_error};
use super::blocks::{Batch, CASES, DIRECTIONS};
use crate::common::random::wide;
use wgoal::Device;
use wgoal::device::padded;
use wgoal::kernels::{
    self, Aggregate, PositivesParams, Pulled,
    reference::{self, Anchors},
};

/// Every aggregate, with a rate at which exponentials underflow in f32, and with a choice of positives near the
/// negatives. Similarities are multiples of 1/64, so the comparison with this reach is exact.
fn cases() -> Vec<PositivesParams> {
    use Aggregate::{Circle, Hardest, LogSum, Mean};
    let kinds = [(Hardest, 1.0), (Mean, 1.0), (LogSum, 2.0), (LogSum, 300.0), (Circle, 5.0), (Circle, 80.0)];
    let with = |(aggregate, rate), reach| PositivesParams { aggregate, rate, margin: 0.25, reach };
    kinds.into_iter().flat_map(|kind| [None, Some(-0.125)].map(|reach| with(kind, reach))).collect()
}

/// The batch's ids. Without ids, every pair is of an image of its own.
fn ids_of(batch: &Batch) -> Vec<u32> {
    batch.ids.clone().unwrap_or_else(|| (0..batch.pairs as u32).collect())
}

/// The largest difference of exponents, divided by the rate.
fn reach_of(params: &PositivesParams) -> f64 {
    if params.aggregate == Aggregate::Circle { 5.0 } else { 2.2 }
}

pub fn positives(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let (pairs, ids) = (batch.pairs, ids_of(&batch));
        let (similarity, device_ids) = (bench.array(&batch.similarity)?, bench.array(&ids)?);
        let all = DIRECTIONS.into_iter().flat_map(|d| cases().into_iter().map(move |p| (d, p)));
        for (direction, params) in bench.share(all) {
            let (_, n, _) = batch.mined(direction);
            let (mut state, mut p) = (vec![f64::NAN; 4 * pairs], vec![f64::NAN; pairs]);
            let mut lowest = vec![f64::NAN; pairs];
            let (whole, s) = (direction(0, pairs, pairs), wide(&batch.similarity));
            reference::positives(&whole, &s, (&ids, &n), &params, (&mut state, [&mut p, &mut lowest]));
            let value = bench.array(&n.iter().map(|&n| n as f32).collect::<Vec<_>>())?;
            let rate = f64::from(params.rate);
            let relative = exp_error(reach_of(&params) * rate) + sum_error(pairs);
            // f has a few roundings, and so has the mean.
            let of_top = 4.0 * ROUNDING * reach_of(&params) * rate;
            let exponents = matches!(params.aggregate, Aggregate::LogSum | Aggregate::Circle);
            let of_state = |k: usize| match (exponents, k % 4) {
                (true, 2) if state[k].abs() < 1e30 => of_top,
                (true, 3) => relative * state[k] + 1e-35,
                _ => 0.0,
            };
            let of_p = match params.aggregate {
                Aggregate::Hardest => 0.0,
                Aggregate::Mean => 8.0 * ROUNDING,
                // WGSL allows a logarithm near 1 an absolute error of 2^-21.
                _ => (of_top + relative + 16.0 * ROUNDING) / rate + 16.0 * ROUNDING,
            };
            for &rows in batch.cuts() {
                let mut found = bench.poisoned(4 * pairs)?;
                let (mut found_p, mut found_lowest) = (bench.poisoned(pairs)?, bench.poisoned(pairs)?);
                bench.run(|commands| {
                    batch.blocks(direction, rows).into_iter().try_for_each(|(block, strip)| {
                        let s = similarity.mat(pairs, pairs).part(&strip);
                        let out = [found_p.get_mut(), found_lowest.get_mut()];
                        let from = (device_ids.get(), value.get());
                        kernels::positives(commands, &block, s, from, &params, found.get_mut(), out)
                    })
                })?;
                let what = format!("{params:?}");
                bench.near(&format!("{what} state"), &found, &state, of_state)?;
                bench.near(&format!("{what} p"), &found_p, &p, |_| of_p)?;
                bench.near(&format!("{what} lowest"), &found_lowest, &lowest, |_| 0.0)?;
            }
        }
        Ok(())
    })
}

pub fn positive_field(device: &Device) -> Outcome {
    each_lanes(device, CASES, |bench, random, case| {
        let batch = Batch::new(random, case);
        let (pairs, stride, ids) = (batch.pairs, padded(batch.pairs), ids_of(&batch));
        let device_ids = bench.array(&ids)?;
        for params in bench.share(cases()) {
            // Reference and device read the same states, rounded once.
            let rounded = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let s = wide(&batch.similarity);
            let found = DIRECTIONS.map(|direction| {
                let (_, n, _) = batch.mined(direction);
                let (mut state, mut p) = (vec![f64::NAN; 4 * pairs], vec![f64::NAN; pairs]);
                let mut lowest = vec![f64::NAN; pairs];
                let whole = direction(0, pairs, pairs);
                reference::positives(&whole, &s, (&ids, &n), &params, (&mut state, [&mut p, &mut lowest]));
                (rounded(&n), rounded(&state))
            });
            let pulls =
                [(); 2].map(|()| random.values(2 * pairs).iter().map(|x| x.abs()).collect::<Vec<_>>());
            let all = [0, 1].map(|d| [wide(&found[d].0), wide(&found[d].1), wide(&pulls[d])]);
            let anchors = all.each_ref().map(|[value, state, pulls]| Anchors { value, state, pulls });
            let mut field = s.clone();
            reference::positive_field(&mut field, (0, pairs), &ids, anchors, &params);
            let relative = exp_error(reach_of(&params) * f64::from(params.rate)) + 8.0 * ROUNDING;
            let allowed = |at: usize| match at % stride < pairs {
                true => relative * field[at].abs() + 1e-36,
                false => 0.0,
            };
            let [n_it, n_ti] = [bench.array(&found[0].0)?, bench.array(&found[1].0)?];
            let [state_it, state_ti] = [bench.array(&found[0].1)?, bench.array(&found[1].1)?];
            let [pull_it, pull_ti] = [bench.array(&pulls[0])?, bench.array(&pulls[1])?];
            for &rows in batch.cuts() {
                let mut found = bench.array(&batch.similarity)?;
                bench.run(|commands| {
                    batch.strips(rows).into_iter().try_for_each(|strip| {
                        let from = [
                            Pulled { value: n_it.get(), state: state_it.get(), pulls: pull_it.get() },
                            Pulled { value: n_ti.get(), state: state_ti.get(), pulls: pull_ti.get() },
                        ];
                        let field = found.strip(&strip, pairs);
                        kernels::positive_field(commands, field, strip.start, device_ids.get(), from, &params)
                    })
                })?;
                bench.near(&format!("{params:?} field"), &found, &field, allowed)?;
            }
        }
        Ok(())
    })
}
