//! The options that belong to some optimisers only.

use super::RunOptions;
use wgoal::optim::Optimizer;
use wgoal::{Error, ErrorKind, Result};

impl RunOptions {
    /// The optimiser that results from `base` and the options given.
    pub(super) fn optimizer(&self, base: Optimizer) -> Result<Optimizer> {
        let mut optimizer = match self.optimizer.as_deref() {
            Some(name) if name != base.name() => name.parse()?,
            _ => base,
        };
        // The names of the optimisers that have an option.
        let with = |has: fn(&mut Optimizer) -> bool| {
            let having = |name: &&str| name.parse().is_ok_and(|mut optimizer| has(&mut optimizer));
            Optimizer::NAMES.iter().copied().filter(having).collect::<Vec<_>>().join(" or ")
        };
        let refuse = |option: &str, found: String, names: String| {
            let (expected, advice) =
                (format!("--optimizer {names}"), format!("use --optimizer {names}, or leave {option} out"));
            Error::new(ErrorKind::Config, option, expected, found, advice)
        };
        if let Some(momentum) = self.momentum {
            let Some(own) = optimizer.momentum() else {
                let names = with(|optimizer| optimizer.momentum().is_some());
                return Err(refuse("--momentum", momentum.to_string(), names));
            };
            *own = momentum;
        }
        if let Some(nesterov) = self.nesterov {
            let found = if nesterov.is_on() { "on" } else { "off" };
            let Some(own) = optimizer.nesterov() else {
                return Err(refuse(
                    "--nesterov",
                    found.into(),
                    with(|optimizer| optimizer.nesterov().is_some()),
                ));
            };
            *own = nesterov.is_on();
        }
        if let Some(epsilon) = self.epsilon {
            let Some(own) = optimizer.epsilon() else {
                let names = with(|optimizer| optimizer.epsilon().is_some());
                return Err(refuse("--epsilon", epsilon.to_string(), names));
            };
            *own = epsilon;
        }
        if let Some(betas) = &self.betas {
            let found = betas.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
            let Some(own) = optimizer.betas() else {
                return Err(refuse("--betas", found, with(|optimizer| optimizer.betas().is_some())));
            };
            let &[first, second] = &betas[..] else {
                let advice = "give them as in 0.9,0.999";
                return Err(Error::new(ErrorKind::Config, "--betas", "two numbers", found, advice));
            };
            let [own_first, own_second] = own;
            (*own_first, *own_second) = (first, second);
        }
        Ok(optimizer)
    }
}
