//! Tests of the image, of the services of Compose, and of the manifests for Kubernetes. None of them is run here: parsers and
//! schemas check them, and the gateway checks the configurations in them.

use crate::{configuration_is_valid, has, read, succeeds, tool};
use gateway_tests::root;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeSet, fs};

const COMPOSE: &str = "deploy/compose.yaml";
const KUBERNETES: &str = "deploy/kubernetes";

/// The longest time that the gateway takes to stop, beyond `server.drain_timeout_s`, without `plugins.state_file`.
const STOP_S: u64 = 21;

/// The same with `plugins.state_file`.
const STOP_WITH_STATE_S: u64 = 31;

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn drain_timeout(config: &str) -> u64 {
    serde_yaml::from_str::<Value>(config).unwrap()["server"]["drain_timeout_s"].as_u64().unwrap()
}

/// Returns the configuration with a token of operators, which each operator has to choose.
fn with_token(config: &str) -> String {
    let mut values: Value = serde_yaml::from_str(config).unwrap();
    assert!(values["admin"]["token"].is_null(), "everybody would know the token");
    values["admin"]["token"] = "0123456789abcdef".into();
    values.to_string()
}

/// Asserts that Prometheus accepts the configuration.
async fn prometheus_accepts(config: &str) {
    if has("promtool") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prometheus.yaml");
        fs::write(&file, config).unwrap();
        succeeds("promtool", &["check", "config", "--syntax-only", file.to_str().unwrap()]).await;
    }
}

#[tokio::test]
async fn the_containerfile_has_no_mistakes_that_a_linter_finds() {
    let linter = tool("dockerfile-utils/node_modules/.bin/dockerfile-utils");
    if has(&linter) {
        succeeds(&linter, &["lint", "deploy/Containerfile"]).await;
    }
}

#[test]
fn the_image_has_every_file_that_it_copies() {
    let file = read("deploy/Containerfile");
    let files = file.split_whitespace().filter(|word| word.starts_with("deploy/") || word.starts_with("plugins/"));
    for path in files.filter(|path| *path != "deploy/Containerfile") {
        assert!(root().join(path).exists(), "deploy/Containerfile copies {path}");
    }
    // The image contains the directories that its configuration names.
    let config = read("deploy/gateway.yaml");
    for (place, path) in [("/out", "/usr/lib/gateway/plugins"), ("/writable", "/var/lib/gateway")] {
        assert!(file.contains(&format!("{place}{path}")) && config.contains(path), "{path}");
    }
}

#[tokio::test]
async fn compose_accepts_its_file() {
    let loader = tool("compose-go/compose-go");
    if has(&loader) {
        // The loader does not read the environment, which has the token.
        succeeds(&loader, &["-no-interpolation", COMPOSE]).await;
    }
}

/// Returns the content of a configuration in the file of Compose, with a token.
fn content(name: &str) -> String {
    let content = yaml(COMPOSE)["configs"][name]["content"].as_str().unwrap().to_owned();
    let (mut pieces, mut text) = (content.split("${ADMIN_TOKEN"), String::new());
    text.push_str(pieces.next().unwrap());
    for piece in pieces {
        text.push_str("0123456789abcdef");
        text.push_str(piece.split_once('}').unwrap().1);
    }
    text
}

#[test]
fn compose_can_create_each_container() {
    let compose = yaml(COMPOSE);
    for (name, service) in compose["services"].as_object().unwrap() {
        // Compose copies the content into the container before it starts.
        let is_written = service["read_only"] == true && !service["configs"].is_null();
        assert!(!is_written, "the container of {name} is read-only, and has a configuration with `content`");
        let volumes = service["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for folder in volumes.filter_map(|volume| volume.strip_prefix("./")) {
            let path = folder.split(':').next().unwrap();
            assert!(root().join("deploy").join(path).exists(), "{name} mounts {path}");
        }
    }
}

#[tokio::test]
async fn the_configurations_in_the_file_of_compose_are_valid() {
    let config = read("deploy/compose/gateway.yaml");
    configuration_is_valid(&with_token(&config)).await;
    prometheus_accepts(&content("prometheus")).await;
    let compose = yaml(COMPOSE);
    let wait = compose["services"]["gateway"]["stop_grace_period"].as_str().unwrap().trim_end_matches('s');
    let stop = drain_timeout(&config) + STOP_WITH_STATE_S;
    assert!(wait.parse::<u64>().unwrap() >= stop, "the gateway takes up to {stop} s, and Compose waits {wait} s");
    let datasource: Value = serde_yaml::from_str(&content("datasource")).unwrap();
    assert_eq!(datasource["datasources"][0]["type"], "prometheus");
    let boards: Value = serde_yaml::from_str(&content("boards")).unwrap();
    let mounted = compose["services"]["grafana"]["volumes"][0].as_str().unwrap();
    let (source, target) = mounted.trim_end_matches(":ro").split_once(':').unwrap();
    assert!(target.starts_with(boards["providers"][0]["options"]["path"].as_str().unwrap()));
    assert!(root().join("deploy").join(source).exists());
}

/// The manifests that `kubectl apply -k` applies.
fn resources() -> Vec<String> {
    let list = yaml(&format!("{KUBERNETES}/kustomization.yaml"))["resources"].clone();
    Vec::<String>::deserialize(list).unwrap()
}

#[tokio::test]
async fn kubernetes_accepts_the_manifests() {
    let validator = tool("kubernetes-validate/bin/kubernetes-validate");
    if has(&validator) {
        for resource in resources() {
            succeeds(&validator, &["--strict", "--quiet", &format!("{KUBERNETES}/{resource}")]).await;
        }
    }
}

#[tokio::test]
async fn the_configurations_for_kubernetes_are_valid() {
    configuration_is_valid(&with_token(&read(&format!("{KUBERNETES}/gateway.yaml")))).await;
    // Prometheus of Debian is built without the discovery of Kubernetes.
    let config = read(&format!("{KUBERNETES}/prometheus.yaml"));
    let (before, rest) = config.split_once("    kubernetes_sd_configs:\n").unwrap();
    let rest = rest.split_once("    relabel_configs:\n").unwrap().1;
    prometheus_accepts(&format!("{before}    relabel_configs:\n{rest}")).await;
}

#[test]
fn the_manifests_fit_together() {
    let [deployment, service, disruption, autoscaler, network] =
        ["deployment", "service", "disruption", "autoscaler", "network"]
            .map(|name| yaml(&format!("{KUBERNETES}/{name}.yaml")));
    let pod = &deployment["spec"]["template"];
    let labels = &pod["metadata"]["labels"];
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(&disruption["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&network["spec"]["podSelector"]["matchLabels"], labels);
    assert_eq!(autoscaler["spec"]["scaleTargetRef"]["name"], deployment["metadata"]["name"]);
    assert!(deployment["spec"]["replicas"].is_null(), "the autoscaler and the Deployment would both set the replicas");

    let config = read(&format!("{KUBERNETES}/gateway.yaml"));
    let container = &pod["spec"]["containers"][0];
    let pause = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    let (stop, wait) = (pause + drain_timeout(&config) + STOP_S, pod["spec"]["terminationGracePeriodSeconds"].as_u64());
    assert!(wait.unwrap() >= stop, "the pod takes up to {stop} s to stop, and Kubernetes waits {wait:?} s");
    assert!(deployment["spec"]["minReadySeconds"].as_u64() > wait, "the next pod stops while the one before drains");
    let values: Value = serde_yaml::from_str(&config).unwrap();
    let rate = values["server"]["reconnect"]["rate_per_s"].as_u64().unwrap();
    let told = values["limits"]["sessions"].as_u64().unwrap() / rate;
    assert!(
        drain_timeout(&config) > told + 2,
        "it takes {told} s to tell all players of a pod to go on at another one"
    );
    let ports: BTreeSet<_> = container["ports"].as_array().unwrap().iter().map(|port| port["name"].as_str()).collect();
    for probe in ["readinessProbe", "livenessProbe"] {
        assert!(ports.contains(&container[probe]["httpGet"]["port"].as_str()), "{probe}");
    }
    let mounts = container["volumeMounts"].as_array().unwrap();
    let paths: Vec<_> = mounts.iter().map(|mount| mount["mountPath"].as_str().unwrap()).collect();
    let directory = values["plugins"]["directory"].as_str().unwrap();
    assert!(paths.contains(&directory), "{directory} in {paths:?}");
}
