//! Stochastic gradient descent with momentum and L2 weight decay, in PyTorch's form.

use super::{Rule, Step, check_decay_rate};
use crate::device::{Access, Commands, KernelSpec, Slice, SliceMut, clock};
use crate::kernels::lab::{ELEMENTS, Lab};
use crate::kernels::{Kernel, by_elements, params};
use crate::math::{Real, without_subnormals};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Gradient descent with momentum and L2 weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sgd {
    /// Decay of the momentum.
    pub momentum: f64,
    /// Whether a step looks ahead along the momentum (Nesterov, 1983).
    #[serde(default)]
    pub nesterov: bool,
}

with!(Sgd);

impl Default for Sgd {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: false }
    }
}

impl Rule for Sgd {
    const KERNEL: &'static Kernel = &KERNEL;
    const STATE: &'static [&'static str] = &["m"];

    fn validate(&self) -> Result<()> {
        check_decay_rate("--momentum", self.momentum)?;
        if self.nesterov && self.momentum == 0.0 {
            let advice = "give a --momentum above 0, or leave --nesterov out";
            return Err(Error::config(
                "--nesterov",
                "a momentum to look ahead along",
                "--momentum 0",
                advice,
            ));
        }
        Ok(())
    }

    fn momentum(&mut self) -> Option<&mut f64> {
        Some(&mut self.momentum)
    }

    fn nesterov(&mut self) -> Option<&mut bool> {
        Some(&mut self.nesterov)
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
        let (learning_rate, decay) = (step.learning_rate as f32, step.decay as f32);
        let (momentum, nesterov) = (self.momentum as f32, self.nesterov);
        let params = SgdParams { learning_rate, momentum, nesterov, decay, bounds: step.bounds };
        sgd(commands, &params, gradient, [w, m], len)
    }
}

static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "sgd",
        source: include_str!("../../shaders/sgd.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 1e-5,
    check,
    mutation: ["params.decay * w[k]", "0.0"],
};

params!(count4: u32, nesterov: u32, learning_rate: f32, momentum: f32, decay: f32, low: f32, high: f32);

#[doc(hidden)]
/// The values of one step.
#[derive(Debug, Clone, Copy)]
pub struct SgdParams {
    pub learning_rate: f32,
    pub momentum: f32,
    pub nesterov: bool,
    pub decay: f32,
    /// The parameters are clamped to this range.
    pub bounds: (f32, f32),
}

#[doc(hidden)]
/// Updates `w` and `m` with the gradient `g`, scaled by the clip `factor`. Lengths are multiples of four.
pub fn sgd(
    commands: &mut Commands,
    params: &SgdParams,
    (g, factor): (Slice<f32>, Slice<f32>),
    [mut w, mut m]: [SliceMut<f32>; 2],
    len: usize,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("sgd");
            reference(params, (g.host()?, factor.host()?[0]), [w.host()?, m.host()?]);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let SgdParams { learning_rate, momentum, nesterov, decay, bounds: (low, high) } = *params;
            let regions = [g.region()?, w.region()?, m.region()?];
            let nesterov = u32::from(nesterov);
            let block = |count4| Params { count4, nesterov, learning_rate, momentum, decay, low, high };
            by_elements(recorder, &KERNEL.spec, len, factor.region()?, &regions, 8.0, block)
        }
    }
}

/// [`sgd`] as a plain loop. The gradient comes with its clip factor.
pub fn reference<T: Real>(params: &SgdParams, (g, factor): (&[T], T), [w, m]: [&mut [T]; 2]) {
    const CHUNK: usize = 1 << 14;
    let of = |x: f32| T::of(x.into());
    let (learning_rate, momentum, decay) = (of(params.learning_rate), of(params.momentum), of(params.decay));
    let (low, high) = (of(params.bounds.0), of(params.bounds.1));
    let chunks = w.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(g.par_chunks(CHUNK));
    chunks.for_each(|((w, m), g)| {
        for ((w, m), &g) in w.iter_mut().zip(m).zip(g) {
            *m = without_subnormals(momentum * *m + factor * g + decay * *w);
            let step = if params.nesterov { factor * g + decay * *w + momentum * *m } else { *m };
            *w = (*w - learning_rate * step).max(low).min(high);
        }
    });
}

fn check(lab: &mut Lab) -> Result<()> {
    let factor = lab.pair(vec![0.5])?;
    for nesterov in [false, true] {
        let (g, mut w, mut m) = (lab.vector(ELEMENTS)?, lab.vector(ELEMENTS)?, lab.vector(ELEMENTS)?);
        let params =
            SgdParams { learning_rate: 0.01, momentum: 0.9, nesterov, decay: 0.1, bounds: (-0.9, 0.8) };
        let (mut wide_w, mut wide_m) = (w.wide(), m.wide());
        lab.run(|commands| {
            sgd(commands, &params, (g.get(), factor.get()), [w.get_mut(), m.get_mut()], ELEMENTS)
        })?;
        reference(&params, (&g.wide(), 0.5), [&mut wide_w, &mut wide_m]);
        lab.compare(&w, &wide_w)?;
        lab.compare(&m, &wide_m)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps of one parameter, computed by hand. All numbers are exact.
    #[test]
    fn steps_are_those_of_pytorch() {
        let steps = |nesterov| {
            let bounds = (-9.0, 9.0);
            let params = SgdParams { learning_rate: 0.5, momentum: 0.5, nesterov, decay: 0.25, bounds };
            let (mut w, mut m) = ([2.0f64], [0.0]);
            [-1.0, 0.5].map(|g| {
                reference(&params, (&[g], 0.5), [&mut w, &mut m]);
                (w[0], m[0])
            })
        };
        // d = 0.5 g + 0.25 w is 0 and then 0.75; the momentum is 0 and then 0.75.
        assert_eq!(steps(false), [(2.0, 0.0), (1.625, 0.75)]);
        // The second step is 0.75 + 0.5 x 0.75 times the rate.
        assert_eq!(steps(true), [(2.0, 0.0), (1.4375, 0.75)]);
    }

    #[test]
    fn nesterov_needs_a_momentum() {
        let sgd = |momentum| Sgd { momentum, nesterov: true };
        assert!(sgd(0.5).validate().is_ok());
        let error = sgd(0.0).validate().unwrap_err().to_string();
        assert!(error.starts_with("--nesterov: expected a momentum"), "{error}");
    }

    /// Files from before the option existed have no such field.
    #[test]
    fn options_without_nesterov_are_read() {
        assert_eq!(serde_json::from_str::<Sgd>(r#"{"momentum":0.9}"#).unwrap(), Sgd::default());
    }
}
