//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), in PyTorch's order of operations.

use super::{Rule, Step, check_decay_rate};
use crate::device::{Access, Commands, KernelSpec, Slice, SliceMut, clock};
use crate::kernels::lab::{ELEMENTS, Lab};
use crate::kernels::{Kernel, by_elements, params};
use crate::math::{Real, vectorized, without_subnormals};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// AdamW with decoupled weight decay on every parameter (Loshchilov and Hutter, 2019).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

with!(AdamW);

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

impl Rule for AdamW {
    const KERNEL: &'static Kernel = &KERNEL;
    const STATE: &'static [&'static str] = &["m", "v"];

    fn validate(&self) -> Result<()> {
        check_decay_rate("--betas", self.beta1)?;
        check_decay_rate("--betas", self.beta2)?;
        if (self.epsilon as f32).is_finite() && self.epsilon as f32 > 0.0 {
            return Ok(());
        }
        let advice = "change --epsilon, or leave it out";
        Err(Error::config("--epsilon", "a finite number above 0 that f32 can hold", self.epsilon, advice))
    }

    fn betas(&mut self) -> Option<[&mut f64; 2]> {
        Some([&mut self.beta1, &mut self.beta2])
    }

    fn epsilon(&mut self) -> Option<&mut f64> {
        Some(&mut self.epsilon)
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
        let [m, v] = super::arrays(state)?;
        let Step { learning_rate, decay, step, bounds } = *step;
        let (betas, epsilon) = ((self.beta1, self.beta2), self.epsilon);
        let params = AdamwParams { learning_rate, betas, epsilon, decay, step, bounds };
        adamw(commands, &params, gradient, [w, m, v], len)
    }
}

static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "adamw",
        source: include_str!("../../shaders/adamw.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["sqrt(second)", "second"],
};

params!(
    count4: u32, keep: f32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, step_size: f32, root_correction2: f32, epsilon: f32, low: f32,
    high: f32,
);

#[doc(hidden)]
/// The values of one step.
#[derive(Debug, Clone, Copy)]
pub struct AdamwParams {
    pub learning_rate: f64,
    pub betas: (f64, f64),
    pub epsilon: f64,
    pub decay: f64,
    /// Step number, from 1.
    pub step: u64,
    /// The parameters are clamped to this range.
    pub bounds: (f32, f32),
}

impl AdamwParams {
    /// 1 - lr decay, lr / (1 - beta1^t), sqrt(1 - beta2^t), computed in f64 on every device.
    fn derived(&self) -> (f64, f64, f64) {
        let step = self.step as f64;
        let correction = |beta: f64| 1.0 - beta.powf(step);
        (
            1.0 - self.learning_rate * self.decay,
            self.learning_rate / correction(self.betas.0),
            correction(self.betas.1).sqrt(),
        )
    }
}

#[doc(hidden)]
/// Updates `w`, `m` and `v` with the gradient `g`, scaled by the clip `factor`. Lengths are multiples of four.
pub fn adamw(
    commands: &mut Commands,
    params: &AdamwParams,
    (g, factor): (Slice<f32>, Slice<f32>),
    [mut w, mut m, mut v]: [SliceMut<f32>; 3],
    len: usize,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("adamw");
            reference(params, (g.host()?, factor.host()?[0]), [w.host()?, m.host()?, v.host()?]);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (keep, step_size, root_correction2) = params.derived();
            let block = |count4| Params {
                count4,
                keep: keep as f32,
                beta1: params.betas.0 as f32,
                rest1: (1.0 - params.betas.0) as f32,
                beta2: params.betas.1 as f32,
                rest2: (1.0 - params.betas.1) as f32,
                step_size: step_size as f32,
                root_correction2: root_correction2 as f32,
                epsilon: params.epsilon as f32,
                low: params.bounds.0,
                high: params.bounds.1,
            };
            let regions = [g.region()?, w.region()?, m.region()?, v.region()?];
            by_elements(recorder, &KERNEL.spec, len, factor.region()?, &regions, 15.0, block)
        }
    }
}

/// [`adamw`] as a plain loop. The gradient comes with its clip factor.
pub fn reference<T: Real>(params: &AdamwParams, (g, factor): (&[T], T), [w, m, v]: [&mut [T]; 3]) {
    const CHUNK: usize = 1 << 14;
    let (keep, step_size, root) = params.derived();
    let [keep, step_size, root, epsilon] = [keep, step_size, 1.0 / root, params.epsilon].map(T::of);
    // Each is rounded once: 1 - beta from a rounded beta would be wrong by up to 3e-8 / (1 - beta).
    let [beta1, beta2] = [params.betas.0, params.betas.1].map(T::of);
    let [rest1, rest2] = [params.betas.0, params.betas.1].map(|beta| T::of(1.0 - beta));
    let (low, high) = (T::of(params.bounds.0.into()), T::of(params.bounds.1.into()));
    let chunks = w.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
    chunks.zip(g.par_chunks(CHUNK)).for_each(|(((w, m), v), g)| {
        vectorized(
            #[inline(always)]
            || {
                for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(g) {
                    let g = factor * g;
                    *m = without_subnormals(beta1 * *m + rest1 * g);
                    *v = without_subnormals(beta2 * *v + rest2 * g * g);
                    let step = step_size * *m / (v.sqrt() * root + epsilon);
                    *w = (keep * *w - step).max(low).min(high);
                }
            },
        );
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    let (g, mut w, mut m) = (lab.vector(ELEMENTS)?, lab.vector(ELEMENTS)?, lab.vector(ELEMENTS)?);
    let second = lab.numbers(ELEMENTS).iter().map(|x| 1.0 + x).collect();
    let (mut v, factor) = (lab.pair(second)?, lab.pair(vec![0.5])?);
    let params = AdamwParams {
        learning_rate: 0.01,
        betas: (0.9, 0.999),
        epsilon: 1e-8,
        decay: 0.1,
        step: 3,
        bounds: (-0.9, 0.8),
    };
    let (mut wide_w, mut wide_m, mut wide_v) = (w.wide(), m.wide(), v.wide());
    lab.run(|commands| {
        let state = [w.get_mut(), m.get_mut(), v.get_mut()];
        adamw(commands, &params, (g.get(), factor.get()), state, ELEMENTS)
    })?;
    reference(&params, (&g.wide(), 0.5), [&mut wide_w, &mut wide_m, &mut wide_v]);
    lab.compare(&w, &wide_w)?;
    lab.compare(&m, &wide_m)?;
    lab.compare(&v, &wide_v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_without_gradients_end_at_zero_and_not_below_the_normal_numbers() {
        let unbounded = (f32::MIN, f32::MAX);
        let params = AdamwParams {
            learning_rate: 1e-3,
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            decay: 0.0,
            step: 900,
            bounds: unbounded,
        };
        let (mut w, mut m, mut v) = ([1.0f32], [f32::MIN_POSITIVE], [f32::MIN_POSITIVE]);
        reference(&params, (&[0.0], 1.0), [&mut w, &mut m, &mut v]);
        assert_eq!((m, v), ([0.0], [0.0]));
    }
}
