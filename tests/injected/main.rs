//! Commands that are killed, refused by the system, or limited: nothing is lost, and the same command then ends as if
//! nothing had happened. A test that this system does not allow is listed as ignored, with the reason.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod faults;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod limits;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod lost_gpu;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[allow(dead_code)]
#[path = "../cli/place.rs"]
mod place;

fn main() {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    let tests = faults::tests().into_iter().chain(limits::tests()).chain(lost_gpu::tests()).collect();
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    let tests = Vec::new();
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), tests).exit()
}
