//! Paths of pipes, devices, folders, sockets and links where a file is expected.
#![cfg(unix)]

use super::place::*;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// The kinds of paths that are not regular files, with the word for each in messages.
const KINDS: [(&str, &str); 4] =
    [("pipe", "a pipe"), ("folder", "a folder"), ("zero", "a device"), ("socket", "a socket")];

fn make_pipe(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
}

/// A folder with a trained run, the inputs of `gradient`, and one of each of [`KINDS`] in `special`.
pub fn place_of_kinds() -> (Place, UnixListener) {
    let place = Place::new();
    place.train("run", "");
    fs::create_dir_all(place.path("special/folder")).unwrap();
    make_pipe(&place.path("special/pipe"));
    // A link protects the device from faults of the tool.
    symlink("/dev/zero", place.path("special/zero")).unwrap();
    let socket = UnixListener::bind(place.path("special/socket")).unwrap();
    write_npy(&place.path("x.npy"), &[2, 2], &[1.0f32, 0.0, 0.0, 1.0]);
    write_npy(&place.path("ids.npy"), &[2], &[0u32, 1]);
    fs::write(place.path("w.wgsl"), WEIGHTS).unwrap();
    (place, socket)
}

const WEIGHTS: &str = "fn triplet_weight(p: f32, n: f32) -> f32 { return 1.0; }\n\
     fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0, 1.0); }\n";

/// [`Place::run`] with a short time limit.
pub fn run(place: &Place, args: &str) -> Output {
    let mut command = place.command();
    let output = command.timeout(HANGS).args(args.split_whitespace()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code().unwrap_or_else(|| panic!("wgoal {args} did not end\n{stderr}"));
    Output { code, stdout: String::from_utf8_lossy(&output.stdout).into(), stderr }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[track_caller]
pub fn assert_one_error(output: &Output, what: &str) {
    let errors = output.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!((output.code, errors), (1, 1), "{what}\n{}", output.stderr);
}

#[test]
fn every_reader_refuses_what_is_no_regular_file() {
    let (place, _socket) = place_of_kinds();
    let sweep = "sweep data --objectives hinge --seeds 0 --epochs 1 --embed 4 --batch 16 --device cpu --out";
    place.ok(&format!("{sweep} sweep"));
    // The file that is replaced, a folder that is copied first, and the command that reads it. FILE stands for the
    // file, DIR for the copy.
    let train = "train DIR --epochs 1 --embed 4 --device cpu --out new";
    let resume = "train --resume --epochs 3 --device cpu --out DIR";
    let sweep = &format!("{sweep} DIR");
    let eval = "eval run/best.safetensors";
    let weights = "--objective custom --weights FILE";
    let rows: Vec<(&str, &str, String)> = [
        ("images.npy", "data", train),
        ("texts.npy", "data", train),
        ("text_to_image.npy", "data", train),
        ("split_val.npy", "data", train),
        ("image_regions.npy", "data", train),
        ("text_tokens.npy", "data", train),
        ("images.npy", "data", "baseline ridge DIR --device cpu"),
        ("config.json", "run", resume),
        ("metrics.jsonl", "run", resume),
        ("last.safetensors", "run", resume),
        ("results.jsonl", "sweep", sweep),
        ("table.csv", "sweep", sweep),
        ("c.safetensors", "", "eval FILE data --device cpu"),
        ("c.safetensors", "", "embed FILE data --split test --device cpu --out new"),
        ("d.safetensors", "", "train FILE --device cpu --out new"),
        ("x.npy", "", "gradient --images FILE --texts x.npy --device cpu --out g"),
        ("x.npy", "", "gradient --images x.npy --texts FILE --device cpu --out g"),
        ("x.npy", "", "gradient --images x.npy --texts x.npy --ids FILE --device cpu --out g"),
        ("w.wgsl", "", "analyze custom --weights FILE"),
    ]
    .map(|(file, of, command)| (file, of, command.to_string()))
    .into_iter()
    .chain([
        ("d.safetensors", "", format!("{eval} FILE --device cpu")),
        ("s.safetensors", "", format!("{eval} data --rerank FILE --device cpu")),
        ("w.wgsl", "", format!("train data {weights} --device cpu --out new")),
        ("w.wgsl", "", format!("gradient --images x.npy --texts x.npy {weights} --device cpu --out g")),
    ])
    .collect();
    for (number, (file, of, command)) in rows.iter().enumerate() {
        for (kind, word) in KINDS {
            let folder = format!("copy-{number}-{kind}");
            if of.is_empty() {
                fs::create_dir(place.path(&folder)).unwrap();
            } else {
                copy_folder(&place.path(of), &place.path(&folder));
            }
            let path = place.path(&folder).join(file);
            let _ = fs::remove_file(&path);
            symlink(place.path("special").join(kind), &path).unwrap();
            let command = command.replace("FILE", &format!("{folder}/{file}")).replace("DIR", &folder);
            let output = run(&place, &command);
            assert_one_error(&output, &command);
            let said = output.stderr.lines().last().unwrap();
            assert!(said.contains(&format!("{folder}/{file}")), "wgoal {command}\n{said}");
            // A folder may be a dataset or a run.
            let expected = format!("found {word}");
            let others = ["images.npy", "the folder of a run"];
            let other = kind == "folder" && of.is_empty() && others.iter().any(|other| said.contains(other));
            assert!(said.contains(&expected) || other, "wgoal {command}\n{said}");
            if word != "a folder" && !file.starts_with("table") {
                assert!(said.ends_with("save what it gives as a file first, and give that file"), "{said}");
            }
            assert!(fs::symlink_metadata(&path).unwrap().is_symlink(), "wgoal {command} took it away");
            for left in ["new", "g"] {
                assert!(!place.path(left).exists(), "wgoal {command} left {left}");
            }
        }
    }
    // Output must go to a file as well.
    assert!(fs::metadata(place.path("special/pipe")).unwrap().file_type().is_fifo());
}

/// Files with a huge size are refused without reading them.
#[test]
fn no_reader_takes_more_than_its_file_can_need() {
    let (place, _socket) = place_of_kinds();
    let sparse = |path: &str, start: &[u8]| {
        fs::write(place.path(path), start).unwrap();
        let file = fs::OpenOptions::new().write(true).open(place.path(path)).unwrap();
        file.set_len(1 << 42).unwrap();
    };
    let safetensors = [&2u64.to_le_bytes()[..], b"{}"].concat();
    for name in ["config", "metrics"] {
        copy_folder(&place.path("run"), &place.path(name));
    }
    sparse("config/config.json", b"{");
    sparse("metrics/metrics.jsonl", b"");
    sparse("w.wgsl", WEIGHTS.as_bytes());
    sparse("zeros.safetensors", b"");
    sparse("large.safetensors", &safetensors);
    sparse("x.npy", &place.read("x.npy"));
    for command in [
        "train --resume --device cpu --out config",
        "train --resume --device cpu --out metrics",
        "analyze custom --weights w.wgsl",
        "eval zeros.safetensors data --device cpu",
        "eval large.safetensors data --device cpu",
        "eval run/best.safetensors large.safetensors --device cpu",
        "eval run/best.safetensors data --rerank large.safetensors --device cpu",
        "gradient --images x.npy --texts x.npy --device cpu --out g",
    ] {
        // The limit is what the tool needs in normal use.
        let limited = format!("ulimit -v 8000000; exec {} {command}", env!("CARGO_BIN_EXE_wgoal"));
        let mut shell = assert_cmd::Command::new("sh");
        let output =
            shell.args(["-c", &limited]).current_dir(place.path("")).timeout(HANGS).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}\n{stderr}");
        assert!(stderr.lines().last().unwrap().starts_with("error: "), "{command}\n{stderr}");
        // The message comes from the reader, not from a failed allocation.
        assert!(!stderr.contains("memory"), "{command}\n{stderr}");
    }
}

/// Training reads captions only for a warning, so a fault of their file is a warning too.
#[test]
fn captions_that_are_no_regular_file_are_a_warning() {
    let (place, _socket) = place_of_kinds();
    let train = "train data --epochs 1 --embed 4 --device cpu --no-baselines --out";
    let warned = |out: &str, found: &str| {
        let output = run(&place, &format!("{train} {out}"));
        let warning = format!("warning: data/captions.txt: expected UTF-8 text, found {found}");
        let warnings = output.stderr.lines().filter(|line| line.starts_with(&warning)).count();
        assert_eq!((output.code, warnings), (0, 1), "{}", output.stderr);
        fs::remove_file(place.path("data/captions.txt")).unwrap();
    };
    for (kind, word) in KINDS {
        symlink(place.path("special").join(kind), place.path("data/captions.txt")).unwrap();
        warned(kind, word);
    }
    fs::File::create(place.path("data/captions.txt")).unwrap().set_len(1 << 42).unwrap();
    warned("large", "a file of more than");
}

/// Commands that write a single file, which FILE stands for.
fn writers() -> [&'static str; 4] {
    [
        "gradient --images x.npy --texts x.npy --objective hinge --device cpu --out FILE",
        "analyze con:con --plot FILE",
        "eval run/best.safetensors data --top 2 --device cpu --write-candidates FILE",
        "bench pairs --pairs 4 --embed 4 --device cpu --plot FILE",
    ]
}

#[test]
fn what_is_no_file_stays_what_it_is() {
    let (place, _socket) = place_of_kinds();
    for (number, writer) in writers().into_iter().enumerate() {
        place.ok(&writer.replace("FILE", "whole"));
        let whole = place.read("whole");
        fs::remove_file(place.path("whole")).unwrap();
        let exact = !writer.starts_with("bench");

        // Into a device, through a link that protects the device from faults of the tool.
        symlink("/dev/null", place.path("null")).unwrap();
        place.ok(&writer.replace("FILE", "null"));
        assert_eq!(fs::read_link(place.path("null")).unwrap(), Path::new("/dev/null"), "{writer}");
        fs::remove_file(place.path("null")).unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        if cfg!(target_os = "linux") {
            symlink("/dev/full", place.path("full")).unwrap();
            let output = run(&place, &writer.replace("FILE", "full"));
            assert_one_error(&output, writer);
            assert!(output.stderr.contains("found a full disk; free space there"), "{}", output.stderr);
            fs::remove_file(place.path("full")).unwrap();
        }

        // Into a pipe, if somebody reads it.
        let pipe = place.path(&format!("pipe{number}"));
        make_pipe(&pipe);
        let output = run(&place, &writer.replace("FILE", pipe.to_str().unwrap()));
        assert_one_error(&output, writer);
        assert!(output.stderr.contains("nothing that reads"), "{}", output.stderr);
        let mut options = fs::OpenOptions::new();
        // The pipe is opened for reading and writing, so that opening does not wait for the tool.
        let mut reader = options.read(true).write(true).open(&pipe).unwrap();
        let mut read = vec![0; if exact { whole.len() } else { 100 }];
        let reading = std::thread::spawn(move || reader.read_exact(&mut read).map(|()| (read, reader)));
        place.ok(&writer.replace("FILE", pipe.to_str().unwrap()));
        let (read, _reader) = reading.join().unwrap().unwrap();
        assert!(!exact || read == whole, "{writer}");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());

        // To standard output, which then contains nothing else.
        let output = place.command().args(writer.replace("FILE", "/dev/stdout").split(' ')).output().unwrap();
        assert!(output.status.success());
        assert!(!exact || output.stdout == whole, "{writer}");
        assert!(exact || output.stdout.starts_with(b"<svg") && output.stdout.ends_with(b"</svg>\n"));

        for kind in ["folder", "socket"] {
            let special = format!("special/{kind}");
            let output = run(&place, &writer.replace("FILE", &special));
            assert_one_error(&output, writer);
            assert!(output.stderr.contains(&format!("found a {kind}")), "{}", output.stderr);
        }
        let output = run(&place, &writer.replace("FILE", "nowhere/file"));
        assert_one_error(&output, writer);
        assert!(output.stderr.contains("found no such folder; make the folder first"), "{}", output.stderr);
    }
}

/// Runs and sweeps read the files that they have written.
#[test]
fn folders_hold_regular_files() {
    let (place, _socket) = place_of_kinds();
    for (name, command) in [
        ("best.safetensors", "train data --epochs 1 --embed 4 --device cpu --out DIR"),
        ("best.safetensors", "baseline ridge data --device cpu --out DIR"),
        ("table.md", "sweep data --objectives hinge --seeds 0 --epochs 1 --embed 4 --device cpu --out DIR"),
    ] {
        let folder = place.path("folder");
        fs::create_dir(&folder).unwrap();
        symlink("/dev/null", folder.join(name)).unwrap();
        assert_one_error(&run(&place, &command.replace("DIR", "folder")), command);
        assert!(fs::symlink_metadata(folder.join(name)).unwrap().is_symlink(), "{command}");
        fs::remove_dir_all(folder).unwrap();
    }
}

/// A link is kept. Output goes to its target, which may be missing.
#[test]
fn links_are_written_through() {
    let (place, _socket) = place_of_kinds();
    fs::create_dir_all(place.path("deep/er")).unwrap();
    for (number, writer) in writers().into_iter().enumerate() {
        let target = place.path(&format!("deep/target{number}"));
        let link = place.path(&format!("deep/er/link{number}"));
        symlink(format!("../target{number}"), &link).unwrap();
        symlink(&link, place.path(&format!("link{number}"))).unwrap();
        for _ in 0..2 {
            place.ok(&writer.replace("FILE", &format!("link{number}")));
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert!(fs::symlink_metadata(&target).unwrap().is_file());
        }
        assert!(fs::read(&target).unwrap().len() > 100, "{writer}");
    }
    symlink("b", place.path("a")).unwrap();
    symlink("a", place.path("b")).unwrap();
    let output = run(&place, "analyze con:con --plot a");
    assert_one_error(&output, "a circle");
    assert!(output.stderr.contains("links that lead in a circle"), "{}", output.stderr);
    // A file keeps its permissions when its content is replaced.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(place.path("deep/target1"), fs::Permissions::from_mode(0o640)).unwrap();
    place.ok("analyze con:con --plot deep/target1");
    assert_eq!(fs::metadata(place.path("deep/target1")).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(place.names("deep").iter().all(|name| !name.starts_with(".wgoal")));
}
