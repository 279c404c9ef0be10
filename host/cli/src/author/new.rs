//! `gateway plugin new`: writes a folder with a small plugin in a language of the author's choice. The plugin builds
//! and passes its own tests.

use anyhow::{Context, anyhow, ensure};
use clap::ValueEnum;
use std::{
    env, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The language of a new plugin. There is a template for each language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub(crate) enum Language {
    Rust,
    C,
    Go,
    Javascript,
    Typescript,
    Python,
}

/// A plugin's name that is also valid as the name of a folder, a file and a package.
///
/// A name has 1 to 64 characters of `a-z 0-9 -`, and the first one is a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(String);

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err("a name is a letter and then up to 63 of a-z 0-9 -")
        }
    }
}

/// The options of `gateway plugin new`.
#[derive(Clone, Debug)]
pub(crate) struct NewPlugin {
    /// The plugin's name, which is also the name of the folder.
    pub(crate) name: Name,
    /// The language that the plugin is written in.
    pub(crate) language: Language,
    /// The route byte that the plugin serves.
    pub(crate) route: u8,
    /// The folder of the Rust SDK. If this is `None`, the SDK is `plugin-sdk` in the repository that this gateway was
    /// built from.
    pub(crate) sdk: Option<PathBuf>,
}

/// A file of the new folder: its path and its text. [`new`] replaces the placeholders `{{name}}`, `{{route}}`,
/// `{{gateway}}` and `{{sdk}}` in the text.
type Template = (&'static str, &'static str);

const VECTORS: Template = ("vectors.json", include_str!("templates/vectors.json"));
const IGNORED: Template = (".gitignore", include_str!("templates/gitignore"));
const CONFIG: Template = ("gateway.yaml", include_str!("templates/gateway.yaml"));
/// The configuration for a plugin that contains a JavaScript engine.
const ENGINE_CONFIG: Template = ("gateway.yaml", include_str!("templates/javascript/gateway.yaml"));
const TOOLS: Template = ("tools.mk", include_str!("../../../../plugins/tools.mk"));
const WIT: Template = ("wit/policy.wit", include_str!("../../../../wit/0.2/policy.wit"));

const RUST: &[Template] = &[
    ("README.md", include_str!("templates/rust/README.md")),
    ("Makefile", include_str!("templates/rust/Makefile")),
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml")),
    ("src/lib.rs", include_str!("templates/rust/lib.rs")),
    ("rust-toolchain.toml", include_str!("../../../../rust-toolchain.toml")),
    VECTORS,
    IGNORED,
    CONFIG,
];

const C: &[Template] = &[
    ("README.md", include_str!("templates/c/README.md")),
    ("Makefile", include_str!("templates/c/Makefile")),
    ("policy.c", include_str!("templates/c/policy.c")),
    VECTORS,
    IGNORED,
    CONFIG,
    TOOLS,
    WIT,
];

const GO: &[Template] = &[
    ("README.md", include_str!("templates/go/README.md")),
    ("Makefile", include_str!("templates/go/Makefile")),
    ("go.mod", include_str!("templates/go/go.mod")),
    ("policy.go", include_str!("templates/go/policy.go")),
    ("garbage.go", include_str!("../../../../plugins/lobby/go/garbage.go")),
    VECTORS,
    IGNORED,
    CONFIG,
    TOOLS,
    WIT,
];

const JAVASCRIPT: &[Template] = &[
    ("README.md", include_str!("templates/javascript/README.md")),
    ("Makefile", include_str!("templates/javascript/Makefile")),
    ("policy.js", include_str!("templates/javascript/policy.js")),
    ("package.json", include_str!("../../../../plugins/lobby/javascript/package.json")),
    ("package-lock.json", include_str!("../../../../plugins/lobby/javascript/package-lock.json")),
    ENGINE_CONFIG,
    VECTORS,
    IGNORED,
    TOOLS,
    WIT,
];

const TYPESCRIPT: &[Template] = &[
    ("README.md", include_str!("templates/typescript/README.md")),
    ("Makefile", include_str!("templates/typescript/Makefile")),
    ("policy.ts", include_str!("templates/typescript/policy.ts")),
    ("tsconfig.json", include_str!("templates/typescript/tsconfig.json")),
    ("package.json", include_str!("templates/typescript/package.json")),
    ("package-lock.json", include_str!("templates/typescript/package-lock.json")),
    ENGINE_CONFIG,
    VECTORS,
    IGNORED,
    TOOLS,
    WIT,
];

const PYTHON: &[Template] = &[
    ("README.md", include_str!("templates/python/README.md")),
    ("Makefile", include_str!("templates/python/Makefile")),
    ("policy.py", include_str!("templates/python/policy.py")),
    VECTORS,
    IGNORED,
    CONFIG,
    TOOLS,
    WIT,
];

fn templates(language: Language) -> &'static [Template] {
    match language {
        Language::Rust => RUST,
        Language::C => C,
        Language::Go => GO,
        Language::Javascript => JAVASCRIPT,
        Language::Typescript => TYPESCRIPT,
        Language::Python => PYTHON,
    }
}

/// Writes the folder of the new plugin into `parent`, and returns a text with the next steps for the author.
///
/// # Errors
/// Fails if the folder exists or cannot be written, or if a Rust plugin is wanted and the SDK is not found.
pub(crate) fn new(plugin: &NewPlugin, parent: &Path) -> anyhow::Result<String> {
    let NewPlugin { name: Name(name), language, route, sdk } = plugin;
    let sdk = if *language == Language::Rust { found_sdk(sdk.as_deref())? } else { String::new() };
    let gateway = env::current_exe().map_or_else(|_| "gateway".to_owned(), |path| path.display().to_string());
    let folder = parent.join(name);
    ensure!(!folder.exists(), "{} is there already: choose another name, or remove it", folder.display());
    for (path, text) in templates(*language) {
        let text = text.replace("{{name}}", name).replace("{{route}}", &route.to_string());
        let text = text.replace("{{gateway}}", &gateway).replace("{{sdk}}", &sdk);
        write(&folder.join(path), &text)?;
    }
    Ok(next_steps(name, *language))
}

fn found_sdk(given: Option<&Path>) -> anyhow::Result<String> {
    let found = repository().map(|repository| repository.join("plugin-sdk"));
    let sdk = given.or(found.as_deref()).unwrap_or(Path::new("plugin-sdk"));
    let sdk = sdk.canonicalize().ok().filter(|sdk| sdk.join("Cargo.toml").is_file()).ok_or_else(|| {
        anyhow!(
            "there is no Rust SDK in {}: pass `--sdk PATH` with the folder plugin-sdk of the repository",
            sdk.display()
        )
    })?;
    Ok(sdk.display().to_string())
}

/// Returns the repository that this program lies in, if it still lies where it was built.
fn repository() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let is_repository = |folder: &&Path| folder.join("plugin-sdk/Cargo.toml").is_file() && folder.join("wit").is_dir();
    program.ancestors().find(is_repository).map(Path::to_owned)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("{} cannot be written", path.display()))
}

fn next_steps(name: &str, language: Language) -> String {
    let dist = repository().map_or_else(|| "PLUGINS_DIRECTORY".into(), |path| path.join("plugins/dist"));
    let dist = dist.display();
    let mut steps = format!(
        "{name}/ is written. Next:\n    make -C {name}\n    make -C {name} test\n    cp {name}/{name}.wasm {dist}/\n"
    );
    if matches!(language, Language::Javascript | Language::Typescript) {
        steps += &format!(
            "The JavaScript engine collects its garbage late. Under load, a call now and then needs more than the default \
             limits, and fails with status 8. So before the last step, add this line under `plugins.settings` in the \
             gateway's gateway.yaml:\n    {name}: {{ call_timeout_ms: 100, memory_mb: 256 }}\n"
        );
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_also_valid_for_files_and_packages() {
        for good in ["a", "tic-tac-toe", "v2"] {
            assert_eq!(good.parse::<Name>().unwrap().0, good);
        }
        for bad in ["", "-a", "2d", "A", "a_b", "a/b", "..", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_placeholder_is_left() {
        for language in Language::value_variants() {
            let parent = tempfile::tempdir().unwrap();
            let plugin = NewPlugin { name: "x".parse().unwrap(), language: *language, route: 77, sdk: None };
            new(&plugin, parent.path()).unwrap();
            for (path, _) in templates(*language) {
                let text = fs::read_to_string(parent.path().join("x").join(path)).unwrap();
                assert!(!text.contains("{{"), "{language:?}: {path}");
            }
            let error = new(&plugin, parent.path()).unwrap_err().to_string();
            assert!(error.ends_with("/x is there already: choose another name, or remove it"), "{error}");
        }
    }

    #[test]
    fn without_the_sdk_nothing_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let sdk = Some(parent.path().to_owned());
        let plugin = NewPlugin { name: "x".parse().unwrap(), language: Language::Rust, route: 16, sdk };
        let error = new(&plugin, parent.path()).unwrap_err().to_string();
        assert!(error.contains("there is no Rust SDK in") && error.contains("`--sdk PATH`"), "{error}");
        assert!(!parent.path().join("x").exists());
    }
}
