//! Which texts are right for which images.

use crate::{Error, Result};
use std::ops::Range;

/// The right candidates of every query of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    /// Query q owns the entries `offsets[q]..offsets[q + 1]`.
    pub offsets: Vec<usize>,
    /// The candidate of every entry, ascending within a query.
    pub right: Vec<u32>,
}

impl Lists {
    /// From (query, candidate) in ascending order, each once.
    fn of(queries: usize, pairs: impl Iterator<Item = [u32; 2]>) -> Self {
        let mut lists = Self { offsets: vec![0; queries + 1], right: Vec::new() };
        for [query, candidate] in pairs {
            lists.offsets[query as usize + 1] += 1;
            lists.right.push(candidate);
        }
        (0..queries).for_each(|query| lists.offsets[query + 1] += lists.offsets[query]);
        lists
    }

    pub fn queries(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The entries of a query.
    pub fn entries(&self, query: usize) -> Range<usize> {
        self.offsets[query]..self.offsets[query + 1]
    }

    /// The right candidates of a query.
    pub fn right(&self, query: usize) -> &[u32] {
        &self.right[self.entries(query)]
    }
}

/// Which texts are right for which images of a gallery, by their positions among the embeddings. Any number of texts
/// may be right for an image, and any number of images for a text. Items without a right partner are candidates, but
/// not queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    /// The right texts of every image.
    pub(crate) texts: Lists,
    /// The right images of every text.
    pub(crate) images: Lists,
    /// The image whose fold a text belongs to; `u32::MAX` for a text without an image.
    owner: Vec<u32>,
}

impl Truth {
    /// Each text is right for one image: `text_image` is the position of each text's image among `images`.
    ///
    /// # Errors
    /// No text, or a position beyond the images.
    pub fn of_images(images: usize, text_image: &[u32]) -> Result<Self> {
        check_truth(images, text_image)?;
        let pairs: Vec<_> = text_image.iter().zip(0..).map(|(&image, text)| [image, text]).collect();
        Ok(Self::new(images, text_image.to_vec(), pairs))
    }

    /// The right pairs (image, text), in any order. Pairs that are listed twice count once.
    ///
    /// # Errors
    /// No pair, or a position beyond the images or the texts.
    pub fn of_pairs(images: usize, texts: usize, pairs: &[[u32; 2]]) -> Result<Self> {
        check_pairs(images, texts, pairs)?;
        if pairs.is_empty() {
            return Err(Error::config(
                "pairs",
                "a pair of an image and a text",
                "none",
                "give the right pairs",
            ));
        }
        let mut owner = vec![u32::MAX; texts];
        for &[image, text] in pairs.iter().rev() {
            owner[text as usize] = image;
        }
        Ok(Self::new(images, owner, pairs.to_vec()))
    }

    /// Adds right pairs (image, text).
    ///
    /// # Errors
    /// A position beyond the images or the texts.
    pub fn with_pairs(self, pairs: &[[u32; 2]]) -> Result<Self> {
        let images = self.images();
        check_pairs(images, self.texts(), pairs)?;
        let mut all: Vec<_> = self.pairs().collect();
        all.extend(pairs);
        Ok(Self::new(images, self.owner, all))
    }

    fn new(images: usize, owner: Vec<u32>, mut pairs: Vec<[u32; 2]>) -> Self {
        let texts = owner.len();
        pairs.sort_unstable();
        pairs.dedup();
        let of_images = Lists::of(images, pairs.iter().copied());
        pairs.sort_unstable_by_key(|&[image, text]| [text, image]);
        let of_texts = Lists::of(texts, pairs.iter().map(|&[image, text]| [text, image]));
        Self { texts: of_images, images: of_texts, owner }
    }

    /// The number of images.
    pub fn images(&self) -> usize {
        self.texts.queries()
    }

    /// The number of texts.
    pub fn texts(&self) -> usize {
        self.images.queries()
    }

    /// The right texts of an image, ascending. Empty for an image that is no query.
    pub fn texts_of(&self, image: usize) -> &[u32] {
        if image < self.images() { self.texts.right(image) } else { &[] }
    }

    /// The right images of a text, ascending. Empty for a text that is no query.
    pub fn images_of(&self, text: usize) -> &[u32] {
        if text < self.texts() { self.images.right(text) } else { &[] }
    }

    /// The expected rsum of random embeddings.
    pub fn chance(&self) -> f64 {
        // The probability that none of c right candidates is among the first k of m.
        let miss = |m: usize, c: usize, k: u32| -> f64 {
            let left = |i: usize| (m as f64 - f64::from(k) - i as f64).max(0.0) / (m - i) as f64;
            (0..c).map(left).product()
        };
        let percent = |lists: &Lists, candidates: usize, k: u32| {
            let counts = (0..lists.queries()).map(|query| lists.entries(query).len()).filter(|&c| c > 0);
            let (mut queries, mut found) = (0.0, 0.0);
            for c in counts {
                queries += 1.0;
                found += 1.0 - miss(candidates, c, k);
            }
            100.0 * found / f64::max(queries, 1.0)
        };
        let both = |k| percent(&self.texts, self.texts(), k) + percent(&self.images, self.images(), k);
        [1, 5, 10].map(both).iter().sum()
    }

    /// All right pairs (image, text), ascending.
    pub fn pairs(&self) -> impl Iterator<Item = [u32; 2]> + '_ {
        (0..self.images())
            .flat_map(|image| self.texts.right(image).iter().map(move |&text| [image as u32, text]))
    }

    /// The texts whose image is one of `images`.
    pub(crate) fn texts_within(&self, images: &Range<u32>) -> Vec<u32> {
        (0..).zip(&self.owner).filter(|(_, owner)| images.contains(owner)).map(|(text, _)| text).collect()
    }

    /// What is right among some images and their `texts`, both numbered anew.
    pub(crate) fn within(&self, images: &Range<u32>, texts: &[u32]) -> Self {
        let mut position = vec![u32::MAX; self.texts()];
        texts.iter().zip(0..).for_each(|(&text, at)| position[text as usize] = at);
        let pairs = self
            .pairs()
            .filter(|[image, text]| images.contains(image) && position[*text as usize] != u32::MAX);
        let pairs = pairs.map(|[image, text]| [image - images.start, position[text as usize]]).collect();
        let owner = texts.iter().map(|&text| self.owner[text as usize] - images.start).collect();
        Self::new(images.len(), owner, pairs)
    }
}

fn check_pairs(images: usize, texts: usize, pairs: &[[u32; 2]]) -> Result<()> {
    let beyond = |&[image, text]: &[u32; 2]| image as usize >= images || text as usize >= texts;
    match pairs.iter().position(beyond) {
        Some(at) => {
            let [image, text] = pairs[at];
            let expected = format!("an image below {images} and a text below {texts}");
            let found = format!("{image} and {text}");
            Err(Error::config(format!("right pair {at}"), expected, found, "number images and texts from 0"))
        }
        None => Ok(()),
    }
}

/// Every text belongs to one of `n` images.
fn check_truth(n: usize, text_image: &[u32]) -> Result<()> {
    if text_image.is_empty() {
        return Err(Error::config("recall", "a text", "none", "give the texts of the images"));
    }
    match text_image.iter().position(|&image| image as usize >= n) {
        Some(text) => {
            let (thing, found) = (format!("image of text {text}"), text_image[text]);
            Err(Error::config(thing, format!("below {n}"), found, "number the images from 0"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_listed_once_in_both_directions() {
        let truth = Truth::of_images(3, &[0, 2, 0]).unwrap().with_pairs(&[[2, 0], [0, 0], [2, 0]]).unwrap();
        assert_eq!(
            [0, 1, 2, 9].map(|image| truth.texts_of(image).to_vec()),
            [vec![0, 2], vec![], vec![0, 1], vec![]]
        );
        assert_eq!([0, 1, 2].map(|text| truth.images_of(text).to_vec()), [vec![0, 2], vec![2], vec![0]]);
        assert_eq!(Truth::of_pairs(3, 3, &[[0, 0], [0, 2], [2, 0], [2, 1]]).unwrap(), truth);
        assert!(Truth::of_pairs(3, 3, &[]).is_err());
        let message = Truth::of_pairs(3, 2, &[[0, 0], [1, 2]]).unwrap_err().to_string();
        assert!(
            message.starts_with("right pair 1: expected an image below 3 and a text below 2, found 1 and 2;")
        );
    }

    #[test]
    fn a_text_is_in_the_fold_of_its_own_image() {
        let truth =
            Truth::of_images(4, &[0, 2, 3, 1]).unwrap().with_pairs(&[[0, 1], [3, 1], [1, 0]]).unwrap();
        assert_eq!(truth.texts_within(&(2..4)), [1, 2]);
        let fold = truth.within(&(2..4), &[1, 2]);
        assert_eq!(fold, Truth::of_images(2, &[0, 1]).unwrap().with_pairs(&[[1, 0]]).unwrap());
        assert_eq!(truth.within(&(0..4), &[0, 1, 2, 3]), truth);
    }
}
