//! The landmarks of a head: training images and all their captions (docs/math.md, "Landmarks").

use super::bandwidth::median_distance;
use crate::Result;
use crate::data::{Dataset, Side, Split};
use crate::device::padded;
use crate::math::{Purpose, random};
use crate::model::{Head, LANDMARK_BANDWIDTH};
use rand_chacha::rand_core::Rng;

/// Rows that are read at a time.
const CHUNK: usize = 1024;

/// The training items that become landmarks.
#[derive(Debug, Clone, Default)]
pub(crate) struct LandmarkItems {
    pub images: Vec<u64>,
    pub texts: Vec<u64>,
    /// The place in `images` of the image of each text.
    pub owners: Vec<u32>,
}

impl LandmarkItems {
    /// At most so many of the training images that have captions, chosen without replacement, with all their captions.
    pub fn of(dataset: &Dataset, most: usize, seed: u64) -> Self {
        if most == 0 {
            return Self::default();
        }
        let split = dataset.split(Split::Train);
        let mut described = vec![false; split.images.len()];
        split.text_image.iter().for_each(|place| described[place as usize] = true);
        let mut places: Vec<u32> = (0..described.len() as u32).filter(|&i| described[i as usize]).collect();
        let count = places.len().min(most);
        if count < places.len() {
            let mut rng = random(Purpose::Landmarks, seed, 0, 0);
            for i in 0..count {
                let left = (places.len() - i) as u64;
                places.swap(i, i + ((u64::from(rng.next_u32()) * left) >> 32) as usize);
            }
            places.truncate(count);
            places.sort_unstable();
        }
        let images = places.iter().map(|&place| split.images.at(place as usize)).collect();
        let mut texts = Vec::new();
        let mut owners = Vec::new();
        for (text, place) in split.texts.iter().zip(&split.text_image) {
            if let Ok(owner) = places.binary_search(&(place as u32)) {
                texts.push(text);
                owners.push(owner as u32);
            }
        }
        Self { images, texts, owners }
    }

    pub fn items(&self, side: Side) -> &[u64] {
        if side == Side::Image { &self.images } else { &self.texts }
    }

    /// The number of images and of texts.
    pub fn counts(&self) -> [usize; 2] {
        [self.images.len(), self.texts.len()]
    }
}

impl Head {
    /// Sets the landmarks to the rows of these items. The bandwidth becomes the median distance between unit training
    /// rows times [`LANDMARK_BANDWIDTH`].
    pub(crate) fn fit_landmarks(&mut self, dataset: &Dataset, landmarks: &LandmarkItems) -> Result<()> {
        for side in [Side::Image, Side::Text] {
            let (dim, stride) = (self.feature_dim(side), padded(self.feature_dim(side)));
            let mut sample = self.sample(dataset, side)?;
            sample.chunks_exact_mut(stride).for_each(to_unit);
            // Equal rows have no distance. Then the kernel is 1 everywhere, whatever the bandwidth.
            let distance = LANDMARK_BANDWIDTH * median_distance(&sample, stride).unwrap_or(1.0);
            let preprocess = self.preprocess(0.0)?;
            let (mut host, mut offsets, mut rows) = (Vec::new(), Vec::new(), Vec::new());
            for items in landmarks.items(side).chunks(CHUNK) {
                preprocess.items(dataset, side, items, &mut host, &mut offsets)?;
                preprocess.check_scale(dataset, side, items, &host)?;
                for row in host.chunks_exact_mut(stride) {
                    to_unit(row);
                    rows.extend_from_slice(&row[..dim]);
                }
            }
            self.set_landmarks(side, &rows, distance * distance)?;
        }
        Ok(())
    }
}

/// Scales a row to length 1. A row of zeros stays.
fn to_unit(row: &mut [f32]) {
    let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
