//! Tests of what `gateway check` finds besides errors of the configuration and the plugins: the machine, the
//! certificate, and a real Redis.

use gateway_tests::{Certificates, Gateway, Redis, dist, in_time};
use std::{fs, process::Output};
use tempfile::TempDir;
use tokio::process::Command;

const BAD_CONFIG: Option<i32> = Some(78);
const GOOD: Option<i32> = Some(0);

/// What the check says about the plugin of [`folder`].
const PLUGIN: &str = "system.wasm: ok, system 0.1.0\n";

fn folder(yaml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::copy(dist("system"), folder.path().join("plugins/system.wasm")).unwrap();
    fs::write(folder.path().join("gateway.yaml"), format!("plugins: {{ directory: plugins }}\n{yaml}\n")).unwrap();
    folder
}

async fn output(mut gateway: Command, arguments: &[&str], yaml: &str) -> Output {
    let folder = folder(yaml);
    gateway.arg("check").args(arguments).current_dir(&folder).kill_on_drop(true);
    in_time("the end of the check", gateway.output()).await.unwrap()
}

async fn check(arguments: &[&str], yaml: &str) -> (Option<i32>, String) {
    let output = output(Gateway::command(None), arguments, yaml).await;
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Asserts that the check exits with this code, and prints lines with these beginnings before that of the plugin. With
/// `--strict`, warnings fail it. With `--offline`, it finds nothing.
async fn finds(yaml: &str, code: Option<i32>, beginnings: &[&str]) {
    let (ended, printed) = check(&[], yaml).await;
    let findings = printed.strip_suffix(PLUGIN).unwrap_or_else(|| panic!("{printed}"));
    let lines: Vec<_> = findings.lines().collect();
    assert_eq!((ended, lines.len()), (code, beginnings.len()), "{printed}");
    for (line, beginning) in lines.iter().zip(beginnings) {
        assert!(line.starts_with(beginning), "{line:?} does not begin with {beginning:?}");
    }
    let strict = if beginnings.is_empty() { GOOD } else { BAD_CONFIG };
    assert_eq!(check(&["--strict"], yaml).await, (strict, printed));
    assert_eq!(check(&["--offline", "--strict"], yaml).await, (GOOD, PLUGIN.to_owned()));
}

fn redis_yaml(redis: &Redis, keys: &str) -> String {
    format!("redis: {{ addr: '127.0.0.1:{}', timeout_ms: 30000{keys} }}", redis.port)
}

async fn configure(redis: &Redis, name: &str, value: &str) {
    redis.run(redis::cmd("CONFIG").arg("SET").arg(name).arg(value)).await;
}

#[tokio::test]
async fn a_redis_that_is_well_set_up_is_not_mentioned_and_one_that_is_away_is_a_warning() {
    let mut redis = Redis::start().await;
    finds(&redis_yaml(&redis, ""), GOOD, &[]).await;
    redis.kill().await;
    let away = format!("warning: redis.addr: 127.0.0.1:{} cannot be reached (", redis.port);
    finds(&redis_yaml(&redis, ""), GOOD, &[&away]).await;
}

#[tokio::test]
async fn a_redis_that_hangs_is_a_warning() {
    let redis = Redis::start().await;
    redis.signal("STOP").await;
    let yaml = format!("redis: {{ addr: '127.0.0.1:{}', timeout_ms: 500 }}", redis.port);
    let hangs =
        format!("warning: redis.addr: 127.0.0.1:{} does not answer within redis.timeout_ms, 500 ms", redis.port);
    finds(&yaml, GOOD, &[&hangs]).await;
}

#[tokio::test]
async fn a_wrong_password_is_an_error() {
    let redis = Redis::start_with_password("right").await;
    let refused = format!("redis.addr: 127.0.0.1:{} refuses the login (", redis.port);
    finds(&redis_yaml(&redis, ", password: wrong"), BAD_CONFIG, &[&refused]).await;
    finds(&redis_yaml(&redis, ""), BAD_CONFIG, &[&refused]).await;
    finds(&redis_yaml(&redis, ", password: right"), GOOD, &[]).await;
}

#[tokio::test]
async fn a_user_without_the_rights_to_be_examined_is_a_warning() {
    let redis = Redis::start().await;
    let rules = ["SETUSER", "gate", "on", ">pass", "&*", "+hello", "+ping", "+publish"];
    redis.run(redis::cmd("ACL").arg(&rules)).await;
    let limited = format!("warning: redis.addr: 127.0.0.1:{} cannot be examined (", redis.port);
    finds(&redis_yaml(&redis, ", username: gate, password: pass"), GOOD, &[&limited]).await;
    // Without the right to read settings, the rest is examined.
    redis.run(redis::cmd("ACL").arg(&["SETUSER", "gate", "+info", "+time"])).await;
    finds(&redis_yaml(&redis, ", username: gate, password: pass"), GOOD, &[]).await;
}

#[tokio::test]
async fn a_replica_is_an_error() {
    let (master, replica) = (Redis::start().await, Redis::start().await);
    replica.replicate(Some(&master)).await;
    let found = format!("redis.addr: 127.0.0.1:{} is a replica, and what is published there", replica.port);
    finds(&redis_yaml(&replica, ""), BAD_CONFIG, &[&found]).await;
}

#[tokio::test]
async fn the_buffer_of_subscribers_has_to_fit_a_message() {
    let redis = Redis::start().await;
    let place = format!("warning: redis.addr: 127.0.0.1:{}", redis.port);
    configure(&redis, "client-output-buffer-limit", "pubsub 1mb 512kb 60").await;
    let small = format!("{place} drops a gateway for which more than 1048576 bytes wait (client-output-buffer-limit");
    finds(&redis_yaml(&redis, ""), GOOD, &[&small]).await;
    finds(&format!("{}\nserver: {{ max_message_bytes: 1048576 }}", redis_yaml(&redis, "")), GOOD, &[]).await;
    configure(&redis, "client-output-buffer-limit", "pubsub 0 0 0").await;
    let none = format!("{place} has no limit in client-output-buffer-limit pubsub");
    finds(&redis_yaml(&redis, ""), GOOD, &[&none]).await;
}

#[tokio::test]
async fn streams_need_a_redis_that_keeps_what_it_has_accepted() {
    let redis = Redis::start().await;
    let place = format!("warning: redis.addr: 127.0.0.1:{}", redis.port);
    let streams = redis_yaml(&redis, ", streams: [broadcast]");
    let restart = format!("{place} loses its streams when it restarts: set appendonly yes");
    finds(&streams, GOOD, &[&restart]).await;
    configure(&redis, "appendonly", "yes").await;
    let crash = format!("{place} may lose the last entries of streams when it crashes (appendfsync everysec)");
    finds(&streams, GOOD, &[&crash]).await;
    configure(&redis, "appendfsync", "always").await;
    finds(&streams, GOOD, &[]).await;
    configure(&redis, "maxmemory-policy", "allkeys-lru").await;
    let evicts = format!("{place} removes whole streams when its memory is full (maxmemory-policy allkeys-lru)");
    finds(&streams, GOOD, &[&evicts]).await;
    finds(&redis_yaml(&redis, ""), GOOD, &[]).await;
    configure(&redis, "maxmemory-policy", "noeviction").await;
    let replicas = format!("{place} has 0 replicas, and redis.stream_replicas is 1");
    finds(&redis_yaml(&redis, ", streams: [broadcast], stream_replicas: 1"), GOOD, &[&replicas]).await;
}

#[tokio::test]
async fn a_cluster_is_not_a_single_server_nor_the_other_way_round() {
    let redis = Redis::start().await;
    let cluster = format!("redis: {{ cluster: {{ addrs: ['127.0.0.1:{}'] }}, timeout_ms: 30000 }}", redis.port);
    let single = format!("redis.cluster.addrs[0]: 127.0.0.1:{} is not a node of a Cluster", redis.port);
    finds(&cluster, BAD_CONFIG, &[&single]).await;
    let node = Redis::start_with_arguments(&["--cluster-enabled", "yes"]).await;
    let place = format!("warning: redis.addr: 127.0.0.1:{} is a node of a Cluster", node.port);
    finds(&redis_yaml(&node, ""), GOOD, &[&place]).await;
}

#[tokio::test]
async fn sentinels_that_are_away_are_a_warning() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let yaml = format!("redis: {{ sentinel: {{ master: main, addrs: ['127.0.0.1:{port}'] }} }}");
    finds(&yaml, GOOD, &["warning: redis.sentinel: no master is known ("]).await;
}

#[tokio::test]
async fn too_few_open_files_are_a_warning() {
    for (yaml, found) in [
        ("", "warning: open files: the limit of open files, 256, allows 128 sessions next to 64 handshakes"),
        (
            "limits: { sessions: 1000 }",
            "warning: open files: limits.sessions is 1000, but the limit of open files, 256",
        ),
    ] {
        let output = output(Gateway::command(Some(256)), &[], yaml).await;
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), GOOD, "{printed}");
        assert!(printed.starts_with(found) && printed.ends_with(PLUGIN), "{printed}");
    }
    let enough = output(Gateway::command(Some(256)), &["--strict"], "limits: { sessions: 100 }").await;
    assert_eq!(enough.status.code(), GOOD, "{enough:?}");
}

#[tokio::test]
async fn a_file_of_state_that_keeps_the_gateway_from_starting_is_an_error() {
    for (file, why) in [
        ("gateway.yaml", "is not the state of plugins: move it away to start with empty state"),
        ("/proc/state.json", "cannot be written to /proc/state.json (plugins.state_file)"),
    ] {
        let folder = folder("");
        fs::write(
            folder.path().join("gateway.yaml"),
            format!("plugins: {{ directory: plugins, state_file: {file} }}\n"),
        )
        .unwrap();
        let mut gateway = Gateway::command(None);
        gateway.arg("check").current_dir(&folder).kill_on_drop(true);
        let output = in_time("the end of the check", gateway.output()).await.unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.starts_with("plugins.state_file: ") && printed.contains(why), "{printed}");
        assert_eq!(output.status.code(), BAD_CONFIG, "{printed}");
    }
}

#[tokio::test]
async fn settings_of_a_plugin_that_is_not_there_are_a_warning() {
    let folder = folder("");
    let yaml = "plugins: { directory: plugins, settings: { sytem: { memory_mb: 8 }, system: {} } }\n";
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    for (arguments, code) in [(&["check"][..], GOOD), (&["check", "--strict"], BAD_CONFIG)] {
        let mut gateway = Gateway::command(None);
        gateway.args(arguments).current_dir(&folder).kill_on_drop(true);
        let output = in_time("the end of the check", gateway.output()).await.unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains("warning: plugins.settings: no file has the plugin sytem\n"), "{printed}");
        assert_eq!(output.status.code(), code, "{printed}");
    }
}

/// Issues a certificate that began in 2020 and ends after this many days.
async fn old_certificate(certificates: &Certificates, days: u32) -> String {
    let folder = certificates.server().with_file_name("");
    let authority = "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nnew_certs_dir = .\ndefault_md = sha256\n\
                     rand_serial = yes\npolicy = any\n[any]\ncommonName = supplied\n";
    fs::write(folder.join("ca.cnf"), authority).unwrap();
    fs::write(folder.join("index.txt"), "").unwrap();
    let end =
        Command::new("date").args(["-u", "-d", &format!("+{days} days"), "+%Y%m%d%H%M%SZ"]).output().await.unwrap();
    let end = String::from_utf8(end.stdout).unwrap();
    let sign =
        "ca -batch -notext -config ca.cnf -cert authority.pem -keyfile authority.key -in server.csr -out old.pem";
    let validity = format!("-startdate 20200101000000Z -enddate {end} -extfile openssl.cnf -extensions server");
    certificates.openssl(&format!("{sign} {validity}")).await;
    let (cert, key) = (folder.join("old.pem"), certificates.server_key());
    format!("server: {{ tls: {{ cert: '{}', key: '{}' }} }}", cert.display(), key.display())
}

#[tokio::test]
async fn a_certificate_that_is_due_is_a_warning() {
    let certificates = Certificates::generate().await;
    let (code, printed) = check(&[], &old_certificate(&certificates, 5).await).await;
    assert_eq!(code, GOOD, "{printed}");
    let is_due = printed.starts_with("warning: server.tls.cert: ")
        && printed.contains("old.pem: the certificate expires in 4 days and 23 hours, at 20");
    assert!(is_due, "{printed}");
    let later = old_certificate(&certificates, 16).await;
    assert_eq!(check(&["--strict"], &later).await, (GOOD, PLUGIN.to_owned()));
}

#[tokio::test]
async fn the_result_is_also_written_as_json() {
    let redis = Redis::start().await;
    let (code, printed) = check(&["--format", "json"], &redis_yaml(&redis, ", streams: [broadcast]")).await;
    let result: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &result["passed"]), (GOOD, &true.into()), "{result}");
    let plugins = serde_json::json!([{ "file": "system.wasm", "serving": "system 0.1.0" }]);
    assert_eq!(result["plugins"], plugins, "{result}");
    let finding = &result["findings"][0];
    assert_eq!((&finding["severity"], &finding["place"]), (&"warning".into(), &"redis.addr".into()), "{result}");
    assert!(finding["text"].as_str().unwrap().contains("loses its streams"), "{result}");
    let (code, printed) = check(&["--format", "json", "--strict"], &redis_yaml(&redis, ", streams: [broadcast]")).await;
    let result: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &result["passed"]), (BAD_CONFIG, &false.into()), "{result}");
}
