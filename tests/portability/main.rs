//! The shader matrix: every shader in every variant, through every compiler to which wgpu or a browser would pass it,
//! and faulty shaders that the matrix must detect. `scripts/shader-matrix` installs the compilers.

mod compilers;
mod floor;
mod matrix;
mod translate;
#[path = "../common/variants.rs"]
mod variants;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use matrix::{COLUMNS, Matrix, Page};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use wgoal::device::specialise;

/// A shader with one fault, and the columns that must detect it, each with a word of its message.
struct Fault {
    name: &'static str,
    source: &'static str,
    caught: &'static [(&'static str, &'static str)],
}

macro_rules! faults {
    ($($name:literal: $caught:expr,)*) => {
        &[$(Fault { name: $name, source: include_str!(concat!("faulty/", $name, ".wgsl")), caught: &$caught }),*]
    };
}

/// At least one column that needs no compiler detects each fault, so every machine can detect it.
static FAULTS: &[Fault] = faults! {
    "barrier_in_a_branch": [("floor", "barrier in a branch"), ("FXC", "X3663"), ("Tint", "uniform control flow")],
    "nine_storage_buffers": [("floor", "9 storage buffers"), ("Tint", "storage buffers")],
    "dynamically_indexed_array": [("floor", "dynamic index into a local array")],
    "float_atomic": [("naga", "FLOAT32_ATOMIC"), ("floor", "float atomics"), ("Tint", "atomic")],
    "workgroup_memory": [("floor", "20480 bytes of workgroup memory"), ("Tint", "workgroup")],
    "invocations": [("floor", "512 invocations"), ("Tint", "512")],
    "nan_comparison": [("floor", "NaN comparison")],
};

/// All shaders of the crate, followed by the faulty ones.
static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| {
    let mut pages = Vec::new();
    for (spec, constants) in variants::variants() {
        let numbers = variants::numbers(&constants);
        let values: Vec<_> = numbers.iter().map(|(_, value)| value.trim_end_matches('u')).collect();
        let lanes = values.first().is_some_and(|value| value.parse::<u32>().is_ok());
        let tile =
            if lanes && values.len() > 1 { format!(" {}x{}", values[0], values[1]) } else { String::new() };
        pages.push(Page {
            row: format!("{}{tile}", spec.name),
            // Several variants may differ only in a section.
            name: format!("{}.{}", [&[spec.name], &values[..]].concat().join("."), pages.len()),
            source: specialise(spec.source, &constants).unwrap_or_else(|e| panic!("{}: {e}", spec.name)),
        });
    }
    pages.sort_by(|a, b| a.row.cmp(&b.row));
    pages.extend(FAULTS.iter().map(|fault| Page {
        row: format!("fault: {}", fault.name),
        name: format!("fault.{}", fault.name),
        source: fault.source.into(),
    }));
    pages
});

static MATRIX: LazyLock<Matrix> = LazyLock::new(|| Matrix::of(&PAGES));

fn crate_pages() -> usize {
    PAGES.len() - FAULTS.len()
}

/// In CI, and wherever scripts/shader-matrix has installed the compilers, a missing compiler is a failure.
fn required() -> bool {
    std::env::var_os("WGOAL_REQUIRE_COMPILERS").is_some()
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for column in COLUMNS {
        trials.push(Trial::ignorable_test(column, move || every_shader_passes(column)));
    }
    for (i, fault) in FAULTS.iter().enumerate() {
        trials.push(Trial::ignorable_test(format!("fault/{}", fault.name), move || is_caught(i, fault)));
    }
    // The table comes before the lines of the tests. It is left out if the filter selects no test.
    if !arguments.list && trials.iter().any(|trial| !arguments.is_filtered_out(trial)) {
        println!("\n{}", MATRIX.table());
        for column in COLUMNS.into_iter().filter(|column| !compilers::is_here(column)) {
            println!("skipped: {column}, its compiler is not here; scripts/shader-matrix installs it");
        }
    }
    libtest_mimic::run(&arguments, trials).exit()
}

fn every_shader_passes(column: &str) -> Result<Completion, Failed> {
    if !compilers::is_here(column) {
        return absent(format!("the compiler for {column} is not here: scripts/shader-matrix installs it"));
    }
    let mut failures: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (page, verdicts) in MATRIX.pages.iter().zip(&MATRIX.verdicts).take(crate_pages()) {
        if let Some(Err(error)) = verdicts.get(column) {
            failures.entry(error).or_default().push(&page.name);
        }
    }
    let report = |(error, pages): (&&str, &Vec<&str>)| format!("{}:\n{error}", pages.join(", "));
    let failures: Vec<_> = failures.iter().map(report).collect();
    if failures.is_empty() { Ok(Completion::Completed) } else { Err(failures.join("\n\n").into()) }
}

/// A test whose compiler is missing is ignored, or a failure if compilers are required.
fn absent(reason: String) -> Result<Completion, Failed> {
    if required() { Err(reason.into()) } else { Ok(Completion::ignored_with(reason)) }
}

/// Every column that should detect the fault must detect it. Columns without a compiler are skipped.
fn is_caught(i: usize, fault: &Fault) -> Result<Completion, Failed> {
    let verdicts = &MATRIX.verdicts[crate_pages() + i];
    if let Some(column) = COLUMNS.into_iter().find(|column| required() && !verdicts.contains_key(column)) {
        return Err(format!("{column} did not look at it").into());
    }
    let mut catches = 0;
    for &(column, word) in fault.caught {
        match verdicts.get(column) {
            Some(Err(error)) if error.contains(word) => catches += 1,
            Some(other) => return Err(format!("{column} does not say `{word}`: {other:?}").into()),
            None => {}
        }
    }
    if catches == 0 {
        return absent(
            "no compiler that should catch it is here: scripts/shader-matrix installs them".into(),
        );
    }
    Ok(Completion::Completed)
}
