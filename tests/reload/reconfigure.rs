//! Tests of changes of gateway.yaml while the gateway runs. Most keys take effect on live sessions. The log names the
//! changed keys that need a restart. An invalid file changes nothing.

use gateway_tests::{Gateway, Redis, ReservedPort, Setup, chat_request, eventually, greeter, put};
use serde_json::Value;
use std::fs;

const NO_ROUTE_3: &str = "no plugin serves route 0x03";

/// Returns a setup with these `games` and `plugins.settings`. All other keys have their defaults.
fn setup(games: &str, settings: &str) -> Setup {
    let yaml = format!("games: {games}\nplugins: {{ directory: plugins, settings: {settings} }}");
    Setup { yaml, ..Setup::default() }
}

/// Returns a setup with chat and with a plugin `system` that answers with the `greeting` of this config.
fn greeting(config: &str) -> Setup {
    let settings = format!("{{ system: {{ config: {config} }} }}");
    let files = vec![("system.wasm", greeter("system", "1", &[3]))];
    Setup { plugins: vec!["chat"], files, ..setup("[{ id: mmo }]", &settings) }
}

async fn generation_is(gateway: &Gateway, plugin: &str, generation: f64) {
    gateway.metric_is(&format!("gateway_plugin_generation{{plugin=\"{plugin}\"}}"), generation).await;
}

#[tokio::test]
async fn changes_of_games_take_effect_on_live_sessions() {
    let redis = Redis::start().await;
    let mut requests = redis.subscribe("game:request:rpg").await;
    let setup = |games| {
        let Setup { yaml, .. } = Setup::redis(&redis);
        Setup { yaml: yaml.replace("[{ id: mmo }]", games), ..Setup::default() }
    };
    let gateway = Gateway::start(setup("[{ id: mmo }]")).await;
    let (mut before, rpg) = (gateway.client().await, chat_request("rpg", 7, "hi"));
    assert_eq!(before.request(1, &rpg).await.status, 4);

    gateway.reconfigure(&setup("[{ id: mmo }, { id: rpg }]"));
    generation_is(&gateway, "chat", 2.0).await;
    before.send(1, &rpg).await;
    assert_eq!(requests.next().await, rpg);

    gateway.reconfigure(&setup("[{ id: rpg }]"));
    generation_is(&gateway, "chat", 3.0).await;
    let refused = before.request(1, &chat_request("mmo", 7, "hi")).await;
    assert_eq!((refused.status, refused.text()), (4, "ChatRequest.base.game_id is no game of this gateway"));
    gateway.metric_is("gateway_connections_total", 1.0).await;
}

#[tokio::test]
async fn a_game_that_is_added_shows_in_the_readiness_report() {
    let gateway = Gateway::start(setup("[{ id: mmo }]", "{}")).await;
    let closed = ReservedPort::reserve();
    let backend = format!("{{ host: 127.0.0.1, port: {} }}", closed.number());
    gateway.reconfigure(&setup(&format!("[{{ id: mmo }}, {{ id: rpg, chat_backend: {backend} }}]"), "{}"));
    eventually("both games are in the report", || async {
        let (_, report) = gateway.get("/readyz").await;
        let report: Value = serde_json::from_str(&report).unwrap();
        let ids: Vec<_> = report["games"].as_array().unwrap().iter().map(|game| game["id"].as_str().unwrap()).collect();
        (ids == ["mmo", "rpg"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn routes_in_the_settings_move_a_route() {
    let gateway = Gateway::start(setup("[]", "{}")).await;
    let mut client = gateway.client().await;
    client.assert_alive().await;
    gateway.reconfigure(&setup("[]", "{ system: { routes: [4, 0x50] } }"));
    client.answers_until(3, 3, NO_ROUTE_3).await;
    for route in [4, 0x50] {
        assert_eq!(client.request(route, b"beat").await.text(), "beat");
    }
    gateway.reconfigure(&setup("[]", "{ system: { routes: [3] } }"));
    client.answers_until(3, 0, "again").await;
    assert_eq!(client.request(4, b"beat").await.status, 3);
    gateway.metric_is("gateway_connections_total", 1.0).await;
}

#[tokio::test]
async fn settings_may_exchange_two_routes_without_a_gap() {
    let exchanged = |a: u8, b: u8| setup("[]", &format!("{{ a: {{ routes: [{a}] }}, b: {{ routes: [{b}] }} }}"));
    let files = vec![("a.wasm", greeter("a", "a", &[])), ("b.wasm", greeter("b", "b", &[]))];
    let gateway = Gateway::start(Setup { files, ..exchanged(4, 5) }).await;
    let mut client = gateway.client().await;
    assert_eq!((client.request(4, b"").await.text(), client.request(5, b"").await.text()), ("a", "b"));
    gateway.reconfigure(&exchanged(5, 4));
    let seen = client.answers_until(4, 0, "b").await;
    assert_eq!(seen, [(0, "a".to_owned()), (0, "b".to_owned())]);
    assert_eq!(client.request(5, b"").await.text(), "a");
    let rejected = gateway.log_lines().into_iter().find(|line| line.to_string().contains("rejected"));
    assert_eq!(rejected, None, "a plugin was rejected during the exchange");
}

#[tokio::test]
async fn settings_cannot_take_the_route_of_a_plugin_that_changes_at_the_same_moment() {
    let files = vec![("a.wasm", greeter("a", "a", &[4])), ("b.wasm", greeter("b", "b", &[5]))];
    let gateway = Gateway::start(Setup { files, ..setup("[]", "{}") }).await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(5, b"").await.text(), "b");
    gateway.reconfigure(&setup("[]", "{ a: { routes: [4, 5] }, b: { config: { greeting: hello } } }"));
    client.answers_until(5, 0, "hello").await;
    assert_eq!(client.request(4, b"").await.text(), "a");
    gateway.logged("it claims route 0x05, which plugin `b` serves").await;
}

#[tokio::test]
async fn a_changed_config_reaches_the_plugin() {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(3, b"").await.text(), "hello");
    gateway.reconfigure(&greeting("{ greeting: good evening }"));
    client.answers_until(3, 0, "good evening").await;
    generation_is(&gateway, "system", 2.0).await;
    generation_is(&gateway, "chat", 1.0).await;
    gateway.metric_is("gateway_plugin_reloads_total{plugin=\"system\",outcome=\"swapped\"}", 1.0).await;
}

#[tokio::test]
async fn config_values_keep_their_yaml_types() {
    // The plugin gets its config as JSON with the types of the YAML. So the plugin refuses a number if it expects text.
    let gateway = Gateway::start(greeting("{ greeting: \"17\" }")).await;
    assert_eq!(gateway.client().await.request(3, b"").await.text(), "17");
    gateway.reconfigure(&greeting("{ greeting: 17 }"));
    gateway.logged("config.greeting: invalid type: integer `17`, expected a string").await;
}

#[tokio::test]
async fn if_a_plugin_refuses_its_settings_the_old_settings_stay_and_the_log_names_the_key() {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    let mut client = gateway.client().await;
    gateway.reconfigure(&greeting("{ greetng: good evening }"));
    let line = gateway.logged("plugin rejected").await;
    let message = line["fields"]["message"].as_str().unwrap();
    let why = "it refuses its settings (plugins.settings.system.config): config.greetng: unknown field `greetng`";
    assert!(message.starts_with(&format!("plugin rejected, the last good version serves on: {why}")), "{message}");
    assert_eq!(client.request(3, b"").await.text(), "hello");
    gateway.metric_is("gateway_plugin_reloads_total{plugin=\"system\",outcome=\"rejected\"}", 1.0).await;
    generation_is(&gateway, "system", 1.0).await;

    gateway.reconfigure(&greeting("{ greeting: good evening }"));
    client.answers_until(3, 0, "good evening").await;
}

#[tokio::test]
async fn a_plugin_that_is_swapped_keeps_its_settings() {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    put(&gateway.plugin("system"), &greeter("system", "2", &[3]));
    generation_is(&gateway, "system", 2.0).await;
    assert_eq!(gateway.client().await.request(3, b"").await.text(), "hello");
}

/// Writes an invalid gateway.yaml. Asserts that the running configuration stays in use, that the log contains the
/// reasons, and that the next valid file takes effect.
async fn broken(text: &str, because: &[&str]) {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    let mut client = gateway.client().await;
    let good = fs::read_to_string(gateway.config()).unwrap();
    fs::write(gateway.config(), text.replace("GOOD", &good)).unwrap();
    let line = gateway.logged("configuration rejected, the running one stays").await;
    assert_eq!(line["level"], "ERROR");
    let message = line["fields"]["message"].as_str().unwrap();
    for because in because {
        assert!(message.contains(because), "{message}");
    }
    assert_eq!(client.request(3, b"").await.text(), "hello");
    generation_is(&gateway, "system", 1.0).await;
    gateway.metric_is("gateway_config_rejected", 1.0).await;
    assert_eq!(gateway.get("/readyz").await.0, 200);

    gateway.reconfigure(&greeting("{ greeting: mended }"));
    gateway.metric_is("gateway_config_rejected", 0.0).await;
    client.answers_until(3, 0, "mended").await;
}

#[tokio::test]
async fn broken_yaml_changes_nothing_and_its_line_is_named() {
    broken("server: {}\ngames: [\n", &["gateway.yaml: ", "line 3"]).await;
}

#[tokio::test]
async fn a_duplicate_key_changes_nothing_and_is_named_with_its_line() {
    broken("server: {}\ngames: []\nserver: {}\n", &["gateway.yaml: ", "server", "line 3"]).await;
}

#[tokio::test]
async fn an_unknown_key_changes_nothing_and_its_line_and_the_nearest_key_are_named() {
    broken("GOODgame: []\n", &["gateway.yaml: line 5: unknown key `game`, did you mean `games`?"]).await;
}

#[tokio::test]
async fn a_value_of_the_wrong_type_changes_nothing_and_its_key_and_line_are_named() {
    broken("games: []\nserver:\n  send_queue: many\n", &["gateway.yaml: server.send_queue: ", "line 3"]).await;
}

#[tokio::test]
async fn every_error_of_the_file_is_reported_at_once() {
    let text = "server: { prt: 1, send_queue: 0 }\ngames: [{ id: a }, { id: a }]\nplugins: { directory: nowhere }\n";
    let because = [
        "line 1: unknown key `server.prt`, did you mean `port`?",
        "server.send_queue: 0 is not within 1 to",
        "games[1].id: \"a\" is a duplicate",
        "plugins.directory: there is no directory nowhere",
    ];
    broken(text, &because).await;
}

#[tokio::test]
async fn sighup_drops_nobody_and_a_changed_file_is_read() {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(3, b"").await.text(), "hello");
    gateway.signal("HUP").await;
    gateway.logged("SIGHUP: looking at the files").await;
    gateway.reconfigure(&greeting("{ greeting: changed }"));
    gateway.signal("HUP").await;
    client.answers_until(3, 0, "changed").await;
    gateway.metric_is("gateway_connections_total", 1.0).await;
}

#[tokio::test]
async fn a_file_that_gateway_yaml_names_may_come_after_it() {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    let setup = greeting("{ greeting: later }");
    let yaml = format!("{}\nauth: {{ jwt_secret_file: secret, required: false }}", setup.yaml);
    gateway.reconfigure(&Setup { yaml, ..setup });
    gateway.logged("configuration rejected, the running one stays").await;
    fs::write(gateway.config().with_file_name("secret"), "s".repeat(32)).unwrap();
    gateway.client().await.answers_until(3, 0, "later").await;
    let rejected = |line: &&Value| line.to_string().contains("configuration rejected");
    assert_eq!(gateway.log_lines().iter().filter(rejected).count(), 1, "the same reason is logged once");
}

#[tokio::test]
async fn a_gateway_yaml_of_30_megabytes_is_not_read() {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(3, b"").await.text(), "hello");
    let before = gateway.resident_bytes();
    let line = "games: [{ id: a }]\n";
    fs::write(gateway.config(), line.repeat(30_000_000 / line.len())).unwrap();
    gateway.logged("configuration rejected, the running one stays").await;
    gateway.logged("bytes, and 1048576 are the most").await;
    assert_eq!(client.request(3, b"").await.text(), "hello");
    let growth = gateway.resident_bytes().saturating_sub(before);
    assert!(growth < 8 << 20, "the memory grew by {growth} bytes");
    gateway.reconfigure(&greeting("{ greeting: back }"));
    client.answers_until(3, 0, "back").await;
}

#[tokio::test]
async fn a_removed_gateway_yaml_changes_nothing() {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    fs::remove_file(gateway.config()).unwrap();
    gateway.logged("configuration rejected, the running one stays").await;
    assert_eq!(gateway.client().await.request(3, b"").await.text(), "hello");
    gateway.reconfigure(&greeting("{ greeting: back }"));
    gateway.client().await.answers_until(3, 0, "back").await;
}

#[tokio::test]
async fn keys_that_need_a_restart_are_named_in_a_warning_and_the_others_take_effect() {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    let mut changed = greeting("{ greeting: good evening }");
    changed.server = "send_queue: 7".to_owned();
    changed.yaml += "\nredis: { addr: \"localhost:1\" }";
    gateway.reconfigure(&changed);
    let line = gateway.logged("these settings change with the next start only").await;
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields"]["keys"], "redis, server.send_queue");
    gateway.client().await.answers_until(3, 0, "good evening").await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
}

#[tokio::test]
async fn settings_of_a_plugin_that_is_not_loaded_are_logged() {
    let gateway = Gateway::start(setup("[]", "{ caht: { memory_mb: 32 } }")).await;
    let line = gateway.logged("plugins.settings names a plugin that is not loaded").await;
    assert_eq!((&line["level"], &line["fields"]["plugin"]), (&"WARN".into(), &"caht".into()));
}

#[tokio::test]
async fn a_required_plugin_that_is_not_loaded_is_logged_as_an_error() {
    let required =
        |name| Setup { yaml: format!("plugins: {{ directory: plugins, required: [{name}] }}"), ..setup("[]", "{}") };
    let gateway = Gateway::start(required("chat")).await;
    gateway.client().await.assert_alive().await;
    gateway.reconfigure(&required("caht"));
    let line =
        gateway.logged("plugins.required names a plugin that is not loaded: no session begins until it is").await;
    assert_eq!((&line["level"], &line["fields"]["plugin"]), (&"ERROR".into(), &"caht".into()));
}

#[tokio::test]
async fn a_file_that_becomes_empty_changes_nothing() {
    let because =
        ["gateway.yaml: the file is empty, so every setting has its default", "there is no directory plugins/dist"];
    broken("", &because).await;
}

#[tokio::test]
async fn a_tag_changes_nothing_and_its_line_is_named() {
    broken("games: []\nadmin: { token: !ENV \"${TOKEN}\" }\n", &["line 2: admin.token: tags such as `!x` are not"])
        .await;
}

#[tokio::test]
async fn aliases_that_multiply_texts_cost_no_memory() {
    let gateway = Gateway::start(greeting("{ greeting: hello }")).await;
    let before = gateway.resident_bytes();
    let text = format!("x: &x {}\ny: [{}]\n", "y".repeat(500_000), "*x, ".repeat(400));
    fs::write(gateway.config(), text).unwrap();
    gateway.logged("it has more than 200000 values or 4194304 bytes of text").await;
    let growth = gateway.resident_bytes().saturating_sub(before);
    assert!(growth < 32 << 20, "the memory grew by {growth} bytes");
}
