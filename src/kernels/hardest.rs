//! Hardest negative of every anchor, in one direction (docs/math.md, "Mining").

use super::lab::{Lab, N, Pair, directions};
use super::{
    Access, Block, Kernel, KernelSpec, LANES, Lanes, NO_PAIR, Real, Scan, hardest_plain, is_left_out, lanes,
};
use crate::Result;
use crate::device::{Commands, Mat, Region, Slice, SliceMut, clock};
use std::ops::Range;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "hardest",
        source: include_str!("../../shaders/hardest.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::ReadWrite,
            Access::ReadWrite,
            Access::ReadWrite,
            Access::Read,
            Access::Read,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 0.0,
    check,
    mutation: ["i < best_index[lane]", "i > best_index[lane]"],
};

params!(block mask: u32, exclude_own: u32, bounded: u32);

/// Which candidates count.
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    /// Image of each pair: pairs with equal ids are never negatives.
    pub ids: Option<Slice<'a, u32>>,
    /// If true, the anchor's own pair is left out (hinge). If false, it takes part with the value -1 (GOAL).
    pub exclude_own: bool,
    /// Mine only candidates that come after this place.
    pub below: Option<Below<'a>>,
}

/// A place per anchor in the order of mining: similarities fall, and indices rise among equal ones. Both are `[pairs]`.
#[derive(Clone, Copy)]
pub struct Below<'a> {
    pub value: Slice<'a, f32>,
    pub index: Slice<'a, u32>,
}

/// The outputs of mining one direction, all `[pairs]`.
pub struct Hardest<'a> {
    /// p, written for the part of the diagonal that the block contains.
    pub positive: SliceMut<'a, f32>,
    /// n
    pub value: SliceMut<'a, f32>,
    /// h
    pub index: SliceMut<'a, u32>,
}

/// Mines a block: n is the maximum of M over the candidates, h is the smallest index that attains it. Blocks in
/// ascending order of candidates continue each other.
pub fn hardest(
    commands: &mut Commands,
    block: &Block,
    similarity: Mat,
    from: Candidates,
    mut out: Hardest,
) -> Result<()> {
    let Candidates { ids, exclude_own, below } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("hardest");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let below = below.map(|below| Ok((below.value.host()?, below.index.host()?))).transpose()?;
            let out = (out.positive.host()?, out.value.host()?, out.index.host()?);
            reference(block, similarity.data.host()?, (ids, exclude_own, below), out);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let params = Params {
                mask: ids.is_some().into(),
                exclude_own: exclude_own.into(),
                bounded: below.is_some().into(),
                ..Params::on(block)
            };
            let regions = [
                similarity.data.region()?,
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                out.positive.region()?,
                out.value.region()?,
                out.index.region()?,
                below.map_or(Ok(Region::NOTHING), |below| below.value.region())?,
                below.map_or(Ok(Region::NOTHING), |below| below.index.region())?,
            ];
            let cost = 8.0 * block.anchors as f64 * block.candidates as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [block.anchors, 1, 1], cost)
        }
    }
}

/// [`hardest`] as a plain loop. The candidates are (ids, exclude_own, below), the output is (p, n, h).
pub fn reference<T: Real>(
    block: &Block,
    similarity: &[T],
    (ids, exclude_own, below): (Option<&[u32]>, bool, Option<(&[T], &[u32])>),
    (positive, value, index): (&mut [T], &mut [T], &mut [u32]),
) {
    let anchors = block.anchor_offset..block.anchor_offset + block.anchors;
    if block.candidate_offset == 0 {
        for anchor in anchors.clone() {
            (value[anchor], index[anchor]) = (T::neg_infinity(), anchor as u32);
        }
    } else if exclude_own {
        // These anchors have found nothing so far.
        for anchor in anchors.clone().filter(|&anchor| index[anchor] as usize == anchor) {
            value[anchor] = T::neg_infinity();
        }
    }
    let candidates = block.candidate_offset..block.candidate_offset + block.candidates;
    for own in anchors.clone().filter(|own| candidates.contains(own)) {
        let (a, c) = (own - block.anchor_offset, own - block.candidate_offset);
        positive[own] = similarity[a * block.anchor_stride + c * block.candidate_stride];
    }
    if ids.is_none() && below.is_none() {
        return hardest_plain::scan(block, similarity, exclude_own, (value, index));
    }
    let mut states: Vec<_> = value.iter_mut().zip(index).collect();
    block.scan(similarity, &mut states, &Best { ids, exclude_own, below, here: std::marker::PhantomData });
}

/// The best candidate of every lane.
struct Best<'a, T> {
    ids: Option<&'a [u32]>,
    exclude_own: bool,
    below: Option<(&'a [T], &'a [u32])>,
    /// Carries the lifetime of the states, which are borrowed elsewhere.
    here: std::marker::PhantomData<&'a mut T>,
}

impl<'a, T: Real> Scan<T> for Best<'a, T> {
    type Sums = ([T; LANES], [u32; LANES]);
    type State = (&'a mut T, &'a mut u32);

    fn begin(&self) -> Self::Sums {
        ([T::neg_infinity(); LANES], [NO_PAIR; LANES])
    }

    #[inline(always)]
    fn visit(&self, best: &mut Self::Sums, lanes: &Lanes<T>) {
        let Lanes { anchor, candidate, s } = lanes;
        // M; elements that do not count get less than any similarity.
        let (mut m, none) = (*s, T::neg_infinity());
        if let Some(ids) = self.ids {
            let (own_id, other_id) = lanes.ids(Some(ids));
            for k in 0..LANES {
                m[k] = if own_id[k] == other_id[k] { none } else { m[k] };
            }
        }
        let own = if self.exclude_own { none } else { -T::one() };
        for k in 0..LANES {
            m[k] = if candidate[k] == anchor[k] { own } else { m[k] };
            m[k] = if (candidate[k] == NO_PAIR) | is_left_out(m[k]) { none } else { m[k] };
        }
        if let Some((n, h)) = self.below {
            let (top, top_index) = (Lanes::<T>::of(anchor, n), Lanes::<T>::of(anchor, h));
            for k in 0..LANES {
                let after = (m[k] < top[k]) | ((m[k] == top[k]) & (candidate[k] > top_index[k]));
                m[k] = if after { m[k] } else { none };
            }
        }
        for k in 0..LANES {
            // Selected by bits. Otherwise the compiler selects the address to load from, lane by lane.
            let better = m[k] > best.0[k];
            let bits = 0u32.wrapping_sub(better.into());
            best.1[k] = (candidate[k] & bits) | (best.1[k] & !bits);
            let value = if better { m[k] } else { best.0[k] };
            best.0[k] = value;
        }
    }

    fn end(&self, (n, h): &mut Self::State, best: &Self::Sums, own: Range<usize>) {
        let (mut m, mut candidate) = (T::neg_infinity(), NO_PAIR);
        for k in own {
            if best.0[k] > m || (best.0[k] == m && best.1[k] < candidate) {
                (m, candidate) = (best.0[k], best.1[k]);
            }
        }
        // On a tie, the earlier block wins, because it holds lower indices.
        if m > **n {
            (**n, **h) = (m, candidate);
        }
        if **n == T::neg_infinity() {
            **n = -T::one();
        }
    }
}

/// Test data: similarities with exact ties, ids that repeat, and what mining finds in one direction.
pub(crate) struct Mined {
    pub similarity: Pair<f32>,
    pub ids: Pair<u32>,
    pub positive: Pair<f32>,
    pub value: Pair<f32>,
    pub index: Pair<u32>,
}

pub(crate) fn mined(lab: &mut Lab, block: &Block) -> Result<Mined> {
    // Multiples of 1/64, so that differences are exact.
    let similarity = lab.matrix(N, N)?.host.iter().map(|s| (s * 63.0).round() / 64.0).collect();
    let (similarity, ids) = (lab.pair(similarity)?, lab.indices(N, 40)?);
    let (mut p, mut n, mut h) = (vec![0.0; N], vec![0.0; N], vec![0; N]);
    reference(block, &similarity.host, (Some(&ids.host), false, None), (&mut p, &mut n, &mut h));
    let (positive, value, index) = (lab.pair(p)?, lab.pair(n)?, lab.pair(h)?);
    Ok(Mined { similarity, ids, positive, value, index })
}

/// Checks the hardest negatives, and the next hardest after them.
fn check(lab: &mut Lab) -> Result<()> {
    for block in directions() {
        let m = mined(lab, &block)?;
        let (s, ids) = (m.similarity.mat(N, N), Some(m.ids.get()));
        let (mut positive, mut p) = (lab.pair(m.positive.host.clone())?, m.positive.host.clone());
        let (mut next_n, mut next_h) = (vec![0.0; N], vec![0; N]);
        let below = (&m.value.host[..], &m.index.host[..]);
        let from = (Some(&m.ids.host[..]), true, Some(below));
        reference(&block, &m.similarity.host, from, (&mut p, &mut next_n, &mut next_h));
        let below = Below { value: m.value.get(), index: m.index.get() };
        for (exclude_own, below, n, h) in
            [(false, None, &m.value.host, &m.index.host), (true, Some(below), &next_n, &next_h)]
        {
            let (mut value, mut index) = (lab.poison(N)?, lab.poison_indices(N)?);
            let out =
                Hardest { positive: positive.get_mut(), value: value.get_mut(), index: index.get_mut() };
            let from = Candidates { ids, exclude_own, below };
            lab.run(|commands| hardest(commands, &block, s, from, out))?;
            let n: Vec<f64> = n.iter().map(|&n| n.into()).collect();
            lab.compare(&value, &n)?;
            lab.compare_indices(&index, h)?;
        }
    }
    Ok(())
}
