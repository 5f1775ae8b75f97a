//! Whether what a run will hold fits into the memory: the copies of its head, and the matrices of closed forms.
//!
//! The needs are lower bounds. They follow from options and files alone, so they are checked before anything is allocated.

use super::TrainConfig;
use crate::data::{Dataset, Side, Split, order_bytes};
use crate::model::Layout;
use crate::{Error, Result};
use sysinfo::{MemoryRefreshKind, System};

/// Square matrices that kernel CCA holds at a time: the kernel of each side, and its decomposition.
const SQUARES: u64 = 4;

/// Blocks of as many columns as the embedding is wide.
const BLOCKS: u64 = 10;

/// Bytes that each thread takes to multiply matrices.
const PACKED: u64 = 1 << 26;

const GB: f64 = 1e9;

/// The bytes that kernel CCA takes for so many landmark images and columns of a block, in f64.
fn needed(images: usize, columns: usize) -> u64 {
    let (n, columns) = (images as u64, columns.min(images) as u64);
    8 * n * (SQUARES * n + BLOCKS * columns)
}

/// The bytes that this process may still take, if the system says so. Inside a container, its limit counts.
fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    // sysinfo panics at the second call if the first one could not read the memory.
    let limits = if system.total_memory() > 0 { system.cgroup_limits() } else { None };
    let limit = limits.map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    let free = system.available_memory().min(limit).min(address_space());
    // Systems that sysinfo does not know report 0.
    (free > 0).then_some(free)
}

/// The bytes that the limits of this process (`ulimit -v`, `ulimit -d`) leave.
#[cfg(target_os = "linux")]
fn address_space() -> u64 {
    use rustix::process::{Resource, getrlimit};
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let left = |limit, name| {
        let Some(most) = getrlimit(limit).current else { return u64::MAX };
        let taken =
            status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
        most.saturating_sub(1024 * taken.unwrap_or(0u64))
    };
    left(Resource::As, "VmSize:").min(left(Resource::Data, "VmData:"))
}

#[cfg(not(target_os = "linux"))]
fn address_space() -> u64 {
    u64::MAX
}

/// Checks that the memory holds a run: its head, gradient, optimiser and best head; and beside them a checkpoint, which is
/// copied into tensors and then into the bytes of a file.
///
/// # Errors
/// It does not.
pub(super) fn check_run(dataset: &Dataset, config: &TrainConfig) -> Result<()> {
    let [image, text] = config.pooling();
    let dims = [dataset.width(Side::Image, image)?, dataset.width(Side::Text, text)?];
    // The counts of landmarks are those of the dataset. Here a head without them is a lower bound.
    let head = config.head();
    let layout = Layout::of(dims, &head);
    // A head of these sizes would overflow the sums below.
    let parameters = if layout.largest() >= 1 << 40 { u64::MAX } else { layout.len() as u64 };
    let states = config.optimizer.state().len() as u64;
    let copies = 5 + states + 3 * (states + 3);
    let need = parameters.saturating_mul(4 * copies);
    let what = format!("for the {copies} copies of {parameters} parameters that a run holds");
    let Some(free) = available() else { return Ok(()) };
    compare("training", need, free, &what, "lower --embed, or free memory")?;
    let captions = dataset.split(Split::Train).texts.len();
    let window = config.shuffle.window(config.batch);
    let advice = match window {
        None => "give --shuffle blocks, or free memory",
        Some(_) => "give --shuffle blocks with a smaller window, or free memory",
    };
    let what = format!("for the order of {captions} training captions");
    compare("--shuffle", order_bytes(captions, window), free, &what, advice)
}

/// Checks that the memory holds the covariances of features of these widths, with two more matrices of their size. Sums of
/// several parts are there at the same time, one for each level of their tree.
///
/// # Errors
/// It does not.
pub(super) fn check_covariances([p, q]: [usize; 2], parts: usize) -> Result<()> {
    let [p, q] = [p as u64, q as u64];
    let levels = u64::from(parts.next_power_of_two().ilog2());
    let need = (3 + levels) * 8 * (p * p + q * q + p * q) + PACKED * rayon::current_num_threads() as u64;
    let what = format!("for the covariances of {p} and {q} features");
    let advice = "lower --random-features if it is given, or free memory";
    available().map_or(Ok(()), |free| compare("closed form", need, free, &what, advice))
}

fn compare(thing: &str, need: u64, free: u64, what: &str, advice: &str) -> Result<()> {
    if need <= free {
        return Ok(());
    }
    let [need, free] = [need, free].map(|bytes| format!("{:.1} GB", bytes as f64 / GB));
    Err(Error::config(thing, format!("{need} of memory {what}"), format!("{free} available"), advice))
}

/// Checks that the memory holds kernel CCA of so many landmark images with blocks of so many columns.
///
/// # Errors
/// It does not.
pub(super) fn check_landmarks(images: usize, columns: usize) -> Result<()> {
    available().map_or(Ok(()), |free| check(images, columns, free))
}

fn check(images: usize, columns: usize, free: u64) -> Result<()> {
    let need = needed(images, columns);
    if need <= free {
        return Ok(());
    }
    // Half of the memory, so that the advice also works a little later.
    let most = (1..=images).rev().step_by(100).find(|&n| needed(n, columns) <= free / 2).unwrap_or(1);
    let most = if most > 100 { most / 100 * 100 } else { most };
    let expected = format!("{:.1} GB of memory for {images} landmark images", need as f64 / GB);
    let advice =
        format!("give --landmarks {most}, or --random-features 3500 in place of landmarks, or free memory");
    Err(Error::config("kernel CCA", expected, format!("{:.1} GB available", free as f64 / GB), advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_larger_than_the_memory_are_refused_with_a_number_that_fits() {
        let free = 4_000_000_000;
        let need = needed(10_000, 1088);
        check(10_000, 1088, need).unwrap();
        assert!(check(10_000, 1088, need - 1).is_err());
        let error = check(20_000, 1088, free).unwrap_err().to_string();
        let expected = "kernel CCA: expected 14.5 GB of memory for 20000 landmark images, found 4.0 GB available; give \
                        --landmarks 6600, or --random-features 3500 in place of landmarks, or free memory";
        assert_eq!(error, expected);
        check(6600, 1088, free).unwrap();
        assert!(check(3, 1088, 0).unwrap_err().to_string().contains("--landmarks 1,"));
    }

    #[test]
    fn a_need_above_the_memory_names_both() {
        compare("training", 5, 5, "for it", "free memory").unwrap();
        let error = compare("training", 34_200_000_000, 4_000_000_000, "for it", "free memory").unwrap_err();
        let expected = "training: expected 34.2 GB of memory for it, found 4.0 GB available; free memory";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_system_says_how_much_memory_is_available() {
        assert!(available().is_none_or(|free| free > 1 << 20));
        assert!(available().is_some() || cfg!(not(target_os = "linux")));
        check_landmarks(2, 64).unwrap();
    }
}
