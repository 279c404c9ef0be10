//! The bounds on what a plugin may keep in the host: memberships of groups, interests in topics, and timers.
//!
//! The bounds are checked before a call's actions are carried out. Calls that run at the same time may exceed a bound
//! by the actions of one call each, because the check and the actions are not one step.

use super::{accounts::Account, calls::uuid, refusal::Refusal, timers::MAX_TIMERS};
use crate::{
    delivery::registry::Registry,
    plugin::{Action, Alarm, Holder, Interest, Membership},
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
    topics: HashMap<(bool, u128), usize>,
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
                    let holder = match holder {
                        Holder::Session(session) => (true, uuid(*session).as_u128()),
                        Holder::Group(group) => (false, u128::from(*group)),
                    };
                    *added.topics.entry(holder).or_default() += 1;
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
    for ((is_session, id), topics) in added.topics {
        let held = if is_session {
            registry.held(owner, Uuid::from_u128(id)).topics
        } else {
            registry.topics_of_group(owner, u64::try_from(id).unwrap_or_default())
        };
        within("topics of one session or group", held + topics, MAX_TOPICS_OF_HOLDER)?;
    }
    if added.timers > 0 {
        within("timers", account.timers.len() + added.timers, MAX_TIMERS)?;
    }
    Ok(())
}
