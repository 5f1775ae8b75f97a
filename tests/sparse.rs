//! Tests that not every machine can run. Some need datasets far larger than memory, of which only the rows in use are
//! read; only Linux reports what a process reads. The others need a browser.

#[cfg(target_os = "linux")]
#[path = "sparse/billions.rs"]
mod billions;
#[path = "browser/mod.rs"]
mod browser;
#[allow(dead_code)]
#[path = "cli/place.rs"]
mod place;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// What a running process has used so far: its largest memory, and the bytes that it has read, in MB.
#[cfg(target_os = "linux")]
fn taken(id: u32) -> Option<[u64; 2]> {
    let number = |file: &str, key: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{id}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    Some([number("status", "VmHWM:")? >> 10, number("io", "rchar:")? >> 20])
}

#[cfg(target_os = "linux")]
fn forty_gigabytes_train_in_little_memory() -> Result<Completion, Failed> {
    use crate::place::{Place, numbers, write_npy};
    use npyz::WriterBuilder;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::process::Stdio;
    const ROWS: u64 = 10_000_000;
    const DIM: u64 = 1024;
    const USED: usize = 96;

    let place = Place::new();
    let folder = place.path("large");
    std::fs::create_dir(&folder).unwrap();
    let images = std::fs::File::create(folder.join("images.npy")).unwrap();
    let mut header = Vec::new();
    let npy = npyz::WriteOptions::<f32>::new().default_dtype().shape(&[ROWS, DIM]).writer(&mut header);
    drop(npy.begin_nd().unwrap());
    images.write_all_at(&header, 0).unwrap();
    if let Err(error) = images.set_len(header.len() as u64 + ROWS * DIM * 4) {
        return Ok(Completion::ignored_with(format!(
            "the file system refuses a sparse file of 40 GB: {error}"
        )));
    }
    let mut features = numbers(4);
    let mut floats = |n: u64| features.by_ref().take(n as usize).collect::<Vec<f32>>();
    // The rows span the whole file, from the first to the last.
    let used: Vec<u32> = (0..USED as u64).map(|i| (i * (ROWS - 1) / (USED as u64 - 1)) as u32).collect();
    for &row in &used {
        let position = header.len() as u64 + u64::from(row) * DIM * 4;
        images.write_all_at(bytemuck::cast_slice(&floats(DIM)), position).unwrap();
    }
    let metadata = images.metadata().unwrap();
    if metadata.blocks() * 512 > 1 << 30 {
        return Ok(Completion::ignored_with("the file system keeps no sparse files"));
    }
    assert!(metadata.len() > 40_000_000_000);
    write_npy(&folder.join("texts.npy"), &[USED as u64, 16], &floats(USED as u64 * 16));
    write_npy(&folder.join("text_to_image.npy"), &[USED as u64], &used);
    for (name, rows) in [("train", 0..64), ("val", 64..80), ("test", 80..96)] {
        write_npy(&folder.join(format!("split_{name}.npy")), &[rows.len() as u64], &used[rows]);
    }

    let epochs = 20;
    let args =
        format!("train large --recipe goal --epochs {epochs} --batch 32 --embed 16 --device cpu --out run");
    let mut child = place.start(&args, Stdio::null);
    let mut most = [0; 2];
    let status = loop {
        if let Some(taken) = taken(child.id()) {
            most = [most[0].max(taken[0]), most[1].max(taken[1])];
        }
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    };
    let [peak, read] = most;
    println!("{peak} MB at most, {read} MB read");
    assert!(status.success());
    assert_eq!(place.metrics("run").len(), epochs);
    assert!((1..500).contains(&peak), "{peak} MB of memory");
    assert!((1..500).contains(&read), "{read} MB read");
    Ok(Completion::Completed)
}

#[cfg(not(target_os = "linux"))]
fn forty_gigabytes_train_in_little_memory() -> Result<Completion, Failed> {
    Ok(Completion::ignored_with("reads the peak memory from Linux's /proc"))
}

fn main() {
    let name = "forty_gigabytes_train_in_little_memory";
    let mut trials = vec![Trial::ignorable_test(name, forty_gigabytes_train_in_little_memory)];
    #[cfg(target_os = "linux")]
    trials.extend([
        Trial::ignorable_test(
            "pairs_beyond_32_bits_train_as_the_same_pairs_below",
            billions::pairs_beyond_32_bits_train_as_the_same_pairs_below,
        ),
        Trial::ignorable_test(
            "captions_of_images_beyond_32_bits_are_masked_as_those_below",
            billions::captions_of_images_beyond_32_bits_are_masked_as_those_below,
        ),
        Trial::ignorable_test(
            "billions_of_pairs_train_by_blocks",
            billions::billions_of_pairs_train_by_blocks,
        ),
    ]);
    trials.extend(browser::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}
