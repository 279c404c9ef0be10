//! The API for operators: who is connected, which plugins serve, and the end of sessions.

use super::{about, state::Admin};
use crate::routing::closings::{Notice, Target};
use axum::{
    Json,
    body::Bytes,
    extract::{
        Path, RawQuery, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use std::{collections::BTreeMap, str::FromStr, sync::Arc};

/// The maximum size of a request's body, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 4096;

/// The maximum number of sessions in one answer.
const MAX_SESSIONS: usize = 1000;

/// Answers with the status, and with a text that says what is wrong.
pub(super) fn error(status: StatusCode, why: impl Into<String>) -> Response {
    (status, Json(json!({ "error": why.into() }))).into_response()
}

pub(super) async fn no_such_path() -> Response {
    no_such_path_now()
}

pub(super) fn no_such_path_now() -> Response {
    error(StatusCode::NOT_FOUND, "there is no such path")
}

pub(super) async fn wrong_method() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method, see the header Allow")
}

pub(super) fn too_slow() -> Response {
    error(StatusCode::REQUEST_TIMEOUT, "the request was not complete in time")
}

/// Describes the gateway.
pub(super) async fn gateway(State(admin): State<Arc<Admin>>) -> Response {
    Json(about::report(&admin)).into_response()
}

/// Lists the last warnings and errors of the log, or those after the line with a number.
pub(super) async fn log(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let after = query.as_deref().map_or(Some(0), |query| query.strip_prefix("after=")?.parse().ok());
    let Some(after) = after else {
        return error(StatusCode::BAD_REQUEST, "the query has to be ?after=NUMBER, the number of a line");
    };
    let (lines, last) = admin.log.after(after);
    let lines: Vec<_> = lines.iter().map(|line| json!(**line)).collect();
    Json(json!({ "lines": lines, "last": last })).into_response()
}

/// Lists the sessions of a user on this gateway, or the session with an id.
pub(super) async fn sessions(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let wanted = query.as_deref().and_then(|query| match query.split_once('=')? {
        ("user", id) => user(id).map(Target::User),
        ("session", id) => id.parse().ok().map(Target::Session),
        _ => None,
    });
    let (mut total, mut found) = (0, Vec::new());
    match wanted {
        // No other work is done here, because new sessions of the user wait meanwhile.
        Some(Target::User(user)) => drop(admin.gateway.registry.each_of_user(user, |session| {
            total += 1;
            if total <= MAX_SESSIONS {
                found.push(Arc::clone(session));
            }
        })),
        Some(Target::Session(id)) => {
            found.extend(admin.gateway.registry.session(id));
            total = found.len();
        }
        None => {
            return error(
                StatusCode::BAD_REQUEST,
                "the query has to be ?user=ID, and ID is 1 or more, or ?session=ID, and ID is a UUID",
            );
        }
    }
    let sessions = found.iter().map(|session| {
        let (messages, bytes) = session.outbox.waiting();
        json!({
            "id": session.id,
            "user": session.user(),
            // Many JSON parsers round numbers above 2^53.
            "user_id": session.user().map(|user| user.to_string()),
            "remote": session.remote(),
            "away": session.outbox.is_away(),
            "connected_at_ms": session.connected_at_ms(),
            "queued_messages": messages,
            "queued_bytes": bytes,
        })
    });
    Json(json!({ "sessions": sessions.collect::<Vec<_>>(), "total": total })).into_response()
}

/// Lists the plugin files, and the plugins that serve from them.
pub(super) async fn plugins(State(admin): State<Arc<Admin>>) -> Response {
    let known = admin.files.get();
    let snapshot = admin.gateway.snapshot();
    let serving: BTreeMap<_, _> = snapshot
        .plugins()
        .map(|plugin| {
            let report = json!({
                "name": **plugin.name(),
                "version": plugin.version(),
                "generation": plugin.generation(),
                "in_use_since_ms": plugin.in_use_since_ms(),
                "routes": plugin.routes(),
                "topics": plugin.topics,
                "calls": plugin.calls(),
                "quarantined": plugin.is_quarantined(),
            });
            (&**plugin.name(), report)
        })
        .collect();
    let mut files = Vec::new();
    for file in known.plugins {
        // The name of a plugin has no spaces.
        let name = file.serving.as_deref().and_then(|serving| serving.split(' ').next());
        let plugin = name.and_then(|name| serving.get(name)).cloned();
        files.push(json!({ "file": file.file, "plugin": plugin, "error": file.error, "compiling": file.compiling }));
    }
    Json(json!({ "plugins": files, "directory_error": known.directory_error })).into_response()
}

/// Closes a session, on whichever gateway it is.
pub(super) async fn close_session(
    State(admin): State<Arc<Admin>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match parsed(id) {
        Some(id) => close(&admin, Target::Session(id), &headers, body).await,
        None => error(StatusCode::BAD_REQUEST, "the id of a session is a UUID"),
    }
}

/// Closes all sessions of a user, on whichever gateways they are.
pub(super) async fn close_user(
    State(admin): State<Arc<Admin>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match parsed::<String>(id).as_deref().and_then(user) {
        Some(user) => close(&admin, Target::User(user), &headers, body).await,
        None => error(StatusCode::BAD_REQUEST, "the id of a user is an integer, 1 or more"),
    }
}

async fn close(admin: &Admin, target: Target, headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let notice = match notice(headers, body) {
        Ok(notice) => notice,
        Err((status, why)) => return error(status, why),
    };
    let closings = &admin.gateway.closings;
    let closed = closings.close_here(target, &notice);
    let published = match admin.bus.error() {
        Some(why) => Err(format!("the bus is not connected: {why}")),
        None => closings.publish(target, &notice).await.map_err(|error| error.to_string()),
    };
    // Afterwards, so that a gateway that stops has heard the order before it leaves further sessions in Redis.
    let published = published.and(admin.gateway.handovers.end_stored(target).await);
    tracing::info!(?target, ?notice, closed, published = published.is_ok(), "an operator closes sessions");
    match published {
        Ok(()) => Json(json!({ "closed": closed, "published": true })).into_response(),
        Err(why) => {
            let report = json!({ "closed": closed, "published": false, "error": why });
            (StatusCode::SERVICE_UNAVAILABLE, Json(report)).into_response()
        }
    }
}

/// Returns the notice in the body of a request.
fn notice(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Notice, (StatusCode, String)> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the request needs `Content-Type: application/json`".to_owned(),
        ));
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {MAX_BODY_BYTES} bytes"))
        }
        status => (status, "the body could not be read".to_owned()),
    })?;
    Notice::parse(&body).map_err(|why| (StatusCode::BAD_REQUEST, why))
}

fn parsed<T: FromStr>(id: Result<Path<String>, PathRejection>) -> Option<T> {
    id.ok()?.parse().ok()
}

/// Returns the user with this id.
fn user(id: &str) -> Option<i64> {
    id.parse().ok().filter(|user| *user > 0)
}
