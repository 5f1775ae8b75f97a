//! The one error type of the crate: what it is about, what was expected, what was found, what to do.

use std::fmt;

/// A [`std::result::Result`] with wgoal's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where an [`Error`] comes from; lets a program react without reading the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A dataset or array file: missing, malformed, or holding a bad value.
    Data,
    /// An option, a configuration, or an argument of a library call.
    Config,
    /// No fitting adapter, a driver's refusal, or a lost device.
    Device,
    /// A checkpoint or a run folder.
    Checkpoint,
    /// A training run that left the finite numbers.
    Diverged,
}

/// What went wrong, in four parts that [`fmt::Display`] joins into one line:
/// `thing: expected ..., found ...; what to do`.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    thing: String,
    expected: String,
    found: String,
    advice: String,
    excerpt: Option<Box<str>>,
}

impl Error {
    /// An error about `thing` (a file with its position, an option, a device).
    pub fn new(
        kind: ErrorKind,
        thing: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self {
            kind,
            thing: thing.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
            advice: advice.to_string(),
            excerpt: None,
        }
    }

    /// The same error with other words on what to do.
    #[must_use]
    pub fn with_advice(self, advice: impl fmt::Display) -> Self {
        Self { advice: advice.to_string(), ..self }
    }

    /// The same error with the line of a text that it is about, and a second line that marks the place in it.
    #[must_use]
    pub(crate) fn with_excerpt(self, excerpt: Option<String>) -> Self {
        Self { excerpt: excerpt.map(String::into_boxed_str), ..self }
    }

    /// The line of the user's text that the error is about, and below it a line with carets under the place: two
    /// indented lines without control characters, to be shown after the error. Of weight files only.
    pub fn excerpt(&self) -> Option<&str> {
        self.excerpt.as_deref()
    }

    /// Where it comes from.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn data(
        thing: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self::new(ErrorKind::Data, thing, expected, found, advice)
    }

    pub(crate) fn config(
        thing: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self::new(ErrorKind::Config, thing, expected, found, advice)
    }

    pub(crate) fn device(
        thing: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self::new(ErrorKind::Device, thing, expected, found, advice)
    }

    pub(crate) fn checkpoint(
        thing: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self::new(ErrorKind::Checkpoint, thing, expected, found, advice)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { thing, expected, found, advice, .. } = self;
        write!(f, "{thing}: expected {expected}, found {found}; {advice}")
    }
}
