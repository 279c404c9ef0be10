//! What plugins know of the clients of sessions: whether they are away.
//!
//! A plugin is told only what it does not know, so its calls for one session alternate, whatever happens meanwhile. If
//! the client is back before a plugin could be told that it is away, the plugin knows the right thing already.
//!
//! A session has an entry while its client is away, and until all plugins know that it is back. So a session whose
//! connection never breaks has none.

use super::calls::{Call, Occasion};
use crate::delivery::session::Session;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time};

/// The maximum number of calls that wait until a plugin can be called again. Further ones are not tried again.
const MAX_POSTPONED: usize = 100_000;

/// What plugins know of the clients of sessions.
#[derive(Default)]
pub(super) struct Views {
    /// The entries, by the addresses of their sessions. An id does not do, because a session that was handed over may
    /// come back while its end here is still being told.
    entries: Mutex<HashMap<usize, Entry>>,
    /// The number of calls that wait until a plugin can be called again.
    postponed: AtomicUsize,
}

/// A session whose client is away, or was away until a moment ago.
struct Entry {
    /// Keeps the address from being used again.
    _session: Arc<Session>,
    is_away: bool,
    has_ended: bool,
    views: Vec<View>,
    /// Notifies those who wait for calls.
    called: Arc<Notify>,
}

/// What one plugin knows.
pub(super) struct View {
    plugin: Arc<str>,
    is_away: bool,
    /// Whether the session has come from another gateway, and the plugin was not told so yet.
    is_handed_over: bool,
    step: Step,
}

/// How far a plugin is told what it does not know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nobody tells it anything.
    Idle,
    /// A call is in the queue of the offload thread. It is made only if it is still due at its turn.
    Queued,
    /// A call is made.
    Called,
    /// The plugin cannot be called now.
    Postponed,
}

impl View {
    /// Returns what a plugin knows before it was told anything. One to which a session comes from another gateway is told
    /// as if the client had been away.
    pub(super) fn new(plugin: Arc<str>, is_handed_over: bool) -> Self {
        Self { plugin, is_away: is_handed_over, is_handed_over, step: Step::Idle }
    }
}

impl Entry {
    /// Returns whether the plugin does not know where the client is. It is not told that the client of an ended session
    /// is back.
    fn is_due(&self, view: &View) -> bool {
        view.is_away != self.is_away && (self.is_away || !self.has_ended)
    }

    /// Returns whether a plugin is being told something.
    fn is_telling(&self) -> bool {
        let is_told = |view: &View| match view.step {
            Step::Called => true,
            Step::Queued => self.is_due(view),
            Step::Idle | Step::Postponed => false,
        };
        self.views.iter().any(is_told)
    }
}

impl Views {
    fn entries(&self) -> MutexGuard<'_, HashMap<usize, Entry>> {
        // No code panics in the middle of a change under this lock, so the entries are consistent.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records where the client of a session is, for the plugins in `heard` and those that know of an absence. Returns
    /// the plugins that have to be told.
    pub(super) fn record(&self, session: &Arc<Session>, is_away: bool, heard: Vec<View>) -> Vec<Arc<str>> {
        let mut entries = self.entries();
        let key = address(session);
        if heard.is_empty() && !entries.contains_key(&key) {
            return Vec::new();
        }
        let entry = entries.entry(key).or_insert_with(|| Entry {
            _session: Arc::clone(session),
            is_away,
            has_ended: false,
            views: Vec::new(),
            called: Arc::default(),
        });
        entry.is_away = is_away;
        for view in heard {
            if !entry.views.iter().any(|known| known.plugin == view.plugin) {
                entry.views.push(view);
            }
        }
        let mut due = Vec::new();
        for i in 0..entry.views.len() {
            if entry.views[i].step == Step::Idle && entry.is_due(&entry.views[i]) {
                entry.views[i].step = Step::Called;
                due.push(Arc::clone(&entry.views[i].plugin));
            }
        }
        Self::sweep(&mut entries, key);
        due
    }

    /// Removes what nobody needs any more.
    fn sweep(entries: &mut HashMap<usize, Entry>, key: usize) {
        if let Some(entry) = entries.get_mut(&key)
            && !entry.is_away
        {
            entry.views.retain(|view| view.is_away || view.step != Step::Idle);
            if entry.views.is_empty() {
                entries.remove(&key);
            }
        }
    }

    /// Changes what is known of a plugin. Returns `None` if there is no entry any more.
    fn change<T>(
        &self,
        session: &Arc<Session>,
        plugin: &str,
        change: impl FnOnce(&mut View, bool, bool) -> T,
    ) -> Option<T> {
        let mut entries = self.entries();
        let key = address(session);
        let entry = entries.get_mut(&key)?;
        let place = entry.views.iter().position(|view| *view.plugin == *plugin)?;
        let (is_due, is_away) = (entry.is_due(&entry.views[place]), entry.is_away);
        let changed = change(&mut entry.views[place], is_due, is_away);
        entry.called.notify_waiters();
        Self::sweep(&mut entries, key);
        Some(changed)
    }

    /// Begins the next call of a plugin. Returns whether the client is away, and whether the session was handed over, or
    /// `None` if there is nothing to tell.
    pub(super) fn next(&self, session: &Arc<Session>, plugin: &str) -> Option<(bool, bool)> {
        let begin = |view: &mut View, is_due: bool, is_away: bool| {
            view.step = if is_due { Step::Called } else { Step::Idle };
            is_due.then_some((is_away, view.is_handed_over))
        };
        self.change(session, plugin, begin).flatten()
    }

    /// Records what a plugin was told.
    pub(super) fn told(&self, session: &Arc<Session>, plugin: &str, is_away: bool) {
        self.change(session, plugin, |view, _, _| {
            view.is_away = is_away;
            view.is_handed_over &= is_away;
        });
    }

    pub(super) fn set(&self, session: &Arc<Session>, plugin: &str, step: Step) {
        self.change(session, plugin, |view, _, _| view.step = step);
    }

    /// Returns whether a call that had to wait for the offload thread still has to be made.
    pub(super) fn begin(&self, call: &Call<'_>) -> bool {
        let Occasion::Presence { session, .. } = call.occasion else { return true };
        let begin = |view: &mut View, is_due: bool, _| {
            if is_due {
                view.step = Step::Called;
            }
            is_due
        };
        self.change(session, call.served.plugin.name(), begin).unwrap_or(false)
    }

    /// Waits for `pause` because the plugin cannot be called. Returns false, without a wait, if too many calls wait.
    pub(super) async fn postpone(&self, session: &Arc<Session>, plugin: &str, pause: Duration) -> bool {
        let has_room = self.postponed.fetch_add(1, Ordering::Relaxed) < MAX_POSTPONED;
        self.set(session, plugin, if has_room { Step::Postponed } else { Step::Idle });
        if has_room {
            time::sleep(pause).await;
        }
        self.postponed.fetch_sub(1, Ordering::Relaxed);
        has_room
    }

    /// Records that the session has ended. Returns false if there is no entry.
    pub(super) fn end(&self, session: &Arc<Session>) -> bool {
        let mut entries = self.entries();
        let entry = entries.get_mut(&address(session));
        entry.map(|entry| entry.has_ended = true).is_some()
    }

    /// Forgets a session that has ended.
    pub(super) fn forget(&self, session: &Arc<Session>) {
        self.entries().remove(&address(session));
    }

    /// Waits until no plugin is being told anything about the session.
    pub(super) async fn settled(&self, session: &Arc<Session>) {
        let telling = || {
            let entries = self.entries();
            entries.get(&address(session)).filter(|entry| entry.is_telling()).map(|entry| Arc::clone(&entry.called))
        };
        while let Some(called) = telling() {
            let notified = called.notified();
            if telling().is_some() {
                notified.await;
            }
        }
    }
}

fn address(session: &Arc<Session>) -> usize {
    Arc::as_ptr(session) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::outbox::Limits;
    use std::net::SocketAddr;

    const PLUGIN: &str = "arena";

    struct Story {
        views: Views,
        session: Arc<Session>,
    }

    impl Story {
        fn new() -> Self {
            let remote = SocketAddr::from(([127, 0, 0, 1], 1));
            Self { views: Views::default(), session: Arc::new(Session::new(remote, Limits::of(1, 1))) }
        }

        /// Records where the client is. Returns whether the plugin has to be told.
        fn record(&self, is_away: bool, is_handed_over: bool) -> bool {
            !self.views.record(&self.session, is_away, vec![View::new(PLUGIN.into(), is_handed_over)]).is_empty()
        }

        fn next(&self) -> Option<(bool, bool)> {
            self.views.next(&self.session, PLUGIN)
        }

        /// Makes the call that is due, which is `on-away` or `on-back`.
        #[track_caller]
        fn tell(&self, is_away: bool, is_handed_over: bool) {
            assert_eq!(self.next(), Some((is_away, is_handed_over)));
            self.views.told(&self.session, PLUGIN, is_away);
            assert_eq!(self.next(), None);
        }

        fn set(&self, step: Step) {
            self.views.set(&self.session, PLUGIN, step);
        }

        #[track_caller]
        fn is_forgotten(&self) {
            assert!(self.views.entries().is_empty());
        }

        fn is_telling(&self) -> bool {
            self.views.entries()[&address(&self.session)].is_telling()
        }
    }

    #[test]
    fn a_plugin_is_told_each_change_once_and_then_nothing_is_kept() {
        let story = Story::new();
        assert!(story.record(true, false));
        story.tell(true, false);
        assert!(!story.record(true, false));
        assert!(story.record(false, false));
        story.tell(false, false);
        story.is_forgotten();
    }

    #[test]
    fn a_plugin_is_not_told_what_no_longer_holds() {
        let story = Story::new();
        story.record(true, false);
        assert_eq!(story.next(), Some((true, false)));
        story.set(Step::Postponed);
        assert!(!story.record(false, false) && !story.is_telling());
        assert!(!story.record(true, false) && !story.record(false, false));
        assert_eq!(story.next(), None);
        story.is_forgotten();
    }

    #[test]
    fn a_return_that_could_not_be_told_is_left_out_if_the_client_is_away_again() {
        let story = Story::new();
        story.record(true, false);
        story.tell(true, false);
        story.record(false, false);
        story.set(Step::Postponed);
        story.record(true, false);
        assert_eq!(story.next(), None);
        assert!(story.record(false, false));
        story.tell(false, false);
        story.is_forgotten();
    }

    #[test]
    fn a_session_that_was_handed_over_is_told_as_such_until_the_plugin_knows_it() {
        let story = Story::new();
        assert!(story.record(false, true));
        story.set(Step::Postponed);
        assert!(!story.record(true, false) && !story.record(false, false));
        story.tell(false, true);
        story.is_forgotten();

        // The client is away again while the plugin is told.
        story.record(false, true);
        story.record(true, false);
        story.views.told(&story.session, PLUGIN, false);
        story.tell(true, false);
        assert!(story.record(false, false));
        story.tell(false, false);
    }

    #[test]
    fn a_session_waits_for_calls_that_are_made_and_for_those_in_a_queue_that_are_due() {
        let story = Story::new();
        story.record(true, false);
        assert!(story.is_telling());
        story.set(Step::Queued);
        assert!(story.is_telling());
        story.record(false, false);
        assert!(!story.is_telling());
        // The call is found to be not due at its turn.
        assert_eq!(story.next(), None);
        story.is_forgotten();
    }

    #[test]
    fn of_a_session_that_has_ended_only_an_absence_is_told() {
        let story = Story::new();
        story.record(true, false);
        story.set(Step::Queued);
        assert!(story.views.end(&story.session) && story.is_telling());
        story.tell(true, false);
        assert!(!story.is_telling());
        story.views.forget(&story.session);
        story.is_forgotten();
        assert!(!story.views.end(&story.session));

        story.record(true, false);
        story.tell(true, false);
        story.record(false, false);
        story.set(Step::Queued);
        story.views.end(&story.session);
        assert!(!story.is_telling());
        assert_eq!(story.next(), None);
    }

    #[tokio::test]
    async fn the_calls_that_wait_for_a_plugin_are_bounded() {
        let story = Story::new();
        story.record(true, false);
        story.views.postponed.store(MAX_POSTPONED, Ordering::Relaxed);
        assert!(!story.views.postpone(&story.session, PLUGIN, Duration::MAX).await);
        assert_eq!(story.views.postponed.load(Ordering::Relaxed), MAX_POSTPONED);
        // The client is back, and the plugin was never told that it was away.
        assert!(!story.record(false, false));
        story.is_forgotten();
        story.views.postponed.store(MAX_POSTPONED - 1, Ordering::Relaxed);
        story.record(true, false);
        assert!(story.views.postpone(&story.session, PLUGIN, Duration::ZERO).await);
    }
}
