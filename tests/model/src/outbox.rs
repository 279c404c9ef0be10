//! The outbox of a session, as in `host/src/delivery/outbox`. Only pushes and the notice of a gap are modelled.

use crate::line::Line;

/// A message for the client.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub struct Push {
    /// The delivery number, or 0 for the notice of a gap.
    pub number: u8,
    /// The place of the message among those that were published. The first one is 1.
    pub content: u8,
}

/// Messages for the client, the oldest first.
pub type Pushes = Line<Push, 8>;

/// The secret that a client needs to claim its session: the index of the connection over which it got the secret.
pub type Secret = u8;

/// Whether the client has a connection.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Client {
    /// It has one, and can claim the session over another one.
    Here(Secret),
    /// It has claimed the session, and the old connection still has to notice.
    Leaving(Option<Secret>),
    /// It has none, and can claim the session.
    Away(Secret),
    /// It has claimed the session, and is about to have a connection.
    Claimed,
}

/// Why a client does not get its session back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// The secret is wrong or was used before, or the session is about to end.
    Unknown,
    /// Not everything that the client misses is kept. The session ends.
    Missed,
}

/// The messages of a session on the way from one gateway to another.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Moving {
    pushes: u8,
    received: u8,
    waiting: Pushes,
}

/// The send queue of a session.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Outbox {
    /// Whether the client has a connection.
    pub client: Client,
    /// The messages that wait.
    pub queue: Pushes,
    sent: Pushes,
    floor: u8,
    pushes: u8,
    /// Whether the session is about to end.
    pub is_closing: bool,
    /// Whether nothing is queued any more, which is a mistake.
    pub is_cut: bool,
}

impl Outbox {
    /// Returns an empty outbox.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let (queue, sent) = (Pushes::default(), Pushes::default());
        Self { client, queue, sent, floor: 0, pushes: 0, is_closing: false, is_cut: false }
    }

    /// Queues a message of the bus.
    pub fn push(&mut self, content: u8) {
        if !self.is_closing && !self.is_cut {
            self.pushes += 1;
            self.queue.push(Push { number: self.pushes, content });
        }
    }

    /// Queues the notice that messages may have been lost.
    pub fn tell_gap(&mut self) {
        if !self.is_closing {
            self.queue.push(Push::default());
        }
    }

    /// Takes what waits for the client, to write it.
    pub fn drain(&mut self) -> Pushes {
        let batch = std::mem::take(&mut self.queue);
        self.sent.extend(&batch);
        batch
    }

    /// Claims the session for another connection of the client, which has received the pushes up to `seen`. If
    /// `may_repeat` is true, a secret that was used before is accepted, which is a mistake.
    ///
    /// # Errors
    /// Returns an [`Unclaimed`].
    pub fn claim(&mut self, secret: Secret, seen: u8, may_repeat: bool) -> Result<(), Unclaimed> {
        let is_right = |known: Secret| known == secret || may_repeat;
        let next = match self.client {
            Client::Here(known) | Client::Leaving(Some(known)) if is_right(known) => Client::Leaving(None),
            Client::Away(known) if is_right(known) => Client::Claimed,
            _ => return Err(Unclaimed::Unknown),
        };
        if self.is_closing {
            return Err(Unclaimed::Unknown);
        }
        let after = match self.sent.iter().position(|push| push.number != 0 && push.number == seen) {
            Some(index) => index + 1,
            None if seen == self.floor => 0,
            None => {
                self.is_closing = true;
                return Err(Unclaimed::Missed);
            }
        };
        let mut queue = Pushes::default();
        queue.extend(&self.sent[after..]);
        queue.extend(&self.queue);
        (self.queue, self.floor, self.client) = (queue, seen, next);
        self.sent.clear();
        Ok(())
    }

    /// Gives a claim up, so that the client can claim the session again with the same secret.
    pub fn unclaim(&mut self, secret: Secret) {
        self.client = match self.client {
            Client::Leaving(None) => Client::Leaving(Some(secret)),
            Client::Claimed => Client::Away(secret),
            other => other,
        };
        self.is_cut = false;
    }

    /// Lets the messages wait, because the connection broke.
    pub fn park(&mut self) {
        self.client = match self.client {
            Client::Here(secret) | Client::Leaving(Some(secret)) => Client::Away(secret),
            Client::Leaving(None) => Client::Claimed,
            other => other,
        };
    }

    /// Returns whether the messages wait for another connection.
    #[must_use]
    pub fn is_away(&self) -> bool {
        !matches!(self.client, Client::Here(_))
    }

    /// Returns whether the session was claimed and still waits for its new connection.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        matches!(self.client, Client::Leaving(None) | Client::Claimed)
    }

    /// Returns whether the client has the session, or can get it.
    #[must_use]
    pub fn is_available(&self) -> bool {
        !self.is_closing && !self.is_claimed()
    }

    /// Takes the messages of a claimed session, which goes on at another gateway. Returns `None` if that is not possible.
    /// If `ends` is false, the session stays, which is a mistake.
    pub fn move_out(&mut self, ends: bool) -> Option<Moving> {
        if self.client != Client::Claimed || self.is_closing {
            return None;
        }
        let waiting = if ends { std::mem::take(&mut self.queue) } else { self.queue };
        self.is_closing = ends;
        Some(Moving { pushes: self.pushes, received: self.floor, waiting })
    }

    /// Puts the messages from another gateway in front of those that were queued here, and numbers these on.
    pub fn move_in(&mut self, moving: Moving) {
        let Moving { pushes, received, mut waiting } = moving;
        for push in self.queue.iter_mut().filter(|push| push.number != 0) {
            push.number += pushes;
        }
        waiting.extend(&self.queue);
        (self.queue, self.floor) = (waiting, received);
        self.pushes += pushes;
        self.sent.clear();
    }
}
