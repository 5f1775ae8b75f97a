//! Messages: no input can break, forge or colour a line, and the words say what to do.

use super::place::*;
use std::collections::HashMap;
use std::fs;

/// A file name as an attacker would choose it. It forges a line, colours it, reverses its direction, and has an 8-bit
/// control character.
const HOSTILE: &str = "a\nerror: forged\r\u{1b}[31m\u{9b}31m\u{202e}\u{2066}\u{7f}b";
const SHOWN: &str = r"a\nerror: forged\r\u{1b}[31m\u{9b}31m\u{202e}\u{2066}\u{7f}b";

fn run(place: &Place, args: &[&str]) -> (i32, String, String) {
    let output = place.command().args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Checks that a terminal or a reader cannot take any line for something else.
#[track_caller]
fn assert_plain(args: &[&str], text: &str) {
    let unsafe_character = |c: char| c != '\n' && (c.is_control() || wgoal::is_unsafe(c));
    assert!(!text.contains(unsafe_character), "{args:?}\n{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("error: forged")), "{args:?}\n{text}");
}

#[cfg(unix)]
#[test]
fn names_cannot_forge_lines() {
    let place = Place::new();
    place.train("run", "");
    write_dataset(&place.path(HOSTILE));
    // These warnings name the file: rows of zeros, and rows that are not unit vectors.
    let mut images = features()[0].clone();
    images[..DIMS[0]].fill(0.0);
    write_npy(&place.path(HOSTILE).join("images.npy"), &[IMAGES.into(), DIMS[0] as u64], &images);
    write_npy(&place.path(&format!("{HOSTILE}.npy")), &[2, 2], &[2.0f32, 0.0, 0.0, 1.0]);
    fs::write(place.path(&format!("{HOSTILE}.wgsl")), "fn f() { return 1; }").unwrap();
    let npy = &format!("{HOSTILE}.npy");
    let wgsl = &format!("{HOSTILE}.wgsl");
    let (head, run_at) = ("run/best.safetensors", &format!("{HOSTILE}/run"));
    let cpu = "--device=cpu";
    let missing = &format!("{HOSTILE}.none");
    let good: [&[&str]; 8] = [
        &["train", HOSTILE, "--epochs=1", "--embed=4", "--json", cpu, "--out", run_at],
        &["train", "--resume", "--epochs=2", cpu, "--out", run_at],
        &["train", HOSTILE, "--epochs=1", "--embed=4", cpu],
        &["eval", head, HOSTILE, cpu, "--top=2", "--write-candidates", &format!("{HOSTILE}.c")],
        &["embed", head, HOSTILE, "--split=test", cpu, "--out", &format!("{HOSTILE}.v")],
        &["baseline", "ridge", HOSTILE, cpu, "--out", &format!("{HOSTILE}.b")],
        &["gradient", "--images", npy, "--texts", npy, cpu, "--out", &format!("{HOSTILE}.g")],
        &["sweep", HOSTILE, "--objectives=hinge", "--seeds=0", "--epochs=1", "--embed=4", cpu, "--out", "s"],
    ];
    for args in good {
        let (code, stdout, stderr) = run(&place, args);
        assert_eq!(code, 0, "{args:?}\n{stderr}");
        assert_plain(args, &stdout);
        assert_plain(args, &stderr);
        assert!(!stderr.contains("error: forged\n"), "{stderr}");
    }
    let bad: [&[&str]; 12] = [
        &["train", missing, "--out", "new"],
        &["train", "--resume", "--out", missing],
        &["eval", missing, "data", cpu],
        &["eval", head, "data", cpu, "--rerank", missing],
        &["eval", head, "data", cpu, "--split", HOSTILE],
        &["embed", head, "data", "--split", HOSTILE, cpu, "--out", "new"],
        &["gradient", "--images", missing, "--texts", npy, cpu, "--out", "new"],
        &["analyze", HOSTILE],
        &["analyze", "custom", "--weights", wgsl],
        &["analyze", "custom", "--weights", missing],
        &["sweep", "data", "--grid", HOSTILE, "--out", "new"],
        &["devices", "--json=\u{1b}"],
    ];
    for args in bad.into_iter().chain([&["eval", head, "data", "--device", HOSTILE][..]]) {
        let (code, stdout, stderr) = run(&place, args);
        assert_plain(args, &stderr);
        let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert!(code > 0 && stdout.is_empty() && errors == 1, "{args:?}\n{stderr}");
        if code == 1 && args.contains(&HOSTILE) {
            assert!(stderr.contains(SHOWN), "{args:?}\n{stderr}");
        }
    }
}

/// This includes usage errors, whose words come from clap.
#[test]
fn arguments_cannot_forge_lines() {
    let place = Place::new();
    let with = |start: &str| format!("{start}{HOSTILE}");
    let (long, list, parameter) = ("x".repeat(100_000), with("1,"), with("k="));
    let (option, seed) = (with("--"), with("--seed="));
    let rows: [&[&str]; 9] = [
        &["train", "data", "--seed", HOSTILE],
        &["train", "data", &seed],
        &["train", "data", "--lr-drop", &list],
        &["train", "data", "--optimizer", HOSTILE],
        &["train", "data", &option],
        &["train", "data", "--param", &parameter],
        &[HOSTILE],
        &["train", "data", HOSTILE],
        &["train", "data", "--seed", &long],
    ];
    for args in rows {
        let (code, stdout, stderr) = run(&place, args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert_plain(&args[..args.len() - 1], &stderr);
        assert!(stderr.starts_with("error: ") && stderr.len() < 3000, "{} bytes", stderr.len());
        assert!(!stderr.contains("\nerror: "), "{stderr}");
    }
}

/// Contents of files appear in errors as well.
#[test]
fn contents_cannot_forge_lines() {
    let place = Place::new();
    place.train("run", "");
    let long = "y".repeat(1 << 20);
    let escape = |text: &str| serde_json::to_string(text).unwrap();
    let header = |json: String| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    for (name, text) in [("hostile", HOSTILE), ("long", &long)] {
        for folder in ["npy", "captions"] {
            write_dataset(&place.path(&format!("{folder}-{name}")));
        }
        let shape = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ((3, {text}), }}");
        let shape: String = shape.chars().take(60_000).collect();
        let mut npy = [b"\x93NUMPY\x01\x00", &(shape.len() as u16).to_le_bytes()[..]].concat();
        npy.extend(shape.as_bytes());
        fs::write(place.path(&format!("npy-{name}/images.npy")), npy).unwrap();
        fs::write(place.path(&format!("captions-{name}/captions.txt")), text).unwrap();
        fs::write(place.path(&format!("{name}.safetensors")), header(format!("{{{}: 1}}", escape(text))))
            .unwrap();
        let (tensors, mut metadata) = read_tensors(&place.read("run/best.safetensors"));
        let wgoal = metadata["wgoal"].replacen("\"clip\"", &escape(text), 1);
        metadata = HashMap::from([("wgoal".to_string(), wgoal)]);
        fs::write(place.path(&format!("head-{name}")), write_tensors(&tensors, metadata)).unwrap();
        fs::create_dir(place.path(&format!("run-{name}"))).unwrap();
        let config =
            format!("{{\"dataset\": \"d\", \"wgoal\": \"0\", \"device\": \"d\", {}: 1}}", escape(text));
        fs::write(place.path(&format!("run-{name}/config.json")), config).unwrap();
        let sweep =
            format!("sweep data --objectives hinge --seeds 0 --epochs 1 --device cpu --out sweep-{name}");
        fs::create_dir(place.path(&format!("sweep-{name}"))).unwrap();
        let plan = format!("{{\"settings\": {}}}\n", escape(text));
        fs::write(place.path(&format!("sweep-{name}/results.jsonl")), plan).unwrap();
        for command in [
            format!("train npy-{name} --device cpu --out new"),
            format!("train captions-{name} --device cpu --out captions-{name}/new"),
            format!("train {name}.safetensors --device cpu --out new"),
            format!("eval {name}.safetensors data --device cpu"),
            format!("eval head-{name} data --device cpu"),
            format!("train --resume --device cpu --out run-{name}"),
            sweep,
        ] {
            let args: Vec<_> = command.split(' ').collect();
            let (code, _, stderr) = run(&place, &args);
            assert_plain(&args, &stderr);
            let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
            // Captions are read only for a warning.
            let expected = if command.contains("captions") { (0, 0) } else { (1, 1) };
            assert_eq!((code, errors), expected, "{command}\n{stderr}");
            assert!(stderr.lines().all(|line| line.len() < 4000), "{command}: {} bytes", stderr.len());
        }
    }
}

/// JSON contains the name in escapes that every parser reads.
#[cfg(unix)]
#[test]
fn json_stays_json() {
    let place = Place::new();
    let file = place.path("w.wgsl");
    let weights = "fn triplet_weight(p: f32, n: f32) -> f32 { return 1.0; }\n\
         fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0, 1.0); }\n";
    fs::write(file, weights).unwrap();
    let args = ["analyze", "custom", "--weights", "w.wgsl", "--json", "--plot", "/dev/stdout"];
    let (code, stdout, stderr) = run(&place, &args);
    assert!(code == 0 && stdout.starts_with("<svg") && stdout.ends_with("</svg>\n"), "{stderr}");
    serde_json::from_str::<serde_json::Value>(stderr.lines().last().unwrap()).unwrap();
}

/// An environment variable with an unknown value is an error that lists the accepted values, whatever the device.
#[test]
fn misspelt_variables_are_errors() {
    let place = Place::new();
    let rows = [
        ("WGPU_BACKEND", "vulcan", "vulkan, metal, dx12 or gl"),
        ("WGPU_BACKEND", "vulkan,gll", "vulkan, metal, dx12 or gl"),
        ("WGPU_BACKEND", " ", "vulkan, metal, dx12 or gl"),
        ("WGPU_BACKEND", ",", "vulkan, metal, dx12 or gl"),
        ("WGPU_POWER_PREF", "lo", "low, high or none"),
        ("WGPU_ADAPTER_NAME", " ", "part of a device's name"),
        ("WGOAL_SHADER_CHECKS", "maybe", "on or off"),
        ("WGOAL_SHADER_CHECKS", "1", "on or off"),
        ("WGOAL_MATMUL", "fastest", "fixed, measure, or one of: "),
        ("WGOAL_MATMUL", HOSTILE, "fixed, measure, or one of: "),
    ];
    for (name, value, accepted) in rows {
        for args in [
            &["devices"][..],
            &["train", "data", "--device=cpu", "--out=new"],
            &["bench", "pairs", "--device=auto"],
        ] {
            let output = place.command().env(name, value).args(args).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_plain(args, &stderr);
            let start = format!("error: {name}: expected {accepted}");
            assert!(stderr.starts_with(&start) && stderr.lines().count() == 1, "{name}={value}\n{stderr}");
            assert_eq!((output.status.code(), place.path("new").exists()), (Some(1), false));
        }
    }
    let rows = [
        ("WGPU_BACKEND", ""),
        ("WGPU_BACKEND", "Vulkan, GL"),
        ("WGPU_BACKEND", "metal"),
        ("WGPU_POWER_PREF", "LOW"),
        ("WGPU_ADAPTER_NAME", ""),
        ("WGOAL_SHADER_CHECKS", "off"),
        ("WGOAL_MATMUL", "fixed"),
    ];
    for (name, value) in rows {
        let output = place.command().env(name, value).arg("devices").output().unwrap();
        assert!(output.status.success(), "{name}={value}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Drivers look for a display even if none is needed, and their libraries print that it is missing. These messages are
/// suppressed.
#[test]
fn looking_for_devices_says_nothing() {
    let place = Place::new();
    let devices = |folder: Option<&str>| {
        let mut command = place.command();
        match folder {
            Some(folder) => command.env("XDG_RUNTIME_DIR", folder),
            None => command.env_remove("XDG_RUNTIME_DIR"),
        };
        let output = command.args(["devices", "--json"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{folder:?}");
        output.stdout
    };
    // The devices and their order stay the same.
    let expected = devices(Some("/nonexistent"));
    assert!(devices(None) == expected && devices(Some("")) == expected);
}
