//! What some compilers accept and some devices do not: the limits and habits of WGSL that runs everywhere.

use naga::proc::Layouter;
use naga::valid::{FunctionInfo, ModuleInfo};
use naga::{
    AddressSpace, BinaryOperator, Block, Expression, Function, Handle, Literal, Module, RelationalFunction,
    ScalarKind, Statement, TypeInner,
};

/// The limits that every adapter grants a kernel: WebGPU's defaults.
const STORAGE_BUFFERS: usize = 8;
const INVOCATIONS: u32 = 256;
const WORKGROUP_MEMORY: u32 = 16 << 10;

/// All faults of a shader that needs more than this floor, one sentence each.
pub fn faults(module: &Module, info: &ModuleInfo) -> Vec<String> {
    let mut faults = Vec::new();
    let variables = || module.global_variables.iter().map(|(_, variable)| variable);
    let buffers = variables().filter(|v| matches!(v.space, AddressSpace::Storage { .. })).count();
    if buffers > STORAGE_BUFFERS {
        faults.push(format!("{buffers} storage buffers: bind at most {STORAGE_BUFFERS}"));
    }
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).expect("the validator laid the types out");
    let shared = variables().filter(|v| v.space == AddressSpace::WorkGroup);
    let bytes: u32 = shared.map(|variable| layouter[variable.ty].to_stride()).sum();
    if bytes > WORKGROUP_MEMORY {
        faults.push(format!("{bytes} bytes of workgroup memory: use at most {WORKGROUP_MEMORY}"));
    }
    let is_float_atomic =
        |inner: &TypeInner| matches!(inner, TypeInner::Atomic(s) if s.kind == ScalarKind::Float);
    if module.types.iter().any(|(_, ty)| is_float_atomic(&ty.inner)) {
        faults.push("float atomics: let one invocation preprocess what is to be added".into());
    }
    for (handle, function) in module.functions.iter() {
        FunctionCheck { module, function, info: &info[handle] }.run(&mut faults);
    }
    for (i, entry) in module.entry_points.iter().enumerate() {
        let invocations: u32 = entry.workgroup_size.iter().product();
        if invocations > INVOCATIONS {
            faults.push(format!("{invocations} invocations in a workgroup: use at most {INVOCATIONS}"));
        }
        FunctionCheck { module, function: &entry.function, info: info.get_entry_point(i) }.run(&mut faults);
    }
    faults
}

struct FunctionCheck<'a> {
    module: &'a Module,
    function: &'a Function,
    info: &'a FunctionInfo,
}

impl FunctionCheck<'_> {
    fn run(&self, faults: &mut Vec<String>) {
        for (handle, expression) in self.function.expressions.iter() {
            if let Some(fault) = self.expression_fault(expression) {
                let span = self.function.expressions.get_span(handle);
                faults.push(format!("{fault} (byte {})", span.to_range().map_or(0, |range| range.start)));
            }
        }
        self.barriers(&self.function.body, false, faults);
    }

    fn expression_fault(&self, expression: &Expression) -> Option<&'static str> {
        match *expression {
            // Constant indices are an `AccessIndex`.
            Expression::Access { base, .. } if self.is_local_array(base) => {
                Some("dynamic index into a local array or matrix: name its elements")
            }
            Expression::Binary { op, left, right }
                if is_comparison(op) && self.is_float(left) && self.same(left, right) =>
            {
                Some("NaN comparison, of a number with itself: look at its bits")
            }
            Expression::Relational { fun: RelationalFunction::IsNan | RelationalFunction::IsInf, .. } => {
                Some("NaN or infinity test: look at the bits")
            }
            Expression::As { expr, kind: ScalarKind::Float, convert: None } if self.is_not_finite(expr) => {
                Some("NaN or infinity made from bits: use a large finite number")
            }
            _ => None,
        }
    }

    fn inner(&self, expression: Handle<Expression>) -> &TypeInner {
        self.info[expression].ty.inner_with(&self.module.types)
    }

    fn is_float(&self, expression: Handle<Expression>) -> bool {
        self.inner(expression).scalar_kind() == Some(ScalarKind::Float)
    }

    /// An array or a matrix of one invocation, or the target of a pointer to one.
    fn is_local_array(&self, expression: Handle<Expression>) -> bool {
        let inner = match *self.inner(expression) {
            TypeInner::Pointer { base, space: AddressSpace::Function } => &self.module.types[base].inner,
            ref inner => inner,
        };
        matches!(inner, TypeInner::Array { .. } | TypeInner::Matrix { .. })
    }

    /// Whether two expressions read the same number.
    fn same(&self, left: Handle<Expression>, right: Handle<Expression>) -> bool {
        use Expression as E;
        if left == right {
            return true;
        }
        match (&self.function.expressions[left], &self.function.expressions[right]) {
            (E::Load { pointer: a }, E::Load { pointer: b }) => self.same(*a, *b),
            (E::Access { base: a, index: i }, E::Access { base: b, index: j }) => {
                self.same(*a, *b) && self.same(*i, *j)
            }
            (E::AccessIndex { base: a, index: i }, E::AccessIndex { base: b, index: j }) => {
                i == j && self.same(*a, *b)
            }
            (E::GlobalVariable(a), E::GlobalVariable(b)) => a == b,
            (E::LocalVariable(a), E::LocalVariable(b)) => a == b,
            _ => false,
        }
    }

    /// A literal whose bits have the exponent of infinity and NaN.
    fn is_not_finite(&self, bits: Handle<Expression>) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        let literal = match self.function.expressions[bits] {
            Expression::Literal(literal) => literal,
            Expression::Constant(constant) => {
                match self.module.global_expressions[self.module.constants[constant].init] {
                    Expression::Literal(literal) => literal,
                    _ => return false,
                }
            }
            _ => return false,
        };
        match literal {
            Literal::U32(bits) => bits & EXPONENT == EXPONENT,
            Literal::I32(bits) => bits as u32 & EXPONENT == EXPONENT,
            _ => false,
        }
    }

    /// Barriers in branches that lanes of a workgroup take separately. Tint follows the control flow further than this.
    fn barriers(&self, block: &Block, apart: bool, faults: &mut Vec<String>) {
        let splits = |condition: Handle<Expression>| {
            apart || self.info[condition].uniformity.non_uniform_result.is_some()
        };
        for statement in block {
            match statement {
                Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } if apart => {
                    faults.push("barrier in a branch: let every lane reach it".into());
                }
                Statement::Block(inner) => self.barriers(inner, apart, faults),
                Statement::If { condition, accept, reject } => {
                    self.barriers(accept, splits(*condition), faults);
                    self.barriers(reject, splits(*condition), faults);
                }
                Statement::Switch { selector, cases } => {
                    cases.iter().for_each(|case| self.barriers(&case.body, splits(*selector), faults));
                }
                Statement::Loop { body, continuing, .. } => {
                    self.barriers(body, apart, faults);
                    self.barriers(continuing, apart, faults);
                }
                _ => {}
            }
        }
    }
}

fn is_comparison(op: BinaryOperator) -> bool {
    use BinaryOperator::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
    matches!(op, Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual)
}
