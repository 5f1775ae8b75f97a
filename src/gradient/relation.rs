//! Which texts are right for which images, where it is more than each text for its own image: `pairs` of a dataset, and
//! equal captions of different images.

use crate::Result;
use crate::device::{Buffer, Commands, Device, MatMut};
use crate::io::RowList;
use crate::kernels::leave_out;
use std::collections::HashMap;
use std::ops::Range;

/// Which texts are right for which images of a dataset, by class: texts with equal captions are of one class, and an
/// image has the classes of its texts. A text is right for an image that has its class.
///
/// So where images A and B share a caption, and B has another one, the other one stays wrong for A. If groups of images
/// were merged instead, everything would be right that a chain of equal captions connects.
#[derive(Debug, PartialEq, Eq)]
pub struct Relation {
    /// The class of every text: the first text row that is equal.
    class: Vec<u32>,
    /// Image i has the classes `classes[offsets[i]..offsets[i + 1]]`, ascending.
    offsets: Vec<usize>,
    classes: Vec<u32>,
}

impl Relation {
    /// From the class of every text, the image row of every text, and further right pairs (image row, text row).
    /// All of them are below 2^32.
    pub(crate) fn new(images: usize, class: Vec<u32>, text_image: &RowList, pairs: &[[u64; 2]]) -> Self {
        let own = text_image.iter().zip(&class).map(|(image, &class)| [image as u32, class]);
        let added = pairs.iter().map(|&[image, text]| [image as u32, class[text as usize]]);
        let mut all: Vec<_> = own.chain(added).collect();
        all.sort_unstable();
        all.dedup();
        let mut offsets = vec![0; images + 1];
        all.iter().for_each(|&[image, _]| offsets[image as usize + 1] += 1);
        (0..images).for_each(|image| offsets[image + 1] += offsets[image]);
        Self { class, offsets, classes: all.into_iter().map(|[_, class]| class).collect() }
    }

    /// The class of a text row.
    fn class(&self, text: u64) -> u32 {
        self.class[text as usize]
    }

    /// The classes of an image row, ascending.
    fn classes(&self, image: u64) -> &[u32] {
        &self.classes[self.offsets[image as usize]..self.offsets[image as usize + 1]]
    }

    /// Whether a text row is right for an image row.
    pub fn is_right(&self, image: u64, text: u64) -> bool {
        self.classes(image).binary_search(&self.class(text)).is_ok()
    }

    /// The right pairs (image, text) among these rows, by their positions, ascending by image.
    pub fn pairs_among(&self, images: &[u64], texts: &[u64]) -> Vec<[u32; 2]> {
        let mut members: HashMap<u32, Vec<u32>> = HashMap::new();
        for (&text, position) in texts.iter().zip(0..) {
            members.entry(self.class(text)).or_default().push(position);
        }
        let of = |(&image, position): (&u64, u32)| {
            let texts = self.classes(image).iter().filter_map(|class| members.get(class)).flatten();
            texts.map(move |&text| [position, text]).collect::<Vec<_>>()
        };
        images.iter().zip(0..).flat_map(of).collect()
    }

    /// The elements of S that are neither positive nor negative in a batch of the pairs of `rows`: right pairs of
    /// different images. With `same_image`, captions of one image may be negatives, and then equal ones are left out
    /// too.
    pub(crate) fn left_out(&self, [images, texts]: [&[u64]; 2], same_image: bool) -> Vec<[u32; 2]> {
        let mut found = self.pairs_among(images, texts);
        found.retain(|&[i, j]| {
            let (i, j) = (i as usize, j as usize);
            let equal = || i != j && self.class(texts[i]) == self.class(texts[j]);
            images[i] != images[j] || (same_image && equal())
        });
        found
    }

    /// The same for images and texts of a batch (`rows`) against those of a memory bank: texts of the bank for every
    /// image, and images of the bank for every text.
    pub(crate) fn left_out_of_bank(
        &self,
        [images, texts]: [&[u64]; 2],
        [bank_images, bank_texts]: [&[u64]; 2],
    ) -> [Vec<[u32; 2]>; 2] {
        let mut of_images = self.pairs_among(images, bank_texts);
        of_images.retain(|&[i, k]| images[i as usize] != bank_images[k as usize]);
        let mut of_texts = self.pairs_among(bank_images, texts);
        of_texts.retain(|&[k, j]| bank_images[k as usize] != images[j as usize]);
        of_texts.iter_mut().for_each(|pair| pair.reverse());
        of_texts.sort_unstable();
        [of_images, of_texts]
    }
}

/// Elements of a matrix of similarities that are neither positive nor negative, on a device.
pub(crate) struct LeftOut {
    label: &'static str,
    /// Row and column of every element, ascending by row.
    list: Vec<[u32; 2]>,
    positions: Buffer<u32>,
}

impl LeftOut {
    pub fn new(device: &Device, label: &'static str) -> Result<Self> {
        Ok(Self { label, list: Vec::new(), positions: Buffer::new(device, label, 64)? })
    }

    /// Replaces the elements. They are ascending by row.
    pub fn write(&mut self, device: &Device, list: Vec<[u32; 2]>) -> Result<()> {
        let flat: &[u32] = list.as_flattened();
        if flat.len() > self.positions.len() {
            self.positions = Buffer::new(device, self.label, flat.len().next_power_of_two())?;
        }
        if !flat.is_empty() {
            self.positions.write(device, 0, flat)?;
        }
        self.list = list;
        Ok(())
    }

    /// Leaves the elements out of a strip that holds these rows.
    pub fn apply(&self, commands: &mut Commands, rows: &Range<usize>, strip: MatMut) -> Result<()> {
        let before = |row: usize| self.list.partition_point(|&[i, _]| (i as usize) < row);
        let own = before(rows.start)..before(rows.end);
        leave_out(commands, strip, rows.start, self.positions.view(), own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images 0 and 1 share a caption (texts 0 and 2); image 1 has text 3 too; text 4 of image 2 is also right for
    /// image 0.
    fn relation() -> Relation {
        Relation::new(3, vec![0, 1, 0, 3, 4], &[0, 0, 1, 1, 2].into(), &[[0, 4]])
    }

    #[test]
    fn a_chain_of_equal_captions_makes_nothing_else_right() {
        let relation = relation();
        let right = |image| (0..5).filter(|&text| relation.is_right(image, text)).collect::<Vec<_>>();
        assert_eq!([0, 1, 2].map(right), [vec![0, 1, 2, 4], vec![0, 2, 3], vec![4]]);
        assert_eq!(relation.pairs_among(&[2, 1], &[4, 3, 0]), [[0, 0], [1, 2], [1, 1]]);
    }

    #[test]
    fn right_pairs_of_other_images_are_left_out() {
        let (images, texts) = ([0, 0, 1, 1, 2], [0, 1, 2, 3, 4]);
        let found = relation().left_out([&images, &texts], false);
        // Image 0 stands in two pairs, and has texts 2 and 4; image 1 in two, and has text 0.
        assert_eq!(found, [[0, 2], [0, 4], [1, 2], [1, 4], [2, 0], [3, 0]]);
        // The same caption twice, of one image.
        let twice = Relation::new(1, vec![0, 0, 2], &[0, 0, 0].into(), &[]);
        assert_eq!(twice.left_out([&[0, 0, 0], &[0, 1, 2]], true), [[0, 1], [1, 0]]);
        assert!(twice.left_out([&[0, 0, 0], &[0, 1, 2]], false).is_empty());
    }

    #[test]
    fn right_pairs_of_the_bank_are_left_out() {
        let [of_images, of_texts] = relation().left_out_of_bank([&[0, 1], &[1, 2]], [&[1, 0, 2], &[2, 0, 4]]);
        // Texts 2 and 4 in the bank are right for image 0, text 0 for image 1. The images of text 2 are 0 and 1.
        assert_eq!(of_images, [[0, 0], [0, 2], [1, 1]]);
        assert_eq!(of_texts, [[1, 1]]);
    }
}
