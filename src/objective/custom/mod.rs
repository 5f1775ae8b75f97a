//! Custom weights: a WGSL file with `triplet_weight` and `pair_weights` in place of the built-in weights.
//!
//! This module reads and checks the file and its parameters, and evaluates it on the CPU. Every
//! `override name: f32 = value;` of the file is a parameter. On a GPU, WGSL written from the file replaces a section
//! of `shaders/weights.wgsl` and of the shaders that share it.
//! The file is long because it is one type with all checks of a weight file.

mod interpret;
mod limits;
mod literals;
mod message;
mod operations;
mod supported;
mod value;
mod write;

use crate::device::specialise;
#[cfg(feature = "native")]
use crate::io;
use crate::math::Real;
use crate::{Error, Result};
use interpret::STEPS;
use message::Source;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Function, Handle, Module, Scalar, Span, TypeInner, VectorSize, front::wgsl};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use value::{Fault, Value};

/// Most parameters that a weight file may have.
pub(crate) const MAX_PARAMS: usize = 8;

/// Name of the section of `shaders/weights.wgsl` that holds T, P⁺ and P⁻, and that a weight file replaces.
pub(crate) const SECTION: &str = "section weights";

/// A triplet weight T(p, n) and pair weights P⁺(p, n), P⁻(p, n) written as WGSL (docs/math.md, "Custom weights").
///
/// ```
/// use wgoal::Objective;
/// use wgoal::objective::CustomWeights;
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

/// The inputs, from which everything else follows. A configuration stores these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    /// Name of the file, for messages.
    file: String,
    source: String,
    /// The parameters that were given. The others have the file's values.
    parameters: BTreeMap<String, f32>,
}

struct Program {
    text: Text,
    /// All parameters with their values.
    parameters: Vec<(String, f32)>,
    /// The text that replaces the section of the shader.
    section: String,
    module: Module,
    /// The values of the module's overrides, by index.
    overrides: Vec<f32>,
    /// The values of the expressions at module scope.
    globals: Vec<Option<Value<f32>>>,
    /// The most steps that the interpreter took for (T, P⁺, P⁻) on a grid over p and n.
    steps: usize,
    triplet: Handle<Function>,
    pair: Handle<Function>,
}

impl CustomWeights {
    /// Weights from the text of a file, with values for some of its parameters. `file` is its name in messages.
    ///
    /// # Errors
    /// A fault in the text, with line and column: WGSL that does not parse or validate, a function that is missing or
    /// has another signature, a variable, binding or entry point, or a construct that the CPU cannot evaluate. An
    /// unknown parameter. A weight that is not finite on a grid over [−1, 1]².
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

    /// (T, P⁺, P⁻) at a positive similarity p and a negative similarity n, in f32 or f64.
    ///
    /// # Errors
    /// A loop that does not end, or a result that depends on NaN.
    pub fn at<T: Real>(&self, p: T, n: T) -> Result<[T; 3]> {
        self.0.at(p, n, &mut 0)
    }

    /// The most operations that one evaluation took on the grid.
    pub(crate) fn steps(&self) -> usize {
        self.0.steps
    }

    /// The text that replaces the section of the shader; its members `custom_params_k` set the parameters.
    pub(crate) fn section(&self) -> String {
        self.0.section.clone()
    }
}

#[cfg(feature = "native")]
impl CustomWeights {
    /// [`CustomWeights::new`] on a file.
    ///
    /// # Errors
    /// A file that cannot be read, and those of [`CustomWeights::new`].
    pub fn open<'a>(
        path: impl AsRef<std::path::Path>,
        parameters: impl IntoIterator<Item = (&'a str, f32)>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let source = io::read_text(path, io::SMALL).map_err(|obstacle| {
            let advice = "give --weights a WGSL file with triplet_weight and pair_weights";
            obstacle.error(crate::ErrorKind::Config, path.display(), "a text file that can be read", advice)
        })?;
        // Editors on Windows may write a byte order mark first.
        let source = source.strip_prefix('\u{feff}').unwrap_or(&source);
        Self::new(&path.display().to_string(), source, parameters)
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

    // The function is long because it is the list of all checks of a weight file, in their order.
    fn try_from(text: Text) -> Result<Self> {
        let source = text.source();
        limits::check_text(&source)?;
        let (module, info) = parse(&source)?;
        if let Some(entry) = module.entry_points.first() {
            let at = source.text.find(&entry.name).unwrap_or(0);
            let found = format!("the entry point `{}`", entry.name);
            let span = Span::from(at..at + entry.name.len());
            return Err(source.error(span, "functions of p and n", found, "take it out"));
        }
        if let Some((handle, variable)) = module.global_variables.iter().next() {
            let found = match variable.space {
                AddressSpace::Uniform | AddressSpace::Storage { .. } => "a binding",
                _ => "a variable of the module",
            };
            let span = module.global_variables.get_span(handle);
            return Err(source.error(span, "weights that depend on p and n alone", found, "take it out"));
        }
        supported::check(&module, &info).map_err(|(span, found)| {
            let expected = "arithmetic and functions on numbers and vectors";
            source.error(span, expected, found, "write it another way, so that the CPU can evaluate it too")
        })?;
        limits::check_calls(&module).map_err(|(span, found)| {
            source.error(span, "functions that a device can hold", found, "use fewer calls")
        })?;
        let triplet = function(&source, &module, "triplet_weight", TRIPLET)?;
        let pair = function(&source, &module, "pair_weights", PAIR)?;
        let slots = parameters(&text, &module)?;
        let given = |name: &str| text.parameters.get(name).copied();
        let (overrides, globals) = interpret::globals(&module, given).map_err(|fault| {
            let advice = "give it a number, as in `override name: f32 = 0.5;`";
            source.error(fault.at, "a value that can be computed", fault.what, advice)
        })?;
        let mut values = vec![(String::new(), 0.0); slots.len()];
        for ((handle, parameter), slot) in module.overrides.iter().zip(&slots) {
            let value = overrides[handle.index()];
            if !value.is_finite() {
                let span = module.overrides.get_span(handle);
                return Err(source.error(span, "a finite number", value, "give the parameter another value"));
            }
            values[*slot] = (parameter.name.clone().unwrap_or_default(), value);
        }
        let checked = write::Checked { module: &module, info: &info, globals: &globals, slots: &slots };
        let section = write::section(&checked, triplet, pair).ok_or_else(|| {
            Error::config(&text.file, "text that can be written for devices", "other", "report this as a bug")
        })?;
        let program = Program {
            parameters: values,
            triplet,
            pair,
            section,
            module,
            overrides,
            globals,
            steps: 0,
            text,
        };
        let steps = program.check_finite()?;
        let weights = Self(Arc::new(Program { steps, ..program }));
        weights.check_in_kernel()?;
        Ok(weights)
    }
}

impl CustomWeights {
    /// Checks that the shader compiles with this section in place of its own.
    fn check_in_kernel(&self) -> Result<()> {
        let kernel = include_str!("../../../shaders/weights.wgsl");
        let composed = specialise(kernel, &[(SECTION, self.section())])?;
        parse(&Source { file: "weights.wgsl", text: &composed }).map(|_| ()).map_err(|error| {
            let what = format!("weights.wgsl with {}", self.file());
            Error::config(what, "a kernel that compiles", error, "report this as a bug")
        })
    }
}

impl Text {
    fn source(&self) -> Source<'_> {
        Source { file: &self.file, text: &self.source }
    }
}

impl Program {
    fn at<T: Real>(&self, p: T, n: T, steps: &mut usize) -> Result<[T; 3]> {
        let Self { text, module, overrides, globals, triplet, pair, .. } = self;
        let inner = interpret::Text { module, parameters: overrides, globals };
        let arguments = [Value::float(p), Value::float(n)];
        let mut call = |function| {
            let floats = interpret::call(&inner, function, &arguments, steps).map(|value| value.floats());
            floats.map_err(|Fault { what, at }| {
                let found = format!("{what}, at p = {p}, n = {n}");
                let advice = match *steps > STEPS {
                    true => format!("use fewer: an evaluation has {STEPS} operations"),
                    false => "keep arguments in bounds, as in sqrt(max(x, 0.0))".into(),
                };
                text.source().error(at, "weights that can be evaluated", found, advice)
            })
        };
        match (call(*triplet)?.as_deref(), call(*pair)?.as_deref()) {
            (Some(&[triplet]), Some(&[positive, negative])) => Ok([triplet, positive, negative]),
            _ => Err(Error::config(&text.file, "weights that are numbers", "none", "report this as a bug")),
        }
    }

    /// Checks that all weights are finite in f32 on a grid, which includes cosines that rounding moves out of [−1, 1].
    /// Returns the steps of the longest evaluation.
    fn check_finite(&self) -> Result<usize> {
        const GRID: i16 = 20;
        let grid = |k: i16| match k {
            ..0 => -1.000_001,
            0..=GRID => 2.0 * f32::from(k) / f32::from(GRID) - 1.0,
            _ => 1.000_001,
        };
        let mut most = 0;
        for (p, n) in (-1..=GRID + 1).flat_map(|p| (-1..=GRID + 1).map(move |n| (grid(p), grid(n)))) {
            let mut steps = 0;
            let weights = self.at(p, n, &mut steps)?;
            most = most.max(steps);
            let bad = weights.iter().zip(["triplet_weight", "pair_weights.x", "pair_weights.y"]);
            if let Some((value, name)) = bad.into_iter().find(|(value, _)| !value.is_finite()) {
                return Err(Error::config(
                    format!("{name} of {} at p = {p}, n = {n}", self.text.file),
                    "a finite number",
                    value,
                    "keep exponents, divisors and roots in bounds over [-1, 1], and a little beyond by rounding",
                ));
            }
        }
        Ok(most)
    }
}

const TRIPLET: &str = "fn triplet_weight(p: f32, n: f32) -> f32";
const PAIR: &str = "fn pair_weights(p: f32, n: f32) -> vec2f";

fn parse(source: &Source) -> Result<(Module, ModuleInfo)> {
    let module = wgsl::parse_str(source.text).map_err(|e| source.parse_error(&e))?;
    // Extensions of WGSL are not allowed.
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
    let info = validator.validate(&module).map_err(|e| source.validation_error(&e))?;
    Ok((module, info))
}

/// Checks the `override`s and the values given. Returns the parameter number of each override, in the order of the
/// text.
fn parameters(text: &Text, module: &Module) -> Result<Vec<usize>> {
    let Text { file, parameters, .. } = text;
    let mut declared = Vec::new();
    for (handle, parameter) in module.overrides.iter() {
        let span = module.overrides.get_span(handle);
        let fault = |expected: &str, found: &str| {
            text.source().error(span, expected, found, "write `override name: f32 = value;`")
        };
        let float = module.types[parameter.ty].inner == TypeInner::Scalar(Scalar::F32);
        let (true, Some(name)) = (float, &parameter.name) else {
            return Err(fault("a parameter of type f32", "an `override` of another type"));
        };
        if parameter.init.is_none() {
            return Err(fault("a parameter with a value", "none"));
        }
        declared.push((span.to_range().map_or(0, |span| span.start), name));
    }
    for (name, value) in parameters {
        if !declared.iter().any(|(_, declared)| *declared == name) {
            let mut names = declared.clone();
            names.sort_unstable();
            let names: Vec<_> = names.iter().map(|(_, name)| name.as_str()).collect();
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
    if declared.len() > MAX_PARAMS {
        return Err(Error::config(
            file,
            format!("at most {MAX_PARAMS} parameters"),
            declared.len(),
            "make the others `const`",
        ));
    }
    let before = |at: usize| declared.iter().filter(|(other, _)| *other < at).count();
    Ok(declared.iter().map(|(at, _)| before(*at)).collect())
}

/// Finds a function of the module by name, and checks its signature.
fn function(source: &Source, module: &Module, name: &str, signature: &str) -> Result<Handle<Function>> {
    let found = module.functions.iter().find(|(_, function)| function.name.as_deref() == Some(name));
    let Some((handle, function)) = found else {
        let (expected, found) = (format!("`{signature}`"), format!("no function {name}"));
        return Err(Error::config(
            source.file,
            expected,
            found,
            "define it; examples/weights has some that work",
        ));
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
        false => Err(source.error(
            module.functions.get_span(handle),
            format!("`{signature}`"),
            format!("{name} with other arguments or another result"),
            "change the function's signature",
        )),
    }
}
