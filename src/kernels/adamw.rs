//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), in PyTorch's order of operations.

use super::{Access, KernelSpec, Real, by_elements, vectorized, without_subnormals};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut, clock};
use rayon::prelude::*;

pub(super) static SPEC: KernelSpec = KernelSpec {
    name: "adamw",
    source: include_str!("../../shaders/adamw.wgsl"),
    params: Params::MEMBERS,
    bindings: &[Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite, Access::ReadWrite],
    workgroup: [64, 1, 1],
};

params!(
    count4: u32, keep: f32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, step_size: f32, root_correction2: f32, epsilon: f32, low: f32,
    high: f32,
);

/// One step's numbers.
#[derive(Debug, Clone, Copy)]
pub struct AdamwParams {
    pub rate: f64,
    pub betas: (f64, f64),
    pub epsilon: f64,
    pub decay: f64,
    /// Step number, from 1.
    pub step: u64,
    /// The parameters are kept within these.
    pub bounds: (f32, f32),
}

impl AdamwParams {
    /// 1 - lr decay, lr / (1 - beta1^t), sqrt(1 - beta2^t), computed in f64 on every device.
    fn derived(&self) -> (f64, f64, f64) {
        let step = self.step as f64;
        let correction = |beta: f64| 1.0 - beta.powf(step);
        (1.0 - self.rate * self.decay, self.rate / correction(self.betas.0), correction(self.betas.1).sqrt())
    }
}

/// Updates `w`, `m` and `v` by the gradient `g`, first scaled by the clip `factor`; lengths are multiples of four.
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
            twin(params, (g.host()?, factor.host()?[0]), [w.host()?, m.host()?, v.host()?]);
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
            by_elements(recorder, &SPEC, len, factor.region()?, &regions, 15.0, block)
        }
    }
}

/// [`adamw`] as a plain loop; `gradient` is (g, clip factor).
pub fn twin<T: Real>(params: &AdamwParams, (g, factor): (&[T], T), [w, m, v]: [&mut [T]; 3]) {
    const CHUNK: usize = 1 << 14;
    let (keep, step_size, root) = params.derived();
    let [keep, step_size, root, epsilon] = [keep, step_size, 1.0 / root, params.epsilon].map(T::of);
    // Each rounded once: 1 - beta from a rounded beta would be wrong by up to 3e-8 / (1 - beta).
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
