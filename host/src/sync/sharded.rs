//! A value for each thread, so that threads that serve players at the same time do not write to the same memory. If two
//! processors write to one cache line, that costs each of them more than the rest of the work on a counter.

use crossbeam_utils::CachePadded;
use std::{
    slice::Iter,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// At least one value of type `T` per processor. A thread always gets the same value. If there are more threads than
/// values, several threads share a value.
#[derive(Debug)]
pub struct Sharded<T>(Box<[CachePadded<T>]>);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self((0..=*MASK).map(|_| CachePadded::default()).collect())
    }
}

impl<T> Sharded<T> {
    /// Returns the value of this thread.
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

/// The number of processors, rounded up to a power of two, minus one.
static MASK: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from).next_power_of_two() - 1);

/// Returns the number of this thread. Threads are numbered in the order of their first call, so the runtime's workers
/// get neighbouring numbers.
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
    fn a_thread_always_gets_the_same_value() {
        let sharded = Sharded::<AtomicUsize>::default();
        sharded.own().store(7, Ordering::Relaxed);
        let seen = |it: &AtomicUsize| it.load(Ordering::Relaxed);
        assert_eq!(seen(sharded.own()), 7);
        assert_eq!(sharded.into_iter().map(|it| seen(it)).sum::<usize>(), 7);
    }
}
