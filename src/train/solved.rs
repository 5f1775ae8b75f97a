//! The closed forms of several regularisations, which the processes of a job divide.

use crate::Result;
use crate::device::Device;
use crate::model::Head;
use std::slice::Chunks;
use std::vec::IntoIter;

/// A head with the correlations of its directions, in descending order.
pub(super) type Solution = (Head, Vec<f64>);

/// The solutions of regularisations, in their order. As many are computed at a time as there are processes, one in each.
pub(super) struct Solved<'a, S, E> {
    device: &'a Device,
    rounds: Chunks<'a, f64>,
    ready: IntoIter<(f64, Solution)>,
    solve: S,
    empty: E,
}

impl<'a, S, E> Solved<'a, S, E>
where
    S: FnMut(f64) -> Result<Solution>,
    E: Fn(usize) -> Result<Head>,
{
    /// `solve` computes a solution. `empty` makes a head of so many directions, whose weights another process has computed.
    pub fn new(device: &'a Device, regularizations: &'a [f64], solve: S, empty: E) -> Self {
        let [_, size] = device.place();
        Self { device, rounds: regularizations.chunks(size), ready: Vec::new().into_iter(), solve, empty }
    }

    fn round(&mut self, regularizations: &[f64]) -> Result<Vec<(f64, Solution)>> {
        let [place, size] = self.device.place();
        let own = regularizations.get(place).map(|&regularization| (self.solve)(regularization)).transpose();
        if size == 1 {
            return Ok(regularizations.iter().copied().zip(own?).collect());
        }
        self.device.agree("closed forms", own.as_ref().map(|_| ()).map_err(Clone::clone))?;
        let own = own?;
        let mut solutions = Vec::new();
        for (at, &regularization) in regularizations.iter().enumerate() {
            // The others give nothing, so all get what one has computed.
            let mine = own.as_ref().filter(|_| at == place);
            let correlations = mine.map_or_else(Vec::new, |(_, correlations)| correlations.clone());
            let values = mine.map_or_else(Vec::new, |(head, _)| head.values.clone());
            let correlations = self.device.join("correlations", Ok(correlations))?;
            let values = self.device.join("a head", Ok(values))?;
            let mut head = (self.empty)(correlations.len())?;
            head.values = values;
            solutions.push((regularization, (head, correlations)));
        }
        Ok(solutions)
    }
}

impl<S, E> Iterator for Solved<'_, S, E>
where
    S: FnMut(f64) -> Result<Solution>,
    E: Fn(usize) -> Result<Head>,
{
    type Item = Result<(f64, Solution)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(solution) = self.ready.next() {
            return Some(Ok(solution));
        }
        let round = self.rounds.next()?;
        match self.device.check_stop().and_then(|()| self.round(round)) {
            Ok(solutions) => self.ready = solutions.into_iter(),
            Err(error) => return Some(Err(error)),
        }
        self.ready.next().map(Ok)
    }
}
