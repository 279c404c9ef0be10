//! The bounds on what a plugin may keep in the host: memberships of groups, interests in topics, and timers.
//!
//! The bounds are checked before a call's actions are carried out. Calls that run at the same time may exceed a bound
//! by the actions of one call each, because the check and the actions are not one step.

use super::{accounts::Account, calls::uuid, effects::held_by, refusal::Refusal, timers::MAX_TIMERS};
use crate::{
    delivery::registry::{Holder, Registry},
    plugin::{Action, Alarm, Interest, Membership},
};
use std::collections::HashMap;
use uuid::Uuid;

/// The maximum number of groups of one plugin that a session may be in.
const MAX_GROUPS_OF_SESSION: usize = 1024;

/// The maximum number of memberships in all groups of one plugin.
const MAX_MEMBERSHIPS: usize = 1_000_000;

/// The maximum number of topics that one session or group may listen to.
const MAX_TOPICS_OF_HOLDER: usize = 64;

/// The maximum number of interests of all sessions and groups of one plugin.
const MAX_INTERESTS: usize = 1_000_000;

/// What the actions of a call would add.
#[derive(Default)]
struct Added {
    memberships: usize,
    groups: HashMap<Uuid, usize>,
    interests: usize,
    topics: HashMap<Holder, usize>,
    timers: usize,
}

impl Added {
    fn by(actions: &[Action]) -> Self {
        let mut added = Self::default();
        for action in actions {
            match action {
                Action::Join(Membership { session, .. }) => {
                    added.memberships += 1;
                    *added.groups.entry(uuid(*session)).or_default() += 1;
                }
                Action::Listen(Interest { holder, .. }) => {
                    added.interests += 1;
                    *added.topics.entry(held_by(holder)).or_default() += 1;
                }
                Action::Wake(Alarm { after_ms: Some(_), .. }) => added.timers += 1,
                _ => {}
            }
        }
        added
    }
}

/// Checks that the actions keep within all bounds. An action that changes nothing, such as a join of a group that the
/// session is in, counts as well.
pub(super) fn check(registry: &Registry, account: &Account, actions: &[Action]) -> Result<(), Refusal> {
    let added = Added::by(actions);
    let owner = &account.owner;
    let within = |what, count: usize, max| if count > max { Err(Refusal::Bound { what, max }) } else { Ok(()) };
    if added.memberships > 0 {
        within("memberships in groups", owner.memberships() + added.memberships, MAX_MEMBERSHIPS)?;
    }
    for (session, groups) in added.groups {
        within("groups of one session", registry.held(owner, session).groups + groups, MAX_GROUPS_OF_SESSION)?;
    }
    if added.interests > 0 {
        within("topics that sessions and groups listen to", owner.interests() + added.interests, MAX_INTERESTS)?;
    }
    for (holder, topics) in added.topics {
        let held = match holder {
            Holder::Session(session) => registry.held(owner, session).topics,
            Holder::Group(group) => registry.topics_of_group(owner, group),
        };
        within("topics of one session or group", held + topics, MAX_TOPICS_OF_HOLDER)?;
    }
    if added.timers > 0 {
        within("timers", account.timers.len() + added.timers, MAX_TIMERS)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        delivery::{outbox::Limits, registry::Registered, session::Session},
        plugin::{self, SessionId},
        routing::{accounts::Accounts, calls::session_id},
    };
    use std::{net::SocketAddr, sync::Arc};

    struct Kept {
        registry: Arc<Registry>,
        account: Arc<Account>,
    }

    impl Kept {
        fn new() -> Self {
            let registry = Arc::new(Registry::new(Box::new(())));
            let account = Accounts::new(Arc::clone(&registry), Arc::default()).of(&"plugin".into());
            Self { registry, account }
        }

        fn session(&self) -> Registered {
            let limits = Limits::of(1, 1);
            self.registry.admit(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), limits)).unwrap()
        }

        /// Returns what is at its bound, if the action would exceed it.
        fn refused(&self, action: Action) -> Option<(&'static str, usize)> {
            match check(&self.registry, &self.account, &[action]) {
                Ok(()) => None,
                Err(Refusal::Bound { what, max }) => Some((what, max)),
                Err(other) => panic!("{}", other.answer().1),
            }
        }
    }

    #[test]
    fn memberships_are_bounded_for_each_session_and_for_the_plugin() {
        let kept = Kept::new();
        let sessions: Vec<_> = (0..1000).map(|_| kept.session()).collect();
        for session in &sessions {
            (0..1000).for_each(|group| kept.registry.join(&kept.account.owner, session.id, group));
        }
        let another = kept.session();
        let join = |session: SessionId, group| Action::Join(Membership { session, group });
        let bound = ("memberships in groups", MAX_MEMBERSHIPS);
        assert_eq!(kept.refused(join(session_id(another.id), 1)), Some(bound));

        // The end of a session makes room.
        let mut sessions = sessions.into_iter();
        drop(sessions.next());
        assert_eq!(kept.refused(join(session_id(another.id), 1)), None);
        let fuller = sessions.next().unwrap();
        (1000..1024).for_each(|group| kept.registry.join(&kept.account.owner, fuller.id, group));
        let bound = ("groups of one session", MAX_GROUPS_OF_SESSION);
        assert_eq!(kept.refused(join(session_id(fuller.id), 1024)), Some(bound));
    }

    #[test]
    fn interests_are_bounded_for_each_holder_and_for_the_plugin() {
        let kept = Kept::new();
        let session = kept.session();
        kept.registry.join(&kept.account.owner, session.id, 0);
        let listen = |holder, topic: &str| Action::Listen(Interest { holder, topic: topic.to_owned() });
        let topics: Vec<_> = (0..MAX_TOPICS_OF_HOLDER).map(|topic| topic.to_string()).collect();
        let sessions: Vec<_> = (0..MAX_INTERESTS / MAX_TOPICS_OF_HOLDER).map(|_| kept.session()).collect();
        for session in &sessions {
            for topic in &topics {
                kept.registry.listen(&kept.account.owner, Holder::Session(session.id), topic);
            }
            if kept.account.owner.interests() == MAX_TOPICS_OF_HOLDER {
                let full = plugin::Holder::Session(session_id(session.id));
                let bound = ("topics of one session or group", MAX_TOPICS_OF_HOLDER);
                assert_eq!(kept.refused(listen(full, "another")), Some(bound));
            }
        }
        let bound = ("topics that sessions and groups listen to", MAX_INTERESTS);
        assert_eq!(kept.refused(listen(plugin::Holder::Session(session_id(session.id)), "0")), Some(bound));
        assert_eq!(kept.refused(listen(plugin::Holder::Group(0), "0")), Some(bound));
        drop(sessions);
        assert_eq!(kept.refused(listen(plugin::Holder::Group(0), "0")), None);
    }

    #[test]
    fn timers_are_bounded() {
        let kept = Kept::new();
        let wake = |key| Action::Wake(Alarm { key, after_ms: Some(1) });
        (0..MAX_TIMERS as u64).for_each(|key| kept.account.timers.set_timer(key, 1_000_000));
        assert_eq!(kept.refused(wake(MAX_TIMERS as u64)), Some(("timers", MAX_TIMERS)));
        kept.account.timers.cancel(0);
        assert_eq!(kept.refused(wake(MAX_TIMERS as u64)), None);
    }
}
