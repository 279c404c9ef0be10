//! The interfaces of WASI 0.2 that the runtime of a plugin's language may import. They are stubs: there are no
//! arguments, no environment variables, no files and no network. Clocks and random numbers work. Output to stdout and
//! stderr becomes log lines.
//!
//! The wasmtime-wasi crate is not used, for two reasons. The crate's synchronous calls block on an async runtime, which
//! is impossible on a thread of that runtime. The stubs also contain no code that could reach files or sockets, so they
//! need no permission checks.

use super::{
    bindings::{AddressFamily, Datetime, IoError, NetworkError, StreamError},
    state::{Simulated, State},
};
use rand::RngCore;
use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use wasmtime::{
    Error, Result, StoreContextMut,
    component::{Linker, LinkerInstance, Resource, ResourceType},
};

struct InputStream;
struct OutputStream;
struct Pollable;
struct Descriptor;
struct TerminalInput;
struct TerminalOutput;
struct Network;
struct TcpSocket;
struct UdpSocket;
struct Addresses;

type Interface<'a> = LinkerInstance<'a, State>;
type Store<'a> = StoreContextMut<'a, State>;

/// The maximum number of bytes in one write, as WASI has it for `blocking-write-and-flush`. The deadline of a call does not
/// count the time in which the host looks for the lines.
const MAX_WRITE_BYTES: u64 = 4096;

/// The maximum number of bytes in one request for random bytes.
const MAX_RANDOM_BYTES: u64 = 64 * 1024;

/// The first words of the error for a guest that did something forbidden.
const FORBIDDEN_PREFIX: &str = "a policy may not";

/// The number that represents the resource of stdout.
const STDOUT: u32 = 1;

/// The number that represents the resource of stderr.
const STDERR: u32 = 2;

/// The zero of `wasi:clocks/monotonic-clock`. It is an arbitrary moment, as WASI permits.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Defines the interface that a component imports under the name `import`, such as `wasi:io/streams@0.2.6`. Functions
/// that are not defined here trap when they are called.
///
/// # Errors
/// Returns an error of the linker if a name is defined more than once.
pub(super) fn define(linker: &mut Linker<State>, import: &str) -> Result<()> {
    let mut interface = linker.instance(import)?;
    resources(&mut interface)?;
    let i = &mut interface;
    match import.split_once('@').map_or(import, |(name, _)| name) {
        "wasi:io/poll" => poll(i),
        "wasi:io/streams" => streams(i),
        "wasi:cli/environment" => environment(i),
        "wasi:cli/exit" => exit(i),
        "wasi:cli/stdin" => i.func_wrap("get-stdin", |_, ()| Ok((Resource::<InputStream>::new_own(0),))),
        "wasi:cli/stdout" => i.func_wrap("get-stdout", |_, ()| Ok((Resource::<OutputStream>::new_own(STDOUT),))),
        "wasi:cli/stderr" => i.func_wrap("get-stderr", |_, ()| Ok((Resource::<OutputStream>::new_own(STDERR),))),
        "wasi:cli/terminal-stdin" => absent::<TerminalInput>(i, "get-terminal-stdin"),
        "wasi:cli/terminal-stdout" => absent::<TerminalOutput>(i, "get-terminal-stdout"),
        "wasi:cli/terminal-stderr" => absent::<TerminalOutput>(i, "get-terminal-stderr"),
        "wasi:clocks/monotonic-clock" => monotonic_clock(i),
        "wasi:clocks/wall-clock" => wall_clock(i),
        "wasi:filesystem/preopens" => {
            i.func_wrap("get-directories", |_, ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))
        }
        "wasi:sockets/instance-network" => {
            i.func_wrap("instance-network", |_, ()| Ok((Resource::<Network>::new_own(0),)))
        }
        "wasi:sockets/tcp-create-socket" => no_socket::<TcpSocket>(i, "create-tcp-socket"),
        "wasi:sockets/udp-create-socket" => no_socket::<UdpSocket>(i, "create-udp-socket"),
        "wasi:sockets/ip-name-lookup" => i.func_wrap("resolve-addresses", |_, _: (Resource<Network>, String)| {
            Ok((Err::<Resource<Addresses>, _>(NetworkError::AccessDenied),))
        }),
        "wasi:random/random" => random(i, "get-random-bytes", "get-random-u64"),
        "wasi:random/insecure" => random(i, "get-insecure-random-bytes", "get-insecure-random-u64"),
        "wasi:random/insecure-seed" => {
            i.func_wrap("insecure-seed", |mut store: Store<'_>, ()| Ok(((next_u64(&mut store), next_u64(&mut store)),)))
        }
        _ => Ok(()),
    }
}

/// Defines every resource in an interface. An interface that uses the resource of another interface exports it as well,
/// so the same list serves all interfaces. Resources that a component does not import do no harm.
fn resources(i: &mut Interface) -> Result<()> {
    resource::<IoError>(i, "error")?;
    resource::<Pollable>(i, "pollable")?;
    resource::<InputStream>(i, "input-stream")?;
    resource::<OutputStream>(i, "output-stream")?;
    resource::<Descriptor>(i, "descriptor")?;
    resource::<TerminalInput>(i, "terminal-input")?;
    resource::<TerminalOutput>(i, "terminal-output")?;
    resource::<Network>(i, "network")?;
    resource::<TcpSocket>(i, "tcp-socket")?;
    resource::<UdpSocket>(i, "udp-socket")?;
    resource::<Addresses>(i, "resolve-address-stream")
}

fn resource<T: 'static>(i: &mut Interface, name: &str) -> Result<()> {
    i.resource(name, ResourceType::host::<T>(), |_, _| Ok(()))
}

fn absent<T: 'static>(interface: &mut Interface, name: &str) -> Result<()> {
    interface.func_wrap(name, |_, ()| Ok((None::<Resource<T>>,)))
}

fn no_socket<T: 'static>(i: &mut Interface, name: &str) -> Result<()> {
    i.func_wrap(name, |_, _: (AddressFamily,)| Ok((Err::<Resource<T>, _>(NetworkError::AccessDenied),)))
}

/// Defines `wasi:io/poll`. Every pollable is ready at once, because a policy must answer without waiting.
fn poll(i: &mut Interface) -> Result<()> {
    i.func_wrap("[method]pollable.ready", |_, _: (Resource<Pollable>,)| Ok((true,)))?;
    i.func_wrap("[method]pollable.block", |_, _: (Resource<Pollable>,)| Ok(()))?;
    i.func_wrap("poll", |_, (all,): (Vec<Resource<Pollable>>,)| Ok(((0_u32..).take(all.len()).collect::<Vec<u32>>(),)))
}

fn streams(i: &mut Interface) -> Result<()> {
    for name in ["read", "blocking-read"] {
        i.func_wrap(&format!("[method]input-stream.{name}"), |_, _: (Resource<InputStream>, u64)| {
            Ok((Err::<Vec<u8>, _>(StreamError::Closed),))
        })?;
    }
    i.func_wrap("[method]output-stream.check-write", |_, _: (Resource<OutputStream>,)| {
        Ok((Ok::<_, StreamError>(MAX_WRITE_BYTES),))
    })?;
    for name in ["write", "blocking-write-and-flush"] {
        i.func_wrap(&format!("[method]output-stream.{name}"), write)?;
    }
    for name in ["flush", "blocking-flush"] {
        i.func_wrap(&format!("[method]output-stream.{name}"), |_, _: (Resource<OutputStream>,)| {
            Ok((Ok::<(), StreamError>(()),))
        })?;
    }
    i.func_wrap("[method]input-stream.subscribe", |_, _: (Resource<InputStream>,)| {
        Ok((Resource::<Pollable>::new_own(0),))
    })?;
    i.func_wrap("[method]output-stream.subscribe", |_, _: (Resource<OutputStream>,)| {
        Ok((Resource::<Pollable>::new_own(0),))
    })
}

fn write(
    mut store: Store<'_>,
    (stream, bytes): (Resource<OutputStream>, Vec<u8>),
) -> Result<(Result<(), StreamError>,)> {
    if bytes.len() as u64 > MAX_WRITE_BYTES {
        let len = bytes.len();
        return Err(Error::msg(format!(
            "{FORBIDDEN_PREFIX} write more than {MAX_WRITE_BYTES} bytes at once, and wrote {len}"
        )));
    }
    store.data_mut().stdio(stream.rep() == STDERR, &bytes);
    Ok((Ok(()),))
}

fn environment(i: &mut Interface) -> Result<()> {
    i.func_wrap("get-environment", |_, ()| Ok((Vec::<(String, String)>::new(),)))?;
    i.func_wrap("get-arguments", |_, ()| Ok((Vec::<String>::new(),)))?;
    i.func_wrap("initial-cwd", |_, ()| Ok((None::<String>,)))
}

fn exit(i: &mut Interface) -> Result<()> {
    i.func_wrap("exit", |_, (status,): (Result<(), ()>,)| -> Result<()> {
        Err(Error::msg(format!(
            "{FORBIDDEN_PREFIX} exit (with {})",
            if status.is_ok() { "success" } else { "failure" }
        )))
    })?;
    i.func_wrap("exit-with-code", |_, (code,): (u8,)| -> Result<()> {
        Err(Error::msg(format!("{FORBIDDEN_PREFIX} exit (with code {code})")))
    })
}

fn monotonic_clock(i: &mut Interface) -> Result<()> {
    i.func_wrap("now", |mut store: Store<'_>, ()| {
        let elapsed = match store.data_mut().simulated() {
            Some(simulated) => Duration::from_millis(simulated.now_ms),
            None => START.elapsed(),
        };
        Ok((u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),))
    })?;
    i.func_wrap("resolution", |_, ()| Ok((1_u64,)))?;
    for name in ["subscribe-instant", "subscribe-duration"] {
        i.func_wrap(name, |_, _: (u64,)| Ok((Resource::<Pollable>::new_own(0),)))?;
    }
    Ok(())
}

fn wall_clock(i: &mut Interface) -> Result<()> {
    i.func_wrap("now", |mut store: Store<'_>, ()| {
        let now = match store.data_mut().simulated() {
            Some(simulated) => Duration::from_millis(simulated.now_ms),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        Ok((Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() },))
    })?;
    i.func_wrap("resolution", |_, ()| Ok((Datetime { seconds: 0, nanoseconds: 1 },)))
}

fn random(i: &mut Interface, bytes: &str, number: &str) -> Result<()> {
    i.func_wrap(bytes, |mut store: Store<'_>, (len,): (u64,)| {
        if len > MAX_RANDOM_BYTES {
            return Err(Error::msg(format!(
                "{FORBIDDEN_PREFIX} ask for more than {MAX_RANDOM_BYTES} random bytes at once, and asked for {len}"
            )));
        }
        let mut bytes = vec![0; usize::try_from(len)?];
        match store.data_mut().simulated() {
            Some(simulated) => bytes.fill_with(|| simulated.next_u64().to_le_bytes()[0]),
            None => rand::rng().fill_bytes(&mut bytes),
        }
        Ok((bytes,))
    })?;
    i.func_wrap(number, |mut store: Store<'_>, ()| Ok((next_u64(&mut store),)))
}

fn next_u64(store: &mut Store<'_>) -> u64 {
    store.data_mut().simulated().map_or_else(|| rand::rng().next_u64(), Simulated::next_u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::described::DESCRIBE_LIMITS;
    use prometheus_client::metrics::gauge::Gauge;
    use wasmtime::{AsContextMut, Engine};

    #[test]
    fn a_write_has_the_size_that_wasi_permits() {
        let state = State::new("a".into(), DESCRIBE_LIMITS, Gauge::default(), None);
        let mut store = wasmtime::Store::new(&Engine::default(), state);
        let mut write = |len| write(store.as_context_mut(), (Resource::new_own(STDOUT), vec![b'\n'; len]));
        assert!(matches!(write(4096), Ok((Ok(()),))));
        let error = write(4097).map(drop).expect_err("a longer one").to_string();
        assert_eq!(error, "a policy may not write more than 4096 bytes at once, and wrote 4097");
    }
}
