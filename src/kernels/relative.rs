//! Relative sets U and V of every anchor, in one direction (docs/math.md, "Relative sets").

use super::hardest::mined;
use super::lab::{Lab, N, directions};
use super::{Access, Block, Kernel, KernelSpec, LANES, Lanes, NO_PAIR, Real, Scan, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};
use std::ops::Range;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "relative",
        source: include_str!("../../shaders/relative.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["sums[anchor] = partial[0];", "sums[anchor] = partial[0] + vec4f(0.0, 1.0, 0.0, 0.0);"],
};

/// Below this exponent, `exp` is 0 in double precision. The reference is verified in double precision.
const UNDERFLOW: f64 = -745.13;

params!(block mask: u32, all_anchors: u32, exponential: u32, alpha: f32, beta: f32, threshold: f32);

/// The inputs of the relative sets. Slices are `[pairs]`.
#[derive(Clone, Copy)]
pub struct Relative<'a> {
    pub positive: Slice<'a, f32>,
    /// Anchors of this direction in the batch: U compares their positives.
    pub all_anchors: usize,
    pub value: Slice<'a, f32>,
    pub index: Slice<'a, u32>,
    /// A pair whose id equals the anchor's is not in V.
    pub ids: Option<Slice<'a, u32>>,
    /// Exponential values (sig-ms) or linear ones (lin-ms).
    pub exponential: bool,
    pub alpha: f32,
    pub beta: f32,
    pub threshold: f32,
}

/// Writes `sums [pairs, 4]` = (sum over U, size of U, sum over V, size of V) of every anchor. Each block adds to the
/// sums over V of the blocks before it.
pub fn relative(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    from: Relative,
    mut sums: SliceMut<f32>,
) -> Result<()> {
    let Relative { positive, all_anchors, value, index, ids, exponential, alpha, beta, threshold } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("relative");
            let mined = (&positive.host()?[..all_anchors], value.host()?, index.host()?);
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let rates = exponential.then_some((alpha, beta));
            reference(block, similarity.data.host()?, mined, ids, rates, threshold, sums.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params {
                mask: ids.is_some().into(),
                all_anchors: all_anchors as u32,
                exponential: exponential.into(),
                alpha,
                beta,
                threshold,
                ..Params::on(block)
            };
            let regions = [
                similarity.data.region()?,
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                positive.region()?,
                value.region()?,
                index.region()?,
                sums.region()?,
            ];
            let positives = if block.candidate_offset == 0 { all_anchors } else { 0 };
            let cost = 30.0 * block.anchors as f64 * (block.candidates + positives) as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`relative`] as a plain loop. `positive` are p of all anchors of the direction; `value` and `index` are n and h.
/// `rates` is (alpha, beta) if the values are exponential.
pub fn reference<T: Real>(
    block: &Block,
    similarity: &[T],
    (positive, value, index): (&[T], &[T], &[u32]),
    ids: Option<&[u32]>,
    rates: Option<(T, T)>,
    threshold: T,
    sums: &mut [T],
) {
    let floor = positive.iter().copied().fold(T::infinity(), T::min) - threshold;
    let begins = block.candidate_offset == 0;
    let (alpha, beta) = rates.unwrap_or((T::one(), T::one()));
    let sets = Sets { positive, value, index, ids, floor, threshold, alpha, beta, begins };
    match rates {
        None => sets.scan::<false>(block, similarity, sums),
        Some(_) => sets.scan::<true>(block, similarity, sums),
    }
}

/// Decides which candidates are in an anchor's sets, and with which value.
struct Sets<'a, T> {
    positive: &'a [T],
    value: &'a [T],
    index: &'a [u32],
    ids: Option<&'a [u32]>,
    floor: T,
    threshold: T,
    alpha: T,
    beta: T,
    /// Whether this is the first block.
    begins: bool,
}

/// Computes sum and size of U, with exponential or linear values. Its candidates are anchors, and its similarities are
/// their positives.
struct OfU<'a, T, const EXPONENTIAL: bool>(&'a Sets<'a, T>);

/// The same of V.
struct OfV<'a, T, const EXPONENTIAL: bool>(&'a Sets<'a, T>);

impl<T: Real> Sets<'_, T> {
    /// Writes the sums over U if this is the first block, and adds the block to the sums over V.
    fn scan<const EXPONENTIAL: bool>(&self, block: &Block, similarity: &[T], sums: &mut [T]) {
        let mut states: Vec<_> = sums.chunks_exact_mut(4).collect();
        if self.begins {
            let candidates = self.positive.len();
            let anchors = Block { candidates, anchor_stride: 0, candidate_stride: 1, ..*block };
            anchors.scan(self.positive, &mut states, &OfU::<T, EXPONENTIAL>(self));
        }
        block.scan(similarity, &mut states, &OfV::<T, EXPONENTIAL>(self));
    }

    /// The value of a difference, and whether it stays in its set.
    #[inline(always)]
    fn member<const EXPONENTIAL: bool>(difference: T, rate: T) -> (T, bool) {
        if !EXPONENTIAL {
            return (difference, difference != T::zero());
        }
        let exponent = rate * difference;
        (exponent.max(T::of(-87.0)).power_of_e(), exponent > T::of(UNDERFLOW))
    }
}

/// 1 inside a set and 0 outside. As numbers, the conditions have the width of the values, so vector code stays simple.
#[inline(always)]
fn only_if<T: Real>(condition: bool, one: T) -> T {
    if condition { one } else { T::zero() }
}

/// The sums of the lanes, after what was there before.
fn total<T: Real>(before: T, sums: &[T]) -> T {
    sums.iter().fold(before, |total, &sum| total + sum)
}

impl<'a, T: Real, const EXPONENTIAL: bool> Scan<T> for OfU<'a, T, EXPONENTIAL> {
    type Sums = [[T; LANES]; 2];
    type State = &'a mut [T];

    fn begin(&self) -> Self::Sums {
        [[T::zero(); LANES]; 2]
    }

    #[inline(always)]
    fn visit(&self, sums: &mut Self::Sums, lanes: &Lanes<T>) {
        let (Lanes { anchor, candidate, s: other_p }, sets) = (lanes, self.0);
        let (p, n) = (Lanes::<T>::of(anchor, sets.positive), Lanes::<T>::of(anchor, sets.value));
        for k in 0..LANES {
            let one = only_if(candidate[k] != anchor[k], T::one());
            let one = only_if(candidate[k] != NO_PAIR, one);
            let (u, stays) = Sets::member::<EXPONENTIAL>(p[k] - other_p[k], sets.alpha);
            let in_u = only_if(other_p[k] <= n[k] + sets.threshold, only_if(stays, one));
            sums[0][k] += only_if(in_u > T::zero(), u);
            sums[1][k] += in_u;
        }
    }

    fn end(&self, state: &mut Self::State, sums: &Self::Sums, own: Range<usize>) {
        for (state, sums) in state.iter_mut().zip(sums) {
            *state = total(T::zero(), &sums[own.clone()]);
        }
    }
}

impl<'a, T: Real, const EXPONENTIAL: bool> Scan<T> for OfV<'a, T, EXPONENTIAL> {
    type Sums = [[T; LANES]; 2];
    type State = &'a mut [T];

    fn begin(&self) -> Self::Sums {
        [[T::zero(); LANES]; 2]
    }

    #[inline(always)]
    fn visit(&self, sums: &mut Self::Sums, lanes: &Lanes<T>) {
        let (Lanes { anchor, candidate, s }, sets) = (lanes, self.0);
        let (n, h) = (Lanes::<T>::of(anchor, sets.value), Lanes::<T>::of(anchor, sets.index));
        let (own_id, other_id) = lanes.ids(sets.ids);
        for k in 0..LANES {
            let one = only_if(candidate[k] != anchor[k], T::one());
            let one = only_if(candidate[k] != NO_PAIR, one);
            let (v, stays) = Sets::member::<EXPONENTIAL>(n[k] - s[k], -sets.beta);
            let in_v = only_if(s[k] >= sets.floor, only_if(stays, one));
            let in_v = only_if(own_id[k] != other_id[k], only_if(candidate[k] != h[k], in_v));
            sums[0][k] += only_if(in_v > T::zero(), v);
            sums[1][k] += in_v;
        }
    }

    fn end(&self, state: &mut Self::State, sums: &Self::Sums, own: Range<usize>) {
        for (state, sums) in state[2..].iter_mut().zip(sums) {
            let before = if self.0.begins { T::zero() } else { *state };
            *state = total(before, &sums[own.clone()]);
        }
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    for (block, exponential) in directions().into_iter().flat_map(|block| [(block, false), (block, true)]) {
        let m = mined(lab, &block)?;
        let mut sums = lab.poison(4 * N)?;
        let (alpha, beta, threshold) = (2.0, 10.0, 0.1);
        let from = Relative {
            positive: m.positive.get(),
            all_anchors: N,
            value: m.value.get(),
            index: m.index.get(),
            ids: Some(m.ids.get()),
            exponential,
            alpha,
            beta,
            threshold,
        };
        lab.run(|commands| relative(commands, &block, m.similarity.mat(N, N), from, sums.get_mut()))?;
        let mut expected = sums.wide();
        let rates = exponential.then_some((alpha.into(), beta.into()));
        let (p, n) = (m.positive.wide(), m.value.wide());
        let mined = (&p[..], &n[..], &m.index.host[..]);
        let ids = Some(&m.ids.host[..]);
        reference(&block, &m.similarity.wide(), mined, ids, rates, threshold.into(), &mut expected);
        lab.compare(&sums, &expected)?;
    }
    Ok(())
}
