//! The one error type of the crate. It says what the error is about, what was expected, what was found, and what to do.

use std::fmt;
use std::sync::Arc;

/// A [`std::result::Result`] with wgoal's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The origin of an [`Error`]. A program can react to it without reading the text.
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
    /// A training run whose numbers are no longer finite.
    Diverged,
    /// A training run that was asked to stop.
    Stopped,
}

/// What went wrong, in four parts that [`fmt::Display`] joins into one line:
/// `thing: expected ..., found ...; what to do`. Each part is shown as [`Plain`].
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    thing: String,
    expected: String,
    found: String,
    advice: String,
    more: Option<Box<More>>,
}

/// Parts that few errors have. They are boxed to keep every [`Result`] small.
#[derive(Debug, Clone, Default)]
struct More {
    excerpt: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
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
            more: None,
        }
    }

    /// The same error with other advice.
    #[must_use]
    pub fn with_advice(self, advice: impl fmt::Display) -> Self {
        Self { advice: advice.to_string(), ..self }
    }

    /// The same error with its cause, which [`std::error::Error::source`] returns.
    #[must_use]
    pub(crate) fn with_source(self, source: Arc<dyn std::error::Error + Send + Sync>) -> Self {
        let more = self.more.clone().unwrap_or_default();
        Self { more: Some(Box::new(More { source: Some(source), ..*more })), ..self }
    }

    /// The same error with an excerpt: the line of text that it is about, and a second line that marks the place in it.
    #[must_use]
    pub(crate) fn with_excerpt(self, excerpt: Option<String>) -> Self {
        let more = self.more.clone().unwrap_or_default();
        Self { more: Some(Box::new(More { excerpt, ..*more })), ..self }
    }

    /// The line of the user's text that the error is about, and below it a line with carets under the place. Both lines
    /// are indented, contain no control characters, and belong after the error. Only errors in weight files have an
    /// excerpt.
    pub fn excerpt(&self) -> Option<&str> {
        self.more.as_ref()?.excerpt.as_deref()
    }

    /// The origin of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the error is about: a file with its position, an option, a device. This and the next three parts are as
    /// they were given; show them as [`fmt::Display`] shows the error, without control characters.
    pub fn thing(&self) -> &str {
        &self.thing
    }

    /// The part that says what was expected.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// The part that says what was found.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// The part that says what to do.
    pub fn advice(&self) -> &str {
        &self.advice
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
        // Driver messages have several lines.
        let found = found.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.more.as_ref()?.source.as_ref()?)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { thing, expected, found, advice, .. } = self;
        let [thing, expected, found, advice] = [thing, expected, found, advice].map(Plain);
        write!(f, "{thing}: expected {expected}, found {found}; {advice}")
    }
}

/// Text that may come from outside, shown within one line. Characters that control a terminal, break the line or change
/// the direction of text appear as escapes (`\n`, `\u{1b}`). Long text is shown without its middle.
#[derive(Debug, Clone, Copy)]
pub struct Plain<T>(pub T);

impl<T: fmt::Display> fmt::Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Most characters shown from the start and from the end.
        const SHOWN: [usize; 2] = [600, 200];
        let mut text = String::new();
        for c in self.0.to_string().chars() {
            match c {
                '\n' | '\r' | '\t' => text.extend(c.escape_default()),
                c if is_unsafe(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        let characters = text.chars().count();
        if characters <= SHOWN[0] + SHOWN[1] {
            return f.write_str(&text);
        }
        let at = |character: usize| text.char_indices().nth(character).map_or(text.len(), |(at, _)| at);
        let (beginning, end) = (&text[..at(SHOWN[0])], &text[at(characters - SHOWN[1])..]);
        write!(f, "{beginning} ... {end}")
    }
}

/// Whether a character affects a terminal or the text around it, or is invisible.
pub fn is_unsafe(c: char) -> bool {
    let invisible = [
        '\u{ad}'..='\u{ad}',
        '\u{61c}'..='\u{61c}',
        '\u{180e}'..='\u{180e}',
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{feff}'..='\u{feff}',
        '\u{fff9}'..='\u{fffb}',
        '\u{e0000}'..='\u{e007f}',
    ];
    c.is_control() || invisible.iter().any(|range| range.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_without_control_characters() {
        let hostile = "a\nerror: b\r\t\x1b[31m\u{7f}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{2028}z";
        let error = Error::data(hostile, hostile, hostile, hostile);
        let part = r"a\nerror: b\r\t\u{1b}[31m\u{7f}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{2028}z";
        assert_eq!(error.to_string(), format!("{part}: expected {part}, found {part}; {part}"));
        assert_eq!([error.thing(), error.expected(), error.found(), error.advice()], [hostile; 4]);
        let driver = Error::device("x", "y", "Validation Error\n\nCaused by:\n  it\n", "z").to_string();
        assert_eq!(driver, "x: expected y, found Validation Error Caused by: it; z");
        // An error inside another is shown unchanged.
        let outer = Error::data("x", "y", &error, "z").to_string();
        assert_eq!(outer, format!("x: expected y, found {error}; z"));
    }

    #[test]
    fn of_a_long_part_the_middle_is_left_out() {
        for length in [799, 800, 801, 1_000_000] {
            let text = format!("<{}>", "é".repeat(length - 2));
            let shown = Plain(&text).to_string();
            assert_eq!(shown == text, length <= 800);
            assert!(shown.chars().count() <= 805 && shown.starts_with('<') && shown.ends_with('>'));
        }
    }
}
