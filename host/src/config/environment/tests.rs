//! Tests of environment variables over the file, of secrets in files, and of the configuration as it is shown.

use crate::config::{Config, Environment};
use std::{fs, path::Path};

const FILE: &str = "plugins: { directory: . }\n";

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::of(variables.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))))
}

#[track_caller]
fn parse(text: &str, variables: &[(&str, &str)]) -> Config {
    Config::parse_over(&format!("{FILE}{text}"), &environment(variables)).expect("good variables")
}

#[track_caller]
fn refused(text: &str, variables: &[(&str, &str)], because: &[&str]) {
    let errors = Config::parse_over(&format!("{FILE}{text}"), &environment(variables)).expect_err("a bad variable");
    assert_eq!(errors.len(), because.len(), "{errors:#?}");
    for (error, because) in errors.iter().zip(because) {
        assert!(error.starts_with(because), "{error:?} does not begin with {because:?}");
    }
}

#[track_caller]
fn show(text: &str, variables: &[(&str, &str)]) -> String {
    Config::show(Path::new("gateway.yaml"), text, &environment(variables)).expect("a good file")
}

#[track_caller]
fn has_lines(shown: &str, lines: &[&str]) {
    for line in lines {
        assert!(shown.lines().any(|shown| shown == *line), "there is no line {line:?} in:\n{shown}");
    }
}

#[test]
fn a_variable_takes_the_place_of_the_key_in_the_file() {
    let file = "server: { port: 1, send_queue: 7 }\nredis: { addr: 'a:1', timeout_ms: 500 }\ngames: [{ id: a }]\n";
    let variables = [
        ("GATEWAY_SERVER__PORT", "2"),
        ("GATEWAY_SERVER__ALLOWED_ORIGINS", "[https://a.example]"),
        ("GATEWAY_REDIS__ADDR", "b:2"),
        ("GATEWAY_GAMES", r#"[{"id": "b", "backends": {"trade": {"port": 9}}}, {"id": "c"}]"#),
        ("GATEWAY_PLUGINS__SETTINGS__CHAT__MEMORY_MB", "128"),
        ("GATEWAY_PLUGINS__SETTINGS__CHAT__CONFIG", "{ colour: red }"),
        ("GATEWAY_LIMITS__SESSIONS", "5"),
        ("GATEWAY_LIMITS__ON_USER_LIMIT", "refuse"),
        ("GATEWAY_RESUME", "{}"),
    ];
    let config = parse(file, &variables);
    assert_eq!((config.server.listen.port(), config.server.outbox.messages), (2, 7));
    assert!(config.server.allowed_origins.unwrap().contain("https://a.example"));
    let redis = config.redis.as_ref().unwrap();
    assert_eq!((format!("{redis:?}"), redis.timeout.as_millis()), ("redis://b:2".to_owned(), 500));
    assert_eq!(config.games.iter().map(|game| &*game.id).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(config.games[0].backends["trade"], "localhost:9");
    assert_eq!((config.limits.sessions, config.resume.unwrap().window.as_secs()), (Some(5), 30));
    let chat = parse(file, &variables).plugin("chat", &[1]);
    assert_eq!((chat.limits.memory, chat.limits.handles), (128 << 20, 10_000));
    assert!(chat.json.contains(r#""config":{"colour":"red"}"#), "{}", chat.json);
}

#[test]
fn texts_are_taken_as_they_are() {
    for password in ["0123", "a: b # c", "yes", "", "null", "[x", " spaced "] {
        let config = parse("", &[("GATEWAY_REDIS__PASSWORD", password)]);
        assert_eq!(config.redis.unwrap().password.unwrap_or_default(), password);
    }
}

#[test]
fn a_section_in_a_variable_replaces_that_of_the_file_and_its_keys_go_over_it() {
    let file = "redis: { addr: 'a:1', timeout_ms: 500 }\n";
    let variables = [("GATEWAY_REDIS__ADDR", "c:3"), ("GATEWAY_REDIS", "{ addr: 'b:2', probe_interval_ms: 300 }")];
    let redis = parse(file, &variables).redis.unwrap();
    assert_eq!(format!("{redis:?}"), "redis://c:3");
    assert_eq!((redis.timeout.as_millis(), redis.probe_interval.as_millis()), (2000, 300));
    // Without variables, the file is read as before: a password that looks like a number is a text.
    assert_eq!(parse("redis: { password: 0123 }\n", &[]).redis.unwrap().password.unwrap(), "0123");
    let other = [("GATEWAY_SERVER__PORT", "1")];
    assert_eq!(parse("redis: { password: 0123 }\n", &other).redis.unwrap().password.unwrap(), "0123");
}

#[test]
fn unknown_names_are_errors_with_a_similar_one_that_is_known() {
    let check = |name, because: &str| refused("", &[(name, "1")], &[&format!("{name}: unknown key {because}")]);
    check("GATEWAY_REDIS__ADR", "`redis.adr`, did you mean GATEWAY_REDIS__ADDR? (known here: addr, ");
    check("GATEWAY_REDSI__ADDR", "`redsi`, did you mean GATEWAY_REDIS? (known here: server, ");
    check("GATEWAY_REDIS_ADDR", "`redis_addr`, did you mean GATEWAY_REDIS__ADDR?");
    check("GATEWAY_SERVER__TLS_CERT", "`server.tls_cert`, did you mean GATEWAY_SERVER__TLS__CERT?");
    // Nothing is similar to these.
    for (name, key) in [("GATEWAY_PORT", "port"), ("GATEWAY_CONFIG", "config"), ("GATEWAY_INTERFACE", "interface")] {
        check(name, &format!("`{key}` (known here: server, "));
    }
    check(
        "GATEWAY_PLUGINS__SETTINGS__CHAT__MEMORY",
        "`plugins.settings.chat.memory`, did you mean GATEWAY_PLUGINS__SETTINGS__CHAT__MEMORY_MB?",
    );
    refused("", &[("GATEWAY_", "1")], &["GATEWAY_: unknown key ``"]);
    refused("", &[("GATEWAY_REDIS", "{ adr: x }")], &["GATEWAY_REDIS: unknown key `redis.adr`, did you mean `addr`?"]);
    refused(
        "",
        &[("GATEWAY_GAMES", "[{ idd: x }]")],
        &["GATEWAY_GAMES: unknown key `games[0].idd`, did you mean `id`?"],
    );
}

#[test]
fn wrong_values_name_the_variable() {
    refused("", &[("GATEWAY_LIMITS__SESSIONS", "many")], &["GATEWAY_LIMITS__SESSIONS: limits.sessions: invalid type"]);
    refused("", &[("GATEWAY_SERVER__PORT", "65536")], &["GATEWAY_SERVER__PORT: server.port: invalid value"]);
    refused(
        "",
        &[("GATEWAY_GAMES__0__ID", "a")],
        &["GATEWAY_GAMES__0__ID: games: invalid type: section, expected a list"],
    );
    refused("", &[("GATEWAY_GAMES", "[{ id: a")], &["GATEWAY_GAMES: its value cannot be read: did not find expected"]);
    refused(
        "",
        &[("GATEWAY_REDIS", "{ addr: a, addr: b }")],
        &["GATEWAY_REDIS: its value cannot be read: line 1: `addr` is a duplicate"],
    );
    refused("", &[("GATEWAY_AUTH", "")], &["GATEWAY_AUTH: it is empty: write a value into it, or remove the variable"]);
    refused("", &[("GATEWAY_REDIS", "{ addr: }")], &["GATEWAY_REDIS: `redis.addr` is empty"]);
    let range = "redis.timeout_ms: 5 is not within 100 to 60000 (GATEWAY_REDIS__TIMEOUT_MS sets it)";
    refused("", &[("GATEWAY_REDIS__TIMEOUT_MS", "5"), ("GATEWAY_REDIS__ADDR", "a:1")], &[range]);
    let game = "games[1].id: \"a\" is a duplicate (GATEWAY_GAMES sets it)";
    refused("", &[("GATEWAY_GAMES", "[{ id: a }, { id: a }]")], &[game]);
    let both = "redis: more than one of `addr`, `sentinel` and `cluster` is set, keep one (set in part by \
                GATEWAY_REDIS__ADDR, GATEWAY_REDIS__TIMEOUT_MS)";
    let parts = [("GATEWAY_REDIS__TIMEOUT_MS", "500"), ("GATEWAY_REDIS__ADDR", "a:1"), ("GATEWAY_SERVER__PORT", "1")];
    refused("redis: { cluster: { addrs: ['b:2'] } }\n", &parts, &[both]);
    let nan = "GATEWAY_TRACES__SAMPLE_RATIO: its value cannot be read: line 1: `.nan` and `.inf` are not supported";
    refused("", &[("GATEWAY_TRACES__SAMPLE_RATIO", ".nan")], &[nan]);
    let bytes = Environment::of([("GATEWAY_REDIS__ADDR".to_owned(), None)]);
    let errors = Config::parse_over(FILE, &bytes).expect_err("not UTF-8");
    assert_eq!(errors, ["GATEWAY_REDIS__ADDR: its value is not UTF-8"]);
}

#[test]
fn errors_of_the_file_and_of_variables_are_reported_together() {
    refused(
        "server: { prot: 1, send_queue: 0 }\n",
        &[("GATEWAY_NONSENSE__X", "1")],
        &["line 2: unknown key `server.prot`", "GATEWAY_NONSENSE__X: unknown key `nonsense`", "server.send_queue: 0"],
    );
}

#[test]
fn variables_of_others_are_left_alone() {
    let links = [
        ("GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("GATEWAY_SERVICE_PORT", "8080"),
        ("GATEWAY_SERVICE_PORT_WS", "8080"),
        ("GATEWAY_PORT", "tcp://10.0.0.1:8080"),
        ("GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("GATEWAY_PORT_8080_TCP_PROTO", "tcp"),
        ("GATEWAY_PORT_8080_TCP_PORT", "8080"),
        ("GATEWAY_ADMIN_PORT_8081_UDP_ADDR", "10.0.0.1"),
        ("GATEWAYS__X", "1"),
        ("PATH", "/bin"),
    ];
    assert_eq!(parse("", &links).server.listen.port(), 8080);
}

#[test]
fn a_name_with_two_underscores_is_never_taken_for_a_variable_of_kubernetes() {
    let link = "tcp://10.0.0.1:8080";
    refused("", &[("GATEWAY_SERVER__PORT", link)], &["GATEWAY_SERVER__PORT: server.port: invalid type: string"]);
    refused("", &[("GATEWAY_SERVER__SERVICE_HOST", "x")], &["GATEWAY_SERVER__SERVICE_HOST: unknown key"]);
}

#[test]
fn secrets_come_from_files_without_the_line_break_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let secret = "0123456789abcdef0123456789abcdef";
    for end in ["", "\n", "\r\n"] {
        let path = file("secret", format!("{secret}{end}").as_bytes());
        let text = format!(
            "admin: {{ token_file: '{path}' }}\nauth: {{ jwt_secret_file: '{path}' }}\n\
             redis: {{ username: u, password_file: '{path}' }}\n"
        );
        let config = parse(&text, &[]);
        assert_eq!(config.admin.token.as_deref(), Some(secret));
        assert_eq!(config.auth.unwrap().jwt_secret.as_deref(), Some(secret));
        assert_eq!(config.redis.unwrap().password.as_deref(), Some(secret));
        let sentinel = "{ master: m, addrs: ['a:1'], username: u }";
        let variables = [("GATEWAY_REDIS__SENTINEL", sentinel), ("GATEWAY_REDIS__SENTINEL__PASSWORD_FILE", &*path)];
        let place = parse("", &variables).redis.unwrap().place;
        assert!(matches!(place, crate::config::RedisPlace::Sentinel { password: Some(p), .. } if p == secret));
    }
    let spaces = file("spaces", b" two \n");
    let redis = parse(&format!("redis: {{ password_file: '{spaces}' }}\n"), &[]).redis.unwrap();
    assert_eq!(redis.password.unwrap(), " two ");
}

#[test]
fn a_secret_file_that_cannot_be_used_is_an_error_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("empty"), "\n").unwrap();
    fs::write(path("bytes"), [0xff, 0xfe]).unwrap();
    fs::write(path("large"), vec![b'x'; (64 << 10) + 1]).unwrap();
    fs::write(path("short"), "short").unwrap();
    fs::write(path("lines"), "one\n\n").unwrap();
    fs::write(path("mark"), "\u{feff}one\n").unwrap();
    let check = |name: &str, why: &str| {
        let file = path(name);
        let expected = format!("redis.password_file: {file}: {why}");
        refused(&format!("redis: {{ password_file: '{file}' }}\n"), &[], &[&expected]);
    };
    check(
        "nowhere",
        "it cannot be read: No such file or directory (os error 2): put the secret there for the gateway's",
    );
    check("empty", "it is empty: write the secret into it");
    check("bytes", "it is not UTF-8: write the secret as text");
    check("lines", "it has more than one line: write only the secret into it");
    check("mark", "it begins with a byte order mark: save it as UTF-8 without one");
    check("large", "it has 65537 bytes, and 65536 are the most: correct the path");
    check("", "it is not a file: put a regular file");
    let file = path("short");
    for (keys, place) in [
        (format!("redis: {{ password: x, password_file: '{file}' }}\n"), "redis.password"),
        (
            format!("redis: {{ sentinel: {{ master: m, addrs: ['a:1'], password: x, password_file: '{file}' }} }}\n"),
            "redis.sentinel.password",
        ),
    ] {
        let both = format!("{place}: {place}_file is set as well, keep one of them");
        refused(&keys, &[], &[&both]);
    }
    let token = "at least 16 bytes of visible ASCII";
    let rule = format!("admin.token_file: {file}: {token}");
    refused(&format!("admin: {{ token_file: '{file}' }}\n"), &[], &[&rule]);
    let rule = format!("auth.jwt_secret_file: {file}: at least 32 bytes");
    refused(&format!("auth: {{ jwt_secret_file: '{file}' }}\n"), &[], &[&rule]);
    let variable = ("GATEWAY_ADMIN__TOKEN_FILE", "nowhere/x");
    let gone = "admin.token_file: nowhere/x: it cannot be read";
    refused("admin: { listen: '0.0.0.0:1' }\n", &[variable], &[gone]);
    refused(
        "auth: { jwt_secret: x, jwt_secret_file: nowhere/x }\n",
        &[],
        &["auth.jwt_secret: auth.jwt_secret_file is set as well", "auth.jwt_secret_file: nowhere/x: it cannot be read"],
    );
}

#[test]
fn the_configuration_is_shown_with_the_origin_of_each_value() {
    let file = "server:\n  port: 9000\n\nredis: { addr: 'a:1', timeout_ms: 500 }\nplugins:\n  settings:\n    demo-chat:\n      \
                memory_mb: 8\n";
    let variables =
        [("GATEWAY_REDIS__ADDR", "b:2"), ("GATEWAY_GAMES", "[{ id: mmo }]"), ("GATEWAY_RESUME", "{ bytes: 300 }")];
    let shown = show(file, &variables);
    has_lines(
        &shown,
        &[
            "server:",
            "  host: \"0.0.0.0\"  # default",
            "  port: 9000  # gateway.yaml:2",
            "  # allowed_origins: not set",
            "# auth: not set",
            "  addr: \"b:2\"  # GATEWAY_REDIS__ADDR",
            "  timeout_ms: 500  # gateway.yaml:4",
            "  streams: []  # default",
            "games: [{\"id\":\"mmo\",\"backends\":{}}]  # GATEWAY_GAMES",
            "  bytes: 300  # GATEWAY_RESUME",
            "  window_s: 30  # default",
            "    demo-chat:",
            "      memory_mb: 8  # gateway.yaml:8",
            "      handles: 10000  # default",
            "      config: {}  # default",
        ],
    );
    // What is shown is a configuration with the same meaning.
    let again = Config::parse(&shown.replace("plugins/dist", ".")).expect("it can be read again");
    assert_eq!((again.server.listen.port(), again.games.len()), (9000, 1));
}

#[test]
fn secrets_are_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret").display().to_string();
    fs::write(&file, "hush0-0123456789abcdef0123456789abcdef").unwrap();
    let text = "admin: { token: hush1-0123456789abcdef }\nauth: { jwt_secret: hush2-0123456789abcdef0123456789 }\n\
                redis: { addr: 'rediss://user:hush3@h:1/0', password: hush4 }\n\
                plugins: { settings: { gate: { config: { key: hush5 } } } }\n";
    let shown = show(text, &[("GATEWAY_ADMIN__TOKEN", "hush6-0123456789abcdef")]);
    assert!(!shown.contains("hush"), "{shown}");
    has_lines(
        &shown,
        &[
            "  token: \"(hidden)\"  # GATEWAY_ADMIN__TOKEN",
            "  jwt_secret: \"(hidden)\"  # gateway.yaml:2",
            "  addr: \"rediss://(hidden)@h:1/0\"  # gateway.yaml:3",
            "  password: \"(hidden)\"  # gateway.yaml:3",
            "      config: \"(hidden)\"  # gateway.yaml:4",
        ],
    );
    let sentinel = "redis: { sentinel: { addrs: ['redis://u:hush@a:1', 'b:2'], master: m, password: hush } }\n";
    let shown = show(sentinel, &[("GATEWAY_REDIS__PASSWORD_FILE", &file)]);
    assert!(!shown.contains("hush"), "{shown}");
    let password_file = format!("  password_file: {file:?}  # GATEWAY_REDIS__PASSWORD_FILE");
    has_lines(
        &shown,
        &[
            "  # password: in password_file",
            &password_file,
            "    password: \"(hidden)\"  # gateway.yaml:1",
            "    addrs: [\"redis://(hidden)@a:1\",\"b:2\"]  # gateway.yaml:1",
        ],
    );
}

#[test]
fn what_may_be_secret_in_an_address_is_hidden() {
    let shown_as = |keys: &str, line: &str| {
        let shown = show(keys, &[]);
        assert!(!shown.contains("hush"), "{shown}");
        has_lines(&shown, &[line]);
    };
    let addr = |addr: &str, as_: &str| {
        shown_as(&format!("redis: {{ addr: '{addr}' }}\n"), &format!("  addr: \"{as_}\"  # gateway.yaml:1"));
    };
    addr("user:hush@h:1", "(hidden)@h:1");
    addr("user:hush@hush@h:1", "(hidden)@h:1");
    addr("redis://u:hush@h:1/0?protocol=hush", "redis://(hidden)@h:1/0?(hidden)");
    addr("h:1?x=hush", "h:1?(hidden)");
    addr("redis://h:1/0?x=hush@hush", "redis://(hidden)");
    shown_as(
        "redis: { sentinel: { master: m, addrs: ['u:hush@a:1', 'b:2'] } }\n",
        "    addrs: [\"(hidden)@a:1\",\"b:2\"]  # gateway.yaml:1",
    );
    shown_as("redis: { cluster: { addrs: ['u:hush@a:1'] } }\n", "    addrs: [\"(hidden)@a:1\"]  # gateway.yaml:1");
    shown_as(
        "auth: { jwks_url: 'http://h/keys?api_key=hush' }\n",
        "  jwks_url: \"http://h/keys?(hidden)\"  # gateway.yaml:1",
    );
    shown_as("auth: { jwks_url: 'http://h/keys#hush' }\n", "  jwks_url: \"http://h/keys?(hidden)\"  # gateway.yaml:1");
    // These are no addresses.
    shown_as("auth: { jwt_secret: hush, issuer: 'ops@game?' }\n", "  issuer: \"ops@game?\"  # gateway.yaml:1");
}

#[test]
fn a_value_of_the_wrong_type_is_not_repeated_because_it_may_be_a_secret() {
    let is_hidden = |text: &str, variables: &[(&str, &str)], beginning: &str| {
        let errors = Config::parse_over(&format!("{FILE}{text}"), &environment(variables)).expect_err("a wrong type");
        assert!(errors[0].starts_with(beginning), "{errors:?} does not begin with {beginning:?}");
        assert!(!errors[0].contains("hush") && !errors[0].contains("1234"), "{errors:?}");
    };
    let string = "invalid type: string, expected";
    is_hidden("auth: hush\n", &[], &format!("auth: {string} a section at line 2"));
    is_hidden("auth: 12345678\n", &[], "auth: invalid type: integer, expected");
    is_hidden("redis: 'hu\\\", expected hush'\n", &[], &format!("redis: {string} a section at line 2"));
    is_hidden("admin: { token: [hush] }\n", &[], "admin.token: invalid type: list, expected");
    is_hidden("", &[("GATEWAY_AUTH", "hush")], &format!("GATEWAY_AUTH: auth: {string}"));
    is_hidden("", &[("GATEWAY_ADMIN", "1234.5")], "GATEWAY_ADMIN: admin: invalid type: floating point, expected");
    is_hidden("admin: { token: !!int hush }\n", &[], "admin.token: invalid value: string, expected");
    is_hidden(
        "",
        &[("GATEWAY_SERVER__PORT", "12345678")],
        "GATEWAY_SERVER__PORT: server.port: invalid value: integer,",
    );
    is_hidden(
        "",
        &[("GATEWAY_SERVER__PORT", "!!int hush")],
        "GATEWAY_SERVER__PORT: its value cannot be read: invalid value: string, expected",
    );
    let config = "GATEWAY_PLUGINS__SETTINGS__CHAT__CONFIG";
    is_hidden("", &[(config, "hush")], &format!("{config}: plugins.settings.chat.config: {string}"));
    let whole = Config::parse("hush\n").expect_err("no section");
    assert!(!whole[0].contains("hush") && whole[0].starts_with(string), "{whole:?}");
}
