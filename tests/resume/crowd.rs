//! A crowd whose connections break again and again under load, and whose gateways are restarted. A ledger shows that each
//! client has received everything once and in order, or was told that its session is new.
//!
//! `RESUME_CLIENTS=1000 RESUME_SECONDS=60 RESUME_RATE=5000` makes the run a large one.

use crate::{resumes, start_with_redis};
use bytes::Bytes;
use chat_proto::chat::MessageBroadcast;
use futures_util::{SinkExt, StreamExt};
use gateway_proto::{Control, Welcome, control::Event};
use gateway_tests::{Client, Gateway, Publisher, chat_request, eventually, header, raise_open_files};
use gateway_wire::packet::{self, FLAG_ACK, Header, ROUTE_CONTROL};
use prost::Message as _;
use std::{
    env,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

/// The bounds of sessions: so large that none is lost.
const BOUNDS: &str = "messages: 4096, bytes: 1048576";

/// What one client has received. The deliveries to a user are numbered from 1 on by the publisher.
#[derive(Debug, Default)]
struct Account {
    /// The numbers of the publisher, in the order in which they arrived.
    content: Vec<u32>,
    /// When each connection was made.
    connections: Vec<Instant>,
    /// The number of times that the session was new.
    new: usize,
    /// The longest time between two deliveries.
    silence: Duration,
}

/// What all clients share.
#[derive(Clone)]
struct Crowd {
    /// The gateways that accept connections now, as a load balancer knows them.
    gateways: Arc<Mutex<Vec<SocketAddr>>>,
    /// Whether the clients break their connections.
    breaks: bool,
    /// Whether the clients are to stop when nothing has come for a while.
    stop: watch::Receiver<bool>,
}

/// What became of a crowd.
struct Outcome {
    connections: usize,
    /// The largest number of handshakes in a second, apart from the first and the last ones.
    peak: usize,
    new: usize,
    silence: Duration,
}

fn size(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |size| size.parse().expect("a number"))
}

fn addresses<'a>(gateways: impl IntoIterator<Item = &'a Gateway>) -> Arc<Mutex<Vec<SocketAddr>>> {
    Arc::new(Mutex::new(gateways.into_iter().map(|gateway| gateway.address).collect()))
}

impl Crowd {
    /// Connects to any gateway that accepts the connection.
    async fn connect(&self, path: &str) -> WebSocketStream<TcpStream> {
        let attempt = || async {
            let address = fastrand::choice(&*self.gateways.lock().unwrap()).copied()?;
            Client::handshake(address, path).await.ok()
        };
        eventually("a handshake", attempt).await
    }

    /// Receives what is sent to the user, and comes back over other connections.
    async fn play(self, user: i32) -> Account {
        let mut account = Account::default();
        let (mut token, mut seen) = (String::new(), 0_u32);
        let mut last = Instant::now();
        loop {
            let path = if token.is_empty() { "/ws".to_owned() } else { format!("/ws?resume={token}&seen={seen}") };
            let mut socket = self.connect(&path).await;
            account.connections.push(Instant::now());
            // A gateway that stops may close a connection before its welcome.
            let Some(Ok(Message::Binary(first))) = socket.next().await else { continue };
            let welcome = Welcome::decode(&first[8..]).unwrap();
            token = welcome.resume_token;
            if !welcome.resumed {
                account.new += 1;
                seen = 0;
                let hello = [&header(1, 1)[..], &chat_request("mmo", user, "")].concat();
                socket.send(Message::Binary(hello.into())).await.unwrap();
            }
            let stops = *self.stop.borrow();
            let breaks_after = if self.breaks { fastrand::u64(1..2000) } else { 1000 };
            let mut end = Instant::now() + Duration::from_millis(breaks_after);
            loop {
                // The last connection stays until nothing has come for a while.
                let patience = if stops { Instant::now() + Duration::from_secs(3) } else { end };
                let Ok(message) = tokio::time::timeout_at(patience, socket.next()).await else {
                    if !stops && !self.breaks && !*self.stop.borrow() {
                        end += Duration::from_secs(1);
                        continue;
                    }
                    break;
                };
                let message = match message {
                    Some(Ok(Message::Binary(message))) => message,
                    Some(Ok(_)) => continue,
                    _ => break,
                };
                let (header, payload) = packet::parse(message).unwrap();
                if header.route == ROUTE_CONTROL {
                    if let Some(Event::Reconnect(it)) = Control::decode(payload).unwrap().event {
                        assert!(it.url.is_empty(), "{it:?}");
                        sleep(Duration::from_millis(it.after_ms.try_into().unwrap())).await;
                        break;
                    }
                    continue;
                }
                if header.is_reply() || header.seq == 0 {
                    continue;
                }
                assert_eq!(header.seq, seen + 1, "user {user}: a push is missing or doubled");
                seen = header.seq;
                account.content.push(content(payload));
                if account.content.len() > 1 {
                    account.silence = account.silence.max(last.elapsed());
                }
                last = Instant::now();
                if fastrand::u8(..) < 8 {
                    let ack = Header { flags: FLAG_ACK, status: seen as u16, ..Header::request(2, 3) };
                    // An error shows at the next message.
                    let _ = socket.send(Message::Binary(ack.encode().to_vec().into())).await;
                }
            }
            if stops {
                return account;
            }
            // Half of the connections are closed, and half are left to the gateway to find out.
            if fastrand::bool() {
                drop(socket);
            } else {
                tokio::spawn(async move {
                    sleep(Duration::from_secs(3)).await;
                    drop(socket);
                });
            }
            if self.breaks && fastrand::bool() {
                sleep(Duration::from_millis(fastrand::u64(0..1000))).await;
            }
        }
    }
}

fn content(payload: Bytes) -> u32 {
    MessageBroadcast::decode(payload).unwrap().content.parse().unwrap()
}

/// Publishes deliveries to users in turn until `stop`. Returns how many each user was sent.
async fn publish(port: u16, clients: usize, rate: usize, stop: watch::Receiver<bool>) -> Vec<u32> {
    let mut publisher = Publisher::connect(port, "PUBLISH").await.unwrap();
    let (mut published, began, mut total) = (vec![0_u32; clients], Instant::now(), 0);
    while !*stop.borrow() {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as usize;
        let batch: Vec<_> = (total..due)
            .map(|i| {
                let user = i % clients;
                published[user] += 1;
                let target_user_id = i32::try_from(user + 1).unwrap();
                let content = published[user].to_string();
                let body = MessageBroadcast { target_user_id, content, ..Default::default() }.encode_to_vec();
                ("broadcast", body)
            })
            .collect();
        total = due;
        publisher.publish(&batch).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    published
}

/// Lets clients play while `rate` deliveries are published in a second and `during` runs.
async fn run<T>(
    redis: u16,
    gateways: Arc<Mutex<Vec<SocketAddr>>>,
    (breaks, rate): (bool, usize),
    during: impl Future<Output = T>,
) -> (Outcome, T) {
    let clients = size("RESUME_CLIENTS", 200);
    // Each client may have a few connections that it has left to the gateway to find out.
    raise_open_files(8 * clients as u64);
    let (stop, stopped) = watch::channel(false);
    let crowd = Crowd { gateways, breaks, stop: stopped.clone() };
    let mut players = JoinSet::new();
    for user in 1..=i32::try_from(clients).unwrap() {
        let playing = crowd.clone().play(user);
        players.spawn(async move { (user, playing.await) });
    }
    // A client is bound to its user when its first request has been served.
    sleep(Duration::from_secs(2)).await;
    let publishing = tokio::spawn(publish(redis, clients, size("RESUME_RATE", rate), stopped));
    let done = during.await;
    stop.send(true).unwrap();
    let published = publishing.await.unwrap();
    let accounts = timeout(Duration::from_secs(60), players.join_all()).await.expect("the clients end");
    // All clients make their first connection at once, and their last one.
    let between = |account: &Account| account.connections[1..account.connections.len() - 1].to_vec();
    let mut handshakes: Vec<_> = accounts.iter().flat_map(|(_, account)| between(account)).collect();
    handshakes.sort_unstable();
    let in_a_second =
        |(i, &first): (usize, &Instant)| handshakes[i..].partition_point(|&time| time - first < Duration::from_secs(1));
    let peak = handshakes.iter().enumerate().map(in_a_second).max().unwrap_or(0);
    let mut outcome = Outcome { connections: 0, peak, new: 0, silence: Duration::ZERO };
    for (user, account) in accounts {
        let expected = published[usize::try_from(user).unwrap() - 1];
        outcome.connections += account.connections.len();
        outcome.silence = outcome.silence.max(account.silence);
        // The first session of each client is new by nature.
        outcome.new += account.new - 1;
        if account.new == 1 {
            let complete: Vec<_> = (1..=expected).collect();
            assert!(account.content == complete, "user {user}: {} of {expected} arrived", account.content.len());
        } else {
            assert!(account.content.is_sorted_by(|a, b| a < b), "user {user}: doubled or out of order");
        }
    }
    (outcome, done)
}

fn seconds() -> Duration {
    Duration::from_secs(size("RESUME_SECONDS", 8) as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_whose_connections_break_again_and_again_loses_nothing_and_gets_nothing_twice() {
    let (redis, [gateway]) = start_with_redis(BOUNDS, "").await;
    let (outcome, ()) = run(redis.port, addresses([&gateway]), (true, 5000), sleep(seconds())).await;
    report("breaks", &outcome);
    assert_eq!(outcome.new, 0, "no session was lost, as its bounds are large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_comes_back_to_either_of_two_gateways_loses_nothing_and_gets_nothing_twice() {
    let (redis, gateways) = start_with_redis::<2>(BOUNDS, "").await;
    let (outcome, ()) = run(redis.port, addresses(&gateways), (true, 2000), sleep(seconds())).await;
    report("two gateways", &outcome);
    for gateway in &gateways {
        assert!(gateway.metric(&resumes("handed_over")).await > 10.0, "many sessions have come from the other gateway");
    }
    assert_eq!(outcome.new, 0, "no session was lost, as its bounds are large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_two_gateways_loses_nothing_and_no_session() {
    let server = "drain_timeout_s: 60, reconnect: { rate_per_s: 200 }";
    let (redis, [first, second]) = start_with_redis(BOUNDS, server).await;
    let addresses = addresses([&first, &second]);
    let known = Arc::clone(&addresses);
    let restarts = async move {
        let mut restarted = Vec::new();
        for mut gateway in [first, second] {
            sleep(Duration::from_secs(1)).await;
            known.lock().unwrap().retain(|address| *address != gateway.address);
            gateway.signal("TERM").await;
            let is_unready = || async { (gateway.get("/readyz").await.0 == 503).then_some(()) };
            eventually("a gateway that stops to be unready", is_unready).await;
            assert_eq!(gateway.exit_within(Duration::from_secs(50)).await.and_then(|exit| exit.code()), Some(0));
            let log = gateway.log_lines();
            assert!(log.iter().all(|line| !line.to_string().contains("cut off")), "{log:?}");
            let gateway = gateway.again().await;
            known.lock().unwrap().push(gateway.address);
            restarted.push(gateway);
        }
        sleep(Duration::from_secs(1)).await;
        restarted
    };
    let (outcome, _restarted) = run(redis.port, addresses, (false, 2000), restarts).await;
    report("rolling restart", &outcome);
    assert_eq!(outcome.new, 0, "no session was lost");
}

#[allow(clippy::print_stdout, reason = "a large run is started by hand, and its figures are of interest")]
fn report(what: &str, Outcome { connections, peak, new, silence }: &Outcome) {
    println!(
        "{what}: {connections} connections, at most {peak} in a second, {new} new sessions, longest silence {} ms",
        silence.as_millis()
    );
}
