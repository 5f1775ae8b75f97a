//! The rank of every right candidate of every query (docs/math.md, "Evaluation").
//!
//! Similarities come in strips of queries that fit a binding, and the device counts the ranks. So memory grows with a
//! strip and with the number of right pairs.

use super::Truth;
use super::truth::Lists;
use crate::device::{Buffer, Device};
use crate::kernels::{self, RightCandidates};
use crate::similarity::Strips;
use crate::{Error, ErrorKind, Result};
use std::borrow::Cow;

/// The rank of every right candidate in both directions. Among equal similarities the lower index comes first, so a
/// collapsed model does not look perfect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks {
    pub(crate) truth: Truth,
    /// The rank of every entry of the truth's lists: of the right texts of every image, and of the right images of
    /// every text.
    pub(crate) ranks: [Vec<u32>; 2],
}

impl Ranks {
    /// [`Ranks::of`] without waiting.
    ///
    /// # Errors
    /// Those of [`Ranks::of`].
    pub async fn of_async(
        device: &Device,
        images: &[f32],
        texts: &[f32],
        dim: usize,
        truth: &Truth,
    ) -> Result<Self> {
        check_shapes(images, texts, dim, truth)?;
        Ok(Self {
            ranks: [
                rank(device, images, texts, dim, &truth.texts).await?,
                rank(device, texts, images, dim, &truth.images).await?,
            ],
            truth: truth.clone(),
        })
    }

    /// What is right.
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    /// The right texts of an image, each with its 0-based rank among all texts.
    pub fn texts_of(&self, image: usize) -> impl Iterator<Item = (u32, u32)> + '_ {
        entries(&self.truth.texts, &self.ranks[0], image)
    }

    /// The right images of a text, each with its 0-based rank among all images.
    pub fn images_of(&self, text: usize) -> impl Iterator<Item = (u32, u32)> + '_ {
        entries(&self.truth.images, &self.ranks[1], text)
    }

    /// The sorted ranks of every query that has a right candidate: images as queries, or texts.
    pub(crate) fn sorted(&self, direction: usize) -> Vec<Vec<u32>> {
        let lists = [&self.truth.texts, &self.truth.images][direction];
        let of = |query: usize| {
            let mut ranks = self.ranks[direction][lists.entries(query)].to_vec();
            ranks.sort_unstable();
            ranks
        };
        (0..lists.queries()).map(of).filter(|ranks| !ranks.is_empty()).collect()
    }
}

fn entries<'a>(lists: &'a Lists, ranks: &'a [u32], query: usize) -> impl Iterator<Item = (u32, u32)> + 'a {
    let range = if query < lists.queries() { lists.entries(query) } else { 0..0 };
    lists.right[range.clone()].iter().copied().zip(ranks[range].iter().copied())
}

#[cfg(feature = "native")]
impl Ranks {
    /// From unit embeddings: `images [n, dim]` and `texts [m, dim]`, row-major, and what is right among them.
    ///
    /// # Errors
    /// Shapes that disagree, an embedding that is not finite, a failing device.
    pub fn of(device: &Device, images: &[f32], texts: &[f32], dim: usize, truth: &Truth) -> Result<Self> {
        device.wait(Self::of_async(device, images, texts, dim, truth))
    }
}

/// The rank of every entry of `lists`, from the embeddings of the queries and of the candidates. Processes divide the
/// strips.
async fn rank(
    device: &Device,
    queries: &[f32],
    candidates: &[f32],
    dim: usize,
    lists: &Lists,
) -> Result<Vec<u32>> {
    let own = rank_own(device, queries, candidates, dim, lists).await;
    device.join("ranks", own)
}

/// [`rank`] of the entries of those queries that this process compares.
async fn rank_own(
    device: &Device,
    queries: &[f32],
    candidates: &[f32],
    dim: usize,
    lists: &Lists,
) -> Result<Vec<u32>> {
    // Items without a right candidate are not queries.
    let asked: Vec<usize> = (0..lists.queries()).filter(|&query| !lists.entries(query).is_empty()).collect();
    let rows = match asked.len() * dim == queries.len() {
        true => Cow::Borrowed(queries),
        false => asked.iter().flat_map(|&query| &queries[query * dim..][..dim]).copied().collect(),
    };
    // The first and the last entry of some of the queries that ask.
    let bounds = |strip: &std::ops::Range<usize>| {
        lists.entries(asked[strip.start]).start..lists.entries(asked[strip.end - 1]).end
    };
    let mut strips = Strips::divided(device, &rows, candidates, dim)?;
    let longest = strips.own().map(|strip| strip.len()).max().unwrap_or(0);
    let most = strips.own().map(|strip| bounds(&strip).len()).max().unwrap_or(0);
    let mut offsets = Buffer::new(device, "eval.offsets", longest + 1)?;
    let mut right = Buffer::new(device, "eval.right", most)?;
    let mut ranks = Buffer::new(device, "eval.ranks", most)?;
    let mut found = Vec::new();
    let mut commands = device.commands();
    for strip in strips.own() {
        let own = bounds(&strip);
        let ends = asked[strip.clone()].iter().map(|&query| (lists.entries(query).end - own.start) as u32);
        offsets.write(device, 0, &std::iter::once(0).chain(ends).collect::<Vec<_>>())?;
        right.write(device, 0, &lists.right[own.clone()])?;
        let similarity = strips.compute(&mut commands, &strip)?;
        let of = RightCandidates { offsets: offsets.view(), right: right.view(), entries: own.len() };
        kernels::ranks(&mut commands, similarity, of, ranks.view_mut())?;
        commands.submit()?;
        found.extend(ranks.read(device, 0..own.len()).await?);
    }
    Ok(found)
}

/// Checks that the embeddings are those of the truth's images and texts, and finite.
pub(super) fn check_shapes(images: &[f32], texts: &[f32], dim: usize, truth: &Truth) -> Result<()> {
    if dim == 0 || images.len() != truth.images() * dim || texts.len() != truth.texts() * dim {
        let expected = format!("{} images and {} texts of width {dim}", truth.images(), truth.texts());
        let found = format!("{} image values and {} text values", images.len(), texts.len());
        return Err(Error::config("recall", expected, found, "give matrices of unit embeddings"));
    }
    // No comparison with a NaN is true, so a diverged head would rank first everywhere.
    if let Some(bad) = images.iter().chain(texts).find(|x| !x.is_finite()) {
        let advice = "the head has diverged: train with a lower --lr";
        return Err(Error::new(ErrorKind::Diverged, "recall", "finite embeddings", bad, advice));
    }
    Ok(())
}
