//! A dataset far larger than memory: only the rows in use are ever read.

#[cfg(target_os = "linux")]
use super::place::*;

/// The peak resident memory of a running process, in MB.
#[cfg(target_os = "linux")]
fn peak(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? >> 10)
}

#[cfg(target_os = "linux")]
#[test]
fn forty_gigabytes_train_in_little_memory() {
    use npyz::WriterBuilder;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::process::Stdio;
    use std::time::{Duration, Instant};
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
        return eprintln!("SKIPPED: the file system refuses a sparse file of 40 GB: {error}");
    }
    let mut features = numbers(4);
    let mut floats = |n: u64| features.by_ref().take(n as usize).collect::<Vec<f32>>();
    // From the first row to the last.
    let used: Vec<u32> = (0..USED as u64).map(|i| (i * (ROWS - 1) / (USED as u64 - 1)) as u32).collect();
    for &row in &used {
        let position = header.len() as u64 + u64::from(row) * DIM * 4;
        images.write_all_at(bytemuck::cast_slice(&floats(DIM)), position).unwrap();
    }
    let metadata = images.metadata().unwrap();
    if metadata.blocks() * 512 > 1 << 30 {
        return eprintln!("SKIPPED: the file system keeps no sparse files");
    }
    assert!(metadata.len() > 40_000_000_000);
    write_npy(&folder.join("texts.npy"), &[USED as u64, 16], &floats(USED as u64 * 16));
    write_npy(&folder.join("text_to_image.npy"), &[USED as u64], &used);
    for (name, rows) in [("train", 0..64), ("val", 64..80), ("test", 80..96)] {
        write_npy(&folder.join(format!("split_{name}.npy")), &[rows.len() as u64], &used[rows]);
    }

    let start = Instant::now();
    let mut child =
        place.start("train large --epochs 1 --batch 32 --embed 16 --device cpu --out run", Stdio::null);
    let mut most = 0;
    let status = loop {
        most = most.max(peak(child.id()).unwrap_or(0));
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    println!("{most} MB, {:?}", start.elapsed());
    assert!(status.success());
    assert_eq!(place.metrics("run").len(), 1);
    assert!((1..500).contains(&most), "{most} MB");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[cfg(not(target_os = "linux"))]
#[test]
#[ignore = "reads the peak memory from Linux's /proc"]
fn forty_gigabytes_train_in_little_memory() {}
