//! What the gateway is and how it is: its version, where clients connect, the bus, and whether it is ready.

use super::{
    probes::Probes,
    state::{Admin, Facts},
};
use crate::{config::Game, reload::reports::Known};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Describes the gateway to operators.
pub(super) fn report(admin: &Admin) -> Value {
    let known = admin.files.get();
    let reasons = admin.reasons(&known);
    let Facts { started_at_ms, websocket, bus: (kind, place), resume_window_ms } = &admin.facts;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started_at_ms": started_at_ms,
        "websocket": websocket,
        "bus": { "kind": kind, "place": place, "error": admin.bus.error() },
        "auth": admin.auth.is_on(),
        "resume_window_ms": resume_window_ms,
        "readiness": readiness(admin, known, reasons),
    })
}

/// Describes to operators whether the gateway is ready.
pub(super) fn readiness(admin: &Admin, known: Known, reasons: Vec<String>) -> Value {
    let games: Vec<_> = known.games.iter().map(|game| game_report(game, &admin.probes)).collect();
    let snapshot = admin.gateway.snapshot();
    let quarantined = snapshot.plugins().filter(|plugin| plugin.is_quarantined());
    let quarantined: Vec<_> = quarantined.map(|plugin| plugin.name().to_string()).collect();
    let mut report = json!({
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "plugins": known.plugins,
        "quarantined": quarantined,
        "games": games,
    });
    if let Some(error) = known.directory_error {
        report["directory_error"] = error.into();
    }
    if admin.auth.is_on() {
        report["auth"] = json!({ "keys": admin.auth.sources() });
    }
    report
}

/// Returns the entry of a game and its backends for the readiness report.
fn game_report(game: &Game, probes: &Probes) -> Value {
    let backends: BTreeMap<_, _> = game.backends.iter().map(|(name, address)| (name, probes.report(address))).collect();
    // `chat_backend` repeats the entry `chat` of `backends`, because dashboards may read this key.
    let chat = game.backends.get("chat").map(|address| probes.report(address));
    json!({ "id": game.id, "backends": backends, "chat_backend": chat })
}
