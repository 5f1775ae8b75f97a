//! Whether the matrices of exact kernel CCA fit into the memory.

use crate::{Error, Result};
use sysinfo::{MemoryRefreshKind, System};

/// Square matrices that kernel CCA holds at a time: the kernel of each side, and its decomposition.
const SQUARES: u64 = 4;

/// Blocks of as many columns as the embedding is wide.
const BLOCKS: u64 = 10;

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
    let limit =
        system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    let free = system.available_memory().min(limit);
    // Systems that sysinfo does not know report 0.
    (free > 0).then_some(free)
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
    fn the_system_says_how_much_memory_is_available() {
        assert!(available().is_none_or(|free| free > 1 << 20));
        check_landmarks(2, 64).unwrap();
    }
}
