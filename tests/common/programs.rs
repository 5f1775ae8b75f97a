//! Generated weight files: programs of a grammar, for every kind of value, expression and statement that weights may have.
//!
//! Bytes decide each choice, so a changed input is another program. Where the bytes end, the first choice is taken, which
//! is always the shortest. Floats are multiples of 1/8 in [-4, 4], by the function `q` of each program. So sums and
//! products are exact, in any order, and every device must give the same number. Functions that devices approximate stand
//! in the last sum only, where no rounding can enlarge an error.
#![allow(dead_code)]

/// A type of the programs.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Float,
    Int,
    Unsigned,
    Bool,
    Pair,
    Triple,
}

use Kind::*;

const KINDS: [Kind; 6] = [Float, Int, Unsigned, Bool, Pair, Triple];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Float => "f32",
            Int => "i32",
            Unsigned => "u32",
            Bool => "bool",
            Pair => "vec2f",
            Triple => "vec3f",
        }
    }
}

/// The most expressions of a function.
const SIZE: usize = 150;

/// A whole number or a truth as a float: the last bits of a number, so that no bit of a wrong one is without effect.
fn as_float(value: &str, kind: Kind) -> String {
    match kind {
        Int => format!("(f32({value} & 31) / 8.0)"),
        Unsigned => format!("(f32({value} & 31u) / 8.0)"),
        _ => format!("f32({value})"),
    }
}

struct Program<'a> {
    choices: std::slice::Iter<'a, u8>,
    /// The expressions that may still come.
    left: usize,
    /// Names, their types, and whether they are variables.
    scope: Vec<(String, Kind, bool)>,
    names: usize,
    /// The helper functions that may be called.
    helpers: usize,
    /// How many loops are around a statement.
    loops: usize,
}

/// The program that these bytes choose.
pub fn program(choices: &[u8]) -> String {
    let mut p =
        Program { choices: choices.iter(), left: SIZE, scope: Vec::new(), names: 0, helpers: 0, loops: 0 };
    let mut text = String::from(
        "override g: f32 = 0.5;\nconst C: f32 = 0.25;\nalias number = f32;\n\
         fn q(x: f32) -> f32 { return clamp(round(x * 8.0) / 8.0, -4.0, 4.0); }\n\
         fn q2(x: vec2f) -> vec2f { return vec2f(q(x.x), q(x.y)); }\n\
         fn q3(x: vec3f) -> vec3f { return vec3f(q(x.x), q(x.y), q(x.z)); }\n",
    );
    for helper in 0..p.below(3) {
        // A helper has no loop in a loop, and neither do those that it calls, so programs stay short.
        let body = p.body(&[("a", Float), ("k", Int)], 1);
        let value = p.result();
        text += &format!("fn f{helper}(a: number, k: i32) -> f32 {{\n{body}return {value};\n}}\n");
        p.helpers += 1;
    }
    let body = p.body(&[("p", Float), ("n", Float)], 0);
    let value = p.result();
    text += &format!("fn triplet_weight(p: f32, n: f32) -> f32 {{\n{body}return 1.0 + q({value});\n}}\n");
    let body = p.body(&[("p", Float), ("n", Float)], 0);
    let sides: Vec<String> = (0..2).map(|_| format!("{}{}", p.result(), p.approximate())).collect();
    let sides = sides.join(", ");
    text + &format!("fn pair_weights(p: f32, n: f32) -> vec2f {{\n{body}return vec2f({sides});\n}}\n")
}

impl Program<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.choices.next().map_or(0, |&byte| usize::from(byte) % n)
    }

    fn one<'s>(&mut self, of: &[&'s str]) -> &'s str {
        of[self.below(of.len())]
    }

    fn fresh(&mut self) -> String {
        self.names += 1;
        format!("v{}", self.names)
    }

    /// The statements of a function with these parameters. `loops` counts as loops around them.
    fn body(&mut self, parameters: &[(&str, Kind)], loops: usize) -> String {
        self.scope = parameters.iter().map(|(name, kind)| (name.to_string(), *kind, false)).collect();
        self.scope.push(("g".into(), Float, false));
        self.scope.push(("C".into(), Float, false));
        self.loops = loops;
        self.left = SIZE;
        let first = parameters[0].0;
        self.scope.push(("whole".into(), Int, false));
        self.scope.push(("count".into(), Unsigned, false));
        let statements: String = (0..self.below(6)).map(|_| self.statement(2)).collect();
        format!(
            "var zero = 0;\nvar nothing = 0u;\nlet whole = i32({first} * 8.0);\nlet count = u32(whole + 16);\n{statements}"
        )
    }

    /// The last sum of a function. It has every name, so that no statement is without effect.
    fn result(&mut self) -> String {
        let names = self.scope.clone().into_iter().map(|(name, kind, _)| match kind {
            Float => name,
            Int | Unsigned | Bool => as_float(&name, kind),
            // The components count differently.
            Pair => format!("q(dot({name}, vec2f(0.5, 2.0)))"),
            Triple => format!("q(dot({name}, vec3f(0.5, 1.0, 2.0)))"),
        });
        let names = names.collect::<Vec<_>>().join(" + ");
        format!("q({names} + {})", self.value(Float, 4))
    }

    /// Statements in braces. What they declare ends with them.
    fn block(&mut self, depth: usize) -> String {
        let outer = self.scope.len();
        let text: String = (0..1 + self.below(3)).map(|_| self.statement(depth)).collect();
        self.scope.truncate(outer);
        format!("{{\n{text}}}\n")
    }

    fn statement(&mut self, depth: usize) -> String {
        let choice = self.below(if depth == 0 || self.left < 40 { 5 } else { 9 });
        match choice {
            0 | 1 => {
                let kind = KINDS[self.below(KINDS.len())];
                let (value, name) = (self.value(kind, 3), self.fresh());
                let is_variable = choice == 0;
                self.scope.push((name.clone(), kind, is_variable));
                match (is_variable, self.below(3)) {
                    (false, _) => format!("let {name} = {value};\n"),
                    // A variable without a value is zero.
                    (true, 0) => format!("var {name}: {};\n", kind.name()),
                    (true, _) => format!("var {name}: {} = {value};\n", kind.name()),
                }
            }
            2..=4 => self.assignment(),
            5 => {
                let (condition, yes) = (self.value(Bool, 2), self.block(depth - 1));
                if self.below(2) == 0 {
                    return format!("if ({condition}) {yes}");
                }
                format!("if ({condition}) {yes}else {}", self.block(depth - 1))
            }
            6 => {
                let (value, cases) = (self.value(Int, 2), 1 + self.below(3));
                let mut text = format!("switch {value} {{\n");
                for case in 0..cases {
                    text += &format!("case {}, {}: {}", 2 * case, 2 * case + 1, self.block(depth - 1));
                }
                text + &format!("default: {}}}\n", self.block(depth - 1))
            }
            _ if self.loops >= 2 => self.assignment(),
            choice => {
                let (name, turns) = (self.fresh(), 1 + self.below(4));
                let outer = self.scope.len();
                // Only read: a program that changed it might not end.
                self.scope.push((name.clone(), Int, false));
                self.loops += 1;
                let skip = ["", "if (ID == 1) { continue; }\n", "if (ID > 2) { break; }\n"][self.below(3)];
                let body = skip.replace("ID", &name) + &self.block(depth - 1);
                self.loops -= 1;
                self.scope.truncate(outer);
                if choice == 7 {
                    return format!("for (var {name} = 0; {name} < {turns}; {name}++) {{\n{body}}}\n");
                }
                format!(
                    "{{\nvar {name} = 0;\nloop {{\n{body}continuing {{ {name}++; break if {name} >= {turns}; }}\n}}\n}}\n"
                )
            }
        }
    }

    /// A variable gets another value, as a whole or in one component.
    fn assignment(&mut self) -> String {
        let variables: Vec<(String, Kind)> =
            self.scope.iter().filter(|v| v.2).map(|v| (v.0.clone(), v.1)).collect();
        let Some((name, kind)) =
            (!variables.is_empty()).then(|| variables[self.below(variables.len())].clone())
        else {
            let (value, name) = (self.value(Float, 2), self.fresh());
            self.scope.push((name.clone(), Float, true));
            return format!("var {name} = {value};\n");
        };
        match (kind, self.below(4)) {
            (Pair | Triple, 0) => {
                let (index, value) = (self.index(), self.value(Float, 2));
                format!("{name}[{index}] = {value};\n")
            }
            (Pair | Triple, 1) => format!("{name}.y = {};\n", self.value(Float, 2)),
            (Int | Unsigned, 0) => {
                let operator = self.one(&["+=", "-=", "*=", "/=", "%=", "&=", "|=", "^="]);
                format!("{name} {operator} {};\n", self.value(kind, 2))
            }
            (Int | Unsigned, 1) => format!("{name}{};\n", self.one(&["++", "--"])),
            // Through a pointer.
            (Float, 0) => {
                let (pointer, value) = (self.fresh(), self.value(Float, 2));
                format!("{{ let {pointer} = &{name}; *{pointer} = {value}; }}\n")
            }
            _ => format!("{name} = {};\n", self.value(kind, 3)),
        }
    }

    /// A name of this type, or a number.
    fn leaf(&mut self, kind: Kind) -> String {
        let names: Vec<String> = self.scope.iter().filter(|v| v.1 == kind).map(|v| v.0.clone()).collect();
        let choice = self.below(names.len() + 2);
        if let Some(name) = names.get(choice) {
            return name.clone();
        }
        let number = self.below(32);
        match kind {
            Float => format!("{:?}", number as f32 / 8.0),
            // A sum with a variable is not known in advance. A constant that overflows would be refused.
            Int if choice == names.len() => {
                ["(zero + 2147483647)", "(zero - 2147483647 - 1)", "(zero - 7)", "(zero + 40)"][number % 4]
                    .into()
            }
            Int => format!("(zero + {})", number as i32 - 16),
            Unsigned if choice == names.len() => "(nothing + 4294967295u)".into(),
            Unsigned => format!("(nothing + {number}u)"),
            Bool => ["true", "false"][number % 2].into(),
            Pair => format!("vec2f({:?}, 0.5)", number as f32 / 8.0),
            Triple => format!("vec3f(1.0, {:?}, -0.5)", number as f32 / 8.0),
        }
    }

    /// An expression of this type, at most so deep.
    fn value(&mut self, kind: Kind, depth: usize) -> String {
        self.left = self.left.saturating_sub(1);
        if depth == 0 || self.left == 0 {
            return self.leaf(kind);
        }
        let d = depth - 1;
        match kind {
            Float => self.float(d),
            Int => self.whole(Int, d),
            Unsigned => self.whole(Unsigned, d),
            Bool => self.truth(d),
            Pair => match self.below(5) {
                0 => self.leaf(Pair),
                1 => format!("vec2f({}, {})", self.value(Float, d), self.value(Float, d)),
                2 => format!("{}.{}", self.value(Triple, d), self.one(&["zx", "yy", "xz"])),
                3 => {
                    let operator = self.one(&["+", "-", "*"]);
                    format!("q2({} {operator} {})", self.value(Pair, d), self.value(Pair, d))
                }
                _ => {
                    let (a, b) = (self.value(Pair, d), self.value(Pair, d));
                    format!("select({a}, {b}, {a} < {b})")
                }
            },
            Triple => match self.below(5) {
                0 => self.leaf(Triple),
                1 => format!("vec3f({}, {})", self.value(Pair, d), self.value(Float, d)),
                2 => format!("q3({} * {})", self.value(Triple, d), self.value(Float, d)),
                3 => format!("min({}, {})", self.value(Triple, d), self.value(Triple, d)),
                _ => format!("q3(abs({}) - {})", self.value(Triple, d), self.value(Triple, d)),
            },
        }
    }

    fn float(&mut self, d: usize) -> String {
        match self.below(13) {
            0 => self.leaf(Float),
            1 | 2 => {
                let operator = self.one(&["+", "-", "*"]);
                format!("q({} {operator} {})", self.value(Float, d), self.value(Float, d))
            }
            3 => format!("(-{})", self.value(Float, d)),
            4 => {
                let kind = [Int, Unsigned, Bool][self.below(3)];
                as_float(&self.value(kind, d), kind)
            }
            5 => {
                format!("select({}, {}, {})", self.value(Float, d), self.value(Float, d), self.value(Bool, d))
            }
            6 => {
                let function =
                    self.one(&["abs", "floor", "ceil", "trunc", "round", "sign", "fract", "saturate"]);
                format!("{function}({})", self.value(Float, d))
            }
            7 => {
                let function = self.one(&["min", "max", "step"]);
                format!("{function}({}, {})", self.value(Float, d), self.value(Float, d))
            }
            8 => format!("{}.{}", self.value(Triple, d), self.one(&["x", "y", "z"])),
            // An index may be outside.
            9 => format!("{}[{}]", self.value(Pair, d), self.index()),
            10 => format!("q(dot({}, {}))", self.value(Triple, d), self.value(Triple, d)),
            11 => format!("q(clamp({}, {}, g))", self.value(Float, d), self.value(Float, d)),
            _ if self.helpers > 0 => {
                let helper = self.below(self.helpers);
                format!("f{helper}({}, {})", self.value(Float, d), self.value(Int, d))
            }
            _ => format!("q(fma({}, {}, 0.5))", self.value(Float, d), self.value(Float, d)),
        }
    }

    /// An index, which may be outside. One that is outside and known in advance would be refused.
    fn index(&mut self) -> String {
        let name = self.scope[0].0.clone();
        format!("i32({name} * {:?})", 1.0 + self.below(4) as f32)
    }

    /// An integer. Division by zero, overflow and long shifts are part of the language.
    fn whole(&mut self, kind: Kind, d: usize) -> String {
        match self.below(6) {
            0 => self.leaf(kind),
            1 | 2 => {
                let operator = self.one(&["+", "-", "*", "/", "%", "&", "|", "^"]);
                format!("({} {operator} {})", self.value(kind, d), self.value(kind, d))
            }
            3 => format!("({} {} {})", self.value(kind, d), self.one(&["<<", ">>"]), {
                let shift = self.value(Unsigned, d);
                format!("({shift} & 31u)")
            }),
            4 => {
                let function = self.one(&["min", "max"]);
                format!("{function}({}, {})", self.value(kind, d), self.value(kind, d))
            }
            _ => format!("{}({})", kind.name(), self.value(if kind == Int { Float } else { Int }, d)),
        }
    }

    fn truth(&mut self, d: usize) -> String {
        match self.below(5) {
            0 => self.leaf(Bool),
            1 => {
                let kind = [Float, Int, Unsigned][self.below(3)];
                let operator = self.one(&["<", "<=", ">", ">=", "==", "!="]);
                format!("({} {operator} {})", self.value(kind, d), self.value(kind, d))
            }
            2 => format!("({} {} {})", self.value(Bool, d), self.one(&["&&", "||"]), self.value(Bool, d)),
            3 => format!("(!{})", self.value(Bool, d)),
            _ => format!("{}({} < {})", self.one(&["any", "all"]), self.value(Pair, d), self.value(Pair, d)),
        }
    }

    /// A part of the last sum that devices approximate, or nothing.
    fn approximate(&mut self) -> String {
        let function = match self.below(8) {
            0 => return String::new(),
            1 => "exp(-abs(X))",
            2 => "sin(X)",
            3 => "tanh(X)",
            4 => "sqrt(abs(X) + 0.125)",
            5 => "log2(abs(X) + 1.0)",
            6 => "1.0 / (1.0 + exp(-X))",
            _ => "atan2(X, 3.0)",
        };
        format!(" + {}", function.replace('X', &self.value(Float, 2)))
    }
}
