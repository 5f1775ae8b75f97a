//! Which anchors mined which row, in ascending order (docs/math.md, "Assembled gradient").

use super::lab::{Lab, N};
use super::{Access, Kernel, KernelSpec};
use crate::Result;
use crate::device::{Commands, Recorder, Slice, SliceMut, clock};

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "mined_order",
        source: include_str!("../../shaders/mined_order.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 0.0,
    check,
    mutation: ["(first + at) & size) == 0u", "(first + at) & size) != 0u"],
};

params!(pairs: u32, size: u32, distance: u32);

/// Largest number of keys that a workgroup sorts by itself; `CHUNK` in the shader. With twice as many, a single lane
/// would make more than 65,535 rounds of a loop, and llvmpipe ends a loop after that many.
const CHUNK: usize = 1024;
/// Largest number of pairs in a batch. A key, h pairs + j, must fit 32 bits, and a dispatch has at most this many
/// workgroups per dimension.
pub const MAX_PAIRS: usize = 65_535;
/// Stands for no pair.
const NONE: u32 = u32::MAX;

/// Number of keys in the order of `pairs` pairs.
pub fn mined_keys(pairs: usize) -> usize {
    pairs.next_power_of_two().max(2)
}

/// The phase of a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortForm {
    Begin,
    Within,
    Across,
}

impl SortForm {
    /// The constants of the shader for chunks of this many keys.
    pub fn constants(self, chunk: usize) -> [(&'static str, String); 3] {
        let begin = ("BEGIN", (self == Self::Begin).to_string());
        [begin, ("ACROSS", (self == Self::Across).to_string()), ("CHUNK", format!("{chunk}u"))]
    }
}

/// Writes `keys [mined_keys(pairs)]` = h_j `pairs` + j in ascending order, for the j whose h_j is in the batch. `index
/// [pairs]` is h. The remaining keys are `u32::MAX`. `pairs` is at most [`MAX_PAIRS`].
pub fn mined_order(
    commands: &mut Commands,
    index: Slice<u32>,
    pairs: usize,
    mut keys: SliceMut<u32>,
) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("mined_order");
            reference(&index.host()?[..pairs], keys.host()?);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let count = mined_keys(pairs);
            let chunk = count.min(CHUNK);
            let regions = [index.region()?, keys.region()?.part(0..count)];
            // A sort is mostly barriers. Where they are cheap, more lanes are faster.
            let lanes = if recorder.lanes < 64 { recorder.lanes } else { 256 };
            let stage = |recorder: &mut Recorder, form: SortForm, size: usize, distance: usize| {
                let params = Params { pairs: pairs as u32, size: size as u32, distance: distance as u32 };
                let grid = match form {
                    SortForm::Across => count / 2 / lanes as usize,
                    _ => count / chunk,
                };
                let [begin, across, chunk] = form.constants(chunk);
                let constants = [("LANES", format!("{lanes}u")), begin, across, chunk];
                let cost = 30.0 * count as f64;
                recorder.dispatch(&KERNEL.spec, &constants, &params, &regions, [grid, 1, 1], cost)
            };
            stage(recorder, SortForm::Begin, 0, 0)?;
            let sizes = std::iter::successors(Some(2 * chunk), |size| Some(2 * size));
            for size in sizes.take_while(|&size| size <= count) {
                let distances = std::iter::successors(Some(size / 2), |distance| Some(distance / 2));
                for distance in distances.take_while(|&distance| distance >= chunk) {
                    stage(recorder, SortForm::Across, size, distance)?;
                }
                stage(recorder, SortForm::Within, size, 0)?;
            }
            Ok(())
        }
    }
}

/// [`mined_order`] by the standard library's sort.
pub fn reference(index: &[u32], keys: &mut [u32]) {
    let pairs = index.len();
    keys.fill(NONE);
    for ((j, &h), key) in index.iter().enumerate().zip(keys.iter_mut()) {
        if (h as usize) < pairs {
            *key = h * pairs as u32 + j as u32;
        }
    }
    keys.sort_unstable();
}

fn check(lab: &mut Lab) -> Result<()> {
    // The last size takes several chunks.
    for pairs in [1, N, 5000] {
        let index = lab.indices(pairs, pairs as u32)?;
        let mut expected = vec![0; mined_keys(pairs)];
        reference(&index.host, &mut expected);
        let mut keys = lab.poison_indices(expected.len())?;
        lab.run(|commands| mined_order(commands, index.get(), pairs, keys.get_mut()))?;
        lab.compare_indices(&keys, &expected)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_batch_has_keys_of_32_bits() {
        let last = MAX_PAIRS as u32 - 1;
        // The last pair mines itself, which gives the largest key. The other pairs mine in descending order.
        let index: Vec<u32> = (0..=last).map(|j| if j == last { last } else { last - j }).collect();
        let mut keys = vec![0; mined_keys(MAX_PAIRS)];
        reference(&index, &mut keys);
        let mut expected: Vec<_> = index.iter().zip(0..).map(|(&h, j)| (u64::from(h), j)).collect();
        expected.sort_unstable();
        let pairs = MAX_PAIRS as u64;
        let found: Vec<_> =
            keys.iter().map(|&key| (u64::from(key) / pairs, u64::from(key) % pairs)).collect();
        assert_eq!(found[..MAX_PAIRS], expected);
        assert!(keys[MAX_PAIRS..].iter().all(|&key| key == NONE));
    }
}
