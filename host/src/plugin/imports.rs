//! The interfaces that plugins import, besides WASI: the log, their state, the attributes of sessions, and the trace of a
//! call.

use super::{
    bindings::{Level, SessionId},
    kept::{MAX_READS, Reading},
    state::State,
};
use crate::traces;
use std::{mem, sync::Arc};
use wasmtime::{
    Error, Result, StoreContextMut,
    component::{ComponentType, Lift, Linker, Lower},
};

/// The import for the plugin's log, in every version of the interface.
pub const LOG: &str = "gateway:policy/log";
/// The import that only carries types.
pub(super) const TYPES: &str = "gateway:policy/types";
/// The import for the plugin's state.
pub const STATE: &str = "gateway:policy/state";
/// The import for the attributes of sessions.
pub const ATTRIBUTES: &str = "gateway:policy/attributes";

/// The import for the trace of a call.
pub const TRACING: &str = "gateway:policy/tracing";

/// The maximum number of entries that one scan returns.
const MAX_SCANNED: usize = 10_000;

/// Defines an interface under the exact name in the component's import, including the version.
///
/// Imports without a definition of exactly the same name become traps. If only the name with the offered version were
/// defined, the log of a plugin that was built against an earlier version would trap.
pub(super) fn define(linker: &mut Linker<State>, import: &str) -> Result<()> {
    match import.split_once('@').map_or(import, |(name, _)| name) {
        LOG => linker.instance(import)?.func_wrap("write", write),
        STATE => {
            linker.instance(import)?.func_wrap("get", get)?;
            linker.instance(import)?.func_wrap("scan", scan)
        }
        ATTRIBUTES => linker.instance(import)?.func_wrap("get", attribute),
        TRACING => {
            linker.instance(import)?.func_wrap("current", current)?;
            linker.instance(import)?.func_wrap("join", join)
        }
        _ => Ok(()),
    }
}

fn write(mut store: StoreContextMut<'_, State>, (level, message): (Level, String)) -> Result<()> {
    store.data_mut().write(level, &message);
    Ok(())
}

fn get(mut store: StoreContextMut<'_, State>, (key,): (String,)) -> Result<(Option<Arc<[u8]>>,)> {
    let Reading { kept, reads, now, .. } = reading(&mut store)?;
    Ok((kept.store.get(&key, *now, reads),))
}

/// The entries of a scan, as the guest receives them.
type Scanned = Vec<(Arc<str>, Arc<[u8]>)>;

fn scan(mut store: StoreContextMut<'_, State>, (prefix, max): (String, u32)) -> Result<(Scanned,)> {
    let max = usize::try_from(max).unwrap_or(usize::MAX).min(MAX_SCANNED);
    let max_bytes = store.data().limits().memory;
    let Reading { kept, reads, now, count, .. } = reading(&mut store)?;
    let scanned = kept.store.scan(&prefix, max, max_bytes, *now, reads);
    *count += scanned.len();
    Ok((scanned,))
}

/// A session id as the import of attributes has it.
#[derive(ComponentType, Lift)]
#[component(record)]
struct Session {
    high: u64,
    low: u64,
}

fn attribute(mut store: StoreContextMut<'_, State>, (session, name): (Session, String)) -> Result<(Option<String>,)> {
    let Reading { kept, .. } = reading(&mut store)?;
    let Session { high, low } = session;
    Ok((kept.attributes.attribute(SessionId { high, low }, &name),))
}

/// The record `trace-id` of the interface.
#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct TraceId {
    high: u64,
    low: u64,
}

/// The record `context` of the interface.
#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Context {
    #[component(name = "trace-id")]
    trace: TraceId,
    #[component(name = "span-id")]
    span: u64,
    sampled: bool,
}

fn current(mut store: StoreContextMut<'_, State>, (): ()) -> Result<(Option<Context>,)> {
    let context = store.data_mut().tracing().span.as_ref().map(|span| {
        let (trace, span) = (span.context().trace_id().to_bytes(), span.context().span_id().to_bytes());
        let trace = u128::from_be_bytes(trace);
        let trace = TraceId { high: (trace >> 64) as u64, low: trace as u64 };
        Context { trace, span: u64::from_be_bytes(span), sampled: true }
    });
    Ok((context,))
}

/// Puts the call into a trace. An id of 0 is invalid, and W3C demands that such a context is ignored.
fn join(mut store: StoreContextMut<'_, State>, (context,): (Context,)) -> Result<()> {
    let state = store.data_mut();
    let Some(kept) = state.reading().filter(|reading| reading.is_open).map(|reading| Arc::clone(&reading.kept)) else {
        return Ok(());
    };
    let Some(tracer) = kept.traces.tracer() else { return Ok(()) };
    let Context { trace: TraceId { high, low }, span, sampled } = context;
    let trace = u128::from(high) << 64 | u128::from(low);
    if let Some(remote) = traces::context(trace, span, sampled, traces::TraceState::default())
        && !mem::replace(&mut state.tracing().has_joined, true)
    {
        let span = &mut state.tracing().span;
        *span = tracer.join(&remote, span.is_some()).map(Box::new);
    }
    Ok(())
}

/// Returns what the current call reads. `describe` and `configure` may not read, because nothing would check their
/// reads later.
fn reading<'a>(store: &'a mut StoreContextMut<'_, State>) -> Result<&'a mut Reading> {
    let reading = store.data_mut().reading().filter(|reading| reading.is_open);
    let reading = reading.ok_or_else(|| Error::msg("`describe` and `configure` may not read state or attributes"))?;
    reading.count += 1;
    if reading.count > MAX_READS {
        return Err(Error::msg(format!("a call may read at most {MAX_READS} entries and attributes")));
    }
    Ok(reading)
}
