//! An ensemble: a head whose embedding is those of its members side by side (docs/math.md, "Ensembles").

use super::Head;
use crate::{Error, Result};

/// The most members of an ensemble.
pub(crate) const MAX_MEMBERS: usize = 64;

/// Before the names of the parameters of a further member, counted from 2.
pub(super) fn prefix(number: usize) -> String {
    format!("members.{number}.")
}

impl Head {
    /// A head whose embedding is those of `members` side by side, each divided by the square root of their number. The
    /// inner product of two embeddings is the mean of the cosines of the members.
    ///
    /// # Errors
    /// No members, members that are ensembles, or members that differ in their options, in the widths of their features
    /// or in their standardisation.
    pub fn ensemble(mut members: Vec<Self>) -> Result<Self> {
        if members.is_empty() || members.len() > MAX_MEMBERS {
            let expected = format!("1 to {MAX_MEMBERS} members");
            return Err(Error::config("ensemble", expected, members.len(), "give other heads"));
        }
        let others = members.split_off(1);
        let mut first = members.remove(0);
        for member in std::iter::once(&first).chain(&others) {
            member.refuse_ensemble("ensemble of heads")?;
        }
        let options = |head: &Self| head.layout.config(head.standardize.is_some());
        let kind = |head: &Self| (options(head), head.layout.dims, head.standardize.clone());
        if let Some(at) = others.iter().position(|other| kind(other) != kind(&first)) {
            let found = format!("others in member {}", at + 2);
            let expected = "members with the options, the features and the standardisation of the first";
            return Err(Error::config(
                "ensemble",
                expected,
                found,
                "train the members with one configuration",
            ));
        }
        first.others = others;
        Ok(first)
    }

    /// The members of an ensemble, each as a head. One head is its own only member.
    pub fn members(&self) -> Vec<Self> {
        self.each().map(|member| Self { others: Vec::new(), ..member.clone() }).collect()
    }

    /// The members. The first one is this head itself: what is called on it must not look at its other members.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    /// The rows of an embedding from those of the members, `[rows, width]` each.
    pub(crate) fn side_by_side(&self, mut parts: Vec<Vec<f32>>) -> Vec<f32> {
        if parts.len() == 1 {
            return parts.pop().unwrap_or_default();
        }
        let (width, scale) = (self.layout.embed, (1.0 / (parts.len() as f64).sqrt()) as f32);
        let rows = parts.first().map_or(0, Vec::len) / width;
        let mut all = Vec::with_capacity(rows * width * parts.len());
        for row in 0..rows {
            all.extend(parts.iter().flat_map(|part| &part[row * width..][..width]).map(|x| x * scale));
        }
        all
    }

    /// # Errors
    /// This head is an ensemble, which `what` does not take.
    pub(crate) fn refuse_ensemble(&self, what: &str) -> Result<()> {
        match self.others.len() + 1 {
            1 => Ok(()),
            count => {
                let found = format!("an ensemble of {count}");
                Err(Error::config(what, "one head", found, "take one of its members: Head::members"))
            }
        }
    }

    /// The member that a parameter belongs to, and its name there.
    pub(super) fn owner<'a>(&self, name: &'a str) -> (usize, &'a str) {
        let own = (0, name);
        let Some((number, rest)) = name.strip_prefix("members.").and_then(|rest| rest.split_once('.')) else {
            return own;
        };
        match number.parse::<usize>() {
            Ok(number) if (2..=self.others.len() + 1).contains(&number) => (number - 1, rest),
            _ => own,
        }
    }
}
