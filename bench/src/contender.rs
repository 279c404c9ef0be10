//! The gateways that are measured.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, ensure};
use gateway_bench::budget;

use crate::bus::Bus;
use crate::output::output;
use crate::{certificate, child};

/// The major versions of Node that the libraries of the server in Node support.
const NODE: RangeInclusive<u32> = 18..=u32::MAX;

/// The major versions of Node for which the package of uWebSockets has a native library.
const UWS_NODE: RangeInclusive<u32> = 18..=20;

/// Fails if the package of uWebSockets cannot load its native library, without which it goes on in JavaScript.
const UWS_LOADS: &str = "if (!require('@trufflesuite/uws-js-unofficial').SSLApp) throw 'no native library'";

/// The folder with the plugin `probe`.
const PROBE: &str = "probe";

/// A gateway that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The gateway of this repository, with its plugins.
    Gateway,
    /// The same gateway, and its clients come over TLS.
    Tls,
    /// The same gateway with the plugin `probe` of the tests, which delivers to groups.
    Group,
    /// The same gateway with the plugin `arena`.
    Arena,
    /// The same gateway, whose plugin `chat` is replaced all the time.
    Swapped,
    /// The smallest gateway that is written by hand in Rust, with the usual libraries.
    Baseline,
    /// The usual gateway that is written by hand in Node.
    Node,
    /// A server on uWebSockets, which has neither a bus nor a policy.
    Uws,
}

impl Contender {
    /// The head of the column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Tls => "gateway over TLS",
            Self::Group => "gateway, to a group",
            Self::Arena => "gateway with arena",
            Self::Swapped => "gateway with swaps",
            Self::Baseline => "baseline",
            Self::Node => "node",
            Self::Uws => "uWebSockets",
        }
    }

    /// Whether this is the gateway of this repository.
    pub(crate) fn is_gateway(self) -> bool {
        !matches!(self, Self::Baseline | Self::Node | Self::Uws)
    }

    /// The arguments of `gateway-client load` for this gateway, which listens on `port`.
    pub(crate) fn target(self, folders: &Folders, port: u16) -> Vec<OsString> {
        match self {
            Self::Tls => {
                let url = format!("wss://127.0.0.1:{port}/ws");
                vec!["--url".into(), url.into(), "--ca".into(), certificate::cert(&folders.bench).into()]
            }
            _ => vec!["--url".into(), format!("ws://127.0.0.1:{port}/ws").into()],
        }
    }

    /// The command that serves on `port` of 127.0.0.1, with the admin side on `admin` and Redis on `redis`.
    pub(crate) fn command(self, folders: &Folders, port: u16, admin: u16, redis: u16) -> anyhow::Result<Command> {
        let mut command;
        match self {
            Self::Gateway | Self::Tls | Self::Group | Self::Arena | Self::Swapped => {
                let config = folders.config_file();
                fs::write(&config, folders.config(self, port, admin, redis))?;
                command = child::command(folders.binary("gateway"));
                command.args(["run", "--config"]).arg(config).env("RUST_LOG", "warn");
            }
            Self::Baseline => {
                command = child::command(folders.binary("gateway-baseline"));
                command.args([format!("127.0.0.1:{port}"), format!("127.0.0.1:{redis}")]);
            }
            Self::Node => {
                command = child::command("node");
                command.arg(folders.node().join("server.js")).args([port.to_string(), redis.to_string()]);
            }
            Self::Uws => {
                command = child::command("node");
                command.arg(folders.uws().join("server.js")).arg(port.to_string());
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
        for (folder, plugins) in [
            (folders.plugins(), ["chat.wasm", "system.wasm"]),
            (folders.swapped(), ["chat.wasm", "system.wasm"]),
            (folders.arena(), ["arena.wasm", "system.wasm"]),
        ] {
            fs::create_dir_all(&folder)?;
            for plugin in plugins {
                let file = folders.root.join("plugins/dist").join(plugin);
                fs::copy(&file, folder.join(plugin)).with_context(|| format!("{}: `make plugins`", file.display()))?;
            }
        }
        folders.probe()?;
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

    /// The folder of the plugins one of which is replaced all the time.
    pub(crate) fn swapped(&self) -> PathBuf {
        self.bench.join("swapped")
    }

    fn arena(&self) -> PathBuf {
        self.bench.join("arena")
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
            _ => String::new(),
        };
        let plugins = match contender {
            Contender::Group => self.bench.join(PROBE),
            Contender::Arena => self.arena(),
            Contender::Swapped => self.swapped(),
            _ => self.plugins(),
        };
        self.config_with(&plugins, &tls, [port, admin], &Bus::Standalone(redis))
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
        let folder = self.bench.join(PROBE);
        fs::create_dir_all(&folder)?;
        let file = self.root.join("target/wasm32-wasip2/plugin/guest_probe.wasm");
        fs::copy(&file, folder.join("probe.wasm")).with_context(|| format!("{}: `make guests`", file.display()))?;
        Ok(folder)
    }

    fn node(&self) -> PathBuf {
        self.bench.join("node")
    }

    fn uws(&self) -> PathBuf {
        self.bench.join("uws")
    }

    /// Installs the server in Node and its libraries, and returns the version of Node. Fails if there is no Node or no
    /// npm.
    pub(crate) fn install_node(&self) -> anyhow::Result<String> {
        let version = node_version(NODE)?;
        let files = ["package.json", "package-lock.json", "server.js"].map(|file| format!("bench/node/{file}"));
        let protos = ["chat/proto/chat.proto", "chat/proto/common.proto", "gateway/proto/gateway.proto"];
        let protos = protos.map(|file| format!("proto/{file}"));
        self.install(&self.node(), files.iter().chain(&protos))?;
        Ok(version)
    }

    /// Installs the server on uWebSockets and its library, and returns the version of the package. Fails if there is no
    /// npm, no Node for which the package is made, or if the library does not load.
    pub(crate) fn install_uws(&self) -> anyhow::Result<String> {
        node_version(UWS_NODE)?;
        let files =
            ["package.json", "package-lock.json", "server.js", "arena.js"].map(|file| format!("bench/uws/{file}"));
        let folder = self.uws();
        self.install(&folder, files.iter())?;
        output(Command::new("node").args(["-e", UWS_LOADS]).current_dir(&folder)).context("uWebSockets")?;
        let package = "require('@trufflesuite/uws-js-unofficial/package.json')";
        output(Command::new("node").args(["-p", &format!("{package}.version")]).current_dir(&folder))
    }

    /// Copies files of the repository into a folder, and installs what its package.json names.
    fn install<'a>(&self, folder: &Path, files: impl Iterator<Item = &'a String>) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        for file in files {
            let from = self.root.join(file);
            let name = from.file_name().context(file.clone())?;
            fs::copy(&from, folder.join(name)).with_context(|| from.display().to_string())?;
        }
        let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        output(Command::new("npm").args(npm).current_dir(folder)).context("npm ci")?;
        Ok(())
    }
}

/// The version of Node. Fails if there is none, or if its major version is not one of these.
fn node_version(majors: RangeInclusive<u32>) -> anyhow::Result<String> {
    let version = output(Command::new("node").arg("--version")).context("no node")?;
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    let (first, last) = majors.clone().into_inner();
    let wanted = if last == u32::MAX { format!("{first} or later") } else { format!("{first} to {last}") };
    ensure!(major.is_some_and(|major| majors.contains(&major)), "node {version} is not {wanted}");
    Ok(version)
}

/// Finds the repository: the nearest folder, from this one upwards, that has the server in Node. A path that is
/// compiled in was rejected, since the program may be built on another machine.
fn repository(from: &Path) -> Option<PathBuf> {
    from.ancestors().find(|folder| folder.join("bench/node/server.js").is_file()).map(Path::to_owned)
}
