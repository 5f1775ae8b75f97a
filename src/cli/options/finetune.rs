//! Options that keep a head near a good start.

use super::{Switch, Unused, set};
use clap::Args;
use wgoal::TrainConfig;
use wgoal::model::EncoderKind;

#[derive(Args, Clone)]
pub struct FinetuneArgs {
    /// Decay of a moving average of the weights, 0 to below 1, 0 for none [default: 0]
    ///
    /// The average is validated and saved in place of the weights. The closer to 1, the more steps it covers: about
    /// 1 / (1 - DECAY).
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true, help_heading = "Optimiser")]
    ema: Option<f64>,
    /// Strength of the pull towards the initial weights, 0 or more [default: 0]
    ///
    /// Before each step, a weight moves towards its initial value by the learning rate times this share of the distance.
    /// Use it with --weight-decay 0, because weight decay pulls towards 0.
    #[arg(long, value_name = "STRENGTH", allow_negative_numbers = true, help_heading = "Optimiser")]
    l2_sp: Option<f64>,
    /// Strength of STRUCTURE, which keeps the neighbourhoods of the features, 0 or more [default: 0]
    ///
    /// It is a term beside the objective. Items that are close to each other in the features of a side stay close in the
    /// embedding.
    #[arg(long, value_name = "STRENGTH", allow_negative_numbers = true, help_heading = "Objective")]
    structure: Option<f64>,
    /// Temperature of the neighbourhoods of --structure, above 0 [default: 0.07]
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Objective")]
    structure_temperature: Option<f64>,
    /// Factor of --lr for the linear layers, 0 or more [default: 1]
    ///
    /// With 0 they stay as they start.
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, help_heading = "Optimiser")]
    lr_linear: Option<f64>,
    /// Factor of --lr for the weights of random features, 0 or more [default: 1]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, help_heading = "Optimiser")]
    lr_random_features: Option<f64>,
    /// Factor of --lr for the perceptrons of residual-mlp and gated-mlp, 0 or more [default: 1]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, help_heading = "Optimiser")]
    lr_mlp: Option<f64>,
    /// Whether the weights of landmarks are trained on the kernel minus its mean [default: on]
    ///
    /// Otherwise, one step changes all embeddings alike, so that learning rates must be smaller.
    #[arg(long, value_name = "on|off", help_heading = "Optimiser")]
    centre_kernel: Option<Switch>,
}

impl FinetuneArgs {
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.ema, self.ema);
        set(&mut config.l2_sp, self.l2_sp);
        set(&mut config.structure, self.structure);
        set(&mut config.structure_temperature, self.structure_temperature);
        set(&mut config.lr_linear, self.lr_linear);
        set(&mut config.lr_random_features, self.lr_random_features);
        set(&mut config.lr_mlp, self.lr_mlp);
        set(&mut config.centre_kernel, self.centre_kernel.map(Switch::is_on));
    }

    /// The given factors whose part the head does not have.
    pub fn unused(&self, config: &TrainConfig) -> Vec<Unused> {
        let mut unused = Vec::new();
        if self.lr_random_features.is_some() && config.random_features == 0 && config.landmarks == 0 {
            unused.push(Unused::new("lr-random-features", "the head has no random features or landmarks"));
        }
        if self.centre_kernel.is_some() && config.landmarks == 0 {
            unused.push(Unused::new("centre-kernel", "the head has no landmarks"));
        }
        if self.structure_temperature.is_some() && config.structure == 0.0 {
            unused.push(Unused::new("structure-temperature", "--structure is 0"));
        }
        if self.lr_mlp.is_some() && config.head().encoders() == [EncoderKind::Linear; 2] {
            unused.push(Unused::new("lr-mlp", "the head has no perceptron"));
        }
        unused
    }
}
