//! A failover of the master while a crowd of clients sends and receives over streams: nothing that was accepted is lost, and
//! nothing is doubled.

use super::{
    BROADCAST, DELIVERED, REQUESTS, broadcast, connected,
    crowd::{CLIENTS, PERIOD, Player, REQUEST_PERIOD, is_master},
    failovers::whole_master,
    streams::{LOST, STREAMS, entries},
};
use chat_proto::chat::ChatRequest;
use gateway_tests::{MASTER, Redis, Sentinels, Setup, connect_to_redis, eventually};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};

/// The deliveries to each client in one write of the backend.
const BURST: i64 = 4;

/// Writes deliveries to all clients, until `stop`. What was not accepted by the master and its replica is written again, with
/// the same ids. Returns the number of the last delivery.
async fn write(ports: [u16; 2], stop: watch::Receiver<bool>) -> i64 {
    let mut ticks = time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut number, mut connection) = (0, None);
    loop {
        ticks.tick().await;
        if connection.is_none() {
            for port in ports {
                if is_master(port).await {
                    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
                    connection = connect_to_redis(&client).await.ok();
                }
            }
        }
        let Some(open) = &mut connection else { continue };
        let is_last = *stop.borrow();
        let mut batch = redis::pipe();
        for number in number + 1..=number + BURST {
            for user in 1..=CLIENTS {
                let id = format!("backend-{}", number * i64::from(CLIENTS) + i64::from(user));
                batch.cmd("XADD").arg(BROADCAST).arg("MAXLEN").arg("~").arg(100_000).arg("*").arg("id").arg(id);
                batch.arg("payload").arg(broadcast(user, number)).ignore();
            }
        }
        batch.cmd("WAIT").arg(1).arg(500);
        match batch.query_async::<(usize,)>(open).await {
            Ok((1..,)) => {
                number += BURST;
                if is_last {
                    return number;
                }
            }
            _ => connection = None,
        }
    }
}

/// Sends and receives until the delivery with the last number arrives.
async fn play(mut player: Player, last: watch::Receiver<Option<i64>>) -> Player {
    let mut ticks = time::interval(REQUEST_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while last.borrow().is_none_or(|last| player.heard.numbers.last() < Some(&last)) {
        tokio::select! {
            packet = player.client.receive_any() => {
                player.heard.add(&packet);
            }
            _ = ticks.tick() => player.request().await,
        }
    }
    player
}

/// Returns the requests in the stream, by user, as a backend reads them: an entry that was written twice counts once.
async fn requests(redis: &Redis) -> BTreeMap<i32, Vec<usize>> {
    let (mut seen, mut requests) = (0, BTreeMap::<_, Vec<_>>::new());
    for (_, fields) in entries(redis, REQUESTS).await {
        let [(_, id), (_, payload)] = &fields[..] else { panic!("{fields:?}") };
        let number: u64 = String::from_utf8_lossy(id).rsplit_once('-').unwrap().1.parse().unwrap();
        if number > seen {
            seen = number;
            let request = ChatRequest::decode(&payload[..]).unwrap();
            requests.entry(request.base.unwrap().user_id).or_default().push(request.content.parse().unwrap());
        }
    }
    requests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the figures are the purpose of the test")]
async fn a_crowd_loses_nothing_and_gets_nothing_twice_over_streams_when_the_master_crashes() {
    let mut redis = Sentinels::start().await;
    let ports = [redis.servers[0].port, redis.servers[1].port];
    let yaml = format!("games: [{{ id: mmo }}]\n{}", redis.yaml(MASTER, &format!(", {STREAMS}, stream_replicas: 1")));
    let setup = Setup { yaml, server: "send_queue: 100000".to_owned(), ..Setup::default() };
    let gateway = connected(setup.patient()).await;
    whole_master(redis.servers.each_ref()).await;
    let mut switches = redis.switches().await;
    let (finish, last) = watch::channel(None);
    let mut players = Vec::new();
    for user in 1..=CLIENTS {
        let player = Player::join(&gateway, user).await;
        players.push(tokio::spawn(play(player, last.clone())));
    }
    let began = Instant::now();
    let (stop, stopped) = watch::channel(false);
    let backend = tokio::spawn(write(ports, stopped));
    eventually("20 000 deliveries", || async { (gateway.metric(DELIVERED).await >= 20_000.0).then_some(()) }).await;
    let rate = gateway.metric(DELIVERED).await / began.elapsed().as_secs_f64();

    redis.servers[0].kill().await;
    switches.next().await;
    redis.servers[0].restart_as_replica(ports[1]).await;
    whole_master(redis.servers.each_ref()).await;
    let before = gateway.metric(DELIVERED).await;
    eventually("deliveries after the crash", || async {
        (gateway.metric(DELIVERED).await >= before + 1000.0).then_some(())
    })
    .await;
    stop.send_replace(true);
    let number = backend.await.unwrap();
    finish.send_replace(Some(number));

    let (mut sent, mut refused) = (BTreeMap::new(), 0);
    for player in players {
        let mut player = player.await.unwrap();
        player.drain().await;
        assert_eq!(player.heard.missing(number), 0, "user {} has lost deliveries", player.user);
        sent.insert(player.user, player);
    }
    let all: usize = sent.values().map(|player| player.sent.len()).sum();
    eventually("all requests are settled", || async {
        let published = gateway.metric("gateway_bus_published_total").await;
        let refused = gateway.metric("gateway_messages_dropped_total{reason=\"bus_unavailable\"}").await;
        (published + refused == all as f64).then_some(())
    })
    .await;
    let there = requests(whole_master(redis.servers.each_ref()).await).await;
    for (user, mut player) in sent {
        player.drain().await;
        let own = &there[&user];
        assert!(own.is_sorted_by(|a, b| a < b), "requests of user {user} are double or out of order: {own:?}");
        let own: BTreeSet<_> = own.iter().copied().collect();
        for (seq, request) in &player.sent {
            let is_refused = player.heard.refusals.contains_key(seq);
            assert!(is_refused || own.contains(request), "request {request} of user {user} was accepted and lost");
            refused += usize::from(is_refused);
        }
    }
    assert_eq!(gateway.metric(LOST).await, 0.0);
    println!(
        "{rate:.0} deliveries a second before the crash; {} deliveries and {all} requests, of which {refused} were refused",
        number * i64::from(CLIENTS)
    );
}
