//! Pure WGSL functions of numbers, evaluated from naga's IR over f32 and f64: what `--device cpu` runs of a file of one's
//! own, and the oracle for what a GPU makes of it.
//!
//! Scalars and vectors, arithmetic, the built-in mathematics, `if`, `switch`, loops, local variables and calls. What is
//! not among these is named with its place by [`check`](super::supported::check), before anything is evaluated.

use super::value::{B, F, Fault, I, MISMATCH, U, UNSUPPORTED, Value, binary, convert, mathematics};
use crate::kernels::Real;
use naga::{
    Block, Expression as Ex, Function, Handle, Literal, LocalVariable, Module, RelationalFunction,
    ScalarKind, Statement, SwitchValue, TypeInner, UnaryOperator,
};

/// Statements and expressions that one call may take; more is an endless loop.
const STEPS: usize = 1_000_000;

enum Flow<T> {
    Next,
    Break,
    Continue,
    Return(Option<Value<T>>),
}

/// Evaluates a function of a module that [`check`](super::supported::check) accepts.
pub(super) fn call<T: Real>(
    module: &Module,
    function: Handle<Function>,
    arguments: &[Value<T>],
) -> Result<Value<T>, Fault> {
    Frame::run(module, &module.functions[function], arguments, &mut 0)?.ok_or(UNSUPPORTED)
}

struct Frame<'a, T> {
    module: &'a Module,
    function: &'a Function,
    arguments: &'a [Value<T>],
    results: Vec<Option<Value<T>>>,
    variables: Vec<Value<T>>,
    steps: &'a mut usize,
}

impl<'a, T: Real> Frame<'a, T> {
    fn run(
        module: &'a Module,
        function: &'a Function,
        arguments: &'a [Value<T>],
        steps: &'a mut usize,
    ) -> Result<Option<Value<T>>, Fault> {
        let results = vec![None; function.expressions.len()];
        let mut frame = Self { module, function, arguments, results, variables: Vec::new(), steps };
        for (_, variable) in function.local_variables.iter() {
            let value = match variable.init {
                Some(init) => frame.get(init)?,
                None => zero(module, variable.ty)?,
            };
            frame.variables.push(value);
        }
        match frame.block(&function.body)? {
            Flow::Return(value) => Ok(value),
            _ => Ok(None),
        }
    }

    fn block(&mut self, block: &Block) -> Result<Flow<T>, Fault> {
        for statement in block {
            *self.steps += 1;
            if *self.steps > STEPS {
                return Err("a loop that does not end");
            }
            let flow = match statement {
                Statement::Emit(range) => {
                    for handle in range.clone() {
                        if self.place(handle).is_none() {
                            self.results[handle.index()] = Some(self.evaluate(handle)?);
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
                    *self.steps += 1;
                    if *self.steps > STEPS {
                        return Err("a loop that does not end");
                    }
                },
                Statement::Break => Flow::Break,
                Statement::Continue => Flow::Continue,
                Statement::Return { value } => Flow::Return(value.map(|value| self.get(value)).transpose()?),
                Statement::Store { pointer, value } => {
                    let value = self.get(*value)?;
                    let (variable, part) = self.place(*pointer).ok_or(UNSUPPORTED)?;
                    let variable = &mut self.variables[variable.index()];
                    match part {
                        None => *variable = value,
                        Some(k) => variable.parts[k.min(3)] = value.parts[0],
                    }
                    Flow::Next
                }
                Statement::Call { function, arguments, result } => {
                    let arguments =
                        arguments.iter().map(|a| self.get(*a)).collect::<Result<Vec<_>, Fault>>()?;
                    let function = &self.module.functions[*function];
                    let value = Frame::run(self.module, function, &arguments, self.steps)?;
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

    /// The variable that an expression points to, or a component of it.
    fn place(&self, handle: Handle<Ex>) -> Option<(Handle<LocalVariable>, Option<usize>)> {
        match self.function.expressions[handle] {
            Ex::LocalVariable(variable) => Some((variable, None)),
            Ex::AccessIndex { base, index } => Some((self.place(base)?.0, Some(index as usize))),
            Ex::Access { base, index } => {
                let variable = self.place(base)?.0;
                Some((variable, Some(self.get(index).ok()?.index().ok()?.clamp(0, 3) as usize)))
            }
            _ => None,
        }
    }

    /// The value of an expression that was evaluated, or that needs no evaluation.
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
                let (variable, part) = self.place(pointer).ok_or(UNSUPPORTED)?;
                let value = self.variables[variable.index()];
                Ok(part.map_or(value, |k| Value::scalar(value.part(k))))
            }
            Ex::Unary { op, expr } => {
                let value = self.get(expr)?;
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
                let (a, b) = (self.get(left)?, self.get(right)?);
                Value::collect(a.len.max(b.len), |k| binary(op, a.part(k), b.part(k)))
            }
            Ex::Select { condition, accept, reject } => {
                let (condition, a, b) = (self.get(condition)?, self.get(accept)?, self.get(reject)?);
                Value::collect(a.len.max(b.len), |k| match condition.part(k) {
                    B(truth) => Ok(if truth { a.part(k) } else { b.part(k) }),
                    _ => Err(MISMATCH),
                })
            }
            Ex::Relational { fun, argument } => {
                let value = self.get(argument)?;
                let mut truths = value.parts[..value.len].iter().map(|part| matches!(part, B(true)));
                let truth = match fun {
                    RelationalFunction::All => truths.all(|truth| truth),
                    RelationalFunction::Any => truths.any(|truth| truth),
                    _ => return Err(UNSUPPORTED),
                };
                Ok(Value::scalar(B(truth)))
            }
            Ex::Math { fun, arg, arg1, arg2, .. } => {
                let a = self.get(arg)?;
                let optional = |arg: Option<Handle<Ex>>| arg.map_or(Ok(a), |arg| self.get(arg));
                mathematics(fun, a, optional(arg1)?, optional(arg2)?)
            }
            Ex::As { expr, kind, convert: Some(_) } => {
                let value = self.get(expr)?;
                Value::collect(value.len, |k| convert(value.part(k), kind))
            }
            Ex::AccessIndex { base, index } => Ok(Value::scalar(self.get(base)?.part(index as usize))),
            Ex::Access { base, index } => {
                let k = self.get(index)?.index()?.clamp(0, 3) as usize;
                Ok(Value::scalar(self.get(base)?.part(k)))
            }
            Ex::Swizzle { size, vector, pattern } => {
                let value = self.get(vector)?;
                Value::collect(size as usize, |k| Ok(value.part(pattern[k] as usize)))
            }
            _ => constant(self.module, &self.function.expressions, handle, &|handle| self.get(handle)),
        }
    }
}

/// Expressions that stand at module scope as well.
fn constant<T: Real>(
    module: &Module,
    expressions: &naga::Arena<Ex>,
    handle: Handle<Ex>,
    get: &dyn Fn(Handle<Ex>) -> Result<Value<T>, Fault>,
) -> Result<Value<T>, Fault> {
    match expressions[handle] {
        Ex::Literal(literal) => Ok(Value::scalar(match literal {
            Literal::F32(x) => F(T::of(x.into())),
            Literal::F64(x) | Literal::AbstractFloat(x) => F(T::of(x)),
            Literal::I32(x) => I(x),
            Literal::U32(x) => U(x),
            Literal::Bool(x) => B(x),
            _ => return Err(UNSUPPORTED),
        })),
        Ex::Constant(constant) => global(module, module.constants[constant].init),
        Ex::ZeroValue(ty) => zero(module, ty),
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

fn global<T: Real>(module: &Module, handle: Handle<Ex>) -> Result<Value<T>, Fault> {
    constant(module, &module.global_expressions, handle, &|handle| global(module, handle))
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
