//! Typical slips: a wrong path, shape, type or option. A program follows the advice of the message to the letter, and the
//! command then works.

use super::place::*;
use std::fs;

/// What every `train` gets that does not say otherwise.
const SHORT: &str = "--batch 16 --epochs 2 --embed 4";

/// A command that fails, and words of its message.
const SLIPS: &[(&str, &str)] = &[
    // Paths.
    ("train dta", "did you mean data?"),
    ("eval rnu data", "did you mean run?"),
    ("eval run/bset.safetensors data", "did you mean run/best.safetensors?"),
    ("eval data run", "give the head first"),
    ("train data --out run", "add --resume"),
    ("train --config rum.toml data", "did you mean run.toml?"),
    ("train data --init runn/best.safetensors", "or use --init xavier"),
    // Options of other tools.
    ("train data --learning-rate 0.01", "use --lr"),
    ("train data --loss hinge", "use --objective"),
    ("train data --early-stopping 1", "use --patience"),
    ("train data --batch-size 8", "use --batch"),
    ("train data --num-epochs 1", "use --epochs"),
    ("train data --max_epochs 1", "use --epochs"),
    ("train data --embedding-dim 5", "use --embed"),
    ("train data --wd 0.1", "use --weight-decay"),
    ("train data --optim sgd", "use --optimizer"),
    ("train data --random-seed 3", "use --seed"),
    ("train data --save-dir saved", "use --out"),
    ("train data -o kept", "use --out"),
    ("train data --cpu", "use --device cpu"),
    ("train data --objective infonce --temp 0.1", "use --temperature"),
    ("train --data data", "as in `wgoal train data`"),
    ("train --dataset=data", "as in `wgoal train data`"),
    ("train data --num-workers 4", "leave it out"),
    ("train data --fp16", "leave it out"),
    ("train data --eps 1e-6", "use --epsilon"),
    ("sweep data --losses hinge --seeds 0 --epochs 1 --batch 16 --embed 4 --out table", "use --objectives"),
    ("eval run data --data-split val", "use --split"),
    // Spelling.
    ("train data --weight_decay 0.1", "use --weight-decay"),
    ("train data --lerning-rate 0.1", "use --lr"),
    ("train data -lr 0.1", "use --lr"),
    ("train data --sed 1", "use --seed"),
    ("trian data", "use `wgoal train`"),
    ("evaluate run data", "use `wgoal eval`"),
    // Values.
    ("train data --objective cir:sigms", "did you mean cir:sig-ms?"),
    ("train data --optimizer adam", "use --optimizer adamw"),
    ("train data --schedule step", "use one of them"),
    ("train data --device cuda", "choose one of: 0 "),
    ("train data --lr 0", "leave it out"),
    ("train data --dropout 1.5", "leave it out"),
    ("train data --epsilon 0", "leave it out"),
    ("train data --momentum 0.5", "use --optimizer sgd"),
    ("train data --init xaver", "use --init xavier"),
    ("train data --init run --embed 5", "leave the option out"),
    ("train data --memory-bank 1", "leave it out"),
    ("train data --objective infonce --memory-bank 64", "leave it out"),
    ("train data --image-pooling mean", "choose --image-pooling none"),
    ("train --out run --resume --embed 5", "leave the option out"),
    ("train --out run --resume --epochs 1", "give this number"),
    (
        "sweep data --objective hinge --seeds 0 --epochs 1 --batch 16 --embed 4 --out table2",
        "name it in --objectives",
    ),
    // Configuration files.
    ("train data --config other.toml", "use lr"),
    ("train data --config type.toml", "write standardize = true"),
    ("train data --config value.toml", "leave it out"),
    // Arrays.
    ("train ones", "save array - 1"),
    ("train floats", "array.astype('int64')"),
    ("train cube", "array.reshape(40, 6)"),
];

/// A message, cut into its parts.
struct Message {
    thing: String,
    expected: String,
    found: String,
    advice: String,
}

impl Message {
    fn parse(line: &str) -> Self {
        let line = line.strip_prefix("error: ").unwrap_or_else(|| panic!("no error: {line}"));
        let (thing, rest) =
            line.split_once(": expected ").unwrap_or_else(|| panic!("not in four parts: {line}"));
        let (expected, rest) =
            rest.split_once(", found ").unwrap_or_else(|| panic!("not in four parts: {line}"));
        let (found, advice) = rest.split_once("; ").unwrap_or_else(|| panic!("not in four parts: {line}"));
        let [thing, expected, found, advice] = [thing, expected, found, advice].map(String::from);
        Self { thing, expected, found, advice }
    }

    /// The word of the advice after `start`.
    fn after<'a>(&'a self, start: &str) -> Option<&'a str> {
        let (_, rest) = self.advice.split_once(start)?;
        rest.split([',', ';', ' ', '?', '`']).next().filter(|word| !word.is_empty())
    }
}

/// The words of a command, as a shell has them.
struct Call(Vec<String>);

impl Call {
    fn parse(text: &str) -> Self {
        let words = text.split(' ').filter(|word| !word.is_empty());
        // `--name=value` as two words, so that both can be changed.
        let split = |word: &str| match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => vec![name.to_string(), value.to_string()],
            _ => vec![word.to_string()],
        };
        Self(words.flat_map(split).collect())
    }

    fn place(&self, word: &str) -> Option<usize> {
        self.0.iter().position(|other| other == word)
    }

    /// Replaces a word by others.
    fn replace(&mut self, word: &str, by: &str) {
        let at = self.place(word).unwrap_or_else(|| panic!("{word} is not in {:?}", self.0));
        self.0.splice(at..=at, by.split(' ').map(String::from));
    }

    /// Sets the value of an option that is there, or adds the option.
    fn set(&mut self, option: &str, value: &str) {
        match self.place(option) {
            Some(at) => self.0[at + 1] = value.into(),
            None => self.0.extend([option.to_string(), value.to_string()]),
        }
    }

    /// Removes an option and its value.
    fn leave_out(&mut self, option: &str) {
        let at = self.place(option).unwrap_or_else(|| panic!("{option} is not in {:?}", self.0));
        let has_value = self.0.get(at + 1).is_some_and(|next| !next.starts_with('-'));
        self.0.drain(at..=at + usize::from(has_value));
    }
}

/// Changes the array in a file as a line of numpy says.
fn numpy(place: &Place, message: &Message) {
    let file = message.thing.split(' ').next().unwrap();
    let name = file.rsplit('/').next().unwrap().strip_suffix(".npy").unwrap();
    let path = place.path(file);
    let read = || npyz::NpyFile::new(&place.read(file)[..]).unwrap().into_vec::<f64>();
    if message.advice.contains("array - 1") {
        let ids = npyz::NpyFile::new(&place.read(file)[..]).unwrap().into_vec::<u32>().unwrap();
        write_npy(&path, &[ids.len() as u64], &ids.iter().map(|id| id - 1).collect::<Vec<u32>>());
    } else if message.advice.contains("array.astype('int64')") {
        let ids: Vec<i64> = read().unwrap().into_iter().map(|id| id as i64).collect();
        write_npy(&path, &[ids.len() as u64], &ids);
    } else if let Some(shape) = message.advice.split("array.reshape(").nth(1) {
        let shape: Vec<u64> =
            shape.split(')').next().unwrap().split(", ").map(|n| n.parse().unwrap()).collect();
        let values = npyz::NpyFile::new(&place.read(file)[..]).unwrap().into_vec::<f32>().unwrap();
        write_npy(&path, &shape, &values);
    } else {
        panic!("{name}: no such numpy is known: {}", message.advice);
    }
}

/// Changes the line of a configuration file that a message is about.
fn edit(place: &Place, message: &Message) {
    let (file, line) = message.thing.split_once(" line ").unwrap();
    let mut lines: Vec<String> =
        String::from_utf8(place.read(file)).unwrap().lines().map(String::from).collect();
    let at = line.parse::<usize>().unwrap() - 1;
    if let Some(name) = message.after("use ") {
        let (_, value) = lines[at].split_once('=').unwrap();
        lines[at] = format!("{name} ={value}");
    } else if let Some(line) = message.advice.strip_prefix("write ") {
        lines[at] = line.into();
    } else if message.advice.ends_with("or leave it out") {
        lines.remove(at);
    } else {
        panic!("{}", message.advice);
    }
    fs::write(place.path(file), lines.join("\n")).unwrap();
}

/// The option that advice such as `use --lr`, or `..., or choose --split val`, names, with its value.
fn named_option(advice: &str) -> Option<Vec<&str>> {
    let whole = advice.split([',', ';']).map(|part| part.trim().trim_start_matches("or "));
    let mut named =
        whole.filter_map(|part| ["use ", "add ", "choose "].iter().find_map(|verb| part.strip_prefix(verb)));
    let named = named.find(|rest| rest.starts_with("--"))?;
    // As in `add --resume to continue it`.
    Some(named.split(" to ").next()?.split(' ').collect())
}

/// The command that the advice asks for. The rules are those by which a reader would act, and know no single message.
fn follow(place: &Place, slip: &str, message: &Message) -> String {
    let mut call = Call::parse(slip);
    let Message { thing, expected, found, advice } = message;
    if thing.contains(".toml line ") {
        edit(place, message);
    } else if let Some(meant) = advice.strip_prefix("did you mean ").and_then(|rest| rest.strip_suffix('?')) {
        let wrong = thing.split('`').nth(1).unwrap_or(thing);
        call.replace(wrong, meant);
    } else if advice.contains("numpy") || advice.contains("array") {
        numpy(place, message);
    } else if let Some(whole) = advice.strip_prefix("use `wgoal ") {
        call.replace(thing, whole.strip_suffix('`').unwrap());
    } else if let Some((_, whole)) = advice.split_once("as in `wgoal ") {
        return whole.split('`').next().unwrap().to_string();
    } else if advice == "use one of them" {
        let first = expected.strip_prefix("one of ").unwrap().split(", ").next().unwrap();
        call.set(thing, first);
    } else if advice.contains("give the head first") {
        call.0.swap(1, 2);
    } else if let Some(given) = named_option(advice) {
        match (&given[..], expected.starts_with("an option of")) {
            // The right name, with the value that the wrong one had.
            ([option], true) => call.replace(thing, option),
            ([option, value], true) => call.replace(thing, &format!("{option} {value}")),
            ([option], false) => call.0.push(option.to_string()),
            ([option, value], false) => call.set(option, value),
            _ => panic!("{advice}"),
        }
    } else if advice.starts_with("give this number") {
        let number = expected.split("at least ").nth(1).unwrap().split(',').next().unwrap();
        call.set(thing, number);
    } else if let Some(choices) = advice.strip_prefix("choose one of: ") {
        call.set("--device", choices.split(' ').next().unwrap());
    } else if let Some(option) = message.after("name it in ") {
        call.replace(thing, option);
    } else if advice.contains("leave") && advice.contains("out") {
        let option = match found.split_once(" = ") {
            Some((name, _)) => format!("--{}", name.replace('_', "-")),
            None if found.starts_with("--") => found.split(' ').next().unwrap().to_string(),
            None => thing.clone(),
        };
        call.leave_out(&option);
    } else {
        panic!("nobody knows what to do: {advice}");
    }
    call.0.join(" ")
}

/// A command with what it needs to be quick, into the folder `out`.
fn whole(call: &str, out: &str) -> String {
    let has = |option: &str| call.split([' ', '=']).any(|word| word == option);
    let mut all = call.to_string();
    let resumed = has("--resume");
    if call.starts_with("train") {
        let mut short = SHORT.split(' ');
        while let (Some(option), Some(value)) = (short.next(), short.next()) {
            let from_head = option == "--embed" && has("--init");
            if !has(option) && !resumed && !from_head {
                all += &format!(" {option} {value}");
            }
        }
        if !has("--out") {
            all += &format!(" --out {out}");
        }
        all += " --no-baselines";
    }
    let computes = ["train", "eval", "sweep"].iter().any(|command| call.starts_with(command));
    if computes && !has("--device") {
        all += " --device cpu";
    }
    all
}

#[test]
fn the_advice_for_typical_slips_works_to_the_letter() {
    let place = Place::new();
    place.train("run", "");
    for name in ["ones", "floats", "cube"] {
        write_dataset(&place.path(name));
    }
    let ones: Vec<u32> = text_to_image().iter().map(|image| image + 1).collect();
    write_npy(&place.path("ones/text_to_image.npy"), &[ones.len() as u64], &ones);
    write_npy(&place.path("floats/split_test.npy"), &[8], &(32..40).map(f64::from).collect::<Vec<_>>());
    write_npy(&place.path("cube/images.npy"), &[40, 1, 6], &features()[0]);
    fs::write(place.path("run.toml"), "lr = 0.01\n").unwrap();
    fs::write(place.path("other.toml"), "seed = 1\nlearning_rate = 0.01\n").unwrap();
    fs::write(place.path("type.toml"), "seed = 1\nstandardize = 1\n").unwrap();
    fs::write(place.path("value.toml"), "optimizer = \"adam\"\n").unwrap();
    let mut wrong = Vec::new();
    let mut followed = 0;
    for (i, &(slip, says)) in SLIPS.iter().enumerate() {
        let output = place.run(&whole(slip, &format!("slip{i}")));
        if output.code == 0 {
            wrong.push(format!("wgoal {slip}\n  expected an error"));
            continue;
        }
        let line = output.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        if !line.contains(says) {
            wrong.push(format!("wgoal {slip}\n  expected {says}\n  found    {line}"));
            continue;
        }
        let call = follow(&place, slip, &Message::parse(line));
        let again = place.run(&whole(&call, &format!("right{i}")));
        match again.code {
            0 => followed += 1,
            _ => wrong.push(format!("wgoal {slip}\n  {line}\nwgoal {call}\n  {}", again.stderr)),
        }
    }
    assert!(wrong.is_empty(), "{} of {} slips:\n{}", wrong.len(), SLIPS.len(), wrong.join("\n"));
    assert!(followed >= 30, "{followed}");
}
