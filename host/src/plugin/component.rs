//! From a file's bytes to a component that can be instantiated, or to the exact reason why not.

use super::{
    bindings::{Level, Plugin as Exports, PluginPre},
    clock::Clock,
    state::{MAX_MEMORIES, MAX_TABLES, State},
    wasi,
};
use semver::Version;
use std::{
    borrow::Cow,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::Arc,
};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};
use wasmtime::{
    Cache, CacheConfig, Config, Engine, Store, StoreContextMut,
    component::{Component, Linker},
};
use wit_component::ComponentEncoder;

/// What every plugin exports.
pub const POLICY: &str = "gateway:policy/policy";
/// What the host offers beside WASI.
pub const LOG: &str = "gateway:policy/log";

/// The version of `wit/policy.wit` that this gateway offers.
pub const OFFERED: Version = Version::new(0, 1, 0);

/// The version of the SDK that fits: all packages of the repository have the same.
const SDK: &str = env!("CARGO_PKG_VERSION");

/// Why a file is no plugin.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// Not WebAssembly, or broken.
    #[error("it is not a WebAssembly component: {0}; if it is still being written, it is read again when it is whole")]
    Broken(String),
    /// WebAssembly, but no component, and none can be made of it.
    #[error(
        "it is a core module that cannot be made a component: {0}. Build it for a component target (Rust: --target \
         wasm32-wasip2), or embed wit/policy.wit with `wasm-tools component embed`"
    )]
    CoreModule(String),
    /// A component that is no plugin.
    #[error("it exports no `{POLICY}@{OFFERED}`: build it against wit/policy.wit, world `plugin`; it exports {0}")]
    NoPolicy(String),
    /// Another version of the interface.
    #[error(
        "it was built against version {found} of the plugin interface, and this gateway offers {OFFERED}, which serves plugins built \
         against {}.{}.0 up to {OFFERED}: rebuild it with gateway-plugin-sdk {SDK} or this gateway's wit/policy.wit, or serve it with a \
         gateway that offers {found}", OFFERED.major, OFFERED.minor
    )]
    Version {
        /// What the file wants.
        found: String,
    },
    /// It asks for something that is not offered.
    #[error("it imports `{0}`, and this gateway offers only `{LOG}@{OFFERED}` and WASI 0.2 (`wasi:…@0.2.x`)")]
    Import(String),
    /// It defines more than any known language needs, and each takes address space and a descriptor of the process.
    #[error("it defines {found} {what}, and {limit} are the most that a plugin may have")]
    TooMany {
        /// Memories or tables.
        what: &'static str,
        /// The count in the file.
        found: usize,
        /// The largest count.
        limit: usize,
    },
    /// The compiler or the linker refused it.
    #[error("it cannot be linked: {0:#}")]
    Link(wasmtime::Error),
    /// The compiler failed, which is a fault of the gateway.
    #[error("the compiler panicked on it, which is a defect of the gateway: please report the file")]
    Panic,
}

/// Compiles and links plugins. One per process.
pub struct Compiler {
    engine: Engine,
    clock: Arc<Clock>,
}

impl Compiler {
    /// Starts the compiler, and the clock that ends calls at their deadline. Compiled code is not kept.
    ///
    /// # Errors
    /// Where the machine cannot run WebAssembly.
    pub fn new() -> wasmtime::Result<Self> {
        Self::start(None)
    }

    /// The same, with compiled code kept in a directory. Only this user may be able to write there: what is found is run.
    ///
    /// # Errors
    /// Where the machine cannot run WebAssembly, or the directory cannot be used.
    pub fn with_cache(directory: &Path) -> wasmtime::Result<Self> {
        let mut config = CacheConfig::new();
        // To compress code better at its 256th use is work for nothing here: it is read once in a process.
        config.with_directory(directory).with_optimized_compression_usage_counter_threshold(u64::MAX);
        Self::start(Some(Cache::new(config)?))
    }

    fn start(cache: Option<Cache>) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true).cache(cache);
        let engine = Engine::new(&config)?;
        let clock = Arc::new(Clock::start(&engine)?);
        Ok(Self { engine, clock })
    }

    /// Makes a component of a core module that carries its WIT. A component is returned as it is.
    ///
    /// # Errors
    /// [`Unfit::CoreModule`] if that cannot be done.
    pub fn componentize<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, Unfit> {
        panic::catch_unwind(|| componentize(bytes)).unwrap_or(Err(Unfit::Panic))
    }

    /// Checks, compiles and links a file's bytes. Takes a processor for milliseconds to seconds: not for the message path.
    ///
    /// # Errors
    /// [`Unfit`] says what is wrong with the bytes.
    pub fn compile(&self, bytes: &[u8]) -> Result<Linked, Unfit> {
        let compile = || {
            let component = componentize(bytes)?;
            let imports = names(&component)?;
            // The compiler validates too, unless it finds its result in the cache. So the validator is only asked for the reason.
            self.link(&component, imports).map_err(|error| validate(&component).err().unwrap_or(Unfit::Link(error)))
        };
        panic::catch_unwind(AssertUnwindSafe(compile)).unwrap_or(Err(Unfit::Panic))
    }

    fn link(&self, bytes: &[u8], imports: Vec<String>) -> wasmtime::Result<Linked> {
        let component = Component::from_binary(&self.engine, bytes)?;
        let mut linker = Linker::new(&self.engine);
        for import in &imports {
            if version_of(import, LOG).is_some() {
                define_log(&mut linker, import)?;
            } else if import.starts_with("wasi:") {
                wasi::define(&mut linker, import)?;
            }
        }
        linker.define_unknown_imports_as_traps(&component)?;
        let pre = PluginPre::new(linker.instantiate_pre(&component)?)?;
        Ok(Linked { pre, clock: Arc::clone(&self.clock), imports })
    }
}

/// Defines the log under the name that the component imports it by, version included: what is unknown is told by exact names, so under the
/// offered version's name alone a plugin that was built against an earlier one would find a trap in its place.
fn define_log(linker: &mut Linker<State>, import: &str) -> wasmtime::Result<()> {
    linker.instance(import)?.func_wrap("write", |mut store: StoreContextMut<'_, State>, line: (Level, String)| {
        let (level, message) = line;
        store.data_mut().write(level, &message);
        Ok(())
    })
}

/// A component that is ready to be instantiated.
pub struct Linked {
    pre: PluginPre<State>,
    clock: Arc<Clock>,
    imports: Vec<String>,
}

impl Linked {
    /// The interfaces that it imports.
    pub(super) fn imports(&self) -> &[String] {
        &self.imports
    }

    /// The clock of its deadlines.
    pub(super) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// A store for one instance.
    pub(super) fn store(&self, state: State) -> Store<State> {
        Store::new(self.pre.engine(), state)
    }

    /// An instance in a store of its own. Runs what its language does at its start.
    pub(super) fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Exports> {
        self.pre.instantiate(store)
    }
}

/// A core module that carries its WIT, as `cargo build --target wasm32-unknown-unknown` leaves it, becomes a component.
fn componentize(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Unfit> {
    if !Parser::is_core_wasm(bytes) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut sections = Parser::new(0).parse_all(bytes).map_while(Result::ok);
    let is_wit = |section| matches!(section, Payload::CustomSection(it) if it.name().starts_with("component-type"));
    if !sections.any(is_wit) {
        return Err(Unfit::CoreModule("it does not carry its WIT".to_owned()));
    }
    let encoded = ComponentEncoder::default().validate(true).module(bytes).and_then(|mut encoder| encoder.encode());
    encoded.map(Cow::Owned).map_err(|error| Unfit::CoreModule(format!("{error:#}").replace('\n', " ")))
}

/// The reason why bytes are not a valid component.
fn validate(bytes: &[u8]) -> Result<(), Unfit> {
    Validator::new_with_features(WasmFeatures::default()).validate_all(bytes).map(|_| ()).map_err(broken)
}

fn broken(error: wasmparser::BinaryReaderError) -> Unfit {
    let what = error.message().lines().collect::<Vec<_>>().join(" ");
    Unfit::Broken(format!("{what} (at offset {:#x})", error.offset()))
}

/// Reads what the component exports and imports, which has to fit, and how much it defines. Returns the names of its imports.
fn names(bytes: &[u8]) -> Result<Vec<String>, Unfit> {
    if bytes.is_empty() {
        return Err(Unfit::Broken("the file is empty".to_owned()));
    }
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0_u32);
    let (mut memories, mut tables) = (0, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::MemorySection(section) => memories += section.count() as usize,
            Payload::TableSection(section) => tables += section.count() as usize,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    check_exports(&exports)?;
    imports.iter().try_for_each(|import| check_import(import))?;
    check_count("memories", memories, MAX_MEMORIES)?;
    check_count("tables", tables, MAX_TABLES)?;
    Ok(imports)
}

fn check_count(what: &'static str, found: usize, limit: usize) -> Result<(), Unfit> {
    if found > limit { Err(Unfit::TooMany { what, found, limit }) } else { Ok(()) }
}

fn check_exports(exports: &[String]) -> Result<(), Unfit> {
    let found = exports.iter().find_map(|export| version_of(export, POLICY)).ok_or_else(|| {
        let names: Vec<_> = exports.iter().map(|name| format!("`{name}`")).collect();
        Unfit::NoPolicy(if names.is_empty() { "nothing".to_owned() } else { names.join(", ") })
    })?;
    if serves(found, &OFFERED) { Ok(()) } else { Err(Unfit::Version { found: found.to_owned() }) }
}

fn check_import(import: &str) -> Result<(), Unfit> {
    if let Some(found) = version_of(import, LOG) {
        return if serves(found, &OFFERED) { Ok(()) } else { Err(Unfit::Version { found: found.to_owned() }) };
    }
    let wasi = import.starts_with("wasi:") && import.split_once('@').is_some_and(|(_, v)| v.starts_with("0.2."));
    if wasi { Ok(()) } else { Err(Unfit::Import(import.to_owned())) }
}

fn version_of<'a>(name: &'a str, interface: &str) -> Option<&'a str> {
    name.strip_prefix(interface)?.strip_prefix('@')
}

/// Whether a gateway with this offer serves plugins built against the version: the same major and minor, and nothing newer.
fn serves(version: &str, offered: &Version) -> bool {
    Version::parse(version)
        .is_ok_and(|v| (v.major, v.minor) == (offered.major, offered.minor) && v.pre.is_empty() && v <= *offered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_offered_versions_are_served() {
        assert!(serves("0.1.0", &OFFERED));
        for other in ["0.1.1", "0.2.0", "1.0.0", "0.1.0-rc.1", "", "x"] {
            assert!(!serves(other, &OFFERED), "{other}");
        }
        let later = Version::new(0, 1, 3);
        for served in ["0.1.0", "0.1.1", "0.1.3"] {
            assert!(serves(served, &later), "{served}");
        }
        for other in ["0.0.9", "0.1.4", "0.1.2-rc.1", "0.2.0", "1.1.0"] {
            assert!(!serves(other, &later), "{other}");
        }
    }

    #[track_caller]
    fn refused(bytes: &[u8], because: &str) {
        let error = componentize(bytes)
            .and_then(|bytes| names(&bytes).and_then(|_| validate(&bytes)))
            .expect_err("no plugin")
            .to_string();
        assert!(error.contains(because), "{error}");
    }

    #[test]
    fn what_is_no_plugin_is_told_apart() {
        refused(b"", "the file is empty");
        refused(b"hello, this is text", "not a WebAssembly component");
        refused(b"\0asm\x01\0\0\0", "core module");
        refused(b"\0asm\x0d\0\x01\0", "exports no `gateway:policy/policy@0.1.0`");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>, component: bool) {
            if component {
                bytes.splice(0..0, *b"\0asm\x0d\0\x01\0");
            }
            prop_assert!(componentize(&bytes).and_then(|bytes| names(&bytes).and_then(|_| validate(&bytes))).is_err());
        }
    }
}
