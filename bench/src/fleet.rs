//! What topics of users cost: a session that listens to one, a fleet of two gateways, and the subscription to all topics
//! after a break.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write, stderr};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chat_proto::chat::{ChatRequest, ChatResponse};
use chat_proto::common::MessageBase;
use prost::Message;

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

/// The time that Redis or a gateway may take for something.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

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
            let delivery = deliver(folders, redis, users)?;
            let resubscribe = resubscribe(folders, redis, sessions)?;
            writeln!(
                stderr(),
                "gateways ({round} of {rounds}): bind {bind:.1?}, delivery {:.2?}, resubscribe {resubscribe:.0?}",
                medians(&delivery)
            )?;
            fleet.bind.push(bind);
            fleet.delivery.extend(delivery);
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
    let server = Server::with_probe(folders, redis)?;
    let cpu = server.cpu()?;
    let request = |user| {
        let listen = if listens { format!("; listen broadcast:user:{user}") } else { String::new() };
        format!("bind {user}{listen}").into_bytes()
    };
    let players = Player::connect_all(server.port, 1..=users, PROBE, request)?;
    subscribed(redis, if listens { users } else { 0 })?;
    let cpu = server.cpu()? - cpu;
    drop(players);
    Ok(cpu.as_secs_f64() * 1e6 / f64::from(users))
}

/// Measures deliveries to the users of one gateway and to those of two, in turns, while both are there. Returns the
/// processor time of all gateways for each delivery in µs, for each turn. Each gateway delivers at the same rate.
fn deliver(folders: &Folders, redis: u16, users: u32) -> anyhow::Result<Vec<[f64; 2]>> {
    let request = |user: u32| {
        let base = MessageBase { game_id: "mmo".to_owned(), user_id: user as i32, timestamp: 0 };
        ChatRequest { base: Some(base), ..ChatRequest::default() }.encode_to_vec()
    };
    let (mut servers, mut players) = (Vec::new(), BTreeMap::new());
    for gateway in 0..2 {
        let server = Server::with_chat(folders, redis, &format!("gateway-{gateway}"))?;
        let own = gateway * users + 1..=(gateway + 1) * users;
        players.append(&mut Player::connect_all(server.port, own, CHAT, request)?);
        servers.push(server);
    }
    subscribed(redis, 2 * users)?;
    let cpu = || servers.iter().map(Server::cpu).sum::<anyhow::Result<Duration>>();
    let written = || {
        let count = |server: &Server| Ok(sum(&ask(server.admin, "/metrics")?, "gateway_messages_sent_total"));
        servers.iter().map(count).sum::<anyhow::Result<f64>>()
    };
    let mut turns = Vec::new();
    for turn in 0..TURNS {
        let mut figures = [0.0; 2];
        for gateways in if turn % 2 == 0 { [1, 2] } else { [2, 1] } {
            let (before, expected) = (cpu()?, written()? + f64::from(gateways * BATCH * BATCHES));
            let sent = publish(redis, gateways * users, gateways * BATCH)?;
            wait("not all deliveries are made", || Ok(written()? >= expected))?;
            let used = cpu()? - before;
            for user in &sent {
                players.get_mut(user).context("no such user")?.packet()?;
            }
            figures[gateways as usize - 1] = used.as_secs_f64() * 1e6 / sent.len() as f64;
        }
        turns.push(figures);
    }
    Ok(turns)
}

/// Publishes to users in a mixed order, at an even rate. Returns the users.
fn publish(redis: u16, users: u32, batch: u32) -> anyhow::Result<Vec<u32>> {
    let mut connection = Redis::connect(redis)?;
    let payload = ChatResponse { success: true, error_message: "x".repeat(DELIVERY - 4), ..ChatResponse::default() };
    let payload = payload.encode_to_vec();
    let mut sent = Vec::new();
    let begin = Instant::now();
    for number in 0..BATCHES {
        let due = begin + Duration::from_secs(1) * number * BATCH / RATE;
        sleep(due.saturating_duration_since(Instant::now()));
        let mut commands = Vec::new();
        for i in 0..batch {
            // The step is a prime number, so the order is mixed and each user has the same number of deliveries.
            let user = (u64::from(number * batch + i) * 7919 % u64::from(users)) as u32 + 1;
            let topic = format!("broadcast:user:{user}");
            write!(commands, "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{topic}\r\n${}\r\n", topic.len(), payload.len())?;
            commands.extend([&payload[..], b"\r\n"].concat());
            sent.push(user);
        }
        connection.socket.get_mut().write_all(&commands)?;
        for _ in 0..batch {
            let heard = connection.line()?;
            ensure!(heard == ":1", "a publish was heard by {heard}");
        }
    }
    Ok(sent)
}

/// Breaks the subscription of a gateway whose sessions listen to many topics. Returns the time until Redis has subscribed
/// the gateway to all of them again, and the processor time of Redis, in ms.
fn resubscribe(folders: &Folders, redis: u16, users: u32) -> anyhow::Result<[f64; 2]> {
    let server = Server::with_probe(folders, redis)?;
    let request = |user| {
        let listen = |number| format!("listen broadcast:user:{user}:{number}; ");
        (0..TOPICS_PER_SESSION).map(listen).collect::<String>().into_bytes()
    };
    let players = Player::connect_all(server.port, 1..=users, PROBE, request)?;
    let topics = users * TOPICS_PER_SESSION;
    subscribed(redis, topics)?;
    let mut connection = Redis::connect(redis)?;
    let cpu = connection.cpu()?;
    let begin = Instant::now();
    connection.socket.get_mut().write_all(b"CLIENT KILL TYPE pubsub\r\n")?;
    ensure!(connection.line()? == ":1", "there is another subscriber");
    subscribed(redis, topics)?;
    let is_up = || Ok(ask(server.admin, "/metrics")?.contains("\ngateway_bus_connected 1\n"));
    wait("the gateway is not connected again", is_up)?;
    let (time, cpu) = (begin.elapsed(), connection.cpu()? - cpu);
    drop(players);
    Ok([time.as_secs_f64() * 1e3, cpu * 1e3])
}

/// Waits until Redis has at least this number of subscriptions.
fn subscribed(redis: u16, topics: u32) -> anyhow::Result<()> {
    let mut connection = Redis::connect(redis)?;
    wait("redis has not subscribed to all topics", || {
        let clients = connection.bulk("CLIENT LIST TYPE pubsub")?;
        let counts = clients.split(' ').filter_map(|word| word.strip_prefix("sub=")?.parse::<u32>().ok());
        Ok(counts.sum::<u32>() >= topics)
    })
}

fn wait(why: &str, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        ensure!(Instant::now() < deadline, "{why} within {} s", PATIENCE.as_secs());
        sleep(POLL);
    }
    Ok(())
}

/// A connection to Redis.
struct Redis {
    socket: BufReader<TcpStream>,
}

impl Redis {
    fn connect(port: u16) -> anyhow::Result<Self> {
        Ok(Self { socket: BufReader::new(TcpStream::connect(("127.0.0.1", port))?) })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.socket.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends a command whose answer is a text.
    fn bulk(&mut self, command: &str) -> anyhow::Result<String> {
        self.socket.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        let head = self.line()?;
        let len: usize = head.strip_prefix('$').with_context(|| head.clone())?.parse()?;
        let mut text = vec![0; len + 2];
        self.socket.read_exact(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The processor time of Redis so far, in seconds.
    fn cpu(&mut self) -> anyhow::Result<f64> {
        let info = self.bulk("INFO cpu")?;
        let of = |key| {
            let value = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            anyhow::Ok(value.with_context(|| info.clone())?.parse::<f64>()?)
        };
        Ok(of("used_cpu_user")? + of("used_cpu_sys")?)
    }
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
