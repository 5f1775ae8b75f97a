//! Runs a kernel in all its variants on poisoned memory, and compares the result with a reference.

pub use crate::common::Outcome;
use crate::common::check;
use crate::common::random::Random;
use libtest_mimic::Failed;
use std::fmt::Debug;
use wgoal::Device;
use wgoal::device::{Buffer, Commands, Element, Mat, MatMut, Slice, SliceMut, padded};
use wgoal::kernels::{MATMUL_VARIANTS, MatmulVariant};

/// Half a unit in the last place of an f32 near 1: the largest relative error of one rounding.
pub const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// The largest relative error of an f32 exp(z) for |z| up to `z`. WGSL allows exp itself 3 + 2 |z| units in the last
/// place. As many again cover the rounding of a z that was computed in a few operations.
pub fn exp_error(z: f64) -> f64 {
    2.0 * (3.0 + 2.0 * z) * 2.0 * ROUNDING
}

/// The largest likely error of a sum of n products, relative to the product of the norms. Errors have either sign, so
/// they grow with √n. The factor 4 makes larger errors very unlikely.
pub fn sum_error(n: usize) -> f64 {
    4.0 * (n as f64).sqrt() * ROUNDING
}

/// The bits of all memory that a kernel has not written: a NaN that no computation produces.
const POISON: u32 = 0x7fc0_dead;
/// The number of poisoned elements after the end of every array. Shaders can reach them but must not write them.
const GUARD: usize = 64;

/// A device together with one way to specialise the kernels.
pub struct Bench<'a> {
    device: &'a Device,
    variant: Variant,
    /// The variant and the case, counted.
    turn: usize,
}

#[derive(Debug, Clone, Copy)]
enum Variant {
    Native,
    Lanes(u32),
    /// All work in the smallest pieces.
    Split,
    Matmul(&'static MatmulVariant),
}

/// Runs every case with every variant that `variants` gives for the device. The case seeds the data.
fn each<C: Copy + Debug>(
    device: &Device,
    variants: &[Variant],
    cases: &[C],
    test: impl Fn(&Bench, &mut Random, C) -> Outcome,
) -> Outcome {
    let variants = if device.adapter().is_none() { &[Variant::Native] } else { variants };
    for (place, &variant) in variants.iter().enumerate() {
        for (seed, &case) in cases.iter().enumerate() {
            test(&Bench { device, variant, turn: place + seed }, &mut Random::new(seed as u64), case)
                .map_err(|e| {
                    let what = match variant {
                        Variant::Matmul(variant) => variant.name.to_string(),
                        other => format!("{other:?}"),
                    };
                    format!("{what}, case {case:?}, seed {seed}: {}", e.message().unwrap_or_default())
                })?;
        }
    }
    Ok(())
}

/// The numbers of lanes of row kernels: 1 has no reduction, 8 is for software adapters, 64 for GPUs, and 256 is the
/// most that every adapter allows.
pub fn each_lanes<C: Copy + Debug>(
    device: &Device,
    cases: &[C],
    test: impl Fn(&Bench, &mut Random, C) -> Outcome,
) -> Outcome {
    let variants = [1, 8, 64, 256].map(Variant::Lanes).into_iter().chain([Variant::Split]);
    each(device, &variants.collect::<Vec<_>>(), cases, test)
}

pub fn each_product<C: Copy + Debug>(
    device: &Device,
    cases: &[C],
    test: impl Fn(&Bench, &mut Random, C) -> Outcome,
) -> Outcome {
    let own = MATMUL_VARIANTS.iter().filter(|variant| !is_optional(variant)).map(Variant::Matmul);
    each(device, &own.collect::<Vec<_>>(), cases, test)
}

/// Variants that not every device can run. They are a separate test, so that its "ignored" shows where they did not
/// run.
pub fn each_optional_product<C: Copy + Debug>(
    device: &Device,
    cases: &[C],
    test: impl Fn(&Bench, &mut Random, C) -> Outcome,
) -> Outcome {
    let optional = MATMUL_VARIANTS.iter().filter(|variant| is_optional(variant)).map(Variant::Matmul);
    each(device, &optional.collect::<Vec<_>>(), cases, test)
}

fn is_optional(variant: &MatmulVariant) -> bool {
    variant.name.starts_with("subgroups")
}

/// Device memory with a guard behind it.
pub struct Array<T: Element> {
    buffer: Buffer<T>,
    len: usize,
}

impl<T: Element> Array<T> {
    /// On the CPU exactly the elements. On other devices also the guard, so that a shader can run into it.
    pub fn get(&self) -> Slice<'_, T> {
        match self.buffer.view() {
            Slice::Host(host) => Slice::Host(&host[..self.len]),
            guarded => guarded,
        }
    }

    pub fn get_mut(&mut self) -> SliceMut<'_, T> {
        let len = self.len;
        match self.buffer.view_mut() {
            SliceMut::Host(host) => SliceMut::Host(&mut host[..len]),
            guarded => guarded,
        }
    }
}

impl Array<f32> {
    pub fn mat(&self, rows: usize, cols: usize) -> Mat<'_> {
        Mat { data: self.get(), rows, cols }
    }

    pub fn mat_mut(&mut self, rows: usize, cols: usize) -> MatMut<'_> {
        MatMut { data: self.get_mut(), rows, cols, stride: padded(cols) }
    }

    /// Some rows of a matrix, without the guard.
    pub fn strip(&mut self, rows: &std::ops::Range<usize>, cols: usize) -> MatMut<'_> {
        let data = self.buffer.part_mut(rows.start * padded(cols)..rows.end * padded(cols));
        MatMut { data, rows: rows.len(), cols, stride: padded(cols) }
    }
}

impl Bench<'_> {
    /// The matrix product to use, if the variant is one.
    /// Parameters of a kernel to test: all with 8 lanes, and with other numbers of lanes a third, by turns. The lanes
    /// change the reduction, not what is reduced. Over the cases, every variant has all parameters.
    pub fn share<T>(&self, parameters: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        let all = matches!(self.variant, Variant::Native | Variant::Lanes(8));
        let turn = self.turn;
        // Neighbours in lists of lists of three are not of one turn.
        let due = move |at: usize| all || (at + at / 3 + turn).is_multiple_of(3);
        parameters.into_iter().enumerate().filter(move |(at, _)| due(*at)).map(|(_, item)| item)
    }

    pub fn product(&self) -> Option<&'static MatmulVariant> {
        if let Variant::Matmul(variant) = self.variant { Some(variant) } else { None }
    }

    pub fn array<T: Element>(&self, values: &[T]) -> Result<Array<T>, Failed> {
        let mut guarded = values.to_vec();
        guarded.resize(values.len() + GUARD, bytemuck::cast(POISON));
        Ok(Array { buffer: Buffer::from_slice(self.device, "test", &guarded)?, len: values.len() })
    }

    pub fn poisoned<T: Element>(&self, len: usize) -> Result<Array<T>, Failed> {
        self.array(&vec![bytemuck::cast(POISON); len])
    }

    pub fn run(&self, record: impl FnOnce(&mut Commands) -> wgoal::Result<()>) -> Outcome {
        self.run_split(matches!(self.variant, Variant::Split), record)
    }

    /// The same. With `split`, a dispatch may do so little work, and a binding hold so little memory, that the work is
    /// done in the smallest pieces, of 64 rows or elements.
    pub fn run_split(&self, split: bool, record: impl FnOnce(&mut Commands) -> wgoal::Result<()>) -> Outcome {
        let mut commands = self.device.commands();
        if let Commands::Gpu(recorder) = &mut commands {
            if split {
                (recorder.budget, recorder.max_binding) = (1.0, 1);
            }
            match self.variant {
                Variant::Native | Variant::Split | Variant::Matmul(_) => {}
                Variant::Lanes(lanes) => recorder.lanes = lanes,
            }
        }
        record(&mut commands)?;
        Ok(commands.submit()?)
    }

    /// The contents of an array, after checking that its guard is unchanged.
    pub fn read<T: Element>(&self, array: &Array<T>) -> Result<Vec<T>, Failed> {
        let mut values =
            self.device.wait(array.buffer.read(self.device, 0..array.len + GUARD)).map_err(Failed::from)?;
        let intact = values[array.len..].iter().all(|&x| is_poison(x));
        check(intact, "the memory behind the array was written")?;
        values.truncate(array.len);
        Ok(values)
    }

    /// Checks each element against its own allowed error. NaN always fails. An allowed error of 0 means equal values.
    pub fn near(
        &self,
        what: &str,
        array: &Array<f32>,
        expected: &[f64],
        allowed: impl Fn(usize) -> f64,
    ) -> Outcome {
        let found = self.read(array)?;
        check(found.len() == expected.len(), format!("{what}: {} elements", found.len()))?;
        for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(found) - expected).abs();
            let within = error <= allowed(i);
            if !within {
                let message = format!("{what}[{i}] is {found:e}, expected {expected:e}: error {error:.1e}");
                return Err(format!("{message}, allowed {:.1e}", allowed(i)).into());
            }
        }
        Ok(())
    }

    pub fn equal(&self, what: &str, array: &Array<u32>, expected: &[u32]) -> Outcome {
        let found = self.read(array)?;
        match found.iter().zip(expected).position(|(a, b)| a != b) {
            Some(i) => Err(format!("{what}[{i}] is {}, expected {}", found[i], expected[i]).into()),
            None => check(found.len() == expected.len(), format!("{what}: {} elements", found.len())),
        }
    }
}

pub fn is_poison<T: Element>(value: T) -> bool {
    bytemuck::cast::<T, u32>(value) == POISON
}

/// The checks above can fail: on poison, on a wrong value, and on a guard that was written.
pub fn guard(device: &Device) -> Outcome {
    each(device, &[Variant::Native], &[()], |bench, _, ()| {
        let poisoned = bench.poisoned::<f32>(3)?;
        check(bench.near("", &poisoned, &[0.0; 3], |_| f64::INFINITY).is_err(), "poison passed for a value")?;
        check(bench.near("", &bench.array(&[1.0])?, &[1.1], |_| 0.01).is_err(), "1 passed for 1.1")?;
        check(bench.equal("", &bench.array(&[1, 2])?, &[1, 3]).is_err(), "2 passed for 3")?;
        let mut overrun = bench.array(&[1u32])?;
        overrun.buffer.write(bench.device, 1, &[0])?;
        check(bench.read(&overrun).is_err(), "a written guard passed")
    })
}
