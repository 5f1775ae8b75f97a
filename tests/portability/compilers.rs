//! The compilers outside this crate that `scripts/shader-matrix` installs: where they are, and their messages.

use crate::matrix::COLUMNS;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{LazyLock, Mutex};

/// The verdict of one compiler on one file.
pub type Verdict = Result<(), String>;

/// The folder of a shader's files, and the tools.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("portability")
}

/// Whether the compiler of a column is installed, or the column needs none.
pub fn is_here(column: &str) -> bool {
    static MISSING: LazyLock<Vec<&str>> =
        LazyLock::new(|| COLUMNS.into_iter().filter(|column| !look_for(column)).collect());
    !MISSING.contains(&column)
}

fn look_for(column: &str) -> bool {
    match column {
        "SPIR-V" => answers("spirv-val"),
        "GLSL ES" => answers("glslangValidator"),
        "FXC" | "DXC" => wine().is_some() && folder().join("hlsl.exe").exists(),
        "Tint" => answers("node") && webgpu().join("index.js").exists(),
        _ => true,
    }
}

fn answers(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Debian's wine64 package leaves its program outside the path.
fn wine() -> Option<&'static str> {
    ["wine64", "wine", "/usr/lib/wine/wine64"].into_iter().find(|program| answers(program))
}

fn webgpu() -> PathBuf {
    folder().join("node_modules/webgpu")
}

/// Compiles files in the folder `pages`, named relative to it, and returns the result of each.
pub fn compile(column: &str, pages: &Path, files: &[String]) -> Vec<Verdict> {
    let each = |command: &(dyn Fn(&str) -> Command + Sync)| {
        files.par_iter().map(|file| verdict(command(file).current_dir(pages))).collect()
    };
    match column {
        "SPIR-V" => each(&|file| {
            let mut command = Command::new("spirv-val");
            let newest = [(".1.6.spv", "vulkan1.3"), (".1.3.spv", "vulkan1.1")];
            let environment = newest.iter().find(|(suffix, _)| file.ends_with(suffix));
            let environment = environment.map_or("vulkan1.0", |(_, environment)| environment);
            command.args(["--target-env", environment, file]);
            command
        }),
        "GLSL ES" => each(&|file| {
            let mut command = Command::new("glslangValidator");
            command.args(["-S", "comp", file]);
            command
        }),
        "FXC" => hlsl(pages, "fxc cs_5_1", files),
        "DXC" => hlsl(pages, "dxc cs_6_0", files),
        "Tint" => {
            let mut command = Command::new("node");
            command
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portability/tint.mjs"))
                .arg(webgpu());
            batch(command, pages, "tint.txt", "", files)
        }
        _ => unreachable!("{column} has no compiler of its own"),
    }
}

/// The exit status of one process decides.
fn verdict(command: &mut Command) -> Verdict {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(said(&output)),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).trim().to_string()
}

/// Only one at a time: two Wine processes that start together disturb each other.
fn hlsl(pages: &Path, prefix: &str, files: &[String]) -> Vec<Verdict> {
    static WINE: Mutex<()> = Mutex::new(());
    let _alone = WINE.lock();
    let mut command = Command::new(wine().unwrap_or("wine"));
    command
        .arg(folder().join("hlsl.exe"))
        .envs([("WINEDEBUG", "-all"), ("WINEDLLOVERRIDES", "mscoree,mshtml=")]);
    command.env("WINEPREFIX", folder().join("wine"));
    batch(command, pages, &format!("{}.txt", &prefix[..3]), &format!("{prefix} "), files)
}

/// One process for all files. Each file is a line of `list`, after `prefix`. The process prints `== ok FILE` or `==
/// FAIL FILE`, followed by its messages. A file without such a line has failed.
fn batch(mut command: Command, pages: &Path, list: &str, prefix: &str, files: &[String]) -> Vec<Verdict> {
    let lines: String = files.iter().map(|file| format!("{prefix}{file}\n")).collect();
    std::fs::write(pages.join(list), lines).expect("the pages' folder is writable");
    let output = match command.arg(list).current_dir(pages).output() {
        Ok(output) => output,
        Err(error) => return files.iter().map(|_| Err(format!("{command:?}: {error}"))).collect(),
    };
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let mut verdicts = BTreeMap::new();
    for part in format!("\n{text}").split("\n== ").skip(1) {
        let (head, messages) = part.split_once('\n').unwrap_or((part, ""));
        let (status, file) = head.split_once(' ').unwrap_or((head, ""));
        let verdict = if status == "ok" { Ok(()) } else { Err(messages.trim().to_string()) };
        verdicts.insert(file.to_string(), verdict);
    }
    let silent = || Err(format!("no answer from {command:?}: {}", said(&output)));
    files.iter().map(|file| verdicts.remove(file).unwrap_or_else(silent)).collect()
}
