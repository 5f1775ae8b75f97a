//! The contract between a shader and the host: its bindings, its parameter block, and the constants that the host sets.

use crate::{Error, Result};
use std::ops::Range;

/// How a shader uses a storage binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
    /// Read from a copy in an image. The texels are the vec4s of the region, 2,048 per row.
    Image,
}

/// The contract with a shader. Binding 0 is the uniform parameter block. The storage bindings follow in order.
#[derive(Debug, Clone, Copy)]
pub struct KernelSpec {
    /// Name of the shader file and of the dispatch function.
    pub name: &'static str,
    /// The text of the shader.
    pub source: &'static str,
    /// Members of the parameter block, in order, with their WGSL types.
    pub params: &'static [(&'static str, &'static str)],
    /// Storage bindings 1, 2, ...
    pub bindings: &'static [Access],
    /// Size of a workgroup with the constants as the shader file has them.
    pub workgroup: [u32; 3],
}

/// Sets the values of `const NAME = value;` lines of a shader. This sets tile sizes, for example: WGSL's `override`
/// cannot give the size of a thread's own arrays. A name `section NAME` replaces the lines between `// section NAME`
/// and `// end of section`.
///
/// # Errors
/// A constant does not occur exactly once, or a section is missing.
pub fn specialise(source: &str, constants: &[(&str, String)]) -> Result<String> {
    let mut lines: Vec<String> = source.lines().map(str::to_string).collect();
    for (name, value) in constants {
        if name.starts_with("section ") {
            let Some(inside) = section_lines(lines.iter().map(String::as_str), name) else {
                return Err(Error::config(
                    format!("shader {name}"),
                    format!("lines `// {name}` and `// end of section`"),
                    "none",
                    "mark the section in the shader",
                ));
            };
            lines.splice(inside, value.lines().map(str::to_string));
            continue;
        }
        let start = format!("const {name} = ");
        let mut matching = lines.iter_mut().filter(|line| line.starts_with(&start));
        match (matching.next(), matching.next()) {
            (Some(line), None) => *line = format!("{start}{value};"),
            (first, _) => {
                let found = if first.is_none() { "none" } else { "several" };
                return Err(Error::config(
                    format!("shader constant {name}"),
                    format!("one line `{start}...;`"),
                    found,
                    "name each constant of the shader once",
                ));
            }
        }
    }
    Ok(lines.join("\n"))
}

/// The lines between `// NAME` and the next `// end of section`.
pub(crate) fn section_lines<'a>(
    lines: impl Iterator<Item = &'a str> + Clone,
    name: &str,
) -> Option<Range<usize>> {
    let is = |line: &str, mark: &str| line.strip_prefix("// ") == Some(mark);
    let first = lines.clone().position(|line| is(line, name))? + 1;
    let len = lines.skip(first).position(|line| is(line, "end of section"))?;
    Some(first..first + len)
}
