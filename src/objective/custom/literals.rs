//! Types and numbers as WGSL text.

use super::value::{B, F, I, Number, U};
use naga::{Scalar, ScalarKind, TypeInner};

/// The name of a scalar or vector type; `None` for all other types.
pub(super) fn type_name(inner: &TypeInner) -> Option<String> {
    let name = |scalar: &Scalar| match (scalar.kind, scalar.width) {
        (ScalarKind::Float, 4) => Some("f32"),
        (ScalarKind::Sint, 4) => Some("i32"),
        (ScalarKind::Uint, 4) => Some("u32"),
        (ScalarKind::Bool, _) => Some("bool"),
        _ => None,
    };
    match inner {
        TypeInner::Scalar(scalar) => name(scalar).map(str::to_string),
        TypeInner::Vector { size, scalar } => Some(format!("vec{}<{}>", *size as u8, name(scalar)?)),
        _ => None,
    }
}

/// A float or vector of floats, clamped to a range.
pub(super) fn within(ty: &str, x: &str, [low, high]: [f32; 2]) -> Option<String> {
    Some(format!("min(max({x}, {ty}({})), {ty}({}))", number(F(low))?, number(F(high))?))
}

/// A number as a literal of its type.
pub(super) fn number(number: Number<f32>) -> Option<String> {
    Some(match number {
        F(x) if !x.is_finite() => return None,
        F(x) if x.is_sign_negative() => format!("({x:?}f)"),
        F(x) => format!("{x:?}f"),
        I(i32::MIN) => "(-2147483647i - 1i)".into(),
        I(x) if x < 0 => format!("({x}i)"),
        I(x) => format!("{x}i"),
        U(x) => format!("{x}u"),
        B(x) => x.to_string(),
    })
}
