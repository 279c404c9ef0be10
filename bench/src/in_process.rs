//! A gateway in this process, with plugins and sessions and without sockets and bus.

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};

use anyhow::{anyhow, ensure};
use gateway::bus::Queue;
use gateway::config::Config;
use gateway::delivery::outbox::{Outgoing, Writer};
use gateway::delivery::registry::Registered;
use gateway::delivery::session::Session;
use gateway::plugin::offload::OffloadThread;
use gateway::plugin::{Compiler, Described, Keeper, Plugin};
use gateway::routing::gateway::Gateway;
use gateway::telemetry::metrics::Metrics;
use tokio::net::TcpStream;

/// Returns the configuration: the defaults, and the game `mmo`.
///
/// # Errors
/// Fails if the gateway does not accept it.
pub fn config() -> anyhow::Result<Config> {
    Config::parse("games: [{ id: mmo }]").map_err(|errors| anyhow!(errors.join("; ")))
}

/// Starts a gateway with the plugins of these files.
///
/// # Errors
/// Fails if a plugin cannot be read or started.
pub fn gateway(config: &Config, files: &[impl AsRef<Path>]) -> anyhow::Result<Arc<Gateway>> {
    let metrics = Arc::new(Metrics::new());
    // No bus takes publishes out of the queue, which has room for all of them.
    let queue = Arc::<Queue<_>>::default();
    let gateway = Arc::new(Gateway::new(Arc::clone(&metrics), queue, config.server.max_message_bytes));
    let compiler = Compiler::new().map_err(|error| anyhow!("{error:#}"))?;
    let start = |file: &_| {
        let bytes = fs::read(AsRef::<Path>::as_ref(file))?;
        let described = Arc::new(Described::load(&compiler, &bytes, config.largest_memory())?);
        let settings = config.plugin(&described.name, &described.routes);
        let kept = gateway.accounts.kept(&described.name);
        let offload_thread = Arc::new(OffloadThread::new(Arc::clone(&described.name)));
        anyhow::Ok(Arc::new(Plugin::start(described, settings, kept, offload_thread, &metrics)?))
    };
    gateway.install(files.iter().map(start).collect::<Result<_, _>>()?);
    Ok(gateway)
}

/// Begins a session.
///
/// # Errors
/// Fails if the gateway takes no more sessions.
pub fn session(gateway: &Gateway, config: &Config) -> anyhow::Result<Registered> {
    let session = Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), Arc::clone(&config.server.outbox));
    Ok(gateway.registry.admit(session)?)
}

/// Lets a session wait, as its task does, with a connection to the returned client. To be called in a runtime.
///
/// # Errors
/// Fails if the system does.
pub fn wait(session: &Session) -> anyhow::Result<std::net::TcpStream> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let client = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    let (_, write) = TcpStream::from_std(stream)?.into_split();
    let cx = Context::from_waker(Waker::noop());
    let poll = session.outbox.poll_drain(&cx, &mut VecDeque::new(), &mut Some(Writer::new(write)));
    ensure!(poll.is_pending(), "the session has something to do");
    Ok(client)
}

/// Takes what waits for a session.
#[must_use]
pub fn drained(session: &Session) -> Vec<Outgoing> {
    let (mut all, mut batch) = (Vec::new(), VecDeque::new());
    while session.outbox.poll_drain(&Context::from_waker(Waker::noop()), &mut batch, &mut None).is_ready() {
        all.extend(batch.drain(..));
    }
    all
}
