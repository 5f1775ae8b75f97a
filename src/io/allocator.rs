//! What happens if the system gives no memory: an error of one line, in the place of the abort that Rust would do.

use std::cell::Cell;

thread_local! {
    /// Whether the caller of the allocation that is under way has an answer to a failure.
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// Does work whose allocations may fail, such as `try_reserve`. Elsewhere a failed allocation ends a process that has
/// [`Allocator`].
pub(crate) fn may_fail<T>(work: impl FnOnce() -> T) -> T {
    let before = MAY_FAIL.replace(true);
    let result = work();
    MAY_FAIL.set(before);
    result
}

#[cfg(feature = "native")]
mod ending {
    use super::MAY_FAIL;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::io::Write;

    /// The system's allocator, for programs in which a failed allocation is an error of one line with exit code 1. Where
    /// the library has an answer to the failure, it gets it as before. wgoal's command line has this allocator.
    #[derive(Debug)]
    pub struct Allocator;

    /// Prints the error and ends the process, unless the caller has an answer to a failure. It allocates nothing.
    #[cold]
    fn refused(bytes: usize) {
        if !MAY_FAIL.get() {
            let _ = writeln!(
                std::io::stderr(),
                "error: memory: expected {bytes} bytes more, found that the system gives none; free memory, raise the \
                 limit (ulimit -v or -d), or lower --batch and --embed"
            );
            std::process::exit(1);
        }
    }

    // SAFETY: every call is passed on to the system's allocator unchanged, and so is its result.
    unsafe impl GlobalAlloc for Allocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: guaranteed by the caller.
            let pointer = unsafe { System.alloc(layout) };
            if pointer.is_null() {
                refused(layout.size());
            }
            pointer
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: guaranteed by the caller.
            let pointer = unsafe { System.alloc_zeroed(layout) };
            if pointer.is_null() {
                refused(layout.size());
            }
            pointer
        }

        unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: guaranteed by the caller.
            let pointer = unsafe { System.realloc(pointer, layout, size) };
            if pointer.is_null() {
                refused(size);
            }
            pointer
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: guaranteed by the caller.
            unsafe { System.dealloc(pointer, layout) }
        }
    }
}

#[cfg(feature = "native")]
pub use ending::Allocator;
