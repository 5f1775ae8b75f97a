//! Numbers and vectors of WGSL in f32 or f64, and the operators and functions on them.

use crate::math::Real;
use naga::{BinaryOperator as Bin, MathFunction as Math, ScalarKind, Span};

#[derive(Debug, Clone, Copy)]
pub(super) enum Number<T> {
    F(T),
    I(i32),
    U(u32),
    B(bool),
}
pub(super) use Number::{B, F, I, U};

/// A scalar, or a vector of up to four components.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<T> {
    pub parts: [Number<T>; 4],
    pub len: usize,
}

/// Why an evaluation stopped, and where in the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub what: &'static str,
    pub at: Span,
}

impl Fault {
    pub const fn new(what: &'static str) -> Self {
        Self { what, at: Span::UNDEFINED }
    }

    /// Adds a position, unless the fault has one.
    pub fn at(self, at: Span) -> Self {
        if self.at.is_defined() { self } else { Self { at, ..self } }
    }
}

pub(super) const UNSUPPORTED: Fault = Fault::new("something that only a GPU evaluates");
pub(super) const MISMATCH: Fault = Fault::new("operands of other types");
/// Devices need not support NaN, and may compare it in any way. A result that depends on NaN would differ between
/// devices.
const UNDEFINED: Fault = Fault::new("a result that depends on a number without a value (NaN)");

/// The smallest and the largest float that convert exactly to an i32 and to a u32. Others are clamped to these.
pub(super) const I32_RANGE: [f32; 2] = [-2_147_483_648.0, 2_147_483_520.0];
pub(super) const U32_RANGE: [f32; 2] = [0.0, 4_294_967_040.0];
/// From here on, tanh is exactly 1 in f32. Further out, devices that divide exponentials would overflow.
pub(super) const TANH_END: f32 = 15.0;

impl<T: Real> Value<T> {
    pub fn scalar(number: Number<T>) -> Self {
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

    pub fn part(&self, k: usize) -> Number<T> {
        // A scalar stands for a vector of equal components.
        self.parts[if self.len == 1 { 0 } else { k.min(3) }]
    }

    pub fn collect(len: usize, part: impl Fn(usize) -> Result<Number<T>, Fault>) -> Result<Self, Fault> {
        let mut value = Self { parts: [F(T::zero()); 4], len };
        for k in 0..len {
            value.parts[k] = part(k)?;
        }
        Ok(value)
    }

    pub fn truth(&self) -> Result<bool, Fault> {
        if let B(truth) = self.parts[0] { Ok(truth) } else { Err(MISMATCH) }
    }

    /// The same number in another precision.
    pub fn cast<U: Real>(&self) -> Value<U> {
        let cast = |number| match number {
            F(x) => F(U::of(num_traits::ToPrimitive::to_f64(&x).unwrap_or(f64::NAN))),
            I(x) => I(x),
            U(x) => U(x),
            B(x) => B(x),
        };
        Value { parts: self.parts.map(cast), len: self.len }
    }

    pub fn index(&self) -> Result<i64, Fault> {
        match self.parts[0] {
            I(k) => Ok(k.into()),
            U(k) => Ok(k.into()),
            _ => Err(MISMATCH),
        }
    }

    /// The component that a computed index selects from a vector of `len`. The index is clamped to the vector.
    pub fn component(&self, len: usize) -> Result<usize, Fault> {
        Ok(self.index()?.clamp(0, len.max(1) as i64 - 1) as usize)
    }
}

pub(super) fn convert<T: Real>(number: Number<T>, kind: ScalarKind) -> Result<Number<T>, Fault> {
    let x = match number {
        F(x) if x.is_nan() && kind != ScalarKind::Float => return Err(UNDEFINED),
        F(x) => x.to_f64().ok_or(MISMATCH)?,
        I(x) => x.into(),
        U(x) => x.into(),
        B(x) => u8::from(x).into(),
    };
    Ok(match (kind, number) {
        (ScalarKind::Float, F(x)) => F(x),
        (ScalarKind::Float, _) => F(T::of(x)),
        (ScalarKind::Bool, _) => B(x != 0.0),
        // Conversions between integers keep the bits.
        (ScalarKind::Sint, I(x)) => I(x),
        (ScalarKind::Sint, U(x)) => I(x as i32),
        (ScalarKind::Uint, I(x)) => U(x as u32),
        (ScalarKind::Uint, U(x)) => U(x),
        (ScalarKind::Sint, _) => I(x.clamp(I32_RANGE[0].into(), I32_RANGE[1].into()) as i32),
        (ScalarKind::Uint, _) => U(x.clamp(U32_RANGE[0].into(), U32_RANGE[1].into()) as u32),
        _ => return Err(UNSUPPORTED),
    })
}

fn compares(op: Bin) -> bool {
    use Bin::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
    matches!(op, Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual)
}

/// The lower of two numbers. Unlike [`f32::min`], the result is NaN if one of them is.
fn least<T: Real>(x: T, y: T) -> T {
    if x.is_nan() || y.is_nan() { T::nan() } else { x.min(y) }
}

fn greatest<T: Real>(x: T, y: T) -> T {
    if x.is_nan() || y.is_nan() { T::nan() } else { x.max(y) }
}

pub(super) fn binary<T: Real>(op: Bin, a: Number<T>, b: Number<T>) -> Result<Number<T>, Fault> {
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
    // In WGSL, x / 0 is x and x % 0 is 0. The same holds if the result of a division is too large.
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
        (F(a), F(b)) if compares(op) && (a.is_nan() || b.is_nan()) => return Err(UNDEFINED),
        (F(a), F(b)) => match op {
            Bin::Add => F(a + b),
            Bin::Subtract => F(a - b),
            Bin::Multiply => F(a * b),
            // WGSL defines this as infinite, but compilers do not keep the sign.
            Bin::Divide if b == T::zero() => F(T::nan()),
            Bin::Divide => F(a / b),
            // Devices compute it this way. It is not the exact remainder.
            Bin::Modulo => F(a - b * (a / b).trunc()),
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

/// The function is long because it is one match over the functions of WGSL.
pub(super) fn mathematics<T: Real>(
    fun: Math,
    a: Value<T>,
    b: Value<T>,
    c: Value<T>,
) -> Result<Value<T>, Fault> {
    let dot = |a: &Value<T>, b: &Value<T>| -> Result<T, Fault> {
        let (a, b) = (a.floats().ok_or(MISMATCH)?, b.floats().ok_or(MISMATCH)?);
        Ok(a.iter().zip(&b).fold(T::zero(), |sum, (&a, &b)| sum + a * b))
    };
    let whole = |value: &Value<T>| matches!(value.parts[0], I(_) | U(_));
    match fun {
        Math::Dot if whole(&a) => {
            let product = |k| binary(Bin::Multiply, a.part(k), b.part(k));
            let sum = (1..a.len).try_fold(product(0)?, |sum, k| binary(Bin::Add, sum, product(k)?))?;
            return Ok(Value::scalar(sum));
        }
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
            Math::Min => least(x, y),
            Math::Max => greatest(x, y),
            Math::Clamp => least(greatest(x, y), z),
            Math::Saturate => least(greatest(x, zero), one),
            Math::Cos => x.cos(),
            Math::Cosh => x.cosh(),
            Math::Sin => x.sin(),
            Math::Sinh => x.sinh(),
            Math::Tan => x.tan(),
            Math::Tanh => least(greatest(x, T::of((-TANH_END).into())), T::of(TANH_END.into())).tanh(),
            Math::Acos => x.acos(),
            Math::Asin => x.asin(),
            Math::Atan => x.atan(),
            Math::Atan2 if x == zero && y == zero => T::nan(),
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
                // Halves are rounded to the even neighbour.
                let (nearest, two) = (x.round(), T::of(2.0));
                let odd_half = (x - x.trunc()).abs() == T::of(0.5) && nearest % two != zero;
                if odd_half { nearest - x.signum() } else { nearest }
            }
            Math::Exp => x.exp(),
            Math::Exp2 => x.exp2(),
            Math::Log => x.ln(),
            Math::Log2 => x.log2(),
            // Devices compute 2^(y log2 x).
            Math::Pow if x < zero || (x == zero && y <= zero) => T::nan(),
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
                if x.is_nan() || y.is_nan() {
                    T::nan()
                } else if x <= y {
                    one
                } else {
                    zero
                }
            }
            Math::SmoothStep if x == y => T::nan(),
            Math::SmoothStep => {
                let t = least(greatest((z - x) / (y - x), zero), one);
                t * t * (T::of(3.0) - T::of(2.0) * t)
            }
            _ => return Err(UNSUPPORTED),
        }))
    })
}
