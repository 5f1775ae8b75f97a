//! Pure WGSL functions of numbers, evaluated from naga's IR over f32 and f64: what `--device cpu` runs of a file of one's
//! own, and the oracle for what a GPU makes of it.
//!
//! Scalars and vectors, arithmetic, the built-in mathematics, `if`, `switch`, loops, local variables and calls. What is
//! not among these is named with its place by [`check`], before anything is evaluated.

use crate::kernels::Real;
use naga::{
    BinaryOperator as Bin, Block, Expression as Ex, Function, Handle, Literal, LocalVariable,
    MathFunction as Math, Module, RelationalFunction, ScalarKind, Span, Statement, SwitchValue, TypeInner,
    UnaryOperator,
};

/// Statements and expressions that one call may take; more is an endless loop.
const STEPS: usize = 1_000_000;

#[derive(Debug, Clone, Copy)]
enum Number<T> {
    F(T),
    I(i32),
    U(u32),
    B(bool),
}
use Number::{B, F, I, U};

/// A scalar or a vector of up to four.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<T> {
    parts: [Number<T>; 4],
    len: usize,
}

/// What stopped an evaluation.
type Fault = &'static str;
const UNSUPPORTED: Fault = "something that only a GPU evaluates";
const MISMATCH: Fault = "operands of other types";

impl<T: Real> Value<T> {
    fn scalar(number: Number<T>) -> Self {
        Self { parts: [number; 4], len: 1 }
    }

    pub fn float(x: T) -> Self {
        Self::scalar(F(x))
    }

    /// Its components, if they are floats.
    pub fn floats(&self) -> Option<Vec<T>> {
        let float = |number: &Number<T>| if let F(x) = number { Some(*x) } else { None };
        self.parts[..self.len].iter().map(float).collect()
    }

    fn part(&self, k: usize) -> Number<T> {
        // A scalar stands for a vector of equals.
        self.parts[if self.len == 1 { 0 } else { k.min(3) }]
    }

    fn collect(len: usize, part: impl Fn(usize) -> Result<Number<T>, Fault>) -> Result<Self, Fault> {
        let mut value = Self { parts: [F(T::zero()); 4], len };
        for k in 0..len {
            value.parts[k] = part(k)?;
        }
        Ok(value)
    }

    fn truth(&self) -> Result<bool, Fault> {
        if let B(truth) = self.parts[0] { Ok(truth) } else { Err(MISMATCH) }
    }

    fn index(&self) -> Result<i64, Fault> {
        match self.parts[0] {
            I(k) => Ok(k.into()),
            U(k) => Ok(k.into()),
            _ => Err(MISMATCH),
        }
    }
}

enum Flow<T> {
    Next,
    Break,
    Continue,
    Return(Option<Value<T>>),
}

/// Evaluates a function of a module that [`check`] accepts.
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

fn convert<T: Real>(number: Number<T>, kind: ScalarKind) -> Result<Number<T>, Fault> {
    let x = match number {
        F(x) => x.to_f64().ok_or(MISMATCH)?,
        I(x) => x.into(),
        U(x) => x.into(),
        B(x) => u8::from(x).into(),
    };
    Ok(match (kind, number) {
        (ScalarKind::Float, F(x)) => F(x),
        (ScalarKind::Float, _) => F(T::of(x)),
        (ScalarKind::Bool, _) => B(x != 0.0),
        // Between integers the bits stay.
        (ScalarKind::Sint, U(x)) => I(x as i32),
        (ScalarKind::Uint, I(x)) => U(x as u32),
        (ScalarKind::Sint, _) => I(x as i32),
        (ScalarKind::Uint, _) => U(x as u32),
        _ => return Err(UNSUPPORTED),
    })
}

fn binary<T: Real>(op: Bin, a: Number<T>, b: Number<T>) -> Result<Number<T>, Fault> {
    fn ordered<X: PartialOrd, T>(op: Bin, a: X, b: X) -> Option<Number<T>> {
        Some(B(match op {
            Bin::Equal => a == b,
            Bin::NotEqual => a != b,
            Bin::Less => a < b,
            Bin::LessEqual => a <= b,
            Bin::Greater => a > b,
            Bin::GreaterEqual => a >= b,
            _ => return None,
        }))
    }
    // WGSL: x / 0 is x, x % 0 is 0.
    macro_rules! integers {
        ($a:ident, $b:ident, $of:ident) => {
            match op {
                Bin::Add => $of($a.wrapping_add($b)),
                Bin::Subtract => $of($a.wrapping_sub($b)),
                Bin::Multiply => $of($a.wrapping_mul($b)),
                Bin::Divide => $of($a.checked_div($b).unwrap_or($a)),
                Bin::Modulo => $of($a.checked_rem($b).unwrap_or(0)),
                Bin::And => $of($a & $b),
                Bin::ExclusiveOr => $of($a ^ $b),
                Bin::InclusiveOr => $of($a | $b),
                _ => return ordered(op, $a, $b).ok_or(UNSUPPORTED),
            }
        };
    }
    Ok(match (a, b) {
        (F(a), F(b)) => match op {
            Bin::Add => F(a + b),
            Bin::Subtract => F(a - b),
            Bin::Multiply => F(a * b),
            Bin::Divide => F(a / b),
            Bin::Modulo => F(a % b),
            _ => return ordered(op, a, b).ok_or(UNSUPPORTED),
        },
        (I(a), U(b)) if op == Bin::ShiftLeft => I(a.wrapping_shl(b)),
        (I(a), U(b)) if op == Bin::ShiftRight => I(a.wrapping_shr(b)),
        (U(a), U(b)) if op == Bin::ShiftLeft => U(a.wrapping_shl(b)),
        (U(a), U(b)) if op == Bin::ShiftRight => U(a.wrapping_shr(b)),
        (I(a), I(b)) => integers!(a, b, I),
        (U(a), U(b)) => integers!(a, b, U),
        (B(a), B(b)) => match op {
            Bin::And | Bin::LogicalAnd => B(a && b),
            Bin::InclusiveOr | Bin::LogicalOr => B(a || b),
            _ => return ordered(op, a, b).ok_or(UNSUPPORTED),
        },
        _ => return Err(MISMATCH),
    })
}

fn mathematics<T: Real>(fun: Math, a: Value<T>, b: Value<T>, c: Value<T>) -> Result<Value<T>, Fault> {
    let dot = |a: &Value<T>, b: &Value<T>| -> Result<T, Fault> {
        let (a, b) = (a.floats().ok_or(MISMATCH)?, b.floats().ok_or(MISMATCH)?);
        Ok(a.iter().zip(&b).fold(T::zero(), |sum, (&a, &b)| sum + a * b))
    };
    match fun {
        Math::Dot => return Ok(Value::float(dot(&a, &b)?)),
        Math::Length => return Ok(Value::float(dot(&a, &a)?.sqrt())),
        Math::Distance => {
            let d = Value::collect(a.len, |k| binary(Bin::Subtract, a.part(k), b.part(k)))?;
            return Ok(Value::float(dot(&d, &d)?.sqrt()));
        }
        Math::Normalize => {
            let length = F(dot(&a, &a)?.sqrt());
            return Value::collect(a.len, |k| binary(Bin::Divide, a.part(k), length));
        }
        _ => {}
    }
    let (zero, one) = (T::zero(), T::one());
    Value::collect(a.len.max(b.len).max(c.len), |k| {
        let (F(x), F(y), F(z)) = (a.part(k), b.part(k), c.part(k)) else {
            return match (fun, a.part(k), b.part(k), c.part(k)) {
                (Math::Abs, I(x), ..) => Ok(I(x.wrapping_abs())),
                (Math::Abs, U(x), ..) => Ok(U(x)),
                (Math::Sign, I(x), ..) => Ok(I(x.signum())),
                (Math::Min, I(x), I(y), _) => Ok(I(x.min(y))),
                (Math::Max, I(x), I(y), _) => Ok(I(x.max(y))),
                (Math::Min, U(x), U(y), _) => Ok(U(x.min(y))),
                (Math::Max, U(x), U(y), _) => Ok(U(x.max(y))),
                (Math::Clamp, I(x), I(y), I(z)) => Ok(I(x.max(y).min(z))),
                (Math::Clamp, U(x), U(y), U(z)) => Ok(U(x.max(y).min(z))),
                _ => Err(MISMATCH),
            };
        };
        Ok(F(match fun {
            Math::Abs => x.abs(),
            Math::Min => x.min(y),
            Math::Max => x.max(y),
            Math::Clamp => x.max(y).min(z),
            Math::Saturate => x.max(zero).min(one),
            Math::Cos => x.cos(),
            Math::Cosh => x.cosh(),
            Math::Sin => x.sin(),
            Math::Sinh => x.sinh(),
            Math::Tan => x.tan(),
            Math::Tanh => x.tanh(),
            Math::Acos => x.acos(),
            Math::Asin => x.asin(),
            Math::Atan => x.atan(),
            Math::Atan2 => x.atan2(y),
            Math::Asinh => x.asinh(),
            Math::Acosh => x.acosh(),
            Math::Atanh => x.atanh(),
            Math::Radians => x.to_radians(),
            Math::Degrees => x.to_degrees(),
            Math::Ceil => x.ceil(),
            Math::Floor => x.floor(),
            Math::Trunc => x.trunc(),
            Math::Fract => x - x.floor(),
            Math::Round => {
                // Halves go to the even neighbour.
                let (nearest, two) = (x.round(), T::of(2.0));
                let odd_half = (x - x.trunc()).abs() == T::of(0.5) && nearest % two != zero;
                if odd_half { nearest - x.signum() } else { nearest }
            }
            Math::Exp => x.exp(),
            Math::Exp2 => x.exp2(),
            Math::Log => x.ln(),
            Math::Log2 => x.log2(),
            Math::Pow => x.powf(y),
            Math::Sqrt => x.sqrt(),
            Math::InverseSqrt => one / x.sqrt(),
            Math::Sign => {
                if x == zero {
                    zero
                } else {
                    x.signum()
                }
            }
            Math::Fma => x * y + z,
            Math::Mix => x * (one - z) + y * z,
            Math::Step => {
                if x <= y {
                    one
                } else {
                    zero
                }
            }
            Math::SmoothStep => {
                let t = ((z - x) / (y - x)).max(zero).min(one);
                t * t * (T::of(3.0) - T::of(2.0) * t)
            }
            _ => return Err(UNSUPPORTED),
        }))
    })
}

/// The first construct that [`call`] cannot evaluate, with its place; of all functions of a module.
pub(super) fn check(module: &Module) -> Result<(), (Span, String)> {
    let plain = |ty: Handle<naga::Type>| {
        matches!(module.types[ty].inner, TypeInner::Scalar(_) | TypeInner::Vector { .. })
    };
    for (handle, function) in module.functions.iter() {
        let arguments = function.arguments.iter().map(|argument| argument.ty);
        let results = function.result.iter().map(|result| result.ty);
        if !arguments.chain(results).all(plain) {
            let what = "a function with other than numbers and vectors".to_string();
            return Err((module.functions.get_span(handle), what));
        }
        for (handle, variable) in function.local_variables.iter() {
            if !plain(variable.ty) {
                let what = "a variable that is neither a number nor a vector".to_string();
                return Err((function.local_variables.get_span(handle), what));
            }
        }
        for (handle, expression) in function.expressions.iter() {
            if let Some(what) = strange(module, expression) {
                return Err((function.expressions.get_span(handle), what));
            }
        }
        statements(&function.body)?;
    }
    Ok(())
}

fn strange(module: &Module, expression: &Ex) -> Option<String> {
    let name = |name: &dyn std::fmt::Debug| Some(format!("{name:?}").to_lowercase());
    match expression {
        Ex::Literal(Literal::F32(_) | Literal::I32(_) | Literal::U32(_) | Literal::Bool(_)) => None,
        Ex::Literal(Literal::AbstractInt(_) | Literal::AbstractFloat(_)) => None,
        Ex::Math { fun, .. } => match fun {
            Math::Modf | Math::Frexp | Math::Ldexp | Math::Outer | Math::Cross | Math::FaceForward => {
                name(fun)
            }
            Math::Reflect | Math::Refract | Math::Inverse | Math::Transpose | Math::Determinant => name(fun),
            // Bits and packing come last in naga's list.
            _ if *fun as u32 >= Math::QuantizeToF16 as u32 => name(fun),
            Math::Dot4I8Packed | Math::Dot4U8Packed => name(fun),
            _ => None,
        },
        Ex::Relational { fun: RelationalFunction::All | RelationalFunction::Any, .. } => None,
        Ex::As { convert: None, .. } => Some("bitcast".into()),
        Ex::Compose { ty, .. } | Ex::ZeroValue(ty) => match module.types[*ty].inner {
            TypeInner::Scalar(_) | TypeInner::Vector { .. } => None,
            _ => Some("an array, a matrix or a structure".into()),
        },
        Ex::Constant(_)
        | Ex::Access { .. }
        | Ex::AccessIndex { .. }
        | Ex::Splat { .. }
        | Ex::Swizzle { .. } => None,
        Ex::FunctionArgument(_) | Ex::LocalVariable(_) | Ex::Load { .. } | Ex::Unary { .. } => None,
        Ex::Binary { .. } | Ex::Select { .. } | Ex::As { .. } | Ex::CallResult(_) => None,
        other => {
            let name = format!("{other:?}");
            Some(name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase())
        }
    }
}

fn statements(block: &Block) -> Result<(), (Span, String)> {
    for (statement, span) in block.span_iter() {
        match statement {
            Statement::Emit(_) | Statement::Break | Statement::Continue | Statement::Return { .. } => {}
            Statement::Store { .. } | Statement::Call { .. } => {}
            Statement::Block(block) => statements(block)?,
            Statement::If { accept, reject, .. } => statements(accept).and(statements(reject))?,
            Statement::Switch { cases, .. } => cases.iter().try_for_each(|case| statements(&case.body))?,
            Statement::Loop { body, continuing, .. } => statements(body).and(statements(continuing))?,
            other => {
                let name = format!("{other:?}");
                let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                return Err((*span, name.to_lowercase()));
            }
        }
    }
    Ok(())
}
