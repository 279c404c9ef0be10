//! A list that is stored in place, so that a state of the model is copied without allocations.

use std::{
    hash::{Hash, Hasher},
    ops::{Deref, DerefMut},
};

/// A list of up to `N` items.
#[derive(Clone, Copy, Debug)]
pub struct Line<T, const N: usize> {
    len: usize,
    items: [T; N],
}

impl<T: Copy + Default, const N: usize> Default for Line<T, N> {
    fn default() -> Self {
        Self { len: 0, items: [T::default(); N] }
    }
}

impl<T, const N: usize> Deref for Line<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..self.len]
    }
}

impl<T, const N: usize> DerefMut for Line<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }
}

impl<T: Hash, const N: usize> Hash for Line<T, N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

impl<T: Copy + Default, const N: usize> Line<T, N> {
    /// Appends an item.
    ///
    /// # Panics
    /// Panics if the list is full, because the sizes of the model are then wrong.
    pub fn push(&mut self, item: T) {
        self.items[self.len] = item;
        self.len += 1;
    }

    /// Appends several items.
    pub fn extend(&mut self, items: &[T]) {
        items.iter().for_each(|item| self.push(*item));
    }

    /// Takes the first item.
    pub fn pop_front(&mut self) -> Option<T> {
        let first = *self.first()?;
        self.items.copy_within(1..self.len, 0);
        self.len -= 1;
        Some(first)
    }

    /// Removes all items.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}
