//! The state of one plugin: entries with a key and a value, which all generations of the plugin share.
//!
//! A call reads while the guest runs, and its writes are committed after the guest has answered. Every entry has a
//! version. A call remembers the versions that it has read, and its commit fails if they have changed. So no call waits
//! for another, and a call is repeated only if another call has changed what it read. Locks on entries were rejected,
//! because they would be held while guests run, and two calls could wait for each other.
//!
//! Every time is the time of a call, in milliseconds since 1970. A call passes the same time to its reads and to its
//! commit. An entry is present until this time has reached its expiry. So a call does not fail only because an entry
//! expired while the call was under way.

mod order;
mod reads;
#[cfg(test)]
mod tests;

pub use order::Transaction;
pub use reads::Reads;

use order::Order;
use reads::{Range, Read};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The maximum length of a key, in bytes. Whoever commits checks the keys that are written.
pub const MAX_KEY_BYTES: usize = 256;

/// The bytes that are counted for each entry in addition to its key and its value. They stand for the memory of the maps
/// and the reference counts.
const ENTRY_BYTES: usize = 64;

/// The maximum number of expired entries that are removed while the entries are locked once.
const MAX_REMOVED: usize = 256;

/// The state of one plugin.
pub struct Store {
    order: Order,
    entries: Mutex<Entries>,
}

/// A change of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key, of 1 to [`MAX_KEY_BYTES`] bytes.
    pub key: String,
    /// The new value, or `None` to remove the entry.
    pub value: Option<Vec<u8>>,
    /// The time from the call until the entry expires, in milliseconds. Without it, the entry does not expire.
    pub ttl_ms: Option<u64>,
}

/// Why a commit changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Abort {
    /// The call has read something that is different now. It has to be made again.
    #[error("another call changed what this call has read of the plugin's state: make the call again")]
    Conflict,
    /// The writes do not fit.
    #[error(
        "the plugin's state would grow to {bytes} bytes, and {max} are the most: let the plugin remove entries, or raise \
         its `state_mb`"
    )]
    Full {
        /// The size that the state would have, in bytes.
        bytes: usize,
        /// The maximum size, in bytes.
        max: usize,
    },
    /// The call was made by a generation with another format of the state.
    #[error("a version of the plugin with another `state-format` is in use: make the call with that version")]
    Replaced,
}

/// The size of a plugin's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The number of entries. Expired entries count until they are removed.
    pub entries: usize,
    /// The bytes of all keys and values, and 64 bytes for each entry.
    pub bytes: usize,
}

/// The state of a plugin as it is kept in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The format of the state.
    pub format: u32,
    /// The entries in the order of their keys.
    pub entries: Vec<SavedEntry>,
}

/// An entry as it is kept in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedEntry {
    /// The key.
    pub key: Arc<str>,
    /// The value.
    pub value: Arc<[u8]>,
    /// The time at which the entry expires, in milliseconds since 1970, if it does.
    pub expires_ms: Option<u64>,
}

impl SavedEntry {
    /// Returns whether the entry is present at a time.
    #[must_use]
    pub fn is_present(&self, now_ms: u64) -> bool {
        is_before_expiry(now_ms, self.expires_ms)
    }
}

impl Store {
    /// Returns empty state of format 0.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { order: Order::default(), entries: Mutex::new(Entries { max_bytes, ..Entries::default() }) }
    }

    /// Sets the maximum size, in bytes as [`Usage::bytes`] counts them. No entry is removed, but the state does not grow
    /// while it is larger.
    pub fn set_max_bytes(&self, max_bytes: usize) {
        self.lock().max_bytes = max_bytes;
    }

    /// Sets the format of the entries. If it is another format than before, all entries are removed.
    pub fn set_format(&self, format: u32) {
        let mut entries = self.lock();
        if entries.format != format {
            let dropped = entries.clear();
            entries.format = format;
            drop(entries);
            // There may be millions of them, and nobody should wait for the lock meanwhile.
            drop(dropped);
        }
    }

    /// Returns the value of a key, if there is such an entry.
    pub fn get(&self, key: &str, now_ms: u64, reads: &mut Reads) -> Option<Arc<[u8]>> {
        if key.len() > MAX_KEY_BYTES {
            // There is no such entry and never will be, so there is nothing to remember.
            return None;
        }
        let found = self.lock().present(key, now_ms).map(|(key, entry)| (Arc::clone(key), entry.clone()));
        let (key, entry) = found.map_or_else(|| (key.into(), None), |(key, entry)| (key, Some(entry)));
        reads.push(Read::Get { key, version: entry.as_ref().map(|entry| entry.version) });
        entry.map(|entry| entry.value)
    }

    /// Returns the entries with keys that begin with `prefix`, in the order of their keys' bytes. Stops after `max`
    /// entries, and before the entry with which the entries would have more than `max_bytes`, as [`Usage::bytes`]
    /// counts them. The first entry is returned even if it is larger.
    pub fn scan(
        &self,
        prefix: &str,
        max: usize,
        max_bytes: usize,
        now_ms: u64,
        reads: &mut Reads,
    ) -> Vec<(Arc<str>, Arc<[u8]>)> {
        if prefix.len() > MAX_KEY_BYTES {
            return Vec::new();
        }
        let range = Range { prefix: prefix.into(), max, max_bytes };
        let (mut versions, mut found) = (Vec::new(), Vec::new());
        for (key, entry) in self.lock().scan(&range, now_ms) {
            versions.push(entry.version);
            found.push((Arc::clone(key), Arc::clone(&entry.value)));
        }
        reads.push(Read::Scan { range, versions });
        found
    }

    /// Carries out the changes of one call: all of them, or none. Of several changes of one key, the last one counts.
    /// Whoever commits holds the guard that [`Self::transaction`] returns.
    ///
    /// # Errors
    /// Returns an [`Abort`] if the call has read something that is different now, or if the state would grow beyond its
    /// maximum size.
    pub fn commit(&self, reads: &Reads, puts: impl IntoIterator<Item = Put>, now_ms: u64) -> Result<(), Abort> {
        // The values are copied before the entries are locked.
        let mut changes = Changes::new();
        for Put { key, value, ttl_ms } in puts {
            let expires_ms = ttl_ms.map(|ttl| now_ms.saturating_add(ttl));
            changes.insert(key.into(), value.map(|value| (value.into(), expires_ms)));
        }
        self.lock().commit(reads, changes, now_ms)
    }

    /// Returns whether the reads of a call would find the same now. `now_ms` is the time of the call.
    #[must_use]
    pub fn is_current(&self, reads: &Reads, now_ms: u64) -> bool {
        reads.is_empty() || self.lock().is_current_all(reads, now_ms)
    }

    /// Locks the order of commits until the guard is dropped. A call that commits holds the guard until its actions are
    /// carried out, so that the actions of two calls are carried out in the order of their commits.
    ///
    /// A call that is made under the guard never fails with [`Abort::Conflict`]. This is how a call succeeds at last
    /// that had conflicts several times.
    pub fn transaction(&self) -> Transaction<'_> {
        self.order.lock()
    }

    /// Does the same as [`Self::transaction`], for a transaction that may take milliseconds.
    pub fn long_transaction(&self) -> Transaction<'_> {
        self.order.lock_long()
    }

    /// Returns whether a [`Self::long_transaction`] is under way. A thread that serves players must not wait for it.
    #[must_use]
    pub fn is_held_long(&self) -> bool {
        self.order.is_held_long()
    }

    /// Returns the size of the state.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let entries = self.lock();
        Usage { entries: entries.by_key.len(), bytes: entries.bytes }
    }

    /// Removes some of the expired entries. Returns whether there may be more of them. While a transaction is under way,
    /// nothing is removed, because it may have read the entries.
    pub fn sweep(&self, now_ms: u64) -> bool {
        self.order.try_lock().is_some_and(|_order| self.lock().remove_expired(now_ms))
    }

    /// Returns whether the entries have another format now than when a call read them.
    #[must_use]
    pub fn is_replaced(&self, reads: &Reads) -> bool {
        reads.format != self.lock().format
    }

    /// Returns all entries, for a file.
    #[must_use]
    pub fn entries(&self) -> Saved {
        let entries = self.lock();
        let saved = entries.by_key.iter().map(|(key, entry)| SavedEntry {
            key: Arc::clone(key),
            value: Arc::clone(&entry.value),
            expires_ms: entry.expires_ms,
        });
        Saved { format: entries.format, entries: saved.collect() }
    }

    /// Replaces all entries and their format by those of a file, however large they are.
    pub fn restore(&self, saved: Saved) {
        let mut entries = self.lock();
        drop(entries.clear());
        entries.format = saved.format;
        for SavedEntry { key, value, expires_ms } in saved.entries {
            entries.replace(key, Some((value, expires_ms)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The changes of a call, by key: the new value with the time at which it expires, or `None` to remove the entry.
type Changes = BTreeMap<Arc<str>, Option<(Arc<[u8]>, Option<u64>)>>;

#[derive(Clone)]
struct Entry {
    value: Arc<[u8]>,
    expires_ms: Option<u64>,
    version: u64,
}

/// The entries of a store, and everything that changes together with them.
#[derive(Default)]
struct Entries {
    format: u32,
    max_bytes: usize,
    bytes: usize,
    last_version: u64,
    by_key: BTreeMap<Arc<str>, Entry>,
    /// The entries that expire, with the earliest first.
    by_expiry: BTreeSet<(u64, Arc<str>)>,
}

impl Entries {
    fn present(&self, key: &str, now_ms: u64) -> Option<(&Arc<str>, &Entry)> {
        self.by_key.get_key_value(key).filter(|(_, entry)| is_before_expiry(now_ms, entry.expires_ms))
    }

    fn scan<'a>(&'a self, range: &'a Range, now_ms: u64) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry)> {
        let mut bytes = 0;
        self.by_key
            .range::<str, _>((Bound::Included(&*range.prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&*range.prefix))
            .filter(move |(_, entry)| is_before_expiry(now_ms, entry.expires_ms))
            .take(range.max)
            .take_while(move |(key, entry)| {
                let is_first = bytes == 0;
                bytes += size(key, &entry.value);
                is_first || bytes <= range.max_bytes
            })
    }

    fn commit(&mut self, reads: &Reads, changes: Changes, now_ms: u64) -> Result<(), Abort> {
        if reads.format != self.format {
            return Err(Abort::Replaced);
        }
        if !self.is_current_all(reads, now_ms) {
            return Err(Abort::Conflict);
        }
        self.make_room(&changes, now_ms)?;
        for (key, change) in changes {
            self.replace(key, change);
        }
        Ok(())
    }

    fn is_current_all(&self, reads: &Reads, now_ms: u64) -> bool {
        reads.reads.iter().flat_map(|reads| reads.iter()).all(|read| self.is_current(read, now_ms))
    }

    /// Returns whether a read would find the same versions now.
    fn is_current(&self, read: &Read, now_ms: u64) -> bool {
        match read {
            Read::Get { key, version } => self.present(key, now_ms).map(|(_, entry)| entry.version) == *version,
            Read::Scan { range, versions } => {
                self.scan(range, now_ms).map(|(_, entry)| entry.version).eq(versions.iter().copied())
            }
        }
    }

    /// Checks that the changes fit, and removes expired entries if they do not. Changes that make the state no larger
    /// always fit, so that a plugin whose limit was lowered can remove entries.
    fn make_room(&mut self, changes: &Changes, now_ms: u64) -> Result<(), Abort> {
        loop {
            let bytes = self.bytes_after(changes);
            if bytes <= self.max_bytes.max(self.bytes) {
                return Ok(());
            }
            let before = self.bytes;
            self.remove_expired(now_ms);
            if self.bytes == before {
                return Err(Abort::Full { bytes, max: self.max_bytes });
            }
        }
    }

    fn bytes_after(&self, changes: &Changes) -> usize {
        let old = changes.keys().filter_map(|key| self.by_key.get(key).map(|entry| size(key, &entry.value)));
        let new = changes.iter().filter_map(|(key, change)| change.as_ref().map(|(value, _)| size(key, value)));
        self.bytes - old.sum::<usize>() + new.sum::<usize>()
    }

    fn replace(&mut self, key: Arc<str>, change: Option<(Arc<[u8]>, Option<u64>)>) {
        if let Some(old) = self.by_key.remove(&key) {
            self.bytes -= size(&key, &old.value);
            if let Some(expires_ms) = old.expires_ms {
                self.by_expiry.remove(&(expires_ms, Arc::clone(&key)));
            }
        }
        let Some((value, expires_ms)) = change else { return };
        self.bytes += size(&key, &value);
        if let Some(expires_ms) = expires_ms {
            self.by_expiry.insert((expires_ms, Arc::clone(&key)));
        }
        self.last_version += 1;
        self.by_key.insert(key, Entry { value, expires_ms, version: self.last_version });
    }

    /// Removes expired entries, [`MAX_REMOVED`] at most. Returns whether there may be more of them.
    fn remove_expired(&mut self, now_ms: u64) -> bool {
        for _ in 0..MAX_REMOVED {
            match self.by_expiry.first() {
                Some((expires_ms, key)) if !is_before_expiry(now_ms, Some(*expires_ms)) => {
                    self.replace(Arc::clone(key), None);
                }
                _ => return false,
            }
        }
        true
    }

    /// Removes and returns all entries. The versions go on, so that earlier reads do not match later entries.
    fn clear(&mut self) -> impl Sized + use<> {
        self.bytes = 0;
        (mem::take(&mut self.by_key), mem::take(&mut self.by_expiry))
    }
}

fn size(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

fn is_before_expiry(now_ms: u64, expires_ms: Option<u64>) -> bool {
    expires_ms.is_none_or(|expires_ms| now_ms < expires_ms)
}
