//! The sessions, by id, and by user once the user is known.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::mpsc::Sender;

/// The sessions, behind one lock. It is taken for writing when a session begins, is bound or ends, and for reading by
/// one task.
#[derive(Default)]
pub(crate) struct Registry(RwLock<Sessions>);

#[derive(Default)]
struct Sessions {
    by_id: HashMap<String, Sender<Bytes>>,
    by_user: HashMap<i32, Vec<(String, Sender<Bytes>)>>,
}

impl Registry {
    pub(crate) fn insert(&self, id: &str, queue: Sender<Bytes>) {
        self.write(|sessions| sessions.by_id.insert(id.to_owned(), queue));
    }

    pub(crate) fn bind(&self, id: &str, user: i32) {
        self.write(|sessions| {
            if let Some(queue) = sessions.by_id.get(id) {
                sessions.by_user.entry(user).or_default().push((id.to_owned(), queue.clone()));
            }
        });
    }

    pub(crate) fn remove(&self, id: &str, user: Option<i32>) {
        self.write(|sessions| {
            sessions.by_id.remove(id);
            if let Some(user) = user
                && let Some(queues) = sessions.by_user.get_mut(&user)
            {
                queues.retain(|(other, _)| other != id);
                if queues.is_empty() {
                    sessions.by_user.remove(&user);
                }
            }
        });
    }

    /// Queues a payload for the session, or for every session of the user if the id is empty. If a queue is full, the
    /// payload is dropped.
    pub(crate) fn deliver(&self, id: &str, user: i32, payload: &Bytes) {
        let sessions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if !id.is_empty() {
            if let Some(queue) = sessions.by_id.get(id) {
                let _ = queue.try_send(payload.clone());
            }
        } else if let Some(queues) = sessions.by_user.get(&user) {
            for (_, queue) in queues {
                let _ = queue.try_send(payload.clone());
            }
        }
    }

    fn write<T>(&self, change: impl FnOnce(&mut Sessions) -> T) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}
