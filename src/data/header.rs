//! Parses the text of an `.npy` header, lists the types of arrays, and gives advice on converting types that are not
//! read.
//!
//! Headers are read as numpy reads them, with its type codes and names and in either byte order. The parser does not
//! recurse, so deep nesting cannot overflow the stack.

/// The kind of an array's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Uint,
    Float,
    /// bfloat16, which safetensors files hold.
    Brain,
    Complex,
    Object,
    Text,
    /// Bytes without a meaning. numpy saves types that it does not know in this way.
    Void,
    /// Several named fields.
    Fields,
    Other,
}

/// The type of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Type {
    pub kind: Kind,
    /// Bytes of one value.
    pub size: usize,
    pub big_endian: bool,
    /// The name in the file, for messages.
    pub name: String,
    /// The name of the first field, if there are fields.
    field: String,
    /// Whether the name is numpy's, not that of safetensors.
    numpy: bool,
}

/// What an array is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Features,
    Rows,
}

impl Type {
    /// The type for numpy's code or name, such as `<f2`, `=i8`, `f4` or `float32`.
    pub fn of_numpy(name: &str) -> Self {
        let (order, code) = match name.split_at_checked(1) {
            Some((order @ ("<" | ">" | "=" | "|"), code)) => (order, code),
            _ => ("=", name),
        };
        let (kind, size) = numpy_code(code);
        let big_endian = order == ">" && size > 1;
        Self { kind, size, big_endian, name: format!("'{name}'"), field: String::new(), numpy: true }
    }

    /// The type for the name in a safetensors file, such as `F16`.
    pub fn of_safetensors(name: &str) -> Self {
        let (kind, size) = match name {
            "F16" => (Kind::Float, 2),
            "F32" => (Kind::Float, 4),
            "F64" => (Kind::Float, 8),
            "BF16" => (Kind::Brain, 2),
            "I8" => (Kind::Int, 1),
            "I16" => (Kind::Int, 2),
            "I32" => (Kind::Int, 4),
            "I64" => (Kind::Int, 8),
            "U8" => (Kind::Uint, 1),
            "U16" => (Kind::Uint, 2),
            "U32" => (Kind::Uint, 4),
            "U64" => (Kind::Uint, 8),
            "BOOL" => (Kind::Bool, 1),
            "C64" => (Kind::Complex, 8),
            _ => (Kind::Other, 1),
        };
        Self { kind, size, big_endian: false, name: name.into(), field: String::new(), numpy: false }
    }

    /// Whether the values are single numbers, or true and false.
    pub fn is_number(&self) -> bool {
        matches!(self.kind, Kind::Bool | Kind::Int | Kind::Uint | Kind::Float | Kind::Brain)
    }

    /// The advice on what to save instead of an array of this type, which is not accepted where `wanted` is needed.
    pub fn conversion(&self, wanted: Wanted) -> String {
        let (torch, astype) = match wanted {
            Wanted::Features => ("tensor.float()", "astype('<f4')"),
            Wanted::Rows => ("tensor.long()", "astype('int64')"),
        };
        let array = match (self.kind, wanted) {
            (Kind::Complex, Wanted::Features) => "numpy.abs(array), or the real part,".to_string(),
            (Kind::Complex, Wanted::Rows) => "array.real".to_string(),
            (Kind::Object, _) => {
                return format!(
                    "read the array with numpy.load(file, allow_pickle=True) and save numpy.stack(list(array)).{astype}"
                );
            }
            (Kind::Text, Wanted::Features) => {
                return format!("save numbers: array.{astype} where the texts are numbers");
            }
            (Kind::Text, Wanted::Rows) => {
                return "write the row of every image, counted from 0, in the place of its name".into();
            }
            (Kind::Fields, Wanted::Features) => {
                "numpy.lib.recfunctions.structured_to_unstructured(array)".into()
            }
            (Kind::Fields, Wanted::Rows) => format!("one field of it, array['{}']", self.field),
            (Kind::Void, _) => {
                return format!(
                    "convert the features before they are saved; where these are bfloat16 values, save \
                     array.view(ml_dtypes.bfloat16).{astype}"
                );
            }
            _ if !self.numpy => {
                return format!("save the tensor converted: with torch {torch}, with numpy array.{astype}");
            }
            _ => return format!("save the array converted, with numpy array.{astype}"),
        };
        format!("save {array} converted with numpy's {astype}")
    }
}

/// Kind and size in bytes of numpy's code or name of a type, without its byte order.
fn numpy_code(code: &str) -> (Kind, usize) {
    let named = match code {
        "?" | "bool" | "bool_" => Some((Kind::Bool, 1)),
        "b" => Some((Kind::Int, 1)),
        "h" => Some((Kind::Int, 2)),
        "i" => Some((Kind::Int, 4)),
        "l" | "q" | "p" | "int" => Some((Kind::Int, 8)),
        "B" => Some((Kind::Uint, 1)),
        "H" => Some((Kind::Uint, 2)),
        "I" => Some((Kind::Uint, 4)),
        "L" | "Q" | "P" | "uint" => Some((Kind::Uint, 8)),
        "e" | "half" => Some((Kind::Float, 2)),
        "f" | "single" => Some((Kind::Float, 4)),
        "d" | "double" | "float" => Some((Kind::Float, 8)),
        "F" => Some((Kind::Complex, 8)),
        "D" | "complex" => Some((Kind::Complex, 16)),
        "O" | "object" => Some((Kind::Object, 8)),
        _ => None,
    };
    let digits = code.trim_start_matches(|c: char| !c.is_ascii_digit());
    let letters = &code[..code.len() - digits.len()];
    let size: usize = digits.parse().unwrap_or(0);
    named.unwrap_or(match (letters, size) {
        ("b", 1) => (Kind::Bool, 1),
        ("i", 1 | 2 | 4 | 8) => (Kind::Int, size),
        ("u", 1 | 2 | 4 | 8) => (Kind::Uint, size),
        ("f", 2 | 4 | 8) => (Kind::Float, size),
        ("int", 8 | 16 | 32 | 64) => (Kind::Int, size / 8),
        ("uint", 8 | 16 | 32 | 64) => (Kind::Uint, size / 8),
        ("float", 16 | 32 | 64) => (Kind::Float, size / 8),
        ("c", _) => (Kind::Complex, size),
        ("complex", _) => (Kind::Complex, size / 8),
        ("O", _) => (Kind::Object, 8),
        ("S" | "a" | "U", _) => (Kind::Text, size),
        ("V", _) => (Kind::Void, size),
        _ => (Kind::Other, size.max(1)),
    })
}

/// The contents of the header of an `.npy` file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NpyHeader {
    pub dtype: Type,
    pub fortran_order: bool,
    pub shape: Vec<u64>,
}

impl NpyHeader {
    /// Parses the dictionary of a header. Returns `None` if it does not consist of `descr`, `fortran_order` and
    /// `shape`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut text = Literal(text);
        let (mut dtype, mut fortran_order, mut shape) = (None, None, None);
        text.take("{")?;
        while text.take("}").is_none() {
            let key = text.string()?;
            text.take(":")?;
            match key {
                "descr" => dtype = Some(text.dtype()?),
                "fortran_order" => fortran_order = Some(text.boolean()?),
                "shape" => shape = Some(text.shape()?),
                _ => return None,
            }
            if text.take(",").is_none() {
                text.take("}")?;
                break;
            }
        }
        text.end()?;
        Some(Self { dtype: dtype?, fortran_order: fortran_order?, shape: shape? })
    }
}

/// The rest of a Python literal, which is not parsed yet.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    fn take(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn end(&self) -> Option<()> {
        self.0.trim().is_empty().then_some(())
    }

    /// A string in either kind of quotes, without escapes.
    fn string(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
        let (string, rest) = text[1..].split_once(quote)?;
        self.0 = rest;
        Some(string)
    }

    fn boolean(&mut self) -> Option<bool> {
        self.take("True").map(|()| true).or_else(|| self.take("False").map(|()| false))
    }

    /// Whole numbers in parentheses. Each may end in L, as Python 2 writes them.
    fn shape(&mut self) -> Option<Vec<u64>> {
        self.take("(")?;
        let (inside, rest) = self.0.split_once(')')?;
        self.0 = rest;
        let inside = inside.trim();
        let inside = inside.strip_suffix(',').unwrap_or(inside);
        if inside.is_empty() {
            return Some(Vec::new());
        }
        let number = |n: &str| n.trim().strip_suffix('L').unwrap_or(n.trim()).parse().ok();
        inside.split(',').map(number).collect()
    }

    /// A type name, or the list of the fields of a structured type. Only the first field's name of the list is kept.
    fn dtype(&mut self) -> Option<Type> {
        if let Some(name) = self.string() {
            return Some(Type::of_numpy(name));
        }
        self.take("[")?;
        self.take("(")?;
        let field = self.string()?.to_string();
        let mut open = 2;
        while open > 0 {
            let next = self.0.find(['\'', '"', '[', ']', '(', ')'])?;
            match self.0.as_bytes()[next] {
                b'\'' | b'"' => {
                    self.0 = &self.0[next..];
                    self.string()?;
                    continue;
                }
                b'[' | b'(' => open += 1,
                _ => open -= 1,
            }
            self.0 = &self.0[next + 1..];
        }
        let (kind, name) = (Kind::Fields, "named fields".to_string());
        Some(Type { kind, size: 1, big_endian: false, name, field, numpy: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_numpy_reads_them() {
        let parse = |descr: &str, shape: &str| {
            NpyHeader::parse(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }} \n"))
        };
        for (descr, kind, size, big) in [
            ("'<f4'", Kind::Float, 4, false),
            ("'f4'", Kind::Float, 4, false),
            ("'=f4'", Kind::Float, 4, false),
            ("\">f8\"", Kind::Float, 8, true),
            ("'float16'", Kind::Float, 2, false),
            ("'d'", Kind::Float, 8, false),
            ("'|u1'", Kind::Uint, 1, false),
            ("'>i1'", Kind::Int, 1, false),
            ("'|b1'", Kind::Bool, 1, false),
            ("'?'", Kind::Bool, 1, false),
            ("'int64'", Kind::Int, 8, false),
            ("'|O'", Kind::Object, 8, false),
            ("'<U3'", Kind::Text, 3, false),
            ("'|V2'", Kind::Void, 2, false),
            ("'<c8'", Kind::Complex, 8, false),
            ("'<f16'", Kind::Other, 16, false),
            ("'<M8[ns]'", Kind::Other, 1, false),
            ("[('a)', '<f4', (2,)), ('b', [('c', '|u1')])]", Kind::Fields, 1, false),
        ] {
            let header = parse(descr, "(3, 4)").unwrap_or_else(|| panic!("{descr}"));
            let found = (header.dtype.kind, header.dtype.size, header.dtype.big_endian);
            assert_eq!(found, (kind, size, big), "{descr}");
        }
        for (shape, numbers) in
            [("()", &[][..]), ("(7,)", &[7]), ("(120L, 2L)", &[120, 2]), ("( 1 , 2 , )", &[1, 2])]
        {
            assert_eq!(parse("'<f4'", shape).unwrap().shape, numbers, "{shape}");
        }
        for shape in ["(3", "(-1,)", "(a,)", "((1,),)", "(1.0,)", "(L,)", "3", "(,,)", "[3]"] {
            assert_eq!(parse("'<f4'", shape), None, "{shape}");
        }
        for descr in ["<f4", "'<f4", "[", "[(", "[('a'", "[('a', '<f4')", "{}", "None"] {
            assert_eq!(parse(descr, "(3,)"), None, "{descr}");
        }
        for text in ["", "{", "{}", "{'descr': '<f4', 'shape': (1,)}", "{'x': 1}", &"{'descr': [(".repeat(9)]
        {
            assert_eq!(NpyHeader::parse(text), None, "{text}");
        }
        let any = "{'shape':(1,),'fortran_order':True,\"descr\":'<f4'}";
        assert!(NpyHeader::parse(any).unwrap().fortran_order);
        assert_eq!(NpyHeader::parse(&format!("{any} more")), None);
    }
}
