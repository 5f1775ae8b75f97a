//! InfoNCE on the CPU, for all similarities of a batch at once and with one exponential per element.
//!
//! With the maxima r of a row, c of a column and g of all, the exponentials of both directions have a common factor:
//!
//! ```text
//! e^((s − c) / t)  =  e^((s − r) / t) · e^((r − g) / t) · e^((g − c) / t)
//! ```
//!
//! The first factor replaces the similarity, and both sums and the field are computed from it. The other two are numbers
//! per row and per column. Targets are few and get exponentials of their own, which keep the digits of small losses.
//!
//! The file is long because a third of it are tests against the kernels that compute every exponential.

use super::infonce::{State, cross_entropy};
use super::{NOTHING, Real, SameImage, is_left_out, vectorized};
use crate::Result;
use crate::device::{MatMut, Slice, SliceMut, clock, padded};
use rayon::prelude::*;

/// The largest (g − r) / t and (g − c) / t. An element that matters to a column may be this far below the maximum of its
/// row, where the exponential must still have all its digits.
const SPREAD: f64 = 40.0;

/// The parameters of [`infonce_at_once`].
#[derive(Clone, Copy)]
pub struct InfonceAtOnce<'a> {
    pub ids: Option<Slice<'a, u32>>,
    pub same_image: SameImage,
    /// t `[1]`
    pub temperature: Slice<'a, f32>,
    /// Upstream gradient.
    pub scale: f32,
    /// Factors of both directions.
    pub shares: [f32; 2],
    /// p, and n of both directions, as mining among all other pairs has found them.
    pub mined: [Slice<'a, f32>; 3],
}

/// Replaces all similarities, those of `field.rows` images against `field.cols` texts, by A, and writes the losses
/// `[pairs]` of both directions. Column 0 of `dt [pairs, 4]` gets parts of the gradient at t in the rows of the images.
///
/// Returns false, and changes at most what is left out, if the maxima are too far apart, or if the probabilities of
/// several targets add up. [`infonce`](super::infonce()) computes these.
pub fn infonce_at_once(
    mut field: MatMut,
    from: InfonceAtOnce,
    mut dt: SliceMut<f32>,
    [mut loss_it, mut loss_ti]: [SliceMut<f32>; 2],
) -> Result<bool> {
    let _clock = clock("infonce_at_once");
    let ids = from.ids.map(|ids| ids.host()).transpose()?;
    if from.same_image.is_summed(ids.is_some()) {
        return Ok(false);
    }
    let rate = 1.0 / from.temperature.host()?[0];
    let (images, pairs) = (field.rows, field.cols);
    let field = &mut field.data.host()?[..images * padded(pairs)];
    let whole = Whole::of(field, (images, pairs), (ids, from.same_image), rate);
    let [p, of_images, of_texts] = from.mined;
    let known = match ids {
        None => whole.known_tops(p.host()?, [of_images.host()?, of_texts.host()?]),
        Some(_) => None,
    };
    let tops = known.unwrap_or_else(|| whole.tops(field));
    if !whole.fits(&tops) {
        return Ok(false);
    }
    let losses = [loss_it.host()?, loss_ti.host()?];
    whole.compute(field, &tops, (from.scale, from.shares), dt.host()?, losses);
    Ok(true)
}

/// All similarities of a batch: of `images` images against `pairs` texts.
struct Whole<'a, T> {
    images: usize,
    pairs: usize,
    /// Pairs with equal ids are targets of each other. Without them, each pair is its own target only.
    ids: Option<&'a [u32]>,
    rate: T,
}

/// The largest similarity of each row, of each column, and of all. Columns fill whole lanes.
struct Tops<T> {
    rows: Vec<T>,
    columns: Vec<T>,
    all: T,
}

/// The sums over some rows.
struct Part<T> {
    /// Of e^((s − r) / t) e^((r − g) / t) in each column, without the targets, and then the same with the factor s − c.
    sums: Vec<T>,
    /// Row, column and similarity of the targets.
    targets: Vec<(usize, usize, T)>,
}

/// The state of an anchor as `log_sum_exp` has it, and the sum of softmax (s − max s) over its negatives.
#[derive(Clone, Copy)]
struct Anchor<T> {
    state: [T; 4],
    distance: T,
    away: T,
}

impl<T: Real> Anchor<T> {
    /// From its maximum and the sums over its negatives.
    fn new(top: T, sum: T, away: T) -> Self {
        Self { state: [top, sum, sum, T::zero()], distance: T::zero(), away }
    }

    fn add_target(&mut self, s: T, rate: T) {
        let [top, total, gap, count] = &mut self.state;
        let e = (rate * (s - *top)).power_of_e();
        *total += e;
        // e^0 is exactly 1, so a target that is the maximum adds exactly 0.
        *gap += e - T::one();
        *count += T::one();
        self.distance += *top - s;
    }
}

/// Elements that are computed together.
const LANES: usize = 16;

/// What a lane past the end of a row holds, and an element whose exponential is to be 0.
fn nothing<T: Real>() -> T {
    T::of(NOTHING.into())
}

/// The larger of two numbers, none of them NaN.
#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    if a > b { a } else { b }
}

/// Some elements of a row in lanes; there may be fewer than lanes.
#[inline(always)]
fn in_lanes<T: Real>(values: &[T]) -> [T; LANES] {
    // In all chunks but the last, the compiler knows the length.
    values.try_into().unwrap_or_else(|_| {
        let mut lanes = [nothing(); LANES];
        lanes[..values.len()].copy_from_slice(values);
        lanes
    })
}

/// The maximum of a row. Those of the columns are continued.
#[inline(always)]
fn row_top<T: Real>(row: &[T], columns: &mut [T]) -> T {
    let mut top = [T::neg_infinity(); LANES];
    let ((whole, rest), (columns, _)) = (row.as_chunks::<LANES>(), columns.as_chunks_mut::<LANES>());
    for (s, columns) in whole.iter().zip(&mut *columns) {
        for k in 0..LANES {
            top[k] = larger(s[k], top[k]);
            columns[k] = larger(s[k], columns[k]);
        }
    }
    if let (false, Some(columns)) = (rest.is_empty(), columns.get_mut(whole.len())) {
        for (column, (top, &s)) in columns.iter_mut().zip(top.iter_mut().zip(rest)) {
            *top = larger(s, *top);
            *column = larger(s, *column);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for k in 0..half {
            top[k] = larger(top[k], top[k + half]);
        }
        half /= 2;
    }
    top[0]
}

impl<'a, T: Real> Whole<'a, T> {
    /// Of similarities, from which other pairs of an image are removed where they are left out.
    fn of(
        field: &mut [T],
        (images, pairs): (usize, usize),
        (ids, same_image): (Option<&'a [u32]>, SameImage),
        rate: T,
    ) -> Self {
        let whole = Self { images, pairs, ids, rate };
        match same_image {
            SameImage::Target | SameImage::Summed => return whole,
            SameImage::LeftOut => whole.leave_out(field),
            SameImage::Negative => {}
        }
        Self { ids: None, ..whole }
    }

    /// The rows that one task computes. The number depends on the shape only, and with it the order of the sums.
    fn rows_per_task(&self) -> usize {
        (self.images / 16).clamp(8, 64)
    }

    /// Columns in whole lanes.
    fn width(&self) -> usize {
        self.pairs.next_multiple_of(LANES)
    }

    /// Calls `visit` with the columns whose pairs are of the image of row `i`.
    #[inline(always)]
    fn of_image(&self, i: usize, mut visit: impl FnMut(usize)) {
        let Some(ids) = self.ids else { return visit(i) };
        for (chunk, ids_here) in ids[..self.pairs].chunks(LANES).enumerate() {
            if ids_here.iter().fold(false, |any, &id| any | (id == ids[i])) {
                let same = (0..ids_here.len()).filter(|&k| ids_here[k] == ids[i]);
                same.for_each(|k| visit(chunk * LANES + k));
            }
        }
    }

    /// Leaves out the other pairs of every image.
    fn leave_out(&self, field: &mut [T]) {
        field.par_chunks_exact_mut(padded(self.pairs)).enumerate().for_each(|(i, row)| {
            self.of_image(i, |j| row[j] = if j == i { row[j] } else { nothing() });
        });
    }

    /// The maxima, if the hardest negatives are those of all other pairs. Mining puts -1 in the place of what is lower, so
    /// then this is `None`.
    fn known_tops(&self, p: &[T], n: [&[T]; 2]) -> Option<Tops<T>> {
        let bounded = |n: &[T]| n[..self.pairs].iter().fold(false, |any, &n| any | (n <= -T::one()));
        if n.into_iter().any(bounded) {
            return None;
        }
        let [mut rows, mut columns] =
            n.map(|n| p.iter().zip(&n[..self.pairs]).map(|(&p, &n)| larger(p, n)).collect::<Vec<_>>());
        rows.truncate(self.images);
        columns.resize(self.width(), T::neg_infinity());
        Some(self.with_all(rows, columns))
    }

    fn with_all(&self, rows: Vec<T>, columns: Vec<T>) -> Tops<T> {
        let all = rows.iter().copied().fold(T::neg_infinity(), larger);
        Tops { rows, columns, all }
    }

    /// Whether the maxima are near enough to each other.
    fn fits(&self, tops: &Tops<T>) -> bool {
        let used = tops.rows.iter().chain(&tops.columns[..self.pairs]).copied();
        let lowest = used.fold(T::infinity(), |low, top| if top < low { top } else { low });
        self.rate * (tops.all - lowest) <= T::of(SPREAD)
    }

    /// The maxima.
    fn tops(&self, field: &[T]) -> Tops<T> {
        let (pairs, stride, step) = (self.pairs, padded(self.pairs), self.rows_per_task());
        let mut rows = vec![T::neg_infinity(); self.images];
        let parts: Vec<_> = field
            .par_chunks(step * stride)
            .zip(rows.par_chunks_mut(step))
            .map(|(field, tops)| {
                let mut columns = vec![T::neg_infinity(); self.width()];
                for (row, top) in field.chunks_exact(stride).zip(tops) {
                    *top = vectorized(
                        #[inline(always)]
                        || row_top(&row[..pairs], &mut columns),
                    );
                }
                columns
            })
            .collect();
        let mut columns = vec![T::neg_infinity(); self.width()];
        for part in &parts {
            columns.iter_mut().zip(part).for_each(|(top, &s)| *top = larger(s, *top));
        }
        self.with_all(rows, columns)
    }

    /// Replaces a row of similarities by its exponentials; those of targets and of what is left out become 0. Returns the
    /// sum of the exponentials, and their sum with the factor s − r.
    #[inline(always)]
    fn row_sums(
        &self,
        row: &mut [T],
        (top, factor): (T, T),
        tops: &[T],
        [sums, away]: [&mut [T]; 2],
    ) -> [T; 2] {
        let rate = self.rate;
        let (mut sum, mut sum_away) = ([T::zero(); LANES], [T::zero(); LANES]);
        let ((tops, _), (sums, _), (away, _)) =
            (tops.as_chunks::<LANES>(), sums.as_chunks_mut::<LANES>(), away.as_chunks_mut::<LANES>());
        for (((row, tops), sums), away) in row.chunks_mut(LANES).zip(tops).zip(sums).zip(away) {
            let s = in_lanes(row);
            let mut e = [T::zero(); LANES];
            for k in 0..LANES {
                let below = s[k] - top;
                let power = (rate * below).power_of_e();
                e[k] = if is_left_out(s[k]) { T::zero() } else { power };
                sum[k] += e[k];
                sum_away[k] += e[k] * below;
                let weighted = factor * e[k];
                sums[k] += weighted;
                away[k] += weighted * (s[k] - tops[k]);
            }
            match <&mut [T; LANES]>::try_from(&mut *row) {
                Ok(row) => *row = e,
                Err(_) => row.copy_from_slice(&e[..row.len()]),
            }
        }
        [sum, sum_away].map(|lanes| lanes.into_iter().fold(T::zero(), |total, x| total + x))
    }

    /// Replaces the similarities by A, and writes the losses and the parts of the gradient at t.
    fn compute(
        &self,
        field: &mut [T],
        tops: &Tops<T>,
        (scale, shares): (T, [T; 2]),
        dt: &mut [T],
        [loss_it, loss_ti]: [&mut [T]; 2],
    ) {
        let (pairs, rate, stride, step) = (self.pairs, self.rate, padded(self.pairs), self.rows_per_task());
        // In f64, because every element of a row or column has this factor's error.
        let wide = |x: T| x.to_f64().unwrap_or(f64::NAN);
        let apart = |a: T, b: T| T::of((wide(rate) * (wide(a) - wide(b))).exp());
        let factors: Vec<T> = tops.rows.iter().map(|&top| apart(top, tops.all)).collect();
        let mut rows = vec![Anchor::new(T::zero(), T::zero(), T::zero()); self.images];
        let tasks = field.par_chunks_mut(step * stride).zip(rows.par_chunks_mut(step)).enumerate();
        let parts: Vec<_> = tasks
            .map(|(task, (field, rows))| {
                let mut both = vec![T::zero(); 2 * self.width()];
                let (sums, away) = both.split_at_mut(self.width());
                let mut targets = Vec::with_capacity(rows.len());
                for (row, (field, anchor)) in field.chunks_exact_mut(stride).zip(rows).enumerate() {
                    let i = task * step + row;
                    let (known, own) = (targets.len(), (tops.rows[i], factors[i]));
                    let [sum, away] = vectorized(
                        #[inline(always)]
                        || {
                            self.of_image(i, |j| {
                                let s = std::mem::replace(&mut field[j], nothing());
                                targets.extend((!is_left_out(s)).then_some((i, j, s)));
                            });
                            self.row_sums(&mut field[..pairs], own, &tops.columns, [&mut *sums, &mut *away])
                        },
                    );
                    *anchor = Anchor::new(own.0, sum, away);
                    targets[known..].iter().for_each(|&(_, _, s)| anchor.add_target(s, rate));
                }
                Part { sums: both, targets }
            })
            .collect();
        let back: Vec<T> = tops.columns[..pairs].iter().map(|&top| apart(tops.all, top)).collect();
        let mut columns = self.columns(&parts, tops, &back);
        let targets = parts.iter().flat_map(|part| &part.targets);
        targets.for_each(|&(_, j, s)| columns[j].add_target(s, rate));
        let share = scale / T::of(2.0 * pairs as f64);
        self.field(field, (share * rate, shares), [&rows, &columns], (&factors, &back));
        // Each row of dt gets the parts of its image and of every images-th text.
        let sums = self.targets(field, &parts, (share * rate, shares), [&rows, &columns]);
        for (i, (dt, sum)) in dt.chunks_exact_mut(4).zip(sums).enumerate() {
            let of_columns: T = (i..pairs)
                .step_by(self.images)
                .fold(T::zero(), |sum, j| sum + columns[j].away / columns[j].state[1]);
            let sum = sum + shares[0] * rows[i].away / rows[i].state[1] + shares[1] * of_columns;
            dt.copy_from_slice(&[-share * rate * rate * sum, T::zero(), T::zero(), T::zero()]);
        }
        for (anchors, losses) in [(&rows, loss_it), (&columns, loss_ti)] {
            for (anchor, loss) in anchors.iter().zip(losses) {
                *loss = cross_entropy(&State::of(&anchor.state, None), anchor.distance, rate, pairs);
            }
        }
    }

    /// The columns, without their targets.
    fn columns(&self, parts: &[Part<T>], tops: &Tops<T>, back: &[T]) -> Vec<Anchor<T>> {
        (0..self.pairs)
            .into_par_iter()
            .with_min_len(64)
            .map(|j| {
                let [sum, away] = parts.iter().fold([T::zero(); 2], |[sum, away], part| {
                    [sum + part.sums[j], away + part.sums[self.width() + j]]
                });
                Anchor::new(tops.columns[j], sum * back[j], away * back[j])
            })
            .collect()
    }

    /// Replaces the exponentials by A, without the targets.
    fn field(
        &self,
        field: &mut [T],
        (scale, shares): (T, [T; 2]),
        [rows, columns]: [&[Anchor<T>]; 2],
        (factors, back): (&[T], &[T]),
    ) {
        let (stride, step) = (padded(self.pairs), self.rows_per_task());
        let of_columns: Vec<T> =
            columns.iter().zip(back).map(|(column, &back)| back / column.state[1]).collect();
        field.par_chunks_mut(step * stride).enumerate().for_each(|(task, field)| {
            for (row, field) in field.chunks_exact_mut(stride).enumerate() {
                let i = task * step + row;
                let own = scale * shares[0] / rows[i].state[1];
                let factor = scale * shares[1] * factors[i];
                vectorized(
                    #[inline(always)]
                    || {
                        for (a, &column) in field.iter_mut().zip(&of_columns) {
                            *a *= own + factor * column;
                        }
                    },
                );
            }
        });
    }

    /// Writes A at the targets. Returns their part of the sum of a (s − max s) for each row.
    fn targets(
        &self,
        field: &mut [T],
        parts: &[Part<T>],
        (scale, shares): (T, [T; 2]),
        [rows, columns]: [&[Anchor<T>]; 2],
    ) -> Vec<T> {
        let (rate, stride) = (self.rate, padded(self.pairs));
        let mut sums = vec![T::zero(); self.images];
        for &(i, j, s) in parts.iter().flat_map(|part| &part.targets) {
            let mut a = T::zero();
            for (anchor, share) in [(&rows[i], shares[0]), (&columns[j], shares[1])] {
                let state = State::of(&anchor.state, None);
                let part = share * state.at_target(s, rate);
                a += part;
                sums[i] += part * (s - anchor.state[0]);
            }
            field[i * stride + j] = scale * a;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Block, hardest, infonce, log_sum_exp};
    use super::*;

    const SCALE: f64 = 0.7;
    const SHARES: [f64; 2] = [1.0, 0.5];

    /// Cosines as of trained heads: those on the diagonal are larger. Some are left out.
    fn similarities(images: usize, pairs: usize) -> Vec<f64> {
        let mut s = vec![0.0; images * padded(pairs)];
        for (at, s) in s.iter_mut().enumerate().filter(|(at, _)| at % padded(pairs) < pairs) {
            let (i, j) = (at / padded(pairs), at % padded(pairs));
            let noise = ((i * 37 + j * 101) as f64).sin();
            *s = if i == j { 0.6 + 0.3 * noise } else { 0.5 * noise };
            // Numbers that f32 has, so that both see the same.
            *s = f64::from(*s as f32);
            if i != j && (i * 7 + j) % 41 == 3 {
                *s = NOTHING.into();
            }
        }
        s
    }

    /// A, the gradient at t, and the losses.
    type Found<T> = (Vec<T>, T, [Vec<T>; 2]);

    fn at_once<T: Real>(
        s: &[f64],
        (images, pairs): (usize, usize),
        (ids, same_image): (Option<&[u32]>, SameImage),
        t: f64,
    ) -> Option<Found<T>> {
        let mut field: Vec<T> = s.iter().map(|&s| T::of(s)).collect();
        let whole = Whole::of(&mut field, (images, pairs), (ids, same_image), T::one() / T::of(t));
        let tops = whole.tops(&field);
        if !whole.fits(&tops) {
            return None;
        }
        if ids.is_none() && images == pairs {
            check_known_tops(&whole, &field, &tops);
        }
        let (mut dt, mut losses) =
            (vec![T::zero(); 4 * pairs], [vec![T::zero(); pairs], vec![T::zero(); pairs]]);
        let [it, ti] = &mut losses;
        whole.compute(&mut field, &tops, (T::of(SCALE), SHARES.map(T::of)), &mut dt, [&mut it[..images], ti]);
        Some((field, dt.into_iter().fold(T::zero(), |sum, x| sum + x), losses))
    }

    /// What mining finds leads to the same maxima.
    fn check_known_tops<T: Real>(whole: &Whole<T>, field: &[T], tops: &Tops<T>) {
        let n = whole.pairs;
        let (mut p, mut values, mut h) =
            (vec![T::zero(); n], [(); 2].map(|()| vec![T::zero(); n]), vec![0; n]);
        for (block, n) in [Block::images(0, n, n), Block::texts(0, n, n)].iter().zip(&mut values) {
            hardest::reference(block, field, (None, false, None), (&mut p, n, &mut h));
        }
        match whole.known_tops(&p, [&values[0], &values[1]]) {
            Some(known) => {
                let same = known.rows == tops.rows && known.columns == tops.columns && known.all == tops.all;
                assert!(same, "other maxima");
            }
            None => assert!(n < 3, "maxima that were not found"),
        }
    }

    fn expected(
        s: &[f64],
        (images, pairs): (usize, usize),
        same: (Option<&[u32]>, SameImage),
        t: f64,
    ) -> Found<f64> {
        let mut field = s.to_vec();
        let (mut dt, mut losses) = (vec![0.0; 4 * pairs], [vec![0.0; pairs], vec![0.0; pairs]]);
        let mut states = [vec![0.0; 4 * pairs], vec![0.0; 4 * pairs]];
        for (d, block) in [Block::images(0, images, pairs), Block::texts(0, images, pairs)].iter().enumerate()
        {
            log_sum_exp::reference(block, s, same, t, (&mut states[d], &mut losses[d]));
        }
        let [it, ti] = &mut losses;
        let states = [&states[0][..], &states[1][..]];
        infonce::reference(
            &mut field,
            (0, images, pairs),
            same,
            t,
            states,
            (SCALE, SHARES),
            &mut dt,
            [it, ti],
        );
        losses[0][images..].fill(0.0);
        (field, dt.iter().sum(), losses)
    }

    /// The largest error, relative to the largest number.
    fn error<T: Real>(found: &[T], expected: &[f64]) -> f64 {
        let size = expected.iter().fold(f64::MIN_POSITIVE, |size, x| size.max(x.abs()));
        let found = found.iter().map(|x| x.to_f64().unwrap());
        found.zip(expected).map(|(found, expected)| (found - expected).abs() / size).fold(0.0, f64::max)
    }

    /// In f64 both computations agree to rounding; in f32 the error is that of an exponent of up to 1 / t.
    #[test]
    fn it_computes_what_two_exponentials_per_direction_compute() {
        for (images, pairs) in [(1, 1), (2, 2), (33, 33), (37, 130), (260, 260)] {
            let s = similarities(images, pairs);
            // The first text of an image has the number of the image.
            let ids: Vec<u32> =
                (0..pairs).map(|j| if images < pairs { j % images } else { j / 3 } as u32).collect();
            for same in [
                (None, SameImage::Target),
                (Some(&ids[..]), SameImage::Negative),
                (Some(&ids[..]), SameImage::Target),
                (Some(&ids[..]), SameImage::LeftOut),
            ] {
                if images < pairs && (same.0.is_none() || same.1 != SameImage::Target) {
                    continue;
                }
                for t in [0.5, 0.07, 0.04] {
                    let (a, dt, losses) = expected(&s, (images, pairs), same, t);
                    let exact = at_once::<f64>(&s, (images, pairs), same, t).unwrap();
                    let single = at_once::<f32>(&s, (images, pairs), same, t).unwrap();
                    let at = format!("{images}x{pairs}, {same:?}, t {t}");
                    assert!(error(&exact.0, &a) < 1e-12 && error(&single.0, &a) < 1e-6, "{at}: A");
                    let slope = (exact.1 - dt).abs() / dt.abs().max(1e-9);
                    assert!(slope < 1e-11, "{at}: {} is not {dt}", exact.1);
                    let slope = (f64::from(single.1) - dt).abs() / dt.abs().max(1e-3);
                    assert!(slope < 1e-5, "{at}: {} is not {dt} in f32", single.1);
                    for (d, losses) in losses.iter().enumerate() {
                        assert!(error(&exact.2[d], losses) < 1e-12, "{at}: losses {d}");
                        assert!(error(&single.2[d], losses) < 1e-6, "{at}: losses {d} in f32");
                    }
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let s = similarities(150, 150);
        let of = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| at_once::<f32>(&s, (150, 150), (None, SameImage::Target), 0.07).unwrap())
        };
        let one = of(1);
        assert!([2, 3, 7].into_iter().all(|threads| of(threads) == one));
    }

    #[test]
    fn maxima_that_are_far_apart_are_left_to_others() {
        let s = similarities(33, 33);
        assert!(at_once::<f32>(&s, (33, 33), (None, SameImage::Target), 0.001).is_none());
        let mut nan = s;
        nan[5] = f64::INFINITY;
        assert!(at_once::<f32>(&nan, (33, 33), (None, SameImage::Target), 0.07).is_none());
    }
}
