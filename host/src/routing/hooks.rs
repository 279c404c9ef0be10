//! The beginning and the end of sessions, which plugins decide on and hear of.

use super::{
    calls::{Call, Occasion, session_id},
    gateway::Gateway,
    progress::{Progress, Rest},
    refusal::{Denied, Refusal},
    snapshot::Snapshot,
};
use crate::{
    delivery::{
        registry::{Ended, Registered},
        session::Session,
    },
    plugin::{Connection, Departure},
    sync::uptime::unix_ms,
};
use futures_util::future;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::oneshot, time};

/// The maximum number of ended sessions whose end a plugin has not been told yet, because the plugin is in quarantine or
/// too slow, or because the bus takes no publishes. The ends of further sessions are lost and counted.
const MAX_DEPARTING: usize = 100_000;

/// The pause before a plugin that cannot be called is called again. It doubles up to [`MAX_RETRY`].
pub(super) const MIN_RETRY: Duration = Duration::from_millis(100);

/// The longest pause before a plugin that cannot be called is called again.
pub(super) const MAX_RETRY: Duration = Duration::from_secs(5);

/// What a client sent when it asked for a session.
#[derive(Debug, Default)]
pub struct Asked {
    /// The query of the request's path, without the token.
    pub query: String,
    /// The headers that plugins may see.
    pub headers: Vec<(String, String)>,
    /// The claims of the client's token, as JSON.
    pub claims: Option<String>,
}

/// A session that has ended, and the plugins that have to be told.
pub struct Departing {
    session: Arc<Session>,
    plugins: Vec<Arc<str>>,
    tags: Vec<(u32, u64)>,
}

impl Gateway {
    /// Sets the names of the plugins without which no session begins.
    pub fn require(&self, plugins: Vec<String>) {
        self.required.store(Arc::new(plugins));
    }

    /// Returns the required plugins that do not serve.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.missing_in(&self.snapshot.load())
    }

    fn missing_in(&self, snapshot: &Snapshot) -> Vec<String> {
        let serves = |name: &&String| snapshot.plugins().any(|plugin| **plugin.name() == ***name);
        self.required.load().iter().filter(|name| !serves(name)).cloned().collect()
    }

    /// Records that the outcome is known for each plugin file that was there at the start.
    pub fn set_loaded(&self) {
        self.is_loaded.store(true, Ordering::Relaxed);
    }

    /// Returns why no session of another gateway may go on here now. Without the plugins, its packets would be refused,
    /// and its pushes lost. Until this gateway is ready, such a session stays where it is.
    pub fn takes_no_sessions(&self) -> Option<Denied> {
        match self.missing().first() {
            Some(missing) => Some(Denied::missing(missing)),
            None => (!self.is_loaded.load(Ordering::Relaxed)).then(Denied::loading),
        }
    }

    /// Returns whether a plugin, or the lack of one, decides whether a session begins.
    #[must_use]
    pub fn asks_at_connect(&self) -> bool {
        !self.snapshot.load().asked().is_empty() || !self.required.load().is_empty()
    }

    /// Asks the plugins whether a session may begin, one after the other. If one denies, the session ends.
    ///
    /// The returned future must not be dropped before it is done.
    ///
    /// # Errors
    /// Returns the answer for the client, and the plugins that had admitted the session, which have to be told.
    pub async fn on_connect(
        self: &Arc<Self>,
        session: Registered,
        asked: Asked,
    ) -> Result<Registered, (Denied, Departing)> {
        // The same plugins have to be there and be asked, even if others are loaded at this moment.
        let snapshot = self.snapshot.load_full();
        if let Some(name) = self.missing_in(&snapshot).first() {
            let denied = Denied::missing(name);
            return Err((denied, self.departing(session, Vec::new())));
        }
        let connection = Arc::new(Connection {
            session: session_id(session.id),
            remote: session.remote().to_string(),
            query: asked.query,
            headers: asked.headers,
            user: session.user(),
            claims: asked.claims,
            now: unix_ms(),
        });
        let mut admitted = Vec::new();
        for served in snapshot.asked() {
            let call = Call { served, occasion: Occasion::Connect { session: &session, connection: &connection } };
            match self.serve_and_wait(&call, &snapshot).await {
                Ok(()) => admitted.push(Arc::clone(served.plugin.name())),
                Err(refusal) => {
                    let denied = Denied::from(&refusal);
                    if !denied.is_decision {
                        self.log_unasked(&call, &denied);
                        if !served.plugin.is_gatekeeper() {
                            continue;
                        }
                    }
                    return Err((denied, self.departing(session, admitted)));
                }
            }
        }
        Ok(session)
    }

    /// Ends a session that a plugin has not admitted. `plugins` have to be told.
    fn departing(&self, session: Registered, plugins: Vec<Arc<str>>) -> Departing {
        let (session, tags) = self.end(session, 0);
        Departing { session, plugins, tags }
    }

    /// Ends a session, and counts the messages that are lost with it: those in its send queue, and `unwritten` others.
    /// Returns it with the tags that it had, by the ids of their owners.
    pub fn end(&self, session: Registered, unwritten: usize) -> (Arc<Session>, Vec<(u32, u64)>) {
        let ended = Arc::clone(&session);
        // From here on, the outbox takes no more messages.
        let Ended { lost, tags } = session.end();
        if unwritten + lost > 0 {
            self.metrics.dropped("session_ended", unwritten + lost);
        }
        (ended, tags)
    }

    /// Tells the plugins that a session has ended. `tags` are the tags that it had, by the ids of their owners.
    pub async fn on_disconnect(self: &Arc<Self>, session: Arc<Session>, cause: &'static str, tags: Vec<(u32, u64)>) {
        self.end_presence(&session).await;
        let asked = self.snapshot.load();
        if asked.asked().is_empty() {
            return;
        }
        let plugins = asked.asked().iter().map(|served| Arc::clone(served.plugin.name())).collect();
        drop(asked);
        self.depart(Departing { session, plugins, tags }, cause).await;
    }

    /// Tells plugins that a session has ended, each as soon as it can be called.
    pub async fn depart(self: &Arc<Self>, departing: Departing, cause: &'static str) {
        let Departing { session, plugins, tags } = departing;
        if self.departing.fetch_add(1, Ordering::Relaxed) < MAX_DEPARTING {
            // One plugin in quarantine does not keep the others waiting.
            let tell = |plugin: &Arc<str>| self.tell_departure(&session, Arc::clone(plugin), cause, &tags);
            future::join_all(plugins.iter().map(tell)).await;
        } else {
            self.metrics.dropped("departures", plugins.len());
        }
        self.departing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells one plugin that a session has ended, as soon as the plugin can be called. A plugin that does not serve any
    /// more is not told.
    async fn tell_departure(
        self: &Arc<Self>,
        session: &Arc<Session>,
        plugin: Arc<str>,
        cause: &'static str,
        tags: &[(u32, u64)],
    ) {
        let mut pause = MIN_RETRY;
        loop {
            let snapshot = self.snapshot.load_full();
            let Some(served) = snapshot.asked().iter().find(|served| *served.plugin.name() == plugin) else { return };
            let tag = tags.iter().find(|(owner, _)| *owner == served.account.owner.id).map_or(0, |(_, tag)| *tag);
            let departure = Arc::new(Departure {
                session: session_id(session.id),
                user: session.user(),
                tag,
                cause: cause.to_owned(),
                now: unix_ms(),
            });
            let call = Call { served, occasion: Occasion::Disconnect { session, departure: &departure } };
            match self.serve_and_wait(&call, &snapshot).await {
                Ok(()) => return,
                Err(refusal) if refusal.is_temporary() => {
                    time::sleep(pause).await;
                    pause = (2 * pause).min(MAX_RETRY);
                }
                Err(refusal) => return self.record_loss(&call, &refusal),
            }
        }
    }

    /// Makes a call, on the offload thread if necessary, and waits for its outcome.
    async fn serve_and_wait(self: &Arc<Self>, call: &Call<'_>, snapshot: &Arc<Snapshot>) -> Result<(), Refusal> {
        let Progress::Left(rest) = self.serve(call, snapshot)? else { return Ok(()) };
        self.offload_and_wait(call, snapshot, rest).await
    }

    /// Hands the rest of a call to the offload thread, and waits for its outcome.
    pub(super) async fn offload_and_wait(
        self: &Arc<Self>,
        call: &Call<'_>,
        snapshot: &Arc<Snapshot>,
        rest: Rest,
    ) -> Result<(), Refusal> {
        if call.served.plugin.admits_nothing() {
            return Err(Refusal::Quarantined);
        }
        let (done, outcome) = oneshot::channel();
        self.offload(call.owned(), Arc::clone(snapshot), rest, move |_, _, outcome| {
            // An error means that the connection's task was aborted, at the end of the process.
            let _ = done.send(outcome.map(|_| ()));
        })?;
        // An error means that the call panicked.
        outcome.await.unwrap_or(Err(Refusal::Fault))
    }

    /// Logs that a plugin could not be asked whether a session may begin.
    fn log_unasked(&self, call: &Call<'_>, denied: &Denied) {
        let plugin = &**call.served.plugin.name();
        if !self.metrics.log_limits.permit("plugin not asked at connect", plugin) {
            return;
        }
        let why = &denied.message;
        if call.served.plugin.is_gatekeeper() {
            tracing::error!(plugin, why, "session refused: the plugin that has to admit it cannot be asked");
        } else {
            tracing::warn!(plugin, why, "a session begins without the plugin's `on-connect`, which cannot be called");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bus, delivery::outbox::Limits, telemetry::metrics::Metrics};
    use std::net::SocketAddr;

    #[tokio::test]
    async fn the_ends_that_plugins_have_not_been_told_yet_are_bounded_and_the_rest_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let gateway = Arc::new(Gateway::new(Arc::clone(&metrics), Arc::<bus::Queue<_>>::default(), 1024));
        let limits = Limits::of(1, 1);
        let session = Arc::new(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), limits));
        let departing = || Departing {
            session: Arc::clone(&session),
            plugins: vec!["chat".into(), "arena".into()],
            tags: Vec::new(),
        };
        let dropped = |count: u32| {
            let line = format!("gateway_messages_dropped_total{{reason=\"departures\"}} {count}\n");
            let text = metrics.encode().unwrap();
            assert!(text.contains(&line), "{line} is not in {text}");
        };
        gateway.departing.store(MAX_DEPARTING - 1, Ordering::Relaxed);
        gateway.depart(departing(), "closed").await;
        dropped(0);
        gateway.departing.store(MAX_DEPARTING, Ordering::Relaxed);
        gateway.depart(departing(), "closed").await;
        dropped(2);
        assert_eq!(gateway.departing.load(Ordering::Relaxed), MAX_DEPARTING);
    }
}
