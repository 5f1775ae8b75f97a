//! A run in a terminal: its progress, and signals that stop it.
#![cfg(unix)]

use super::place::*;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Waits until `holds`, while the process runs.
fn wait_until(child: &mut Child, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < HANGS && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

fn text(stream: Option<impl Read>) -> String {
    let mut text = String::new();
    stream.unwrap().read_to_string(&mut text).unwrap();
    text
}

/// The command in backticks.
fn advised(line: &str) -> String {
    let (_, command) = line.split_once("`wgoal ").unwrap();
    command.split_once('`').unwrap().0.to_string()
}

#[test]
fn a_signal_ends_a_run_between_steps_and_the_advice_continues_it() {
    for (signal, name, code) in [(Signal::INT, "Ctrl-C", 130), (Signal::TERM, "SIGTERM", 143)] {
        let place = Place::new();
        let options = "--batch 16 --lr 0.01 --epochs 1000000 --device cpu --no-baselines";
        let mut child = place.start(&format!("train data {options} --out run"), Stdio::piped);
        wait_until(&mut child, || place.path("run/last.safetensors").exists());
        send(&child, signal);
        let (stdout, stderr) = (text(child.stdout.take()), text(child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(code), "{stderr}");
        assert_eq!(stdout, "");
        let done = place.metrics("run").len() - 1;
        let last = stderr.lines().last().unwrap();
        let epochs = if done == 1 { "1 epoch".into() } else { format!("{done} epochs") };
        let step = wgoal::Checkpoint::load(place.path("run/last.safetensors")).unwrap().step();
        // An epoch has three steps.
        let (reached, saved) = match step {
            0 if done == 1 => (format!("epoch {done}"), format!("{epochs} is")),
            0 => (format!("epoch {done}"), format!("{epochs} are")),
            1 => (format!("step 1 of 3 in epoch {}", done + 1), format!("{epochs} and 1 step are")),
            step => {
                (format!("step {step} of 3 in epoch {}", done + 1), format!("{epochs} and {step} steps are"))
            }
        };
        let expected = format!(
            "stopped by {name} after {reached} of 1000000; {saved} saved in run: continue with `wgoal train --resume \
             --out run`"
        );
        assert_eq!(last, expected);
        // The advice, with so many epochs that it ends, gives the bits of a run that nothing stopped.
        let epochs = done + 2;
        place.ok(&format!("{} --epochs {epochs} --no-baselines", advised(last)));
        let whole = options.replace("1000000", &epochs.to_string());
        place.ok(&format!("train data {whole} --out whole"));
        for file in ["best.safetensors", "last.safetensors"] {
            assert!(place.read(&format!("run/{file}")) == place.read(&format!("whole/{file}")), "{file}");
        }
    }
}

#[test]
fn a_signal_in_the_first_epoch_saves_its_steps() {
    let place = Place::new();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    // An epoch of many steps.
    let options =
        "--recipe goal --batch 1 --objective infonce --embed 64 --device cpu --no-baselines --no-report";
    let mut child =
        place.start(&format!("train {data} {options} --checkpoint-every 3 --out run"), Stdio::piped);
    wait_until(&mut child, || place.path("run/last.safetensors").exists());
    send(&child, Signal::INT);
    let stderr = text(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr}");
    let last = stderr.lines().last().unwrap();
    let checkpoint = wgoal::Checkpoint::load(place.path("run/last.safetensors")).unwrap();
    let step = checkpoint.step();
    assert!(checkpoint.epoch() == 0 && step > 0);
    assert!(last.starts_with(&format!("stopped by Ctrl-C after step {step} of ")), "{last}");
    let saved = if step == 1 { "1 step is".into() } else { format!("{step} steps are") };
    let advice =
        format!(" in epoch 1 of 30; {saved} saved in run: continue with `wgoal train --resume --out run`");
    assert!(last.ends_with(&advice), "{last}");
    assert_eq!(place.names("run"), ["config.json", "last.safetensors", "metrics.jsonl", "run.toml"]);
    place.ok(&format!("{} --epochs 1 --no-baselines", advised(last)));
    place.ok(&format!("train {data} {options} --epochs 1 --out whole"));
    assert_eq!(place.metrics("run").len(), 1);
    assert!(place.read("run/last.safetensors") == place.read("whole/last.safetensors"));
}

/// The second signal does not wait for the end of a step, which takes seconds here.
#[test]
fn a_second_signal_ends_a_run_at_once() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    let options = "--recipe goal --batch 1895 --embed 8192 --device cpu --no-baselines --no-report";
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // Signals that come between two steps end the run as one signal does. Then they come a little later.
        let within_a_step = [300, 700, 1200, 2000, 3000].into_iter().any(|wait| {
            let place = Place::new();
            let mut child = place.start(&format!("train {data} {options} --out run"), Stdio::piped);
            wait_until(&mut child, || place.path("run/run.toml").exists());
            std::thread::sleep(Duration::from_millis(wait));
            send(&child, signal);
            std::thread::sleep(Duration::from_millis(20));
            send(&child, signal);
            let stderr = text(child.stderr.take());
            assert_eq!(child.wait().unwrap().code(), Some(code), "{stderr}");
            !stderr.contains("stopped by")
        });
        assert!(within_a_step, "every run finished its step");
    }
}

/// What a run writes to a terminal on standard error, and whether it succeeds.
fn in_a_terminal(place: &Place, args: &str) -> (String, bool) {
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&main).unwrap();
    unlockpt(&main).unwrap();
    let name = ptsname(&main, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(name).unwrap();
    let size = rustix::termios::Winsize { ws_row: 40, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, size).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_wgoal"))
        .args(args.split(' '))
        .env("TERM", "xterm")
        .current_dir(place.path(""))
        .stdout(Stdio::null())
        .stderr(terminal)
        .spawn()
        .unwrap();
    let reader = std::thread::spawn(move || {
        let (mut file, mut bytes, mut part) = (File::from(main), Vec::new(), [0; 4096]);
        // Reading fails when the process has closed the other end.
        while let Ok(count @ 1..) = file.read(&mut part) {
            bytes.extend_from_slice(&part[..count]);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let status = child.wait().unwrap();
    (reader.join().unwrap(), status.success())
}

/// What stays on each line, without colours: what is written after the line was last cleared.
fn lines_left(text: &str) -> Vec<String> {
    let plain = |line: &str| {
        let mut parts = line.split("\u{1b}[");
        let first = parts.next().unwrap().to_string();
        parts.fold(first, |line, part| line + part.split_once('m').map_or(part, |(_, rest)| rest))
    };
    let left = |line: &str| plain(line.rsplit("\u{1b}[2K").next().unwrap().trim_matches('\r'));
    text.split('\n').map(left).collect()
}

#[test]
fn progress_tells_the_time_left_and_leaves_no_line_behind() {
    let place = Place::new();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    let (text, success) = in_a_terminal(
        &place,
        &format!("train {data} --recipe goal --device cpu --batch 16 --epochs 2 --no-baselines --out run"),
    );
    assert!(success, "{text}");
    for part in ["epoch 2/2  step ", " steps/s  ", " s left"] {
        assert!(text.contains(part), "{part} in {text:?}");
    }
    let left = lines_left(&text);
    assert!(!left.iter().any(|line| line.contains("steps/s") || line.contains("0/s")), "{left:#?}");
    assert!(left.iter().any(|line| line.starts_with("epoch   2  loss")), "{left:#?}");
    // Nor does an error, or --quiet.
    let (text, success) = in_a_terminal(
        &place,
        &format!("train {data} --recipe goal --device cpu --batch 8 --lr 1e30 --out lost"),
    );
    let left = lines_left(&text);
    assert!(!success && !left.iter().any(|line| line.contains("steps/s")), "{left:#?}");
    assert!(left.iter().any(|line| line.starts_with("error: epoch 1")), "{left:#?}");
    let (text, _) = in_a_terminal(&place, "train data --device cpu --epochs 1 --quiet --out quiet");
    assert_eq!(text, "");
}
