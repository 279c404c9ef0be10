//! How the process takes memory from the system and returns it.

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};
use std::{
    alloc::{GlobalAlloc, Layout},
    env,
    os::unix::process::CommandExt,
    process::Command,
};

/// The allocator of the process: mimalloc.
///
/// The crate `mimalloc` asks for an alignment in each call. Most sizes then take a slow way inside of mimalloc, although
/// its blocks are aligned to a word anyway. Without that, a call of a plugin takes 100 instructions less.
pub struct Allocator;

/// The alignment in bytes that each block has.
const WORD: usize = size_of::<usize>();

#[allow(unsafe_code, reason = "an allocator is unsafe by nature")]
// SAFETY: mimalloc is an allocator, and each of its blocks is aligned to a word at least.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if align <= WORD { unsafe { mi_malloc(size) } } else { unsafe { mi_malloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if align <= WORD { unsafe { mi_zalloc(size) } } else { unsafe { mi_zalloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        unsafe { mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (block, align) = (block.cast(), layout.align());
        if align <= WORD {
            unsafe { mi_realloc(block, size) }
        } else {
            unsafe { mi_realloc_aligned(block, size, align) }
        }
        .cast()
    }
}

/// The environment variable of the allocator that says after how many milliseconds freed memory returns to the system.
pub const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// The environment variable of the allocator that says how many pages for blocks of one size a thread may own and still
/// take a full page back.
const PAGE_MAX_RECLAIM: &str = "MIMALLOC_PAGE_MAX_RECLAIM";

/// The options with which the allocator returns freed memory. The allocator reads them before `main` begins.
///
/// - By default, the allocator returns memory only when it is called again some time later. A gateway without clients
///   does not call the allocator: after ten thousand hostile connections, it kept 181 MiB, and 42 MiB with this option.
/// - By default, a thread takes its full page back when it frees one of the page's blocks. If other threads free the
///   rest, only this thread can return the page, and only when it allocates again. After each of five storms of hostile
///   clients and plugins, the gateway kept 45 to 61 MiB, and no more than 5 MiB of the heap were in use. With this
///   option, a thread takes a page back only if it has no other for blocks of this size, and any other page is returned
///   by the thread that frees its last block. The gateway then kept 33 to 35 MiB.
const OPTIONS: [(&str, &str); 2] = [(PURGE_DELAY, "0"), (PAGE_MAX_RECLAIM, "0")];

/// Starts this program again in this process, with an allocator that returns freed memory at once. An option that is
/// already set, by this function or by the operator, stays as it is. If all are set, this function does nothing.
///
/// The options can only be set in the environment or by unsafe code.
pub fn give_back_at_once() {
    let unset: Vec<_> = OPTIONS.into_iter().filter(|(option, _)| env::var_os(option).is_none()).collect();
    if unset.is_empty() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    // `exec` returns only if it fails. The gateway then serves as usual, but holds more memory.
    let error = Command::new(program).args(env::args_os().skip(1)).envs(unset).exec();
    tracing::debug!(%error, "cannot start again with options of the allocator: the process holds more memory");
}

/// Turns huge pages off. With huge pages, the allocator's arenas hold twice as much memory at rest and return less. Pages
/// that are huge already stay so, and a program that is started again has none from the beginning.
pub fn refuse_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "cannot turn transparent huge pages off: more memory is held at rest");
    }
}
