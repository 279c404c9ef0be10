//! The live sessions, by session id, by user id and by group, and all changes of what they hold.
//!
//! Locks are taken in this order: a user's sessions, the holdings of one session, a group.

#[cfg(test)]
mod tests;

pub use crate::delivery::occupancy::Seat;

use crate::delivery::{
    groups::Groups,
    holdings::{Held, Holding, Holdings},
    limits::{Limits, LiveLimits, OnUserLimit, OverLimit},
    occupancy::Occupancy,
    outbox::Closing,
    owner::{Interests, Owner},
    parking::Parking,
    session::{BindError, Session},
};
use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;
use std::{
    net::{IpAddr, SocketAddr},
    ops::Deref,
    sync::Arc,
};
use uuid::Uuid;

/// All live sessions of this gateway.
///
/// Functions that take the id of a session do nothing if no live session has this id. No function may be called while a
/// `visit` of this type runs.
pub struct Registry {
    /// The limits that hold now.
    pub limits: LiveLimits,
    /// The sessions whose clients are away.
    pub parking: Arc<Parking>,
    occupancy: Arc<Occupancy>,
    sessions: DashMap<Uuid, Arc<Session>, RandomState>,
    users: DashMap<i64, Vec<Arc<Session>>, RandomState>,
    groups: Groups,
    interests: Box<dyn Interests>,
}

/// The holder of an interest in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A session. The interest ends with the session.
    Session(Uuid),
    /// A group of the same owner. The interest ends with the group.
    Group(u64),
}

/// A registry whose sessions hear nothing.
impl Default for Registry {
    fn default() -> Self {
        Self::new(Box::new(()))
    }
}

impl Registry {
    /// Returns an empty registry, which reports the interests of its sessions and groups to `interests`.
    #[must_use]
    pub fn new(interests: Box<dyn Interests>) -> Self {
        Self {
            limits: LiveLimits::default(),
            parking: Arc::default(),
            occupancy: Arc::default(),
            sessions: DashMap::default(),
            users: DashMap::default(),
            groups: Groups::default(),
            interests,
        }
    }

    /// Registers a session. The session ends when the returned guard is dropped.
    ///
    /// # Errors
    /// Returns the limit on the number of sessions that would be exceeded.
    pub fn admit(self: &Arc<Self>, session: Session) -> Result<Registered, OverLimit> {
        Ok(self.admit_to(self.reserve(session.remote().ip())?, session))
    }

    /// Reserves room for a session of a client with this address.
    ///
    /// # Errors
    /// Returns the limit on the number of sessions that would be exceeded.
    pub fn reserve(&self, address: IpAddr) -> Result<Seat, OverLimit> {
        self.occupancy.reserve(address, &self.limits.all())
    }

    /// Registers a session for which there is room, as [`Self::admit`] does.
    pub fn admit_to(self: &Arc<Self>, seat: Seat, session: Session) -> Registered {
        let session = Arc::new(session);
        self.sessions.insert(session.id, Arc::clone(&session));
        seat.pass_on();
        Registered { registry: Arc::clone(self), session }
    }

    /// Counts a session for the network from which its client has come back. No limit can refuse it, because the session
    /// is there already.
    pub fn relocate(&self, session: &Session, remote: SocketAddr) {
        // The end of the session takes the holdings under this lock. So the address changes before it, or not at all.
        let holdings = session.holdings();
        if holdings.is_some() {
            let before = session.set_remote(remote);
            self.occupancy.relocate(before.ip(), remote.ip());
        }
    }

    /// Binds a session to a user for the rest of its life. Binding it to the same user again changes nothing. Returns
    /// whether the session was unbound before.
    ///
    /// The caller passes a session that was unbound to [`Self::close_oldest_of_user`] as soon as the session has begun.
    ///
    /// # Errors
    /// Returns a [`BindError`] if the session is bound to another user, if the user may have no further session, or if
    /// the session ended before it was bound.
    pub fn bind(&self, session: &Arc<Session>, user: i64) -> Result<bool, BindError> {
        self.bind_up_to(self.refused_above(), session, user)
    }

    /// Binds a session that has come from another gateway, as [`Self::bind`] does, but whatever the limit is.
    ///
    /// # Errors
    /// Returns a [`BindError`] as [`Self::bind`] does.
    pub fn bind_anyway(&self, session: &Arc<Session>, user: i64) -> Result<bool, BindError> {
        self.bind_up_to(None, session, user)
    }

    fn bind_up_to(&self, max: Option<usize>, session: &Arc<Session>, user: i64) -> Result<bool, BindError> {
        if session.user() == Some(user) {
            return Ok(false);
        }
        // The session is bound and listed under one lock. The end of a session takes the same lock after it has ruled
        // out further binds, so it removes every session that was listed before.
        match self.users.entry(user) {
            Entry::Occupied(mut sessions) => {
                if session.user().is_none() && max.is_some_and(|max| here(sessions.get()).count() >= max) {
                    return Err(BindError::TooManySessions);
                }
                let is_new = session.bind(user)?;
                if is_new {
                    sessions.get_mut().push(Arc::clone(session));
                }
                Ok(is_new)
            }
            Entry::Vacant(sessions) => {
                let is_new = session.bind(user)?;
                if is_new {
                    sessions.insert(vec![Arc::clone(session)]);
                }
                Ok(is_new)
            }
        }
    }

    /// Returns whether a further session may be bound to the user.
    #[must_use]
    pub fn may_have_another(&self, user: i64) -> bool {
        self.refused_above()
            .is_none_or(|max| self.users.get(&user).is_none_or(|sessions| here(&sessions).count() < max))
    }

    /// Closes the oldest sessions of the session's user, if the user has more than it may have. Closes neither this
    /// session nor those that were bound after it. If further sessions are refused, closes only those whose client is
    /// away: often it is the same client, which has lost the token with which it could resume.
    pub fn close_oldest_of_user(&self, session: &Session) {
        let Limits { sessions_per_user: Some(max), on_user_limit, .. } = self.limits.all() else { return };
        let Some(sessions) = session.user().and_then(|user| self.users.get(&user)) else { return };
        let excess = staying(&sessions).count().saturating_sub(max as usize);
        let older = staying(&sessions).take_while(|other| other.id != session.id);
        let may_close = |older: &&Arc<Session>| on_user_limit == OnUserLimit::CloseOldest || older.outbox.is_away();
        for older in older.filter(may_close).take(excess) {
            older.outbox.close(Closing::another_session());
        }
    }

    /// Returns the number of sessions of one user above which further ones are refused.
    fn refused_above(&self) -> Option<usize> {
        let Limits { sessions_per_user, on_user_limit, .. } = self.limits.all();
        sessions_per_user.filter(|_| on_user_limit == OnUserLimit::Refuse).map(|max| max as usize)
    }

    /// Returns the live session with this id.
    #[must_use]
    pub fn session(&self, id: Uuid) -> Option<Arc<Session>> {
        self.sessions.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// Calls `visit` for every live session of the user. Returns false if there is none.
    pub fn each_of_user(&self, user: i64, visit: impl FnMut(&Arc<Session>)) -> bool {
        let Some(sessions) = self.users.get(&user) else { return false };
        sessions.iter().for_each(visit);
        true
    }

    /// Returns the number of live sessions of the user.
    #[must_use]
    pub fn sessions_of_user(&self, user: i64) -> usize {
        self.users.get(&user).map_or(0, |sessions| sessions.len())
    }

    /// Returns the number of live sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Returns whether there is no live session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Calls `visit` for every live session.
    pub fn each(&self, mut visit: impl FnMut(&Arc<Session>)) {
        for entry in &self.sessions {
            visit(&entry);
        }
    }

    /// Returns every live session. The sessions are copied part by part, so no lock is held for long.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        let mut sessions = Vec::with_capacity(self.len());
        self.each(|session| sessions.push(Arc::clone(session)));
        sessions
    }

    /// Gives a session the number that [`Session::tag`] returns for the owner.
    pub fn set_tag(&self, owner: &Arc<Owner>, id: Uuid, tag: u64) {
        if let Some(session) = self.session(id) {
            session.set_tag(owner, tag);
        }
    }

    /// Returns the attribute with this name that the owner gave to a session.
    #[must_use]
    pub fn attribute(&self, owner: &Owner, id: Uuid, name: &str) -> Option<String> {
        self.with_holdings(id, |_, holdings| Some(holdings.of(owner)?.attribute(name)?.to_owned()))?
    }

    /// Returns how much a session holds of the owner.
    #[must_use]
    pub fn held(&self, owner: &Owner, id: Uuid) -> Held {
        let held = self.with_holdings(id, |_, holdings| Some(holdings.of(owner)?.held()));
        held.flatten().unwrap_or_default()
    }

    /// Returns a copy of everything that a session holds.
    #[must_use]
    pub fn holdings(&self, id: Uuid) -> Vec<Holding> {
        self.with_holdings(id, |_, holdings| holdings.copy()).unwrap_or_default()
    }

    /// Adds a session to a group of the owner. A group exists while it has members.
    pub fn join(&self, owner: &Arc<Owner>, id: Uuid, group: u64) {
        self.with_holdings(id, |session, holdings| {
            if holdings.share(owner).groups.insert(group) {
                self.groups.join(owner, group, session);
            }
        });
    }

    /// Removes a session from a group of the owner.
    pub fn leave(&self, owner: &Owner, id: Uuid, group: u64) {
        self.with_holdings(id, |session, holdings| {
            if holdings.of_mut(owner).is_some_and(|share| share.groups.swap_remove(&group)) {
                self.groups.leave(owner, group, session.id, &*self.interests);
            }
        });
    }

    /// Calls `visit` for every member of a group. Returns false if there is none.
    pub fn each_of_group(&self, owner: &Owner, group: u64, visit: impl FnMut(&Arc<Session>)) -> bool {
        self.groups.each(owner, group, visit)
    }

    /// Returns the number of members of a group.
    #[must_use]
    pub fn members(&self, owner: &Owner, group: u64) -> usize {
        self.groups.members(owner, group)
    }

    /// Records that the holder wants to hear a topic. A group without members wants nothing.
    pub fn listen(&self, owner: &Arc<Owner>, holder: Holder, topic: &str) -> Option<u64> {
        match holder {
            Holder::Group(group) => self.groups.listen(owner, group, topic, &*self.interests),
            Holder::Session(id) => self.with_holdings(id, |session, holdings| {
                let began = holdings.share(owner).topics.insert(topic.into());
                let began = began.then(|| owner.begin(topic, &*self.interests))?;
                session.set_listens_since(began);
                Some(began)
            })?,
        }
    }

    /// Records that the holder no longer wants to hear a topic.
    pub fn unlisten(&self, owner: &Owner, holder: Holder, topic: &str) {
        match holder {
            Holder::Group(group) => self.groups.unlisten(owner, group, topic, &*self.interests),
            Holder::Session(id) => {
                self.with_holdings(id, |_, holdings| {
                    if holdings.of_mut(owner).is_some_and(|share| share.topics.swap_remove(topic)) {
                        owner.end(topic, &*self.interests);
                    }
                });
            }
        }
    }

    /// Returns the number of topics that are heard for a group.
    #[must_use]
    pub fn topics_of_group(&self, owner: &Owner, group: u64) -> usize {
        self.groups.topics(owner, group)
    }

    /// Calls `visit` with a live session and what it holds, under the lock of the holdings.
    fn with_holdings<R>(&self, id: Uuid, visit: impl FnOnce(&Arc<Session>, &mut Holdings) -> R) -> Option<R> {
        let session = self.session(id)?;
        session.holdings().as_mut().map(|holdings| visit(&session, holdings))
    }

    fn end(&self, session: &Arc<Session>) -> Ended {
        let Some(holdings) = session.end() else { return Ended::default() };
        // From here on, the session has no other address.
        self.occupancy.leave(session.remote().ip());
        let tags = holdings.tags();
        for share in holdings {
            for group in share.groups {
                self.groups.leave(&share.owner, group, session.id, &*self.interests);
            }
            for topic in share.topics {
                share.owner.end(&topic, &*self.interests);
            }
        }
        if let Some(user) = session.user()
            && let Entry::Occupied(mut sessions) = self.users.entry(user)
        {
            sessions.get_mut().retain(|other| other.id != session.id);
            if sessions.get().is_empty() {
                sessions.remove();
            }
        }
        // A sender that already holds the session may still push. From here on, the outbox refuses its messages.
        let lost = session.outbox.end();
        // The session is counted until it holds nothing, so that the number of sessions falls last.
        self.sessions.remove(&session.id);
        Ended { lost, tags }
    }
}

/// Returns the sessions that are not about to end, in the order in which they were bound.
fn staying(sessions: &[Arc<Session>]) -> impl Iterator<Item = &Arc<Session>> {
    sessions.iter().filter(|session| !session.outbox.is_closing())
}

/// Returns those of them whose clients are not away.
fn here(sessions: &[Arc<Session>]) -> impl Iterator<Item = &Arc<Session>> {
    staying(sessions).filter(|session| !session.outbox.is_away())
}

/// What a session leaves behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The number of messages that were lost in its send queue.
    pub lost: usize,
    /// The tags that it had, each with the id of its owner. A tag of 0 is left out.
    pub tags: Vec<(u32, u64)>,
}

/// A guard that keeps a session registered. Dropping it ends the session.
pub struct Registered {
    registry: Arc<Registry>,
    session: Arc<Session>,
}

impl Registered {
    /// Ends the session, so that it is neither bound nor given anything, leaves all groups and gets no more messages.
    #[must_use]
    pub fn end(self) -> Ended {
        self.registry.end(&self.session)
    }
}

impl Deref for Registered {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.end(&self.session);
    }
}
