//! Golden vectors of the published code, and their comparison with gradients on a device. Tests of the command line's
//! devices include this file, and so do tests in a browser. Nothing here blocks.

use std::error::Error;
use std::io::Cursor;
use wgoal::gradient::{GradientOptions, Gradients};
use wgoal::objective::{GoalParams, InfonceParams, PairWeight, TripletWeight};
use wgoal::{Device, Objective};
use zip::ZipArchive;

/// The result of a comparison. An error says what differs.
pub type Compared<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn check(ok: bool, message: String) -> Compared {
    if ok { Ok(()) } else { Err(message.into()) }
}

/// An .npz file. Arrays are read as f64, whatever type they are stored as.
pub struct Golden(ZipArchive<Cursor<Vec<u8>>>);

impl Golden {
    /// Opens the contents of a file.
    pub fn of(bytes: Vec<u8>) -> Compared<Self> {
        Ok(Self(ZipArchive::new(Cursor::new(bytes))?))
    }

    /// The names of the arrays.
    pub fn names(&self) -> Vec<String> {
        self.0.file_names().filter_map(|name| name.strip_suffix(".npy")).map(str::to_string).collect()
    }

    /// Shape and values.
    pub fn array(&mut self, name: &str) -> Compared<(Vec<usize>, Vec<f64>)> {
        let npy = npyz::NpyFile::new(self.0.by_name(&format!("{name}.npy"))?)?;
        let shape = npy.shape().iter().map(|&n| n as usize).collect();
        let values = match npy.dtype() {
            npyz::DType::Plain(t) => match (t.type_char(), t.size_field()) {
                (npyz::TypeChar::Float, 4) => npy.into_vec::<f32>()?.into_iter().map(f64::from).collect(),
                (npyz::TypeChar::Float, 8) => npy.into_vec::<f64>()?,
                (npyz::TypeChar::Int, 8) => npy.into_vec::<i64>()?.into_iter().map(|x| x as f64).collect(),
                other => return Err(format!("{name} has type {other:?}").into()),
            },
            other => return Err(format!("{name} has type {other:?}").into()),
        };
        Ok((shape, values))
    }

    /// The values of an array.
    pub fn values(&mut self, name: &str) -> Compared<Vec<f64>> {
        Ok(self.array(name)?.1)
    }

    /// The values as f32.
    pub fn floats(&mut self, name: &str) -> Compared<Vec<f32>> {
        Ok(self.values(name)?.into_iter().map(|x| x as f32).collect())
    }

    /// The first value.
    pub fn scalar(&mut self, name: &str) -> Compared<f64> {
        Ok(self.values(name)?[0])
    }
}

/// The largest error relative to the largest expected value. It is infinite if any value is not finite.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).map(|(&f, &e)| (f64::from(f) - e).abs());
    let worst = worst.fold(0.0, |m: f64, x| if x.is_finite() { m.max(x) } else { f64::INFINITY });
    if largest == 0.0 { worst } else { worst / largest }
}

/// Compares values.
pub fn near(what: &str, found: &[f32], expected: &[f64], allowed: f64) -> Compared {
    let error = error(found, expected);
    check(error <= allowed, format!("{what}: relative error {error:.2e}, allowed {allowed:.0e}"))
}

/// The allowed error of a combination. It depends on what its weights use.
fn allowed(triplet: TripletWeight, pair: PairWeight) -> f64 {
    match (triplet, pair) {
        (_, PairWeight::SigMs) => 5e-5,
        (TripletWeight::Con, PairWeight::Con | PairWeight::Lin | PairWeight::LinMs) => 2e-6,
        _ => 1e-5,
    }
}

/// The 15 combinations of GOAL.
pub async fn goal(device: &Device, mut golden: Golden) -> Compared {
    let (shape, _) = golden.array("x")?;
    let (x, y) = (golden.floats("x")?, golden.floats("y")?);
    let params = golden.values("params")?;
    let [tau, alpha, beta, lambda] = [params[0], params[1], params[2], params[3]].map(|x| x as f32);
    let (expected_images, expected_texts) = (golden.values("G_img")?, golden.values("G_txt")?);
    let raw = if golden.names().iter().any(|name| name == "raw_img") {
        let (raw_x, raw_y) = (golden.floats("raw_img")?, golden.floats("raw_txt")?);
        let (shape, images) = golden.array("Graw_img")?;
        let subset = if shape[0] == 15 { (0..15).collect() } else { vec![0, 5, 11, 4, 12] };
        Some((raw_x, raw_y, images, golden.values("Graw_txt")?, subset))
    } else {
        None
    };
    let size = x.len();
    for (c, combination) in Objective::goal_combinations().enumerate() {
        let Objective::Goal(triplet, pair, _) = combination else { continue };
        let params = GoalParams::default().with(|c| {
            c.tau = tau;
            c.alpha = alpha;
            c.beta = beta;
            c.lambda = lambda;
        });
        let objective = Objective::Goal(triplet, pair, params);
        let allowed = allowed(triplet, pair);
        let g = objective
            .gradients_async(device, (&x, shape[1]), (&y, shape[1]), GradientOptions::default())
            .await?;
        near(&format!("{objective} images"), &g.images, &expected_images[c * size..][..size], allowed)?;
        near(&format!("{objective} texts"), &g.texts, &expected_texts[c * size..][..size], allowed)?;
        indices(&mut golden, &g)?;
        let loss = golden.scalar("loss")?;
        check(
            (f64::from(g.loss) - loss).abs() <= 1e-5 * loss.abs().max(1.0),
            format!("loss {} {loss}", g.loss),
        )?;
        if let Some((raw_x, raw_y, images, texts, subset)) = &raw
            && let Some(at) = subset.iter().position(|&s| s == c)
        {
            let options = GradientOptions::default().with(|c| c.normalize = true);
            let g = objective.gradients_async(device, (raw_x, shape[1]), (raw_y, shape[1]), options).await?;
            near(&format!("{objective} raw images"), &g.images, &images[at * size..][..size], allowed)?;
            near(&format!("{objective} raw texts"), &g.texts, &texts[at * size..][..size], allowed)?;
        }
    }
    Ok(())
}

fn indices(golden: &mut Golden, g: &Gradients) -> Compared {
    near("positive", &g.positive, &golden.values("pos")?, 1e-6)?;
    near("hardest text", &g.hardest_text, &golden.values("neg_txt")?, 1e-6)?;
    near("hardest image", &g.hardest_image, &golden.values("neg_img")?, 1e-6)?;
    for (found, name) in [(&g.hardest_text_index, "idx_txt"), (&g.hardest_image_index, "idx_img")] {
        let expected: Vec<u32> = golden.values(name)?.into_iter().map(|x| x as u32).collect();
        check(*found == expected, format!("{name}: {found:?}, expected {expected:?}"))?;
    }
    Ok(())
}

/// The hinge on the hardest negative, and over all.
pub async fn hinge(device: &Device, mut golden: Golden) -> Compared {
    let margin = golden.scalar("margin")? as f32;
    for (objective, form) in [(Objective::Hinge { margin }, "max"), (Objective::HingeSum { margin }, "sum")] {
        for (x, y, prefix, normalize) in [("x", "y", "G", false), ("raw_img", "raw_txt", "Graw", true)] {
            let (x, y) = (golden.floats(x)?, golden.floats(y)?);
            let options = GradientOptions::default().with(|c| c.normalize = normalize);
            let g = objective.gradients_async(device, (&x, 64), (&y, 64), options).await?;
            near(form, &g.images, &golden.values(&format!("{prefix}_img_{form}"))?, 2e-6)?;
            near(form, &g.texts, &golden.values(&format!("{prefix}_txt_{form}"))?, 2e-6)?;
            near("loss", &[g.loss], &[golden.scalar(&format!("loss_{form}"))?], 1e-6)?;
        }
    }
    Ok(())
}

/// InfoNCE, with and without several captions of an image.
pub async fn infonce(device: &Device, mut golden: Golden) -> Compared {
    let temperature = golden.scalar("temperature")? as f32;
    let objective = Objective::Infonce(InfonceParams::default().with(|c| c.temperature = temperature));
    let ids: Vec<u32> = golden.values("idx")?.into_iter().map(|x| x as u32).collect();
    let (x, y) = (golden.floats("x")?, golden.floats("y")?);
    for (ids, suffix) in [(None, ""), (Some(&ids[..]), "_idx")] {
        let g = objective
            .gradients_async(device, (&x, 64), (&y, 64), GradientOptions::default().with(|c| c.ids = ids))
            .await?;
        near("images", &g.images, &golden.values(&format!("G_img{suffix}"))?, 5e-6)?;
        near("texts", &g.texts, &golden.values(&format!("G_txt{suffix}"))?, 5e-6)?;
        near("loss", &[g.loss], &[golden.scalar(&format!("loss{suffix}"))?], 5e-6)?;
        near("temperature", &[g.temperature], &[golden.scalar(&format!("G_temp{suffix}"))?], 5e-6)?;
    }
    let (x, y) = (golden.floats("raw_img")?, golden.floats("raw_txt")?);
    let g = objective
        .gradients_async(device, (&x, 64), (&y, 64), GradientOptions::default().with(|c| c.normalize = true))
        .await?;
    near("raw images", &g.images, &golden.values("Graw_img")?, 5e-6)?;
    near("raw texts", &g.texts, &golden.values("Graw_txt")?, 5e-6)
}
