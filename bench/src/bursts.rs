//! What a burst of bus messages costs, on one thread and on all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use chat_proto::chat::ChatResponse;
use gateway::bus::{Handler, Message};
use gateway::config::Config;
use gateway::routing::gateway::{Gateway, Served};
use gateway_bench::{chat_request, in_process};
use gateway_wire::packet::{Header, ROUTE_CHAT};
use prost::Message as _;
use tokio::runtime::{Builder, Runtime};

use crate::contender::Folders;

/// The number of messages that arrive together. They have about the size of one read from Redis.
const BURST: usize = 512;

/// The number of bursts that are timed with each number of threads. It is odd, so that the median is one of them.
const BURSTS: usize = 501;

/// The route of the plugin `probe` of the tests.
const ROUTE_PROBE: u8 = 0x70;

/// The cost of the messages of a burst, for one plugin.
pub(crate) struct Burst {
    pub(crate) plugin: &'static str,
    /// The time of a message with one thread, and with all threads, in µs.
    pub(crate) micros: [f64; 2],
}

/// What a plugin is measured with.
struct Load {
    plugin: &'static str,
    file: &'static str,
    /// The packet that binds its session to the user 1.
    packet: Bytes,
    /// A message that is delivered to the user 1.
    message: Bytes,
}

/// Returns the number of threads, and the cost for a plugin whose calls are short and for one whose calls are long.
///
/// It is the time from the arrival of the messages to the last packet in the send queue of a session. The bursts on one
/// thread and on all threads take turns.
pub(crate) fn measure(folders: &Folders) -> anyhow::Result<(usize, Vec<Burst>)> {
    let packet = |route, payload: &[u8]| Bytes::from([&Header::request(0, route).encode()[..], payload].concat());
    let response = ChatResponse { target_user_id: 1, error_message: "x".repeat(60), ..ChatResponse::default() };
    let chat = Load {
        plugin: "chat",
        file: "chat.wasm",
        packet: packet(ROUTE_CHAT, &chat_request()),
        message: response.encode_to_vec().into(),
    };
    let probe = Load {
        plugin: "probe",
        file: "probe.wasm",
        packet: packet(ROUTE_PROBE, b"bind 1"),
        message: Bytes::from_static(b"repeat 20 say something; deliver user:1 always hello"),
    };
    let threads = thread::available_parallelism()?.get();
    let alone = Builder::new_multi_thread().worker_threads(1).build()?;
    let together = Builder::new_multi_thread().worker_threads(threads).build()?;
    let measure = |load: Load, folder: PathBuf| {
        let micros = load.measure(&folder.join(load.file), [&alone, &together])?;
        anyhow::Ok(Burst { plugin: load.plugin, micros })
    };
    Ok((threads, vec![measure(chat, folders.plugins())?, measure(probe, folders.probe()?)?]))
}

impl Load {
    fn measure(&self, file: &Path, runtimes: [&Runtime; 2]) -> anyhow::Result<[f64; 2]> {
        let yaml = "games: [{ id: mmo }]\nplugins: { settings: { probe: { config: { topics: [broadcast] } } } }";
        let config = Config::parse(yaml).map_err(|errors| anyhow!(errors.join("; ")))?;
        let gateway = in_process::gateway(&config, &[file])?;
        let session = in_process::session(&gateway, &config)?;
        // The first calls of a generation are offloaded.
        while let Served::Offloaded(offloaded) = gateway.on_packet(&session, self.packet.clone()) {
            offloaded.blocking_recv()?;
        }
        ensure!(session.user() == Some(1), "the session is not bound");
        let mut micros = [const { Vec::new() }; 2];
        for _ in 0..BURSTS {
            for (runtime, micros) in runtimes.iter().zip(&mut micros) {
                drop(in_process::drained(&session));
                micros.push(runtime.block_on(runtime.spawn(burst(Arc::clone(&gateway), self.message.clone())))??);
                let delivered = in_process::drained(&session).len();
                ensure!(delivered == BURST, "{delivered} of {BURST} messages are delivered");
            }
        }
        Ok(micros.map(|mut micros| {
            micros.sort_by(f64::total_cmp);
            micros[BURSTS / 2]
        }))
    }
}

/// Hands over a burst, and returns the time of a message in µs.
async fn burst(gateway: Arc<Gateway>, body: Bytes) -> anyhow::Result<f64> {
    let message = || Message { topic: "broadcast".to_owned(), body: body.clone(), cause: None, is_entry: false };
    let messages = (0..BURST).map(|_| message()).collect();
    let began = Instant::now();
    let unheard = gateway.messages(messages).await;
    let micros = began.elapsed().as_secs_f64() * 1e6 / BURST as f64;
    ensure!(unheard.is_empty(), "nobody hears {} of {BURST} messages", unheard.len());
    Ok(micros)
}
