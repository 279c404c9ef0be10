//! One of something for each thread, so that threads which serve players at the same time write no memory that another one uses: a cache
//! line that two processors write costs each of them more than the rest of a counter's work.

use crossbeam_utils::CachePadded;
use std::{
    slice::Iter,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// One `T` per processor. A thread always finds the same one, and shares it where there are more threads than processors.
#[derive(Debug)]
pub struct Sharded<T>(Box<[CachePadded<T>]>);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self((0..=*MASK).map(|_| CachePadded::default()).collect())
    }
}

impl<T> Sharded<T> {
    /// This thread's.
    #[must_use]
    pub fn own(&self) -> &T {
        &self.0[thread_number() & *MASK]
    }
}

impl<'a, T> IntoIterator for &'a Sharded<T> {
    type Item = &'a CachePadded<T>;
    type IntoIter = Iter<'a, CachePadded<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// The number of processors, rounded up to a power of two, less one.
static MASK: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from).next_power_of_two() - 1);

/// Counts the threads that ask; those of the runtime's workers are next to each other.
fn thread_number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    THREAD.with(|thread| *thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_finds_its_own_again() {
        let sharded = Sharded::<AtomicUsize>::default();
        sharded.own().store(7, Ordering::Relaxed);
        let seen = |it: &AtomicUsize| it.load(Ordering::Relaxed);
        assert_eq!(seen(sharded.own()), 7);
        assert_eq!(sharded.into_iter().map(|it| seen(it)).sum::<usize>(), 7);
    }
}
