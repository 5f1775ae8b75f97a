//! Which parameters share a learning rate and a weight decay, and the pull towards their start.

use super::TrainConfig;
use crate::Result;
use crate::device::{Buffer, Commands, Device, SliceMut};
use crate::kernels::blend;
use crate::model::{Kind, Layout};
use std::ops::Range;

/// A range of parameters that an optimiser updates alike.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub range: Range<usize>,
    /// Weight decay.
    pub decay: f64,
    /// Factor of the learning rate.
    pub factor: f64,
}

/// The pull of the parameters towards their initial values (docs/math.md, "Pull towards the start").
pub(super) struct Pull {
    strength: f64,
    pub start: Buffer<f32>,
}

impl Pull {
    /// `None` if `strength` is 0.
    pub fn new(device: &Device, strength: f64, start: &[f32]) -> Result<Option<Self>> {
        let new = || Ok(Self { strength, start: Buffer::from_slice(device, "start", start)? });
        (strength > 0.0).then(new).transpose()
    }

    /// Moves the parameters `w` of a range towards their start.
    pub fn apply(
        &self,
        commands: &mut Commands,
        range: &Range<usize>,
        w: SliceMut<f32>,
        rate: f64,
    ) -> Result<()> {
        blend(commands, self.start.part(range.clone()), (rate * self.strength).min(1.0), w, range.len())
    }
}

/// All trained parameters except the temperature, in as few groups as possible.
pub(super) fn groups(layout: &Layout, config: &TrainConfig) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let end = layout.temperature().start;
    for segment in layout.segments().into_iter().filter(|segment| segment.range.end <= end) {
        let decay = if segment.is_bias() && !config.decay_biases { 0.0 } else { config.weight_decay };
        let factor = match segment.kind() {
            Kind::Linear => config.lr_linear,
            Kind::RandomFeatures => config.lr_random_features,
            Kind::Mlp => config.lr_mlp,
            Kind::Other => 1.0,
        };
        match groups.last_mut() {
            // What lies between two segments stays 0.
            Some(last) if (last.decay, last.factor) == (decay, factor) => last.range.end = segment.range.end,
            _ => groups.push(Group { range: segment.range, decay, factor }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EncoderKind, HeadConfig};

    #[test]
    fn parameters_with_the_same_rates_are_one_group() {
        let head = HeadConfig::default().with(|c| {
            c.image_encoder = EncoderKind::ResidualMlp;
            c.random_features = 8;
            c.embed = 6;
        });
        let layout = Layout::of([5, 3], &head);
        let of = |change: fn(&mut TrainConfig)| groups(&layout, &TrainConfig::default().with(change));
        let end =
            layout.segments().iter().map(|s| s.range.end).filter(|&e| e <= layout.temperature().start).max();
        let whole = Group { range: 0..end.unwrap(), decay: 1e-4, factor: 1.0 };
        assert_eq!(of(|_| ()), [whole]);
        let named = |factor: f64, change: fn(&mut TrainConfig)| {
            let found =
                of(change).into_iter().filter(|group| group.factor == factor).map(|group| group.range);
            let inside = |range: &Range<usize>, k: usize| range.contains(&k);
            let ranges: Vec<_> = found.collect();
            let segments = layout.segments().into_iter();
            let own = segments.filter(|s| ranges.iter().any(|range| inside(range, s.range.start)));
            own.map(|segment| segment.name).collect::<Vec<_>>().join(" ")
        };
        let linear = "image.weight image.bias text.weight text.bias";
        assert_eq!(named(0.5, |c| c.lr_linear = 0.5), linear);
        assert_eq!(named(0.5, |c| c.lr_random_features = 0.5), "image.fourier.weight text.fourier.weight");
        let mlp = "image.mlp.first.weight image.mlp.first.bias image.mlp.second.weight image.mlp.second.bias image.mlp.norm";
        assert_eq!(named(0.5, |c| c.lr_mlp = 0.5), mlp);
        assert!(of(|c| c.decay_biases = false).iter().any(|group| group.decay == 0.0));
    }
}
