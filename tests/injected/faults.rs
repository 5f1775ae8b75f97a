//! Commands that are killed at a system call, or whose system call fails: the same command then ends as if nothing had
//! happened.
//!
//! `WGOAL_FAULTS` is the number of calls of each kind to try; `scripts/faults` sets it. The short form tries two.

use crate::place::*;
use libtest_mimic::{Completion, Failed, Trial};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A kind of call, and the errors that it can have: too many open files, no space, input or output error, no thread, no
/// locks.
const KINDS: [(&str, &[u8]); 6] = [
    ("open", &[24, 28]),
    ("write", &[28]),
    ("sync", &[5]),
    ("rename", &[5]),
    ("clone", &[11]),
    ("lock", &[37]),
];

/// The number of calls of each kind that are tried.
fn points() -> usize {
    std::env::var("WGOAL_FAULTS").map_or(2, |text| text.parse().expect("WGOAL_FAULTS is a number"))
}

/// The program that makes calls fail, or why there is none.
fn injector() -> Result<&'static PathBuf, &'static str> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/injected/inject.c");
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("inject");
        let built =
            Command::new("cc").args(["-O1", "-Wall", "-Werror", "-o"]).arg(&program).arg(source).status();
        match built {
            Ok(status) => assert!(status.success(), "cc {source}"),
            Err(_) if std::env::var_os("WGOAL_REQUIRE_COMPILERS").is_some() => panic!("no cc"),
            Err(_) => return Err("no cc here".into()),
        }
        let counts = tempfile::tempdir().unwrap();
        let (code, stderr) = injected(Command::new(&program).arg(counts.path().join("counts")));
        if code == 125 {
            Err(format!("this system forbids ptrace or seccomp ({stderr})"))
        } else {
            Ok(program)
        }
    });
    built.as_ref().map_err(String::as_str)
}

/// Gives `true` to a command of the injector, without a fault. Its exit code and its message.
fn injected(command: &mut Command) -> (i32, String) {
    let output = command.args(["none", "0", "kill", "/bin/true"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_string();
    (output.status.code().unwrap_or(-1), stderr)
}

/// A process that is traced cannot be traced by another. So an injector in an injector sees a system that forbids it.
fn a_system_that_forbids_tracing_is_noticed() -> Result<Completion, Failed> {
    let injector = match injector() {
        Ok(injector) => injector,
        Err(why) => return Ok(Completion::ignored_with(why)),
    };
    let place = tempfile::tempdir()?;
    let [outer, inner] = ["outer", "inner"].map(|name| place.path().join(name));
    let mut command = Command::new(injector);
    command.arg(outer).args(["none", "0", "kill"]).arg(injector).arg(inner);
    let (code, stderr) = injected(&mut command);
    assert!(code == 125 && stderr.starts_with("ptrace: "), "exit code {code}: {stderr}");
    Ok(Completion::Completed)
}

struct Injected {
    code: i32,
    stderr: String,
    counts: BTreeMap<String, usize>,
}

/// Runs a command whose call `at` of a kind has this end.
fn run(place: &Place, args: &str, (kind, at, end): (&str, usize, &str)) -> Injected {
    let counts = place.path("counts");
    let output = Command::new(injector().expect("try_all has looked"))
        .arg(&counts)
        .args([kind, &at.to_string(), end, env!("CARGO_BIN_EXE_wgoal")])
        .args(args.split_whitespace())
        .current_dir(place.path(""))
        .env("RAYON_NUM_THREADS", "2")
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let text = fs::read_to_string(&counts).unwrap();
    fs::remove_file(&counts).unwrap();
    let pair =
        |line: &str| line.split_once(' ').map(|(kind, n)| (kind.to_string(), n.parse().unwrap())).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().unwrap_or(-1);
    assert_ne!(code, 125, "{stderr}");
    Injected { code, stderr, counts: text.lines().map(pair).collect() }
}

/// Takes the times and the device out of a line of results.
pub fn untimed(value: &mut serde_json::Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove("seconds");
        fields.remove("device");
        fields.values_mut().for_each(untimed);
    } else if let Some(items) = value.as_array_mut() {
        items.iter_mut().for_each(untimed);
    }
}

/// The files of a folder. Times are taken out, and pages with times are named only.
pub fn files(place: &Place, out: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for (path, bytes) in place.listing() {
        let Ok(path) = path.strip_prefix(out) else { continue };
        let name = path.file_name().map_or("", |name| name.to_str().unwrap());
        let bytes = match name {
            "metrics.jsonl" | "results.jsonl" => {
                let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
                let lines = lines.map(|line| {
                    let mut line = serde_json::from_slice(line).unwrap();
                    untimed(&mut line);
                    line.to_string()
                });
                lines.collect::<Vec<_>>().join("\n").into_bytes()
            }
            // A run whose similarities cannot be written goes on without a report.
            "report.html" | "similarities.jsonl" => Vec::new(),
            // A system that refuses threads has a device with fewer of them.
            "config.json" | "table.md" | "table.json" => {
                String::from_utf8(bytes).unwrap().replace("CPU, 1 threads", "CPU, 2 threads").into_bytes()
            }
            _ => bytes,
        };
        found.insert(path.to_path_buf(), bytes);
    }
    found
}

/// Which files differ, for messages.
pub fn differences(one: &BTreeMap<PathBuf, Vec<u8>>, other: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    names.filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}

/// The similarities of a run. A kill loses none of them.
fn similarities(place: &Place, out: &str) -> Option<Vec<u8>> {
    fs::read(place.path(out).join("similarities.jsonl")).ok()
}

/// Whether files here need no name while they are written.
fn files_need_no_name(place: &Place) -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::TMPFILE.bits() as i32;
    fs::OpenOptions::new().write(true).custom_flags(flags).open(place.path("")).is_ok()
}

/// Tries all faults on a command that writes into `out`. The same command is then given again, and its files must be those of
/// a command without a fault.
fn try_all(prepare: impl Fn(&Place), args: &str, out: &str) -> Result<Completion, Failed> {
    if let Err(why) = injector() {
        return Ok(Completion::ignored_with(why));
    }
    let place = Place::new();
    prepare(&place);
    let whole = run(&place, args, ("none", 0, "kill"));
    assert_eq!(whole.code, 0, "{args}\n{}", whole.stderr);
    let (expected, expected_similarities) = (files(&place, out), similarities(&place, out));
    let nameless = files_need_no_name(&place);
    let (mut wrong, mut kills, mut errors_tried) = (Vec::new(), 0, 0);
    for (kind, errors) in KINDS {
        let count = whole.counts[kind];
        let wanted = points().min(count);
        // Spread over all calls, the last one included: most files are written at the end.
        for at in (1..=wanted).map(|k| k * count / wanted) {
            for end in std::iter::once("kill".to_string()).chain(errors.iter().map(u8::to_string)) {
                fs::remove_dir_all(place.path(out)).unwrap();
                let broken = run(&place, args, (kind, at, &end));
                match broken.code {
                    137 => kills += 1,
                    _ => errors_tried += usize::from(end != "kill"),
                }
                let fault = format!("{kind} {at} of {count}: {end}");
                let last = broken.stderr.lines().last().unwrap_or_default();
                let sound = match (&end[..], broken.code) {
                    ("kill", 137) => true,
                    // The number of calls depends on the timing. The call may not have come.
                    ("kill", 0) => broken.counts[kind] < at,
                    (_, 0) => true,
                    (_, 1) => last.starts_with("error: "),
                    _ => false,
                };
                if !sound || broken.stderr.contains("panicked") {
                    wrong.push(format!("{fault}: exit code {}\n{}", broken.code, broken.stderr));
                }
                // A file has a temporary name only while it takes the place of another.
                let partial = |path: &PathBuf| path.to_string_lossy().contains(".wgoal-");
                if nameless && kind != "rename" && place.listing().keys().any(partial) {
                    wrong.push(format!("{fault}: a temporary file is left"));
                }
                let again = run(&place, args, ("none", 0, "kill"));
                let found = files(&place, out);
                if again.code != 0 || found != expected {
                    let differ = differences(&expected, &found);
                    wrong.push(format!("{fault}: again {}, differ {differ:?}\n{}", again.code, again.stderr));
                }
                if end == "kill" && similarities(&place, out) != expected_similarities {
                    wrong.push(format!("{fault}: again with other similarities"));
                }
                fs::create_dir_all(place.path(out)).unwrap();
            }
        }
    }
    println!("{kills} kills and {errors_tried} errors in wgoal {args}");
    assert!(wrong.is_empty(), "wgoal {args}\n{}", wrong.join("\n"));
    Ok(Completion::Completed)
}

fn train_survives_faults() -> Result<Completion, Failed> {
    // The long form trains for longer, and so has more calls.
    let epochs = if points() > 40 { 6 } else { 2 };
    let args = format!(
        "train data --recipe goal --epochs {epochs} --batch 16 --embed 4 --device cpu --checkpoint-every 1 \
         --resume=auto --out run"
    );
    try_all(|_| (), &args, "run")
}

fn sweep_survives_faults() -> Result<Completion, Failed> {
    let args = "sweep data --objectives con:con,hinge --seeds 0 --epochs 1 --batch 16 --embed 4 --device cpu --out sweep";
    try_all(|_| (), args, "sweep")
}

fn embed_survives_faults() -> Result<Completion, Failed> {
    let args = "embed run data --device cpu --out vectors";
    try_all(|place| drop(place.train("run", "--no-baselines")), args, "vectors")
}

fn baseline_survives_faults() -> Result<Completion, Failed> {
    try_all(|_| (), "baseline cca data --embed 4 --device cpu --out cca", "cca")
}

/// A small file system, which is unmounted when it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this process may not mount one.
    fn new(path: PathBuf, limit: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mounted = Self::mount(&path, &format!("mode=777,{limit}"));
        mounted.then_some(Self(path))
    }

    fn mount(path: &std::path::Path, options: &str) -> bool {
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).output();
        output.is_ok_and(|output| output.status.success())
    }

    fn without_limit(&self) {
        assert!(Self::mount(&self.0, "remount,size=64m,nr_inodes=10000"));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A full disk, or one without room for another file, is an error of one line. With more room, the same command ends as
/// if nothing had happened.
fn a_full_disk_loses_nothing() -> Result<Completion, Failed> {
    let train = "train data --recipe goal --epochs 2 --batch 16 --embed 4 --device cpu --no-baselines --resume=auto \
                 --out full/run";
    let sweep = "sweep data --objectives con:con,hinge --seeds 0 --epochs 1 --batch 16 --embed 4 --device cpu \
                 --out full/run";
    for (args, sizes) in [(train, [4, 12, 24, 40]), (sweep, [4, 16, 32, 48])] {
        let place = Place::new();
        fs::create_dir(place.path("full")).unwrap();
        place.ok(args);
        let whole = files(&place, "full/run");
        fs::remove_dir_all(place.path("full/run")).unwrap();
        let limits = sizes.map(|size| format!("size={size}k")).into_iter();
        let mut refused = 0;
        for limit in limits.chain([3, 5, 7].map(|files| format!("nr_inodes={files}"))) {
            let Some(full) = Mounted::new(place.path("full"), &limit) else {
                return Ok(Completion::ignored_with("no right to mount a file system"));
            };
            let output = place.run(args);
            let last = output.stderr.lines().last().unwrap_or_default();
            assert!(output.code == 0 || last.starts_with("error: full/run"), "{limit}\n{}", output.stderr);
            refused += usize::from(output.code == 1);
            let left = place.listing();
            let left = left.keys().filter(|path| path.to_string_lossy().contains(".wgoal-"));
            assert_eq!(left.count(), 0, "{limit}: temporary files are left");
            full.without_limit();
            place.ok(args);
            let found = files(&place, "full/run");
            assert!(found == whole, "{limit}: {:?}", differences(&whole, &found));
        }
        assert!(refused > 2, "{refused} commands met a full disk");
    }
    Ok(Completion::Completed)
}

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::ignorable_test("train_survives_faults", train_survives_faults),
        Trial::ignorable_test("sweep_survives_faults", sweep_survives_faults),
        Trial::ignorable_test("embed_survives_faults", embed_survives_faults),
        Trial::ignorable_test("baseline_survives_faults", baseline_survives_faults),
        Trial::ignorable_test("a_full_disk_loses_nothing", a_full_disk_loses_nothing),
        Trial::ignorable_test(
            "a_system_that_forbids_tracing_is_noticed",
            a_system_that_forbids_tracing_is_noticed,
        ),
    ]
}
