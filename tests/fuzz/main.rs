//! Changed inputs: every reader ends within a second and 200 MB, without a panic, and with an error of one line.
//!
//! Inputs are changed at random from those of the corpus: valid ones, those of tests/fuzz/corpus, and those that gave a
//! message that no other input had given. `WGOAL_FUZZ_SECONDS` is the time per target; `scripts/fuzz` sets it, and keeps new
//! inputs with `WGOAL_FUZZ_KEEP`. `WGOAL_FUZZ_SEED` is the seed. The short form has always the same seed.
#![cfg(feature = "native")]

#[path = "../common/programs.rs"]
mod programs;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wgoal::objective::CustomWeights;
use wgoal::report::Run;
use wgoal::sweep::{Sweep, Variant};
use wgoal::{Checkpoint, Dataset, Device, Error, Objective, Split, TrainConfig, Trainer};

/// The system's allocator. It counts the bytes that are held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The longest time of an input: the shortest of several, because a process may wait on a busy machine.
const TIME: Duration = Duration::from_secs(1);
/// The most inputs that are kept to change them.
const INPUTS: usize = 4000;
/// The most memory that an input may take.
const MEMORY: usize = 200_000_000;

/// A reader, and inputs that it accepts.
struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    read: Box<dyn Fn(&[u8]) -> Result<(), Error>>,
}

/// A generator of random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }
}

/// Numbers and marks that parsers treat specially.
const WORDS: [&[u8]; 24] = [
    b"0",
    b"-1",
    b"1e999",
    b"nan",
    b"18446744073709551615",
    b"9223372036854775808",
    b"4294967296",
    b"2147483648",
    b"[",
    b"]",
    b"{",
    b"}",
    b"(",
    b")",
    b"\"",
    b"\\",
    b",",
    b":",
    b"\n",
    b"\0",
    b"null",
    b"\xff\xff\xff\xff",
    b"+",
    b"@",
];

/// Changes an input at one to four places. `other` is another input, to take parts from.
fn change(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            4 => drop(bytes.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied())),
            5 => {
                let part = bytes[at..end].repeat(1 + random.below(8));
                drop(bytes.splice(at..at, part));
            }
            6 => bytes.truncate(at),
            _ => {
                let from = random.below(other.len() + 1);
                let part = other[from..(from + random.below(64)).min(other.len())].to_vec();
                drop(bytes.splice(at..at, part));
            }
        }
    }
    bytes.truncate(1 << 16);
    bytes
}

/// What was expected, and the kind of what was found, to tell whether a message is a new one. Readers of short texts repeat the
/// text, so only what was expected counts.
fn shape(target: &str, message: &str) -> String {
    let start = message.find("expected").unwrap_or(0);
    let (expected, found) = message[start..].split_once(", found ").unwrap_or((message, ""));
    let repeats = ["objective", "option", "weights", "grammar"].contains(&target);
    // What is quoted from the input says nothing new.
    let own = found.chars().take_while(|c| !"`'\"{[(".contains(*c));
    let found: String = if repeats { String::new() } else { own.take(24).collect() };
    let text = expected.to_string() + &found;
    text.chars().filter(|c| c.is_ascii_lowercase() || *c == ' ').take(90).collect()
}

/// Reads one input. Returns what is wrong, and the message of the error.
fn try_one(target: &Target, input: &[u8]) -> (Option<String>, String) {
    let (mut shortest, mut message) = (Duration::MAX, String::new());
    for again in 0..4 {
        // On a busy machine, an input can wait for a processor three times. The last time, only work counts.
        let worked = (again == 3).then(processor_time_of_all).flatten();
        let (before, began) = (HELD.load(Relaxed), Instant::now());
        MOST.store(before, Relaxed);
        let Ok(result) = catch_unwind(AssertUnwindSafe(|| (target.read)(input))) else {
            return (Some("a panic".into()), message);
        };
        let work = worked.zip(processor_time_of_all()).map(|(before, after)| after - before);
        shortest = shortest.min(work.unwrap_or(began.elapsed()));
        let taken = MOST.load(Relaxed).saturating_sub(before);
        if taken > MEMORY {
            return (Some(format!("{taken} bytes of memory")), message);
        }
        message = result.err().map_or("accepted".into(), |error| error.to_string());
        if message.contains('\n') {
            return (Some(format!("an error of several lines: {message}")), message);
        }
        if shortest <= TIME {
            return (None, message);
        }
    }
    (Some(format!("{shortest:?}")), message)
}

/// A small dataset of 12 pairs: its files by name.
fn dataset(folder: &Path) {
    let row = |k: usize, width: usize| (0..width).map(move |j| ((k * 7 + j * 3) as f32 * 0.37).sin());
    let rows = |width: usize| (0..12).flat_map(|k| row(k, width)).collect::<Vec<f32>>();
    fs::create_dir_all(folder).unwrap();
    for (name, width) in [("images", 3), ("texts", 2)] {
        let path = folder.join(format!("{name}.npy"));
        wgoal::data::write_matrix_npy(&path, 12, width, &rows(width)).unwrap();
    }
    for (name, rows) in [("split_train", 0..8), ("split_val", 8..10), ("split_test", 10..12)] {
        wgoal::data::write_ids_npy(&folder.join(format!("{name}.npy")), &rows.into()).unwrap();
    }
}

/// Writes an input as this file and opens it.
fn through_file(
    path: PathBuf,
    open: impl Fn(&Path) -> Result<(), Error> + 'static,
) -> Box<dyn Fn(&[u8]) -> Result<(), Error>> {
    Box::new(move |input| {
        fs::write(&path, input).unwrap();
        open(&path)
    })
}

/// Reads all that a dataset has.
fn read_all(path: &Path) -> Result<(), Error> {
    let dataset = Dataset::open_for(path, &[Split::Train])?;
    dataset.content_hash().map(drop)
}

/// All targets. The files are in the folder `place`.
fn targets(place: &Path) -> Vec<Target> {
    let data = place.join("data");
    dataset(&data);
    let texts = |seeds: &[&str]| seeds.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let text = |input: &[u8]| String::from_utf8_lossy(input).into_owned();
    let config = TrainConfig::default().with(|c| (c.embed, c.epochs, c.batch) = (2, 1, 4));
    let mut trainer = Trainer::new(&Device::cpu(), Dataset::open(&data).unwrap(), config).unwrap();
    let epoch = trainer.run_epoch().unwrap();
    let (best, last) = (place.join("best"), place.join("last"));
    trainer.best().unwrap().save(&best).unwrap();
    trainer.checkpoint().unwrap().save(&last).unwrap();
    let heads = [fs::read(&best).unwrap(), fs::read(&last).unwrap()];
    // Without a checksum, changes go deeper.
    let unchecked = heads.each_ref().map(|bytes| without_checksum(bytes));
    let run = place.join("run");
    fs::create_dir(&run).unwrap();
    let mut options = serde_json::to_value(trainer.config()).unwrap();
    options["wgoal"] = "0".into();
    options["dataset"] = "data".into();
    options["device"] = "cpu".into();
    let options = options.to_string().into_bytes();
    fs::write(run.join("config.json"), &options).unwrap();
    let line = (serde_json::to_string(&epoch).unwrap() + "\n").into_bytes();
    let open_run = {
        let run = run.clone();
        move |_: &Path| Run::open(&run).and_then(|run| run.to_html()).map(drop)
    };
    let open_data = {
        let data = data.clone();
        move |_: &Path| read_all(&data)
    };
    let images = fs::read(data.join("images.npy")).unwrap();
    let safetensors = place.join("data.safetensors");
    let (x, y): ([f32; 36], [f32; 24]) =
        (std::array::from_fn(|k| (k as f32).sin()), std::array::from_fn(|k| (k as f32).cos()));
    let (x, y) = (wgoal::data::Values::F32(&x), wgoal::data::Values::F32(&y));
    wgoal::data::write_tensors(&safetensors, &[("images", &[12, 3], x), ("texts", &[12, 2], y)]).unwrap();
    let tensors = fs::read(&safetensors).unwrap();
    let weights = "override g: f32 = 2.0;\nfn triplet_weight(p: f32, n: f32) -> f32 { return exp(g * (n - p)); }\n\
                   fn pair_weights(p: f32, n: f32) -> vec2f { if (p > n) { return vec2f(1.0 - p, max(n, 0.0)); }\n\
                   let s = select(p, n, p < 0.5); return vec2f(s, s * s); }";
    vec![
        Target {
            name: "npy",
            seeds: vec![images.clone()],
            read: through_file(data.join("images.npy"), open_data),
        },
        Target { name: "safetensors", seeds: vec![tensors], read: through_file(safetensors, read_all) },
        Target {
            name: "checkpoint",
            seeds: heads.into_iter().chain(unchecked).collect(),
            read: through_file(place.join("head"), |path| Checkpoint::load(path).map(drop)),
        },
        Target {
            name: "config",
            seeds: vec![options.clone()],
            read: through_file(run.join("config.json"), open_run.clone()),
        },
        Target {
            name: "metrics",
            seeds: vec![line.repeat(3)],
            read: {
                let read = through_file(run.join("metrics.jsonl"), open_run);
                let config = run.join("config.json");
                Box::new(move |input| {
                    fs::write(&config, &options).unwrap();
                    read(input)
                })
            },
        },
        Target {
            name: "objective",
            seeds: texts(&["infonce+0.5*cir:sig-ms", "multi-similarity@positives:log-sum", "hinge@top:5"]),
            read: Box::new(move |input| text(input).parse::<Objective>().map(drop)),
        },
        Target {
            name: "option",
            seeds: texts(&["test", "500", "30s", "blocks:512", "2h"]),
            read: Box::new(move |input| {
                let text = text(input);
                let every = text.parse::<wgoal::train::Every>().map(drop);
                let shuffle = text.parse::<wgoal::train::Shuffle>().map(drop);
                every.or(shuffle).or(text.parse::<Split>().map(drop))
            }),
        },
        Target {
            name: "weights",
            seeds: texts(&[weights]),
            read: Box::new(move |input| evaluate(&text(input))),
        },
        // The bytes choose the program, so each input is a program of the grammar.
        Target {
            name: "grammar",
            seeds: vec![vec![], long_program()],
            read: Box::new(|input| evaluate(&programs::program(input))),
        },
        sweep(place),
    ]
}

/// The choices of a long program that is accepted. Others divide constants by zero, for example.
fn long_program() -> Vec<u8> {
    let mut random = Random(9);
    let mut choices = || (0..300).map(|_| random.below(256) as u8).collect::<Vec<u8>>();
    let is_accepted = |choices: &Vec<u8>| evaluate(&programs::program(choices)).is_ok();
    std::iter::repeat_with(&mut choices).take(100).find(is_accepted).expect("an accepted program")
}

/// Reads a weight file and evaluates it.
fn evaluate(source: &str) -> Result<(), Error> {
    let weights = CustomWeights::new("mine.wgsl", source, [])?;
    for (p, n) in [(0.0f32, 0.0f32), (0.9, -0.3), (-1.0, 1.0)] {
        weights.at(p, n)?;
    }
    Ok(())
}

/// The results of a sweep of two points. A sweep that goes on from a changed file trains what the file does not have.
fn sweep(place: &Path) -> Target {
    // Another target changes the other dataset.
    let data = place.join("other");
    dataset(&data);
    let variants = [0.01, 0.02].map(|lr| {
        let config = TrainConfig::default().with(|c| (c.embed, c.epochs, c.batch, c.lr) = (2, 1, 8, lr));
        Variant { point: format!("lr={lr}"), config }
    });
    let sweep = Sweep::new(variants.to_vec(), vec![0], None).unwrap();
    let (out, data) = (place.join("sweep"), std::sync::Arc::new(Dataset::open(data).unwrap()));
    let run = move |out: &Path| sweep.run(&Device::cpu(), data.clone(), out, |_| ()).map(drop);
    run(&out).unwrap();
    let results = out.join("results.jsonl");
    let seeds = vec![fs::read(&results).unwrap()];
    Target { name: "results", seeds, read: through_file(results, move |_| run(&out)) }
}

/// The bytes of a head as a version wrote it that knew no checksum.
fn without_checksum(bytes: &[u8]) -> Vec<u8> {
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..header].to_vec()).unwrap();
    let at = text.find("\\\"checksum\\\"").unwrap();
    let end = at + text[at..].find(',').unwrap() + 1;
    let text = (text[..at].to_string() + &text[end..]).replacen("\\\"format\\\":2", "\\\"format\\\":1", 1);
    let mut older = (text.len() as u64).to_le_bytes().to_vec();
    older.extend(text.as_bytes());
    older.extend(&bytes[header..]);
    older
}

/// The inputs that are kept for a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The time that a processor gave to this thread, where the system tells it. Otherwise 0.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0))
}

/// The time that processors gave to all threads of this process, where the system tells it.
fn processor_time_of_all() -> Option<Duration> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // After the name of the program, which may have spaces: 11 fields, then the time in user code and in the system, in
    // hundredths of a second.
    let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (next()? + next()?)))
}

fn variable(name: &str, default: f64) -> f64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn every_reader_ends_with_one_line() {
    let place = tempfile::tempdir().unwrap();
    let seconds = Duration::from_secs_f64(variable("WGOAL_FUZZ_SECONDS", 0.7));
    let keep = std::env::var_os("WGOAL_FUZZ_KEEP").map(PathBuf::from);
    let only = std::env::var("WGOAL_FUZZ_TARGET").ok();
    let mut findings = Vec::new();
    for target in targets(place.path()) {
        if only.as_ref().is_some_and(|only| only != target.name) {
            continue;
        }
        let mut random = Random(variable("WGOAL_FUZZ_SEED", 20_240.0) as u64 | 1);
        let mut inputs = target.seeds.clone();
        for seed in &target.seeds {
            assert_eq!(try_one(&target, seed), (None, "accepted".into()), "{}: a valid input", target.name);
        }
        inputs.extend(corpus(target.name));
        let mut shapes: BTreeSet<String> = BTreeSet::new();
        let (began, processor, mut tried) = (Instant::now(), processor_time(), 0);
        // The kept inputs come first, unchanged.
        let mut kept = inputs.clone().into_iter();
        while began.elapsed() < seconds || kept.len() > 0 {
            let input = kept.next().unwrap_or_else(|| {
                let (one, other) = (random.below(inputs.len()), random.below(inputs.len()));
                change(&mut random, &inputs[one], &inputs[other])
            });
            tried += 1;
            let (wrong, message) = try_one(&target, &input);
            if let Some(wrong) = wrong {
                let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{tried}", target.name));
                fs::write(&path, &input).unwrap();
                findings.push(format!("{}: {wrong}, input in {}", target.name, path.display()));
                if findings.len() > 20 {
                    break;
                }
            }
            let is_new = shapes.insert(shape(target.name, &message));
            if is_new && inputs.len() < INPUTS && !inputs.contains(&input) {
                // A corpus that stays small is read in the short form too.
                if let Some(keep) = keep.as_ref().filter(|_| shapes.len() <= 40) {
                    let folder = keep.join(target.name);
                    fs::create_dir_all(&folder).unwrap();
                    fs::write(folder.join(format!("{:02}-{tried}", inputs.len())), &input).unwrap();
                }
                inputs.push(input);
            }
        }
        let took = (processor_time() - processor).as_secs_f64();
        println!("{}: {tried} inputs, {} messages, {took:.1} s of a processor", target.name, shapes.len());
        assert!(tried > 20, "{}: {tried} inputs", target.name);
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Every bit of the first 64 bytes, and a sample of all others: a file with one flipped bit is refused. `WGOAL_FUZZ_FLIPS` is the size
/// of the sample per file.
#[test]
fn flipped_bits_are_refused() {
    let place = tempfile::tempdir().unwrap();
    dataset(&place.path().join("data"));
    let config = TrainConfig::default().with(|c| (c.embed, c.epochs, c.batch) = (2, 1, 4));
    let data = Dataset::open(place.path().join("data")).unwrap();
    let mut trainer = Trainer::new(&Device::cpu(), data, config).unwrap();
    trainer.run_epoch().unwrap();
    let (path, mut random) = (place.path().join("head"), Random(7));
    let sample = variable("WGOAL_FUZZ_FLIPS", 300.0) as usize;
    for checkpoint in [trainer.best().unwrap(), trainer.checkpoint().unwrap()] {
        checkpoint.save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        // The first bytes have the length of the header and the place of the checksum.
        let flips = (0..64 * 8).chain((0..sample).map(|_| random.below(8 * whole.len())));
        for bit in flips.collect::<Vec<_>>() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            let error =
                Checkpoint::load(&path).map(drop).expect_err(&format!("bit {bit} of {}", whole.len()));
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        println!("{} bits of {} flipped, one by one", 64 * 8 + sample, 8 * whole.len());
        fs::remove_file(&path).unwrap();
    }
}
