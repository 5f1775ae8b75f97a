//! The progress of a run in a terminal: epoch, step, speed, and the time left of the whole run.

use super::{duration, is_quiet, is_silent};
use indicatif::{ProgressBar, ProgressStyle};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wgoal::Trainer;
use wgoal::train::Event;

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// A bar that follows a run. It vanishes when it is dropped. There is none unless standard error is a terminal.
pub struct Progress(ProgressBar, Arc<Mutex<Pace>>);

impl Progress {
    pub fn of(trainer: &mut Trainer) -> Self {
        let (steps, epochs) = (trainer.steps_per_epoch(), trainer.config().epochs);
        let bar = bar((epochs * steps) as u64, "{bar:30} {msg}");
        let pace = Arc::new(Mutex::new(Pace::new([epochs, steps], trainer.epoch(), Instant::now())));
        let (watcher, shared) = (bar.clone(), pace.clone());
        if !bar.is_hidden() {
            trainer.on_event(move |event| {
                let mut pace = shared.lock().unwrap_or_else(PoisonError::into_inner);
                pace.follow(event, Instant::now());
                watcher.set_position(pace.done() as u64);
                watcher.set_message(pace.to_string());
                ControlFlow::Continue(())
            });
        }
        Self(bar, pace)
    }

    /// Prints lines above the bar.
    pub fn above(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }

    /// An epoch has ended, with its validation.
    pub fn epoch_ended(&self) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).end_epoch(Instant::now());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A spinner beside `message` for work of unknown length. It vanishes when it is dropped.
pub struct Spinner(ProgressBar);

impl Spinner {
    pub fn new(message: &str) -> Self {
        let spinner = bar(0, "{spinner} {msg}  {elapsed}");
        if !spinner.is_hidden() {
            spinner.set_message(message.to_string());
            turn(&spinner);
        }
        Self(spinner)
    }
}

/// Lets a spinner turn, if the system allows another thread. indicatif would panic where it does not.
fn turn(spinner: &ProgressBar) {
    let turning = spinner.downgrade();
    let turn = move || {
        while let Some(spinner) = turning.upgrade().filter(|spinner| !spinner.is_finished()) {
            spinner.tick();
            drop(spinner);
            std::thread::sleep(TURN);
        }
    };
    let _ = std::thread::Builder::new().name("spinner".into()).spawn(turn);
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn bar(length: u64, style: &str) -> ProgressBar {
    let bar = if is_quiet() || is_silent() { ProgressBar::hidden() } else { ProgressBar::new(length) };
    bar.with_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What is done of a run, and how long steps and the ends of epochs take.
struct Pace {
    /// In all: epochs, and steps of an epoch.
    epochs: usize,
    steps: usize,
    /// The epoch at work, counted from 1, and its steps done.
    epoch: usize,
    step: usize,
    validating: bool,
    /// Number and seconds of the last steps; earlier ones count less and less.
    recent: [f64; 2],
    /// Seconds from the last step of an epoch to the first step of the next.
    between: Option<f64>,
    last: Instant,
}

impl Pace {
    /// How much a step counts compared with the one after it.
    const FADING: f64 = 0.98;

    fn new([epochs, steps]: [usize; 2], done: usize, now: Instant) -> Self {
        let (step, validating, recent) = (0, false, [0.0; 2]);
        Self { epochs, steps, epoch: done + 1, step, validating, recent, between: None, last: now }
    }

    fn follow(&mut self, event: Event, now: Instant) {
        match event {
            Event::Step { epoch, step, .. } => {
                let seconds = (now - self.last).as_secs_f64();
                (self.epoch, self.step, self.last, self.validating) = (epoch, step, now, false);
                let [count, total] = self.recent;
                self.recent = [count * Self::FADING + 1.0, total * Self::FADING + seconds];
            }
            Event::Validating { .. } => self.validating = true,
        }
    }

    fn end_epoch(&mut self, now: Instant) {
        self.between = Some((now - self.last).as_secs_f64());
        (self.epoch, self.step, self.last, self.validating) = (self.epoch + 1, 0, now, false);
    }

    /// Steps done.
    fn done(&self) -> usize {
        (self.epoch - 1) * self.steps + self.step
    }

    /// Seconds until the run ends: its steps, and the validation after each epoch, where that is known.
    fn left(&self) -> f64 {
        let [count, seconds] = self.recent;
        let steps = (self.epochs * self.steps).saturating_sub(self.done()) as f64;
        let ends = (self.epochs + 1).saturating_sub(self.epoch) as f64;
        steps * seconds / count.max(1.0) + ends * self.between.unwrap_or(0.0)
    }
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { epochs, steps, epoch, step, .. } = self;
        write!(f, "epoch {epoch}/{epochs}  ")?;
        match self.validating {
            true => f.write_str("validation")?,
            false => write!(f, "step {step}/{steps}")?,
        }
        let [count, seconds] = self.recent;
        if seconds > 0.0 {
            let over = if self.between.is_none() { "over " } else { "" };
            write!(f, "  {:.1} steps/s  {over}{} left", count / seconds, duration(self.left()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_contains_the_validations_to_come() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut pace = Pace::new([3, 10], 0, start);
        assert_eq!((pace.done(), pace.to_string().as_str()), (0, "epoch 1/3  step 0/10"));
        for step in 1..=10 {
            pace.follow(Event::Step { epoch: 1, step, steps: 10 }, at(step as f64));
        }
        // How long a validation takes is not known yet.
        assert_eq!(pace.to_string(), "epoch 1/3  step 10/10  1.0 steps/s  over 20 s left");
        pace.follow(Event::Validating { epoch: 1 }, at(10.0));
        assert_eq!(pace.to_string(), "epoch 1/3  validation  1.0 steps/s  over 20 s left");
        pace.end_epoch(at(15.0));
        assert_eq!((pace.done(), pace.left()), (10, 30.0));
        pace.follow(Event::Step { epoch: 2, step: 1, steps: 10 }, at(16.0));
        assert_eq!(pace.to_string(), "epoch 2/3  step 1/10  1.0 steps/s  29 s left");
        // A resumed run begins where it was.
        assert_eq!(Pace::new([3, 10], 2, start).done(), 20);
    }
}
