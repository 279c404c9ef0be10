//! Tests of files and directories that are unreadable for a while, that change without pause, or that the gateway must
//! not read.

use crate::{ECHO, NO_ROUTE, answers, cpu_ticks, generation, reloads};
use gateway_tests::{
    Gateway, PATIENCE, Setup, eventually, greeter, put,
    wire::{UPGRADE, Wire},
};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::symlink,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::time;

async fn readiness(gateway: &Gateway) -> (u16, Value) {
    let (status, body) = gateway.get("/readyz").await;
    (status, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn plugins_serve_on_while_their_directory_is_missing() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client().await;
    let offloaded = gateway.plugins().with_file_name("offloaded");
    fs::rename(gateway.plugins(), &offloaded).unwrap();
    let line = gateway.logged("the plugins directory cannot be read: No such file or directory").await;
    assert_eq!(line["level"], "ERROR");
    // In 2 s, the gateway makes more than two scans of the directory. Each scan fails.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        client.assert_alive().await;
    }
    let (status, report) = readiness(&gateway).await;
    assert_eq!(status, 200, "the gateway has to stay ready while its plugins serve");
    let error = report["directory_error"].as_str().unwrap();
    assert!(error.starts_with("the plugins directory cannot be read: No such file"), "{error}");

    fs::rename(&offloaded, gateway.plugins()).unwrap();
    gateway.logged("the plugins directory can be read again").await;
    put(&gateway.plugin("new"), &greeter("new", "1", &[0x41]));
    client.answers_until(0x41, 0, "1").await;
    gateway.metric_is(&reloads("system", "removed"), 0.0).await;
    gateway.metric_is(&generation("system"), 1.0).await;
}

/// The gateway treats a file as removed only if the error is "not found". A symbolic link to itself causes another
/// error.
#[tokio::test]
async fn a_plugin_serves_on_while_its_file_cannot_be_examined() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client().await;
    fs::remove_file(gateway.plugin("system")).unwrap();
    symlink("system.wasm", gateway.plugin("system")).unwrap();
    gateway.logged("a plugin file cannot be looked at, what was loaded serves on: Too many levels").await;
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        client.assert_alive().await;
    }
    fs::remove_file(gateway.plugin("system")).unwrap();
    client.answers_until(3, 3, NO_ROUTE).await;
    gateway.metric_is(&reloads("system", "removed"), 1.0).await;
}

#[tokio::test]
async fn files_that_were_unreadable_for_lack_of_descriptors_are_read_later() {
    let yaml = |greeting: &str| {
        let settings = format!("settings: {{ new: {{ config: {{ greeting: {greeting} }} }} }}");
        format!("plugins: {{ directory: plugins, {settings} }}")
    };
    let setup = |greeting| Setup { yaml: yaml(greeting), open_files: Some(64), ..Setup::default() };
    let gateway = Gateway::start(setup("first")).await;
    let mut client = gateway.client().await;
    let mut hoard = Vec::new();
    // The kernel accepts these connections for the gateway. Handshakes that are not finished would make room.
    for _ in 0..80 {
        let mut wire = Wire::connect(gateway.address).await;
        wire.send(UPGRADE.as_bytes()).await;
        hoard.push(wire);
    }
    gateway.logged("cannot accept connections").await;
    put(&gateway.plugin("new"), &greeter("new", "1", &[0x41]));
    gateway.reconfigure(&setup("second"));
    let in_vain = |line: &Value| {
        let line = line.to_string();
        line.contains("Too many open files") && !line.contains("cannot accept connections")
    };
    gateway.logged_within(PATIENCE, 0, in_vain, "Too many open files").await;
    client.assert_alive().await;
    assert_eq!(client.request(0x41, b"").await.status, 3);

    drop(hoard);
    client.answers_until(0x41, 0, "second").await;
}

#[tokio::test]
async fn links_to_kernel_files_are_not_read_and_do_not_delay_the_stop() {
    let mut gateway = Gateway::start(Setup::default()).await;
    symlink("/proc/kmsg", gateway.plugin("kmsg")).unwrap();
    symlink("/dev/zero", gateway.plugin("zero")).unwrap();
    gateway.logged("\"file\":\"kmsg.wasm\"").await;
    gateway.logged("plugin rejected: it is not a file: put a regular file").await;
    gateway.client().await.assert_alive().await;
    let asked = Instant::now();
    gateway.signal("TERM").await;
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(asked.elapsed() < PATIENCE / 3, "{:?}", asked.elapsed());
}

/// A thread that writes to files without pause until this value is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Busy {
    fn start(files: Vec<std::path::PathBuf>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut round = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                files.iter().for_each(|file| fs::write(file, round.to_string()).unwrap());
                thread::sleep(Duration::from_micros(200));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

#[tokio::test]
async fn files_that_change_without_pause_delay_neither_other_files_nor_the_stop() {
    let mut gateway = Gateway::start(Setup::default()).await;
    let other = gateway.plugins().join("notes.txt");
    let busy = Busy::start(vec![gateway.plugin("busy"), other, gateway.config().with_file_name("gateway.log")]);
    let mut client = gateway.client().await;
    put(&gateway.plugin("new"), &greeter("new", "1", &[0x41]));
    client.answers_until(0x41, 0, "1").await;
    fs::remove_file(gateway.plugin("system")).unwrap();
    assert_eq!(client.answers_until(3, 3, NO_ROUTE).await, answers(&[(0, ECHO), (3, NO_ROUTE)]));
    let asked = Instant::now();
    gateway.signal("TERM").await;
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(asked.elapsed() < PATIENCE / 3, "{:?}", asked.elapsed());
    drop(busy);
}

#[tokio::test]
async fn files_that_change_without_pause_take_little_processor_time_and_memory() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client().await;
    let before = gateway.resident_bytes();
    let others = vec![gateway.plugins().join("notes.txt"), gateway.config().with_file_name("gateway.log")];
    // The files that are not the gateway's own may take 20 % of a processor, and a plugin's file 25 %.
    for (files, most) in [(others, 100), (vec![gateway.plugin("busy")], 125)] {
        let busy = Busy::start(files);
        let ticks = cpu_ticks(&gateway);
        // The test measures the gateway over this time, so there is no condition to wait for.
        time::sleep(Duration::from_secs(5)).await;
        let spent = cpu_ticks(&gateway) - ticks;
        drop(busy);
        println!("{spent} ticks of 500, and {most} are the most");
        assert!(spent <= most, "{spent} of 500 ticks of processor time, and {most} are the most");
    }
    let growth = gateway.resident_bytes().saturating_sub(before);
    assert!(growth < 8 << 20, "the memory grew by {growth} bytes");
    client.assert_alive().await;
}

#[tokio::test]
async fn a_log_at_trace_in_a_watched_directory_does_not_feed_itself() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::copy(gateway_tests::dist("system"), folder.path().join("plugins/system.wasm")).unwrap();
    let yaml =
        "server: { host: 127.0.0.1, port: 0 }\nadmin: { listen: \"127.0.0.1:0\" }\nplugins: { directory: plugins }\n";
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let log = folder.path().join("plugins/gateway.log");
    let mut command = Gateway::command(None);
    command.arg("run").current_dir(&folder).env("RUST_LOG", "trace").stdin(Stdio::null());
    command.stderr(fs::File::create(&log).unwrap()).kill_on_drop(true);
    let _child = command.spawn().unwrap();
    let text = || fs::read_to_string(&log).unwrap();
    eventually("the log line with the plugins that serve", || async {
        text().contains("serving plugins=system").then_some(())
    })
    .await;
    let lines = || text().lines().count();
    let before = lines();
    // The test measures the log of an idle gateway, so there is no condition to wait for.
    time::sleep(Duration::from_secs(3)).await;
    let more = lines() - before;
    assert!(more < 100, "{more} lines in 3 s: {}", &text()[text().len() - 2000..]);
}

#[tokio::test]
async fn readyz_is_503_while_no_plugin_serves() {
    let gateway = Gateway::start(Setup { plugins: Vec::new(), ..Setup::default() }).await;
    put(&gateway.plugin("bad"), b"rubbish");
    gateway.logged("plugin rejected").await;
    let reason = eventually("the file is in the report", || async {
        let (status, report) = readiness(&gateway).await;
        assert_eq!(status, 503, "{report}");
        report["reasons"][0].as_str().filter(|reason| reason.contains("bad.wasm")).map(str::to_owned)
    })
    .await;
    assert!(reason.starts_with("no plugin serves (bad.wasm: it is not a WebAssembly component"), "{reason}");
    put(&gateway.plugin("good"), &greeter("good", "1", &[0x41]));
    eventually("/readyz 200", || async { (readiness(&gateway).await.0 == 200).then_some(()) }).await;
}

#[tokio::test]
async fn plugin_names_that_are_no_longer_used_leave_neither_threads_nor_metrics() {
    let gateway = Gateway::start(Setup::default()).await;
    let threads = || fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap().count();
    let before = threads();
    for version in 0..40 {
        let name = format!("renamed-{version}");
        let slow = serde_json::json!({ "name": name, "version": "1", "routes": [0x41] });
        put(&gateway.plugin("renamed"), &gateway_tests::variant(&slow));
        eventually(&name, || async { (gateway.metric(&generation(&name)).await == 1.0).then_some(()) }).await;
        // Each packet comes from a new session, since the gateway throttles a session whose packets make plugins fail.
        gateway.client().await.request(0x41, b"loop").await;
    }
    fs::remove_file(gateway.plugin("renamed")).unwrap();
    gateway.client().await.answers_until(0x41, 3, "no plugin serves route 0x41").await;
    eventually("the threads have ended", || async { (threads() <= before + 4).then_some(()) }).await;
    let (_, metrics) = gateway.get("/metrics").await;
    let left = (0..40).filter(|version| metrics.contains(&format!("\"renamed-{version}\""))).count();
    assert!(left <= 16, "{left} names are left in the metrics");
}
