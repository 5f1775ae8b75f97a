//! Writes the operators and functions of a weight file as WGSL that has the same result on every device: the result of
//! [`binary`](super::value::binary) and [`mathematics`](super::value::mathematics).

use super::literals::{type_name, within};
use super::value::TANH_END;
use super::write::Writer;
use naga::{BinaryOperator as Bin, Expression as Ex, Handle, MathFunction as Math, ScalarKind};

impl Writer<'_> {
    pub(super) fn binary(&self, op: Bin, left: Handle<Ex>, right: Handle<Ex>) -> Option<String> {
        let (a, b) = (self.operand(left)?, self.operand(right)?);
        let (kind, ty) = (self.type_of(left).scalar_kind()?, type_name(self.type_of(right))?);
        let signed = kind == ScalarKind::Sint;
        // GL does not define divisions by zero and remainders of negative numbers. SPIR-V does not define a division
        // whose result is too large.
        let divisor = || {
            let too_large = format!(" | (({a} == {ty}(-2147483647i - 1i)) & ({b} == {ty}(-1i)))");
            let one = if signed { "1i" } else { "1u" };
            let zero = format!("({b} == {ty}())");
            format!("select({b}, {ty}({one}), {zero}{})", if signed { too_large } else { String::new() })
        };
        let sign = match op {
            Bin::Divide if kind != ScalarKind::Float => return Some(format!("({a} / {})", divisor())),
            Bin::Modulo if kind != ScalarKind::Float => {
                let divisor = divisor();
                return Some(format!("({a} - ({a} / {divisor}) * {divisor})"));
            }
            Bin::Modulo => return Some(format!("({a} - {b} * trunc({a} / {b}))")),
            // GL does not define shifts by 32 bits or more.
            Bin::ShiftLeft => return Some(format!("({a} << ({b} & {ty}(31u)))")),
            Bin::ShiftRight => return Some(format!("({a} >> ({b} & {ty}(31u)))")),
            Bin::Add => "+",
            Bin::Subtract => "-",
            Bin::Multiply => "*",
            Bin::Divide => "/",
            Bin::Equal => "==",
            Bin::NotEqual => "!=",
            Bin::Less => "<",
            Bin::LessEqual => "<=",
            Bin::Greater => ">",
            Bin::GreaterEqual => ">=",
            Bin::And => "&",
            Bin::ExclusiveOr => "^",
            Bin::InclusiveOr => "|",
            Bin::LogicalAnd => "&&",
            Bin::LogicalOr => "||",
        };
        Some(format!("({a} {sign} {b})"))
    }

    /// The function is long because it is one match over the functions of WGSL.
    pub(super) fn mathematics(
        &self,
        fun: Math,
        ty: &str,
        arg: Handle<Ex>,
        arg1: Option<Handle<Ex>>,
        arg2: Option<Handle<Ex>>,
    ) -> Option<String> {
        let mut given = vec![self.operand(arg)?];
        for arg in [arg1, arg2].into_iter().flatten() {
            given.push(self.operand(arg)?);
        }
        let float = self.type_of(arg).scalar_kind() == Some(ScalarKind::Float);
        let name = match (fun, &given[..]) {
            (Math::Abs, [x]) if !float && ty.contains('i') => return Some(format!("max({x}, -{x})")),
            // Drivers do not define `clamp` with the lower bound above the upper bound.
            (Math::Clamp, [x, low, high]) => return Some(format!("min(max({x}, {low}), {high})")),
            (Math::SmoothStep, [low, high, x]) => {
                let t = format!("min(max(({x} - {low}) / ({high} - {low}), {ty}()), {ty}(1.0f))");
                return Some(format!("({t} * {t} * ({ty}(3.0f) - {ty}(2.0f) * {t}))"));
            }
            (Math::Tanh, [x]) => {
                return Some(format!("tanh({})", within(ty, x, [-TANH_END, TANH_END])?));
            }
            (Math::InverseSqrt, _) => "inverseSqrt",
            (Math::Abs, _) => "abs",
            (Math::Min, _) => "min",
            (Math::Max, _) => "max",
            (Math::Saturate, _) => "saturate",
            (Math::Cos, _) => "cos",
            (Math::Cosh, _) => "cosh",
            (Math::Sin, _) => "sin",
            (Math::Sinh, _) => "sinh",
            (Math::Tan, _) => "tan",
            (Math::Acos, _) => "acos",
            (Math::Asin, _) => "asin",
            (Math::Atan, _) => "atan",
            (Math::Atan2, _) => "atan2",
            (Math::Asinh, _) => "asinh",
            (Math::Acosh, _) => "acosh",
            (Math::Atanh, _) => "atanh",
            (Math::Radians, _) => "radians",
            (Math::Degrees, _) => "degrees",
            (Math::Ceil, _) => "ceil",
            (Math::Floor, _) => "floor",
            (Math::Round, _) => "round",
            (Math::Fract, _) => "fract",
            (Math::Trunc, _) => "trunc",
            (Math::Exp, _) => "exp",
            (Math::Exp2, _) => "exp2",
            (Math::Log, _) => "log",
            (Math::Log2, _) => "log2",
            (Math::Pow, _) => "pow",
            (Math::Dot, _) => "dot",
            (Math::Distance, _) => "distance",
            (Math::Length, _) => "length",
            (Math::Normalize, _) => "normalize",
            (Math::Sign, _) => "sign",
            (Math::Fma, _) => "fma",
            (Math::Mix, _) => "mix",
            (Math::Step, _) => "step",
            (Math::Sqrt, _) => "sqrt",
            _ => return None,
        };
        Some(format!("{name}({})", given.join(", ")))
    }
}
