//! The names of objectives: parsing and printing.

use super::{GoalParams, HINGE_MARGIN, InfonceParams, Loss, Objective, PAIRS, SiglipParams, TRIPLETS};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

impl Objective {
    /// Parses a name as [`Objective::from_str`] does, but lets `base` parse the names between `+`, `*` and `@`.
    ///
    /// # Errors
    /// The errors of `base`; a weight that is not a number; negatives or positives that do not exist; negatives,
    /// positives or a direction that the objective cannot use.
    pub fn parse_with(name: &str, mut base: impl FnMut(&str) -> Result<Self>) -> Result<Self> {
        let mut terms = Vec::new();
        for term in name.split('+') {
            let (weight, term) = match term.split_once('*') {
                None => (1.0, term),
                Some((weight, term)) => match weight.trim().parse() {
                    Ok(weight) => (weight, term),
                    Err(_) => {
                        let thing = format!("objective `{name}`, before {term}");
                        let advice = "write sums as in infonce+0.5*cir:sig-ms";
                        return Err(Error::config(thing, "a number", format!("`{weight}`"), advice));
                    }
                },
            };
            let mut parts = term.trim().split('@');
            let mut objective = base(parts.next().unwrap_or_default())?;
            for part in parts {
                objective = match (part.strip_prefix("positives:"), part.parse()) {
                    (Some(positives), _) => objective.towards(positives.parse()?)?,
                    (None, Ok(direction)) => objective.in_direction(direction)?,
                    (None, Err(_)) => objective.over(part.parse()?)?,
                };
            }
            terms.push((weight, objective));
        }
        let objective = match terms.pop() {
            Some((1.0, only)) if terms.is_empty() => only,
            last => Self::Sum(terms.into_iter().chain(last).collect()),
        };
        objective.validate()?;
        Ok(objective)
    }
}

impl FromStr for Objective {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if name.contains(['+', '*', '@']) {
            return Self::parse_with(name, str::parse);
        }
        match name {
            "hinge" => return Ok(Self::Hinge { margin: HINGE_MARGIN }),
            "hinge-sum" => return Ok(Self::HingeSum { margin: HINGE_MARGIN }),
            "infonce" => return Ok(Self::Infonce(InfonceParams::default())),
            "infonce-masked" => {
                return Ok(Self::Infonce(InfonceParams { leave_out: true, ..Default::default() }));
            }
            "infonce-log-sum" => {
                return Ok(Self::Infonce(InfonceParams { log_sum: true, ..Default::default() }));
            }
            "siglip" => return Ok(Self::Siglip(SiglipParams::default())),
            "siglip-masked" => {
                return Ok(Self::Siglip(SiglipParams { leave_out: true, ..Default::default() }));
            }
            "custom" => {
                let expected = "a file that defines its weights";
                return Err(Error::config("objective `custom`", expected, "none", "add --weights FILE.wgsl"));
            }
            _ => {}
        }
        if let Some(loss) = Loss::ALL.into_iter().find(|loss| loss.name() == name) {
            return Ok(Self::Loss(loss, loss.params()));
        }
        let find = || {
            let (triplet, pair) = name.split_once(':')?;
            let triplet = TRIPLETS.iter().find(|(name, _)| *name == triplet)?.1;
            let pair = PAIRS.iter().find(|(name, _)| *name == pair)?.1;
            Some(Self::Goal(triplet, pair, GoalParams::default()))
        };
        find().ok_or_else(|| unknown(name))
    }
}

/// The error for an unknown name. It suggests the nearest known name.
fn unknown(name: &str) -> Error {
    let goal = Objective::goal_combinations().map(|objective| objective.to_string());
    let others = [
        "hinge",
        "hinge-sum",
        "infonce",
        "infonce-masked",
        "infonce-log-sum",
        "siglip",
        "siglip-masked",
        "custom",
    ]
    .into_iter();
    let others: Vec<_> = others.chain(Loss::ALL.map(|loss| loss.name())).map(String::from).collect();
    let expected = format!("TRIPLET:PAIR, {}", others.join(", "));
    let near = |known: &String| strsim::normalized_damerau_levenshtein(&name.to_lowercase(), known);
    let nearest =
        goal.chain(others).max_by(|a, b| near(a).total_cmp(&near(b))).filter(|known| near(known) > 0.6);
    let advice = match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => {
            "choose TRIPLET from con, nca, cir and PAIR from con, lin, lin-ms, sig, sig-ms, as in cir:sig-ms"
                .into()
        }
    };
    Error::config(format!("objective `{name}`"), expected, "another name", advice)
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goal(triplet, pair, _) => {
                let triplet = TRIPLETS.iter().find(|(_, t)| t == triplet).map_or("", |(name, _)| name);
                let pair = PAIRS.iter().find(|(_, p)| p == pair).map_or("", |(name, _)| name);
                write!(f, "{triplet}:{pair}")
            }
            Self::Loss(loss, _) => f.write_str(loss.name()),
            Self::Hinge { .. } => f.write_str("hinge"),
            Self::HingeSum { .. } => f.write_str("hinge-sum"),
            Self::Infonce(params) if params.leave_out => f.write_str("infonce-masked"),
            Self::Infonce(params) if params.log_sum => f.write_str("infonce-log-sum"),
            Self::Infonce(_) => f.write_str("infonce"),
            Self::Siglip(params) if params.leave_out => f.write_str("siglip-masked"),
            Self::Siglip(_) => f.write_str("siglip"),
            Self::Custom { .. } => f.write_str("custom"),
            Self::Over(negatives, objective) => write!(f, "{objective}@{negatives}"),
            Self::OneWay(direction, objective) => write!(f, "{objective}@{direction}"),
            Self::Towards(positives, objective) => write!(f, "{objective}@positives:{positives}"),
            Self::Sum(terms) => {
                for (k, (weight, objective)) in terms.iter().enumerate() {
                    let plus = if k > 0 { "+" } else { "" };
                    match weight {
                        1.0 => write!(f, "{plus}{objective}")?,
                        weight => write!(f, "{plus}{weight}*{objective}")?,
                    }
                }
                Ok(())
            }
        }
    }
}
