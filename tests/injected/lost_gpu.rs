//! A GPU that is lost in the middle of a command, at any of its submissions: an error of one line, and the same command
//! then ends as if nothing had happened.
//!
//! `vulkan.c` stands in front of the Vulkan library and reports the loss. `WGOAL_FAULTS` is the number of submissions to
//! try, two by default.

use crate::faults::{differences, files};
use crate::place::*;
use libtest_mimic::{Completion, Failed, Trial};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stands in front of the Vulkan library, and the library, or why there is none.
fn library(folder: &Path) -> Result<PathBuf, String> {
    let known = Command::new("/sbin/ldconfig").arg("-p").output().map_err(|_| "no ldconfig here")?;
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    let line = known.lines().find(|line| line.trim_start().starts_with("libvulkan.so.1 "));
    let real = line.and_then(|line| line.split(" => ").nth(1)).ok_or("no Vulkan library here")?;
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/injected/vulkan.c");
    fs::create_dir_all(folder).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .arg(folder.join("libvulkan.so.1"))
        .args([source, "-ldl"])
        .status();
    match built {
        Ok(status) => assert!(status.success(), "cc {source}"),
        Err(_) if std::env::var_os("WGOAL_REQUIRE_COMPILERS").is_some() => panic!("no cc"),
        Err(_) => return Err("no cc here".into()),
    }
    Ok(real.into())
}

/// Loses the GPU at submissions of a command, spread over all of them, and gives the command again.
fn try_submissions(prepare: impl Fn(&Place), args: &str, out: &str) -> Result<Completion, Failed> {
    let place = Place::new();
    let folder = place.path("vulkan");
    let real = match library(&folder) {
        Ok(real) => real,
        Err(why) => return Ok(Completion::ignored_with(why)),
    };
    let devices = place.ok("devices");
    if !devices.lines().any(|line| line.contains("vulkan") && line.contains("llvmpipe")) {
        let required = std::env::var("WGOAL_REQUIRE_ADAPTERS").unwrap_or_default();
        assert!(!required.contains("lavapipe"), "no lavapipe: {devices}");
        return Ok(Completion::ignored_with("no lavapipe here"));
    }
    prepare(&place);
    let count = place.path("count");
    let run = |lose_at: usize| {
        let mut command = place.command();
        command.env("LD_LIBRARY_PATH", &folder).env("VULKAN", &real).env("COUNT", &count);
        let output =
            command.env("LOSE_AT", lose_at.to_string()).args(args.split_whitespace()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), stderr)
    };
    let (code, stderr) = run(0);
    assert_eq!(code, 0, "{args}\n{stderr}");
    let submissions: usize = fs::read_to_string(&count).unwrap().trim().parse().unwrap();
    let expected = files(&place, out);
    let wanted =
        std::env::var("WGOAL_FAULTS").map_or(2, |text| text.parse().expect("a number")).min(submissions);
    let (mut wrong, mut lost) = (Vec::new(), 0);
    for at in (1..=wanted).map(|k| k * submissions / wanted) {
        fs::remove_dir_all(place.path(out)).unwrap();
        let (code, stderr) = run(at);
        let last = stderr.lines().last().unwrap_or_default();
        lost += usize::from(code == 1);
        // The number of submissions depends on the timing. The one may not have come.
        if !(code == 0 || (code == 1 && last.starts_with("error: ") && last.contains("lost")))
            || stderr.contains("panicked")
        {
            wrong.push(format!("submission {at} of {submissions}: exit code {code}\n{stderr}"));
        }
        let (code, stderr) = run(0);
        let found = files(&place, out);
        if code != 0 || found != expected {
            let differ = differences(&expected, &found);
            wrong
                .push(format!("after submission {at} of {submissions}: {code}, differ {differ:?}\n{stderr}"));
        }
    }
    println!("lost at {lost} of {submissions} submissions in wgoal {args}");
    assert!(wrong.is_empty(), "wgoal {args}\n{}", wrong.join("\n"));
    assert!(lost > 0, "no submission was lost");
    Ok(Completion::Completed)
}

fn train_survives_a_lost_gpu() -> Result<Completion, Failed> {
    let args = "train data --recipe goal --epochs 3 --batch 8 --embed 4 --device llvmpipe --no-baselines \
                --checkpoint-every 1 --resume=auto --out run";
    try_submissions(|_| (), args, "run")
}

fn embed_survives_a_lost_gpu() -> Result<Completion, Failed> {
    let args = "embed run data --device llvmpipe --out vectors";
    try_submissions(|place| drop(place.train("run", "--no-baselines")), args, "vectors")
}

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::ignorable_test("train_survives_a_lost_gpu", train_survives_a_lost_gpu),
        Trial::ignorable_test("embed_survives_a_lost_gpu", embed_survives_a_lost_gpu),
    ]
}
