//! Ctrl-C and requests to end while a run trains: the step is finished, and the caller says what is saved.

#[cfg(unix)]
use signal_hook::consts::SIGXFSZ;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use wgoal::{Error, ErrorKind, Result};

/// Watches for signals until it is dropped. The first signal sets a flag. The second one ends the process.
pub struct Interrupt {
    /// A signal has come.
    stop: Arc<AtomicBool>,
    /// Its number.
    signal: Arc<AtomicUsize>,
    /// Nothing is watched any more: signals have their usual effect.
    over: Arc<AtomicBool>,
}

impl Interrupt {
    /// Watches from now on.
    ///
    /// # Errors
    /// A system that does not allow it.
    pub fn watch() -> Result<Self> {
        let (stop, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGINT, SIGTERM] {
            // A signal runs these in this order.
            flag::register_conditional_default(number, over.clone())
                .and_then(|_| flag::register_conditional_shutdown(number, 128 + number, stop.clone()))
                .and_then(|_| flag::register_usize(number, signal.clone(), number as usize))
                .and_then(|_| flag::register(number, stop.clone()))
                .map_err(|error| {
                    let advice = "report this as a bug";
                    Error::new(ErrorKind::Config, "Ctrl-C", "a system that reports it", error, advice)
                })?;
        }
        Ok(Self { stop, signal, over })
    }

    /// Becomes true when a signal comes.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// The signal, if one has come.
    pub fn signal(&self) -> Option<Signal> {
        let number = self.signal.load(Ordering::Relaxed);
        self.stop.load(Ordering::Relaxed).then_some(Signal(number as u8))
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A file beyond the limit of files (`ulimit -f`) is an error of the call that writes it. Without this, a signal would end
/// the process.
pub fn keep_going_at_the_limit_of_files() {
    #[cfg(unix)]
    let _ = flag::register(SIGXFSZ, Arc::default());
}

/// A signal that asks a process to end.
#[derive(Clone, Copy)]
pub struct Signal(u8);

impl Signal {
    /// What sends it.
    pub fn name(self) -> &'static str {
        if i32::from(self.0) == SIGTERM { "SIGTERM" } else { "Ctrl-C" }
    }

    /// Its number, and 0 for no signal.
    pub fn number(signal: Option<Self>) -> u8 {
        signal.map_or(0, |signal| signal.0)
    }

    /// The signal of a number other than 0.
    pub fn of(number: u8) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The exit code of a process that it ends.
    pub fn exit_code(self) -> u8 {
        128 + self.0
    }
}
