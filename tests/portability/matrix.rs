//! Passes every shader through every compiler and makes the table of results.

use crate::compilers::{self, Verdict};
use crate::floor;
use crate::translate::{self, Checks};
use crate::variants::has_subgroups;
use naga::Module;
use naga::back::hlsl::ShaderModel;
use naga::front::wgsl;
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// `naga` is its validator without capabilities beyond the core of WGSL. `floor` is [`floor::faults`].
pub const COLUMNS: [&str; 8] = ["naga", "floor", "SPIR-V", "GLSL ES", "FXC", "DXC", "MSL", "Tint"];

/// A shader in one variant.
pub struct Page {
    /// Its row of the table, which it shares with its other variants.
    pub row: String,
    /// The name of its files.
    pub name: String,
    pub source: String,
}

impl Page {
    /// Whether it is only for devices with subgroups. Compilers of languages without subgroups do not get it.
    fn has_subgroups(&self) -> bool {
        has_subgroups(&self.source)
    }

    fn concerns(&self, column: &str) -> bool {
        !(self.has_subgroups() && ["GLSL ES", "FXC"].contains(&column))
    }
}

/// The verdicts on each shader by column. A missing verdict was skipped.
pub struct Matrix<'a> {
    pub pages: &'a [Page],
    pub verdicts: Vec<BTreeMap<&'static str, Verdict>>,
}

impl<'a> Matrix<'a> {
    /// Writes all shaders in all languages to a folder, and compiles them.
    pub fn of(pages: &'a [Page]) -> Self {
        let folder = compilers::folder().join("pages");
        // Files of an earlier run must not be reused. The folder may not exist.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut verdicts: Vec<_> = pages.iter().map(|_| BTreeMap::new()).collect();
        let mut jobs: BTreeMap<&str, Vec<(usize, String)>> = BTreeMap::new();
        for (i, page) in pages.iter().enumerate() {
            for (column, written) in write(page, &folder) {
                match written {
                    Ok(Some(file)) => jobs.entry(column).or_default().push((i, file)),
                    Ok(None) => merge(&mut verdicts[i], column, Ok(())),
                    Err(error) => merge(&mut verdicts[i], column, Err(error)),
                }
            }
        }
        jobs.retain(|column, _| compilers::is_here(column));
        let compile = |(column, jobs): (&'static str, Vec<(usize, String)>)| {
            let (pages, files): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
            (column, pages, compilers::compile(column, &folder, &files))
        };
        let compiled: Vec<_> = std::thread::scope(|scope| {
            let start = |job| scope.spawn(move || compile(job));
            let running: Vec<_> = jobs.into_iter().map(start).collect();
            running.into_iter().map(|thread| thread.join().expect("a compiler's thread")).collect()
        });
        for (column, pages, answers) in compiled {
            for (page, verdict) in pages.into_iter().zip(answers) {
                merge(&mut verdicts[page], column, verdict);
            }
        }
        Self { pages, verdicts }
    }

    /// One row for all variants of a shader.
    pub fn table(&self) -> String {
        let mut rows: Vec<(&str, Vec<usize>)> = Vec::new();
        for (i, page) in self.pages.iter().enumerate() {
            match rows.iter_mut().find(|(row, _)| *row == page.row) {
                Some((_, forms)) => forms.push(i),
                None => rows.push((&page.row, vec![i])),
            }
        }
        let mut table = format!("{:<34}{:>6}", "shader", "forms");
        COLUMNS.iter().for_each(|column| write!(table, "{column:>9}").unwrap());
        for (row, forms) in rows {
            write!(table, "\n{row:<34}{:>6}", forms.len()).unwrap();
            for column in COLUMNS {
                let concerned = forms.iter().any(|&i| self.pages[i].concerns(column));
                let verdicts: Vec<_> = forms.iter().filter_map(|&i| self.verdicts[i].get(column)).collect();
                let failed = verdicts.iter().filter(|verdict| verdict.is_err()).count();
                let cell = match failed {
                    _ if !concerned => "-".to_string(),
                    0 if verdicts.len() < forms.len() => "skipped".to_string(),
                    0 => "ok".to_string(),
                    _ if row.starts_with("fault") => "caught".to_string(),
                    _ => format!("{failed} FAIL"),
                };
                write!(table, "{cell:>9}").unwrap();
            }
        }
        table
    }
}

/// A column fails with the first file that fails.
fn merge(verdicts: &mut BTreeMap<&'static str, Verdict>, column: &'static str, verdict: Verdict) {
    let so_far = verdicts.entry(column).or_insert(Ok(()));
    if so_far.is_ok() {
        *so_far = verdict;
    }
}

/// Writes the files of a shader. For each column: the file to compile, nothing if none is needed, or an error.
fn write(page: &Page, folder: &Path) -> Vec<(&'static str, Result<Option<String>, String>)> {
    let save = |column, suffix: &str, written: Result<Vec<u8>, String>| {
        let file = format!("{}.{suffix}", page.name);
        let saved =
            written.and_then(|bytes| std::fs::write(folder.join(&file), bytes).map_err(|e| e.to_string()));
        (column, saved.map(|()| (column != "MSL").then_some(file)))
    };
    // Browsers require a line that naga cannot read.
    let enable = if page.has_subgroups() { "enable subgroups;\n" } else { "" };
    let mut files = vec![save("Tint", "wgsl", Ok(format!("{enable}{}", page.source).into_bytes()))];
    let core = if page.has_subgroups() { Capabilities::SUBGROUP } else { Capabilities::empty() };
    let validate = |module: &Module, capabilities| {
        let mut validator = Validator::new(ValidationFlags::all(), capabilities);
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
        let validated = validator.validate(module);
        validated.map_err(|error| error.emit_to_string(&page.source))
    };
    let parsed = wgsl::parse_str(&page.source).map_err(|error| error.emit_to_string(&page.source));
    // The writers also get shaders that the validator refuses, so that each column gives its own verdict.
    let parsed = parsed.and_then(|module| validate(&module, Capabilities::all()).map(|info| (module, info)));
    let (module, info) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            files.push(("naga", Err(error)));
            let rest = COLUMNS.into_iter().filter(|column| !["naga", "Tint"].contains(column));
            files.extend(rest.map(|column| (column, Err("naga cannot read the page".to_string()))));
            return files;
        }
    };
    files.push(("naga", validate(&module, core).map(|_| None)));
    let faults = floor::faults(&module, &info);
    files.push(("floor", if faults.is_empty() { Ok(None) } else { Err(faults.join("\n")) }));
    for (checks, with) in [(Checks::On, "checked"), (Checks::Off, "unchecked")] {
        let text = |written: Result<Vec<u8>, Box<dyn std::error::Error>>| written.map_err(|e| e.to_string());
        // Subgroups need SPIR-V 1.3.
        for (major, minor) in [(1, if page.has_subgroups() { 3 } else { 0 }), (1, 6)] {
            let written = translate::spirv(&module, &info, checks, (major, minor));
            files.push(save("SPIR-V", &format!("{with}.{major}.{minor}.spv"), text(written)));
        }
        let written = translate::glsl(&module, &info, checks);
        files.push(save("GLSL ES", &format!("{with}.comp"), text(written)));
        let written = translate::hlsl(&module, &info, checks, ShaderModel::V5_1);
        files.push(save("FXC", &format!("{with}.5.1.hlsl"), text(written)));
        let written = translate::hlsl(&module, &info, checks, ShaderModel::V6_0);
        files.push(save("DXC", &format!("{with}.6.0.hlsl"), text(written)));
        let written = translate::msl(&module, &info, checks);
        files.push(save("MSL", &format!("{with}.metal"), text(written)));
    }
    files.retain(|(column, _)| page.concerns(column));
    files
}
