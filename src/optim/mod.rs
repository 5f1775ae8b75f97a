//! Optimisers. Each has one file with its options, its state, its kernel and its reference. A line in `optimizers!`
//! adds one.

mod adamw;
mod lion;
mod schedule;
mod sgd;

pub use adamw::{AdamW, AdamwParams, adamw};
pub use lion::Lion;
pub use schedule::{Schedule, Warmup};
pub use sgd::{Sgd, SgdParams, sgd};

use crate::device::{Commands, Slice, SliceMut};
use crate::kernels::Kernel;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// What an optimiser's file provides.
trait Rule: Default {
    /// The kernel.
    const KERNEL: &'static Kernel;
    /// Names of the arrays that it keeps for every parameter, as in a checkpoint.
    const STATE: &'static [&'static str];

    /// Checks that training can use every option.
    fn validate(&self) -> Result<()>;

    /// The decay rates of its two moments, if it has them.
    fn betas(&mut self) -> Option<[&mut f64; 2]> {
        None
    }

    /// The decay rate of its momentum, if it has one.
    fn momentum(&mut self) -> Option<&mut f64> {
        None
    }

    /// What it adds to the root of its second moment, if it has one.
    fn epsilon(&mut self) -> Option<&mut f64> {
        None
    }

    /// Whether its momentum is Nesterov's, if it can be.
    fn nesterov(&mut self) -> Option<&mut bool> {
        None
    }

    /// Updates the parameters `w` and the `state`. `gradient` is the gradient and the clip factor that scales it.
    /// Lengths are multiples of four.
    fn update(
        &self,
        commands: &mut Commands,
        step: &Step,
        gradient: (Slice<f32>, Slice<f32>),
        w: SliceMut<f32>,
        state: Vec<SliceMut<f32>>,
        len: usize,
    ) -> Result<()>;
}

/// The values that a rule needs for one step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay.
    pub decay: f64,
    /// Step number, from 1.
    pub step: u64,
    /// The parameters are clamped to this range.
    pub bounds: (f32, f32),
}

/// The enum of all optimisers. Each method calls the same method of the rule.
macro_rules! optimizers {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The update rule.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        #[non_exhaustive]
        pub enum Optimizer {
            $($(#[$doc])* $name($name),)*
        }

        impl Optimizer {
            /// The names of all optimisers.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// Its name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => $text,)* }
            }

            /// Names of the arrays that it keeps for every parameter.
            pub(crate) fn state(&self) -> &'static [&'static str] {
                match self { $(Self::$name(_) => $name::STATE,)* }
            }

            /// Checks that training can use every option.
            ///
            /// # Errors
            /// The first option that training cannot use.
            pub fn validate(&self) -> Result<()> {
                match self { $(Self::$name(rule) => rule.validate(),)* }
            }

            /// The decay rates of its two moments, if it has them.
            pub fn betas(&mut self) -> Option<[&mut f64; 2]> {
                match self { $(Self::$name(rule) => rule.betas(),)* }
            }

            /// The decay rate of its momentum, if it has one.
            pub fn momentum(&mut self) -> Option<&mut f64> {
                match self { $(Self::$name(rule) => rule.momentum(),)* }
            }

            /// What it adds to the root of its second moment, if it has one.
            pub fn epsilon(&mut self) -> Option<&mut f64> {
                match self { $(Self::$name(rule) => rule.epsilon(),)* }
            }

            /// Whether its momentum is Nesterov's, if it can be.
            pub fn nesterov(&mut self) -> Option<&mut bool> {
                match self { $(Self::$name(rule) => rule.nesterov(),)* }
            }

            /// Updates the parameters `w` and the `state`. `gradient` is the gradient and the clip factor that scales
            /// it. Lengths are multiples of four.
            pub(crate) fn update(
                &self,
                commands: &mut Commands,
                step: &Step,
                gradient: (Slice<f32>, Slice<f32>),
                w: SliceMut<f32>,
                state: Vec<SliceMut<f32>>,
                len: usize,
            ) -> Result<()> {
                match self { $(Self::$name(rule) => rule.update(commands, step, gradient, w, state, len),)* }
            }
        }

        /// Parses a name. The options get their defaults.
        impl FromStr for Optimizer {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                match name {
                    $($text => Ok(Self::$name($name::default())),)*
                    _ => {
                        let expected = Self::NAMES.join(", ");
                        Err(Error::config("--optimizer", expected, format!("'{name}'"), "give one of them"))
                    }
                }
            }
        }

        #[doc(hidden)]
        pub static KERNELS: &[&Kernel] = &[$($name::KERNEL),*];
    };
}

optimizers! {
    /// AdamW with decoupled weight decay (Loshchilov and Hutter, 2019).
    AdamW = "adamw",
    /// Gradient descent with momentum and L2 weight decay.
    Sgd = "sgd",
    /// Lion with decoupled weight decay (Chen et al., 2023).
    Lion = "lion",
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::AdamW(AdamW::default())
    }
}

/// Checks that a decay rate is in [0, 1).
fn check_decay_rate(option: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::config(option, "a number in [0, 1)", value, format!("change {option}, or leave it out")))
}

/// The arrays of a state. Fails unless there are as many as the rule keeps.
fn arrays<'a, const N: usize>(state: Vec<SliceMut<'a, f32>>) -> Result<[SliceMut<'a, f32>; N]> {
    state.try_into().map_err(|state: Vec<_>| {
        Error::config("optimizer state", format!("{N} arrays"), state.len(), "report this as a bug")
    })
}

#[doc(hidden)]
pub mod reference {
    pub use super::adamw::reference as adamw;
    pub use super::sgd::reference as sgd;
}
