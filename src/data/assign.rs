//! Assigns captions to splits, and checks that no image is in two of them.

use super::file::Source;
use super::splits::{Split, SplitRows};
use crate::io::{Collected, RowList};
use crate::{Error, Result};
use std::collections::HashMap;

/// Images per run of a split from which on runs are compared, not images. A run takes as much memory as three images.
const WORTH: usize = 8;

/// The text rows of a split, and for each the position of its image in the split.
type Captions = [RowList; 2];

/// Assigns the texts to the splits, and checks that no image is in two splits. A split may have images without a
/// caption, but not only such images.
///
/// # Errors
/// An image that is listed twice; a split without captions.
pub(super) fn assign(
    source: &Source,
    splits: [RowList; 3],
    images: usize,
    text_image: &RowList,
) -> Result<[SplitRows; 3]> {
    let (pairs, alone) = (text_image.counts_up(images), text_image.is_empty());
    let runs: usize = splits.iter().map(|rows| rows.runs().count()).sum();
    let captions = match (pairs || alone) && runs.saturating_mul(WORTH) <= images {
        true => by_runs(source, &splits, !alone)?,
        false => by_images(source, &splits, images, text_image)?,
    };
    let mut captions = captions.into_iter();
    let splits = splits.map(|images| {
        let [texts, text_image] = captions.next().unwrap_or_default();
        SplitRows { images, texts, text_image }
    });
    for (split, rows) in Split::ALL.iter().zip(&splits) {
        // Images alone have no texts at all.
        if !rows.images.is_empty() && rows.texts.is_empty() && !alone {
            let found = format!("none: {} names none of its images", source.label("text_to_image"));
            let advice = "add captions of these images, or list images that have some";
            let (thing, expected) = (source.label(split.array()), "an image with a caption");
            return Err(Error::data(thing, expected, found, advice));
        }
    }
    Ok(splits)
}

/// [`assign`] where text i is the caption of image i, or where there are no texts.
fn by_runs(source: &Source, splits: &[RowList; 3], pairs: bool) -> Result<[Captions; 3]> {
    // The first row, the number of rows, the split, and the position of the first row there.
    let mut runs: Vec<(u64, usize, Split, usize)> = Vec::new();
    for (split, rows) in Split::ALL.into_iter().zip(splits) {
        let mut position = 0;
        for (start, len) in rows.runs() {
            runs.push((start, len, split, position));
            position += len;
        }
    }
    runs.sort_unstable_by_key(|&(start, len, split, _)| (start, len, split as usize));
    for pair in runs.windows(2) {
        let [(start, len, split, position), (row, _, other, other_position)] = [pair[0], pair[1]];
        let skipped = (row - start) as usize;
        if skipped < len {
            let mut places = [(split, position + skipped), (other, other_position)];
            places.sort_by_key(|&(split, position)| (split as usize, position));
            return Err(listed_twice(source, row, places[0], places[1]));
        }
    }
    let mut captions = <[[Collected; 2]; 3]>::default();
    for (start, len, split, position) in runs.into_iter().filter(|_| pairs) {
        let [texts, places] = &mut captions[split as usize];
        texts.push_run(start, len);
        places.push_run(position as u64, len);
    }
    Ok(captions.map(|lists| lists.map(Collected::finish)))
}

/// [`assign`] with a place in memory for every image.
fn by_images(
    source: &Source,
    splits: &[RowList; 3],
    images: usize,
    text_image: &RowList,
) -> Result<[Captions; 3]> {
    let mut places = Places::new(images, splits.iter().map(RowList::len).sum());
    for (split, rows) in Split::ALL.into_iter().zip(splits) {
        for (position, image) in rows.iter().enumerate() {
            if let Some(earlier) = places.get(image) {
                return Err(listed_twice(source, image, earlier, (split, position)));
            }
            places.set(image, split, position);
        }
    }
    let mut captions = <[[Collected; 2]; 3]>::default();
    for (text, image) in text_image.iter().enumerate() {
        if let Some((split, position)) = places.get(image) {
            let [texts, places] = &mut captions[split as usize];
            texts.push(text as u64);
            places.push(position as u64);
        }
    }
    Ok(captions.map(|lists| lists.map(Collected::finish)))
}

/// The split of an image, and its position there.
enum Places {
    /// Of every image: the number of its split plus one (0 is no split), and the position.
    Dense(Vec<u8>, Vec<usize>),
    /// Of the images that are in a split, where most are in none.
    Sparse(HashMap<u64, (Split, usize)>),
}

impl Places {
    /// Room for `listed` of these images.
    fn new(images: usize, listed: usize) -> Self {
        match listed.saturating_mul(WORTH) < images {
            true => Self::Sparse(HashMap::with_capacity(listed)),
            false => Self::Dense(vec![0; images], vec![0; images]),
        }
    }

    fn get(&self, image: u64) -> Option<(Split, usize)> {
        match self {
            Self::Dense(owner, place) => {
                let split = usize::from(owner[image as usize]).checked_sub(1)?;
                Some((Split::ALL[split], place[image as usize]))
            }
            Self::Sparse(places) => places.get(&image).copied(),
        }
    }

    fn set(&mut self, image: u64, split: Split, position: usize) {
        match self {
            Self::Dense(owner, place) => {
                owner[image as usize] = split as u8 + 1;
                place[image as usize] = position;
            }
            Self::Sparse(places) => {
                places.insert(image, (split, position));
            }
        }
    }
}

/// The error of an image at two places, each a split and a position there.
fn listed_twice(
    source: &Source,
    image: u64,
    (first, earlier): (Split, usize),
    (split, position): (Split, usize),
) -> Error {
    let (expected, advice) = match first == split {
        true => ("an image row not listed before", "list every image once: save numpy.unique(array)".into()),
        false => {
            let (first, name) = (first.array(), split.array());
            let advice = format!(
                "keep the splits apart, or results are worthless: for example, save numpy.setdiff1d({first}, {name}) as \
                 {first}"
            );
            ("an image of no other split", advice)
        }
    };
    let thing = format!("{} position {position}", source.label(split.array()));
    let found = format!("row {image}, which is at position {earlier} of {}", source.label(first.array()));
    Error::data(thing, expected, found, advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Arrays;
    use crate::math::{Purpose, random};
    use rand_chacha::rand_core::Rng;

    /// Pairs in random runs, now and then with an image in two of them.
    #[test]
    fn runs_are_assigned_as_their_images_are() {
        let source = Source::Memory(Arrays::new());
        let pairs = RowList::from(0..1000);
        let (mut faults, mut fine) = (0, 0);
        for seed in 0..300 {
            let mut rng = random(Purpose::Analysis, seed, 0, 0);
            let mut below = |n: u32| rng.next_u32() % n;
            let mut splits = <[Collected; 3]>::default();
            let mut start = 0;
            while start < 700 {
                let len = 1 + below(60) as usize;
                splits[below(3) as usize].push_run(start, len);
                start += len as u64 + u64::from(below(30));
                if below(100) == 0 {
                    start = start.saturating_sub(40);
                }
            }
            let splits = splits.map(Collected::finish);
            let of_runs = by_runs(&source, &splits, true);
            let of_images = by_images(&source, &splits, 1000, &pairs);
            match (of_runs, of_images) {
                (Ok(runs), Ok(images)) => {
                    assert_eq!(runs, images);
                    fine += 1;
                }
                (Err(_), Err(_)) => faults += 1,
                (runs, images) => panic!("{runs:?} {images:?}"),
            }
        }
        assert!(faults > 20 && fine > 20, "{faults} {fine}");
        let splits = [(0..100).into(), RowList::from_iter((500..600).chain(90..150)), RowList::default()];
        let refused = |of: Result<[Captions; 3]>| of.unwrap_err().to_string();
        let expected = "array split_val position 100: expected an image of no other split, found row 90, which is at position \
                        90 of array split_train; keep the splits apart, or results are worthless: for example, save \
                        numpy.setdiff1d(split_train, split_val) as split_train";
        assert_eq!(refused(by_runs(&source, &splits, true)), expected);
        assert_eq!(refused(by_images(&source, &splits, 1000, &pairs)), expected);
    }

    #[test]
    fn few_images_of_many_are_assigned_as_all_are() {
        let source = Source::Memory(Arrays::new());
        let owners = RowList::from([5, 900, 5, 3, 70, 900]);
        let splits = || [RowList::from([900, 5]), RowList::from([3]), RowList::default()];
        let sparse = by_images(&source, &splits(), 1000, &owners).unwrap();
        assert!(matches!(Places::new(1000, 3), Places::Sparse(_)));
        assert!(matches!(Places::new(20, 3), Places::Dense(..)));
        // With images of the last split for which there is no text, there is room for all.
        let [train, val, _] = splits();
        let dense = by_images(&source, &[train, val, (100..400).into()], 1000, &owners).unwrap();
        assert_eq!(sparse, dense);
        assert_eq!(sparse[0], [RowList::from([0, 1, 2, 5]), RowList::from([1, 0, 1, 0])]);
    }
}
