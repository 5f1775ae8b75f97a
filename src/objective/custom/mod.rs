//! Weights of one's own: a WGSL file with `triplet_weight` and `pair_weights` in the place of the built-in ones.
//!
//! Owns reading and checking the file, its parameters, and its evaluation on the CPU. Every `override name: f32 = value;`
//! of the file is a parameter. On a GPU the text takes the place of a section of `shaders/weights.wgsl` and of the pages
//! that share it.

mod interpret;
mod supported;
mod value;

use crate::kernels::{KernelSpec, OWN, Real, WEIGHTS_SECTION, specialise, weighing_pages, weight_sections};
use crate::{Error, Result};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Function, Handle, Module, Scalar, Span, TypeInner, VectorSize, front::wgsl};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use value::Value;

/// A triplet weight T(p, n) and pair weights P⁺(p, n), P⁻(p, n) written as WGSL (goal-math.md section 5 assembles them).
///
/// ```
/// use wgoal::{CustomWeights, Objective};
/// let source = "
///     override gamma: f32 = 2.0;
///     fn triplet_weight(p: f32, n: f32) -> f32 { return exp(gamma * (n - p)); }
///     fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0 - p, max(n, 0.0)); }
/// ";
/// let weights = CustomWeights::new("mine.wgsl", source, [("gamma", 3.0)])?;
/// assert_eq!(weights.at(0.5, 0.5)?, [1.0, 0.5, 0.5]);
/// let objective = Objective::Custom { weights, margin: None };
/// # Ok::<(), wgoal::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct CustomWeights(Arc<Program>);

/// All that the rest follows from, and what a configuration holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    /// Name of the file, for messages.
    file: String,
    source: String,
    /// Those given; the others have the file's values.
    parameters: BTreeMap<String, f32>,
}

struct Program {
    text: Text,
    /// All parameters with their values.
    parameters: Vec<(String, f32)>,
    /// What takes the place of the section of the shader page.
    section: String,
    module: Module,
    triplet: Handle<Function>,
    pair: Handle<Function>,
}

impl CustomWeights {
    /// Weights from the text of a file, with values for some of its parameters; `file` is its name in messages.
    ///
    /// # Errors
    /// Whatever is wrong with the text, by line and column: WGSL that does not parse or validate, a function that is
    /// missing or has another signature, variables, bindings or entry points, constructs that the CPU cannot evaluate; an
    /// unknown parameter; a weight that is not finite on a grid over [−1, 1]².
    pub fn new<'a>(
        file: &str,
        source: &str,
        parameters: impl IntoIterator<Item = (&'a str, f32)>,
    ) -> Result<Self> {
        let parameters = parameters.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Text { file: file.into(), source: source.into(), parameters }.try_into()
    }

    /// The same weights with other values for some parameters.
    ///
    /// # Errors
    /// Those of [`CustomWeights::new`].
    pub fn with<'a>(&self, parameters: impl IntoIterator<Item = (&'a str, f32)>) -> Result<Self> {
        let Text { file, source, parameters: before } = &self.0.text;
        let mut all = before.clone();
        all.extend(parameters.into_iter().map(|(name, value)| (name.to_string(), value)));
        Text { file: file.clone(), source: source.clone(), parameters: all }.try_into()
    }

    /// Name of the file.
    pub fn file(&self) -> &str {
        &self.0.text.file
    }

    /// All parameters of the file with their values.
    pub fn parameters(&self) -> &[(String, f32)] {
        &self.0.parameters
    }

    /// (T, P⁺, P⁻) at a positive similarity p and a negative one n, in f32 or f64.
    ///
    /// # Errors
    /// A loop that does not end.
    pub fn at<T: Real>(&self, p: T, n: T) -> Result<[T; 3]> {
        let Program { text, module, triplet, pair, .. } = &*self.0;
        let arguments = [Value::float(p), Value::float(n)];
        let call = |function| {
            let floats = interpret::call(module, function, &arguments).map(|value| value.floats());
            floats.map_err(|found| {
                let what = format!("{} at p = {p}, n = {n}", text.file);
                Error::config(what, "weights that can be evaluated", found, "correct the file")
            })
        };
        match (call(*triplet)?.as_deref(), call(*pair)?.as_deref()) {
            (Some(&[triplet]), Some(&[positive, negative])) => Ok([triplet, positive, negative]),
            _ => Err(Error::config(&text.file, "weights that are numbers", "none", "report this as a bug")),
        }
    }

    /// What takes the place of the section of the shader page; the parameters are set by its members `own_k`.
    pub(crate) fn section(&self) -> String {
        self.0.section.clone()
    }
}

impl fmt::Debug for CustomWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.text.fmt(f)
    }
}

impl PartialEq for CustomWeights {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl From<CustomWeights> for Text {
    fn from(weights: CustomWeights) -> Self {
        weights.0.text.clone()
    }
}

impl TryFrom<Text> for CustomWeights {
    type Error = Error;

    fn try_from(text: Text) -> Result<Self> {
        let declared = parse(&text.file, &text.source, 0)?;
        let (page, device_page, parameters) = with_values(&text, &declared)?;
        let module = parse(&text.file, &page, 0)?;
        let fault = |span: Span, expected: &str, found: &str, advice: &str| {
            Error::config(place(&text.file, &page, span, 0), expected, found, advice)
        };
        if let Some(entry) = module.entry_points.first() {
            let at = page.find(&entry.name).unwrap_or(0) as u32;
            let found = format!("the entry point `{}`", entry.name);
            return Err(fault(Span::new(at, at), "functions of p and n", &found, "take it out"));
        }
        if let Some((handle, variable)) = module.global_variables.iter().next() {
            let found = match variable.space {
                AddressSpace::Uniform | AddressSpace::Storage { .. } => "a binding",
                _ => "a variable of the module",
            };
            let span = module.global_variables.get_span(handle);
            return Err(fault(span, "weights that depend on p and n alone", found, "take it out"));
        }
        supported::check(&module).map_err(|(span, found)| {
            let expected = "arithmetic and functions on numbers and vectors";
            fault(span, expected, &found, "write it another way, so that the CPU can evaluate it too")
        })?;
        let triplet = function(&text.file, &page, &module, "triplet_weight", TRIPLET)?;
        let pair = function(&text.file, &page, &module, "pair_weights", PAIR)?;
        let section = section(&device_page, &parameters);
        let weights = Self(Arc::new(Program { parameters, triplet, pair, section, module, text }));
        for kernel in weighing_pages() {
            weights.check_on_a_page(kernel, &page, &device_page)?;
        }
        weights.check_finite()?;
        Ok(weights)
    }
}

impl CustomWeights {
    /// Whether the text holds in the place of a kernel's section, where the kernel's own names are taken.
    fn check_on_a_page(&self, kernel: &KernelSpec, page: &str, device_page: &str) -> Result<()> {
        let Program { text: Text { file, .. }, module, .. } = &*self.0;
        let composed = specialise(kernel.source, &weight_sections(Some(self)))?;
        let before = composed.lines().position(|line| line == format!("// {WEIGHTS_SECTION}"));
        // The section's text begins on a line of its own.
        let before = before.unwrap_or(0) as u32 + 2;
        let rest = composed.replace(device_page, "");
        let taken = |name: &str| {
            let declared = |line: &str| {
                let words: Vec<_> = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
                let keyword = ["fn", "var", "const", "struct"].iter().any(|word| words.contains(word));
                keyword && !line.starts_with(char::is_whitespace) && words.contains(&name)
            };
            rest.lines().filter(|line| !line.starts_with("//")).any(declared)
        };
        let functions =
            module.functions.iter().map(|(h, f)| (f.name.as_deref(), module.functions.get_span(h)));
        let constants =
            module.constants.iter().map(|(h, c)| (c.name.as_deref(), module.constants.get_span(h)));
        for (name, span) in functions.chain(constants) {
            if let Some(name) = name.filter(|name| taken(name)) {
                return Err(Error::config(
                    place(file, page, span, 0),
                    "names that the kernel does not use itself",
                    format!("`{name}`"),
                    "choose another name",
                ));
            }
        }
        parse(file, &composed, before).map(|_| ())
    }

    /// Whether all weights are finite in f32, also where a cosine is off [−1, 1] by rounding.
    fn check_finite(&self) -> Result<()> {
        const STEPS: i16 = 20;
        let grid = |k: i16| match k {
            ..0 => -1.000_001,
            0..=STEPS => 2.0 * f32::from(k) / f32::from(STEPS) - 1.0,
            _ => 1.000_001,
        };
        for (p, n) in (-1..=STEPS + 1).flat_map(|p| (-1..=STEPS + 1).map(move |n| (grid(p), grid(n)))) {
            let weights = self.at(p, n)?;
            let bad = weights.iter().zip(["triplet_weight", "pair_weights.x", "pair_weights.y"]);
            if let Some((value, name)) = bad.into_iter().find(|(value, _)| !value.is_finite()) {
                return Err(Error::config(
                    format!("{name} of {} at p = {p}, n = {n}", self.file()),
                    "a finite number",
                    value,
                    "keep exponents, divisors and roots in bounds over [-1, 1], and a little beyond by rounding",
                ));
            }
        }
        Ok(())
    }
}

const TRIPLET: &str = "fn triplet_weight(p: f32, n: f32) -> f32";
const PAIR: &str = "fn pair_weights(p: f32, n: f32) -> vec2f";

/// The user's text where the page has the built-in weights.
fn section(page: &str, parameters: &[(String, f32)]) -> String {
    let set = parameters.iter().enumerate().map(|(k, (name, _))| format!("    {name} = params.own_{k};\n"));
    format!(
        "\n{page}\nfn weigh(open: f32, p: f32, n: f32, relative: vec2f) -> vec2f {{\n{}    return open * \
         triplet_weight(p, n) * pair_weights(p, n);\n}}",
        set.collect::<String>()
    )
}

/// File, line and column of a part of a text that begins after `before` lines of another.
fn place(file: &str, source: &str, span: Span, before: u32) -> String {
    let at = span.location(source);
    match span.is_defined() && at.line_number > before {
        true => format!("{file}, line {}, column {}", at.line_number - before, at.line_position),
        false => file.to_string(),
    }
}

fn parse(file: &str, source: &str, before: u32) -> Result<Module> {
    let advice = "correct the file; examples/weights has some that work";
    let module = wgsl::parse_str(source).map_err(|e| {
        let span = e.labels().next().map_or(Span::UNDEFINED, |(span, _)| span);
        Error::config(place(file, source, span, before), "WGSL", e.message(), advice)
    })?;
    // Nothing beyond the core of WGSL.
    Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).map_err(|e| {
        let span = e.spans().map(|(span, _)| *span).filter(Span::is_defined);
        let span = span.min_by_key(|span| span.to_range().map(|range| range.len())).unwrap_or_default();
        let mut cause: &dyn std::error::Error = e.as_inner();
        let mut found = cause.to_string();
        while let Some(next) = cause.source() {
            cause = next;
            found = format!("{found}: {cause}");
        }
        Error::config(place(file, source, span, before), "valid WGSL", found, advice)
    })?;
    Ok(module)
}

/// The text with its `override`s as constants of the values given; with them as variables; all of these values.
fn with_values(text: &Text, module: &Module) -> Result<(String, String, Vec<(String, f32)>)> {
    let Text { file, source, parameters } = text;
    let mut declared = Vec::new();
    for (handle, parameter) in module.overrides.iter() {
        let span = module.overrides.get_span(handle);
        let fault = |expected: &str, found: &str| {
            let advice = "write `override name: f32 = value;`";
            Error::config(place(file, source, span, 0), expected, found, advice)
        };
        let float = module.types[parameter.ty].inner == TypeInner::Scalar(Scalar::F32);
        let (true, Some(name), None) = (float, &parameter.name, parameter.id) else {
            return Err(fault("a parameter of type f32", "an `override` of another type, or with an @id"));
        };
        let Some(value) = parameter.init.and_then(|init| module.global_expressions.get_span(init).to_range())
        else {
            return Err(fault("a parameter with a value", "none"));
        };
        // Of the whole declaration, from its keyword on.
        let start = span.to_range().map_or(0, |span| span.start);
        let keyword = source[start..value.start].find("override").unwrap_or(0);
        declared.push((name.clone(), start + keyword..value.end, value));
    }
    for (name, value) in parameters {
        if !declared.iter().any(|(declared, ..)| declared == name) {
            let names: Vec<_> = declared.iter().map(|(name, ..)| name.as_str()).collect();
            let expected = match names[..] {
                [] => format!("a parameter of {file}, which declares none"),
                _ => format!("a parameter of {file}: {}", names.join(", ")),
            };
            let advice = "declare it in the file as `override name: f32 = value;`";
            return Err(Error::config("--param", expected, format!("`{name}`"), advice));
        }
        if !value.is_finite() {
            return Err(Error::config(format!("--param {name}"), "a finite number", value, "give a number"));
        }
    }
    if declared.len() > OWN {
        return Err(Error::config(
            file,
            format!("at most {OWN} parameters"),
            declared.len(),
            "make the others `const`",
        ));
    }
    // From the end, so that the places before stay what they are.
    declared.sort_by_key(|(_, range, _)| std::cmp::Reverse(range.start));
    let rewritten = |keyword: &str, value: &dyn Fn(usize, &str, &str) -> String| {
        let mut page = source.clone();
        for (k, (name, range, value_range)) in declared.iter().rev().enumerate().rev() {
            let lines = "\n".repeat(source[range.clone()].matches('\n').count());
            let value = value(k, name, &source[value_range.clone()]);
            page.replace_range(range.clone(), &format!("{keyword} {name}: f32 = {value}{lines}"));
        }
        page
    };
    let given = |_, name: &str, value: &str| {
        parameters.get(name).map_or_else(|| value.to_string(), |given| format!("{given:?}"))
    };
    let page = rewritten("const", &given);
    let constants = parse(file, &page, 0)?;
    let values = declared.iter().rev().map(|(name, ..)| {
        let value = constants.constants.iter().find(|(_, constant)| constant.name.as_ref() == Some(name));
        let value = value.and_then(|(_, constant)| match constants.global_expressions[constant.init] {
            naga::Expression::Literal(naga::Literal::F32(x)) => Some(x),
            _ => None,
        });
        let value = value.ok_or_else(|| {
            let advice = "give it a number";
            Error::config(format!("{file}, parameter {name}"), "a number", "another expression", advice)
        })?;
        Ok((name.clone(), value))
    });
    let values = values.collect::<Result<Vec<_>>>()?;
    // A variable that the kernel fills: one compilation for all values, and no folding that would depend on them.
    let device_page = rewritten("var<private>", &|k, _, _| format!("{:?}", values[k].1));
    Ok((page, device_page, values))
}

/// A function of the module by its name, if its signature is the one expected.
fn function(
    file: &str,
    page: &str,
    module: &Module,
    name: &str,
    signature: &str,
) -> Result<Handle<Function>> {
    let found = module.functions.iter().find(|(_, function)| function.name.as_deref() == Some(name));
    let Some((handle, function)) = found else {
        let (expected, found) = (format!("`{signature}`"), format!("no function {name}"));
        return Err(Error::config(file, expected, found, "define it; examples/weights has some that work"));
    };
    let float = TypeInner::Scalar(Scalar::F32);
    let result = match signature {
        PAIR => TypeInner::Vector { size: VectorSize::Bi, scalar: Scalar::F32 },
        _ => float.clone(),
    };
    let takes = function.arguments.len() == 2
        && function.arguments.iter().all(|argument| module.types[argument.ty].inner == float);
    let gives = function.result.as_ref().is_some_and(|found| module.types[found.ty].inner == result);
    match takes && gives {
        true => Ok(handle),
        false => Err(Error::config(
            place(file, page, module.functions.get_span(handle), 0),
            format!("`{signature}`"),
            format!("{name} with other arguments or another result"),
            "change the function's signature",
        )),
    }
}
