//! Which WGSL the CPU can evaluate. Everything else is rejected, with its position, before anything is evaluated.

use super::literals::type_name;
use naga::valid::ModuleInfo;
use naga::{
    AddressSpace, Block, Expression as Ex, Handle, MathFunction as Math, Module, RelationalFunction, Span,
    Statement, Type, TypeInner,
};

/// Checks that [`call`](super::interpret::call) can evaluate all functions of a module. The error is the position and
/// the name of the first construct that it cannot evaluate.
pub(super) fn check(module: &Module, info: &ModuleInfo) -> Result<(), (Span, String)> {
    let plain = |ty: Handle<Type>| type_name(&module.types[ty].inner).is_some();
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
        for (expression, value) in function.expressions.iter() {
            let inner = info[handle][expression].ty.inner_with(&module.types);
            let strange = strange(value).or_else(|| strange_type(module, inner));
            if let Some(what) = strange {
                return Err((function.expressions.get_span(expression), what));
            }
        }
        statements(&function.body)?;
    }
    Ok(())
}

/// Names a type that is not a number, a vector or a pointer to one.
fn strange_type(module: &Module, inner: &TypeInner) -> Option<String> {
    let pointed = match inner {
        TypeInner::Pointer { base, space: AddressSpace::Function } => &module.types[*base].inner,
        TypeInner::ValuePointer { space: AddressSpace::Function, .. } => return None,
        // Literals that nothing uses have an abstract type.
        TypeInner::Scalar(scalar) if scalar.is_abstract() => return None,
        TypeInner::Vector { scalar, .. } if scalar.is_abstract() => return None,
        _ => inner,
    };
    type_name(pointed).is_none().then(|| "an array, a matrix or a structure".into())
}

fn strange(expression: &Ex) -> Option<String> {
    let name = |name: &dyn std::fmt::Debug| Some(format!("{name:?}").to_lowercase());
    match expression {
        Ex::Math { fun, .. } => match fun {
            Math::Modf | Math::Frexp | Math::Ldexp | Math::Outer | Math::Cross | Math::FaceForward => {
                name(fun)
            }
            Math::Reflect | Math::Refract | Math::Inverse | Math::Transpose | Math::Determinant => name(fun),
            // The functions on bits and packing come last in naga's list.
            _ if *fun as u32 >= Math::QuantizeToF16 as u32 => name(fun),
            Math::Dot4I8Packed | Math::Dot4U8Packed => name(fun),
            _ => None,
        },
        Ex::Relational { fun: RelationalFunction::All | RelationalFunction::Any, .. } => None,
        Ex::As { convert: None, .. } => Some("bitcast".into()),
        Ex::Literal(_) | Ex::Constant(_) | Ex::Override(_) | Ex::ZeroValue(_) | Ex::Compose { .. } => None,
        Ex::Access { .. } | Ex::AccessIndex { .. } | Ex::Splat { .. } | Ex::Swizzle { .. } => None,
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
            Statement::If { accept, reject, .. } => {
                statements(accept)?;
                statements(reject)?;
            }
            Statement::Switch { cases, .. } => cases.iter().try_for_each(|case| statements(&case.body))?,
            Statement::Loop { body, continuing, .. } => {
                statements(body)?;
                statements(continuing)?;
            }
            other => {
                let name = format!("{other:?}");
                let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                return Err((*span, name.to_lowercase()));
            }
        }
    }
    Ok(())
}
