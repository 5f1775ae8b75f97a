//! Two-stage retrieval (docs/math.md, "Two-stage retrieval"): the embeddings choose the top K candidates of every query, and
//! another model scores them. Items outside the candidate list score -100.
//!
//! Owns choosing, ranking, and the file that goes to the other model and comes back. It knows nothing of that model.

use super::truth::Lists;
use super::{Evaluation, Ranks, Recall, Truth};
use crate::data::{RowList, SplitRows};
use crate::device::Device;
use crate::gradient::{Rows, check_rows};
use crate::io::{Values, read_safetensors, write_tensors};
use crate::similarity::TopK;
use crate::{Error, ErrorKind, Result};
use bytemuck::Pod;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

/// The score of items outside the candidate list.
const OUTSIDE: f32 = -100.0;

/// The candidates of both directions. Images and texts are numbered by their position among the embeddings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidates {
    /// Texts of every image.
    pub texts: TopK,
    /// Images of every text.
    pub images: TopK,
}

impl TopK {
    /// The 0-based rank of every right candidate, of `candidates` in all. Among equal scores the lower index comes
    /// first, as everywhere.
    fn ranks(&self, right: &Lists, candidates: usize) -> Vec<u32> {
        let queries = self.index.chunks_exact(self.k).zip(self.score.chunks_exact(self.k)).enumerate();
        let ranks = queries.flat_map(|(query, (index, score))| {
            let listed = move || index.iter().copied().zip(score.iter().copied());
            right.right(query).iter().map(move |&candidate| {
                let own = listed().find(|(c, _)| *c == candidate).map_or(OUTSIDE, |(_, score)| score);
                let before = |(c, score): &(u32, f32)| *score > own || (*score == own && *c < candidate);
                let outside = if own > OUTSIDE {
                    0
                } else if own < OUTSIDE {
                    candidates - self.k
                } else {
                    candidate as usize - index.iter().filter(|&&c| c < candidate).count()
                };
                (listed().filter(before).count() + outside) as u32
            })
        });
        ranks.collect()
    }
}

/// The tensors of one direction, in the candidates' file and in that of their scores.
struct Names {
    index: &'static str,
    cosine: &'static str,
    corrected: &'static str,
    score: &'static str,
}

const TEXTS: Names = Names {
    index: "image_to_text",
    cosine: "image_to_text_cosine",
    corrected: "image_to_text_corrected",
    score: "image_to_text_score",
};
const IMAGES: Names = Names {
    index: "text_to_image",
    cosine: "text_to_image_cosine",
    corrected: "text_to_image_corrected",
    score: "text_to_image_score",
};

impl Candidates {
    /// The `k` texts of highest similarity of every image, and images of every text (all, where there are fewer), of unit
    /// embeddings. `images` and `texts` are each the values, row-major, and the width of a row, which is the same.
    ///
    /// # Errors
    /// Shapes that disagree, a `k` of 0, a failing device.
    pub fn top(device: &Device, images: Rows, texts: Rows, k: usize) -> Result<Self> {
        check_rows("image", images)?;
        check_rows("text", texts)?;
        let ((images, dim), (texts, width)) = (images, texts);
        if dim != width {
            let (expected, advice) =
                (format!("the width of the images, {dim}"), "give embeddings of one head");
            return Err(Error::config("text embeddings", expected, width, advice));
        }
        if k == 0 {
            let expected = format!("rows of width {dim}, and 1 candidate or more");
            let found = format!("{} and {} values, top {k}", images.len(), texts.len());
            let advice = "give matrices of embeddings, and --top 1 or more";
            return Err(Error::config("candidates", expected, found, advice));
        }
        Ok(Self {
            texts: TopK::of(device, (images, dim), (texts, dim), k)?,
            images: TopK::of(device, (texts, dim), (images, dim), k)?,
        })
    }

    /// Writes a safetensors file for another model, in the dataset's own row numbers: `images [n]` and `texts [m]`, the
    /// queries; `image_to_text [n, K]` and `text_to_image [m, K]`, the candidates of each, best first (all of them I64); and
    /// `image_to_text_cosine`, `text_to_image_cosine`, of the same shapes (F32).
    ///
    /// # Errors
    /// Candidates of another split, and any failure to write.
    pub fn save(&self, path: &Path, split: &SplitRows) -> Result<()> {
        self.save_as(path, split, [TEXTS.cosine, IMAGES.cosine])
    }

    /// [`Candidates::save`] of candidates that were chosen by scores corrected for hubs. The scores are in
    /// `image_to_text_corrected` and `text_to_image_corrected`.
    ///
    /// # Errors
    /// Those of [`Candidates::save`].
    pub fn save_corrected(&self, path: &Path, split: &SplitRows) -> Result<()> {
        self.save_as(path, split, [TEXTS.corrected, IMAGES.corrected])
    }

    fn save_as(&self, path: &Path, split: &SplitRows, scores: [&str; 2]) -> Result<()> {
        let (n, m) = (split.images.len(), split.texts.len());
        let rows = |top: &TopK, rows: &RowList, queries: usize| -> Result<RowList> {
            let found = top.index.iter().map(|&index| rows.get(index as usize)).collect::<Option<RowList>>();
            found.filter(|found| found.len() == queries * top.k).ok_or_else(|| {
                let expected = format!("candidates of {n} images and {m} texts");
                Error::config("candidates", expected, "others", "give the split that they were chosen in")
            })
        };
        let texts = rows(&self.texts, &split.texts, n)?;
        let images = rows(&self.images, &split.images, m)?;
        let (text_shape, image_shape) = ([n, self.texts.k], [m, self.images.k]);
        write_tensors(
            path,
            &[
                ("images", &[n], Values::Rows(&split.images)),
                ("texts", &[m], Values::Rows(&split.texts)),
                (TEXTS.index, &text_shape, Values::Rows(&texts)),
                (scores[0], &text_shape, Values::F32(&self.texts.score)),
                (IMAGES.index, &image_shape, Values::Rows(&images)),
                (scores[1], &image_shape, Values::F32(&self.images.score)),
            ],
        )
    }

    /// Reads the file of [`Candidates::save`] with two more tensors, `image_to_text_score` and `text_to_image_score`: the
    /// other model's scores in the shapes of the candidates. Tensors of cosines or corrected scores are not needed. Numbers of rows may be of any
    /// type of whole numbers, scores F16, BF16, F32 or F64.
    ///
    /// # Errors
    /// A file that cannot be read, a tensor that is missing or of another type or shape, queries other than those of the
    /// split, a candidate that is not in the split or listed twice, a score that is not finite.
    pub fn load_scored(path: &Path, split: &SplitRows) -> Result<Self> {
        let (expected, advice) =
            ("a safetensors file", "give the file of --write-candidates with its scores");
        let bytes = read_safetensors(path)
            .map_err(|obstacle| obstacle.error(ErrorKind::Data, path.display(), expected, advice))?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|e| Error::data(path.display(), expected, e, advice))?;
        let file = Scored { path, tensors };
        Ok(Self {
            texts: file.direction(&TEXTS, ("images", &split.images), &split.texts)?,
            images: file.direction(&IMAGES, ("texts", &split.texts), &split.images)?,
        })
    }
}

/// The values in the bytes, which safetensors does not align.
fn collect<T: Pod>(bytes: &[u8]) -> Vec<T> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// A file of scored candidates.
struct Scored<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl Scored<'_> {
    fn fault(&self, thing: impl Display, expected: impl Display, found: impl Display) -> Error {
        let advice = "add the scores to the file of --write-candidates, and change nothing else in it";
        Error::data(format!("{} tensor {thing}", self.path.display()), expected, found, advice)
    }

    /// A tensor of this shape, in which `None` is any size above 0: its last size, and its values as `convert` reads those
    /// of a type.
    fn read<T>(
        &self,
        name: &str,
        types: &str,
        shape: &[Option<usize>],
        convert: impl Fn(Dtype, &[u8]) -> Option<Vec<T>>,
    ) -> Result<(usize, Vec<T>)> {
        let sizes: Vec<_> =
            shape.iter().map(|size| size.map_or("K".into(), |size| size.to_string())).collect();
        let expected = format!("{types} [{}]", sizes.join(", "));
        let Ok(tensor) = self.tensors.tensor(name) else {
            return Err(self.fault(name, expected, "none of this name"));
        };
        let found = tensor.shape();
        let fits =
            |(&found, size): (&usize, &Option<usize>)| found > 0 && size.is_none_or(|size| size == found);
        let fits = found.len() == shape.len() && found.iter().zip(shape).all(fits);
        match convert(tensor.dtype(), tensor.data()).filter(|_| fits) {
            Some(values) => Ok((found.last().copied().unwrap_or(0), values)),
            None => Err(self.fault(name, expected, format!("{:?} {found:?}", tensor.dtype()))),
        }
    }

    /// Row numbers of the dataset. A number beyond `i64::MAX` becomes `i64::MAX`.
    fn rows(&self, name: &str, shape: &[Option<usize>]) -> Result<(usize, Vec<i64>)> {
        fn of<T: Pod + TryInto<i64>>(bytes: &[u8]) -> Vec<i64> {
            let values: Vec<T> = collect(bytes);
            values.into_iter().map(|row| row.try_into().unwrap_or(i64::MAX)).collect()
        }
        self.read(name, "whole numbers", shape, |dtype, bytes| {
            Some(match dtype {
                Dtype::I8 => of::<i8>(bytes),
                Dtype::U8 => of::<u8>(bytes),
                Dtype::I16 => of::<i16>(bytes),
                Dtype::U16 => of::<u16>(bytes),
                Dtype::I32 => of::<i32>(bytes),
                Dtype::U32 => of::<u32>(bytes),
                Dtype::I64 => of::<i64>(bytes),
                Dtype::U64 => of::<u64>(bytes),
                _ => return None,
            })
        })
    }

    fn scores(&self, name: &str, shape: &[Option<usize>]) -> Result<(usize, Vec<f32>)> {
        self.read(name, "F16, BF16, F32 or F64", shape, |dtype, bytes| {
            Some(match dtype {
                Dtype::F16 => {
                    collect::<u16>(bytes).into_iter().map(|bits| f16::from_bits(bits).to_f32()).collect()
                }
                Dtype::BF16 => {
                    collect::<u16>(bytes).into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect()
                }
                Dtype::F32 => collect::<f32>(bytes),
                Dtype::F64 => collect::<f64>(bytes).into_iter().map(|score| score as f32).collect(),
                _ => return None,
            })
        })
    }

    /// The candidates of `queries` among `others`, dataset rows both, by their positions there.
    fn direction(&self, names: &Names, (name, queries): (&str, &RowList), others: &RowList) -> Result<TopK> {
        let n = queries.len();
        let (_, found) = self.rows(name, &[Some(n)])?;
        if let Some(at) = queries.iter().zip(&found).position(|(query, &found)| query as i64 != found) {
            let expected =
                format!("row {} of the dataset, as in the split", queries.get(at).unwrap_or_default());
            return Err(self.fault(format!("{name} position {at}"), expected, found[at]));
        }
        let (k, rows) = self.rows(names.index, &[Some(n), None])?;
        let (_, score) = self.scores(names.score, &[Some(n), Some(k)])?;
        let place = |name: &str, at: usize| format!("{name} row {} column {}", at / k, at % k);
        if let Some(at) = score.iter().position(|score| !score.is_finite()) {
            return Err(self.fault(place(names.score, at), "a finite number", score[at]));
        }
        let positions: HashMap<i64, u32> = others.iter().map(|row| row as i64).zip(0..).collect();
        // The query that listed a candidate last.
        let mut listed = vec![None; others.len()];
        let index = rows.iter().enumerate().map(|(at, row)| match positions.get(row) {
            None => Err(self.fault(place(names.index, at), "a row of the dataset in the split", row)),
            Some(&position) => match listed[position as usize].replace(at / k) == Some(at / k) {
                true => Err(self.fault(place(names.index, at), "a candidate not listed before", row)),
                false => Ok(position),
            },
        });
        Ok(TopK { k, index: index.collect::<Result<_>>()?, score })
    }
}

impl Ranks {
    /// The ranks by scored candidates (docs/math.md, "Two-stage retrieval"). Items outside the candidate list score
    /// -100.
    ///
    /// # Errors
    /// Candidates of other numbers of images and texts than the truth has.
    pub fn of_candidates(candidates: &Candidates, truth: &Truth) -> Result<Self> {
        let (images, texts) = (truth.images(), truth.texts());
        let fits = |top: &TopK, queries: usize, others: usize| {
            top.k > 0
                && top.index.len() == queries * top.k
                && top.score.len() == top.index.len()
                && top.index.iter().all(|&index| (index as usize) < others)
        };
        if !fits(&candidates.texts, images, texts) || !fits(&candidates.images, texts, images) {
            let expected = format!("those of {images} images and {texts} texts");
            let advice = "rank the split they were chosen in";
            return Err(Error::config("candidates", expected, "others", advice));
        }
        let ranks =
            [candidates.texts.ranks(&truth.texts, texts), candidates.images.ranks(&truth.images, images)];
        Ok(Self { truth: truth.clone(), ranks })
    }
}

impl Recall {
    /// Recall of scored candidates; see [`Ranks::of_candidates`]. `text_image` is the position of each text's image
    /// among `images`.
    ///
    /// # Errors
    /// Those of [`Truth::of_images`] and [`Ranks::of_candidates`].
    pub fn of_candidates(candidates: &Candidates, images: usize, text_image: &[u32]) -> Result<Self> {
        let truth = Truth::of_images(images, text_image)?;
        Ok(Evaluation::of(&Ranks::of_candidates(candidates, &truth)?, &[]).recall)
    }
}
