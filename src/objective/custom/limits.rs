//! Size limits of a weight file. Parsers and drivers recurse, so the text is checked before it is parsed, and its calls
//! before a driver compiles them.

use super::message::Source;
use crate::{Error, Result};
use naga::{Expression, Function, Handle, Module, Span, Statement};

/// Most bytes of a file.
pub(crate) const BYTES: usize = 1 << 16;
/// Most names, numbers and signs from one `;` or brace to the next.
const TOKENS: usize = 1000;
/// Deepest nesting of brackets and braces. Each `else` of a chain counts as one level.
const NESTING: usize = 50;
/// Most declarations at module scope: functions, constants, overrides and others.
const DECLARATIONS: usize = 200;
/// Deepest nesting of blocks and calls.
const DEPTH: usize = 100;
/// Most expressions of a function, including those of every function it calls, once per call: drivers inline calls.
const INLINED: usize = 100_000;

/// Refuses a text that is too large or nested too deeply to be parsed.
pub(super) fn check_text(source: &Source) -> Result<()> {
    let text = source.text;
    if text.len() > BYTES {
        let expected = format!("at most {BYTES} bytes");
        let advice = "shorten the file; is it the right one?";
        return Err(Error::config(source.file, expected, "more", advice));
    }
    let too_many = |at: usize, limit: usize, what: &str, advice: &str| {
        let span = Span::from(at..at + 1);
        Err(source.error(span, format!("at most {limit} {what}"), "more", advice))
    };
    let (mut tokens, mut declarations) = (0, 0);
    // For the module and for every open brace: the number of open brackets, and the number of `else` branches so far.
    let mut levels = vec![[0usize; 2]];
    let mut after_block = false;
    for (at, token) in (Tokens { text, at: 0 }) {
        let first = token.chars().next().unwrap_or(' ');
        let Some(level) = levels.last_mut() else { break };
        if after_block && token != "else" {
            level[1] = 0;
        }
        after_block = false;
        match first {
            '(' | '[' => level[0] += 1,
            ')' | ']' => level[0] = level[0].saturating_sub(1),
            _ if token == "else" => level[1] += 1,
            '{' => levels.push([0; 2]),
            '}' => {
                levels.truncate(levels.len().saturating_sub(1).max(1));
                after_block = true;
            }
            _ => {}
        }
        tokens = if matches!(first, ';' | '{' | '}') { 0 } else { tokens + 1 };
        declarations += usize::from(levels.len() == 1 && matches!(first, ';' | '}'));
        let nesting = levels.len() - 1 + levels.iter().flatten().sum::<usize>();
        if tokens > TOKENS {
            return too_many(at, TOKENS, "names, numbers and signs in a statement", "split the statement");
        }
        if nesting > NESTING {
            return too_many(at, NESTING, "brackets or branches within each other", "use more statements");
        }
        if declarations > DECLARATIONS {
            return too_many(at, DECLARATIONS, "declarations", "use fewer functions and constants");
        }
    }
    Ok(())
}

/// Refuses functions whose calls are nested too deeply, or whose size with all calls inlined is too large.
pub(super) fn check_calls(module: &Module) -> Result<(), (Span, String)> {
    // For every function: the nesting of blocks and calls, and the inlined expressions. A function comes after those it
    // calls.
    let mut sizes: Vec<[usize; 2]> = Vec::new();
    for (handle, function) in module.functions.iter() {
        let mut size = [0, function.expressions.len()];
        measure(&function.body, 1, &sizes, &mut size);
        let over = match size {
            [depth, _] if depth > DEPTH => format!("more than {DEPTH} blocks and calls within each other"),
            [_, inlined] if inlined > INLINED => {
                format!("calls of functions that come to more than {INLINED} operations")
            }
            _ => {
                sizes.push(size);
                continue;
            }
        };
        return Err((place_of(module, handle, function), over));
    }
    Ok(())
}

fn place_of(module: &Module, handle: Handle<Function>, function: &Function) -> Span {
    let call = function.expressions.iter().find(|(_, e)| matches!(e, Expression::CallResult(_)));
    call.map_or(module.functions.get_span(handle), |(call, _)| function.expressions.get_span(call))
}

fn measure(block: &naga::Block, depth: usize, sizes: &[[usize; 2]], size: &mut [usize; 2]) {
    size[0] = size[0].max(depth);
    for statement in block {
        match statement {
            Statement::Block(block) => measure(block, depth + 1, sizes, size),
            Statement::If { accept, reject, .. } => {
                [accept, reject].iter().for_each(|block| measure(block, depth + 1, sizes, size));
            }
            Statement::Switch { cases, .. } => {
                cases.iter().for_each(|case| measure(&case.body, depth + 1, sizes, size));
            }
            Statement::Loop { body, continuing, .. } => {
                [body, continuing].iter().for_each(|block| measure(block, depth + 1, sizes, size));
            }
            Statement::Call { function, .. } => {
                let [deep, inlined] = sizes.get(function.index()).copied().unwrap_or_default();
                size[0] = size[0].max(depth + deep);
                size[1] = size[1].saturating_add(inlined);
            }
            _ => {}
        }
    }
}

/// Iterates over the words, numbers and single signs of a text, with their positions. Comments are skipped.
struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.text.get(self.at..)?;
            let first = rest.chars().next()?;
            let len = if rest.starts_with("//") {
                let ends = |c| matches!(c, '\n'..='\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
                rest.find(ends).unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                comment(rest)
            } else if is_word(first) {
                // A number may contain a point.
                let part = |c: char| is_word(c) || c == '.' && first.is_ascii_digit();
                let len = rest.find(|c| !part(c)).unwrap_or(rest.len());
                self.at += len;
                return Some((self.at - len, &rest[..len]));
            } else if first.is_whitespace() {
                first.len_utf8()
            } else {
                self.at += first.len_utf8();
                return Some((self.at - first.len_utf8(), &rest[..first.len_utf8()]));
            };
            self.at += len;
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of a comment that begins with `/*`. Such comments can be nested.
fn comment(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut at, mut open) = (0, 0);
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (open, at) = (open + 1, at + 2),
            Some(b"*/") if open == 1 => return at + 2,
            Some(b"*/") => (open, at) = (open - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}
