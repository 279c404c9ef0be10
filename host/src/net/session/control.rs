//! The packets of the control route, and the expiry of the session's token.

use super::{Actor, Flow, Work};
use crate::{
    auth::Denied,
    delivery::outbox::{Keep, Outgoing},
    net::end::End,
    net::expiry::{Due, Expiry},
    sync::uptime::unix_ms,
};
use bytes::Bytes;
use gateway_proto::{ClientControl, Control, TokenExpires, client_control::Request, control::Event};
use gateway_wire::packet::{Header, ROUTE_CONTROL, Status};
use prost::Message as _;
use std::{ops::ControlFlow, sync::Arc};
use tokio::time::Instant;

/// Why a packet of the control route is refused.
type Refusal = (Status, String);

impl Actor {
    /// Answers a packet of the control route.
    pub(super) async fn on_control(&mut self, (header, payload): (Header, Bytes)) -> Flow<Work> {
        let outcome = match ClientControl::decode(payload).map(|control| control.request) {
            Ok(Some(Request::Refresh(refresh))) => match self.refresh(&refresh.token).await {
                ControlFlow::Continue(outcome) => outcome,
                ControlFlow::Break(end) => {
                    // The packet counts as received, so the client does not repeat it, and gets the answer over its next
                    // connection.
                    if end.is_break && self.shared.resumes.is_some() {
                        let why = "the connection ended before the token was checked: try again".to_owned();
                        self.shared.gateway.answer_control(&self.session, header, Err((Status::Unavailable, why)));
                    }
                    return ControlFlow::Break(end);
                }
            },
            Ok(None) | Err(_) => {
                Err((Status::MalformedPayload, "the payload is not a gateway.ClientControl with a request".to_owned()))
            }
        };
        self.shared.gateway.answer_control(&self.session, header, outcome);
        ControlFlow::Continue(self.write_answers())
    }

    /// Replaces the token of the session by a new one of the same user.
    async fn refresh(&mut self, token: &str) -> Flow<Result<(), Refusal>> {
        let auth = Arc::clone(&self.shared.auth);
        if self.session.user().is_none() && auth.is_on() {
            let why = "the session has no user whose token could be refreshed: connect with the token".to_owned();
            return ControlFlow::Continue(Err((Status::Forbidden, why)));
        }
        let identity = match self.write_until(Box::pin(auth.identify(Some(token)))).await? {
            Ok(identity) => identity,
            Err(Denied::Unavailable) => {
                return ControlFlow::Continue(Err((Status::Unavailable, Denied::Unavailable.to_string())));
            }
            Err(denied) => return ControlFlow::Continue(Err((Status::Forbidden, denied.to_string()))),
        };
        if identity.is_some_and(|identity| self.session.user() != Some(identity.user)) {
            let why = "the token does not name the user of the session".to_owned();
            return ControlFlow::Continue(Err((Status::Forbidden, why)));
        }
        // If no tokens are checked any more, none expires.
        self.expiry = identity.and_then(Expiry::of).map(Box::new);
        self.expire_in_time();
        ControlFlow::Continue(Ok(()))
    }

    /// Lets the timer fire early enough for the expiry of the token.
    pub(super) fn expire_in_time(&mut self) {
        if let Some(expiry) = &self.expiry {
            let next = Instant::now() + expiry.next_in(unix_ms());
            let earlier = self.timer.deadline().min(next);
            self.timer.as_mut().reset(earlier);
        }
    }

    /// Warns the client that its token expires, or ends the session if it has expired. Returns whether it was warned.
    pub(super) async fn expire(&mut self) -> Flow<bool> {
        let Some(expiry) = &mut self.expiry else { return ControlFlow::Continue(false) };
        let due = expiry.due(unix_ms());
        let is_warned = matches!(due, Due::Warning(_));
        if let Due::Warning(in_ms) = due {
            let expires = TokenExpires { in_ms: i64::try_from(in_ms).unwrap_or(i64::MAX) };
            let payload = Control { event: Some(Event::TokenExpires(expires)) }.encode_to_vec().into();
            let header = Header::push(ROUTE_CONTROL, 0);
            self.batch.push_back(Outgoing { header, payload, keep: Keep::Always });
            self.write(None).await?;
        }
        if due == Due::End {
            if self.shared.auth.is_on() {
                return ControlFlow::Break(Box::new(End::with_code("token_expired", 4001, "the token has expired")));
            }
            // No tokens are checked any more, so none expires.
            self.expiry = None;
        }
        self.expire_in_time();
        ControlFlow::Continue(is_warned)
    }
}
