//! Options that keep a head near a good start.

use super::set;
use clap::Args;
use wgoal::TrainConfig;

#[derive(Args, Clone)]
pub struct FinetuneArgs {
    /// Decay of a moving average of the weights, 0 to below 1, 0 for none [default: 0]
    ///
    /// The average is validated and saved in place of the weights. The closer to 1, the more steps it covers: about
    /// 1 / (1 - DECAY).
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true, help_heading = "Optimiser")]
    ema: Option<f64>,
}

impl FinetuneArgs {
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.ema, self.ema);
    }
}
