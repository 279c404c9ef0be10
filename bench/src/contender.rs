//! The gateways that are measured.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, ensure};
use gateway_bench::budget;

use crate::bus::Bus;
use crate::certificate;
use crate::output::output;

/// The oldest major version of Node that the libraries support.
const NODE: u32 = 18;

/// A gateway that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The gateway of this repository, with its plugins.
    Gateway,
    /// The same gateway, and its clients come over TLS.
    Tls,
    /// The smallest gateway that is written by hand in Rust, with the usual libraries.
    Baseline,
    /// The usual gateway that is written by hand in Node.
    Node,
}

impl Contender {
    /// The head of the column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Tls => "gateway over TLS",
            Self::Baseline => "baseline",
            Self::Node => "node",
        }
    }

    /// The arguments of `gateway-client load` for this gateway, which listens on `port`.
    pub(crate) fn target(self, folders: &Folders, port: u16) -> Vec<OsString> {
        match self {
            Self::Tls => {
                let url = format!("wss://127.0.0.1:{port}/ws");
                vec!["--url".into(), url.into(), "--ca".into(), certificate::cert(&folders.bench).into()]
            }
            Self::Gateway | Self::Baseline | Self::Node => {
                vec!["--url".into(), format!("ws://127.0.0.1:{port}/ws").into()]
            }
        }
    }

    /// The command that serves on `port` of 127.0.0.1, with the admin side on `admin` and Redis on `redis`.
    pub(crate) fn command(self, folders: &Folders, port: u16, admin: u16, redis: u16) -> anyhow::Result<Command> {
        let mut command;
        match self {
            Self::Gateway | Self::Tls => {
                let config = folders.config_file();
                fs::write(&config, folders.config(self, port, admin, redis))?;
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

/// The folders of a run.
pub(crate) struct Folders {
    /// The root of the repository.
    root: PathBuf,
    /// The folder of the programs.
    target: PathBuf,
    /// The folder of the files that this run makes.
    pub(crate) bench: PathBuf,
}

impl Folders {
    /// Finds the repository, and the programs beside this one. Makes the folder of the run, with the plugins and a
    /// certificate in it.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let target = env::current_exe()?.parent().context("the program is in no folder")?.to_owned();
        let root = repository(&env::current_dir()?).or_else(|| repository(&target));
        let root =
            root.context("run this in the repository: neither this folder nor one above has bench/node/server.js")?;
        let bench = target.with_file_name("bench");
        let folders = Self { root, target, bench };
        let plugins = folders.plugins();
        fs::create_dir_all(&plugins)?;
        for plugin in ["chat.wasm", "system.wasm"] {
            let file = folders.root.join("plugins/dist").join(plugin);
            fs::copy(&file, plugins.join(plugin)).with_context(|| format!("{}: `make plugins`", file.display()))?;
        }
        certificate::make(&folders.bench)?;
        Ok(folders)
    }

    /// The path of a program.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }

    /// The folder of the gateway's plugins.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.bench.join("plugins")
    }

    /// The file of the gateway's configuration.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.bench.join("gateway.yaml")
    }

    /// The file of the gateway's log, if it is kept.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.bench.join("gateway.log")
    }

    /// The budget of instructions for each step of a packet's way.
    pub(crate) fn budget(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let file = self.root.join("bench/budget.txt");
        budget(&fs::read_to_string(&file).with_context(|| file.display().to_string())?)
    }

    /// The gateway's configuration: the defaults, but for addresses, the game, the plugins and TLS.
    pub(crate) fn config(&self, contender: Contender, port: u16, admin: u16, redis: u16) -> String {
        let tls = match contender {
            Contender::Tls => {
                format!(
                    ", tls: {{ cert: {:?}, key: {:?} }}",
                    certificate::cert(&self.bench),
                    certificate::key(&self.bench)
                )
            }
            Contender::Gateway | Contender::Baseline | Contender::Node => String::new(),
        };
        self.config_with(&self.plugins(), &tls, [port, admin], &Bus::Standalone(redis))
    }

    /// The gateway's configuration with these plugins, these further keys of `server`, these ports, and this bus.
    pub(crate) fn config_with(&self, plugins: &Path, server: &str, [port, admin]: [u16; 2], bus: &Bus) -> String {
        format!(
            "server: {{ host: \"127.0.0.1\", port: {port}{server} }}\nadmin: {{ listen: \"127.0.0.1:{admin}\" }}\n\
             redis: {{ {} }}\ngames: [{{ id: mmo }}]\nplugins: {{ directory: {plugins:?} }}\n",
            bus.keys()
        )
    }

    /// A folder with the plugin `probe` of the tests.
    pub(crate) fn probe(&self) -> anyhow::Result<PathBuf> {
        let folder = self.bench.join("probe");
        fs::create_dir_all(&folder)?;
        let file = self.root.join("target/wasm32-wasip2/plugin/guest_probe.wasm");
        fs::copy(&file, folder.join("probe.wasm")).with_context(|| format!("{}: `make guests`", file.display()))?;
        Ok(folder)
    }

    fn node(&self) -> PathBuf {
        self.bench.join("node")
    }

    /// Installs the libraries of the server in Node, and returns the version of Node. Fails if there is no Node or no
    /// npm.
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

/// Finds the repository: the nearest folder, from this one upwards, that has the server in Node. A path that is
/// compiled in was rejected, since the program may be built on another machine.
fn repository(from: &Path) -> Option<PathBuf> {
    from.ancestors().find(|folder| folder.join("bench/node/server.js").is_file()).map(Path::to_owned)
}
