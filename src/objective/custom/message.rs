//! Errors about a weight file: line and column, the line itself, and a description in terms of WGSL instead of the
//! parser's.

use super::literals::type_name;
use crate::Error;
use naga::front::wgsl::ParseError;
use naga::valid::{ExpressionError, FunctionError, ValidationError};
use naga::{Span, WithSpan};
use std::fmt::Display;

const ADVICE: &str = "correct the file; examples/weights has some that work";

/// A text and the name of its file.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub file: &'a str,
    pub text: &'a str,
}

impl Source<'_> {
    /// An error about a part of the text.
    pub fn error(
        &self,
        span: Span,
        expected: impl Display,
        found: impl Display,
        advice: impl Display,
    ) -> Error {
        let part = span.to_range().filter(|part| self.text.get(part.clone()).is_some());
        let place = part.as_ref().map_or_else(
            || self.file.to_string(),
            |part| {
                let before = &self.text[..part.start];
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
                format!("{}, line {line}, column {column}", self.file)
            },
        );
        let found = shown(&found.to_string());
        Error::config(place, expected, found, advice).with_excerpt(part.map(|part| excerpt(self.text, part)))
    }

    /// The error for a text that the parser rejects.
    pub fn parse_error(&self, error: &ParseError) -> Error {
        let span = error.labels().next().map_or(Span::UNDEFINED, |(span, _)| span);
        let message = error.message();
        if message.contains("ecursion limit") {
            return self.error(span, "WGSL", "signs or brackets nested too deeply", "use more statements");
        }
        // Some messages name only the fault. Their label marks the part of the text.
        self.error(span, "WGSL", message, ADVICE)
    }

    /// The error for a text that can be parsed but that the validator rejects.
    pub fn validation_error(&self, error: &WithSpan<ValidationError>) -> Error {
        let spans = error.spans().map(|(span, _)| *span).filter(Span::is_defined);
        let span = spans.min_by_key(|span| span.to_range().map(|range| range.len())).unwrap_or_default();
        self.error(span, "valid WGSL", validation(error.as_inner()), ADVICE)
    }
}

/// Describes an error in terms of WGSL. The validator's own messages name its internal tables.
fn validation(error: &ValidationError) -> String {
    let ValidationError::Function { source, .. } = error else {
        return "a declaration that is not allowed here".into();
    };
    match source {
        FunctionError::Expression { source, .. } => match source {
            ExpressionError::InvalidBinaryOperandTypes { lhs_type, rhs_type, .. } => {
                match [lhs_type, rhs_type].map(type_name) {
                    [Some(left), Some(right)] => format!("an operator between {left} and {right}"),
                    _ => "an operator between types that it does not take".into(),
                }
            }
            ExpressionError::InvalidUnaryOperandType(..) => {
                "an operator on a type that it does not take".into()
            }
            ExpressionError::SelectValuesTypeMismatch { .. } => "`select` between values of two types".into(),
            ExpressionError::SelectConditionNotABool { .. } => "`select` by other than a bool".into(),
            ExpressionError::IndexOutOfBounds(_, index) => format!("component {index}, which is not there"),
            ExpressionError::DivideByZero => "a division by zero".into(),
            ExpressionError::ShiftAmountTooLarge { .. } => "a shift by more than 31".into(),
            ExpressionError::NegativeIndex(_) => "a negative index".into(),
            _ => "an operand or argument of a type that does not fit".into(),
        },
        FunctionError::InvalidReturnType { .. } => {
            "a function that returns another type, or ends without `return`".into()
        }
        FunctionError::InvalidIfType(_) => "a condition that is no bool".into(),
        FunctionError::InvalidSwitchType(_) => "a `switch` over other than an integer".into(),
        FunctionError::InvalidStoreTypes { .. } => "a value of another type than its variable's".into(),
        FunctionError::InvalidCall { .. } => "a call with arguments of other types or number".into(),
        FunctionError::BreakOutsideOfLoopOrSwitch
        | FunctionError::ContinueOutsideOfLoop
        | FunctionError::InvalidReturnSpot
        | FunctionError::ConflictingCaseType
        | FunctionError::MissingDefaultCase
        | FunctionError::MultipleDefaultCases => source.to_string(),
        FunctionError::ConflictingSwitchCase(_) => "the same `case` twice".into(),
        _ => "something that is not allowed here".into(),
    }
}

/// Characters of a line that are shown on each side of a place.
const WINDOW: usize = 60;

/// The line in which a part of the text begins, and below it carets under the part.
fn excerpt(text: &str, part: std::ops::Range<usize>) -> String {
    let start = text[..part.start].rfind('\n').map_or(0, |at| at + 1);
    let line = text[start..].split(['\n', '\r']).next().unwrap_or_default();
    let end = part.end.min(start + line.len());
    let before: Vec<char> = text[start..part.start].chars().collect();
    let marked: Vec<char> = text.get(part.start..end).unwrap_or_default().chars().collect();
    let after = line.get(end - start..).unwrap_or_default().chars().take(WINDOW);
    let cut = before.len().saturating_sub(WINDOW);
    let before: String = before[cut..].iter().copied().map(escaped).collect();
    let dots = if cut > 0 { "..." } else { "" };
    let before = if cut > 0 { before.as_str() } else { before.trim_start() };
    let carets: usize = marked.iter().take(WINDOW).map(|c| escaped(*c).chars().count()).sum();
    let marked: String = marked.into_iter().take(WINDOW).map(escaped).collect();
    let after: String = after.map(escaped).collect();
    let indent = " ".repeat(4 + dots.len() + before.chars().count());
    format!("    {dots}{before}{marked}{}\n{indent}{}", after.trim_end(), "^".repeat(carets.max(1)))
}

/// A character, escaped if it could change the state of a terminal.
fn escaped(c: char) -> String {
    match c {
        '\t' => " ".into(),
        '\'' | '"' | '\\' => c.into(),
        _ => c.escape_debug().collect(),
    }
}

/// Cuts a message to one short line. The message may contain parts of the text.
fn shown(message: &str) -> String {
    const LENGTH: usize = 200;
    let line: String = message.chars().take(LENGTH).map(escaped).collect();
    if message.chars().nth(LENGTH).is_some() { line + "..." } else { line }
}
