//! Lion with decoupled weight decay (Chen et al., 2023): every step follows the sign of a momentum.

use super::{Rule, Step, check_decay_rate};
use crate::Result;
use crate::device::{Access, Commands, KernelSpec, Slice, SliceMut, clock};
use crate::kernels::lab::{ELEMENTS, Lab};
use crate::kernels::{Kernel, by_elements, params};
use crate::math::{Real, without_subnormals};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Lion with decoupled weight decay on every parameter (Chen et al., 2023). Every step has the size of the learning
/// rate. Use a learning rate three to ten times smaller than for AdamW, and a weight decay larger by the same factor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lion {
    /// Weight of the momentum in the step's direction.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99 }
    }
}

with!(Lion);

impl Rule for Lion {
    const KERNEL: &'static Kernel = &KERNEL;
    const STATE: &'static [&'static str] = &["m"];

    fn validate(&self) -> Result<()> {
        check_decay_rate("--betas", self.beta1)?;
        check_decay_rate("--betas", self.beta2)
    }

    fn betas(&mut self) -> Option<[&mut f64; 2]> {
        Some([&mut self.beta1, &mut self.beta2])
    }

    fn update(
        &self,
        commands: &mut Commands,
        step: &Step,
        gradient: (Slice<f32>, Slice<f32>),
        w: SliceMut<f32>,
        state: Vec<SliceMut<f32>>,
        len: usize,
    ) -> Result<()> {
        let [m] = super::arrays(state)?;
        lion(commands, self, step, gradient, [w, m], len)
    }
}

static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "lion",
        source: include_str!("../../shaders/lion.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["sign(update)", "sign(gradient)"],
};

params!(
    count4: u32, keep: f32, learning_rate: f32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, low: f32, high: f32,
);

/// Updates `w` and `m` with the gradient `g`, scaled by the clip `factor`. Lengths are multiples of four.
fn lion(
    commands: &mut Commands,
    rule: &Lion,
    step: &Step,
    (g, factor): (Slice<f32>, Slice<f32>),
    [mut w, mut m]: [SliceMut<f32>; 2],
    len: usize,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("lion");
            reference(rule, step, (g.host()?, factor.host()?[0]), [w.host()?, m.host()?]);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let block = |count4| Params {
                count4,
                keep: (1.0 - step.learning_rate * step.decay) as f32,
                learning_rate: step.learning_rate as f32,
                beta1: rule.beta1 as f32,
                rest1: (1.0 - rule.beta1) as f32,
                beta2: rule.beta2 as f32,
                rest2: (1.0 - rule.beta2) as f32,
                low: step.bounds.0,
                high: step.bounds.1,
            };
            let regions = [g.region()?, w.region()?, m.region()?];
            by_elements(recorder, &KERNEL.spec, len, factor.region()?, &regions, 10.0, block)
        }
    }
}

/// [`lion`] as a plain loop. The gradient comes with its clip factor.
fn reference<T: Real>(rule: &Lion, step: &Step, (g, factor): (&[T], T), [w, m]: [&mut [T]; 2]) {
    const CHUNK: usize = 1 << 14;
    let keep = T::of(1.0 - step.learning_rate * step.decay);
    let learning_rate = T::of(step.learning_rate);
    // Each is rounded once: 1 - beta from a rounded beta would be wrong by up to 3e-8 / (1 - beta).
    let [beta1, beta2] = [rule.beta1, rule.beta2].map(T::of);
    let [rest1, rest2] = [rule.beta1, rule.beta2].map(|beta| T::of(1.0 - beta));
    let (low, high) = (T::of(step.bounds.0.into()), T::of(step.bounds.1.into()));
    // `signum` of 0 is 1.
    let sign = |x: T| if x == T::zero() { x } else { x.signum() };
    let chunks = w.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(g.par_chunks(CHUNK));
    chunks.for_each(|((w, m), g)| {
        for ((w, m), &g) in w.iter_mut().zip(m).zip(g) {
            let g = factor * g;
            let update = beta1 * *m + rest1 * g;
            *m = without_subnormals(beta2 * *m + rest2 * g);
            *w = (keep * *w - learning_rate * sign(update)).max(low).min(high);
        }
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    let (mut g, mut w, mut m) = (lab.numbers(ELEMENTS), lab.vector(ELEMENTS)?, lab.numbers(ELEMENTS));
    // A parameter whose gradient and momentum are 0 takes no step.
    (g[5], m[5]) = (0.0, 0.0);
    let (g, mut m, factor) = (lab.pair(g)?, lab.pair(m)?, lab.pair(vec![0.5])?);
    // With these betas all products are exact, so rounding cannot change a sign.
    let rule = Lion { beta1: 0.5, beta2: 0.75 };
    let step = Step { learning_rate: 0.01, decay: 0.1, step: 3, bounds: (-0.9, 0.8) };
    let (mut wide_w, mut wide_m) = (w.wide(), m.wide());
    lab.run(|commands| {
        lion(commands, &rule, &step, (g.get(), factor.get()), [w.get_mut(), m.get_mut()], ELEMENTS)
    })?;
    reference(&rule, &step, (&g.wide(), 0.5), [&mut wide_w, &mut wide_m]);
    lab.compare(&w, &wide_w)?;
    lab.compare(&m, &wide_m)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps of one parameter, computed by hand.
    #[test]
    fn steps_are_those_of_the_algorithm() {
        let rule = Lion { beta1: 0.5, beta2: 0.75 };
        let step = Step { learning_rate: 0.25, decay: 0.5, step: 1, bounds: (-9.0, 9.0) };
        let (mut w, mut m) = ([2.0f64], [1.0]);
        // u = 0.5 - 0.25 > 0: w = 0.875 x 2 - 0.25, m = 0.75 - 0.125.
        reference(&rule, &step, (&[-1.0], 0.5), [&mut w, &mut m]);
        assert_eq!((w, m), ([1.5], [0.625]));
        // u = 0.3125 - 0.3125 = 0: only weight decay changes w.
        reference(&rule, &step, (&[-0.625], 1.0), [&mut w, &mut m]);
        assert_eq!((w, m), ([1.3125], [0.3125]));
    }
}
