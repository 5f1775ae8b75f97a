//! The crates that wgoal is built from: their licences, their sources, and crates that are there in several versions.
#![cfg(feature = "native")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The registry of the crates.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Licences that allow to use, change and pass on a crate in a program under any licence.
const LICENCES: [&str; 12] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that other crates need in several versions. Each takes compile time, so a new one needs a look.
const SEVERAL: [&str; 7] =
    ["equator", "equator-macro", "getrandom", "hashbrown", "num-bigint", "rustc-hash", "syn"];

/// Whether an expression of licences is one that can be chosen. It is a list of choices, or a list of parts that all apply.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let choice = |part: &str| {
        let part = part.trim().trim_start_matches('(').trim_end_matches(')');
        part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim()))
    };
    expression.split(" AND ").all(choice)
}

/// The crates of a build on Linux, with the features that the tests have.
fn packages() -> Vec<Value> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--features", "parquet"];
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn expressions_of_licences_are_understood() {
    for allowed in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0) AND Unicode-3.0"] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in ["GPL-3.0", "MIT AND GPL-3.0", "AGPL-3.0 OR GPL-3.0", "(MIT OR ISC) AND LGPL-3.0", ""] {
        assert!(!is_allowed(refused), "{refused}");
    }
}

#[test]
fn every_crate_has_an_allowed_licence_and_comes_from_the_registry() {
    let mut wrong = Vec::new();
    let packages = packages();
    for package in &packages {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or_default());
        if !is_allowed(licence) {
            wrong.push(format!("{name}: licence `{licence}`"));
        }
        // Crates of this workspace have no source.
        if package["source"] != REGISTRY && !package["source"].is_null() {
            wrong.push(format!("{name}: from {}", package["source"]));
        }
    }
    assert!(packages.len() > 100 && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_other_crate_is_there_in_several_versions() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let of = |key: &str| package[key].as_str().unwrap().to_string();
        versions.entry(of("name")).or_default().insert(of("version"));
    }
    let several: Vec<&str> =
        versions.iter().filter(|(_, all)| all.len() > 1).map(|(name, _)| name.as_str()).collect();
    assert_eq!(several, SEVERAL, "change a dependency, or the list above");
}

/// Holds for all platforms: the lock file has every crate with its checksum.
#[test]
fn the_lock_file_names_a_checksum_for_every_crate() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let mut locked = 0;
    for package in lock.split("[[package]]\n").skip(1) {
        let Some(source) = package.lines().find_map(|line| line.strip_prefix("source = ")) else {
            assert!(package.contains("name = \"wgoal"), "{package}");
            continue;
        };
        assert_eq!(source.trim_matches('"'), REGISTRY, "{package}");
        assert!(package.lines().any(|line| line.starts_with("checksum = ") && line.len() == 77), "{package}");
        locked += 1;
    }
    assert!(locked > 200, "{locked}");
}
