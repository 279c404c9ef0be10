//! What topics of users cost: a session that listens to one, a fleet of two gateways, and the subscription to all topics
//! after a break.

use std::collections::BTreeMap;
use std::io::{Write, stderr};
use std::ops::RangeInclusive;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chat_proto::chat::{ChatRequest, ChatResponse};
use chat_proto::common::MessageBase;
use prost::Message;

use crate::bus::{Backend, Bus, Redis, wait};
use crate::cluster;
use crate::contender::Folders;
use crate::limits::sum;
use crate::measured::quantile;
use crate::player::Player;
use crate::server::{Server, ask};

/// The topics that each session listens to before the break of the subscription.
const TOPICS_PER_SESSION: u32 = 5;

/// The turns of each round, in each of which deliveries with one gateway are compared with those with two.
const TURNS: u32 = 12;

/// The deliveries in a second for each gateway, the publishes of one write for each gateway, and the writes of a window.
const RATE: u32 = 10_000;
const BATCH: u32 = 100;
const BATCHES: u32 = 40;

/// The bytes of a delivery.
const DELIVERY: usize = 64;

/// The route of the plugin `chat`, and that of the plugin `probe` of the tests.
const CHAT: u8 = 1;
const PROBE: u8 = 0x70;

/// The figures of each round.
#[derive(Default)]
pub(crate) struct Fleet {
    /// The sessions of the measurements with one gateway.
    pub(crate) sessions: u32,
    /// The users on each gateway of the measurement with two.
    pub(crate) users: u32,
    /// The processor time of a connect and a bind in µs: without a topic on Redis, and with one.
    pub(crate) bind: Vec<[f64; 2]>,
    /// The processor time of the gateways for a delivery in µs, for each turn: with one gateway, and with two.
    pub(crate) delivery: Vec<[f64; 2]>,
    /// The processor time of the gateway for a delivery in µs, for each turn: with one Redis, and with a Cluster.
    pub(crate) cluster: Vec<[f64; 2]>,
    /// For the subscription to all topics after a break: the time and the processor time of Redis, in ms.
    pub(crate) resubscribe: Vec<[f64; 2]>,
}

impl Fleet {
    /// Measures everything.
    pub(crate) fn measure(
        folders: &Folders,
        redis: u16,
        (sessions, users): (u32, u32),
        rounds: u32,
    ) -> anyhow::Result<Self> {
        let mut fleet = Self { sessions, users, ..Self::default() };
        for round in 1..=rounds {
            let bind = [bind(folders, redis, sessions, false)?, bind(folders, redis, sessions, true)?];
            let delivery = with_second(folders, redis, users)?;
            let cluster = in_cluster(folders, redis, users)?;
            let resubscribe = resubscribe(folders, redis, sessions)?;
            writeln!(
                stderr(),
                "gateways ({round} of {rounds}): bind {bind:.1?}, delivery {:.2?}, in a Cluster {:.2?}, resubscribe \
                 {resubscribe:.0?}",
                medians(&delivery),
                medians(&cluster)
            )?;
            fleet.bind.push(bind);
            fleet.delivery.extend(delivery);
            fleet.cluster.extend(cluster);
            fleet.resubscribe.push(resubscribe);
        }
        Ok(fleet)
    }

    /// The number of topics that are subscribed to after a break.
    pub(crate) fn topics(&self) -> u32 {
        self.sessions * TOPICS_PER_SESSION
    }
}

/// The medians of both figures.
pub(crate) fn medians(rounds: &[[f64; 2]]) -> [Option<f64>; 2] {
    [0, 1].map(|place| {
        let mut values: Vec<_> = rounds.iter().map(|round| round[place]).collect();
        values.sort_by(f64::total_cmp);
        quantile(&values, 0.5)
    })
}

/// The median of the quotients of both figures.
pub(crate) fn ratio(rounds: &[[f64; 2]]) -> Option<f64> {
    let mut ratios: Vec<_> = rounds.iter().map(|[without, with]| with / without).collect();
    ratios.sort_by(f64::total_cmp);
    quantile(&ratios, 0.5)
}

/// Returns the processor time of the gateway for each client that connects and is bound to a user, in µs.
fn bind(folders: &Folders, redis: u16, users: u32, listens: bool) -> anyhow::Result<f64> {
    let bus = Bus::Standalone(redis);
    let server = Server::with_probe(folders, &bus)?;
    let cpu = server.cpu()?;
    let request = |user| {
        let listen = if listens { format!("; listen broadcast:user:{user}") } else { String::new() };
        format!("bind {user}{listen}").into_bytes()
    };
    let players = Player::connect_all(server.port, 1..=users, PROBE, request)?;
    bus.subscribed(if listens { users } else { 0 })?;
    let cpu = server.cpu()? - cpu;
    drop(players);
    Ok(cpu.as_secs_f64() * 1e6 / f64::from(users))
}

/// Measures deliveries to the users of one gateway and to those of two, in turns, while both are there. Returns the
/// processor time of all gateways for each delivery in µs, for each turn. Each gateway delivers at the same rate.
fn with_second(folders: &Folders, redis: u16, users: u32) -> anyhow::Result<Vec<[f64; 2]>> {
    let bus = Bus::Standalone(redis);
    let mut stage = Stage::default();
    for gateway in 0..2 {
        stage.add(folders, &bus, gateway * users + 1..=(gateway + 1) * users)?;
    }
    bus.subscribed(2 * users)?;
    turns(|gateways| stage.deliver(&bus, 1..=gateways as u32 * users, gateways as u32 * BATCH))
}

/// Measures deliveries over one Redis and over a Cluster, in turns, with a gateway for each. Returns the processor time
/// for each delivery in µs, for each turn.
fn in_cluster(folders: &Folders, redis: u16, users: u32) -> anyhow::Result<Vec<[f64; 2]>> {
    let (_servers, cluster) = cluster::start(folders)?;
    let buses = [Bus::Standalone(redis), cluster];
    let mut stage = Stage::default();
    let users = [1..=users, users + 1..=2 * users];
    for (bus, users) in buses.iter().zip(&users) {
        stage.add(folders, bus, users.clone())?;
        bus.subscribed(users.clone().count() as u32)?;
    }
    turns(|bus| stage.deliver(&buses[bus - 1], users[bus - 1].clone(), BATCH))
}

/// Measures the cases 1 and 2 in turns.
fn turns(mut measure: impl FnMut(usize) -> anyhow::Result<f64>) -> anyhow::Result<Vec<[f64; 2]>> {
    let mut turns = Vec::new();
    for turn in 0..TURNS {
        let mut figures = [0.0; 2];
        for case in if turn % 2 == 0 { [1, 2] } else { [2, 1] } {
            figures[case - 1] = measure(case)?;
        }
        turns.push(figures);
    }
    Ok(turns)
}

/// Gateways with `chat`, and their players.
#[derive(Default)]
struct Stage {
    servers: Vec<Server>,
    players: BTreeMap<u32, Player>,
}

impl Stage {
    /// Starts a gateway, and connects the players of these users.
    fn add(&mut self, folders: &Folders, bus: &Bus, users: RangeInclusive<u32>) -> anyhow::Result<()> {
        let request = |user: u32| {
            let base = MessageBase { game_id: "mmo".to_owned(), user_id: user as i32, timestamp: 0 };
            ChatRequest { base: Some(base), ..ChatRequest::default() }.encode_to_vec()
        };
        let server = Server::with_chat(folders, bus, &format!("gateway-{}", self.servers.len()))?;
        self.players.append(&mut Player::connect_all(server.port, users, CHAT, request)?);
        self.servers.push(server);
        Ok(())
    }

    /// Delivers to these users, `batch` deliveries at once. Returns the processor time of all gateways for each delivery
    /// in µs.
    fn deliver(&mut self, bus: &Bus, users: RangeInclusive<u32>, batch: u32) -> anyhow::Result<f64> {
        let (before, expected) = (self.cpu()?, self.written()? + f64::from(batch * BATCHES));
        let sent = publish(&mut bus.backend()?, users, batch)?;
        wait("not all deliveries are made", || Ok(self.written()? >= expected))?;
        let used = self.cpu()? - before;
        for user in &sent {
            self.players.get_mut(user).context("no such user")?.packet()?;
        }
        Ok(used.as_secs_f64() * 1e6 / sent.len() as f64)
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        self.servers.iter().map(Server::cpu).sum()
    }

    fn written(&self) -> anyhow::Result<f64> {
        let count = |server: &Server| Ok(sum(&ask(server.admin, "/metrics")?, "gateway_messages_sent_total"));
        self.servers.iter().map(count).sum()
    }
}

/// Publishes to users in a mixed order, at an even rate. Returns the users.
fn publish(backend: &mut Backend, users: RangeInclusive<u32>, batch: u32) -> anyhow::Result<Vec<u32>> {
    let payload = ChatResponse { success: true, error_message: "x".repeat(DELIVERY - 4), ..ChatResponse::default() };
    let payload = payload.encode_to_vec();
    let (first, count) = (*users.start(), users.count() as u64);
    let mut sent = Vec::new();
    let begin = Instant::now();
    for number in 0..BATCHES {
        let due = begin + Duration::from_secs(1) * number * BATCH / RATE;
        sleep(due.saturating_duration_since(Instant::now()));
        for i in 0..batch {
            // The step is a prime number, so the order is mixed and each user has the same number of deliveries.
            let user = (u64::from(number * batch + i) * 7919 % count) as u32 + first;
            backend.add(&format!("broadcast:user:{user}"), &payload)?;
            sent.push(user);
        }
        backend.send()?;
    }
    Ok(sent)
}

/// Breaks the subscription of a gateway whose sessions listen to many topics. Returns the time until Redis has subscribed
/// the gateway to all of them again, and the processor time of Redis, in ms.
fn resubscribe(folders: &Folders, redis: u16, users: u32) -> anyhow::Result<[f64; 2]> {
    let bus = Bus::Standalone(redis);
    let server = Server::with_probe(folders, &bus)?;
    let request = |user| {
        let listen = |number| format!("listen broadcast:user:{user}:{number}; ");
        (0..TOPICS_PER_SESSION).map(listen).collect::<String>().into_bytes()
    };
    let players = Player::connect_all(server.port, 1..=users, PROBE, request)?;
    let topics = users * TOPICS_PER_SESSION;
    bus.subscribed(topics)?;
    let mut connection = Redis::connect(redis)?;
    let cpu = connection.cpu()?;
    let begin = Instant::now();
    connection.socket.get_mut().write_all(b"CLIENT KILL TYPE pubsub\r\n")?;
    ensure!(connection.line()? == ":1", "there is another subscriber");
    bus.subscribed(topics)?;
    let is_up = || Ok(ask(server.admin, "/metrics")?.contains("\ngateway_bus_connected 1\n"));
    wait("the gateway is not connected again", is_up)?;
    let (time, cpu) = (begin.elapsed(), connection.cpu()? - cpu);
    drop(players);
    Ok([time.as_secs_f64() * 1e3, cpu * 1e3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_those_of_each_figure() {
        assert_eq!(medians(&[[3.0, 1.0], [1.0, 5.0], [2.0, 9.0]]), [Some(2.0), Some(5.0)]);
        assert_eq!(medians(&[]), [None, None]);
        assert_eq!(ratio(&[[1.0, 2.0], [10.0, 11.0], [4.0, 6.0]]), Some(1.5));
    }
}
