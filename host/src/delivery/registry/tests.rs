use super::*;
use crate::delivery::{
    limits,
    outbox::{Keep, Limits, Outcome, ReplayLimits},
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Barrier, Mutex},
    thread,
};

/// The number of times that two threads race.
const RACES: usize = 2000;

/// Counts the holders of each topic.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<BTreeMap<(u32, String), isize>>>);

impl Interests for Heard {
    fn begin(&self, owner: &Arc<Owner>, topic: &str) -> u64 {
        *self.0.lock().unwrap().entry((owner.id, topic.to_owned())).or_default() += 1;
        7
    }

    fn end(&self, owner: &Owner, topic: &str) {
        *self.0.lock().unwrap().entry((owner.id, topic.to_owned())).or_default() -= 1;
    }
}

impl Heard {
    fn registry(&self) -> Arc<Registry> {
        Arc::new(Registry::new(Box::new(self.clone())))
    }

    fn holders(&self, owner: &Owner, topic: &str) -> isize {
        self.0.lock().unwrap().get(&(owner.id, topic.to_owned())).copied().unwrap_or(0)
    }
}

fn owner(id: u32) -> Arc<Owner> {
    Arc::new(Owner::new(id))
}

fn registered(registry: &Arc<Registry>) -> Registered {
    let limits = Limits::of(9, 999);
    registry.admit(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), limits)).unwrap()
}

fn sessions_of(registry: &Registry, user: i64) -> usize {
    let mut count = 0;
    registry.each_of_user(user, |_| count += 1);
    count
}

#[test]
fn members_of_a_large_group_can_leave_while_it_is_visited() {
    let (registry, owner) = (Heard::default().registry(), owner(1));
    let sessions: Vec<_> = (0..3000).map(|_| registered(&registry)).collect();
    for session in &sessions {
        registry.join(&owner, session.id, 5);
    }
    let mut visited = 0;
    // Under the lock of the group, this would never end.
    assert!(registry.each_of_group(&owner, 5, |session| {
        registry.leave(&owner, session.id, 5);
        visited += 1;
    }));
    assert_eq!((visited, registry.members(&owner, 5)), (3000, 0));
}

fn members(registry: &Registry, owner: &Owner, group: u64) -> Vec<Uuid> {
    let mut members = Vec::new();
    let is_there = registry.each_of_group(owner, group, |session| members.push(session.id));
    assert_eq!((is_there, registry.members(owner, group)), (!members.is_empty(), members.len()));
    members
}

fn push(session: &Session) -> Outcome {
    session.outbox.push(1, Bytes::new(), Keep::Always)
}

/// Ends a session and calls `change` at the same time.
fn race(session: Registered, change: impl FnOnce() + Send) {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            change();
        });
        start.wait();
        drop(session);
    });
}

#[test]
fn a_session_is_bound_once_and_may_be_bound_again_to_the_same_user() {
    let registry = Arc::default();
    let session = registered(&registry);
    assert_eq!(session.user(), None);
    for user in [-1, i64::MIN, 0, i64::MAX] {
        let session = registered(&registry);
        assert_eq!(registry.bind(&session, user), Ok(true));
        assert_eq!(registry.bind(&session, user), Ok(false));
        assert_eq!(session.bind(user), Ok(false));
        assert_eq!(registry.bind(&session, 8), Err(BindError::BoundToAnother));
        assert_eq!((session.user(), sessions_of(&registry, user)), (Some(user), 1));
    }
    assert_eq!((sessions_of(&registry, i64::MAX), sessions_of(&registry, 8)), (0, 0));
}

#[test]
fn nothing_is_bound_or_delivered_to_a_session_that_has_ended() {
    let registry = Arc::default();
    let session = registered(&registry);
    let kept = Arc::clone(&session);
    push(&kept);
    assert_eq!(session.end(), Ended { lost: 1, tags: vec![] });
    assert_eq!(registry.bind(&kept, 7), Err(BindError::Ended));
    assert_eq!(push(&kept), Outcome::Closed);
    assert_eq!(registry.session(kept.id).map(|session| session.id), None);
    assert!(registry.is_empty() && sessions_of(&registry, 7) == 0);

    let session = registered(&registry);
    let kept = Arc::clone(&session);
    assert_eq!(registry.bind(&session, 7), Ok(true));
    drop(session);
    assert_eq!(registry.bind(&kept, 8), Err(BindError::Ended));
    // This changes nothing, so it is no error. The user can still be read.
    assert_eq!((registry.bind(&kept, 7), kept.user()), (Ok(false), Some(7)));
    assert!(!registry.each_of_user(7, |_| {}));
}

#[test]
fn a_session_that_is_bound_while_it_ends_is_not_left_behind() {
    let registry = Arc::<Registry>::default();
    for user in 0..RACES as i64 {
        let session = registered(&registry);
        let kept = Arc::clone(&session);
        race(session, || drop(registry.bind(&kept, user)));
        assert!(!registry.each_of_user(user, |_| {}), "user {user} has a session that has ended");
    }
}

#[test]
fn each_owner_has_tags_and_attributes_of_its_own() {
    let registry = Arc::default();
    let (session, a, b) = (registered(&registry), owner(1), owner(2));
    assert_eq!((session.tag(&a), registry.attribute(&a, session.id, "rank")), (0, None));
    registry.set_tag(&a, session.id, u64::MAX);
    assert_eq!((session.tag(&a), session.tag(&b)), (u64::MAX, 0));
    registry.set_tag(&b, session.id, 5);
    registry.set_tag(&a, session.id, 0);
    assert_eq!((session.tag(&a), session.tag(&b)), (0, 5));

    session.set_attributes(&a, vec![("rank".into(), "gold".into()), ("team".into(), "red".into())]);
    session.set_attributes(&b, vec![("rank".into(), "none".into())]);
    let attribute = |owner, name| registry.attribute(owner, session.id, name);
    assert_eq!((attribute(&a, "team"), attribute(&a, "rank")), (Some("red".into()), Some("gold".into())));
    assert_eq!((attribute(&b, "team"), attribute(&b, "rank")), (None, Some("none".into())));
    assert_eq!(registry.attribute(&a, Uuid::nil(), "rank"), None);
}

#[test]
fn an_ended_session_returns_its_tags_and_takes_nothing_more() {
    let registry = Arc::default();
    let (session, a, b, c) = (registered(&registry), owner(1), owner(2), owner(3));
    registry.set_tag(&a, session.id, 7);
    registry.set_tag(&b, session.id, 8);
    registry.set_tag(&b, session.id, 0);
    registry.set_tag(&c, session.id, 9);
    let kept = Arc::clone(&session);
    assert_eq!(session.end(), Ended { lost: 0, tags: vec![(1, 7), (3, 9)] });
    registry.set_tag(&a, kept.id, 6);
    kept.set_tag(&a, 6);
    kept.set_attributes(&a, vec![("rank".into(), "gold".into())]);
    registry.join(&a, kept.id, 1);
    registry.listen(&a, Holder::Session(kept.id), "news");
    assert_eq!((kept.tag(&a), registry.held(&a, kept.id)), (0, Held::default()));
    assert!(kept.holdings().is_none());
    assert_eq!((a.memberships(), a.interests()), (0, 0));
}

#[test]
fn a_session_that_was_given_nothing_takes_no_memory_for_it() {
    let registry = Arc::<Registry>::default();
    let (session, owner) = (registered(&registry), owner(1));
    registry.set_tag(&owner, session.id, 0);
    session.set_attributes(&owner, vec![]);
    registry.leave(&owner, session.id, 1);
    registry.unlisten(&owner, Holder::Session(session.id), "news");
    assert!(session.holdings().as_ref().is_some_and(|holdings| holdings.of(&owner).is_none()));
    // Reading a tag takes no lock.
    let holdings = session.holdings();
    assert_eq!(session.tag(&owner), 0);
    drop(holdings);
}

#[test]
fn a_group_has_the_sessions_that_joined_and_did_not_leave_or_end() {
    let registry = Arc::default();
    let (a, b) = (owner(1), owner(2));
    let sessions: [_; 3] = [(); 3].map(|()| registered(&registry));
    let [first, second, third] = [0, 1, 2].map(|index: usize| sessions[index].id);
    for id in [first, second, second, third, Uuid::nil()] {
        registry.join(&a, id, 1);
    }
    registry.join(&a, first, 2);
    registry.join(&b, first, 1);
    assert_eq!(members(&registry, &a, 1), [first, second, third]);
    assert_eq!((members(&registry, &a, 2), members(&registry, &b, 1)), (vec![first], vec![first]));
    assert_eq!((a.memberships(), b.memberships()), (4, 1));
    assert_eq!(registry.held(&a, first), Held { groups: 2, topics: 0 });

    registry.leave(&a, second, 1);
    registry.leave(&a, second, 1);
    registry.leave(&a, second, 9);
    assert_eq!((members(&registry, &a, 1), a.memberships()), (vec![first, third], 3));
    let [session, _others @ ..] = sessions;
    drop(session);
    assert_eq!((members(&registry, &a, 1), a.memberships()), (vec![third], 1));
    assert_eq!((members(&registry, &a, 2), members(&registry, &b, 1)), (vec![], vec![]));
    assert_eq!((a.memberships(), b.memberships()), (1, 0));
}

#[test]
fn a_topic_is_heard_as_long_as_a_session_or_a_group_wants_it() {
    let heard = Heard::default();
    let (registry, a, b) = (heard.registry(), owner(1), owner(2));
    let (first, second) = (registered(&registry), registered(&registry));
    registry.listen(&a, Holder::Group(1), "news");
    assert_eq!((heard.holders(&a, "news"), registry.topics_of_group(&a, 1)), (0, 0));

    registry.join(&a, first.id, 1);
    registry.join(&a, second.id, 1);
    for holder in [Holder::Group(1), Holder::Group(1), Holder::Session(first.id), Holder::Session(first.id)] {
        registry.listen(&a, holder, "news");
    }
    // Whoever makes a group listen again has to wait for the same change.
    assert_eq!(registry.listen(&a, Holder::Group(1), "news"), Some(7));
    registry.listen(&a, Holder::Session(second.id), "other");
    registry.listen(&b, Holder::Session(second.id), "news");
    assert_eq!((heard.holders(&a, "news"), heard.holders(&a, "other"), heard.holders(&b, "news")), (2, 1, 1));
    assert_eq!((a.interests(), b.interests(), registry.topics_of_group(&a, 1)), (3, 1, 1));
    assert_eq!(registry.held(&a, first.id), Held { groups: 1, topics: 1 });

    registry.unlisten(&a, Holder::Session(first.id), "news");
    registry.unlisten(&a, Holder::Session(first.id), "news");
    registry.unlisten(&a, Holder::Session(second.id), "news");
    registry.unlisten(&a, Holder::Group(2), "news");
    assert_eq!((heard.holders(&a, "news"), heard.holders(&b, "news"), a.interests()), (1, 1, 2));
    drop(first);
    assert_eq!((heard.holders(&a, "news"), a.interests()), (1, 2));
    // The last member takes the group's interests along.
    registry.leave(&a, second.id, 1);
    assert_eq!((heard.holders(&a, "news"), heard.holders(&a, "other"), a.interests()), (0, 1, 1));
    registry.join(&a, second.id, 1);
    assert_eq!(registry.topics_of_group(&a, 1), 0);
    registry.listen(&a, Holder::Group(1), "news");
    registry.unlisten(&a, Holder::Group(1), "news");
    assert_eq!((heard.holders(&a, "news"), a.interests()), (0, 1));
    drop(second);
    assert_eq!((heard.holders(&a, "other"), heard.holders(&b, "news")), (0, 0));
    assert_eq!((a.interests(), b.interests(), a.memberships()), (0, 0, 0));
}

#[test]
fn a_session_that_joins_a_group_while_it_ends_is_not_left_behind() {
    let (registry, owner) = (Arc::<Registry>::default(), owner(1));
    for group in 0..RACES as u64 {
        let session = registered(&registry);
        let id = session.id;
        race(session, || registry.join(&owner, id, group));
        assert_eq!((members(&registry, &owner, group), owner.memberships()), (vec![], 0));
    }
}

#[test]
fn an_interest_that_begins_while_its_holder_ends_is_not_left_behind() {
    let heard = Heard::default();
    let (registry, owner) = (heard.registry(), owner(1));
    for group in 0..RACES as u64 {
        let session = registered(&registry);
        let holders = [Holder::Session(session.id), Holder::Group(group)];
        registry.join(&owner, session.id, group);
        race(session, || {
            for holder in holders {
                registry.listen(&owner, holder, "news");
            }
        });
        assert_eq!((heard.holders(&owner, "news"), owner.interests(), owner.memberships()), (0, 0, 0));
    }
}

/// Returns a registry in which a user may have `max` sessions.
fn limited_by_user(max: u32, on_user_limit: OnUserLimit) -> Arc<Registry> {
    let registry = Arc::<Registry>::default();
    registry.limits.set(limits::Limits { sessions_per_user: Some(max), on_user_limit, ..Default::default() });
    registry
}

/// Returns which sessions are about to end.
fn closing<const N: usize>(sessions: &[Registered; N]) -> [bool; N] {
    sessions.each_ref().map(|session| session.outbox.is_closing())
}

#[test]
fn the_oldest_sessions_of_a_user_are_closed() {
    let registry = limited_by_user(2, OnUserLimit::CloseOldest);
    let sessions: [_; 4] = std::array::from_fn(|_| registered(&registry));
    let other = registered(&registry);
    assert_eq!(registry.bind(&other, 8), Ok(true));
    let bind = |i: usize| {
        assert_eq!(registry.bind(&sessions[i], 7), Ok(true));
        registry.close_oldest_of_user(&sessions[i]);
        closing(&sessions)
    };
    assert_eq!([bind(1), bind(0)], [[false; 4]; 2]);
    assert_eq!(bind(3), [false, true, false, false]);
    // The session that is about to end does not count.
    assert_eq!(bind(2), [true, true, false, false]);
    assert!(!other.outbox.is_closing());
    registry.limits.set(limits::Limits::default());
    registry.close_oldest_of_user(&sessions[2]);
    assert_eq!(closing(&sessions), [true, true, false, false]);
}

#[test]
fn sessions_that_begin_at_the_same_time_do_not_close_each_other() {
    let registry = limited_by_user(1, OnUserLimit::CloseOldest);
    let sessions = [registered(&registry), registered(&registry)];
    for session in &sessions {
        assert_eq!(registry.bind(session, 7), Ok(true));
    }
    registry.close_oldest_of_user(&sessions[0]);
    assert_eq!(closing(&sessions), [false, false]);
    registry.close_oldest_of_user(&sessions[1]);
    assert_eq!(closing(&sessions), [true, false]);
}

#[test]
fn a_session_too_many_of_a_user_is_refused_and_stays_unbound() {
    let registry = limited_by_user(1, OnUserLimit::Refuse);
    let [first, second] = [registered(&registry), registered(&registry)];
    assert!(registry.may_have_another(7));
    assert_eq!(registry.bind(&first, 7), Ok(true));
    assert!(!registry.may_have_another(7) && registry.may_have_another(8));
    assert_eq!(registry.bind(&second, 7), Err(BindError::TooManySessions));
    assert_eq!((second.user(), sessions_of(&registry, 7)), (None, 1));
    // The first error is the one that a client can mend.
    assert_eq!(registry.bind(&second, 8), Ok(true));
    assert_eq!(registry.bind(&second, 7), Err(BindError::BoundToAnother));
    registry.close_oldest_of_user(&second);
    assert_eq!(registry.bind(&first, 7), Ok(false));
    let third = registered(&registry);
    drop(first);
    assert_eq!(registry.bind(&third, 7), Ok(true));
}

#[test]
fn where_a_session_too_many_is_refused_one_whose_client_is_away_makes_room() {
    let registry = limited_by_user(1, OnUserLimit::Refuse);
    registry.parking.set_max_bytes(1 << 20);
    let resumable = || {
        let replay = Some(ReplayLimits { messages: 9, bytes: 999 });
        let limits = Limits { replay, ..Limits::of(9, 999) };
        registry.admit(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), limits)).unwrap()
    };
    let sessions = [resumable(), resumable(), resumable()];
    let begin = |session: &Registered| {
        let outcome = registry.bind(session, 7);
        registry.close_oldest_of_user(session);
        (outcome, closing(&sessions))
    };
    assert_eq!(begin(&sessions[0]), (Ok(true), [false; 3]));
    assert_eq!(begin(&sessions[1]), (Err(BindError::TooManySessions), [false; 3]));
    sessions[0].outbox.admit_claims([1; 16]);
    assert_eq!(sessions[0].outbox.park(registry.parking.enter().0), Ok(0));
    assert_eq!(begin(&sessions[1]), (Ok(true), [true, false, false]));
    assert_eq!(begin(&sessions[2]), (Err(BindError::TooManySessions), [true, false, false]));
    assert_eq!(begin(&sessions[1]), (Ok(false), [true, false, false]));
    // A session whose client is here stays, even if the limit is lower now than when it began.
    registry.limits.set(limits::Limits { sessions_per_user: Some(2), ..registry.limits.all() });
    assert_eq!(begin(&sessions[2]), (Ok(true), [true, false, false]));
    registry.limits.set(limits::Limits { sessions_per_user: Some(1), ..registry.limits.all() });
    assert_eq!(begin(&sessions[2]), (Ok(false), [true, false, false]));
}

#[test]
fn a_session_that_ends_makes_room_for_another() {
    let registry = Arc::<Registry>::default();
    registry.limits.set(limits::Limits { sessions: Some(1), ..Default::default() });
    let outbox = Limits::of(9, 999);
    let admit = || registry.admit(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), outbox));
    let first = admit().unwrap();
    assert_eq!(admit().err(), Some(OverLimit::Sessions));
    assert_eq!(first.end(), Ended::default());
    assert!(admit().is_ok());
}
