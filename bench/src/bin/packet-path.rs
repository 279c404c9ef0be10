//! `packet-path CHAT_WASM SYSTEM_WASM`: does each step of a packet's way a thousand times, so that callgrind can count the
//! instructions. `bench/tests/budget.rs` runs this program, and compares the counts with `bench/budget.txt`.

use std::env;
use std::hint::black_box;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use chat_proto::chat::ChatResponse;
use gateway::bus::Message as BusMessage;
use gateway::delivery::limits::{Limits, LiveLimits, Rates};
use gateway::delivery::outbox::Outgoing;
use gateway::delivery::registry::Registered;
use gateway::delivery::session::Session;
use gateway::net::budget::Budget;
use gateway::net::meter::{Meter, Verdict};
use gateway::net::receiver::Receiver;
use gateway::plugin::Action;
use gateway::routing::asked::Batch;
use gateway::routing::batches::MAX_PACKETS;
use gateway::routing::gateway::{Gateway, Served};
use gateway::routing::turn::Turn;
use gateway_bench::chat_request;
use gateway_bench::in_process::{config, drained, gateway, session, wait};
use gateway_wire::packet::{self, HEADER_LEN, Header, ROUTE_CHAT, ROUTE_SYSTEM};
use gateway_wire::websocket::{self, Opcode};
use prost::Message as _;

#[global_allocator]
static ALLOCATOR: gateway::memory::Allocator = gateway::memory::Allocator;

/// The number of times that each step is done.
const TIMES: usize = 1000;

/// The number of sessions that one message is for. It is written for so many by one thread.
const RECEIVERS: usize = 50;

fn main() -> anyhow::Result<()> {
    let files: Vec<_> = env::args().skip(1).collect();
    ensure!(files.len() == 2, "usage: packet-path CHAT_WASM SYSTEM_WASM");
    Stage::new(&files)?.run()
}

/// A gateway and a session, and what reads the session's frames.
struct Stage {
    gateway: Arc<Gateway>,
    session: Registered,
    receiver: Receiver,
}

impl Stage {
    fn new(files: &[String]) -> anyhow::Result<Self> {
        let config = config()?;
        let gateway = gateway(&config, files)?;
        let session = session(&gateway, &config)?;
        let budget = Arc::new(Budget::new(config.server.receive_budget_bytes, Arc::clone(&gateway.metrics)));
        let (limits, metrics) = (Arc::clone(&gateway.payload_limits), Arc::clone(&gateway.metrics));
        let receiver = Receiver::new(&config.server, budget.lease(Arc::clone(&session)), limits, metrics);
        Ok(Self { gateway, session, receiver })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let payload = chat_request();
        let [packet, heartbeat] = [ROUTE_CHAT, ROUTE_SYSTEM]
            .map(|route| Bytes::from([&Header::request(0, route).encode()[..], &payload].concat()));
        // The first calls of a generation are offloaded. They are done before the steps are counted.
        for packet in [&packet, &heartbeat] {
            while let Served::Offloaded(offloaded) = self.gateway.on_packet(&self.session, packet.clone()) {
                offloaded.blocking_recv()?;
            }
        }
        let _ = drained(&self.session);
        measured_header(&packet);
        let frames = frames(&packet);
        fill_free_lists(packet.len());
        // The list of a decision has one action.
        fill_free_lists(size_of::<Action>());
        measured_frame_in(&mut self.receiver, &frames)?;
        let limits = LiveLimits::default();
        limits.set(Limits { rates: Rates { packets_per_s: 1_000_000, bytes_per_s: 1 << 30 }, ..Limits::default() });
        ensure!(measured_limits(&limits, packet.len()) == TIMES, "packets are over the limit");
        measured_request(&self.gateway, &self.session, &packet);
        ensure!(self.session.user() == Some(1) && drained(&self.session).is_empty(), "the request is not served");
        let response = ChatResponse { target_user_id: 1, error_message: "x".repeat(60), ..ChatResponse::default() };
        measured_delivery(&self.gateway, &Bytes::from(response.encode_to_vec()));
        let deliveries = drained(&self.session);
        ensure!(deliveries.len() == TIMES, "{} deliveries", deliveries.len());
        let served = measured_heartbeat(&self.gateway, &self.session, &heartbeat);
        let answers = drained(&self.session).len();
        ensure!((served, answers) == (TIMES, TIMES), "{served} heartbeats are served, and {answers} answered");
        let served = measured_pipelined(&self.gateway, &self.session, &vec![heartbeat; MAX_PACKETS]);
        let answers = drained(&self.session).len();
        ensure!((served, answers) == (TIMES, TIMES), "{served} pipelined heartbeats are served, {answers} answered");
        measured_frame_out(&deliveries);
        self.fan_out(&Bytes::from(response.encode_to_vec()))
    }

    /// Counts a delivery to one of many sessions of a user.
    fn fan_out(&self, message: &Bytes) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _in_runtime = runtime.enter();
        let mut others = Vec::new();
        for _ in 1..RECEIVERS {
            let other = session(&self.gateway, &config()?)?;
            self.gateway.registry.bind(&other, 1)?;
            others.push(other);
        }
        let sessions = || others.iter().chain([&self.session]);
        let clients = sessions().map(|session| wait(session)).collect::<anyhow::Result<Vec<_>>>()?;
        // The runtime notices that the connections can be written to.
        runtime.block_on(tokio::time::sleep(Duration::from_millis(10)));
        measured_fan_out(&self.gateway, message);
        ensure!(sessions().all(|session| session.outbox.waiting() == (0, 0)), "not everything is written");
        let frame = HEADER_LEN + 2 + message.len();
        let mut received = vec![0; frame * TIMES / RECEIVERS];
        clients.into_iter().try_for_each(|mut client| client.read_exact(&mut received))?;
        Ok(())
    }
}

/// Takes a message of the bus to the connections of all sessions of its user, whose tasks wait.
#[inline(never)]
fn measured_fan_out(gateway: &Arc<Gateway>, message: &Bytes) {
    for _ in 0..TIMES / RECEIVERS {
        let message = BusMessage { topic: "broadcast".to_owned(), body: message.clone(), cause: None, is_entry: false };
        let mut turn = Turn::new(&gateway.metrics);
        black_box(turn.run(|| gateway.on_message(&message)));
        turn.end();
    }
}

/// Reads a header, and writes the header of its reply.
#[inline(never)]
fn measured_header(packet: &Bytes) {
    for _ in 0..TIMES {
        if let Ok((header, payload)) = packet::parse(black_box(packet).clone()) {
            black_box((header.reply(0).encode(), payload));
        }
    }
}

/// Reads the packet in a masked frame.
#[inline(never)]
fn measured_frame_in(receiver: &mut Receiver, mut frames: &[u8]) -> anyhow::Result<()> {
    for _ in 0..TIMES {
        black_box(receiver.next(&mut frames)?);
    }
    Ok(())
}

/// Checks a packet against the limits of its session, if it arrives alone. Packets that arrive together share the look at
/// the limits and the clock. Without limits, only that look is left.
#[inline(never)]
fn measured_limits(limits: &LiveLimits, bytes: usize) -> usize {
    let mut meter = Box::new(Meter::new(limits.rates()));
    let is_served = |_: &usize| {
        let rates = black_box(limits).rates();
        if rates.is_limited() {
            meter.begin(rates);
        }
        meter.packet(black_box(bytes)) == Verdict::Serve
    };
    (0..TIMES).filter(is_served).count()
}

/// Takes a packet to the publish that waits for the bus: header, route, the plugin's call, its actions.
#[inline(never)]
fn measured_request(gateway: &Arc<Gateway>, session: &Arc<Session>, packet: &Bytes) {
    for _ in 0..TIMES {
        black_box(gateway.on_packet(session, packet.clone()));
    }
}

/// Takes a packet to the answer in the session's send queue, with a plugin that only echoes.
#[inline(never)]
fn measured_heartbeat(gateway: &Arc<Gateway>, session: &Arc<Session>, packet: &Bytes) -> usize {
    (0..TIMES).filter(|_| matches!(gateway.on_packet(session, packet.clone()), Served::Done)).count()
}

/// Does the same for heartbeats that arrive together.
#[inline(never)]
fn measured_pipelined(gateway: &Arc<Gateway>, session: &Arc<Session>, packets: &[Bytes]) -> usize {
    let mut batch = None;
    let mut serve = |i: usize| {
        if batch.as_ref().is_none_or(Batch::is_used_up) {
            let left = packets.len().min(TIMES - i);
            batch = gateway.decide_together(session, packets[..left].iter());
        }
        matches!(gateway.on_packet_of(&mut batch, session, packets[0].clone()), Served::Done)
    };
    (0..TIMES).filter(|i| serve(*i)).count()
}

/// Takes a message of the bus to the packet in the session's send queue: the plugin's call, the registry, the queue.
#[inline(never)]
fn measured_delivery(gateway: &Arc<Gateway>, message: &Bytes) {
    for _ in 0..TIMES {
        let message = BusMessage { topic: "broadcast".to_owned(), body: message.clone(), cause: None, is_entry: false };
        black_box(gateway.on_message(&message));
    }
}

/// Writes the frame of a packet.
#[inline(never)]
fn measured_frame_out(deliveries: &[Outgoing]) {
    let mut out = Vec::new();
    for outgoing in deliveries {
        out.clear();
        black_box(outgoing).put_frame(&mut out);
        black_box(&out);
    }
}

/// Fills the allocator's free list for blocks of this size. If a single block is free, each allocation takes the slow
/// path, and how many blocks are free is a matter of chance.
fn fill_free_lists(bytes: usize) {
    let blocks: Vec<Vec<u8>> = (0..TIMES).map(|_| Vec::with_capacity(bytes)).collect();
    drop(black_box(blocks));
}

/// The frames of a client that sends the packet many times, each with another mask.
fn frames(packet: &Bytes) -> Vec<u8> {
    let mut frames = Vec::new();
    for mask in (0_u32..).take(TIMES) {
        websocket::put_masked(Opcode::Binary, packet, mask.to_be_bytes(), &mut frames);
    }
    frames
}
