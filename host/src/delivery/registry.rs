//! Who is here: session id and user id to session.

use crate::delivery::{
    conduct::Conduct,
    outbox::{Limits, Outbox},
};
use dashmap::{DashMap, Entry};
use std::{
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, OnceLock},
};
use uuid::Uuid;

/// What others may know of a session. Its socket belongs to the session's own task alone.
#[derive(Debug)]
pub struct Session {
    /// Its name in packets, logs and deliveries.
    pub id: Uuid,
    /// Where it came from.
    pub remote: SocketAddr,
    /// What waits to be sent to it.
    pub outbox: Outbox,
    /// Whether its packets make plugins slow or fail.
    pub conduct: Conduct,
    user: OnceLock<i32>,
}

impl Session {
    /// A session with a fresh id, bound to nobody.
    #[must_use]
    pub fn new(remote: SocketAddr, limits: Limits) -> Self {
        Self {
            id: Uuid::new_v4(),
            remote,
            outbox: Outbox::new(limits),
            conduct: Conduct::default(),
            user: OnceLock::new(),
        }
    }

    /// The user that it is bound to.
    #[must_use]
    pub fn user(&self) -> Option<i32> {
        self.user.get().copied()
    }
}

/// A bind to a second user, which is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is bound to another user")]
pub struct BoundToAnother;

/// Every live session of this gateway.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: DashMap<Uuid, Arc<Session>>,
    users: DashMap<i32, Vec<Arc<Session>>>,
}

impl Registry {
    /// Makes a session known until the guard is dropped.
    #[must_use]
    pub fn insert(self: &Arc<Self>, session: Session) -> Registered {
        let session = Arc::new(session);
        self.sessions.insert(session.id, Arc::clone(&session));
        Registered { registry: Arc::clone(self), session }
    }

    /// Binds a session to a user, for good. Binding it to the same user again changes nothing.
    ///
    /// # Errors
    /// [`BoundToAnother`] where the session has a user already.
    pub fn bind(&self, session: &Arc<Session>, user: i32) -> Result<(), BoundToAnother> {
        if session.user.set(user).is_ok() {
            self.users.entry(user).or_default().push(Arc::clone(session));
            return Ok(());
        }
        if session.user() == Some(user) { Ok(()) } else { Err(BoundToAnother) }
    }

    /// The live session with this id.
    #[must_use]
    pub fn session(&self, id: Uuid) -> Option<Arc<Session>> {
        self.sessions.get(&id).map(|entry| Arc::clone(&entry))
    }

    /// Calls `visit` for every live session of the user; false where there is none.
    pub fn each_of_user(&self, user: i32, visit: impl FnMut(&Arc<Session>)) -> bool {
        let Some(sessions) = self.users.get(&user) else { return false };
        sessions.iter().for_each(visit);
        true
    }

    /// The number of live sessions of the user.
    #[must_use]
    pub fn sessions_of_user(&self, user: i32) -> usize {
        self.users.get(&user).map_or(0, |sessions| sessions.len())
    }

    /// How many sessions live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether nobody is here.
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

    fn remove(&self, session: &Arc<Session>) {
        self.sessions.remove(&session.id);
        let Some(user) = session.user() else { return };
        if let Entry::Occupied(mut sessions) = self.users.entry(user) {
            sessions.get_mut().retain(|other| other.id != session.id);
            if sessions.get().is_empty() {
                sessions.remove();
            }
        }
    }
}

/// A session's place in the registry, given up on drop.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    session: Arc<Session>,
}

impl Deref for Registered {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.remove(&self.session);
    }
}
