//! The file that keeps the state of all plugins from one start of the gateway to the next (`plugins.state_file`).
//!
//! The file is JSON, so that an operator can look into it. Values are in base64, because they are bytes. The file is
//! replaced in one step: whatever happens while it is written, the old file or the new file is there as a whole.

use crate::{
    file::{self, Unreadable},
    plugin::store::{Saved, SavedEntry},
    sync::uptime::unix_ms,
};
use anyhow::{Context, bail};
use base64::{Engine, display::Base64Display, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

/// The version of the file's form.
const VERSION: u32 = 1;

/// Reads the state of all plugins by the plugins' names. A file that does not exist is empty state. Entries that have
/// expired are left out.
///
/// # Errors
/// Returns an error if the file cannot be read or is not such a file.
pub(super) fn load(path: &Path) -> anyhow::Result<BTreeMap<String, Saved>> {
    let (shown, now_ms) = (path.display(), unix_ms());
    match file::read(path, u64::MAX) {
        Ok(content) => parse(&content, now_ms).with_context(|| {
            format!(
                "the file {shown} (plugins.state_file) is not the state of plugins: move it away to start with empty state"
            )
        }),
        Err(Unreadable::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| {
            format!(
                "the file {shown} (plugins.state_file) cannot be read: make it readable, or move it away to start with \
                 empty state"
            )
        }),
    }
}

/// Replaces the file by the state of all plugins. Entries that have expired are left out.
///
/// # Errors
/// Returns an error if the file cannot be written. The old file is then still there.
pub(super) fn save(path: &Path, plugins: &BTreeMap<String, Saved>) -> anyhow::Result<()> {
    let content = Content::of(plugins, unix_ms());
    replace(&resolved(path), &content).with_context(|| unwritable(path))
}

/// Checks that the state can be read and written. Leaves the file as it is.
///
/// # Errors
/// Returns an error if the file cannot be read, is not such a file, or cannot be replaced.
pub(super) fn check(path: &Path) -> anyhow::Result<()> {
    load(path)?;
    let trial = with_suffix(&resolved(path), &format!(".check-{}", process::id()));
    let created = File::options().write(true).create_new(true).mode(0o600).open(&trial);
    created.and_then(|_| fs::remove_file(&trial)).with_context(|| unwritable(path))
}

/// Returns the file that a symbolic link leads to. Replacing the link would leave that file as it is.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn unwritable(path: &Path) -> String {
    format!(
        "the state of the plugins cannot be written to {} (plugins.state_file): the file's directory has to be writable \
         and to have space for a second copy of the file",
        path.display()
    )
}

fn parse(content: &[u8], now_ms: u64) -> anyhow::Result<BTreeMap<String, Saved>> {
    // The version is read first, because another version may have other keys.
    let Head { version } = serde_json::from_slice(content)?;
    if version != VERSION {
        bail!("it has version {version}, and this gateway reads version {VERSION}");
    }
    let Content { plugins, .. } = serde_json::from_slice(content)?;
    let saved = |Plugin { format, entries }| {
        let entries = entries.into_iter().map(|Entry { key, value: Value(value), expires_ms }| SavedEntry {
            key: key.into(),
            value,
            expires_ms,
        });
        Saved { format, entries: entries.filter(|entry| entry.is_present(now_ms)).collect() }
    };
    Ok(plugins.into_iter().map(|(name, plugin)| (name, saved(plugin))).collect())
}

fn replace(path: &Path, content: &Content) -> io::Result<()> {
    // The unfinished file always has the same name, so that crashes leave at most one such file.
    let temporary = with_suffix(path, ".tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The file is a new one, so that no other user has it open. State may be personal data, so only this user reads it.
    let file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let mut out = BufWriter::new(file);
    serde_json::to_writer(&mut out, content)?;
    out.into_inner()?.sync_all()?;
    fs::rename(&temporary, path)?;
    // The new name is durable only after the directory has been written.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    plugins: BTreeMap<String, Plugin>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    format: u32,
    entries: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    value: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

impl Content {
    fn of(plugins: &BTreeMap<String, Saved>, now_ms: u64) -> Self {
        let plugin = |saved: &Saved| {
            let entries = saved.entries.iter().filter(|entry| entry.is_present(now_ms)).map(|entry| Entry {
                key: entry.key.to_string(),
                value: Value(Arc::clone(&entry.value)),
                expires_ms: entry.expires_ms,
            });
            Plugin { format: saved.format, entries: entries.collect() }
        };
        let plugins = plugins.iter().map(|(name, saved)| (name.clone(), plugin(saved))).collect();
        Self { version: VERSION, plugins }
    }
}

/// A value, which is base64 in the file.
struct Value(Arc<[u8]>);

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let fail = |error| de::Error::custom(format!("a value is no base64: {error}"));
        STANDARD.decode(text).map(|value| Self(value.into())).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn entry(key: &str, value: &[u8], expires_ms: Option<u64>) -> SavedEntry {
        SavedEntry { key: key.into(), value: value.into(), expires_ms }
    }

    fn state<const N: usize>(format: u32, entries: [SavedEntry; N]) -> BTreeMap<String, Saved> {
        BTreeMap::from([("arena".to_owned(), Saved { format, entries: entries.into() })])
    }

    #[track_caller]
    fn check_refused(content: &str, why: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, content).unwrap();
        let shown = path.display();
        let wanted = format!(
            "the file {shown} (plugins.state_file) is not the state of plugins: move it away to start with empty state: \
             {why}"
        );
        assert_eq!(format!("{:#}", load(&path).unwrap_err()), wanted);
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }

    #[test]
    fn state_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(load(&path).unwrap(), BTreeMap::new());
        let saved = state(3, [entry("a", &[0, 255], None), entry("é\"", b"", Some(u64::MAX))]);
        save(&path, &saved).unwrap();
        assert_eq!(load(&path).unwrap(), saved);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"version\":1,\"plugins\":{\"arena\":{\"format\":3,\"entries\":[{\"key\":\"a\",\"value\":\"AP8=\"},\
             {\"key\":\"é\\\"\",\"value\":\"\",\"expires_ms\":18446744073709551615}]}}}"
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let later = state(4, []);
        save(&path, &later).unwrap();
        assert_eq!(load(&path).unwrap(), later);
    }

    #[test]
    fn expired_entries_are_neither_written_nor_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        save(&path, &state(1, [entry("a", b"1", Some(1)), entry("b", b"2", None)])).unwrap();
        let written = r#"{"version":1,"plugins":{"arena":{"format":1,"entries":[{"key":"b","value":"Mg=="}]}}}"#;
        assert_eq!(fs::read_to_string(&path).unwrap(), written);
        let expired = written.replace(r#""Mg==""#, r#""Mg==","expires_ms":1"#);
        fs::write(&path, expired).unwrap();
        assert_eq!(load(&path).unwrap(), state(1, []));
    }

    #[test]
    fn a_file_of_another_form_is_refused_and_stays() {
        check_refused("", "EOF while parsing a value at line 1 column 0");
        check_refused(r#"{"version":1,"plugins":{}"#, "EOF while parsing an object at line 1 column 25");
        check_refused(r#"{"version":2,"state":{}}"#, "it has version 2, and this gateway reads version 1");
        check_refused(r#"{"version":1}"#, "missing field `plugins` at line 1 column 13");
        check_refused(
            r#"{"version":1,"plugins":{"a":{"format":1,"entries":[{"key":"a","value":"A"}]}}}"#,
            "a value is no base64: Invalid input length: 1 at line 1 column 74",
        );
    }

    #[test]
    fn a_crash_while_the_file_is_written_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let old = state(1, [entry("a", b"1", None)]);
        save(&path, &old).unwrap();
        let unfinished = folder.path().join("state.json.tmp");
        fs::write(&unfinished, r#"{"version":1,"plugins":{"arena""#).unwrap();
        assert_eq!(load(&path).unwrap(), old);
        let new = state(1, [entry("a", b"2", None)]);
        save(&path, &new).unwrap();
        assert_eq!((load(&path).unwrap(), unfinished.exists()), (new, false));
    }

    #[test]
    fn a_symbolic_link_stays_and_the_file_that_it_leads_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("volume")).unwrap();
        let (link, target) = (folder.path().join("state.json"), folder.path().join("volume/state.json"));
        save(&target, &state(1, [])).unwrap();
        std::os::unix::fs::symlink("volume/state.json", &link).unwrap();
        let saved = state(1, [entry("a", b"1", None)]);
        save(&link, &saved).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(load(&target).unwrap(), saved);
    }

    #[test]
    fn a_check_leaves_the_folder_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        check(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(&path, "").unwrap();
        assert!(format!("{:#}", check(&path).unwrap_err()).contains("is not the state of plugins"));
        let nowhere = format!("{:#}", check(Path::new("/proc/state.json")).unwrap_err());
        assert!(nowhere.contains("cannot be written to /proc/state.json (plugins.state_file)"), "{nowhere}");
    }

    #[test]
    fn a_directory_is_neither_read_nor_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", load(folder.path()).unwrap_err());
        assert!(error.contains("cannot be read: make it readable, or move it away"), "{error}");
        let error = format!("{:#}", save(folder.path(), &state(1, [])).unwrap_err());
        assert!(error.contains("(plugins.state_file): the file's directory has to be writable"), "{error}");
    }

    #[test]
    fn an_old_file_survives_a_write_that_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let old = state(1, [entry("a", b"1", None)]);
        save(&path, &old).unwrap();
        // A directory in the place of the unfinished file cannot be replaced.
        fs::create_dir(folder.path().join("state.json.tmp")).unwrap();
        save(&path, &state(1, [])).unwrap_err();
        assert_eq!(load(&path).unwrap(), old);
    }
}
