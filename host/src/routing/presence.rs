//! Clients that go away and come back, which plugins hear of.

use super::{
    calls::{Call, News, Occasion, session_id},
    gateway::Gateway,
    hooks::{MAX_RETRY, MIN_RETRY},
    progress::{Progress, Rest},
    refusal::Refusal,
    snapshot::{ServingPlugin, Snapshot},
    views::{Step, View},
};
use crate::{
    delivery::session::Session,
    plugin::{Absence, Arrival},
    sync::uptime::unix_ms,
};
use futures_util::FutureExt;
use std::{sync::Arc, time::Duration};
use tokio::time;

/// The longest time for which a session waits until the plugins know that its client is back.
const MAX_WAIT: Duration = Duration::from_secs(1);

impl Gateway {
    /// Tells the plugins that the client of a session is away and may come back, each as soon as it can be called.
    pub fn client_is_away(self: &Arc<Self>, session: &Arc<Session>) {
        let heard = self.heard(false);
        self.inform(session, self.views.record(session, true, heard));
    }

    /// Tells the plugins that the client of a session is back. Waits until those know it that can be called, but not for
    /// long.
    pub async fn client_is_back(self: &Arc<Self>, session: &Arc<Session>) {
        self.inform(session, self.views.record(session, false, Vec::new()));
        // Whoever could not be told in this time is told later.
        let _ = time::timeout(MAX_WAIT, self.views.settled(session)).await;
    }

    /// Tells the plugins that a session is here which was at another gateway, as [`Self::client_is_back`] does.
    pub async fn client_has_arrived(self: &Arc<Self>, session: &Arc<Session>) {
        let heard = self.heard(true);
        self.inform(session, self.views.record(session, false, heard));
        let _ = time::timeout(MAX_WAIT, self.views.settled(session)).await;
    }

    /// Waits for the calls about a session that has ended, and makes no further ones.
    pub(super) async fn end_presence(self: &Arc<Self>, session: &Arc<Session>) {
        if self.views.end(session) {
            self.views.settled(session).await;
            self.views.forget(session);
        }
    }

    /// Returns what the plugins know that hear of clients, before they are told anything.
    fn heard(&self, is_handed_over: bool) -> Vec<View> {
        let snapshot = self.snapshot.load();
        let heard = snapshot.served().iter().filter(|served| served.plugin.takes().presence);
        heard.map(|served| View::new(Arc::clone(served.plugin.name()), is_handed_over)).collect()
    }

    fn inform(self: &Arc<Self>, session: &Arc<Session>, plugins: Vec<Arc<str>>) {
        for plugin in plugins {
            let mut telling = Box::pin(Arc::clone(self).tell(Arc::clone(session), plugin));
            // A plugin that can be called has its call at once. Only what has to wait gets a task.
            if telling.as_mut().now_or_never().is_none() {
                tokio::spawn(telling);
            }
        }
    }

    /// Tells a plugin where the client of a session is, until the plugin knows it. A plugin that does not serve any more
    /// is not told.
    async fn tell(self: Arc<Self>, session: Arc<Session>, plugin: Arc<str>) {
        let mut pause = MIN_RETRY;
        while let Some((is_away, is_handed_over)) = self.views.next(&session, &plugin) {
            let snapshot = self.snapshot.load_full();
            let is_meant = |it: &&Arc<ServingPlugin>| *it.plugin.name() == plugin && it.plugin.takes().presence;
            let Some(served) = snapshot.served().iter().find(is_meant) else {
                self.views.told(&session, &plugin, is_away);
                continue;
            };
            let news = news(&session, served, is_away, is_handed_over);
            let call = Call { served, occasion: Occasion::Presence { session: &session, news: &news } };
            match self.serve_when_due(&call, &snapshot).await {
                Err(Refusal::Withdrawn) => {}
                Err(refusal) if refusal.is_temporary() => {
                    if !self.views.postpone(&session, &plugin, pause).await {
                        return self.metrics.dropped("presence", 1);
                    }
                    pause = (2 * pause).min(MAX_RETRY);
                }
                outcome => {
                    self.views.told(&session, &plugin, is_away);
                    if let Err(refusal) = outcome {
                        self.record_loss(&call, &refusal);
                    }
                }
            }
        }
    }

    /// Makes a call. If it has to wait for the offload thread, it is made only if it is still due then.
    async fn serve_when_due(self: &Arc<Self>, call: &Call<'_>, snapshot: &Arc<Snapshot>) -> Result<(), Refusal> {
        let Progress::Left(rest) = self.serve(call, snapshot)? else { return Ok(()) };
        if let (Rest::Call, Some(session)) = (&rest, call.session()) {
            self.views.set(session, call.served.plugin.name(), Step::Queued);
        }
        self.offload_and_wait(call, snapshot, rest).await
    }
}

fn news(session: &Session, served: &ServingPlugin, is_away: bool, handed_over: bool) -> News {
    let (id, user, tag, now) = (session_id(session.id), session.user(), session.tag(&served.account.owner), unix_ms());
    if is_away {
        News::Away(Absence { session: id, user, tag, now })
    } else {
        News::Back(Arrival { session: id, user, tag, handed_over, now })
    }
}
