//! Tests of the clients in other languages, each against the real gateway: chat, refusals, tokens, connections that
//! break, gateways that stop, and sessions that must not come back.
//!
//! `make typescript` builds the client for Node and browsers, and `make csharp` the one in C#. A client is skipped if its
//! tools are missing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "clients/agent.rs"]
mod agent;
#[path = "clients/example.rs"]
mod example;
#[path = "clients/scenarios.rs"]
mod scenarios;
#[path = "clients/units.rs"]
mod units;

use agent::{Agent, Kind};

/// Plays a scenario with a client of this kind, if its tools are there.
async fn play(kind: Kind, scenario: impl AsyncFnOnce(&Agent)) {
    if let Some(agent) = Agent::start(kind).await {
        scenario(&agent).await;
        agent.end().await;
    }
}

/// Makes a module for each kind of client, with a test for each scenario.
macro_rules! on_every_client {
    ($kinds:tt $scenarios:tt) => { on_every_client!(@each $kinds $scenarios); };
    (@each { $($module:ident: $kind:ident),* $(,)? } $scenarios:tt) => {
        $(mod $module { on_every_client!(@tests $kind $scenarios); })*
    };
    (@tests $kind:ident { $($scenario:ident),* $(,)? }) => {
        $(#[tokio::test]
        async fn $scenario() {
            crate::play(crate::Kind::$kind, crate::scenarios::$scenario).await;
        })*
    };
}

on_every_client! {
    { node: Node, node_with_ws: NodeWithWs, chromium: Chromium, godot: Godot, mono: Mono }
    {
        two_sessions_chat,
        a_refusal_says_why_and_the_session_goes_on,
        heartbeats_are_sent_and_answered,
        a_session_that_is_cut_goes_on_and_everything_comes_once,
        a_connection_that_is_silent_is_given_up_and_the_session_goes_on,
        a_session_that_is_woken_up_finds_out_at_once_whether_its_connection_lives,
        a_gateway_that_stops_sends_the_session_to_another_one,
        a_session_that_is_replaced_does_not_come_back,
        a_token_goes_along_and_can_be_replaced,
        a_token_that_expires_is_renewed,
    }
}
