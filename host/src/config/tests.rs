use super::*;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

#[track_caller]
fn parse(text: &str) -> Config {
    Config::parse(&format!("plugins: {{ directory: . }}\n{text}")).expect("a good file")
}

#[track_caller]
fn refused(text: &str, because: &[&str]) {
    let errors = Config::parse(&format!("plugins: {{ directory: . }}\n{text}")).expect_err("a bad file");
    assert_eq!(errors.len(), because.len(), "{errors:#?}");
    for (error, because) in errors.iter().zip(because) {
        assert!(error.contains(because), "{error:?} does not say {because:?}");
    }
}

#[test]
fn defaults_are_as_documented() {
    let config = parse("");
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:8081");
    assert_eq!((config.server.outbox.messages, config.server.outbox.bytes), (1024, 16 << 20));
    assert_eq!((config.server.receive_budget_bytes, config.server.control_frames_per_s), (256 << 20, 100));
    assert_eq!(config.server.send_timeout.as_secs(), 120);
    assert!(!config.server.outbox.close_when_full && config.redis.is_none());
    let chat = config.plugin("chat", &[1]);
    assert_eq!((chat.limits.call_timeout.as_millis(), chat.limits.memory), (20, 64 << 20));
    assert_eq!(chat.json, r#"{"config":{},"games":[],"routes":[1]}"#);
}

#[test]
fn all_unknown_keys_are_reported_at_once_with_line_and_nearest_key() {
    refused(
        "server:\n  prot: 1\n  hots: x\ngames:\n  - id: a\n    idd: b\nsever: {}\n",
        &[
            "line 8: unknown key `sever`, did you mean `server`?",
            "line 3: unknown key `server.prot`, did you mean `port`?",
            "line 4: unknown key `server.hots`, did you mean `host`?",
            "line 7: unknown key `games[0].idd`, did you mean `id`?",
        ],
    );
}

#[test]
fn unknown_keys_are_found_in_every_section() {
    for section in keys::fields::<raw::File>() {
        let text = match *section {
            "games" => "games: [{ unheard_of: 1 }]\n".to_owned(),
            section => format!("{section}: {{ unheard_of: 1 }}\n"),
        };
        let errors = Config::parse(&text).expect_err(section);
        assert!(errors.iter().any(|error| error.contains("unheard_of")), "{section}: {errors:?}");
    }
}

#[test]
fn all_values_out_of_range_are_reported_at_once() {
    refused(
        "server: { send_queue: 0, ping_interval_s: 60 }\ngames: [{ id: a }, { id: a }, { id: 'a b' }]\n",
        &["server.send_queue: 0", "idle_timeout_s: 60 is not more than", "\"a\" is a duplicate", "\"a b\" is not"],
    );
    refused("server: { port: 70000 }\n", &["server.port"]);
    refused(
        "server: { send_timeout_s: 0, receive_budget_bytes: 16777215, control_frames_per_s: 0 }\n",
        &[
            "server.send_timeout_s: 0",
            "server.receive_budget_bytes: 16777215 is not within 16777216",
            "control_frames_per_s: 0",
        ],
    );
    refused("redis: { addr: 'http://x' }\n", &["redis.addr"]);
    refused("redis: { timeout_ms: 99 }\n", &["redis.timeout_ms: 99 is not within 100 to 60000"]);
    for interval in [0, 99, 60_001] {
        let why = format!("redis.probe_interval_ms: {interval} is not within 100 to 60000");
        refused(&format!("redis: {{ probe_interval_ms: {interval} }}\n"), &[&why]);
    }
    refused("admin: { listen: nonsense }\n", &["admin.listen"]);
    for token in ["''", "0123456789abcde", "'0123456789 abcdef'", "0123456789abcdéf"] {
        refused(&format!("admin: {{ token: {token} }}\n"), &["admin.token: at least 16 bytes of visible ASCII"]);
    }
    refused(
        "admin: { listen: '0.0.0.0:8081' }\n",
        &["admin.listen: other machines can reach 0.0.0.0:8081, so set admin.token, or listen on 127.0.0.1"],
    );
    refused("auth: { jwt_secret: short }\n", &["auth.jwt_secret"]);
}

#[test]
fn origins_subprotocols_and_proxies_are_checked() {
    refused(
        "server: { allowed_origins: [game.example], trusted_proxies: [x], subprotocols: [a b, c, c, bearer.x, ''] }\n",
        &[
            "server.allowed_origins[0]: \"game.example\" is not an origin: write scheme://host",
            "server.subprotocols: \"a b\" is not the name of a subprotocol",
            "server.subprotocols: \"c\" is a duplicate",
            "server.subprotocols: \"bearer.x\" would be read as a client's token, rename it",
            "server.subprotocols: \"\" is not the name of a subprotocol",
            "server.trusted_proxies[0]: \"x\" is not a network",
        ],
    );
    let because = "server.proxy_protocol: it needs the networks of the proxies that send the header, add \
                   server.trusted_proxies";
    refused("server: { proxy_protocol: true }\n", &[because]);
    let server = parse("server: { allowed_origins: [], subprotocols: [b, a] }\n").server;
    assert!(server.allowed_origins.is_some() && parse("").server.allowed_origins.is_none());
    assert_eq!(server.subprotocols, ["b", "a"]);
}

#[test]
fn broken_yaml_names_the_line() {
    refused("server:\n  port: [\n", &["line"]);
}

#[test]
fn a_duplicate_key_is_reported_with_its_line() {
    refused("server:\n  port: 1\n  port: 2\n", &["line 4: server: `port` is a duplicate"]);
    refused("games: [{ id: a, id: b }]\n", &["line 2: games[0]: `id` is a duplicate"]);
}

#[test]
fn a_tag_is_an_error_because_the_parser_would_drop_it() {
    for (text, place) in [
        ("admin: { token: !ENV '${TOKEN}' }\n", "line 2: admin.token: "),
        ("admin:\n  token: !vault |\n    cipher\n", "line 3: admin.token: "),
        ("games: !x [{ id: a }]\n", "line 2: games: "),
        ("games: [!x { id: a }]\n", "line 2: games[0]: "),
        ("plugins2: !x\n", "line 2: plugins2: "),
    ] {
        refused(text, &[&format!("{place}tags such as `!x` are not supported")]);
    }
    assert_eq!(parse("redis: { password: !!str 5 }\n").redis.unwrap().password.unwrap(), "5");
}

#[test]
fn numbers_that_the_types_cannot_hold_are_named_and_not_repeated() {
    let large = "an integer of more than 64 bits: put it in quotes if it is a text";
    for number in ["111111111111111111111", "-111111111111111111111"] {
        let errors = Config::parse(&format!("admin: {{ token: {number} }}\n")).expect_err("too large");
        assert_eq!(errors, [format!("line 1: admin.token: {large}")]);
    }
    let config = "plugins: { directory: ., settings: { a: { config: { x: .inf } } } }\n";
    let errors = Config::parse(config).expect_err("not finite");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("line 1: plugins.settings.a.config.x: `.nan` and `.inf` are not"), "{errors:?}");
    refused("traces: { sample_ratio: .nan }\n", &["line 2: traces.sample_ratio: `.nan` and `.inf` are not supported"]);
    refused("redis: { password: !!int hunter2 }\n", &["redis.password: invalid value: string, expected an integer"]);
}

#[test]
fn errors_of_types_are_in_words_of_yaml() {
    let secret = "jwt_secret: 0123456789abcdef0123456789abcdef";
    for (text, error) in [
        ("auth: x\n", "auth: invalid type: string, expected a section at line 2"),
        ("games: {}\n", "games: invalid type: section, expected a list at line 2"),
        (
            "server: { port: 70000 }\n",
            "server.port: invalid value: integer, expected an integer from 0 to 65535 at line 2",
        ),
        (
            "server: { send_queue: many }\n",
            "server.send_queue: invalid type: string, expected an integer, at least 0 at",
        ),
        (
            &format!("auth: {{ {secret}, audience: {{}} }}\n"),
            "auth: `audience` is neither a text nor a list of texts at line 2",
        ),
        ("games: [ ~ ]\n", "games[0]: invalid type: no value, expected a section at line 2"),
    ] {
        refused(text, &[error]);
    }
}

#[test]
fn a_running_gateway_does_not_follow_a_file_that_has_lost_its_content() {
    let empty = |text: &str| {
        let folder = [("GATEWAY_PLUGINS__DIRECTORY".to_owned(), Some(".".to_owned()))];
        Config::parse_over(text, &Environment::of(folder)).expect("a good file")
    };
    let is_empty = "the file is empty, and it was not before: restart the gateway if all defaults are meant";
    for text in ["", "\n", "# auth: {}\n", "---\n"] {
        assert_eq!(parse("").lost_in(&empty(text)), Some(is_empty), "{text:?}");
        assert_eq!(empty("").lost_in(&empty(text)), None, "{text:?}");
    }
    // What was read last counts, and not what was read at the start.
    assert_eq!(empty("").with_live_settings_of(parse("")).lost_in(&empty("")), Some(is_empty));
    let auth = parse("auth: { jwt_secret: 0123456789abcdef0123456789abcdef }\n");
    assert!(auth.lost_in(&parse("")).unwrap().starts_with("auth: the section is missing, and tokens are checked now"));
    assert_eq!((auth.lost_in(&auth), parse("").lost_in(&auth), parse("").lost_in(&empty("{}"))), (None, None, None));
}

#[test]
fn both_listeners_need_addresses_of_their_own() {
    for (host, admin) in [
        ("127.0.0.1", "127.0.0.1:9000"),
        ("0.0.0.0", "127.0.0.1:9000"),
        ("'::'", "127.0.0.1:9000"),
        ("'::1'", "'[::1]:9000'"),
    ] {
        let text = format!("server: {{ host: {host}, port: 9000 }}\nadmin: {{ listen: {admin} }}\n");
        refused(&text, &["is in use by server.host and server.port, which are"]);
    }
    parse("server: { host: 127.0.0.1, port: 9000 }\nadmin: { listen: '127.0.0.1:9001' }\n");
    parse("server: { host: 127.0.0.1, port: 9000 }\nadmin: { listen: '127.0.0.2:9000' }\n");
    parse("server: { host: 0.0.0.0, port: 9000 }\nadmin: { listen: '[::1]:9000' }\n");
    parse("server: { host: 127.0.0.1, port: 0 }\nadmin: { listen: '127.0.0.1:0' }\n");
}

#[test]
fn a_directory_that_is_not_there_is_shown_with_its_whole_path() {
    let nowhere = |path: &str| Config::parse(&format!("plugins: {{ directory: '{path}' }}\n")).expect_err("nowhere");
    let here = std::env::current_dir().unwrap();
    let relative =
        "plugins.directory: there is no directory nowhere: relative paths begin at the working directory, so";
    assert_eq!(nowhere("nowhere"), [format!("{relative} this is {}/nowhere", here.display())]);
    assert_eq!(nowhere("/nowhere"), ["plugins.directory: there is no directory /nowhere"]);
    let cache = Config::parse("plugins: { directory: ., cache_directory: '' }\n").expect_err("empty");
    assert_eq!(cache, ["plugins.cache_directory: it is empty: leave the key out for the user's cache"]);
}

#[test]
fn an_address_of_redis_that_can_never_work_is_refused() {
    refused("redis: { addr: 'redis://h:0' }\n", &["redis.addr: port 0 is no port"]);
    refused("redis: { addr: 'rediss://h:1/#insecure' }\n", &["redis.addr: the certificate of Redis is always checked"]);
    let socket = "redis.cluster.addrs[1]: only redis.addr may be a socket of this machine";
    refused("redis: { cluster: { addrs: ['a:1', 'unix:///run/redis.sock'] } }\n", &[socket]);
    let redis = parse("redis: { addr: 'unix:///run/redis.sock?db=1' }\n").redis.unwrap();
    assert_eq!(format!("{redis:?}"), "unix:///run/redis.sock?(hidden)");
}

#[test]
fn the_url_for_reconnects_is_parsed_and_not_repeated() {
    for url in ["http://b", "wss://", "wss://a b", "wss://user:word@b", "wss://b#hush", "wss://:8080", "b"] {
        let error = "server.reconnect.url: it is not a ws:// or wss:// URL without user, password and fragment";
        let text = format!("plugins: {{ directory: . }}\nserver: {{ reconnect: {{ url: \"{url}\" }} }}\n");
        assert_eq!(Config::parse(&text).map(|_| ()), Err(vec![error.to_owned()]), "{url}");
    }
    parse("server: { reconnect: { url: 'wss://b:1/ws?key=x' } }\n");
}

#[test]
fn keys_that_need_a_restart_are_listed() {
    let old = parse("server: { port: 1 }\n");
    let new = parse("server: { port: 2 }\nredis: {}\ngames: [{ id: a }]\n");
    assert_eq!(old.restart_needed(&new), ["redis", "server.port"]);
}

#[test]
fn secrets_are_not_shown() {
    let config = parse("redis: { addr: 'redis://:secret@db:1', password: covert }\n");
    let shown = format!("{:?}", config.redis);
    assert!(shown.contains("db:1") && !shown.contains("secret") && !shown.contains("covert"), "{shown}");
    let query = parse("redis: { addr: 'redis://db:1/0?x=secret@secret' }\n");
    assert_eq!(format!("{:?}", query.redis.unwrap()), "redis://(hidden)");
    assert_eq!(format!("{config:?}"), "Config");
}

#[test]
fn a_key_without_a_value_is_an_error_because_it_would_switch_something_off() {
    refused(
        "auth: # jwt_secret: x\nserver:\n  tls:\n  allowed_origins:\nlimits: { sessions: }\n",
        &[
            "line 2: `auth` is empty: write what belongs to it, or remove it",
            "line 4: `server.tls` is empty",
            "line 5: `server.allowed_origins` is empty",
            "line 6: `limits.sessions` is empty",
        ],
    );
    let errors = Config::parse("plugins:\n  directory: .\n  settings:\n    chat:\n").expect_err("empty settings");
    assert_eq!(errors, ["line 4: `plugins.settings.chat` is empty: write what belongs to it, or remove it"]);
    refused("games: [{ id: a, backends: { x: } }]\n", &["`games[0].backends.x` is empty", "backends.x.port"]);
}

#[test]
fn redis_is_a_server_or_the_master_of_sentinels_or_a_cluster() {
    let config =
        parse("redis: { sentinel: { master: main, addrs: ['a:1', 'redis://u:secret@b:2'], password: hidden } }\n");
    let shown = format!("{:?}", config.redis.unwrap());
    assert_eq!(shown, "main of the Sentinels redis://a:1, redis://(hidden)@b:2");
    let errors =
        |keys: &str| Config::parse(&format!("plugins: {{ directory: . }}\nredis: {{ {keys} }}\n")).expect_err(keys);
    assert_eq!(
        errors("sentinel: {}"),
        [
            "redis.sentinel.master: the name of the master is required",
            "redis.sentinel.addrs: at least one address is required"
        ]
    );
    let both = "addr: 'a:1', sentinel: { master: main, addrs: ['a:1'] }";
    let twice = "redis: more than one of `addr`, `sentinel` and `cluster` is set, keep one";
    assert_eq!(errors(both), [twice]);
    assert_eq!(errors("sentinel: { master: main, addrs: ['a:1'] }, cluster: { addrs: ['a:1'] }"), [twice]);
    assert_eq!(errors("cluster: {}"), ["redis.cluster.addrs: at least one address is required"]);
    assert!(parse("redis: { cluster: { addrs: ['a:1'] }, streams: [a] }\n").redis.unwrap().streams.contains("a"));
    let shown =
        format!("{:?}", parse("redis: { cluster: { addrs: ['a:1', 'redis://u:secret@b:2'] } }\n").redis.unwrap());
    assert_eq!(shown, "the Cluster of redis://a:1, redis://(hidden)@b:2");
    let wrong = errors("sentinel: { master: main, addrs: ['a:1', 'http://b'] }");
    assert!(wrong[0].starts_with("redis.sentinel.addrs[1]: neither host:port nor"), "{wrong:?}");
}

#[test]
fn a_file_over_1_mib_is_refused_without_reading_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    std::fs::File::create(&path).unwrap().set_len((1 << 20) + 1).unwrap();
    let error = Config::read(&path).expect_err("it is too large");
    assert_eq!(error.errors, ["it has 1048577 bytes, and 1048576 are the most"]);
}

#[test]
fn at_most_20_errors_are_listed() {
    let text = (0..10_000).fold(String::new(), |text, key| text + &format!("unknown{key}: 1\n"));
    let error = Config::parse_file(Path::new("gateway.yaml"), &text).expect_err("a bad file");
    assert_eq!(error.errors.len(), 21);
    assert!(error.errors[19].starts_with("line 20: unknown key `unknown19`"), "{:?}", error.errors[19]);
    // There are 10,001 errors: the directory plugins/dist does not exist here either.
    assert_eq!(error.errors[20], "and 9981 more");
}

/// Returns the shortest of three times that it takes to refuse this many unknown keys.
fn time_of_unknown_keys(count: usize) -> Duration {
    let text = (0..count).fold(String::new(), |text, key| text + &format!("unknown{key}: 1\n"));
    let time = || {
        let began = Instant::now();
        Config::parse(&text).expect_err("a bad file");
        began.elapsed()
    };
    (0..3).map(|_| time()).min().unwrap_or_default()
}

#[test]
fn the_time_to_refuse_unknown_keys_grows_with_their_number_and_not_with_its_square() {
    let (few, many) = (time_of_unknown_keys(1_000), time_of_unknown_keys(10_000));
    assert!(many < few * 40, "{few:?} for 1,000 and {many:?} for 10,000");
}

#[test]
fn the_time_to_check_long_lists_grows_with_their_length() {
    let names = (0..60_000).fold(String::new(), |names, name| names + &format!("n{name}, "));
    let began = Instant::now();
    parse(&format!("server: {{ subprotocols: [{names}] }}\nredis: {{ streams: [{names}] }}\n"));
    refused(
        &format!("server: {{ plugin_headers: [{names}] }}\n"),
        &["server.plugin_headers: 60000 headers, and 32 are the most"],
    );
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn aliases_that_multiply_values_are_refused_before_they_are_expanded() {
    let list = format!("x: &x [{}]\n", "1, ".repeat(100_000));
    let bomb = format!("{list}y: [{}]\n", "*x, ".repeat(100_000));
    let too_many = "it has more than 200000 values or 4194304 bytes of text: use fewer aliases";
    refused(&bomb, &[too_many]);
    let text = format!("x: &x {}\ny: [{}]\n", "y".repeat(500_000), "*x, ".repeat(400));
    refused(&text, &[too_many]);
    let keys = format!("x: &x {{ {}: 1 }}\ny: [{}]\n", "y".repeat(1000), "*x, ".repeat(5000));
    refused(&keys, &[too_many]);
    let laughs = (1..30).fold("a0: &a0 [lol]\n".to_owned(), |text, level| {
        text + &format!("a{level}: &a{level} [*a{0}, *a{0}, *a{0}]\n", level - 1)
    });
    refused(&laughs, &["repetition limit exceeded"]);
}

#[test]
fn compile_limits_are_read_from_the_file() {
    let config = parse("").compile;
    assert_eq!((config.cpu.as_secs(), config.memory), (60, 2 << 30));
    let text = "plugins: { directory: ., cache_directory: /var/cache/x, compile_cpu_s: 5, compile_memory_mb: 512 }\n";
    let config = Config::parse(text).expect("a good file");
    assert_eq!(config.compile, CompileLimits { cpu: Duration::from_secs(5), memory: 512 << 20 });
    assert_eq!(config.cache_directory, Some(PathBuf::from("/var/cache/x")));
    let errors = Config::parse("plugins: { directory: ., compile_cpu_s: 0, compile_memory_mb: 1 }\n").expect_err("bad");
    assert!(errors[0].contains("plugins.compile_cpu_s: 0 is not within 1 to 3600"), "{errors:?}");
    assert!(errors[1].contains("plugins.compile_memory_mb: 1 is not within 256 to"), "{errors:?}");
}

#[test]
fn state_has_a_limit_and_may_have_a_file() {
    let config = parse("");
    assert_eq!((config.state_file.clone(), config.plugin("chat", &[1]).limits.state), (None, 64 << 20));
    let text = "plugins: { directory: ., state_file: state.json, settings: { chat: { state_mb: 4096 } } }\n";
    let stored = Config::parse(text).expect("a good file");
    assert_eq!(stored.state_file, Some(PathBuf::from("state.json")));
    assert_eq!(stored.plugin("chat", &[1]).limits.state, 4 << 30);
    assert_eq!(config.restart_needed(&stored), ["plugins.state_file"]);
    assert_eq!(config.with_live_settings_of(stored).plugin("chat", &[1]).limits.state, 4 << 30);
    for (plugins, error) in [
        ("state_file: nowhere/x", "plugins.state_file: there is no directory nowhere, create it"),
        ("state_file: ''", "plugins.state_file: \"\" is not the path of a file"),
        ("state_file: src", "plugins.state_file: \"src\" is not the path of a file"),
        ("settings: { a: { state_mb: 0 } }", "plugins.settings.a.state_mb: 0 is not within 1 to 4096"),
        ("settings: { a: { state_mb: 4097 } }", "plugins.settings.a.state_mb: 4097 is not within 1 to 4096"),
    ] {
        let errors = Config::parse(&format!("plugins: {{ directory: ., {plugins} }}\n")).expect_err("a bad file");
        assert_eq!(errors, [error]);
    }
}

#[test]
fn headers_for_plugins_are_names_in_lower_case() {
    assert_eq!(parse("").server.plugin_headers, [""; 0]);
    let config = parse("server: { plugin_headers: [Authorization, cookie, X-Forwarded-For, Sec-WebSocket-Key] }\n");
    let headers = ["authorization", "cookie", "x-forwarded-for", "sec-websocket-key"];
    assert_eq!(config.server.plugin_headers, headers);
    assert_eq!(parse("").restart_needed(&config), ["server.plugin_headers"]);
    refused(
        "server: { plugin_headers: [a, 'b c', '', A, 'é'] }\n",
        &[
            "server.plugin_headers: \"b c\" is not the name of a header",
            "\"\" is not the name",
            "\"A\" is a duplicate",
            "\"é\" is not the name",
        ],
    );
    let auth = "auth: { jwt_secret: 0123456789abcdef0123456789abcdef }\n";
    refused(
        &format!("{auth}server: {{ plugin_headers: [cookie, AUTHORIZATION] }}\n"),
        &["server.plugin_headers: \"AUTHORIZATION\" is checked by `auth`, and plugins see its claims"],
    );
    let names = |count: usize| (0..count).map(|name| format!("x{name}")).collect::<Vec<_>>().join(", ");
    assert_eq!(parse(&format!("server: {{ plugin_headers: [{}] }}\n", names(32))).server.plugin_headers.len(), 32);
    refused(
        &format!("server: {{ plugin_headers: [{}] }}\n", names(33)),
        &["server.plugin_headers: 33 headers, and 32 are the most"],
    );
}

#[test]
fn a_game_has_any_number_of_backends_and_chat_backend_is_one_of_them() {
    let yaml = "games: [{ id: a, backends: { auction: { port: 1 } }, chat_backend: { host: c, port: 2 } }]\n";
    let backends: Vec<_> = parse(yaml).games.remove(0).backends.into_iter().collect();
    let backend = |name: &str, address: &str| (name.to_owned(), address.to_owned());
    assert_eq!(backends, [backend("auction", "localhost:1"), backend("chat", "c:2")]);
    let both = "games: [{ id: a, backends: { chat: { port: 1 } }, chat_backend: { port: 2 } }]\n";
    refused(both, &["games[0].chat_backend: `backends.chat` is the same backend"]);
    refused(
        "games: [{ id: a, backends: { x: {} } }]\n",
        &["games[0].backends.x.port: a port from 1 to 65535 is required"],
    );
    refused(
        "games: [{ id: a, backends: { 'x y': { port: 1 } } }]\n",
        &["games[0].backends: \"x y\" is not 1 to 64 characters"],
    );
    let unknown = "games: [{ id: a, backends: { x: { port: 1, prot: 1 } } }]\n";
    refused(unknown, &["unknown key `games[0].backends.x.prot`"]);
}

#[test]
fn the_file_in_the_repository_shows_the_defaults() {
    let shown: raw::File = serde_yaml::from_str(include_str!("../../../gateway.yaml")).expect("it parses");
    let chat = shown.plugins.settings["chat"].clone();
    let claimed = raw::PluginSettings { routes: Some(vec![1]), ..raw::PluginSettings::default() };
    let max_payload_bytes = Some(settings::DEFAULT_MAX_PAYLOAD_BYTES);
    assert_eq!(chat, raw::PluginSettings { max_payload_bytes, ..claimed });
    let plugins = raw::Plugins { settings: shown.plugins.settings.clone(), ..raw::Plugins::default() };
    assert_eq!(shown, raw::File { games: shown.games.clone(), plugins, ..raw::File::default() });
}

#[test]
fn sessions_end_with_their_connections_unless_they_may_be_resumed() {
    use crate::delivery::outbox::ReplayLimits;
    let none = parse("");
    assert_eq!((none.resume, none.server.outbox.replay, none.server.reconnect), (None, None, None));
    let defaults = parse("resume: {}\nserver: { reconnect: {} }");
    let resume = Resume { window: Duration::from_secs(30), total_bytes: 256 << 20 };
    assert_eq!(defaults.resume, Some(resume));
    assert_eq!(defaults.server.outbox.replay, Some(ReplayLimits { messages: 256, bytes: 65_536 }));
    assert_eq!(defaults.server.reconnect, Some(Reconnect { url: String::new(), rate_per_s: 500 }));
    let all = "resume: { window_s: 1, messages: 2, bytes: 300, total_bytes: 4000 }\n\
               server: { reconnect: { url: \"wss://b.example/ws\", rate_per_s: 5 } }";
    let all = parse(all);
    assert_eq!(all.resume, Some(Resume { window: Duration::from_secs(1), total_bytes: 4000 }));
    assert_eq!(all.server.outbox.replay, Some(ReplayLimits { messages: 2, bytes: 300 }));
    let url = "wss://b.example/ws".to_owned();
    assert_eq!(all.server.reconnect, Some(Reconnect { url, rate_per_s: 5 }));
    refused(
        "resume: { window_s: 0, messages: 32769, bytes: 255, total_bytes: 254 }\n\
         server: { reconnect: { url: \"http://b\", rate_per_s: 0 } }",
        &[
            "server.reconnect.rate_per_s: 0 is not within 1 to",
            "server.reconnect.url: it is not a ws:// or wss:// URL",
            "resume.window_s: 0 is not within 1 to",
            "resume.messages: 32769 is not within 1 to 32768",
            "resume.bytes: 255 is not within 256 to",
            "resume.total_bytes: 254 is not within 255 to",
        ],
    );
}

#[test]
fn limits_are_off_by_default_and_parsed_with_their_units() {
    use crate::delivery::limits::{Limits, OnUserLimit, Rates};
    assert_eq!(parse("").limits, Limits::default());
    assert_eq!(parse("limits: {}").limits, Limits::default());
    let all = "limits: { sessions: 1, sessions_per_ip: 2, handshakes_per_s_per_ip: 3, handshakes: 4, \
               sessions_per_user: 5, on_user_limit: refuse, packets_per_s: 6, bytes_per_s: 7, new_sessions_per_s: 8 }";
    let expected = Limits {
        sessions: Some(1),
        sessions_per_ip: Some(2),
        handshakes_per_s_per_ip: Some(3),
        handshakes: Some(4),
        sessions_per_user: Some(5),
        new_sessions_per_s: Some(8),
        on_user_limit: OnUserLimit::Refuse,
        rates: Rates { packets_per_s: 6, bytes_per_s: 7 },
    };
    assert_eq!(parse(all).limits, expected);
    assert_eq!(parse("limits: { on_user_limit: close_oldest }").limits.on_user_limit, OnUserLimit::CloseOldest);
}

#[test]
fn limits_of_0_negative_or_not_a_number_are_errors() {
    let keys = [
        "sessions",
        "sessions_per_ip",
        "handshakes_per_s_per_ip",
        "handshakes",
        "sessions_per_user",
        "packets_per_s",
        "bytes_per_s",
    ];
    for key in keys {
        refused(&format!("limits: {{ {key}: 0 }}"), &[&format!("limits.{key}: 0 is not within 1 to ")]);
        for wrong in ["-1", "1.5", "many", "4294967296"] {
            let errors = Config::parse(&format!("plugins: {{ directory: . }}\nlimits:\n  {key}: {wrong}\n"));
            let errors = errors.expect_err("a bad file");
            assert_eq!(errors.len(), 1, "{errors:#?}");
            assert!(errors[0].contains(&format!("limits.{key}")) && errors[0].contains("line 3"), "{errors:#?}");
        }
    }
    refused("limits: { on_user_limit: closeoldest }", &["limits.on_user_limit"]);
    refused("limits:\n  session: 1\n", &["line 3: unknown key `limits.session`, did you mean `sessions`?"]);
}

#[test]
fn limits_change_without_a_restart() {
    let (before, after) =
        (parse(""), parse("limits: { sessions: 7, on_user_limit: refuse }\nadmin: { listen: '127.0.0.1:1' }"));
    assert_eq!(before.restart_needed(&after), ["admin.listen"]);
    assert_eq!(before.with_live_settings_of(after).limits.sessions, Some(7));
}

#[test]
fn streams_are_topics_or_their_beginnings() {
    let streams = parse("redis: { streams: ['game:request:*', news], stream_max_len: 500 }\n").redis.unwrap().streams;
    let of = |topic: &str| streams.contains(topic);
    assert_eq!(["news", "game:request:mmo", "game:request:"].map(of), [true; 3]);
    assert_eq!(["newsletter", "new", "game:request", "game:*"].map(of), [false; 4]);
    assert_eq!((streams.is_empty(), streams.max_len, streams.replicas), (false, 500, 0));
    let none = parse("redis: {}\n").redis.unwrap().streams;
    assert!(none.is_empty() && !none.contains("") && none.max_len == 100_000, "{none:?}");
    refused(
        "redis: { streams: [a, '', 'a*b', a, '**'], stream_max_len: 99, stream_replicas: 17 }\n",
        &[
            "redis.streams: \"\" is not a topic: write its name, or its beginning and one `*`",
            "redis.streams: \"a*b\" is not a topic",
            "redis.streams: \"a\" is a duplicate",
            "redis.streams: \"**\" is not a topic",
            "redis.stream_max_len: 99 is not within 100 to 100000000",
            "redis.stream_replicas: 17 is not within 0 to 16",
        ],
    );
    for own in ["'*'", "'gate*'", "'gateway:*'", "'gateway:c*'", "'gateway:host'"] {
        refused(&format!("redis: {{ streams: [{own}] }}\n"), &["covers topics that gateways use themselves"]);
    }
    parse("redis: { streams: ['gateway:control', 'gateways*', 'game*'] }\n");
    refused("redis: { stream_replicas: 1 }\n", &["redis.stream_replicas: it does nothing without streams"]);
    refused("redis: { streams: broadcast }\n", &["redis.streams"]);
}

#[test]
fn the_address_of_the_admin_listener_is_found_whatever_else_is_wrong() {
    let set = |variables: &[(&str, &str)]| {
        Environment::of(variables.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))))
    };
    let default = raw::Admin::default().listen;
    for (text, expected) in [
        ("admin: { listen: \"127.0.0.1:9\" }\nserver: { port: x }\nunknown: 1", "127.0.0.1:9"),
        ("admin: { token: short }", &*default),
        ("admin: [", &*default),
        ("", &*default),
    ] {
        assert_eq!(written::admin_listen(text, &set(&[])), expected, "{text}");
    }
    let text = "admin: { listen: \"127.0.0.1:9\" }";
    let wrong = ("GATEWAY_SERVER__PORT", "x");
    assert_eq!(written::admin_listen(text, &set(&[("GATEWAY_ADMIN__LISTEN", "127.0.0.1:8"), wrong])), "127.0.0.1:8");
    assert_eq!(written::admin_listen(text, &set(&[("GATEWAY_ADMIN", "{ listen: \"127.0.0.1:7\" }")])), "127.0.0.1:7");
}
