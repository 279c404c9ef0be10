//! A route that moves from one plugin to another while clients use it.

use futures_util::future::join_all;
use gateway_tests::{Client, Gateway, PATIENCE, Setup, greeter, header, probe};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::time::timeout;

const ROUTE: u8 = 0x20;
const CLIENTS: usize = 20;
/// The number of packets that a client sends before it waits for their replies.
const BURST: u32 = 50;
/// The number of times that the route moves to the other plugin.
const MOVES: usize = 20;

/// Returns a setup in which the plugin `server`, which is `one` or `two`, serves the route. The other plugin serves no
/// route. Each plugin answers with its name.
fn setup(server: &str) -> Setup {
    let routes = |plugin| if plugin == server { format!("[{ROUTE}]") } else { "[]".to_owned() };
    let plugin = |plugin| format!("{plugin}: {{ routes: {}, call_timeout_ms: 10000 }}", routes(plugin));
    let yaml = format!("plugins: {{ directory: plugins, settings: {{ {}, {} }} }}", plugin("one"), plugin("two"));
    let files =
        ["one", "two"].map(|name| (if name == "one" { "one.wasm" } else { "two.wasm" }, greeter(name, name, &[])));
    Setup { yaml, plugins: vec!["system"], files: files.into(), ..Setup::default() }
}

/// Sends bursts until `stop` is set, and asserts that each packet is answered in order. Returns the client, the number
/// of packets, and the number of times that the answering plugin changed.
async fn talk(mut client: Client, stop: Arc<AtomicBool>) -> (Client, u32, usize) {
    let (mut seq, mut changes, mut last) = (0, 0, "one".to_owned());
    while !stop.load(Ordering::Relaxed) {
        client.send_messages((seq + 1..=seq + BURST).map(|seq| header(seq, ROUTE))).await;
        for _ in 0..BURST {
            seq += 1;
            let reply = client.receive().await;
            assert_eq!((reply.seq, reply.route, reply.flags, reply.status), (seq, ROUTE, 1, 0), "{reply:?}");
            if reply.text() != last {
                changes += 1;
                last = reply.text().to_owned();
                assert!(["one", "two"].contains(&&*last), "{reply:?}");
            }
        }
    }
    (client, seq, changes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_moves_to_another_plugin_under_load_loses_no_packet() {
    let gateway = Gateway::start(setup("one")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = join_all((0..CLIENTS).map(|_| gateway.client())).await;
    let mut watcher = gateway.client().await;
    let talking: Vec<_> = clients.into_iter().map(|client| tokio::spawn(talk(client, Arc::clone(&stop)))).collect();
    for server in ["two", "one"].iter().cycle().take(MOVES) {
        gateway.reconfigure(&setup(server));
        watcher.answers_until(ROUTE, 0, server).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for talker in talking {
        let (_client, packets, changes) = timeout(PATIENCE, talker).await.expect("every packet is answered").unwrap();
        // Each move changes the answering plugin at most once for a client. After a move, no packet reaches the old
        // plugin.
        assert!((1..=MOVES).contains(&changes), "{changes} changes of the plugin in {MOVES} moves");
        sent += packets;
    }
    println!("{sent} packets of {CLIENTS} clients in {MOVES} moves");
    gateway.metric_is("gateway_plugin_generation{plugin=\"one\"}", 1.0 + MOVES as f64).await;
    gateway.metric_is("gateway_plugin_generation{plugin=\"two\"}", 1.0 + MOVES as f64).await;
    for reason in ["no_route", "unavailable", "internal"] {
        let errors = format!("gateway_routing_errors_total{{reason={reason:?}}}");
        assert_eq!(gateway.metric(&errors).await, 0.0, "{reason}");
    }
    let rejected = gateway.log_lines().into_iter().find(|line| line.to_string().contains("rejected"));
    assert_eq!(rejected, None);
}

/// The routes between which the plugin `probe` moves.
const PROBED: [u8; 2] = [0x70, 0x71];

/// Returns a setup in which the plugin `probe` serves this route, and delivers on it.
fn probing(route: u8) -> Setup {
    let settings = format!("probe: {{ routes: [{route}], call_timeout_ms: 10000 }}");
    let yaml = format!("plugins: {{ directory: plugins, settings: {{ {settings} }} }}");
    Setup { yaml, plugins: vec!["system"], files: vec![("probe.wasm", probe())], ..Setup::default() }
}

/// Asks for deliveries on both routes in turn, until `stop` is set. Each request is answered by the plugin that served
/// the route when it came. Returns how many requests each route served.
async fn be_delivered_to(mut client: Client, script: &'static str, stop: Arc<AtomicBool>) -> [u32; 2] {
    let mut served = [0; 2];
    while !stop.load(Ordering::Relaxed) {
        for (route, served) in PROBED.into_iter().zip(&mut served) {
            let reply = client.request(route, script.as_bytes()).await;
            if reply.status == 0 {
                let push = client.receive().await;
                assert_eq!((push.route, push.flags, push.text()), (route, 0, "hello"), "{push:?}");
                *served += 1;
            } else {
                assert_eq!((reply.status, reply.text()), (3, &*format!("no plugin serves route 0x{route:02x}")));
            }
        }
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_on_a_route_that_moves_away_during_the_call_is_carried_out() {
    let gateway = Gateway::start(probing(PROBED[0])).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut talking = Vec::new();
    // A call of 20 ms is very likely under way when the route moves.
    for script in ["deliver me always hello", "spin 20;deliver me always hello", "spin 20;deliver me always hello"] {
        talking.push(tokio::spawn(be_delivered_to(gateway.client().await, script, Arc::clone(&stop))));
    }
    let (mut moves, mut watcher) = (0, gateway.client().await);
    for route in [PROBED[1], PROBED[0]].iter().cycle().take(MOVES) {
        gateway.reconfigure(&probing(*route));
        moves += 1;
        gateway.metric_is("gateway_plugin_generation{plugin=\"probe\"}", f64::from(moves) + 1.0).await;
        assert_eq!(watcher.request(*route, b"say served").await.text(), "served");
    }
    stop.store(true, Ordering::Relaxed);
    for talker in talking {
        let served = timeout(PATIENCE, talker).await.expect("every packet is answered").unwrap();
        println!("{served:?} requests were served on the two routes");
        assert!(served[0] > 0 && served[1] > 0, "{served:?}");
    }
    assert_eq!(gateway.metric("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"invalid\"}").await, 0.0);
    assert_eq!(gateway.metric("gateway_routing_errors_total{reason=\"internal\"}").await, 0.0);
}
