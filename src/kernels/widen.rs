//! Converts f16 features to f32, for batches that are uploaded in half the bytes.

use super::lab::Lab;
use super::{Access, Kernel, KernelSpec, Real, chunks, lanes};
use crate::Result;
use crate::device::{Commands, Slice, SliceMut, clock};
use half::f16;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "widen",
        source: include_str!("../../shaders/widen.wgsl"),
        params: Params::MEMBERS,
        bindings: &[Access::Read, Access::ReadWrite],
        workgroup: [64, 1, 1],
    },
    tolerance: 0.0,
    check,
    mutation: ["pairs.y >> 16u", "pairs.x >> 16u"],
};

params!(count4: u32);

/// Overwrites the first `len` elements of x with the f16 values of h, two per u32. `len` is a multiple of four, and all
/// values are finite.
pub fn widen(commands: &mut Commands, h: Slice<u32>, mut x: SliceMut<f32>, len: usize) -> Result<()> {
    match commands {
        Commands::Cpu => {
            let _clock = clock("widen");
            reference(h.host()?, &mut x.host()?[..len]);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (h, x) = (h.region()?, x.region()?);
            // A multiple of 128, so that half as many u32 are aligned as well.
            let most = (recorder.elements_per_binding() / 128 * 128).max(128);
            for part in chunks(len, most) {
                let params = Params { count4: part.len() as u32 / 4 };
                let grid = [(part.len() / 4).div_ceil(recorder.lanes as usize).min(4096), 1, 1];
                let regions = [h.part(part.start / 2..part.end / 2), x.part(part.clone())];
                recorder.dispatch(
                    &KERNEL.spec,
                    &lanes(recorder),
                    &params,
                    &regions,
                    grid,
                    part.len() as f64,
                )?;
            }
            Ok(())
        }
    }
}

/// [`widen`] as a plain loop.
pub fn reference<T: Real>(h: &[u32], x: &mut [T]) {
    for (pair, &h) in x.chunks_mut(2).zip(h) {
        for (x, bits) in pair.iter_mut().zip([h as u16, (h >> 16) as u16]) {
            *x = T::of(f16::from_bits(bits).to_f64());
        }
    }
}

/// Checks all finite f16 values.
fn check(lab: &mut Lab) -> Result<()> {
    let halves: Vec<u16> = (0..=u16::MAX).filter(|bits| bits & 0x7fff < 0x7c00).collect();
    let pairs: Vec<u32> = halves.chunks(2).map(|h| u32::from(h[0]) | u32::from(h[1]) << 16).collect();
    let (h, mut x) = (lab.pair(pairs)?, lab.poison(halves.len())?);
    let mut expected = vec![0.0; halves.len()];
    reference(&h.host, &mut expected);
    lab.run(|commands| widen(commands, h.get(), x.get_mut(), halves.len()))?;
    lab.compare(&x, &expected)
}
