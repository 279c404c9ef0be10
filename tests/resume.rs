//! Tests of sessions that outlive their connections: what a client gets when it comes back, who may come back, and what
//! ends a session whose client is away.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "resume/bounds.rs"]
mod bounds;
#[path = "resume/crowd.rs"]
mod crowd;
#[path = "resume/handovers.rs"]
mod handovers;
#[path = "resume/presence.rs"]
mod presence;
#[path = "resume/returns.rs"]
mod returns;
#[path = "resume/room.rs"]
mod room;
#[path = "resume/stops.rs"]
mod stops;
#[path = "resume/strangers.rs"]
mod strangers;

use gateway_proto::Welcome;
use gateway_tests::{Client, Gateway, Packet, Redis, Setup, eventually, probe};

/// The route of the plugin `probe`.
const ROUTE: u8 = 0x70;

/// Returns a setup with the plugin `probe` and this section `resume`.
fn setup(resume: &str) -> Setup {
    let yaml = format!("resume: {{ {resume} }}\nplugins: {{ directory: plugins }}");
    Setup { yaml, files: vec![("probe.wasm", probe())], ..Setup::default() }
}

async fn start(resume: &str) -> Gateway {
    Gateway::start(setup(resume)).await
}

/// Starts a Redis and gateways with this section `resume` and these keys of `server`, and waits until they have subscribed.
async fn start_with_redis<const N: usize>(resume: &str, server: &str) -> (Redis, [Gateway; N]) {
    let redis = Redis::start().await;
    let mut gateways = Vec::new();
    for _ in 0..N {
        let setup = Setup::redis(&redis);
        let yaml = format!("resume: {{ {resume} }}\n{}", setup.yaml);
        gateways.push(Gateway::start(Setup { yaml, server: server.to_owned(), ..setup }).await);
    }
    redis.subscribers_are("broadcast", N).await;
    (redis, gateways.try_into().ok().unwrap())
}

/// A client that keeps account of what it has received in its session.
struct Player {
    client: Client,
    /// The number of the last push.
    seen: u32,
    /// The number of replies.
    replies: u64,
}

impl Player {
    /// Begins a session of the user.
    async fn begin(gateway: &Gateway, user: u32) -> Self {
        let client = Client::connect_to(gateway.address, &format!("/ws?user={user}")).await;
        assert!(!client.welcome.resumed && !client.welcome.resume_token.is_empty(), "{:?}", client.welcome);
        Self { client, seen: 0, replies: 0 }
    }

    fn welcome(&self) -> &Welcome {
        &self.client.welcome
    }

    /// Returns the path with which the client comes back.
    fn path(&self) -> String {
        let Self { client, seen, replies } = self;
        format!("/ws?resume={}&seen={seen}&replies={replies}", client.welcome.resume_token)
    }

    /// Comes back. The old connection stays open if `old` is kept.
    async fn come_back(&mut self, gateway: &Gateway) -> Client {
        let client = Client::connect_to(gateway.address, &self.path()).await;
        std::mem::replace(&mut self.client, client)
    }

    /// Breaks the connection, waits until the gateway has noticed, and comes back.
    async fn return_after_break(&mut self, gateway: &Gateway) {
        self.leave(gateway).await;
        drop(self.come_back(gateway).await);
    }

    /// Breaks the connection, and waits until the gateway has noticed.
    async fn leave(&mut self, gateway: &Gateway) {
        let parked = gateway.metric("gateway_sessions_parked").await;
        self.client.cut().await;
        gateway.metric_is("gateway_sessions_parked", parked + 1.0).await;
    }

    /// Receives a packet, and keeps account of it.
    async fn receive(&mut self) -> Packet {
        let packet = self.client.receive_any().await;
        if packet.flags & 1 != 0 {
            self.replies += 1;
        } else if packet.seq != 0 {
            self.seen = packet.seq;
        }
        packet
    }

    /// Receives a push with this number and text.
    async fn gets(&mut self, seq: u32, text: &str) {
        let push = self.receive().await;
        assert_eq!((push.seq, push.route, push.flags & 1, push.text()), (seq, ROUTE, 0, text), "{push:?}");
    }

    /// Receives a reply with this seq and text.
    async fn gets_reply(&mut self, seq: u32, text: &str) {
        let reply = self.receive().await;
        assert_eq!((reply.seq, reply.flags & 1, reply.status, reply.text()), (seq, 1, 0, text), "{reply:?}");
    }

    /// Lets the plugin run a script, and returns its output. Fails if another packet arrives before the reply.
    async fn ask(&mut self, script: &str) -> String {
        let seq = self.client.send(ROUTE, script.as_bytes()).await;
        let reply = self.receive().await;
        assert_eq!((reply.seq, reply.flags & 1, reply.status), (seq, 1, 0), "{script}: {reply:?}");
        reply.text().to_owned()
    }

    /// Sends a push with each text to the user.
    async fn tell(&mut self, user: u32, texts: &[&str]) {
        for text in texts {
            self.ask(&format!("deliver user:{user} always {text}")).await;
        }
    }
}

/// Waits until the gateway has this number of sessions.
async fn sessions_are(gateway: &Gateway, sessions: f64) {
    eventually(&format!("{sessions} sessions"), || async {
        (gateway.metric("gateway_sessions").await.to_bits() == sessions.to_bits()).then_some(())
    })
    .await;
}

/// Returns the metric of resumes with this outcome.
fn resumes(outcome: &str) -> String {
    format!("gateway_resumes_total{{outcome={outcome:?}}}")
}

/// Returns the metric of sessions that ended for this reason while their clients were away.
fn not_resumed(reason: &str) -> String {
    format!("gateway_sessions_not_resumed_total{{reason={reason:?}}}")
}
