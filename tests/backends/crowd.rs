//! A failover of the master while a crowd of clients sends and receives: the service is back soon, and whoever has missed
//! something is told.

use super::{CHAT, DELIVERED, REQUESTS, broadcast, connected, heard::Heard};
use chat_proto::chat::ChatRequest;
use futures_util::StreamExt;
use gateway_tests::{Client, Gateway, MASTER, Publisher, Sentinels, Setup, chat_request, connect_to_redis, eventually};
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};

/// The clients, each of a user of its own from 1 on.
pub(super) const CLIENTS: i32 = 50;

/// The deliveries to each client in one write of the backend.
const BURST: i64 = 4;

/// The time between two writes of the backend: 20 000 messages a second, if the machine can.
pub(super) const PERIOD: Duration = Duration::from_millis(10);

/// The time between two requests of a client.
pub(super) const REQUEST_PERIOD: Duration = Duration::from_millis(100);

/// The longest time from the event of the Sentinel until everybody is served again. On a machine that does nothing else,
/// it is less than 2 s.
const BACK: Duration = Duration::from_secs(4);

/// A part of the refusal of a request that may have been taken.
const PERHAPS: &str = "may or may not";

/// A request that a backend has heard: the user, the number, and the time.
type Request = (i32, usize, Instant);

/// What the parts of the test share.
struct Stage {
    /// The ports of the servers.
    ports: [u16; 2],
    /// The number of the first delivery that was published at the second server.
    first_after: AtomicI64,
    /// The number of clients that have received a delivery of the second server, and when the last of them did.
    served: AtomicUsize,
    all_served: Mutex<Option<Instant>>,
    /// What backends at each server have heard.
    requests: [Mutex<Vec<Request>>; 2],
}

/// Returns whether the server on this port is a master.
pub(super) async fn is_master(port: u16) -> bool {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let Ok(mut connection) = connect_to_redis(&client).await else { return false };
    let info: redis::RedisResult<String> = redis::cmd("INFO").arg("replication").query_async(&mut connection).await;
    info.is_ok_and(|info| info.contains("role:master"))
}

/// Publishes to all clients at the server that is the master, until `stop`. Returns the number of the last delivery, which
/// Redis has taken.
async fn publish(stage: Arc<Stage>, stop: watch::Receiver<bool>) -> i64 {
    let mut ticks = time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut number, mut connection) = (0, None);
    loop {
        ticks.tick().await;
        if connection.is_none() {
            let mut master = None;
            for port in stage.ports {
                if is_master(port).await {
                    master = Some(port);
                }
            }
            let Some(port) = master else { continue };
            connection = Publisher::connect(port, "PUBLISH").await.ok();
            if connection.is_some() && port == stage.ports[1] {
                stage.first_after.store(number + 1, Ordering::SeqCst);
            }
        }
        let Some(open) = &mut connection else { continue };
        let is_last = *stop.borrow();
        let mut messages = Vec::new();
        for number in number + 1..=number + BURST {
            messages.extend((1..=CLIENTS).map(|user| (format!("broadcast:user:{user}"), broadcast(user, number))));
        }
        number += BURST;
        match open.publish(&messages).await {
            Ok(_) if is_last => return number,
            Ok(_) => {}
            Err(_) => connection = None,
        }
    }
}

/// Hears the requests at one of the servers, again and again.
async fn hear(stage: Arc<Stage>, server: usize) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", stage.ports[server])).unwrap();
    loop {
        if let Ok(mut subscriber) = client.get_async_pubsub().await
            && subscriber.subscribe(REQUESTS).await.is_ok()
        {
            let mut messages = subscriber.into_on_message();
            while let Some(message) = messages.next().await {
                let request = ChatRequest::decode(message.get_payload_bytes()).unwrap();
                let heard = (request.base.unwrap().user_id, request.content.parse().unwrap(), Instant::now());
                stage.requests[server].lock().unwrap().push(heard);
            }
        }
        time::sleep(PERIOD).await;
    }
}

/// A client, with what it has sent and heard.
pub(super) struct Player {
    pub(super) user: i32,
    pub(super) client: Client,
    pub(super) heard: Heard,
    /// The numbers of the requests by the seq of their packets.
    pub(super) sent: BTreeMap<u32, usize>,
}

impl Player {
    pub(super) async fn join(gateway: &Gateway, user: i32) -> Self {
        let client = gateway.client().await;
        let mut player = Self { user, client, heard: Heard::default(), sent: BTreeMap::new() };
        player.request().await;
        player
    }

    pub(super) async fn request(&mut self) {
        let number = self.sent.len() + 1;
        let seq = self.client.send(CHAT, &chat_request("mmo", self.user, &number.to_string())).await;
        self.sent.insert(seq, number);
    }

    /// Sends and receives until the delivery with the last number arrives.
    async fn play(mut self, stage: Arc<Stage>, last: watch::Receiver<Option<i64>>) -> Self {
        let mut ticks = time::interval(REQUEST_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_served = false;
        while self.heard.numbers.last().copied() < *last.borrow() || last.borrow().is_none() {
            tokio::select! {
                packet = self.client.receive_any() => {
                    let number = self.heard.add(&packet);
                    if number.is_some_and(|number| number >= stage.first_after.load(Ordering::SeqCst)) && !is_served {
                        is_served = true;
                        if stage.served.fetch_add(1, Ordering::SeqCst) + 1 == CLIENTS as usize {
                            *stage.all_served.lock().unwrap() = Some(Instant::now());
                        }
                    }
                }
                _ = ticks.tick() => self.request().await,
            }
        }
        self
    }

    /// Receives everything that the gateway has sent up to now.
    pub(super) async fn drain(&mut self) {
        let seq = self.client.send(3, b"alive?").await;
        loop {
            let packet = self.client.receive_any().await;
            if (packet.route, packet.seq, packet.flags) == (3, seq, 1) {
                return;
            }
            self.heard.add(&packet);
        }
    }

    /// Asserts what the client may rely on.
    fn check(&self, stage: &Stage, last: i64) {
        self.heard.assert_told(self.user, last);
        let mut all = BTreeSet::new();
        for heard in &stage.requests {
            let own = heard.lock().unwrap().iter().filter(|heard| heard.0 == self.user).map(|heard| heard.1).collect();
            let own: Vec<usize> = own;
            assert!(
                own.is_sorted_by(|a, b| a < b),
                "requests of user {} are double or out of order: {own:?}",
                self.user
            );
            all.extend(own);
        }
        for (seq, text) in &self.heard.refusals {
            let number = self.sent[seq];
            assert!(text.contains(PERHAPS) || !all.contains(&number), "request {number} was heard and refused: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the figures are the purpose of the test")]
async fn a_crowd_is_served_again_soon_after_a_failover_and_whoever_missed_something_is_told() {
    let mut redis = Sentinels::start().await;
    let ports = [redis.servers[0].port, redis.servers[1].port];
    let yaml = format!("games: [{{ id: mmo }}]\n{}", redis.yaml(MASTER, ""));
    // What is lost must be lost at Redis, and not in a send queue.
    let setup = Setup { yaml, server: "send_queue: 100000".to_owned(), ..Setup::default() };
    let gateway = connected(setup.patient()).await;
    let mut switches = redis.switches().await;
    let stage = Arc::new(Stage {
        ports,
        first_after: AtomicI64::new(i64::MAX),
        served: AtomicUsize::new(0),
        all_served: Mutex::default(),
        requests: Default::default(),
    });
    let backends = [0, 1].map(|server| tokio::spawn(hear(Arc::clone(&stage), server)));
    for server in &redis.servers {
        server.subscribers_are(REQUESTS, 1).await;
    }
    let (finish, last) = watch::channel(None);
    let mut players = Vec::new();
    for user in 1..=CLIENTS {
        let player = Player::join(&gateway, user).await;
        redis.servers[0].subscribers_are(&format!("broadcast:user:{user}"), 1).await;
        players.push(tokio::spawn(player.play(Arc::clone(&stage), last.clone())));
    }
    let began = Instant::now();
    let (stop, stopped) = watch::channel(false);
    let publisher = tokio::spawn(publish(Arc::clone(&stage), stopped));
    eventually("20 000 deliveries", || async { (gateway.metric(DELIVERED).await >= 20_000.0).then_some(()) }).await;
    let rate = gateway.metric(DELIVERED).await / began.elapsed().as_secs_f64();

    let killed = Instant::now();
    redis.servers[0].kill().await;
    switches.next().await;
    let switched = Instant::now();
    let served = eventually("all clients are served", || async { *stage.all_served.lock().unwrap() }).await;
    let accepted = eventually("a request is heard", || async {
        stage.requests[1].lock().unwrap().iter().map(|heard| heard.2).find(|at| *at > switched)
    })
    .await;
    let back = served.max(accepted).saturating_duration_since(switched);
    let times = format!(
        "{rate:.0} deliveries a second; {:?} from the crash to the event of the Sentinel, {:?} more to the deliveries, {:?} \
         to the requests",
        switched - killed,
        served.saturating_duration_since(switched),
        accepted.saturating_duration_since(switched)
    );
    assert!(back < BACK, "{times}");

    // Everything that follows arrives.
    all_is_well(&redis, &gateway).await;
    stop.send_replace(true);
    let number = publisher.await.unwrap();
    finish.send_replace(Some(number));
    let mut missing = 0;
    for player in players {
        let mut player = player.await.unwrap();
        player.request().await;
        let (user, last_request) = (player.user, player.sent.len());
        eventually(&format!("the last request of user {user}"), || async {
            let heard = stage.requests[1].lock().unwrap();
            heard.iter().any(|heard| (heard.0, heard.1) == (user, last_request)).then_some(())
        })
        .await;
        player.drain().await;
        player.check(&stage, number);
        missing += player.heard.missing(number);
    }
    assert!(missing > 0, "nothing was lost, so the test shows nothing: {times}");
    backends.iter().for_each(tokio::task::JoinHandle::abort);
    println!("{times}; {missing} messages were lost, and the clients were told");
}

/// Waits until the gateway is ready, and a backend hears requests at the new master.
async fn all_is_well(redis: &Sentinels, gateway: &Gateway) {
    eventually("readiness", || async { (gateway.get("/readyz").await.0 == 200).then_some(()) }).await;
    redis.servers[1].subscribers_are(REQUESTS, 1).await;
}
