//! Writes the WGSL that devices run for a weight file. It comes from the same naga IR that the CPU interprets.
//!
//! WGSL or a driver does not define the result of some operations, such as a division of integers by zero. These are
//! written so that they have the interpreter's result on every device, because release builds do not ask drivers for
//! checks. All names are generated, so a file may use any name. Every step has its own line, so no compiler recurses.

use super::interpret::{STEPS, before_the_body};
use super::literals::{number, type_name, within};
use super::value::{B, F, I, I32_RANGE, U, U32_RANGE, Value};
use naga::valid::{FunctionInfo, ModuleInfo};
use naga::{
    Block, Expression as Ex, Function, Handle, Literal, Module, RelationalFunction, ScalarKind, Statement,
    SwitchValue, TypeInner, UnaryOperator,
};

/// A checked module, and the values of its expressions at module scope.
pub(super) struct Checked<'a> {
    pub module: &'a Module,
    pub info: &'a ModuleInfo,
    pub globals: &'a [Option<Value<f32>>],
    /// For each of the module's overrides, by index: the number k of the kernel's member `custom_params_k`.
    pub slots: &'a [usize],
}

/// The section of a shader with T and P of a module; `None` if it has an expression that
/// [`check`](super::supported::check) does not accept.
pub(super) fn section(
    checked: &Checked,
    triplet: Handle<Function>,
    pair: Handle<Function>,
) -> Option<String> {
    let mut out = String::from("var<private> own_turns: u32;\n");
    for k in checked.slots {
        out += &format!("var<private> own_parameter_{k}: f32;\n");
    }
    for (handle, function) in checked.module.functions.iter() {
        let named = vec![false; function.expressions.len()];
        let info = &checked.info[handle];
        let writer = Writer { checked, function, info, before: named.clone(), named, in_body: false, out };
        out = writer.function(handle)?;
    }
    // Parameters are variables that the kernel fills. One compilation therefore serves all values, and constant folding
    // cannot depend on them.
    let set: String = checked
        .slots
        .iter()
        .map(|k| format!("    own_parameter_{k} = params.custom_params_{k};\n"))
        .collect();
    Some(format!(
        "{out}fn weigh(open: f32, p: f32, n: f32, relative: vec2f) -> vec2f {{\n{set}    own_turns = 0u;\n    \
         let triplet = own_function_{}(p, n);\n    let pair = own_function_{}(p, n);\n    \
         // A loop that was cut: too large for a gradient, so that training ends with an error.\n    \
         if (own_turns > {STEPS}u) {{\n        return vec2f(3e38);\n    }}\n    return open * triplet * pair;\n}}",
        triplet.index(),
        pair.index()
    ))
}

pub(super) struct Writer<'a> {
    checked: &'a Checked<'a>,
    function: &'a Function,
    info: &'a FunctionInfo,
    /// Expressions that were written before the body.
    before: Vec<bool>,
    /// Expressions that have a name.
    named: Vec<bool>,
    /// Whether the variables are declared, so that they can be read.
    in_body: bool,
    out: String,
}

impl Writer<'_> {
    fn function(mut self, handle: Handle<Function>) -> Option<String> {
        let types = &self.checked.module.types;
        let mut arguments = Vec::new();
        for (k, argument) in self.function.arguments.iter().enumerate() {
            arguments.push(format!("a{k}: {}", type_name(&types[argument.ty].inner)?));
        }
        let result = match &self.function.result {
            Some(result) => Some(type_name(&types[result.ty].inner)?),
            None => None,
        };
        let arrow = result.as_ref().map_or(String::new(), |result| format!(" -> {result}"));
        self.out += &format!("fn own_function_{}({}){arrow} {{\n", handle.index(), arguments.join(", "));
        for handle in before_the_body(self.function) {
            // Expressions that only the body can evaluate are left out. No variable needs them for its initial value.
            if self.is_value(handle) && !self.function.expressions[handle].needs_pre_emit() {
                self.before[handle.index()] = self.name(handle).is_some();
            }
        }
        for (variable, local) in self.function.local_variables.iter() {
            let ty = type_name(&types[local.ty].inner)?;
            let init = match local.init {
                Some(init) => self.operand(init)?,
                None => format!("{ty}()"),
            };
            self.out += &format!("var v{}: {ty} = {init};\n", variable.index());
        }
        self.in_body = true;
        self.block(&self.function.body)?;
        // An endless loop is cut, so the function needs a `return` after it.
        if let Some(result) = result
            && !matches!(self.function.body.last(), Some(Statement::Return { .. }))
        {
            self.out += &format!("return {result}();\n");
        }
        self.out += "}\n";
        Some(self.out)
    }

    /// The function is long because it is one match over the statements of WGSL.
    fn block(&mut self, block: &Block) -> Option<()> {
        for statement in block {
            match statement {
                Statement::Emit(range) => {
                    for handle in range.clone() {
                        if self.is_value(handle) && !self.before[handle.index()] {
                            self.name(handle)?;
                        }
                    }
                }
                Statement::Block(block) => {
                    self.out += "{\n";
                    self.block(block)?;
                    self.out += "}\n";
                }
                Statement::If { condition, accept, reject } => {
                    self.out += &format!("if ({}) {{\n", self.operand(*condition)?);
                    self.block(accept)?;
                    if !reject.is_empty() {
                        self.out += "} else {\n";
                        self.block(reject)?;
                    }
                    self.out += "}\n";
                }
                Statement::Switch { selector, cases } => {
                    self.out += &format!("switch {} {{\n", self.operand(*selector)?);
                    let mut values = Vec::new();
                    for case in cases {
                        values.push(match case.value {
                            SwitchValue::I32(k) => number(I(k))?,
                            SwitchValue::U32(k) => number(U(k))?,
                            SwitchValue::Default => "default".into(),
                        });
                        if !case.fall_through {
                            self.out += &format!("case {}: {{\n", values.join(", "));
                            self.block(&case.body)?;
                            self.out += "}\n";
                            values.clear();
                        }
                    }
                    self.out += "}\n";
                }
                Statement::Loop { body, continuing, break_if } => {
                    self.out +=
                        &format!("loop {{\nown_turns += 1u;\nif (own_turns > {STEPS}u) {{\nbreak;\n}}\n");
                    self.block(body)?;
                    self.out += "continuing {\n";
                    self.block(continuing)?;
                    if let Some(condition) = break_if {
                        self.out += &format!("break if {};\n", self.operand(*condition)?);
                    }
                    self.out += "}\n}\n";
                }
                Statement::Break => self.out += "break;\n",
                Statement::Continue => self.out += "continue;\n",
                Statement::Return { value: None } => self.out += "return;\n",
                Statement::Return { value: Some(value) } => {
                    self.out += &format!("return {};\n", self.operand(*value)?);
                }
                Statement::Store { pointer, value } => {
                    if let Ex::Access { base, index } = self.function.expressions[*pointer] {
                        self.store_at(base, index, *value)?;
                        continue;
                    }
                    self.out += &format!("{} = {};\n", self.place(*pointer)?, self.operand(*value)?);
                }
                Statement::Call { function, arguments, result } => {
                    let arguments = arguments.iter().map(|a| self.operand(*a)).collect::<Option<Vec<_>>>()?;
                    if let Some(result) = result {
                        self.out += &format!("let e{} = ", result.index());
                        self.named[result.index()] = true;
                    }
                    self.out += &format!("own_function_{}({});\n", function.index(), arguments.join(", "));
                }
                _ => return None,
            }
        }
        Some(())
    }

    pub(super) fn type_of(&self, handle: Handle<Ex>) -> &TypeInner {
        self.info[handle].ty.inner_with(&self.checked.module.types)
    }

    /// Whether an expression is a number or vector, not a pointer to one.
    fn is_value(&self, handle: Handle<Ex>) -> bool {
        type_name(self.type_of(handle)).is_some()
    }

    /// Writes an expression as a `let` with its own name.
    fn name(&mut self, handle: Handle<Ex>) -> Option<()> {
        let value = self.expression(handle)?;
        self.out += &format!("let e{} = {value};\n", handle.index());
        self.named[handle.index()] = true;
        Some(())
    }

    pub(super) fn operand(&self, handle: Handle<Ex>) -> Option<String> {
        if self.named[handle.index()] {
            return Some(format!("e{}", handle.index()));
        }
        self.expression(handle)
    }

    /// A variable, or a component of it.
    fn place(&self, pointer: Handle<Ex>) -> Option<String> {
        match self.function.expressions[pointer] {
            Ex::LocalVariable(variable) if self.in_body => Some(format!("v{}", variable.index())),
            Ex::AccessIndex { base, index } => Some(format!("{}[{index}]", self.place(base)?)),
            Ex::Access { base, index } => {
                let vector = self.pointed(base)?;
                Some(format!("{}[{}]", self.place(base)?, self.index(index, length(vector))?))
            }
            _ => None,
        }
    }

    /// The vector that a pointer points to.
    fn pointed(&self, pointer: Handle<Ex>) -> Option<&TypeInner> {
        match self.type_of(pointer) {
            TypeInner::Pointer { base, .. } => Some(&self.checked.module.types[*base].inner),
            _ => None,
        }
    }

    /// Stores into a component with a computed index. It writes a choice into every component, because FXC refuses to
    /// store into a component whose index is not known.
    fn store_at(&mut self, base: Handle<Ex>, index: Handle<Ex>, value: Handle<Ex>) -> Option<()> {
        let (vector, place) = (self.pointed(base)?, self.place(base)?);
        let (len, ty) = (length(vector), type_name(vector)?);
        let k = type_name(self.type_of(index))?;
        let components: Vec<_> = (0..len).map(|component| format!("{k}({component})")).collect();
        let (components, index) = (components.join(", "), self.index(index, len)?);
        let here = format!("vec{len}<{k}>({components}) == vec{len}<{k}>({index})");
        let value = self.operand(value)?;
        self.out += &format!("{place} = select({place}, {ty}({value}), {here});\n");
        Some(())
    }

    /// A computed index, clamped to a vector of `len`.
    fn index(&self, index: Handle<Ex>, len: usize) -> Option<String> {
        let last = len.checked_sub(1)?;
        let k = self.operand(index)?;
        Some(match self.type_of(index).scalar()?.kind {
            ScalarKind::Uint => format!("min({k}, {last}u)"),
            _ => format!("min(max({k}, 0i), {last}i)"),
        })
    }

    /// The function is long because it is one match over the expressions of WGSL.
    fn expression(&self, handle: Handle<Ex>) -> Option<String> {
        let of = |handle: Handle<Ex>| self.operand(handle);
        let ty = type_name(self.type_of(handle))?;
        Some(match self.function.expressions[handle] {
            Ex::Literal(literal) => number(match literal {
                Literal::F32(x) => F(x),
                Literal::I32(x) => I(x),
                Literal::U32(x) => U(x),
                Literal::Bool(x) => B(x),
                _ => return None,
            })?,
            Ex::Constant(constant) => {
                let init = self.checked.module.constants[constant].init;
                let value = self.checked.globals[init.index()]?;
                let parts = value.parts[..value.len].iter().map(|part| number(*part));
                format!("{ty}({})", parts.collect::<Option<Vec<_>>>()?.join(", "))
            }
            Ex::Override(parameter) => {
                format!("own_parameter_{}", self.checked.slots.get(parameter.index())?)
            }
            Ex::ZeroValue(_) => format!("{ty}()"),
            Ex::Compose { ref components, .. } => {
                let parts = components.iter().map(|component| of(*component));
                format!("{ty}({})", parts.collect::<Option<Vec<_>>>()?.join(", "))
            }
            Ex::Splat { value, .. } => format!("{ty}({})", of(value)?),
            Ex::FunctionArgument(k) => format!("a{k}"),
            Ex::Load { pointer } => self.place(pointer)?,
            Ex::AccessIndex { base, index } => format!("{}[{index}]", of(base)?),
            Ex::Access { base, index } => {
                format!("{}[{}]", of(base)?, self.index(index, length(self.type_of(base)))?)
            }
            Ex::Swizzle { size, vector, pattern } => {
                let parts = pattern[..size as usize].iter().map(|part| ["x", "y", "z", "w"][*part as usize]);
                format!("{}.{}", of(vector)?, parts.collect::<String>())
            }
            Ex::Unary { op, expr } => {
                let sign = match op {
                    UnaryOperator::Negate => "-",
                    UnaryOperator::LogicalNot => "!",
                    UnaryOperator::BitwiseNot => "~",
                };
                format!("({sign}{})", of(expr)?)
            }
            Ex::Binary { op, left, right } => self.binary(op, left, right)?,
            Ex::Select { condition, accept, reject } => {
                format!("select({}, {}, {})", of(reject)?, of(accept)?, of(condition)?)
            }
            Ex::Relational { fun, argument } => {
                let name = match fun {
                    RelationalFunction::All => "all",
                    RelationalFunction::Any => "any",
                    _ => return None,
                };
                format!("{name}({})", of(argument)?)
            }
            Ex::As { expr, kind, convert: Some(_) } => {
                let from = self.type_of(expr);
                let range = match kind {
                    ScalarKind::Sint => Some(I32_RANGE),
                    ScalarKind::Uint => Some(U32_RANGE),
                    _ => None,
                };
                match range.filter(|_| from.scalar_kind() == Some(ScalarKind::Float)) {
                    Some(range) => format!("{ty}({})", within(&type_name(from)?, &of(expr)?, range)?),
                    None => format!("{ty}({})", of(expr)?),
                }
            }
            Ex::Math { fun, arg, arg1, arg2, .. } => self.mathematics(fun, &ty, arg, arg1, arg2)?,
            _ => return None,
        })
    }
}

fn length(inner: &TypeInner) -> usize {
    if let TypeInner::Vector { size, .. } = inner { *size as usize } else { 1 }
}
