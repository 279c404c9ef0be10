//! Tests of small files that make the compiler use very much time, memory or stack. A child process compiles each file
//! under limits. So a bad file is rejected and has no other effect.

use gateway_tests::{Gateway, PATIENCE, Setup, bombs, component, dist, eventually, greeter, in_time, put, wat};
use serde_json::Value;
use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Stdio, thread, time::Instant};
use tokio::process::Command;

/// The scheduling class of normal threads, and the one for idle processors (sched(7)).
const SCHED_OTHER: i64 = 0;
const SCHED_IDLE: i64 = 5;

/// Returns a setup with chat and system, with an empty compilation cache, and with these keys of `plugins`.
fn setup(keys: &str) -> Setup {
    let yaml = format!("games: [{{ id: mmo }}]\nplugins: {{ directory: plugins, cache_directory: cache, {keys} }}");
    Setup { yaml, ..Setup::default() }
}

fn chat() -> Vec<u8> {
    fs::read(dist("chat")).unwrap()
}

/// Returns a plugin that takes more than a minute of processor time to compile.
fn endless_to_compile() -> Vec<u8> {
    bombs::functions(&greeter("bomb", "1", &[0x40]), 999_000)
}

async fn reasons(gateway: &Gateway) -> (u16, Vec<String>) {
    let (status, body) = gateway.get("/readyz").await;
    let report: Value = serde_json::from_str(&body).unwrap();
    (status, serde_json::from_value(report["reasons"].clone()).unwrap())
}

/// Returns the ids of the gateway's child processes.
fn children(gateway: &Gateway) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

async fn a_child_works(gateway: &Gateway) -> u32 {
    eventually("a child that compiles", || async { children(gateway).first().copied() }).await
}

/// Returns whether all threads of a process have this scheduling class, and a nice value above 0 if the class is
/// [`SCHED_OTHER`]. The process may end meanwhile.
fn is_scheduled(pid: u32, class: i64) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let stats: Vec<_> = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok()).collect();
    let is_scheduled = |stat: &String| {
        // The first of these fields is the third of the line. The nineteenth is the nice value, and field 41 the class.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let [nice, found] = [16, 38].map(|field| fields[field].parse::<i64>().unwrap());
        found == class && (class != SCHED_OTHER || nice > 0)
    };
    !stats.is_empty() && stats.iter().all(is_scheduled)
}

async fn is_gone(pid: u32) {
    let process = PathBuf::from(format!("/proc/{pid}"));
    eventually("the end of the child", || async { (!process.exists()).then_some(()) }).await;
}

/// Puts the file next to plugins that serve. Asserts that the file is rejected for this reason, and that the other
/// plugins serve on.
async fn rejected(keys: &str, bomb: &[u8], because: &str) {
    let gateway = Gateway::start(setup(keys)).await;
    let mut client = gateway.client().await;
    put(&gateway.plugin("bomb"), bomb);
    let line = gateway.logged("plugin rejected").await;
    assert_eq!(line["fields"]["file"], "bomb.wasm");
    let message = line["fields"]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("plugin rejected: {because}")), "{message}");
    client.assert_alive().await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
    assert_eq!(children(&gateway), [0_u32; 0]);
    put(&gateway.plugin("new"), &greeter("new", "1", &[0x41]));
    client.answers_until(0x41, 0, "1").await;
}

#[tokio::test]
async fn types_that_are_nested_too_deeply_are_rejected() {
    let because = "it is nested too deeply: the compiler needs more than 4 MiB of stack";
    rejected("compile_cpu_s: 60", &bombs::nested(&chat(), 100_000), because).await;
}

#[tokio::test]
async fn a_core_module_whose_wit_is_nested_too_deeply_is_rejected() {
    let because = "it is nested too deeply: the compiler needs more than 4 MiB of stack";
    rejected("compile_cpu_s: 60", &bombs::nested_wit(100_000), because).await;
}

/// Asserts that a gateway whose only plugin has this file starts, twice. `/readyz` has the reason why it is not ready, or
/// it is ready if there is no reason.
async fn survives_alone(bomb: Vec<u8>, because: Option<&str>) {
    let files = vec![("bomb.wasm", bomb)];
    let setup = Setup { plugins: Vec::new(), files, ..setup("compile_cpu_s: 60") };
    let mut gateway = Gateway::start_without_waiting(setup).await;
    for again in [true, false] {
        assert_eq!(gateway.get("/healthz").await.0, 200);
        gateway.logged("\"message\":\"serving\"").await;
        let (status, reasons) = reasons(&gateway).await;
        match because {
            Some(because) => {
                assert_eq!((status, reasons.len()), (503, 1), "{reasons:?}");
                assert!(reasons[0].contains(&format!("bomb.wasm: {because}")), "{reasons:?}");
            }
            None => assert_eq!((status, reasons), (200, Vec::new())),
        }
        gateway.signal("TERM").await;
        assert_eq!(gateway.exit().await.code(), Some(0));
        if again {
            gateway = gateway.again().await;
        }
    }
}

#[tokio::test]
async fn a_bomb_that_is_the_only_plugin_ends_no_start() {
    let because = Some("it is nested too deeply: the compiler needs more than 4 MiB of stack");
    let greeter = greeter("bomb", "1", &[0x40]);
    survives_alone(bombs::nested(&greeter, 1000), None).await;
    survives_alone(bombs::nested(&greeter, 100_000), because).await;
    survives_alone(bombs::nested_wit(100_000), because).await;
}

#[tokio::test]
async fn a_function_that_takes_too_much_processor_time_is_rejected() {
    let because = "to compile and start it takes more than 1 s of processor time (`plugins.compile_cpu_s`)";
    rejected("compile_cpu_s: 1", &component(&bombs::loops(&wat("endless"))), because).await;
}

#[tokio::test]
async fn many_data_segments_are_rejected() {
    let because = "to compile and start it takes more than 256 MiB of memory (`plugins.compile_memory_mb`)";
    let bomb = bombs::segments(&greeter("bomb", "1", &[0x40]), 10);
    rejected("compile_cpu_s: 60, compile_memory_mb: 256", &bomb, because).await;
}

#[tokio::test]
async fn a_file_that_takes_too_much_processor_time_is_rejected() {
    let because = "to compile and start it takes more than 1 s of processor time (`plugins.compile_cpu_s`)";
    rejected("compile_cpu_s: 1", &endless_to_compile(), because).await;
}

#[tokio::test]
async fn instances_that_double_at_each_level_are_rejected() {
    let because = "to compile and start it takes more than 256 MiB of memory (`plugins.compile_memory_mb`)";
    let bomb = component(&bombs::doubled(&wat("endless"), 40));
    rejected("compile_memory_mb: 256", &bomb, because).await;
}

#[tokio::test]
async fn more_than_16_memories_are_rejected() {
    let memories = "(memory 0)".repeat(16);
    let bomb = component(&wat("endless").replace("(table $one", &format!("{memories} (table $one")));
    let because = "it defines 17 memories, and 16 are the most that a plugin may have";
    rejected("compile_cpu_s: 60", &bomb, because).await;
}

#[tokio::test]
async fn more_than_64_tables_are_rejected() {
    let tables = "(table 0 funcref)".repeat(63);
    let bomb = component(&wat("endless").replace("(table $one", &format!("{tables} (table $one")));
    let because = "it defines 65 tables, and 64 are the most that a plugin may have";
    rejected("compile_cpu_s: 60", &bomb, because).await;
}

#[tokio::test]
async fn the_memories_of_all_instances_in_a_component_count_together() {
    let text = wat("endless");
    let text = text.trim_end().strip_suffix(')').unwrap();
    let one = "(core instance (instantiate $empty))";
    let bomb = component(&format!("{text} (core module $empty (memory 0)) {})", one.repeat(16)));
    let because = "its `start` failed: resource limit exceeded: memory count too high at 17";
    rejected("compile_cpu_s: 60", &bomb, because).await;
}

/// Returns a plugin with two inner components that have this many core instances each. One component may have at most
/// 1000 instances.
fn inner_instances(count: usize) -> Vec<u8> {
    let text = wat("endless");
    let text = text.trim_end().strip_suffix(')').unwrap();
    let instances = "(core instance (instantiate $empty))".repeat(count);
    let inner = format!("(component $inner (core module $empty) {instances})");
    component(&format!("{text} {inner} {})", "(instance (instantiate $inner))".repeat(2)))
}

#[tokio::test]
async fn more_than_1024_core_instances_are_rejected_and_1000_serve() {
    let because = "its `start` failed: resource limit exceeded: instance count too high at 1025";
    rejected("compile_cpu_s: 60", &inner_instances(515), because).await;
    let gateway = Gateway::start(setup("compile_cpu_s: 60")).await;
    put(&gateway.plugin("endless"), &inner_instances(500));
    gateway.logged("plugin loaded\",\"plugin\":\"endless").await;
}

/// The gateway loads the code that the child process has compiled, and has a larger stack. So the gateway survives
/// every depth that the child survives.
#[tokio::test]
async fn the_gateway_survives_every_depth_that_its_child_survives() {
    let gateway = Gateway::start(setup("compile_cpu_s: 60")).await;
    let mut client = gateway.client().await;
    let mut served = Vec::new();
    for depth in [900, 1000, 1500, 1800, 100_000] {
        let lines = gateway.log_lines().len();
        put(&gateway.plugin("deep"), &bombs::nested(&greeter("deep", &depth.to_string(), &[0x42]), depth));
        let message = eventually(&format!("the outcome of depth {depth}"), || async {
            let lines = gateway.log_lines().into_iter().skip(lines);
            let messages = lines.map(|line| line["fields"]["message"].as_str().unwrap_or_default().to_owned());
            let outcomes = ["plugin rejected", "plugin loaded", "plugin swapped"];
            messages.into_iter().find(|message| outcomes.iter().any(|outcome| message.starts_with(outcome)))
        })
        .await;
        if !message.starts_with("plugin rejected") {
            served.push(depth);
            assert_eq!(client.request(0x42, b"").await.text(), depth.to_string());
        }
        client.assert_alive().await;
    }
    assert!(served.starts_with(&[900, 1000]) && !served.contains(&100_000), "{served:?}");
}

#[tokio::test]
async fn a_file_that_is_slow_to_compile_delays_nothing_else() {
    let gateway = Gateway::start(setup("compile_cpu_s: 600")).await;
    let mut client = gateway.client().await;
    put(&gateway.plugin("bomb"), &endless_to_compile());
    gateway.logged("\"file\":\"bomb.wasm\",\"message\":\"compiling\"").await;
    let child = a_child_works(&gateway).await;
    eventually("the child to give way", || async { is_scheduled(child, SCHED_IDLE).then_some(()) }).await;
    // The other processors are free for the threads that serve players.
    let processors = thread::available_parallelism().unwrap().get();
    let threads = format!("RAYON_NUM_THREADS={}", (processors / 2).max(1));
    let environment = fs::read(format!("/proc/{child}/environ")).unwrap();
    assert!(environment.split(|byte| *byte == 0).any(|variable| variable == threads.as_bytes()), "{threads}");

    put(&gateway.plugin("new"), &greeter("new", "1", &[0x41]));
    client.answers_until(0x41, 0, "1").await;
    let changed = setup("compile_cpu_s: 600, settings: { new: { config: { greeting: hello } } }");
    gateway.reconfigure(&changed);
    client.answers_until(0x41, 0, "hello").await;
    client.assert_alive().await;
    let (status, body) = gateway.get("/readyz").await;
    let report: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &report["plugins"][0]["compiling"]), (200, &true.into()), "{report}");

    fs::remove_file(gateway.plugin("bomb")).unwrap();
    is_gone(child).await;
    client.assert_alive().await;
    assert_eq!(gateway.log_lines().iter().find(|line| line.to_string().contains("rejected")), None);
}

#[tokio::test]
async fn a_file_gets_a_share_of_a_processor_that_is_never_idle() {
    let gateway = Gateway::start(setup("compile_cpu_s: 600")).await;
    // All of it is on one processor, so that other tests keep the others.
    let mut pinning = Command::new("taskset");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = allowed.split(['-', ',']).next().unwrap();
    pinning.args(["--all-tasks", "--cpu-list", "--pid", first]).arg(gateway.pid().to_string());
    assert!(in_time("taskset", pinning.stdout(Stdio::null()).status()).await.unwrap().success());
    let busy = "while :; do :; done";
    let _busy =
        Command::new("taskset").args(["--cpu-list", first, "sh", "-c", busy]).kill_on_drop(true).spawn().unwrap();
    put(&gateway.plugin("bomb"), &endless_to_compile());
    let child = a_child_works(&gateway).await;
    eventually("a child with a low priority", || async {
        children(&gateway).into_iter().find(|other| *other != child && is_scheduled(*other, SCHED_OTHER))
    })
    .await;
    assert_eq!(gateway.log_lines().iter().find(|line| line.to_string().contains("rejected")), None);
    fs::remove_file(gateway.plugin("bomb")).unwrap();
    eventually("the end of the children", || async { children(&gateway).is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_compilation_is_aborted_when_its_file_is_replaced() {
    let gateway = Gateway::start(setup("compile_cpu_s: 600")).await;
    let mut client = gateway.client().await;
    put(&gateway.plugin("bomb"), &endless_to_compile());
    let child = a_child_works(&gateway).await;
    put(&gateway.plugin("bomb"), &greeter("bomb", "2", &[0x40]));
    is_gone(child).await;
    client.answers_until(0x40, 0, "2").await;
}

#[tokio::test]
async fn a_compilation_goes_on_if_the_one_before_was_aborted() {
    let gateway = Gateway::start(setup("compile_cpu_s: 600")).await;
    let mut client = gateway.client().await;
    // The second file takes longer to compile than the gateway takes to see the third.
    let second = bombs::functions(&greeter("bomb", "2", &[0x40]), 10_000);
    for (file, version) in [(endless_to_compile(), 1), (second, 2), (greeter("bomb", "3", &[0x40]), 3)] {
        put(&gateway.plugin("bomb"), &file);
        eventually("the file is compiled", || async { (logged(&gateway, "compiling").len() >= version).then_some(()) })
            .await;
    }
    client.answers_until(0x40, 0, "3").await;
    // The last line may still be on its way.
    let compiled = eventually("two compilations", || async {
        let compiled = logged(&gateway, "plugin compiled");
        (compiled.len() >= 2).then_some(compiled)
    })
    .await;
    assert_eq!(compiled.iter().map(|fields| &fields["version"]).collect::<Vec<_>>(), ["2", "3"]);
}

#[tokio::test]
async fn a_compilation_that_goes_on_delays_the_next_one_for_ten_seconds_at_most() {
    let gateway = Gateway::start(setup("compile_cpu_s: 600")).await;
    let mut client = gateway.client().await;
    for version in 1..=2 {
        put(&gateway.plugin("bomb"), &endless_to_compile());
        eventually("the file is compiled", || async { (logged(&gateway, "compiling").len() >= version).then_some(()) })
            .await;
    }
    put(&gateway.plugin("bomb"), &greeter("bomb", "3", &[0x40]));
    client.answers_until(0x40, 0, "3").await;
}

#[tokio::test]
async fn a_version_that_is_withdrawn_while_it_compiles_is_compiled_no_further() {
    let gateway = Gateway::start(setup("compile_cpu_s: 600")).await;
    let mut client = gateway.client().await;
    let lead_to = |version: &str| {
        let link = gateway.plugins().join(".link");
        symlink(version, &link).unwrap();
        fs::rename(link, gateway.plugin("bomb")).unwrap();
    };
    put(&gateway.plugins().join(".1"), &greeter("bomb", "1", &[0x40]));
    put(&gateway.plugins().join(".2"), &endless_to_compile());
    lead_to(".1");
    client.answers_until(0x40, 0, "1").await;
    lead_to(".2");
    let child = a_child_works(&gateway).await;
    lead_to(".1");
    is_gone(child).await;
    client.answers_until(0x40, 0, "1").await;
    let outcomes = gateway.log_lines().into_iter().filter(|line| {
        let message = line["fields"]["message"].as_str().unwrap();
        message == "plugin compiled" && line["fields"]["file"] == "bomb.wasm" || message.contains("rejected")
    });
    assert_eq!(outcomes.count(), 1, "there is one of the first version, and none of the second");
}

/// Returns the fields of the log lines with this message about bomb.wasm.
fn logged(gateway: &Gateway, message: &str) -> Vec<Value> {
    let fields = gateway.log_lines().into_iter().map(|line| line["fields"].clone());
    fields.filter(|fields| fields["message"] == message && fields["file"] == "bomb.wasm").collect()
}

#[tokio::test]
async fn a_gateway_serves_while_a_file_still_compiles_at_its_start_and_readyz_says_so() {
    let bomb = vec![("bomb.wasm", endless_to_compile())];
    let gateway = Gateway::start_without_waiting(Setup { files: bomb, ..setup("compile_cpu_s: 600") }).await;
    assert_eq!(gateway.get("/healthz").await.0, 200);
    let mut client = gateway.client().await;
    client.answers_until(3, 0, "again").await;
    // Players wait for the files that were there at the start.
    let child = a_child_works(&gateway).await;
    assert!(is_scheduled(child, SCHED_OTHER), "the child has no low priority, or is in the background");
    let compiling = vec!["compiling bomb.wasm".to_owned()];
    eventually("only bomb.wasm is still compiling", || async {
        (reasons(&gateway).await.1 == compiling).then_some(())
    })
    .await;
    assert_eq!(reasons(&gateway).await.0, 503);
    assert_eq!(gateway.log_lines().iter().find(|line| line["fields"]["message"] == "serving"), None);
    fs::remove_file(gateway.plugin("bomb")).unwrap();
    eventually("/readyz 200", || async { (reasons(&gateway).await.0 == 200).then_some(()) }).await;
    gateway.logged("\"message\":\"serving\"").await;
}

#[tokio::test]
async fn sigterm_ends_the_process_and_its_children_while_files_compile() {
    let files = vec![("bomb.wasm", endless_to_compile()), ("worse.wasm", endless_to_compile())];
    let mut gateway = Gateway::start_without_waiting(Setup { files, ..setup("compile_cpu_s: 600") }).await;
    let child = a_child_works(&gateway).await;
    let asked = Instant::now();
    gateway.signal("TERM").await;
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(asked.elapsed() < PATIENCE / 3, "{:?}", asked.elapsed());
    is_gone(child).await;
}

#[tokio::test]
async fn children_do_not_outlive_a_gateway_that_is_killed() {
    let bomb = vec![("bomb.wasm", endless_to_compile())];
    let mut gateway = Gateway::start_without_waiting(Setup { files: bomb, ..setup("compile_cpu_s: 600") }).await;
    gateway.client().await.answers_until(3, 0, "again").await;
    let child = a_child_works(&gateway).await;
    gateway.signal("KILL").await;
    gateway.exit().await;
    is_gone(child).await;
}

/// Returns the files without an extension in a directory and its subdirectories, each with its modification time.
fn listed(directory: &std::path::Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(listed(&path));
        } else if path.extension().is_none() {
            files.push((path.clone(), fs::metadata(&path).unwrap().modified().unwrap()));
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn compiled_code_is_kept_from_one_start_to_the_next() {
    // The plugin is so large that compiling takes far longer than reading the compiled code.
    let files = vec![("large.wasm", bombs::functions(&greeter("large", "1", &[0x43]), 10_000))];
    let mut gateway = Gateway::start(Setup { files, ..setup("compile_cpu_s: 600") }).await;
    let cache = gateway.config().with_file_name("cache");
    let took = async |gateway: &Gateway| {
        let is_compiled = |line: &Value| line["fields"]["file"] == "large.wasm" && line["fields"]["took_ms"].is_u64();
        let compiled = gateway.logged_within(PATIENCE, 0, is_compiled, "took_ms").await;
        compiled["fields"]["took_ms"].as_u64().unwrap()
    };
    let (first, written) = (took(&gateway).await, listed(&cache));
    assert_eq!(written.len(), 3, "the cache has to hold one file for each plugin: {written:?}");
    let mut later = Vec::new();
    for _ in 0..3 {
        gateway.signal("TERM").await;
        gateway.exit().await;
        gateway = gateway.again().await;
        assert_eq!(gateway.client().await.request(0x43, b"").await.text(), "1");
        later.push(took(&gateway).await);
        assert_eq!(listed(&cache), written, "a plugin was compiled again");
    }
    println!("compiled in {first} ms, read from the cache in {later:?} ms");
    // Other work on the machine may delay some of the starts.
    let best = later.iter().min().unwrap();
    assert!(best * 5 < first, "compiled in {first} ms, read from the cache in {later:?} ms");
}

#[tokio::test]
async fn output_of_a_plugin_that_fails_in_a_child_is_in_the_log() {
    let gateway = Gateway::start(setup("compile_cpu_s: 60")).await;
    let faulty =
        gateway_tests::variant(&serde_json::json!({ "name": "new", "routes": [0x41], "traps_in": "describe" }));
    put(&gateway.plugin("new"), &faulty);
    gateway.logged("its `describe` failed: ").await;
    let line = gateway.logged("panicked at tests/guests/variant").await;
    assert_eq!((&line["target"], &line["fields"]["plugin"]), (&"plugin".into(), &"(new)".into()));
}

#[tokio::test]
async fn check_and_plugin_check_survive_hostile_files() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("plugins/bomb.wasm"), bombs::nested(&chat(), 100_000)).unwrap();
    fs::write(folder.path().join("gateway.yaml"), "plugins: { directory: plugins, cache_directory: cache }").unwrap();
    for arguments in [vec!["check"], vec!["plugin", "check", "plugins/bomb.wasm"]] {
        let mut command = Gateway::command(None);
        command.args(&arguments).current_dir(&folder).kill_on_drop(true);
        let output = in_time(&format!("the end of {command:?}"), command.output()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("bomb.wasm: it is nested too deeply"), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(if arguments.len() == 1 { 78 } else { 1 }));
    }
}

#[tokio::test]
async fn plugins_serve_and_the_log_warns_if_the_cache_directory_is_unusable() {
    let yaml = "plugins: { directory: plugins, cache_directory: gateway.yaml }".to_owned();
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    let line = gateway.logged("compiled code cannot be kept for the next start: ").await;
    assert_eq!(
        (&line["level"], &line["fields"]["cache"]),
        (&"WARN".into(), &gateway.config().to_str().unwrap().into())
    );
    gateway.client().await.assert_alive().await;
}
