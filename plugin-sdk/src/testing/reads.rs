//! What a plugin reads during a call in a native test: the plugin's state, the attributes of sessions, and the span of
//! the call.

use crate::{SessionId, bindings::imports::gateway::policy::tracing::Context};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    mem,
};

/// The entries and the attributes that a call can read.
#[derive(Default)]
pub(crate) struct Reads {
    pub(super) entries: BTreeMap<String, Vec<u8>>,
    pub(super) attributes: HashMap<SessionId, HashMap<String, String>>,
    /// The span of each call.
    pub(super) span: Option<Context>,
    /// The traces that the plugin has named.
    pub(super) joined: Vec<Context>,
}

std::thread_local! {
    /// The reads of the call that this thread makes.
    static CURRENT: RefCell<Option<Reads>> = const { RefCell::new(None) };
}

/// Makes a call during which the functions of this module read `reads`.
pub(super) fn during<R>(reads: &mut Reads, call: impl FnOnce() -> R) -> R {
    CURRENT.set(Some(mem::take(reads)));
    let result = call();
    *reads = CURRENT.take().unwrap_or_default();
    result
}

/// Implements [`state::get`](crate::state::get).
pub(crate) fn entry(key: &str) -> Option<Vec<u8>> {
    read(|reads| reads.entries.get(key).cloned())
}

/// Implements [`state::scan`](crate::state::scan).
pub(crate) fn entries(prefix: &str, max: u32) -> Vec<(String, Vec<u8>)> {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let from = prefix.to_owned();
    read(|reads| {
        let entries = reads.entries.range(from..).take_while(|(key, _)| key.starts_with(prefix)).take(max);
        entries.map(|(key, value)| (key.clone(), value.clone())).collect()
    })
}

/// Implements [`attributes::get`](crate::attributes::get).
pub(crate) fn attribute(session: SessionId, name: &str) -> Option<String> {
    read(|reads| reads.attributes.get(&session)?.get(name).cloned())
}

/// Implements [`tracing::current`](crate::tracing::current).
pub(crate) fn span() -> Option<Context> {
    CURRENT.with_borrow(|reads| reads.as_ref()?.span)
}

/// Implements [`tracing::join`](crate::tracing::join). `configure` belongs to no trace.
pub(crate) fn join(context: Context) {
    CURRENT.with_borrow_mut(|reads| {
        if let Some(reads) = reads {
            reads.joined.push(context);
        }
    });
}

fn read<R>(read: impl FnOnce(&Reads) -> R) -> R {
    CURRENT.with_borrow(|reads| {
        let reads = reads.as_ref();
        read(reads.expect("state and attributes can be read in the calls of a `Harness`, but not in `configure`"))
    })
}
