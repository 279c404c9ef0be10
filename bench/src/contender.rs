//! Who is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// The oldest Node for which the libraries are made.
const NODE: u32 = 18;

/// A gateway.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// This one, with its plugins.
    Gateway,
    /// The smallest one by hand in Rust, with the usual libraries.
    Baseline,
    /// The usual one by hand in Node.
    Node,
}

impl Contender {
    /// The head of its column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Baseline => "baseline",
            Self::Node => "node",
        }
    }

    /// The program, to serve on a port of 127.0.0.1 with the Redis on another.
    pub(crate) fn command(self, folders: &Folders, port: u16, admin: u16, redis: u16) -> anyhow::Result<Command> {
        let mut command;
        match self {
            Self::Gateway => {
                let config = folders.bench.join("gateway.yaml");
                fs::write(&config, folders.config(port, admin, redis))?;
                command = Command::new(folders.binary("gateway"));
                command.args(["run", "--config"]).arg(config).env("RUST_LOG", "warn");
            }
            Self::Baseline => {
                command = Command::new(folders.binary("gateway-baseline"));
                command.args([format!("127.0.0.1:{port}"), format!("127.0.0.1:{redis}")]);
            }
            Self::Node => {
                command = Command::new("node");
                command.arg(folders.node().join("server.js")).args([port.to_string(), redis.to_string()]);
            }
        }
        Ok(command)
    }
}

/// Where things are.
pub(crate) struct Folders {
    /// The root of the repository.
    root: PathBuf,
    /// The programs.
    target: PathBuf,
    /// What belongs to this run.
    pub(crate) bench: PathBuf,
}

impl Folders {
    /// Finds the programs beside this one, and makes the others.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no parent")?.to_owned();
        let target = std::env::current_exe()?.parent().context("no folder")?.to_owned();
        let bench = target.with_file_name("bench");
        let folders = Self { root, target, bench };
        let plugins = folders.plugins();
        fs::create_dir_all(&plugins)?;
        for plugin in ["chat.wasm", "system.wasm"] {
            let file = folders.root.join("plugins/dist").join(plugin);
            fs::copy(&file, plugins.join(plugin)).with_context(|| format!("{}: `make plugins`", file.display()))?;
        }
        Ok(folders)
    }

    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.bench.join("plugins")
    }

    /// The gateway's configuration: defaults, but for what has to be said.
    pub(crate) fn config(&self, port: u16, admin: u16, redis: u16) -> String {
        format!(
            "server: {{ host: \"127.0.0.1\", port: {port} }}\nadmin: {{ listen: \"127.0.0.1:{admin}\" }}\n\
             redis: {{ addr: \"127.0.0.1:{redis}\" }}\ngames: [{{ id: mmo }}]\nplugins: {{ directory: {:?} }}\n",
            self.plugins()
        )
    }

    fn node(&self) -> PathBuf {
        self.bench.join("node")
    }

    /// Installs what the server in Node needs, and answers with the version of Node. An error says why there is none.
    pub(crate) fn install_node(&self) -> anyhow::Result<String> {
        let version = output(Command::new("node").arg("--version")).context("no node")?;
        let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
        ensure!(major >= Some(NODE), "node {version} is older than {NODE}");
        let node = self.node();
        fs::create_dir_all(&node)?;
        for file in
            ["bench/node/package.json", "bench/node/package-lock.json", "bench/node/server.js"].into_iter().chain([
                "proto/chat/proto/chat.proto",
                "proto/chat/proto/common.proto",
                "proto/gateway/proto/gateway.proto",
            ])
        {
            let from = self.root.join(file);
            let name = from.file_name().context(file)?;
            fs::copy(&from, node.join(name)).with_context(|| from.display().to_string())?;
        }
        let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        output(Command::new("npm").args(npm).current_dir(&node)).context("npm ci")?;
        Ok(version)
    }
}

/// What a command says, if it succeeds.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
