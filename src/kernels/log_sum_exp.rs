//! Sums of e^(s / temperature) over every anchor's similarities s, in one direction (docs/math.md, "InfoNCE").

use super::hardest::mined;
use super::lab::{Lab, N, TEMPERATURE, directions};
use super::{Access, Block, Kernel, KernelSpec, LANES, Lanes, NO_PAIR, Real, Scan, is_left_out, lanes};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};
use std::ops::Range;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "log_sum_exp",
        source: include_str!("../../shaders/log_sum_exp.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["vec4f(exp(x), exp(x)", "vec4f(1.0001 * exp(x), exp(x)"],
};

params!(block same_image: u32);

/// How an anchor treats the other pairs of its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameImage {
    /// As negatives, like all others.
    Negative = 0,
    /// As targets, which share the probability (X-VLM's fine-tuning).
    Target = 1,
    /// As neither of the two.
    LeftOut = 2,
    /// As targets whose probabilities add up.
    Summed = 3,
}

impl SameImage {
    /// Whether the probabilities of an anchor's targets add up. Without ids there is one target.
    pub(super) fn is_summed(self, has_ids: bool) -> bool {
        self == Self::Summed && has_ids
    }
}

/// Writes `state [pairs, 4]` = (max s, Z, Z - m, m) and `distance [pairs]` of every anchor. Here x = (s - max s) /
/// temperature, Z is the sum of e^x, and m is the number of targets. The distance is the sum of (max s - s) over the
/// targets. Blocks continue each other.
///
/// With [`SameImage::Summed`] and ids, the state is (max s of the negatives, their sum, max s of the targets, their sum),
/// each sum from its own maximum, and the distance is 0.
pub fn log_sum_exp(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    (ids, same_image): (Option<Slice<u32>>, SameImage),
    temperature: Slice<f32>,
    mut state: SliceMut<f32>,
    mut distance: SliceMut<f32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("log_sum_exp");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let temperature = temperature.host()?[0];
            let same = (ids, same_image);
            reference(block, similarity.data.host()?, same, temperature, (state.host()?, distance.host()?));
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let same_image = if ids.is_some() { same_image as u32 } else { 0 };
            let params = Params { same_image, ..Params::on(block) };
            let regions = [
                similarity.data.region()?,
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                temperature.region()?,
                state.region()?,
                distance.region()?,
            ];
            let cost = 40.0 * block.anchors as f64 * block.candidates as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`log_sum_exp`] as a plain loop: one pass for the maxima, one for the sums.
pub fn reference<T: Real>(
    block: &Block,
    similarity: &[T],
    (ids, same_image): (Option<&[u32]>, SameImage),
    temperature: T,
    (state, distance): (&mut [T], &mut [T]),
) {
    let rate = T::one() / temperature;
    if let (Some(ids), SameImage::Summed) = (ids, same_image) {
        return super::summed::reference(block, similarity, ids, rate, (state, distance));
    }
    let mut states: Vec<_> = state.chunks_exact_mut(4).zip(distance).collect();
    let own = block.anchor_offset..block.anchor_offset + block.anchors;
    if block.candidate_offset == 0 {
        for (state, distance) in &mut states[own.clone()] {
            state.copy_from_slice(&[T::neg_infinity(), T::zero(), T::zero(), T::zero()]);
            **distance = T::zero();
        }
    }
    let earlier: Vec<_> = states.iter().map(|(state, _)| state[0]).collect();
    let roles = Roles { ids, same_image };
    block.scan(similarity, &mut states, &Highest(&roles));
    let tops: Vec<_> = states.iter().map(|(state, _)| state[0]).collect();
    // Rescale the earlier sum to the new maximum.
    for anchor in own.filter(|&anchor| earlier[anchor] > T::neg_infinity()) {
        let (state, distance) = &mut states[anchor];
        let x = rate * (earlier[anchor] - tops[anchor]);
        state[1] *= x.exp();
        state[2] = state[2] * x.exp() + state[3] * x.exp_m1();
        **distance += state[3] * (tops[anchor] - earlier[anchor]);
    }
    block.scan(similarity, &mut states, &Sums { roles: &roles, rate, tops: &tops });
}

/// How candidates count for anchors.
struct Roles<'a> {
    ids: Option<&'a [u32]>,
    same_image: SameImage,
}

impl Roles<'_> {
    /// Whether all pairs but an anchor's own are negatives, unless they are left out.
    fn only_own(&self) -> bool {
        self.ids.is_none() || self.same_image == SameImage::Negative
    }

    /// Whether each lane's candidate is a target of its anchor, and whether it is left out.
    #[inline(always)]
    fn of<T: Real>(&self, lanes: &Lanes<T>) -> ([bool; LANES], [bool; LANES]) {
        let Lanes { anchor, candidate, s } = lanes;
        let (own_id, other_id) = lanes.ids(self.ids);
        let (mut target, mut out) = ([false; LANES], [false; LANES]);
        for k in 0..LANES {
            let (own, none) = (candidate[k] == anchor[k], candidate[k] == NO_PAIR);
            let same = own_id[k] == other_id[k];
            let none = none | is_left_out(s[k]);
            target[k] = (own | (same & (self.same_image == SameImage::Target))) & !none;
            out[k] = none | (same & !own & (self.same_image == SameImage::LeftOut));
        }
        (target, out)
    }
}

/// The first pass: the largest similarity.
struct Highest<'a>(&'a Roles<'a>);

impl<'a, T: Real> Scan<T> for Highest<'a> {
    type Sums = [T; LANES];
    type State = (&'a mut [T], &'a mut T);

    fn begin(&self) -> Self::Sums {
        [T::neg_infinity(); LANES]
    }

    #[inline(always)]
    fn visit(&self, top: &mut Self::Sums, lanes: &Lanes<T>) {
        let (_, out) = self.0.of(lanes);
        for k in 0..LANES {
            let s = lanes.s[k];
            top[k] = if out[k] | (s <= top[k]) { top[k] } else { s };
        }
    }

    fn has_others(&self) -> bool {
        self.0.only_own()
    }

    #[inline(always)]
    fn visit_others(&self, top: &mut Self::Sums, lanes: &Lanes<T>) {
        for (top, &s) in top.iter_mut().zip(&lanes.s) {
            *top = if is_left_out(s) | (s <= *top) { *top } else { s };
        }
    }

    fn end(&self, (state, _): &mut Self::State, top: &Self::Sums, own: Range<usize>) {
        state[0] = top[own].iter().copied().fold(state[0], T::max);
    }
}

/// The second pass: the sums.
struct Sums<'a, T> {
    roles: &'a Roles<'a>,
    rate: T,
    tops: &'a [T],
}

impl<'a, T: Real> Scan<T> for Sums<'a, T> {
    /// Z, Z - m, m, and the distance.
    type Sums = [[T; LANES]; 4];
    type State = (&'a mut [T], &'a mut T);

    fn begin(&self) -> Self::Sums {
        [[T::zero(); LANES]; 4]
    }

    #[inline(always)]
    fn visit(&self, sums: &mut Self::Sums, lanes: &Lanes<T>) {
        let (target, out) = self.roles.of(lanes);
        let top = Lanes::<T>::of(&lanes.anchor, self.tops);
        for k in 0..LANES {
            let away = top[k] - lanes.s[k];
            let e = (-self.rate * away).power_of_e();
            let e = if out[k] { T::zero() } else { e };
            let count = if target[k] { T::one() } else { T::zero() };
            sums[0][k] += e;
            // e^0 is exactly 1, so a target that is the maximum adds exactly 0.
            sums[1][k] += e - count;
            sums[2][k] += count;
            sums[3][k] += if target[k] { away } else { T::zero() };
        }
    }

    fn has_others(&self) -> bool {
        self.roles.only_own()
    }

    #[inline(always)]
    fn visit_others(&self, sums: &mut Self::Sums, lanes: &Lanes<T>) {
        let top = Lanes::<T>::of(&lanes.anchor, self.tops);
        for k in 0..LANES {
            let s = lanes.s[k];
            let e = (-self.rate * (top[k] - s)).power_of_e();
            let e = if is_left_out(s) { T::zero() } else { e };
            sums[0][k] += e;
            sums[1][k] += e;
        }
    }

    fn end(&self, (state, distance): &mut Self::State, sums: &Self::Sums, own: Range<usize>) {
        let totals = state[1..].iter_mut().chain(std::iter::once(&mut **distance));
        for (total, sums) in totals.zip(sums) {
            *total = sums[own.clone()].iter().fold(*total, |total, &sum| total + sum);
        }
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    let temperature = lab.pair(vec![TEMPERATURE])?;
    for same_image in [SameImage::Target, SameImage::LeftOut, SameImage::Summed] {
        for block in directions() {
            let m = mined(lab, &block)?;
            let (mut state, mut distance) = (lab.poison(4 * N)?, lab.poison(N)?);
            let same = (Some(m.ids.get()), same_image);
            lab.run(|commands| {
                let (s, t) = (m.similarity.mat(N, N), temperature.get());
                log_sum_exp(commands, &block, s, same, t, state.get_mut(), distance.get_mut())
            })?;
            let (mut expected, mut away) = (state.wide(), distance.wide());
            let (s, same) = (m.similarity.wide(), (Some(&m.ids.host[..]), same_image));
            reference(&block, &s, same, TEMPERATURE.into(), (&mut expected, &mut away));
            lab.compare(&state, &expected)?;
            lab.compare(&distance, &away)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::leave_out::NOTHING;
    use super::*;
    use crate::device::padded;

    #[test]
    fn without_equal_ids_the_sums_have_the_same_bits() {
        const PAIRS: usize = 101;
        let similarity: Vec<f32> = (0..PAIRS * padded(PAIRS))
            .map(|k| if k % 97 == 5 { NOTHING } else { ((k * k) as f32).sin() })
            .collect();
        let distinct: Vec<u32> = (0..PAIRS as u32).rev().collect();
        for block in [Block::images(0, PAIRS, PAIRS), Block::texts(0, PAIRS, PAIRS)] {
            // With ids, every pair may be a target.
            let [plain, masked] = [None, Some(&distinct[..])].map(|ids| {
                let (mut state, mut distance) = (vec![0.0; 4 * PAIRS], vec![0.0; PAIRS]);
                let same = (ids, SameImage::Target);
                reference(&block, &similarity, same, 0.05, (&mut state, &mut distance));
                (state, distance)
            });
            assert!(plain == masked && plain.0.iter().all(|x| x.is_finite()));
        }
    }
}
