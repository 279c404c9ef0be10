//! The pages for operators: the dashboard and the playground. They are part of the binary, so there is nothing to
//! install.
//!
//! A page holds no data. It asks the API, like every other client, so whoever has no token gets an empty page. The
//! headers keep scripts of strangers out: a page runs only the scripts of this listener, is never shown inside of another
//! page, and cannot turn a text into HTML.

use axum::{
    extract::{Path, rejection::PathRejection},
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};

/// What the browser lets a page do. A page may connect to WebSockets anywhere, because the playground does, and fetches
/// only from this listener.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! files {
    ($($type:ident $name:literal,)*) => {
        [$(($name, $type, include_str!(concat!("pages/", $name)))),*]
    };
}

/// The files of the pages: the name, the type and the content of each.
const FILES: &[(&str, &str, &str)] = &files! {
    HTML "dashboard.html",
    HTML "playground.html",
    STYLE "style.css",
    IMAGE "icon.svg",
    SCRIPT "api.js",
    SCRIPT "arena.js",
    SCRIPT "chart.js",
    SCRIPT "chat.js",
    SCRIPT "connection.js",
    SCRIPT "dashboard.js",
    SCRIPT "dom.js",
    SCRIPT "game.js",
    SCRIPT "inspect.js",
    SCRIPT "log.js",
    SCRIPT "metrics.js",
    SCRIPT "packets.js",
    SCRIPT "playground.js",
    SCRIPT "plugins.js",
    SCRIPT "reasons.js",
    SCRIPT "sessions.js",
};

/// The client for browsers, which `build.rs` makes from client/typescript.
const CLIENT: &[(&str, &str, &str)] = &include!(concat!(env!("OUT_DIR"), "/client.rs"));

/// Returns whether everybody may read the path: the pages and their files hold no data.
pub(super) fn is_page(path: &str) -> bool {
    matches!(path, "/" | "/playground") || path.starts_with("/pages/")
}

pub(super) async fn dashboard() -> Response {
    file("dashboard.html")
}

pub(super) async fn playground() -> Response {
    file("playground.html")
}

pub(super) async fn named(name: Result<Path<String>, PathRejection>) -> Response {
    file(name.as_deref().map_or("", String::as_str))
}

fn file(name: &str) -> Response {
    let Some((_, kind, content)) = FILES.iter().chain(CLIENT).find(|(known, ..)| *known == name) else {
        return super::api::no_such_path_now();
    };
    let headers: [(HeaderName, &str); 6] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // A gateway of another version may be next at this address.
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    (headers, *content).into_response()
}
