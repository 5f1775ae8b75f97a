//! Analysis of an objective's gradient: whether it is the gradient of a loss, where it pushes the wrong way, and where
//! it leaves the range of f32 (docs/math.md, "Integrability"). Everything is computed in f64, by the reference
//! implementations.
//!
//! There are two views. The plane shows T P⁺ and T P⁻ as functions of one triplet's p and n, with empty relative sets.
//! The batch shows the whole field A at the similarities of small random batches, with relative sets.

#[cfg(feature = "native")]
mod plot;

#[cfg(feature = "native")]
pub use plot::plot;
#[cfg(feature = "native")]
pub(crate) use plot::{NAMES, fields};

use crate::Result;
use crate::device::padded;
use crate::gradient::Field;
use crate::gradient::weight_params;
use crate::kernels::{loss_at, weights_at};
use crate::math::{Purpose, random};
use crate::objective::{Objective, PairWeight};
use rand_chacha::rand_core::Rng;
use serde::Serialize;
use std::fmt;

/// Pairs of the sample batches and width of their embeddings.
const N: usize = 6;
const DIM: usize = 6;
/// Fewest and most sample batches.
const BATCHES: [usize; 2] = [2, 16];
/// Fewest and most points per side of the plane.
const GRID: [usize; 2] = [21, 201];
/// Most operations of a weight file for the batches, and again for the plane. They take a few seconds. A file with long
/// loops gets fewer batches and points.
const WORK: usize = 100_000_000;
/// Step of the finite differences.
const STEP: f64 = 1e-5;
/// The largest asymmetry and curl that finite differences of a true gradient show.
const ROUNDING: f64 = 1e-6;

/// A range, lowest first.
pub type Range = [f64; 2];

/// The result of [`Objective::analyze`].
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Analysis {
    /// Name of the objective.
    pub objective: String,
    /// Whether the gradient is that of a loss: no curl and no asymmetry beyond the rounding of finite differences.
    pub integrable: bool,
    /// ‖J − Jᵀ‖ / ‖J‖ of the field on the similarities of N = 6 pairs, lowest and highest over sample batches.
    pub asymmetry: Range,
    /// Number of sample batches: 16, or fewer for a weight file with long loops. The JSON contains it only if it is not
    /// 16.
    #[serde(skip_serializing_if = "all_batches")]
    pub batches: usize,
    /// T, P⁺ and P⁻ as functions of p and n; `None` if the objective has no such weights.
    pub plane: Option<Plane>,
    /// Share of the sample batches' triplets whose positive is pushed away, and share of those whose negative is pulled
    /// in.
    pub wrong_in_batches: Option<[f64; 2]>,
}

/// The weights over p and n in [−1, 1], with empty relative sets.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Plane {
    /// Points per side of the plane: 201, or fewer for a weight file with long loops. The JSON contains it only if it
    /// is not 201.
    #[serde(skip_serializing_if = "all_points")]
    pub side: usize,
    /// Largest |∂(T P⁺)/∂n + ∂(T P⁻)/∂p|.
    pub curl: f64,
    /// Lowest and highest T.
    pub triplet: Range,
    /// Lowest and highest P⁺.
    pub positive: Range,
    /// Lowest and highest P⁻.
    pub negative: Range,
    /// Where P⁺ < 0, so that the positive is pushed away.
    pub positive_wrong: Option<Region>,
    /// Where P⁻ < 0, so that the negative is pulled in.
    pub negative_wrong: Option<Region>,
    /// Formulas of the exponents that leave the range of f32. Kernels clamp exponents at 87 and stay finite.
    pub overflow: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn all_batches(batches: &usize) -> bool {
    *batches == BATCHES[1]
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn all_points(side: &usize) -> bool {
    *side == GRID[1]
}

/// A part of the plane.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Region {
    /// Share of the plane.
    pub share: f64,
    /// Lowest and highest p in it.
    pub p: Range,
    /// Lowest and highest n in it.
    pub n: Range,
}

impl Objective {
    /// (T, P⁺, P⁻) of one triplet in f64, with empty relative sets and the margin applied; `None` if the objective does
    /// not weigh triplets by their hardest negative.
    ///
    /// # Errors
    /// A weight file that cannot be evaluated at p and n.
    pub fn weights_at(&self, p: f64, n: f64) -> Result<Option<[f64; 3]>> {
        let Some(params) = weight_params(self, 1.0) else { return Ok(None) };
        let mut weights = weights_at(&params, p, n, [0.0; 2])?;
        if params.margin.is_some_and(|margin| f64::from(margin) + n - p <= 0.0) {
            weights[0] = 0.0;
        }
        Ok(Some(weights))
    }

    /// The loss of one triplet in f64; `None` if the gradient is not that of a function of p and n.
    pub fn loss_at(&self, p: f64, n: f64) -> Option<f64> {
        let params = match self {
            Self::Loss(..) | Self::Hinge { .. } => weight_params(self, 1.0)?,
            Self::Over(_, objective) | Self::Towards(_, objective) | Self::OneWay(_, objective) => {
                return objective.loss_at(p, n);
            }
            _ => return None,
        };
        let cost = n - p + f64::from(params.margin.unwrap_or(0.0));
        let closed = params.margin.is_some() && cost <= 0.0;
        Some(if closed { 0.0 } else { loss_at(&params, p, n, cost) })
    }

    /// Examines the gradient. This takes well under a second, or some seconds for a weight file with long loops.
    ///
    /// # Errors
    /// Parameters out of range, or a weight file that cannot be evaluated.
    pub fn analyze(&self) -> Result<Analysis> {
        self.analyze_with(|_| {})
    }

    /// [`Objective::analyze`] that also reports to `progress` the share of the work that is done, between 0 and 1.
    ///
    /// # Errors
    /// Those of [`Objective::analyze`].
    pub fn analyze_with(&self, mut progress: impl FnMut(f64)) -> Result<Analysis> {
        self.validate()?;
        let steps = steps(self).max(1);
        // A batch evaluates its field once, and twice more per similarity.
        let batches = (WORK / steps / ((2 * N * N + 1) * 2 * N)).clamp(BATCHES[0], BATCHES[1]);
        let mut asymmetry = [f64::INFINITY, f64::NEG_INFINITY];
        let (mut wrong, mut triplets) = ([0.0; 2], 0.0);
        for batch in 0..batches {
            let s = similarities(batch as u64);
            let done = |share: f64| progress(0.5 * (batch as f64 + share) / batches as f64);
            widen(&mut asymmetry, asymmetry_at(self, &s, done)?);
            // T is not negative, so the signs are those of the pair weights.
            for weights in Field::at(self, &s, N, None)?.triplets {
                triplets += 1.0;
                for (wrong, weight) in wrong.iter_mut().zip(&weights) {
                    *wrong += f64::from(u8::from(*weight < 0.0));
                }
            }
        }
        let side = (WORK / steps / 5).isqrt().clamp(GRID[0], GRID[1]);
        let plane = plane(self, side, |share| progress(0.5 + 0.5 * share))?;
        let curl = plane.as_ref().map_or(0.0, |plane| plane.curl);
        Ok(Analysis {
            objective: self.to_string(),
            integrable: asymmetry[1] <= ROUNDING && curl <= ROUNDING * (1.0 + size(plane.as_ref())),
            asymmetry,
            batches,
            wrong_in_batches: (plane.is_some() && triplets > 0.0)
                .then(|| wrong.map(|count| count / triplets)),
            plane,
        })
    }
}

/// Operations that the weight files of an objective need for one triplet.
fn steps(objective: &Objective) -> usize {
    match objective {
        Objective::Custom { weights, .. } => weights.steps(),
        Objective::Over(_, objective)
        | Objective::Towards(_, objective)
        | Objective::OneWay(_, objective) => steps(objective),
        Objective::Sum(terms) => terms.iter().map(|(_, term)| steps(term)).sum(),
        _ => 0,
    }
}

fn size(plane: Option<&Plane>) -> f64 {
    plane.map_or(0.0, |plane| plane.positive[1].abs().max(plane.negative[1].abs()))
}

fn widen(range: &mut Range, x: f64) {
    *range = [range[0].min(x), range[1].max(x)];
}

/// Cosines of random unit rows. Half of each image row is added to its text row, so that positives are higher.
fn similarities(batch: u64) -> Vec<f64> {
    let mut rng = random(Purpose::Analysis, batch, 0, 0);
    let mut row =
        || -> [f64; DIM] { [(); DIM].map(|()| f64::from(rng.next_u32()) / f64::from(1u32 << 31) - 1.0) };
    let unit = |row: [f64; DIM]| {
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.map(|x| x / norm)
    };
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for _ in 0..N {
        let (image, text) = (unit(row()), unit(row()));
        let mut pulled = text;
        pulled.iter_mut().zip(image).for_each(|(text, image)| *text += 0.5 * image);
        x.push(image);
        y.push(unit(pulled));
    }
    let mut s = vec![0.0; N * padded(N)];
    for (i, j) in (0..N).flat_map(|i| (0..N).map(move |j| (i, j))) {
        s[i * padded(N) + j] = x[i].iter().zip(&y[j]).map(|(x, y)| x * y).sum();
    }
    s
}

/// ‖J − Jᵀ‖ / ‖J‖ of the field at the similarities `s`; 0 if the field is constant.
fn asymmetry_at(objective: &Objective, s: &[f64], mut progress: impl FnMut(f64)) -> Result<f64> {
    let places: Vec<_> = (0..N * N).map(|at| at / N * padded(N) + at % N).collect();
    let mut rows = Vec::new();
    for (k, &at) in places.iter().enumerate() {
        progress(k as f64 / places.len() as f64);
        let field = |step: f64| {
            let mut moved = s.to_vec();
            moved[at] += step;
            Field::at(objective, &moved, N, None)
        };
        let (above, below) = (field(STEP)?.a, field(-STEP)?.a);
        rows.push(places.iter().map(|&k| (above[k] - below[k]) / (2.0 * STEP)).collect::<Vec<f64>>());
    }
    let (mut whole, mut odd) = (0.0, 0.0);
    for (i, j) in (0..N * N).flat_map(|i| (0..N * N).map(move |j| (i, j))) {
        whole += rows[i][j] * rows[i][j];
        odd += (rows[i][j] - rows[j][i]) * (rows[i][j] - rows[j][i]);
    }
    Ok(if whole > 0.0 { (odd / whole).sqrt() } else { 0.0 })
}

fn plane(objective: &Objective, side: usize, mut progress: impl FnMut(f64)) -> Result<Option<Plane>> {
    let none = [f64::INFINITY, f64::NEG_INFINITY];
    let mut plane = Plane {
        side,
        curl: 0.0,
        triplet: none,
        positive: none,
        negative: none,
        positive_wrong: None,
        negative_wrong: None,
        overflow: overflow(objective),
    };
    let along = |k: usize| 2.0 * k as f64 / (side - 1) as f64 - 1.0;
    for (p, n) in (0..side).flat_map(|p| (0..side).map(move |n| (p, n))) {
        if n == 0 {
            progress(p as f64 / side as f64);
        }
        let (p, n) = (along(p), along(n));
        let at = |p, n| objective.weights_at(p, n);
        let Some([triplet, positive, negative]) = at(p, n)? else { return Ok(None) };
        widen(&mut plane.triplet, triplet);
        widen(&mut plane.positive, positive);
        widen(&mut plane.negative, negative);
        for (region, weight) in [(&mut plane.positive_wrong, positive), (&mut plane.negative_wrong, negative)]
        {
            if triplet * weight < 0.0 {
                let region = region.get_or_insert(Region { share: 0.0, p: none, n: none });
                region.share += 1.0 / (side * side) as f64;
                widen(&mut region.p, p);
                widen(&mut region.n, n);
            }
        }
        if let [Some(up), Some(down), Some(right), Some(left)] =
            [at(p, n + STEP)?, at(p, n - STEP)?, at(p + STEP, n)?, at(p - STEP, n)?]
        {
            // Where the weights jump, as at a margin, there is no slope.
            let open = [up, down, right, left].iter().all(|w| (w[0] == 0.0) == (triplet == 0.0));
            let curl =
                (up[0] * up[1] - down[0] * down[1] + right[0] * right[2] - left[0] * left[2]) / (2.0 * STEP);
            if open {
                plane.curl = plane.curl.max(curl.abs());
            }
        }
    }
    Ok(Some(plane))
}

/// The exponents of the built-in weights that leave the range of f32, with the similarities at which they do.
fn overflow(objective: &Objective) -> Vec<String> {
    // ln of the largest f32
    const LIMIT: f64 = 88.7;
    if let Objective::Over(_, objective)
    | Objective::Towards(_, objective)
    | Objective::OneWay(_, objective) = objective
    {
        return overflow(objective);
    }
    let Objective::Goal(_, pair, params) = objective else { return Vec::new() };
    let [alpha, beta, lambda] = [params.alpha, params.beta, params.lambda].map(f64::from);
    let mut found = Vec::new();
    if *pair == PairWeight::SigMs {
        let above = lambda + LIMIT / beta;
        if above < 1.0 {
            found.push(format!("P- with an empty relative set: e^(beta (n - lambda)) for n > {above:.3}"));
        }
        let below = lambda - LIMIT / alpha;
        if below > -1.0 {
            found.push(format!("P+ with an empty relative set: e^(-alpha (p - lambda)) for p < {below:.3}"));
        }
        if 2.0 * alpha > LIMIT {
            found.push(format!("R+: e^(alpha (p - p_j)) for p - p_j > {:.3}", LIMIT / alpha));
        }
    }
    found
}

impl fmt::Display for Analysis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.integrable { "the gradient of a loss" } else { "the gradient of no loss" };
        writeln!(f, "{}: {verdict}", self.objective)?;
        let [low, high] = self.asymmetry;
        let batches = self.batches;
        write!(f, "asymmetry |J - J'| / |J| over {batches} batches of {N} pairs: {low:.2e} to {high:.2e}")?;
        let Some(plane) = &self.plane else {
            return write!(f, "\nT, P+ and P- do not apply: its gradient is not that of single triplets");
        };
        write!(f, "\nover p, n in [-1, 1], relative sets empty:")?;
        if plane.side < GRID[1] {
            let steps = "long loops in the weight file: looked at fewer points";
            write!(f, "\n  {steps}, {0} x {0} instead of {1} x {1}", plane.side, GRID[1])?;
        }
        write!(f, "\n  curl in one triplet's plane: at most {:.2e}", plane.curl)?;
        for (name, [low, high]) in [("T ", plane.triplet), ("P+", plane.positive), ("P-", plane.negative)] {
            write!(f, "\n  {name} from {low:.4} to {high:.4}")?;
        }
        let [away, closer] = self.wrong_in_batches.map_or([None; 2], |shares| shares.map(Some));
        for (what, region, share) in [
            ("P+ < 0, positives pushed away", &plane.positive_wrong, away),
            ("P- < 0, negatives pulled in", &plane.negative_wrong, closer),
        ] {
            match region {
                None => write!(f, "\n  {what}: nowhere")?,
                Some(Region { share, p, n }) => write!(
                    f,
                    "\n  {what}: {:.1} % of the plane, p {:.2} to {:.2}, n {:.2} to {:.2}",
                    100.0 * share,
                    p[0],
                    p[1],
                    n[0],
                    n[1]
                )?,
            }
            if let Some(share) = share {
                write!(f, "; {:.1} % of the batches' triplets", 100.0 * share)?;
            }
        }
        for what in &plane.overflow {
            write!(f, "\n  beyond f32: {what}; clamped at e^87")?;
        }
        Ok(())
    }
}
