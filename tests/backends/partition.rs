//! Tests of a Cluster whose network is split, and whose slots move, while messages pass.

use super::{BROADCAST, CHAT, REQUESTS, broadcast, connected, heard::Heard};
use chat_proto::chat::ChatRequest;
use gateway_tests::{Client, Cluster, Gateway, Proxy, Publisher, Setup, ShardSubscription, chat_request, eventually};
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};

const CONNECTED: &str = "gateway_bus_connected";
const GAPS: &str = "gateway_bus_gaps_total";

/// The time within which a dead path is found, and 2 s of slack for a busy machine.
const FOUND: Duration = Duration::from_secs(5 + 2);

/// Returns the first user from `first` on whose topic belongs to this master at the start.
async fn user_of(cluster: &Cluster, master: usize, first: i32) -> i32 {
    let mut user = first;
    while Cluster::first_owner(cluster.slot(&format!("broadcast:user:{user}")).await) != master {
        user += 1;
    }
    user
}

/// Makes a server tell everybody that it is reached by this proxy, and waits until all servers say so.
async fn announce(cluster: &Cluster, server: usize, proxy: &Proxy) {
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("cluster-announce-port").arg(proxy.port);
    cluster.servers[server].run(&set).await;
    for server in &cluster.servers {
        eventually("the announced port", || async {
            let mut connection = server.connection().await;
            let nodes: String = redis::cmd("CLUSTER").arg("NODES").query_async(&mut connection).await.ok()?;
            nodes.contains(&format!("127.0.0.1:{}@", proxy.port)).then_some(())
        })
        .await;
    }
}

/// Asserts that a request reaches a backend, and that a message for the user on the user's own topic reaches the client.
async fn carries_both_ways(cluster: &Cluster, client: &mut Client, heard: &mut Heard, user: i32, number: i64) {
    let mut requests = cluster.subscribe(REQUESTS).await;
    let request = chat_request("mmo", user, &number.to_string());
    client.send(CHAT, &request).await;
    while requests.next().await != request {}
    let topic = format!("broadcast:user:{user}");
    cluster.is_heard(&topic).await;
    assert_eq!(cluster.publish(&topic, &broadcast(user, number)).await, Some(1));
    while heard.add(&client.receive_any().await) != Some(number) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_split_before_one_master_holds_up_only_what_belongs_to_it() {
    let cluster = Cluster::start(0).await;
    let used = [cluster.slot(BROADCAST).await, cluster.slot(REQUESTS).await].map(Cluster::first_owner);
    let split = (0..3).find(|server| !used.contains(server)).unwrap();
    let proxy = Proxy::start(&cluster.servers[split]).await;
    announce(&cluster, split, &proxy).await;
    // The gateway begins at another node, and reaches this one only by the address that it announces.
    let yaml = cluster.yaml("").replace(&format!("\"127.0.0.1:{}\"", cluster.servers[split].port), "\"127.0.0.1:1\"");
    // A game whose requests belong to the master that is cut off.
    let mut game = 0;
    while Cluster::first_owner(cluster.slot(&format!("game:request:g{game}")).await) != split {
        game += 1;
    }
    let game = format!("g{game}");
    let yaml = format!("games: [{{ id: mmo }}, {{ id: {game} }}]\n{yaml}");
    let gateway = connected(Setup { yaml, ..Setup::default() }).await;
    let (near, far) = (user_of(&cluster, used[1], 100).await, user_of(&cluster, split, 100).await);
    let (mut client, mut cut_off) = (gateway.client_of(near).await, gateway.client_of(far).await);
    let (mut heard, mut heard_far) = (Heard::default(), Heard::default());
    carries_both_ways(&cluster, &mut client, &mut heard, near, 1).await;
    carries_both_ways(&cluster, &mut cut_off, &mut heard_far, far, 1).await;
    assert_eq!(gateway.get("/readyz").await.0, 200);

    let began = Instant::now();
    proxy.stall();
    let in_flight = cut_off.send(CHAT, &chat_request(&game, far, "hi")).await;
    let reason = format!("127.0.0.1:{}", proxy.port);
    eventually("the split in /readyz", || async {
        let (status, report) = gateway.get("/readyz").await;
        let names_others = cluster.servers.iter().any(|server| report.contains(&format!("127.0.0.1:{}", server.port)));
        assert!(!names_others, "{report}");
        (status == 503 && report.contains(&reason)).then_some(())
    })
    .await;
    while !heard_far.refusals.contains_key(&in_flight) {
        assert_eq!(heard_far.add(&cut_off.receive_any().await), None);
    }
    // It was under way, or waited behind a probe that was.
    let allowed =
        ["the connection to the bus broke: the message may or may not have been taken", "the bus is not connected"];
    let text = &heard_far.refusals[&in_flight];
    assert!(allowed.contains(&text.as_str()), "{text}");
    assert!(began.elapsed() < FOUND, "{:?}", began.elapsed());
    // What belongs to the other masters goes on, also for the user whose own topic is cut off.
    carries_both_ways(&cluster, &mut client, &mut heard, near, 2).await;
    let mut backend = cluster.subscribe(REQUESTS).await;
    let request = chat_request("mmo", far, "hi");
    cut_off.send(CHAT, &request).await;
    while backend.next().await != request {}
    assert_eq!(cluster.publish(BROADCAST, &broadcast(far, 2)).await, Some(1));
    while heard_far.add(&cut_off.receive_any().await) != Some(2) {}
    assert_eq!(gateway.metric(GAPS).await, 0.0);
    // The backend's message is on the way for the whole time, or lost.
    cluster.publish(&format!("broadcast:user:{far}"), &broadcast(far, 3)).await;
    gateway.logged("it does not answer within 2s").await;

    proxy.resume();
    gateway.metric_is(CONNECTED, 1.0).await;
    carries_both_ways(&cluster, &mut cut_off, &mut heard_far, far, 4).await;
    heard_far.assert_told(far, 4);
    carries_both_ways(&cluster, &mut client, &mut heard, near, 3).await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
}

/// The users of the test of a slot that moves.
const USERS: i32 = 10;

/// The deliveries to each user in one write of the backend.
const BURST: i64 = 5;

/// The time between two writes of the backend: 5000 messages a second.
const PERIOD: Duration = Duration::from_millis(10);

/// Publishes to all users, each message at the master that is responsible, until `stop`. Returns the number of the last
/// delivery to each user.
async fn publish(ports: Vec<u16>, mut owners: Vec<usize>, stop: watch::Receiver<bool>) -> i64 {
    let mut masters = Vec::new();
    for port in ports {
        masters.push(Publisher::connect(port, "SPUBLISH").await.unwrap());
    }
    let mut ticks = time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0;
    while !*stop.borrow() {
        ticks.tick().await;
        for (user, owner) in (1..).zip(&mut owners) {
            let all =
                (number + 1..=number + BURST).map(|number| (format!("broadcast:user:{user}"), broadcast(user, number)));
            let mut messages: Vec<_> = all.collect();
            // A message that a master refuses goes to the next one, in order.
            while !messages.is_empty() {
                let answers = masters[*owner].publish(&messages).await.unwrap();
                let taken = answers.iter().take_while(|answer| answer.is_ok()).count();
                messages.drain(..taken);
                if let Some(Err(why)) = answers.get(taken) {
                    assert!(why.starts_with("MOVED"), "{why}");
                    assert!(answers[taken..].iter().all(Result::is_err), "{answers:?}");
                    *owner = (*owner + 1) % 3;
                }
            }
        }
        number += BURST;
    }
    number
}

/// Records the contents of all requests of a subscription.
async fn record(mut requests: ShardSubscription, heard: Arc<Mutex<Vec<(i32, usize)>>>) {
    loop {
        let request = ChatRequest::decode(&requests.next().await[..]).unwrap();
        // The request that bound the session has no number.
        if let Ok(number) = request.content.parse() {
            heard.lock().unwrap().push((request.base.unwrap().user_id, number));
        }
    }
}

/// Sends requests and receives until the last delivery arrives. Returns the client, what it has heard, and the numbers of
/// its requests by their seq.
async fn play(
    mut client: Client,
    user: i32,
    last: watch::Receiver<Option<i64>>,
) -> (Client, Heard, BTreeMap<u32, usize>) {
    let mut ticks = time::interval(Duration::from_millis(5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut sent) = (Heard::default(), BTreeMap::new());
    while heard.numbers.last().copied() < *last.borrow() || last.borrow().is_none() {
        tokio::select! {
            packet = client.receive_any() => drop(heard.add(&packet)),
            _ = ticks.tick() => {
                let number = sent.len() + 1;
                sent.insert(client.send(CHAT, &chat_request("mmo", user, &number.to_string())).await, number);
            }
        }
    }
    (client, heard, sent)
}

/// Waits until the gateway has told this number of gaps.
async fn gaps_are(gateway: &Gateway, count: f64) {
    eventually("a gap", || async { (gateway.metric(GAPS).await >= count).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the figures are the purpose of the test")]
async fn slots_that_move_under_load_lose_no_accepted_request_and_no_delivery_silently() {
    let cluster = Cluster::start(0).await;
    let yaml = format!("games: [{{ id: mmo }}]\n{}", cluster.yaml(""));
    let setup = Setup { yaml, server: "send_queue: 100000".to_owned(), ..Setup::default() };
    let gateway = connected(setup.patient()).await;
    let requests = Arc::new(Mutex::new(Vec::new()));
    let mut backends = vec![tokio::spawn(record(cluster.subscribe(REQUESTS).await, Arc::clone(&requests)))];
    let (finish, last) = watch::channel(None);
    let (mut players, mut owners, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    for user in 1..=USERS {
        let topic = format!("broadcast:user:{user}");
        let slot = cluster.slot(&topic).await;
        owners.push(Cluster::first_owner(slot));
        slots.push(slot);
        let client = gateway.client_of(user).await;
        cluster.is_heard(&topic).await;
        players.push(tokio::spawn(play(client, user, last.clone())));
    }
    let (stop, stopped) = watch::channel(false);
    let ports = cluster.servers.iter().map(|server| server.port).collect();
    let began = Instant::now();
    let publisher = tokio::spawn(publish(ports, owners.clone(), stopped));
    let delivered = async |more: f64| {
        let before = gateway.metric(super::DELIVERED).await;
        eventually("deliveries", || async { (gateway.metric(super::DELIVERED).await >= before + more).then_some(()) })
            .await;
    };
    delivered(5000.0).await;
    let rate = gateway.metric(super::DELIVERED).await / began.elapsed().as_secs_f64();

    // The slot of a user's topic, which has a subscriber here, and back again.
    let (from, to) = (owners[0], (owners[0] + 1) % 3);
    cluster.migrate(slots[0], from, to).await;
    gaps_are(&gateway, 1.0).await;
    delivered(2000.0).await;
    cluster.migrate(slots[0], to, from).await;
    gaps_are(&gateway, 2.0).await;
    delivered(2000.0).await;
    // The slot of the requests.
    let slot = cluster.slot(REQUESTS).await;
    let from = Cluster::first_owner(slot);
    cluster.migrate(slot, from, (from + 1) % 3).await;
    backends.push(tokio::spawn(record(cluster.subscribe(REQUESTS).await, Arc::clone(&requests))));
    let accepted = requests.lock().unwrap().len();
    eventually("requests at the new master", || async {
        (requests.lock().unwrap().len() > accepted + 500).then_some(())
    })
    .await;

    stop.send_replace(true);
    let number = publisher.await.unwrap();
    finish.send_replace(Some(number));
    let (mut missing, mut refused, mut total) = (0, 0, 0);
    let mut ended = Vec::new();
    for player in players {
        let (client, heard, sent) = player.await.unwrap();
        total += sent.len();
        ended.push((client, heard, sent));
    }
    // Each request, and the one that bound each session, is taken or refused.
    let all = (total + USERS as usize) as f64;
    eventually("all requests are settled", || async {
        let refused = gateway.metric("gateway_messages_dropped_total{reason=\"bus_unavailable\"}").await;
        (gateway.metric("gateway_bus_published_total").await + refused == all).then_some(())
    })
    .await;
    for (user, (client, heard, sent)) in (1..).zip(&mut ended) {
        let seq = client.send(3, b"alive?").await;
        loop {
            let packet = client.receive_any().await;
            if (packet.route, packet.seq) == (3, seq) {
                break;
            }
            heard.add(&packet);
        }
        heard.assert_told(user, number);
        missing += heard.missing(number);
        refused += heard.refusals.len();
        let allowed =
            ["no backend listens on game:request:mmo", "the bus refused the message", "the bus is not connected"];
        for text in heard.refusals.values() {
            assert!(allowed.contains(&text.as_str()), "{text}");
        }
        let refusals: BTreeSet<_> = heard.refusals.keys().filter_map(|seq| sent.get(seq)).copied().collect();
        let expected: BTreeSet<_> = sent.values().copied().filter(|number| !refusals.contains(number)).collect();
        eventually(&format!("the accepted requests of user {user}"), || async {
            let requests = requests.lock().unwrap();
            let own: Vec<_> = requests.iter().filter(|(of, _)| *of == user).map(|(_, number)| *number).collect();
            let seen: BTreeSet<_> = own.iter().copied().collect();
            assert_eq!(seen.len(), own.len(), "user {user}: a request was heard twice");
            assert!(seen.is_subset(&expected), "user {user}: a refused request was heard");
            (seen == expected).then_some(())
        })
        .await;
    }
    backends.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(total > 500, "{total}");
    assert_eq!(gateway.get("/readyz").await.0, 200);
    println!("{rate:.0} deliveries a second; {missing} missed and told; {refused} of {total} requests refused");
}
