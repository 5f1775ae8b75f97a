//! The field of the sigmoid loss of SigLIP (docs/math.md, "SigLIP"). It overwrites the similarities.

use super::hardest::mined;
use super::lab::{Lab, N, TEMPERATURE, directions};
use super::{Access, Kernel, KernelSpec, LANES, Real, SameImage, is_left_out, lanes};
use crate::Result;
use crate::device::{Commands, MatMut, Region, Slice, SliceMut, clock, padded};
use crate::objective::Logits;
use rayon::prelude::*;

pub(super) static KERNEL: Kernel = Kernel {
    spec: KernelSpec {
        name: "siglip",
        source: include_str!("../../shaders/siglip.wgsl"),
        params: Params::MEMBERS,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::ReadWrite,
            Access::ReadWrite,
            Access::ReadWrite,
            Access::ReadWrite,
            Access::ReadWrite,
        ],
        workgroup: [64, 1, 1],
    },
    tolerance: 2e-5,
    check,
    mutation: ["select(z, -z, part == 1u)", "select(z, -z, i == j)"],
};

params!(rows: u32, pairs: u32, stride: u32, row_offset: u32, same_image: u32, scale: f32, images: u32);

/// The inputs of the field.
#[derive(Clone, Copy)]
pub struct SiglipField<'a> {
    pub ids: Option<Slice<'a, u32>>,
    /// Pairs of the same image as targets are positives too.
    pub same_image: SameImage,
    /// t at 0, b at `Logits::BIAS`.
    pub logits: Slice<'a, f32>,
    /// Upstream gradient.
    pub scale: f32,
    /// First image of the block.
    pub row_offset: usize,
    /// Number of images: that of pairs, or fewer if images have several texts.
    pub images: usize,
}

/// Replaces the similarities of images `row_offset..` against all texts by A. Writes these rows of `dt` and `db
/// [pairs, 4]`, whose column 0 is their part of the gradients at t and b, and of the losses `[pairs]`. A pair of an
/// image and a text has no direction, so a row's loss stands in the first, and the second is 0.
pub fn siglip(
    commands: &mut Commands,
    mut field: MatMut,
    from: SiglipField,
    [mut dt, mut db]: [SliceMut<f32>; 2],
    [mut loss_it, mut loss_ti]: [SliceMut<f32>; 2],
) -> Result<()> {
    let SiglipField { ids, same_image, logits, scale, row_offset, images } = from;
    match commands {
        Commands::Cpu => {
            let _clock = clock("siglip");
            let ids = ids.map(|ids| ids.host()).transpose()?;
            let place = (row_offset, images, field.cols);
            let logits = logits.host()?;
            let logits = [logits[0], logits[Logits::BIAS]];
            let (parts, losses) = ([dt.host()?, db.host()?], [loss_it.host()?, loss_ti.host()?]);
            reference(field.data.host()?, place, (ids, same_image), logits, scale, parts, losses);
            Ok(())
        }
        Commands::Gpu(recorder) => {
            let (rows, pairs) = (field.rows, field.cols);
            let params = Params {
                rows: rows as u32,
                pairs: pairs as u32,
                stride: field.stride as u32,
                row_offset: row_offset as u32,
                same_image: if ids.is_some() { same_image as u32 } else { 0 },
                scale,
                images: images as u32,
            };
            let regions = [
                ids.map_or(Ok(Region::NOTHING), |ids| ids.region())?,
                logits.region()?,
                field.data.region()?,
                dt.region()?,
                db.region()?,
                loss_it.region()?,
                loss_ti.region()?,
            ];
            let cost = 60.0 * rows as f64 * pairs as f64;
            recorder.dispatch(&KERNEL.spec, &lanes(recorder), &params, &regions, [rows, 1, 1], cost)
        }
    }
}

/// [`siglip`] as a plain loop over images `first..` of `images`, against the texts of all `pairs`. `logits` are t and b, `parts` are dt and db.
pub fn reference<T: Real>(
    field: &mut [T],
    (first, images, pairs): (usize, usize, usize),
    (ids, same_image): (Option<&[u32]>, SameImage),
    [temperature, bias]: [T; 2],
    scale: T,
    [dt, db]: [&mut [T]; 2],
    [loss_it, loss_ti]: [&mut [T]; 2],
) {
    let (rate, count) = (T::one() / temperature, T::of(pairs as f64));
    let share = scale / count;
    let parts = dt.par_chunks_exact_mut(4).zip(db.par_chunks_exact_mut(4));
    let own = first..first + field.len() / padded(pairs);
    loss_ti
        .iter_mut()
        .enumerate()
        .filter(|(t, _)| own.contains(&(t % images)))
        .for_each(|(_, x)| *x = T::zero());
    let outputs = parts.zip(loss_it.par_iter_mut()).skip(first);
    let arch = pulp::Arch::new();
    let rows = field.par_chunks_exact_mut(padded(pairs)).zip(outputs).enumerate();
    rows.for_each(|(row, (field, ((dt, db), loss_it)))| {
        let i = row + first;
        let field = &mut field[..pairs];
        let [loss, by_s, sum] =
            arch.dispatch(Row { i, field, ids, same_image, rate, bias, scale: share * rate });
        dt.copy_from_slice(&[-share * rate * rate * by_s, T::zero(), T::zero(), T::zero()]);
        db.copy_from_slice(&[share * sum, T::zero(), T::zero(), T::zero()]);
        *loss_it = loss / count;
    });
}

/// Computes one row of the field with the processor's vector instructions. The result is the sums of the loss, of a s
/// and of a.
struct Row<'a, T> {
    i: usize,
    field: &'a mut [T],
    ids: Option<&'a [u32]>,
    same_image: SameImage,
    rate: T,
    bias: T,
    scale: T,
}

impl<T: Real> pulp::WithSimd for Row<'_, T> {
    type Output = [T; 3];

    #[inline(always)]
    fn with_simd<P: pulp::Simd>(self, _: P) -> [T; 3] {
        let Self { i, field, ids, same_image, rate, bias, scale } = self;
        let mut sums = [[T::zero(); LANES]; 3];
        let sign = |negative: bool| if negative { -T::one() } else { T::one() };
        for (chunk, field) in field.chunks_mut(LANES).enumerate() {
            let here = chunk * LANES..chunk * LANES + field.len();
            // Without ids, all pairs are of different images.
            let mut same = [false; LANES];
            if let (Some(ids), true) = (ids, same_image != SameImage::Negative) {
                same.iter_mut().zip(&ids[here.clone()]).for_each(|(same, &id)| *same = id == ids[i]);
            }
            let mut out = same.map(|same| same & (same_image == SameImage::LeftOut));
            let mut target = same.map(|same| same & (same_image == SameImage::Target));
            if here.contains(&i) {
                (target[i - here.start], out[i - here.start]) = (true, false);
            }
            for k in 0..field.len() {
                let s = field[k];
                let y = sign(target[k]);
                let v = y * (rate * s + bias);
                let u = (-v.abs()).power_of_e();
                let sigma = if v > T::zero() { T::one() } else { u } / (T::one() + u);
                let loss = if v > T::zero() { v } else { T::zero() } + u.ln_of_one_plus();
                let out = out[k] | is_left_out(s);
                let (loss, a) = if out { (T::zero(), T::zero()) } else { (loss, y * sigma) };
                // 0 times a finite number is 0, also for what is left out.
                sums[0][k] += loss;
                sums[1][k] += a * s;
                sums[2][k] += a;
                field[k] = scale * a;
            }
        }
        sums.map(|lanes| lanes.into_iter().fold(T::zero(), |total, sum| total + sum))
    }
}

fn check(lab: &mut Lab) -> Result<()> {
    const BIAS: f32 = -2.5;
    let logits = Logits { temperature: TEMPERATURE, bias: BIAS, has_bias: true, learned: false };
    let logits = lab.pair(logits.values().to_vec())?;
    for same_image in [SameImage::Target, SameImage::LeftOut] {
        let m = mined(lab, &directions()[0])?;
        let mut field = lab.pair(m.similarity.host.clone())?;
        let [mut dt, mut db] = [lab.poison(4 * N)?, lab.poison(4 * N)?];
        let [mut loss_it, mut loss_ti] = [lab.poison(N)?, lab.poison(N)?];
        let (scale, row_offset) = (0.7, 0);
        let ids = Some(m.ids.get());
        let from = SiglipField { ids, same_image, logits: logits.get(), scale, row_offset, images: N };
        lab.run(|commands| {
            let losses = [loss_it.get_mut(), loss_ti.get_mut()];
            siglip(commands, field.mat_mut(N, N), from, [dt.get_mut(), db.get_mut()], losses)
        })?;
        let (mut a, mut t, mut b) = (m.similarity.wide(), dt.wide(), db.wide());
        let (mut it, mut ti) = (loss_it.wide(), loss_ti.wide());
        let same = (Some(&m.ids.host[..]), same_image);
        let (parts, losses) = ([&mut t[..], &mut b[..]], [&mut it[..], &mut ti[..]]);
        let logits = [TEMPERATURE.into(), BIAS.into()];
        reference(&mut a, (0, N, N), same, logits, f64::from(scale), parts, losses);
        lab.compare(&field, &a)?;
        lab.compare(&dt, &t)?;
        lab.compare(&db, &b)?;
        lab.compare(&loss_it, &it)?;
        lab.compare(&loss_ti, &ti)?;
    }
    Ok(())
}
