//! What topics of users cost: a session that listens to one, a fleet of two gateways, and the subscription to all topics
//! after a break.

use std::collections::BTreeMap;
use std::io::{Write, stderr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chat_proto::chat::{ChatRequest, ChatResponse};
use chat_proto::common::MessageBase;
use prost::Message;

use crate::bus::{Backend, Bus, Redis, wait};
use crate::cluster;
use crate::contender::Folders;
use crate::measured::{mark, quantile};
use crate::player::Player;
use crate::server::{Server, ask};
use crate::table::{Table, cell, judged_quotient};

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

/// The largest allowed cost of a delivery with two gateways, as a multiple of its cost with one.
const SECOND_GATEWAY: f64 = 1.05;

/// What is measured with many topics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The processor time of a connect and a bind in µs: without a topic on Redis, and with one.
    Bind,
    /// The processor time of a delivery in µs: with one gateway, and with two.
    SecondGateway,
    /// The processor time of a delivery in µs: with one Redis, and with a Cluster.
    Cluster,
    /// The time and the processor time of Redis in ms, for the subscription to all topics after a break.
    Resubscribe,
}

/// One row of the tables: what is measured, and its figures.
pub(crate) struct Row {
    kind: Kind,
    /// The users on each gateway.
    users: u32,
    /// Two figures for each turn.
    turns: Vec<[f64; 2]>,
    /// Why rounds have no figures.
    faults: Vec<String>,
}

/// The rows, before anything is measured. There are `sessions` on a gateway that is alone, and `users` on each of two.
pub(crate) fn rows(sessions: u32, users: u32) -> [Row; 4] {
    let row = |kind, users| Row { kind, users, turns: Vec::new(), faults: Vec::new() };
    [
        row(Kind::Bind, sessions),
        row(Kind::SecondGateway, users),
        row(Kind::Cluster, users),
        row(Kind::Resubscribe, sessions),
    ]
}

impl Row {
    /// What is measured, in a few words.
    pub(crate) fn what(&self) -> &'static str {
        match self.kind {
            Kind::Bind => "a connect and a bind, with a topic of the user on Redis",
            Kind::SecondGateway => "a delivery to a user's topic, with a second gateway",
            Kind::Cluster => "a delivery to a user's topic, in a Cluster of three masters",
            Kind::Resubscribe => "subscribe to all topics again",
        }
    }

    /// Measures one round.
    pub(crate) fn measure(&mut self, folders: &Folders, redis: u16) -> anyhow::Result<()> {
        let measured = match self.kind {
            Kind::Bind => bind(folders, redis, self.users),
            Kind::SecondGateway => with_second(folders, redis, self.users),
            Kind::Cluster => in_cluster(folders, redis, self.users),
            Kind::Resubscribe => resubscribe(folders, redis, self.users),
        };
        match measured {
            Ok(turns) => {
                writeln!(stderr(), "{}", medians(&turns).map(|figure| cell(figure, 2)).join(" and "))?;
                self.turns.extend(turns);
            }
            Err(error) => {
                writeln!(stderr(), "{error:#}")?;
                self.faults.push(format!("{}: {error:#}", self.what()));
            }
        }
        Ok(())
    }

    /// What went wrong.
    pub(crate) fn faults(&self) -> impl Iterator<Item = String> {
        self.faults.iter().cloned()
    }

    /// The first cell of the row, with a mark if anything went wrong.
    fn name(&self) -> String {
        let mark = mark(!self.faults.is_empty());
        match self.kind {
            Kind::Resubscribe => format!("{} topics{mark}", self.users * TOPICS_PER_SESSION),
            _ => format!("{} ({} users on a gateway){mark}", self.what(), self.users),
        }
    }
}

/// What topics of users, a second gateway and a Cluster cost.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(["server CPU, µs", "without", "with", "with ÷ without", "target", ""]);
    for row in rows.iter().filter(|row| row.kind != Kind::Resubscribe) {
        let [without, with] = medians(&row.turns).map(|figure| cell(figure, 2));
        let target = (row.kind == Kind::SecondGateway).then_some(SECOND_GATEWAY);
        let versus = judged_quotient(ratio(&row.turns), target);
        table.row([row.name(), without, with].into_iter().chain(versus).collect());
    }
    table
}

/// What the subscription to all topics takes after a break.
pub(crate) fn resubscribed(rows: &[Row]) -> Table {
    let mut table = Table::new(["", "until all are confirmed, ms", "processor time of Redis, ms"]);
    for row in rows.iter().filter(|row| row.kind == Kind::Resubscribe) {
        let figures = medians(&row.turns).map(|figure| cell(figure, 0));
        table.row([row.name()].into_iter().chain(figures).collect());
    }
    table
}

/// The medians of both figures.
fn medians(rounds: &[[f64; 2]]) -> [Option<f64>; 2] {
    [0, 1].map(|place| {
        let mut values: Vec<_> = rounds.iter().map(|round| round[place]).collect();
        values.sort_by(f64::total_cmp);
        quantile(&values, 0.5)
    })
}

/// The median of the quotients of both figures.
fn ratio(rounds: &[[f64; 2]]) -> Option<f64> {
    let mut ratios: Vec<_> = rounds.iter().map(|[without, with]| with / without).collect();
    ratios.sort_by(f64::total_cmp);
    quantile(&ratios, 0.5)
}

/// Lets clients connect and be bound to users, without topics of their own and with them. Returns the processor time of
/// the gateway for each client in µs.
fn bind(folders: &Folders, redis: u16, users: u32) -> anyhow::Result<Vec<[f64; 2]>> {
    let without = bind_all(folders, redis, users, false)?;
    Ok(vec![[without, bind_all(folders, redis, users, true)?]])
}

/// Returns the processor time of the gateway for each client that connects and is bound to a user, in µs.
fn bind_all(folders: &Folders, redis: u16, users: u32, listens: bool) -> anyhow::Result<f64> {
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
/// processor time of a delivery in µs, for each turn. Each gateway that delivers does so at the same rate.
fn with_second(folders: &Folders, redis: u16, users: u32) -> anyhow::Result<Vec<[f64; 2]>> {
    let bus = Bus::Standalone(redis);
    let mut gateways = [Delivering::start(folders, &bus, 0, users)?, Delivering::start(folders, &bus, 1, users)?];
    bus.subscribed(2 * users)?;
    turns(|case| deliver(&mut gateways[..case], &bus))
}

/// Measures deliveries over one Redis and over a Cluster, in turns, with a gateway for each. Returns the processor time
/// of a delivery in µs, for each turn.
fn in_cluster(folders: &Folders, redis: u16, users: u32) -> anyhow::Result<Vec<[f64; 2]>> {
    let (_servers, cluster) = cluster::start(folders)?;
    let buses = [Bus::Standalone(redis), cluster];
    let mut gateways =
        [Delivering::start(folders, &buses[0], 0, users)?, Delivering::start(folders, &buses[1], 1, users)?];
    for bus in &buses {
        bus.subscribed(users)?;
    }
    turns(|case| deliver(&mut gateways[case - 1..case], &buses[case - 1]))
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

/// A gateway with `chat`, and the players of its users.
struct Delivering {
    server: Server,
    players: BTreeMap<u32, Player>,
}

impl Delivering {
    /// Starts the gateway of this number, and connects its players. The users of the gateways follow each other.
    fn start(folders: &Folders, bus: &Bus, number: u32, users: u32) -> anyhow::Result<Self> {
        let request = |user: u32| {
            let base = MessageBase { game_id: "mmo".to_owned(), user_id: user as i32, timestamp: 0 };
            ChatRequest { base: Some(base), ..ChatRequest::default() }.encode_to_vec()
        };
        let server = Server::with_chat(folders, bus, &format!("gateway-{number}"))?;
        let users = number * users + 1..=(number + 1) * users;
        let players = Player::connect_all(server.port, users, CHAT, request)?;
        Ok(Self { server, players })
    }
}

/// Delivers to the players of these gateways. Returns the processor time of the gateways for each delivery in µs.
///
/// The gateways have no other work meanwhile. They are not asked for their metrics, since the players know when all
/// deliveries are made.
fn deliver(gateways: &mut [Delivering], bus: &Bus) -> anyhow::Result<f64> {
    let users: Vec<_> = gateways.iter().flat_map(|gateway| gateway.players.keys().copied()).collect();
    let before = cpu(gateways)?;
    let sent = publish(&mut bus.backend()?, &users, BATCH * gateways.len() as u32)?;
    for user in &sent {
        let player = gateways.iter_mut().find_map(|gateway| gateway.players.get_mut(user));
        player.context("no such user")?.packet()?;
    }
    let used = cpu(gateways)? - before;
    Ok(used.as_secs_f64() * 1e6 / sent.len() as f64)
}

fn cpu(gateways: &[Delivering]) -> anyhow::Result<Duration> {
    gateways.iter().map(|gateway| gateway.server.cpu()).sum()
}

/// Publishes to users in a mixed order, `batch` deliveries at once and at an even rate. Returns the users.
fn publish(backend: &mut Backend, users: &[u32], batch: u32) -> anyhow::Result<Vec<u32>> {
    let payload = ChatResponse { success: true, error_message: "x".repeat(DELIVERY - 4), ..ChatResponse::default() };
    let payload = payload.encode_to_vec();
    let mut sent = Vec::new();
    let begin = Instant::now();
    for number in 0..BATCHES {
        let due = begin + Duration::from_secs(1) * number * BATCH / RATE;
        sleep(due.saturating_duration_since(Instant::now()));
        for i in 0..batch {
            // The step is a prime number, so the order is mixed and each user has the same number of deliveries.
            let user = users[(number * batch + i) as usize * 7919 % users.len()];
            backend.add(&format!("broadcast:user:{user}"), &payload)?;
            sent.push(user);
        }
        backend.send()?;
    }
    Ok(sent)
}

/// Breaks the subscription of a gateway whose sessions listen to many topics. Returns the time until Redis has subscribed
/// the gateway to all of them again, and the processor time of Redis, in ms.
fn resubscribe(folders: &Folders, redis: u16, users: u32) -> anyhow::Result<Vec<[f64; 2]>> {
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
    Ok(vec![[time.as_secs_f64() * 1e3, cpu * 1e3]])
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

    #[test]
    fn a_part_that_fails_leaves_the_others_as_they_are() {
        let [mut bind, mut second, mut cluster, mut resubscribe] = super::rows(10, 5);
        bind.turns = vec![[50.0, 60.0]];
        second.turns = vec![[20.0, 22.0]];
        cluster.faults = vec!["no Cluster".to_owned()];
        resubscribe.turns = vec![[250.0, 170.0]];
        let rows = [bind, second, cluster, resubscribe];
        let lines = |table: Table| table.to_string().lines().skip(2).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            lines(table(&rows)),
            [
                "| a connect and a bind, with a topic of the user on Redis (10 users on a gateway) | 50.00 | 60.00 | 1.20 |  |  |",
                "| a delivery to a user's topic, with a second gateway (5 users on a gateway) | 20.00 | 22.00 | 1.10 | ≤ 1.05 | missed |",
                "| a delivery to a user's topic, in a Cluster of three masters (5 users on a gateway) † | – | – | – |  |  |",
            ]
        );
        assert_eq!(lines(resubscribed(&rows)), ["| 50 topics | 250 | 170 |"]);
    }
}
