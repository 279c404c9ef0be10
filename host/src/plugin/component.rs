//! Turns the bytes of a file into a component that can be instantiated, or reports exactly why that is not possible.

use super::{
    clock::Clock,
    imports::{self, ATTRIBUTES, LOG, STATE, TRACING, TYPES},
    interface::{Interface, PLUGIN, POLICY},
    state::{MAX_MEMORIES, MAX_TABLES},
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
    Cache, CacheConfig, Config, Engine,
    component::{Component, Linker},
};
use wit_component::ComponentEncoder;

/// The versions of the plugin interface that this gateway offers: those of `wit/0.2/policy.wit` and `wit/policy.wit`.
pub const OFFERED: [Version; 2] = [Version::new(0, 2, 3), Version::new(0, 1, 0)];

/// The version of the SDK that matches this gateway. All packages of the repository have the same version.
const SDK: &str = env!("CARGO_PKG_VERSION");

/// Why a file is not a plugin that this gateway can run.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The file is not valid WebAssembly.
    #[error("it is not a WebAssembly component: {0}; if it is still being written, it is read again when it is whole")]
    Broken(String),
    /// The file is a core module, and it cannot be made a component.
    #[error(
        "it is a core module that cannot be made a component: {0}. Build it for a component target (Rust: --target \
         wasm32-wasip2), or embed wit/policy.wit with `wasm-tools component embed`"
    )]
    CoreModule(String),
    /// The component exports no version of the plugin interface.
    #[error(
        "it exports neither `{PLUGIN}@{new}` nor `{POLICY}@{old}`: build it against wit/0.2/policy.wit, for example with \
         world `minimal`; it exports {found}", new = OFFERED[0], old = OFFERED[1]
    )]
    NoPolicy {
        /// The names that it exports.
        found: String,
    },
    /// The component was built against a version of the plugin interface that this gateway does not serve.
    #[error(
        "it was built against version {found} of the plugin interface, and this gateway serves plugins built against \
         {}: rebuild it with gateway-plugin-sdk {SDK} or this gateway's wit/0.2/policy.wit, or serve it with a gateway \
         that offers {found}",
        served()
    )]
    Version {
        /// The version that the component was built against.
        found: String,
    },
    /// The component imports an interface that this gateway does not offer.
    #[error(
        "it imports `{name}`, and this gateway offers only `{LOG}`, `{STATE}`, `{ATTRIBUTES}` and `{TRACING}` of version \
         {version}, and WASI 0.2 (`wasi:…@0.2.x`)", version = OFFERED[0]
    )]
    Import {
        /// The name of the import.
        name: String,
    },
    /// The component defines more memories or tables than any known language needs. Each memory takes address space of
    /// the process and may take a file descriptor.
    #[error("it defines {found} {what}, and {limit} are the most that a plugin may have")]
    TooMany {
        /// The word "memories" or "tables".
        what: &'static str,
        /// The number in the file.
        found: usize,
        /// The maximum number.
        limit: usize,
    },
    /// The compiler or the linker refused the component.
    #[error("it cannot be linked: {0:#}")]
    Link(wasmtime::Error),
    /// The compiler panicked, which is a defect of the gateway.
    #[error("the compiler panicked on it, which is a defect of the gateway: please report the file")]
    Panic,
}

/// Compiles and links plugins. A process needs only one compiler, which can be cloned cheaply.
#[derive(Clone)]
pub struct Compiler {
    engine: Engine,
    clock: Arc<Clock>,
}

impl Compiler {
    /// Starts the compiler, and the clock that ends calls at their deadline. Compiled code is not cached.
    ///
    /// # Errors
    /// Returns an error if the machine cannot run WebAssembly, or if the clock's thread cannot be started.
    pub fn new() -> wasmtime::Result<Self> {
        Self::start(None)
    }

    /// Starts the compiler with a directory in which compiled code is cached. Only this user may be able to write to
    /// the directory, because cached code is executed.
    ///
    /// # Errors
    /// Returns an error if the machine cannot run WebAssembly, if the clock's thread cannot be started, or if the
    /// directory cannot be used.
    pub fn with_cache(directory: &Path) -> wasmtime::Result<Self> {
        let mut config = CacheConfig::new();
        // By default, the cache compresses code again at its 256th use. That is wasted work here, because each process
        // reads the code of a file once.
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

    /// Makes a component of a core module that carries its WIT. Returns any other bytes unchanged.
    ///
    /// # Errors
    /// Returns [`Unfit::CoreModule`] if the module cannot be made a component, and [`Unfit::Panic`] if the encoder
    /// panics.
    pub fn componentize<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, Unfit> {
        panic::catch_unwind(|| componentize(bytes)).unwrap_or(Err(Unfit::Panic))
    }

    /// Checks, compiles and links the bytes of a file. This keeps a processor busy for milliseconds to seconds, so it
    /// must not be called on a thread that serves players.
    ///
    /// # Errors
    /// Returns an [`Unfit`] that says what is wrong with the bytes.
    pub fn compile(&self, bytes: &[u8]) -> Result<Linked, Unfit> {
        let compile = || {
            let component = componentize(bytes)?;
            let names = names(&component)?;
            // The compiler validates as well, unless it finds its result in the cache. So the validator runs only after
            // a failure, to find the reason.
            self.link(&component, names).map_err(|error| validate(&component).err().unwrap_or(Unfit::Link(error)))
        };
        panic::catch_unwind(AssertUnwindSafe(compile)).unwrap_or(Err(Unfit::Panic))
    }

    fn link(&self, bytes: &[u8], names: Names) -> wasmtime::Result<Linked> {
        let component = Component::from_binary(&self.engine, bytes)?;
        let mut linker = Linker::new(&self.engine);
        for import in &names.imports {
            if import.starts_with("wasi:") {
                wasi::define(&mut linker, import)?;
            } else {
                imports::define(&mut linker, import)?;
            }
        }
        linker.define_unknown_imports_as_traps(&component)?;
        let interface = Interface::new(linker.instantiate_pre(&component)?)?;
        Ok(Linked { interface, clock: Arc::clone(&self.clock), names })
    }
}

/// A component that is ready to be instantiated.
pub struct Linked {
    interface: Interface,
    clock: Arc<Clock>,
    names: Names,
}

/// The names in a component that say what it is.
pub(super) struct Names {
    /// The names of the interfaces that the component imports.
    pub(super) imports: Vec<String>,
    /// The version of the plugin interface that it was built against.
    pub(super) version: String,
}

impl Linked {
    /// Returns the names of the component's imports, and the version of its interface.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Returns the clock that ends calls of the instances at their deadlines.
    pub(super) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// Returns the component's exports.
    pub(super) fn interface(&self) -> &Interface {
        &self.interface
    }
}

/// Makes a component of a core module that carries its WIT, such as a build for `wasm32-unknown-unknown`. Returns any
/// other bytes unchanged.
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

/// Checks that the bytes are valid WebAssembly. The error names the reason and the offset.
fn validate(bytes: &[u8]) -> Result<(), Unfit> {
    Validator::new_with_features(WasmFeatures::default()).validate_all(bytes).map(|_| ()).map_err(broken)
}

fn broken(error: wasmparser::BinaryReaderError) -> Unfit {
    let what = error.message().lines().collect::<Vec<_>>().join(" ");
    Unfit::Broken(format!("{what} (at offset {:#x})", error.offset()))
}

/// Reads the exports and imports of a component, and counts its memories and tables. Checks all of them.
fn names(bytes: &[u8]) -> Result<Names, Unfit> {
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
    let version = check_exports(&exports)?;
    imports.iter().try_for_each(|import| check_import(import))?;
    check_count("memories", memories, MAX_MEMORIES)?;
    check_count("tables", tables, MAX_TABLES)?;
    Ok(Names { imports, version })
}

fn check_count(what: &'static str, found: usize, limit: usize) -> Result<(), Unfit> {
    if found > limit { Err(Unfit::TooMany { what, found, limit }) } else { Ok(()) }
}

/// Returns the version of the plugin interface that the component exports.
fn check_exports(exports: &[String]) -> Result<String, Unfit> {
    let version = |interface| exports.iter().find_map(|export| version_of(export, interface));
    // A plugin of 0.2 has an interface of the second name as well, but not alone.
    let of_0_1 = || version(POLICY).filter(|found| !serves(found, &OFFERED[0]));
    let found = version(PLUGIN).or_else(of_0_1).ok_or_else(|| {
        let names: Vec<_> = exports.iter().map(|name| format!("`{name}`")).collect();
        Unfit::NoPolicy { found: if names.is_empty() { "nothing".to_owned() } else { names.join(", ") } }
    })?;
    check_version(found)?;
    Ok(found.to_owned())
}

fn check_import(import: &str) -> Result<(), Unfit> {
    if let Some(found) = [LOG, TYPES, STATE, ATTRIBUTES, TRACING].into_iter().find_map(|name| version_of(import, name))
    {
        return check_version(found);
    }
    let wasi = import.starts_with("wasi:") && import.split_once('@').is_some_and(|(_, v)| v.starts_with("0.2."));
    if wasi { Ok(()) } else { Err(Unfit::Import { name: import.to_owned() }) }
}

fn check_version(found: &str) -> Result<(), Unfit> {
    let is_served = OFFERED.iter().any(|offered| serves(found, offered));
    if is_served { Ok(()) } else { Err(Unfit::Version { found: found.to_owned() }) }
}

fn version_of<'a>(name: &'a str, interface: &str) -> Option<&'a str> {
    name.strip_prefix(interface)?.strip_prefix('@')
}

/// Returns whether a gateway that offers the version `offered` serves plugins that were built against `version`. The
/// major and minor numbers must be equal, and `version` must be neither newer nor a pre-release.
fn serves(version: &str, offered: &Version) -> bool {
    Version::parse(version)
        .is_ok_and(|v| (v.major, v.minor) == (offered.major, offered.minor) && v.pre.is_empty() && v <= *offered)
}

/// Returns the versions that are served, for an error.
fn served() -> String {
    let ranges = OFFERED.map(|offered| format!("{}.{}.0 up to {offered}", offered.major, offered.minor));
    ranges.join(", or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_offered_versions_are_served() {
        for served in ["0.1.0", "0.2.0", "0.2.1", "0.2.2", "0.2.3"] {
            assert!(check_version(served).is_ok(), "{served}");
        }
        for other in ["0.1.1", "0.2.4", "0.3.0", "1.0.0", "0.1.0-rc.1", "0.2.0-rc.1", "", "x"] {
            assert!(check_version(other).is_err(), "{other}");
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
    fn each_kind_of_unfit_file_has_its_own_error() {
        refused(b"", "the file is empty");
        refused(b"hello, this is text", "not a WebAssembly component");
        refused(b"\0asm\x01\0\0\0", "core module");
        refused(
            b"\0asm\x0d\0\x01\0",
            "exports neither `gateway:policy/plugin@0.2.3` nor `gateway:policy/policy@0.1.0`",
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(mut bytes: Vec<u8>, component: bool) {
            if component {
                bytes.splice(0..0, *b"\0asm\x0d\0\x01\0");
            }
            prop_assert!(componentize(&bytes).and_then(|bytes| names(&bytes).and_then(|_| validate(&bytes))).is_err());
        }
    }
}
