//! An interpreter for pure WGSL functions of numbers. It evaluates naga's IR in f32 or f64. `--device cpu` runs custom
//! weights with it, and the results of GPUs are compared with it.
//!
//! It supports scalars and vectors, arithmetic, built-in mathematics, `if`, `switch`, loops, local variables and calls.
//! [`check`](super::supported::check) rejects everything else, with its position, before anything is evaluated.

use super::value::{B, F, Fault, I, MISMATCH, U, UNSUPPORTED, Value, binary, convert, mathematics};
use crate::math::Real;
use naga::{
    Block, Expression as Ex, Function, Handle, Literal, LocalVariable, Module, RelationalFunction,
    ScalarKind, Statement, SwitchValue, TypeInner, UnaryOperator,
};

/// Most statements and expressions in one evaluation of both functions. More count as an endless loop.
pub(super) const STEPS: usize = 100_000;

const ENDLESS: Fault = Fault::new("a loop that does not end, or more than 100000 operations");

/// A module, and the values of its expressions at module scope.
pub(super) struct Text<'a> {
    pub module: &'a Module,
    /// The values of the module's overrides, by index.
    pub parameters: &'a [f32],
    /// The values of `module.global_expressions`; `None` for a value that is not a number or vector.
    pub globals: &'a [Option<Value<f32>>],
}

/// Evaluates a function of a module that [`check`](super::supported::check) accepts, and adds the steps it took to
/// `steps`.
pub(super) fn call<T: Real>(
    text: &Text,
    function: Handle<Function>,
    arguments: &[Value<T>],
    steps: &mut usize,
) -> Result<Value<T>, Fault> {
    let value = Frame::run(text, &text.module.functions[function], arguments, steps);
    // Some statements have no position. Their errors get the position of the function.
    value.map_err(|fault| fault.at(text.module.functions.get_span(function)))?.ok_or(UNSUPPORTED)
}

/// The values of the parameters (as `given`, else the defaults) and of all expressions at module scope.
pub(super) fn globals(
    module: &Module,
    given: impl Fn(&str) -> Option<f32>,
) -> Result<(Vec<f32>, Vec<Option<Value<f32>>>), Fault> {
    let expressions = &module.global_expressions;
    let mut parameters = vec![0.0; module.overrides.len()];
    let mut values: Vec<Option<Value<f32>>> = vec![None; expressions.len()];
    let fault = |handle: Handle<Ex>, fault: Fault| fault.at(expressions.get_span(handle));
    // An expression uses only earlier expressions, and an override only earlier overrides. An expression that uses an
    // override is evaluated again when the override has its value.
    for (handle, parameter) in module.overrides.iter() {
        let name = parameter.name.as_deref().unwrap_or_default();
        let Some(init) = parameter.init else { continue };
        evaluate_all(module, &parameters, &mut values, init.index());
        let float = values[init.index()].and_then(|value| value.floats()?.first().copied());
        let default = || float.ok_or(fault(init, UNSUPPORTED));
        parameters[handle.index()] = given(name).map_or_else(default, Ok)?;
    }
    if let Some(last) = expressions.len().checked_sub(1) {
        evaluate_all(module, &parameters, &mut values, last);
    }
    Ok((parameters, values))
}

/// Evaluates the expressions at module scope up to `last`. Those whose value is not a number or vector stay `None`.
fn evaluate_all(module: &Module, parameters: &[f32], values: &mut [Option<Value<f32>>], last: usize) {
    for (handle, _) in module.global_expressions.iter().take(last + 1) {
        let text = Text { module, parameters, globals: values };
        let get = |handle: Handle<Ex>| values[handle.index()].ok_or(UNSUPPORTED);
        let value = pure(&text, &module.global_expressions, handle, &get).ok();
        values[handle.index()] = value;
    }
}

enum Flow<T> {
    Next,
    Break,
    Continue,
    Return(Option<Value<T>>),
}

struct Frame<'a, T> {
    text: &'a Text<'a>,
    function: &'a Function,
    arguments: &'a [Value<T>],
    results: Vec<Option<Value<T>>>,
    variables: Vec<Value<T>>,
    steps: &'a mut usize,
}

impl<'a, T: Real> Frame<'a, T> {
    fn run(
        text: &'a Text<'a>,
        function: &'a Function,
        arguments: &'a [Value<T>],
        steps: &'a mut usize,
    ) -> Result<Option<Value<T>>, Fault> {
        // A call allocates room for the results of all expressions, so all of them count.
        *steps += function.expressions.len();
        let results = vec![None; function.expressions.len()];
        let mut frame = Self { text, function, arguments, results, variables: Vec::new(), steps };
        for handle in before_the_body(function) {
            // Expressions that only the body can evaluate fail here. No variable needs them for its initial value.
            frame.results[handle.index()] = frame.evaluate(handle).ok();
        }
        let mut variables = Vec::with_capacity(function.local_variables.len());
        for (_, variable) in function.local_variables.iter() {
            variables.push(match variable.init {
                Some(init) => frame.get(init)?,
                None => zero(text.module, variable.ty)?,
            });
        }
        frame.variables = variables;
        match frame.block(&function.body)? {
            Flow::Return(value) => Ok(value),
            _ => Ok(None),
        }
    }

    fn step(&mut self) -> Result<(), Fault> {
        *self.steps += 1;
        if *self.steps > STEPS { Err(ENDLESS) } else { Ok(()) }
    }

    /// The function is long because it is one match over the statements of WGSL.
    fn block(&mut self, block: &Block) -> Result<Flow<T>, Fault> {
        for (statement, span) in block.span_iter() {
            self.step().map_err(|fault| fault.at(*span))?;
            let flow = match statement {
                Statement::Emit(range) => {
                    for handle in range.clone() {
                        self.step()?;
                        if self.place(handle)?.is_none() {
                            let fault = |fault: Fault| fault.at(self.function.expressions.get_span(handle));
                            self.results[handle.index()] = Some(self.evaluate(handle).map_err(fault)?);
                        }
                    }
                    Flow::Next
                }
                Statement::Block(block) => self.block(block)?,
                Statement::If { condition, accept, reject } => {
                    let taken = if self.get(*condition)?.truth()? { accept } else { reject };
                    self.block(taken)?
                }
                Statement::Switch { selector, cases } => {
                    let selector = self.get(*selector)?.index()?;
                    let matches = |value: &SwitchValue| match *value {
                        SwitchValue::I32(k) => i64::from(k) == selector,
                        SwitchValue::U32(k) => i64::from(k) == selector,
                        SwitchValue::Default => false,
                    };
                    let default = || cases.iter().position(|case| case.value == SwitchValue::Default);
                    let first = cases.iter().position(|case| matches(&case.value)).or_else(default);
                    let mut flow = Flow::Next;
                    for case in cases.iter().skip(first.unwrap_or(cases.len())) {
                        flow = self.block(&case.body)?;
                        if !case.fall_through || !matches!(flow, Flow::Next) {
                            break;
                        }
                    }
                    if matches!(flow, Flow::Break) { Flow::Next } else { flow }
                }
                Statement::Loop { body, continuing, break_if } => loop {
                    match self.block(body)? {
                        Flow::Break => break Flow::Next,
                        Flow::Return(value) => break Flow::Return(value),
                        Flow::Next | Flow::Continue => {}
                    }
                    self.block(continuing)?;
                    if let Some(condition) = break_if
                        && self.get(*condition)?.truth()?
                    {
                        break Flow::Next;
                    }
                    self.step().map_err(|fault| fault.at(*span))?;
                },
                Statement::Break => Flow::Break,
                Statement::Continue => Flow::Continue,
                Statement::Return { value } => Flow::Return(value.map(|value| self.get(value)).transpose()?),
                Statement::Store { pointer, value } => {
                    let value = self.get(*value)?;
                    let (variable, part) = self.place(*pointer)?.ok_or(UNSUPPORTED)?;
                    let variable = self.variables.get_mut(variable.index()).ok_or(UNSUPPORTED)?;
                    match part {
                        None => *variable = value,
                        Some(k) => *variable.parts.get_mut(k).ok_or(UNSUPPORTED)? = value.parts[0],
                    }
                    Flow::Next
                }
                Statement::Call { function, arguments, result } => {
                    let arguments =
                        arguments.iter().map(|a| self.get(*a)).collect::<Result<Vec<_>, Fault>>()?;
                    let function = &self.text.module.functions[*function];
                    let value = Frame::run(self.text, function, &arguments, self.steps)?;
                    if let Some(result) = result {
                        self.results[result.index()] = value;
                    }
                    Flow::Next
                }
                _ => return Err(UNSUPPORTED),
            };
            if !matches!(flow, Flow::Next) {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// The variable that an expression points to, or a component of it; `None` if the expression is a value.
    fn place(&self, handle: Handle<Ex>) -> Result<Option<(Handle<LocalVariable>, Option<usize>)>, Fault> {
        Ok(match self.function.expressions[handle] {
            Ex::LocalVariable(variable) => Some((variable, None)),
            Ex::AccessIndex { base, index } => {
                self.place(base)?.map(|(variable, _)| (variable, Some(index as usize)))
            }
            Ex::Access { base, index } => match self.place(base)? {
                Some((variable, _)) => {
                    let len = self.variables.get(variable.index()).ok_or(UNSUPPORTED)?.len;
                    Some((variable, Some(self.get(index)?.component(len)?)))
                }
                None => None,
            },
            _ => None,
        })
    }

    /// The stored value of an expression; if there is none, the expression is evaluated.
    fn get(&self, handle: Handle<Ex>) -> Result<Value<T>, Fault> {
        match self.results[handle.index()] {
            Some(value) => Ok(value),
            None => self.evaluate(handle),
        }
    }

    fn evaluate(&self, handle: Handle<Ex>) -> Result<Value<T>, Fault> {
        match self.function.expressions[handle] {
            Ex::FunctionArgument(k) => self.arguments.get(k as usize).copied().ok_or(UNSUPPORTED),
            Ex::Load { pointer } => {
                let (variable, part) = self.place(pointer)?.ok_or(UNSUPPORTED)?;
                let value = self.variables.get(variable.index()).ok_or(UNSUPPORTED)?;
                Ok(part.map_or(*value, |k| Value::scalar(value.part(k))))
            }
            _ => pure(self.text, &self.function.expressions, handle, &|handle| self.get(handle)),
        }
    }
}

/// The expressions of a function that are evaluated before its body: the initial values of variables may use them.
pub(super) fn before_the_body(function: &Function) -> impl Iterator<Item = Handle<Ex>> {
    let inits = function.local_variables.iter().filter_map(|(_, variable)| variable.init);
    let computed = inits.filter(|init| !function.expressions[*init].needs_pre_emit());
    let last = computed.map(|init| init.index() + 1).max().unwrap_or(0);
    function.expressions.iter().take(last).map(|(handle, _)| handle)
}

/// Evaluates an expression that is neither an argument nor a read of a variable. Such an expression may stand at module
/// scope.
///
/// The function is long because it is one match over the expressions of WGSL.
fn pure<T: Real>(
    text: &Text,
    expressions: &naga::Arena<Ex>,
    handle: Handle<Ex>,
    get: &dyn Fn(Handle<Ex>) -> Result<Value<T>, Fault>,
) -> Result<Value<T>, Fault> {
    match expressions[handle] {
        Ex::Unary { op, expr } => {
            let value = get(expr)?;
            Value::collect(value.len, |k| match (op, value.part(k)) {
                (UnaryOperator::Negate, F(x)) => Ok(F(-x)),
                (UnaryOperator::Negate, I(x)) => Ok(I(x.wrapping_neg())),
                (UnaryOperator::LogicalNot, B(x)) => Ok(B(!x)),
                (UnaryOperator::BitwiseNot, I(x)) => Ok(I(!x)),
                (UnaryOperator::BitwiseNot, U(x)) => Ok(U(!x)),
                _ => Err(MISMATCH),
            })
        }
        Ex::Binary { op, left, right } => {
            let (a, b) = (get(left)?, get(right)?);
            Value::collect(a.len.max(b.len), |k| binary(op, a.part(k), b.part(k)))
        }
        Ex::Select { condition, accept, reject } => {
            let (condition, a, b) = (get(condition)?, get(accept)?, get(reject)?);
            Value::collect(a.len.max(b.len), |k| match condition.part(k) {
                B(truth) => Ok(if truth { a.part(k) } else { b.part(k) }),
                _ => Err(MISMATCH),
            })
        }
        Ex::Relational { fun, argument } => {
            let value = get(argument)?;
            let mut truths = value.parts[..value.len].iter().map(|part| matches!(part, B(true)));
            let truth = match fun {
                RelationalFunction::All => truths.all(|truth| truth),
                RelationalFunction::Any => truths.any(|truth| truth),
                _ => return Err(UNSUPPORTED),
            };
            Ok(Value::scalar(B(truth)))
        }
        Ex::Math { fun, arg, arg1, arg2, .. } => {
            let a = get(arg)?;
            let optional = |arg: Option<Handle<Ex>>| arg.map_or(Ok(a), get);
            mathematics(fun, a, optional(arg1)?, optional(arg2)?)
        }
        Ex::As { expr, kind, convert: Some(_) } => {
            let value = get(expr)?;
            Value::collect(value.len, |k| convert(value.part(k), kind))
        }
        Ex::AccessIndex { base, index } => Ok(Value::scalar(get(base)?.part(index as usize))),
        Ex::Access { base, index } => {
            let vector = get(base)?;
            Ok(Value::scalar(vector.part(get(index)?.component(vector.len)?)))
        }
        Ex::Swizzle { size, vector, pattern } => {
            let value = get(vector)?;
            Value::collect(size as usize, |k| Ok(value.part(pattern[k] as usize)))
        }
        Ex::Literal(literal) => Ok(Value::scalar(match literal {
            Literal::F32(x) => F(T::of(x.into())),
            Literal::AbstractFloat(x) => F(T::of(x)),
            Literal::I32(x) => I(x),
            Literal::AbstractInt(x) => I(i32::try_from(x).map_err(|_| UNSUPPORTED)?),
            Literal::U32(x) => U(x),
            Literal::Bool(x) => B(x),
            _ => return Err(UNSUPPORTED),
        })),
        Ex::Constant(constant) => {
            let init = text.module.constants[constant].init;
            text.globals[init.index()].map(|value| value.cast()).ok_or(UNSUPPORTED)
        }
        Ex::Override(parameter) => Ok(Value::float(T::of(text.parameters[parameter.index()].into()))),
        Ex::ZeroValue(ty) => zero(text.module, ty),
        Ex::Splat { size, value } => {
            let value = get(value)?;
            Value::collect(size as usize, |_| Ok(value.part(0)))
        }
        Ex::Compose { ref components, .. } => {
            let mut value = Value { parts: [F(T::zero()); 4], len: 0 };
            for component in components {
                let component = get(*component)?;
                for k in 0..component.len {
                    *value.parts.get_mut(value.len).ok_or(UNSUPPORTED)? = component.part(k);
                    value.len += 1;
                }
            }
            Ok(value)
        }
        _ => Err(UNSUPPORTED),
    }
}

fn zero<T: Real>(module: &Module, ty: Handle<naga::Type>) -> Result<Value<T>, Fault> {
    let (scalar, len) = match module.types[ty].inner {
        TypeInner::Scalar(scalar) => (scalar, 1),
        TypeInner::Vector { size, scalar } => (scalar, size as usize),
        _ => return Err(UNSUPPORTED),
    };
    let number = match scalar.kind {
        ScalarKind::Float | ScalarKind::AbstractFloat => F(T::zero()),
        ScalarKind::Sint | ScalarKind::AbstractInt => I(0),
        ScalarKind::Uint => U(0),
        ScalarKind::Bool => B(false),
    };
    Ok(Value { parts: [number; 4], len })
}
