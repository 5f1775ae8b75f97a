//! Divides images into splits, for datasets that come without.
//!
//! Images are taken in the order of a hash of their row number, so the result is the same everywhere. Images with the
//! same features stay together: a copy of a training image in the test split would be no test.

use std::collections::{BTreeMap, HashMap};

use super::features::Features;
use super::hash::Hash;
use super::{Dataset, Split};
use crate::io::RowList;
use crate::{Error, Result};

/// The most images that are divided.
const MOST: u64 = u32::MAX as u64;

/// How to divide images into splits.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Division {
    /// Percent of the images for train, val and test. A split with 0 gets none. If they sum to less than 100, the other
    /// images are in no split.
    pub shares: [f64; 3],
    /// Another seed divides in another way.
    pub seed: u64,
}

impl Default for Division {
    /// 80, 10 and 10 percent, with seed 0. Datasets without splits are divided in this way when they are opened.
    fn default() -> Self {
        Self { shares: [80.0, 10.0, 10.0], seed: 0 }
    }
}

with!(Division);

impl Division {
    /// # Errors
    /// A share below 0 or above 100, no share for the training split, or shares that sum to more than 100.
    pub fn validate(&self) -> Result<()> {
        for (split, share) in Split::ALL.into_iter().zip(self.shares) {
            if !(0.0..=100.0).contains(&share) {
                let advice = "give the percentage of the images for this split";
                return Err(Error::config(format!("--{split}"), "a number from 0 to 100", share, advice));
            }
        }
        let sum: f64 = self.shares.iter().sum();
        if sum > 100.0 {
            let thing = "--train, --val and --test";
            return Err(Error::config(
                thing,
                "percentages that sum to at most 100",
                sum,
                "lower one of them",
            ));
        }
        if self.shares[0] == 0.0 {
            let expected = "a number above 0";
            return Err(Error::config("--train", expected, 0, "leave images for the training split"));
        }
        Ok(())
    }

    /// The number by which images are put in order: the finalizer of SplitMix64, at a distance from the seed.
    fn key(&self, image: u64) -> u64 {
        let mut x = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(image + 1));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

impl Dataset {
    /// Checks that there are not too many images for [`Dataset::divide`].
    ///
    /// # Errors
    /// More than 2^32 - 1 images.
    pub fn check_division(&self) -> Result<()> {
        check(&self.name, &self.sides[0])
    }

    /// Divides some image rows into splits. The result is the image rows of train, val and test, ascending. It depends
    /// on the rows, on which images have captions and on which images have the same features, and on nothing else.
    ///
    /// Images with the same features stay together, except images whose features are all zero. Images with and without
    /// a caption are divided separately, so that every split gets its share of both. Captions belong to the split of
    /// their image.
    ///
    /// It reads the image rows once, to find those that are the same.
    ///
    /// ```
    /// use wgoal::data::Division;
    /// let data = wgoal::Dataset::open("data/clipart-mini")?;
    /// let [train, val, test] = data.divide(&data.all_rows().images, &Division::default())?;
    /// assert_eq!((train.len() + val.len() + test.len(), val.len(), test.len()), (1400, 140, 140));
    /// # Ok::<(), wgoal::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Division::validate`], more than 2^32 - 1 images, a row that is no image, a file that can no longer be read, and too few images
    /// with captions to give every split one.
    pub fn divide(&self, images: &RowList, division: &Division) -> Result<[RowList; 3]> {
        if let Some(row) = images.iter().find(|&row| row >= self.images() as u64) {
            let expected = format!("image rows below {}", self.images());
            return Err(Error::data(&self.name, expected, row, "give rows of this dataset"));
        }
        divide(&self.name, &self.sides[0], &self.text_to_image, images, division)
    }
}

/// Checks that there are not too many images to divide.
fn check(name: &str, features: &Features) -> Result<()> {
    if features.items as u64 <= MOST {
        return Ok(());
    }
    let expected = format!("splits, or at most {MOST} images to divide, because memory holds a hash of each");
    let advice = "write the splits; a .json list of files can have ranges of rows (docs/your-features.md)";
    Err(Error::data(name, expected, format!("{} images", features.items), advice))
}

/// Images with the same features.
#[derive(Default)]
struct Group {
    images: Vec<u64>,
    captioned: bool,
}

/// [`Dataset::divide`], for a dataset that is being opened. `name` is for messages.
pub(super) fn divide(
    name: &str,
    features: &Features,
    text_to_image: &RowList,
    images: &RowList,
    division: &Division,
) -> Result<[RowList; 3]> {
    division.validate()?;
    check(name, features)?;
    let mut captioned = vec![false; features.items];
    text_to_image.iter().for_each(|image| captioned[image as usize] = true);
    let mut images = images.to_vec();
    images.sort_unstable();
    images.dedup();
    let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
    for (&image, first) in images.iter().zip(first_equal(features, &images)?) {
        let group = groups.entry(first).or_default();
        group.images.push(image);
        group.captioned |= captioned[image as usize];
    }
    let mut splits = [const { Vec::new() }; 3];
    for with_captions in [true, false] {
        let of_class = groups.iter().filter(|(_, group)| group.captioned == with_captions);
        let mut order: Vec<_> = of_class.map(|(&first, group)| (first, &group.images)).collect();
        order.sort_by_key(|&(first, _)| (division.key(first), first));
        let order = order.into_iter().map(|(_, images)| images).collect();
        fill(name, order, with_captions, division, &mut splits)?;
    }
    splits.iter_mut().for_each(|rows| rows.sort_unstable());
    Ok(splits.map(RowList::from))
}

/// Adds groups of images, in their order, to the splits. Every split with a share gets a group if `each` is set.
fn fill(
    name: &str,
    groups: Vec<&Vec<u64>>,
    each: bool,
    division: &Division,
    splits: &mut [Vec<u64>; 3],
) -> Result<()> {
    let images: usize = groups.iter().map(|group| group.len()).sum();
    let whole = division.shares.iter().sum::<f64>() >= 100.0;
    // The training split comes last and takes the rest.
    let order = [Split::Test, Split::Val, Split::Train].map(|split| (split, division.shares[split as usize]));
    let mut waiting = order.iter().filter(|(_, share)| *share > 0.0).count();
    if each && groups.len() < waiting {
        let expected =
            format!("at least {waiting} images with captions and different features, one for every split");
        let advice = "add images with captions, or write the split files yourself (docs/your-features.md)";
        return Err(Error::data(name, expected, groups.len(), advice));
    }
    let mut groups: Vec<_> = groups.into_iter().map(Some).collect();
    let mut left = groups.len();
    for (split, share) in order.into_iter().filter(|(_, share)| *share > 0.0) {
        waiting -= 1;
        let fair = (images as f64 * share / 100.0).round() as usize;
        let mut room = if split == Split::Train && whole { usize::MAX } else { fair.max(usize::from(each)) };
        let rows = &mut splits[split as usize];
        let before = rows.len();
        for group in &mut groups {
            let Some(images) = group.filter(|group| group.len() <= room) else { continue };
            if room == 0 || (each && left <= waiting) {
                break;
            }
            rows.extend(images);
            (*group, room, left) = (None, room - images.len(), left - 1);
        }
        // All groups are too large for this split. It gets one of the smallest.
        if each && rows.len() == before {
            let waiting = groups.iter_mut().filter(|group| group.is_some());
            if let Some(images) = waiting.min_by_key(|group| group.map(Vec::len)).and_then(Option::take) {
                rows.extend(images);
                left -= 1;
            }
        }
    }
    Ok(())
}

/// For every one of `images`, the first of them with the same features: the same row of `images`, or the same regions.
/// Images whose features are all zero are the same as none.
fn first_equal(features: &Features, images: &[u64]) -> Result<Vec<u64>> {
    let mut bytes = Vec::new();
    let mut hash = |image: u64, whole: bool| -> Result<Option<u128>> {
        let (mut hash, mut zero) = (Hash::default(), true);
        let mut add = |file: &super::array::FeatureFile, row: usize| {
            file.read_bytes(row, &mut bytes)?;
            zero &= bytes.iter().all(|&byte| byte == 0);
            hash.add(&bytes);
            Ok::<_, Error>(())
        };
        match (&features.pooled, &features.local) {
            (Some(file), _) => add(file, image as usize)?,
            (None, Some(local)) => {
                let mut rows = local.rows_of(image as usize);
                rows.end = if whole { rows.end } else { rows.start + 1 };
                rows.into_iter().try_for_each(|row| add(&local.rows, row))?;
            }
            (None, None) => {}
        }
        Ok((!zero).then_some(hash.0))
    };
    let starts = images.iter().map(|&image| hash(image, false)).collect::<Result<Vec<_>>>()?;
    let whole = if features.pooled.is_some() {
        starts
    } else {
        // Most images differ in their first region already. The other regions are read where they do not.
        let mut count: HashMap<u128, u32> = HashMap::new();
        starts.iter().flatten().for_each(|&start| *count.entry(start).or_default() += 1);
        let alone = |start: &Option<u128>| start.is_some_and(|start| count[&start] == 1);
        images
            .iter()
            .zip(&starts)
            .map(|(&image, start)| if alone(start) { Ok(None) } else { hash(image, true) })
            .collect::<Result<Vec<_>>>()?
    };
    let mut first: HashMap<u128, u64> = HashMap::new();
    let of_image =
        |(&image, hash): (&u64, Option<u128>)| hash.map_or(image, |hash| *first.entry(hash).or_insert(image));
    Ok(images.iter().zip(whole).map(of_image).collect())
}
