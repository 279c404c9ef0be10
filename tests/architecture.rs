//! The rules that ARCHITECTURE.md states of the code, held by reading the code.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gateway_tests::root;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Lines that a file of the host may have.
const LINES: usize = 400;

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn host() -> Vec<(PathBuf, String)> {
    let files = rust_files(&root().join("host/src"));
    assert!(!files.is_empty());
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// What a file says to the compiler, without comments and unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_host_depends_on_no_chat_crate() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-p", "gateway", "-e", "normal,build", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.starts_with("gateway v"), "{tree}");
    let chat: Vec<_> = tree.lines().filter(|line| line.contains("chat")).collect();
    assert!(chat.is_empty(), "{chat:?}");
}

#[test]
fn the_host_names_no_topic_and_no_message_of_a_game() {
    for (path, text) in host() {
        for word in ["game:request", "\"broadcast\"", "ChatRequest", "ChatResponse", "MessageBroadcast", "0x01", "0x02"]
        {
            assert!(!code(&text).contains(word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn no_file_of_the_host_is_long() {
    for (path, text) in host() {
        let lines = text.lines().count();
        assert!(lines <= LINES, "{} has {lines} lines, and {LINES} are the most", path.display());
    }
}

/// A module, and the modules that it must not know of.
const BELOW: [(&str, &[&str]); 8] = [
    ("sync.rs", &["crate::"]),
    (
        "telemetry.rs",
        &["crate::net", "crate::delivery", "crate::routing", "crate::plugin", "crate::bus", "crate::reload"],
    ),
    ("delivery.rs", &["crate::net", "crate::routing", "crate::plugin", "crate::bus", "crate::reload", "tokio::net"]),
    ("routing.rs", &["crate::net", "crate::reload", "tokio::net", "tungstenite", "redis"]),
    ("routing/snapshot.rs", &["crate::delivery", "gateway::", "crate::bus"]),
    ("bus.rs", &["crate::net", "crate::delivery", "crate::routing", "crate::plugin", "crate::reload"]),
    ("plugin.rs", &["crate::net", "crate::delivery", "crate::routing", "crate::bus", "crate::reload"]),
    ("reload.rs", &["crate::net", "crate::bus", "crate::delivery"]),
];

#[test]
fn dependencies_point_one_way() {
    for (module, forbidden) in BELOW {
        let path = root().join("host/src").join(module);
        let mut files = vec![path.clone()];
        let folder = path.with_extension("");
        if folder.is_dir() {
            files.extend(rust_files(&folder));
        }
        for file in files {
            let code = code(&fs::read_to_string(&file).unwrap());
            for word in forbidden {
                assert!(!code.contains(word), "{} knows of {word}", file.display());
            }
        }
    }
}
