//! The live sessions, by session id and by user id.

use crate::delivery::{
    conduct::Conduct,
    outbox::{Limits, Outbox},
};
use dashmap::{DashMap, Entry};
use std::{
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use uuid::Uuid;

/// The part of a session that all threads may use. The socket belongs to the session's own task alone.
#[derive(Debug)]
pub struct Session {
    /// The session's identifier in packets, logs and deliveries.
    pub id: Uuid,
    /// The address of the client.
    pub remote: SocketAddr,
    /// The packets that wait to be sent to the client.
    pub outbox: Outbox,
    /// The record of calls that were slow or failed because of the session's packets.
    pub conduct: Conduct,
    standing: LifeAndUser,
}

impl Session {
    /// Returns a session with a new id that is bound to no user.
    #[must_use]
    pub fn new(remote: SocketAddr, limits: Limits) -> Self {
        Self {
            id: Uuid::new_v4(),
            remote,
            outbox: Outbox::new(limits),
            conduct: Conduct::default(),
            standing: LifeAndUser::default(),
        }
    }

    /// Returns the user that the session is bound to.
    #[must_use]
    pub fn user(&self) -> Option<i32> {
        LifeAndUser::user(self.standing.0.load(Ordering::Acquire))
    }
}

/// Whether a session is alive, and the user that it is bound to. Both are in one atomic, so that no session is bound
/// after its end. Only the registry changes it. The lower 32 bits are the user.
#[derive(Debug, Default)]
struct LifeAndUser(AtomicU64);

/// The bit of a session that is bound to a user.
const BOUND_BIT: u64 = 1 << 32;
/// The bit of a session that has ended.
const ENDED_BIT: u64 = 1 << 33;

impl LifeAndUser {
    fn user(standing: u64) -> Option<i32> {
        #[allow(clippy::cast_possible_truncation, reason = "the lower half is the user")]
        (standing & BOUND_BIT != 0).then_some((standing as u32).cast_signed())
    }

    /// Returns whether the session is alive and bound to this user.
    fn is_bound_to(&self, user: i32) -> bool {
        self.0.load(Ordering::Acquire) == Self::bound_to(user)
    }

    fn bound_to(user: i32) -> u64 {
        BOUND_BIT | u64::from(user.cast_unsigned())
    }

    /// Binds the session to this user. Returns false if the session is already bound to this user.
    fn bind(&self, user: i32) -> Result<bool, BindError> {
        let bound = Self::bound_to(user);
        match self.0.compare_exchange(0, bound, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(true),
            Err(standing) if standing & ENDED_BIT != 0 => Err(BindError::Ended),
            Err(standing) if standing == bound => Ok(false),
            Err(_) => Err(BindError::BoundToAnother),
        }
    }

    /// Ends the session. Returns `None` if the session had already ended. Otherwise returns the user that it was bound
    /// to, if there was one.
    fn end(&self) -> Option<Option<i32>> {
        let standing = self.0.fetch_or(ENDED_BIT, Ordering::AcqRel);
        (standing & ENDED_BIT == 0).then(|| Self::user(standing))
    }
}

/// Why a session cannot be bound to a user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The session is bound to another user. A session keeps its first user.
    #[error("the session is bound to another user")]
    BoundToAnother,
    /// The session has ended, for example while its packet waited for a slow plugin.
    #[error("the session has ended")]
    Ended,
}

/// All live sessions of this gateway.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: DashMap<Uuid, Arc<Session>>,
    users: DashMap<i32, Vec<Arc<Session>>>,
}

impl Registry {
    /// Registers a session. The session ends when the returned guard is dropped.
    #[must_use]
    pub fn insert(self: &Arc<Self>, session: Session) -> Registered {
        let session = Arc::new(session);
        self.sessions.insert(session.id, Arc::clone(&session));
        Registered { registry: Arc::clone(self), session }
    }

    /// Binds a session to a user for the rest of its life. Binding it to the same user again changes nothing.
    ///
    /// # Errors
    /// Returns a [`BindError`] if the session is bound to another user or has ended.
    pub fn bind(&self, session: &Arc<Session>, user: i32) -> Result<(), BindError> {
        if session.standing.is_bound_to(user) {
            return Ok(());
        }
        // The session is bound and listed under one lock. The end of a session takes the same lock, so it removes every
        // session that was listed before.
        match self.users.entry(user) {
            Entry::Occupied(mut sessions) => {
                if session.standing.bind(user)? {
                    sessions.get_mut().push(Arc::clone(session));
                }
            }
            Entry::Vacant(sessions) => {
                if session.standing.bind(user)? {
                    sessions.insert(vec![Arc::clone(session)]);
                }
            }
        }
        Ok(())
    }

    /// Returns the live session with this id.
    #[must_use]
    pub fn session(&self, id: Uuid) -> Option<Arc<Session>> {
        self.sessions.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// Calls `visit` for every live session of the user. Returns false if there is none.
    pub fn each_of_user(&self, user: i32, visit: impl FnMut(&Arc<Session>)) -> bool {
        let Some(sessions) = self.users.get(&user) else { return false };
        sessions.iter().for_each(visit);
        true
    }

    /// Returns the number of live sessions of the user.
    #[must_use]
    pub fn sessions_of_user(&self, user: i32) -> usize {
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

    /// Ends a session. Returns the number of messages that were lost in its send queue.
    fn end(&self, session: &Arc<Session>) -> usize {
        let Some(user) = session.standing.end() else { return 0 };
        self.sessions.remove(&session.id);
        if let Some(user) = user
            && let Entry::Occupied(mut sessions) = self.users.entry(user)
        {
            sessions.get_mut().retain(|other| other.id != session.id);
            if sessions.get().is_empty() {
                sessions.remove();
            }
        }
        // A sender that already holds the session may still push. From here on, the outbox refuses its messages.
        session.outbox.end()
    }
}

/// A guard that keeps a session registered. Dropping it ends the session.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    session: Arc<Session>,
}

impl Registered {
    /// Ends the session, so that it can no longer be bound and gets no more messages. Returns the number of messages
    /// that were lost in its send queue.
    #[must_use]
    pub fn end(self) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::outbox::Outcome;
    use bytes::Bytes;
    use std::{sync::Barrier, thread, time::Duration};

    fn registered(registry: &Arc<Registry>) -> Registered {
        let limits =
            Limits { messages: 9, bytes: 999, close_when_full: false, batch_bytes: 999, max_delay: Duration::MAX };
        registry.insert(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), limits))
    }

    fn sessions_of(registry: &Registry, user: i32) -> usize {
        let mut count = 0;
        registry.each_of_user(user, |_| count += 1);
        count
    }

    #[test]
    fn a_session_is_bound_once_and_may_be_bound_again_to_the_same_user() {
        let registry = Arc::default();
        let session = registered(&registry);
        assert_eq!(session.user(), None);
        for user in [-1, i32::MIN, 0, 7] {
            let session = registered(&registry);
            assert_eq!(registry.bind(&session, user), Ok(()));
            assert_eq!(registry.bind(&session, user), Ok(()));
            assert_eq!(registry.bind(&session, 8), Err(BindError::BoundToAnother));
            assert_eq!((session.user(), sessions_of(&registry, user)), (Some(user), 1));
        }
        assert_eq!((sessions_of(&registry, 7), sessions_of(&registry, 8)), (0, 0));
    }

    #[test]
    fn nothing_is_bound_or_delivered_to_a_session_that_has_ended() {
        let registry = Arc::default();
        let session = registered(&registry);
        let kept = Arc::clone(&session);
        kept.outbox.push(1, Bytes::new());
        assert_eq!(session.end(), 1);
        assert_eq!(registry.bind(&kept, 7), Err(BindError::Ended));
        assert_eq!(kept.outbox.push(1, Bytes::new()), Outcome::Closed);
        assert_eq!(registry.session(kept.id).map(|session| session.id), None);
        assert!(registry.is_empty() && sessions_of(&registry, 7) == 0);

        let session = registered(&registry);
        let kept = Arc::clone(&session);
        assert_eq!(registry.bind(&session, 7), Ok(()));
        drop(session);
        assert_eq!(registry.bind(&kept, 7), Err(BindError::Ended));
        assert!(!registry.each_of_user(7, |_| {}));
    }

    #[test]
    fn a_session_that_is_bound_while_it_ends_is_not_left_behind() {
        let registry = Arc::<Registry>::default();
        for user in 0..2000 {
            let session = registered(&registry);
            let (kept, start) = (Arc::clone(&session), Barrier::new(2));
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    registry.bind(&kept, user)
                });
                start.wait();
                drop(session);
            });
            assert!(!registry.each_of_user(user, |_| {}), "user {user} has a session that has ended");
        }
    }
}
