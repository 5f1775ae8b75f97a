//! Parameters of the objectives that turn similarities into logits: InfoNCE and the sigmoid loss of SigLIP.

use super::Objective;
use serde::{Deserialize, Serialize};

/// Parameters of InfoNCE.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct InfonceParams {
    /// The temperature, or its initial value if it is learned.
    pub temperature: f32,
    /// Learn the temperature and clamp it to [0.001, 0.5], as X-VLM does.
    pub learn_temperature: bool,
    /// With image ids: leave out the other captions of an image, instead of sharing the target among them.
    pub leave_out: bool,
    /// With image ids: the probabilities of the captions of an image add up, and the loss is the logarithm of their sum.
    /// Otherwise it is the mean of their logarithms. `leave_out` has precedence.
    pub log_sum: bool,
}

with!(InfonceParams);

impl Default for InfonceParams {
    fn default() -> Self {
        Self { temperature: 0.07, learn_temperature: false, leave_out: false, log_sum: false }
    }
}

/// Parameters of the sigmoid loss of SigLIP (docs/math.md, "SigLIP"). The defaults are the initial values of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SiglipParams {
    /// The temperature, or its initial value if it is learned. The paper has its inverse, 10.
    pub temperature: f32,
    /// The number that is added to each logit, or its initial value if it is learned.
    pub logit_bias: f32,
    /// Learn the temperature, clamped to [0.001, 0.5], and the bias, which has no bounds.
    pub learn_temperature: bool,
    /// With image ids: leave out the other captions of an image, instead of making them positives too.
    pub leave_out: bool,
}

with!(SiglipParams);

impl Default for SiglipParams {
    fn default() -> Self {
        Self { temperature: 0.1, logit_bias: -10.0, learn_temperature: true, leave_out: false }
    }
}

/// How an objective turns a similarity s into a logit: s / temperature + bias.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Logits {
    /// The temperature, or its initial value if it is learned.
    pub temperature: f32,
    /// 0 without a bias.
    pub bias: f32,
    /// Whether the logits have a bias.
    pub has_bias: bool,
    /// Whether the temperature is learned, and the bias with it.
    pub learned: bool,
}

impl Logits {
    /// Range of a learned temperature.
    pub(crate) const BOUNDS: (f32, f32) = (0.001, 0.5);

    /// Where the bias stands in the values that kernels read. The temperature stands at 0.
    pub(crate) const BIAS: usize = 64;

    /// Number of the values that kernels read.
    pub(crate) const LEN: usize = Self::BIAS + 4;

    /// The values that kernels read.
    pub(crate) fn values(&self) -> [f32; Self::LEN] {
        let mut values = [0.0; Self::LEN];
        (values[0], values[Self::BIAS]) = (self.temperature, self.bias);
        values
    }
}

impl Objective {
    /// How it turns similarities into logits, if it is InfoNCE or SigLIP or one of its terms is.
    pub fn logits(&self) -> Option<Logits> {
        self.terms().into_iter().find_map(|term| match term.objective {
            Self::Infonce(InfonceParams { temperature, learn_temperature, .. }) => Some(Logits {
                temperature: *temperature,
                bias: 0.0,
                has_bias: false,
                learned: *learn_temperature,
            }),
            Self::Siglip(SiglipParams { temperature, logit_bias, learn_temperature, .. }) => Some(Logits {
                temperature: *temperature,
                bias: *logit_bias,
                has_bias: true,
                learned: *learn_temperature,
            }),
            _ => None,
        })
    }
}
