//! Evaluation and search of embeddings: recall, the best candidates, hard negatives; and the analysis of an objective.

use crate::arrays::{Matrix, indices, matrix, numbers};
use crate::errors::{guarded, raised, refused, result};
use crate::objective::{Asked, Parameters};
use crate::{device, threads};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wgoal::Device;
use wgoal::eval::{Evaluation, Measures, Ranks, Truth};
use wgoal::rerank::TopK;
use wgoal::similarity::{NegativeOptions, hard_negatives as draw};

/// A device, and the flag that stops long work on it.
fn stoppable(py: Python<'_>, name: &str) -> PyResult<(Device, Arc<AtomicBool>)> {
    let stop = Arc::new(AtomicBool::new(false));
    Ok((device::open(py, name)?.stop_when(stop.clone()), stop))
}

/// Checks that two matrices have the same width.
fn check_widths(py: Python<'_>, x: &Matrix, y: &Matrix) -> PyResult<()> {
    if x.cols == y.cols {
        return Ok(());
    }
    let found = format!("widths {} and {}", x.cols, y.cols);
    let advice = "give embeddings of one head";
    Err(raised(py, &refused("embeddings", "two matrices of one width", found, advice)))
}

/// The ranks of the best right candidates: of every image among the texts, and of every text among the images.
type BestRanks<'py> = [Bound<'py, PyArray1<i64>>; 2];

/// The measures as JSON, and the ranks if they are asked for. See `wgoal.recall`.
#[pyfunction]
pub fn recall<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    text_to_image: &Bound<'py, PyAny>,
    ks: Vec<usize>,
    folds: usize,
    ranks: bool,
    device: &str,
) -> PyResult<(String, Option<BestRanks<'py>>)> {
    guarded(|| {
        let (x, y) = (Matrix::of("x", x)?, Matrix::of("y", y)?);
        check_widths(py, &x, &y)?;
        let owners = numbers("text_to_image", "positions", text_to_image)?;
        if owners.len() != y.rows {
            let (expected, advice) =
                (format!("{} numbers, one per text", y.rows), "give the image row of every text");
            return Err(raised(py, &refused("text_to_image", expected, owners.len(), advice)));
        }
        if ks.contains(&0) {
            return Err(raised(py, &refused("ks", "numbers of 1 or more", 0, "leave the 0 out")));
        }
        if ranks && folds != 1 {
            let advice = "give folds=1, or leave ranks out";
            return Err(raised(
                py,
                &refused("ranks", "one fold, because a rank belongs to one gallery", folds, advice),
            ));
        }
        let (device, stop) = stoppable(py, device)?;
        let (images, texts, dim, image_rows) = (x.values(), y.values(), x.cols, x.rows);
        let (evaluation, found) = threads::long(py, &stop, || {
            let truth = Truth::of_images(image_rows, &owners)?;
            if folds != 1 {
                let evaluation = Evaluation::folds(&device, images, texts, dim, &truth, folds, &ks)?;
                return Ok((evaluation, None));
            }
            let found = Ranks::of(&device, images, texts, dim, &truth)?;
            Ok((Evaluation::of(&found, &ks), Some(found)))
        })?;
        let ranks = found.filter(|_| ranks).map(|found| {
            // Items without a right partner have the rank -1.
            let best =
                |ranks: &mut dyn Iterator<Item = (u32, u32)>| ranks.map(|(_, rank)| i64::from(rank)).min();
            let of_images = (0..x.rows).map(|image| best(&mut found.texts_of(image)).unwrap_or(-1));
            let of_texts = (0..y.rows).map(|text| best(&mut found.images_of(text)).unwrap_or(-1));
            [of_images.collect(), of_texts.collect()].map(|ranks: Vec<i64>| PyArray1::from_vec(py, ranks))
        });
        let measures = |measures: &Measures| {
            serde_json::json!({
                "recall_at": measures.recall_at,
                "map_at_r": measures.map_at_r,
                "r_precision": measures.r_precision,
                "mrr": measures.mrr,
                "ndcg": measures.ndcg,
            })
        };
        let json = serde_json::json!({
            "recall": evaluation.recall,
            "i2t": measures(&evaluation.i2t),
            "t2i": measures(&evaluation.t2i),
        });
        Ok((json.to_string(), ranks))
    })
}

/// The best candidates. See `wgoal.top_k`.
#[pyfunction]
#[pyo3(signature = (x, y, k, device = "auto"))]
pub fn top_k<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    k: usize,
    device: &str,
) -> PyResult<(Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>)> {
    guarded(|| {
        let (x, y) = (Matrix::of("x", x)?, Matrix::of("y", y)?);
        check_widths(py, &x, &y)?;
        if k == 0 {
            return Err(raised(py, &refused("k", "1 candidate or more", k, "give 1 or more")));
        }
        let (device, stop) = stoppable(py, device)?;
        let (queries, candidates) = (x.as_rows(), y.as_rows());
        let top = threads::long(py, &stop, || TopK::of(&device, queries, candidates, k))?;
        let index = indices(py, &top.index).reshape([x.rows, top.k])?;
        Ok((index, matrix(py, top.score, top.k)?))
    })
}

/// Drawn negatives. See `wgoal.hard_negatives`.
#[pyfunction]
#[pyo3(signature = (x, y, ids = None, temperature = 0.07, seed = 0, device = "auto"))]
pub fn hard_negatives<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    ids: Option<&Bound<'py, PyAny>>,
    temperature: f32,
    seed: u64,
    device: &str,
) -> PyResult<[Bound<'py, PyArray1<i64>>; 2]> {
    guarded(|| {
        let (x, y) = (Matrix::of("x", x)?, Matrix::of("y", y)?);
        let ids = ids.map(|ids| numbers("ids", "ids", ids)).transpose()?;
        let (device, stop) = stoppable(py, device)?;
        let options = NegativeOptions::default().with(|options| {
            options.ids = ids.as_deref();
            options.temperature = temperature;
            options.seed = seed;
        });
        let (images, texts) = (x.as_rows(), y.as_rows());
        let drawn = threads::long(py, &stop, || draw(&device, images, texts, options))?;
        Ok([indices(py, &drawn.texts), indices(py, &drawn.images)])
    })
}

/// The analysis of an objective as JSON. See `wgoal.analyze`.
#[pyfunction]
pub fn analyze(
    py: Python<'_>,
    name: &str,
    parameters: Parameters,
    weights: Option<PathBuf>,
    param: Option<BTreeMap<String, f32>>,
) -> PyResult<String> {
    guarded(|| {
        let objective = Asked::new(name, parameters).with_weights(py, weights, param)?.objective(py)?;
        let analysis = threads::long(py, &AtomicBool::new(false), || objective.analyze())?;
        crate::json(&analysis)
    })
}

/// The temperature and the logit bias of an objective, and whether it has each and learns them by default.
#[pyfunction]
pub fn logits(
    py: Python<'_>,
    name: &str,
    parameters: Parameters,
    weights: Option<PathBuf>,
    param: Option<BTreeMap<String, f32>>,
) -> PyResult<Option<(f32, f32, bool, bool)>> {
    guarded(|| {
        let objective = Asked::new(name, parameters).with_weights(py, weights, param)?.objective(py)?;
        result(py, objective.validate())?;
        Ok(objective
            .logits()
            .map(|logits| (logits.temperature, logits.bias, logits.has_bias, logits.learned)))
    })
}
