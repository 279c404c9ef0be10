//! What the gateways do: the hand-over, as in `host/src/routing/handovers.rs`, and the task of a session.

use crate::{
    line::Line,
    outbox::{Client, Outbox, Unclaimed},
    rules::{Ends, Mistake, Rules},
    world::{Gateway, Leaving, Message, Phase, Session, Sight, Subscription, TOPICS, Topic, World},
};

/// What a gateway does next with a message of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// It handles the message at once.
    Idle,
    /// A plugin is still busy with earlier messages.
    Busy,
}

impl World {
    pub(crate) fn gateway(&mut self, gateway: u8) -> &mut Gateway {
        &mut self.gateways[gateway as usize]
    }

    pub(crate) fn session(&mut self, gateway: u8, index: u8) -> Option<&mut Session> {
        self.gateway(gateway).sessions[index as usize].as_mut()
    }

    /// Sends a message to Redis.
    pub(crate) fn send(&mut self, gateway: u8, message: Message) {
        self.gateway(gateway).sent.push(message);
    }

    /// Lets Redis carry out a publish, so that every gateway that hears the topic gets the message.
    pub(crate) fn publish(&mut self, message: Message) {
        for gateway in 0..2 {
            if let Some(topic) = self.topic_at(gateway, message)
                && self.gateways[gateway as usize].subscriptions[topic as usize] == Subscription::Yes
            {
                self.gateway(gateway).inbox.push(message);
            }
        }
    }

    /// Returns which topic of a gateway a message is on, or `None` if it is on the topic of a gateway that has crashed.
    fn topic_at(&self, gateway: u8, message: Message) -> Option<Topic> {
        let (receiver, is_gone) = match message {
            Message::Push(_) | Message::Complete => return Some(Topic::Session),
            Message::Want(it) | Message::Mark(it) => (self.source(it), self.is_source_gone(it)),
            Message::Refusal(it) | Message::Offer(it) | Message::State(it) => {
                let connection = &self.connections[it as usize];
                let is_gone = self.gateways[connection.gateway as usize].starts != connection.start;
                (connection.gateway, is_gone)
            }
        };
        if receiver == gateway { (!is_gone).then_some(Topic::Own) } else { Some(Topic::Other) }
    }

    /// Handles the oldest message that Redis has sent to a gateway.
    pub(crate) fn handle_next(&mut self, rules: &Rules, gateway: u8, load: Load) {
        if let Some(message) = self.gateway(gateway).inbox.pop_front() {
            self.handle(rules, gateway, message, load);
        }
    }

    fn handle(&mut self, rules: &Rules, gateway: u8, message: Message, load: Load) {
        let is_for_this = self.topic_at(gateway, message) == Some(Topic::Own);
        match message {
            Message::Push(content) => {
                let sessions = self.gateway(gateway).sessions.iter_mut().flatten();
                sessions.filter(|session| session.is_listed).for_each(|session| session.outbox.push(content));
            }
            Message::Complete => {
                self.gateway(gateway).sight = Sight::Clear;
                if let Some(session) = self.found(gateway).and_then(|index| self.session(gateway, index)) {
                    session.outbox.tell_gap();
                }
            }
            Message::Mark(handover) if is_for_this => self.end_here(rules, gateway, handover, load),
            Message::Mark(handover) => self.begin_here(rules, gateway, handover, load),
            // It is for the other gateway.
            _ if !is_for_this => {}
            Message::Want(handover) => self.gateway(gateway).leaving[handover as usize] = Leaving::Asked,
            Message::Refusal(handover) => self.fail(handover),
            Message::Offer(handover) => self.offered(rules, gateway, handover),
            Message::State(handover) => self.complete(gateway, handover),
        }
    }

    fn found(&self, gateway: u8) -> Option<u8> {
        self.gateways[gateway as usize].found
    }

    /// Claims a session for a connection.
    fn claim(&mut self, rules: &Rules, gateway: u8, connection: u8) -> Result<u8, Unclaimed> {
        let index = self.found(gateway).ok_or(Unclaimed::Unknown)?;
        let (token, seen) = (self.connections[connection as usize].token, self.connections[connection as usize].seen);
        let may_repeat = rules.mistake == Some(Mistake::SecretTwice);
        let session = self.session(gateway, index).ok_or(Unclaimed::Unknown)?;
        session.outbox.claim(token, seen, may_repeat).map(|()| index)
    }

    fn unclaim(&mut self, gateway: u8, index: u8, connection: u8) {
        let token = self.connections[connection as usize].token;
        if let Some(session) = self.session(gateway, index) {
            session.outbox.unclaim(token);
        }
    }

    /// Answers the request of a connection, or asks the other gateway for the session.
    pub(crate) fn ask(&mut self, rules: &Rules, connection: u8) {
        let gateway = self.connections[connection as usize].gateway;
        if self.source(connection) != gateway || self.is_source_gone(connection) {
            self.connections[connection as usize].phase = Phase::Wanted;
            self.send(gateway, Message::Want(connection));
            return;
        }
        match self.claim(rules, gateway, connection) {
            Ok(index) => self.connections[connection as usize].phase = Phase::Claimed(index),
            Err(_) => self.fail(connection),
        }
    }

    /// Gives a connection a new session. If a session has come for it, that one ends.
    pub(crate) fn fail(&mut self, connection: u8) {
        let phase = self.connections[connection as usize].phase;
        if !matches!(phase, Phase::Asking | Phase::Wanted | Phase::Offered | Phase::Marked) {
            return;
        }
        self.end(self.connections[connection as usize].gateway, connection);
        let connection = &mut self.connections[connection as usize];
        connection.phase = if connection.is_there { Phase::New } else { Phase::Closed };
        connection.is_welcome_due = connection.is_there;
    }

    /// Claims a session for a client that wants it at the other gateway.
    pub(crate) fn claim_for_other(&mut self, rules: &Rules, gateway: u8, handover: u8) {
        self.gateway(gateway).leaving[handover as usize] = Leaving::No;
        match self.claim(rules, gateway, handover) {
            Ok(index) => self.gateway(gateway).leaving[handover as usize] = Leaving::Claimed(index),
            Err(_) => self.send(gateway, Message::Refusal(handover)),
        }
    }

    /// Returns whether a claimed session has left its old connection, so that it can be offered.
    pub(crate) fn can_move_out(&self, gateway: u8, index: u8) -> bool {
        let session = &self.gateways[gateway as usize].sessions[index as usize];
        session.is_some_and(|session| session.outbox.client == Client::Claimed)
    }

    pub(crate) fn offer(&mut self, rules: &Rules, gateway: u8, handover: u8) {
        let Leaving::Claimed(index) = self.gateway(gateway).leaving[handover as usize] else { return };
        self.gateway(gateway).leaving[handover as usize] = Leaving::Offered(index);
        if let Some(session) = self.session(gateway, index) {
            session.outbox.is_cut = rules.mistake == Some(Mistake::CutsAtOffer);
        }
        self.send(gateway, Message::Offer(handover));
    }

    /// Gives a hand-over up at the old gateway. If it was not offered yet, the other gateway is told.
    pub(crate) fn stop_leaving(&mut self, gateway: u8, handover: u8) {
        let leaving = std::mem::take(&mut self.gateway(gateway).leaving[handover as usize]);
        if let Leaving::Claimed(index) | Leaving::Offered(index) | Leaving::Sent(index) = leaving {
            self.unclaim(gateway, index, handover);
        }
        if let Leaving::Claimed(_) = leaving {
            self.send(gateway, Message::Refusal(handover));
        }
    }

    fn offered(&mut self, rules: &Rules, gateway: u8, handover: u8) {
        let connection = &mut self.connections[handover as usize];
        if connection.phase != Phase::Wanted {
            return;
        }
        (connection.phase, connection.is_mark_held) = (Phase::Offered, true);
        if rules.mistake == Some(Mistake::QueuesFromOffer) {
            self.admit(gateway, handover);
        }
    }

    /// Returns whether the mark of a hand-over may be published.
    pub(crate) fn may_mark(&self, rules: &Rules, handover: u8) -> bool {
        let subscriptions = self.gateways[self.connections[handover as usize].gateway as usize].subscriptions;
        let has = |topic: Topic| subscriptions[topic as usize] == Subscription::Yes;
        // If the topics are no longer wanted, Redis has nothing to carry out.
        let is_over = self.connections[handover as usize].phase != Phase::Offered;
        rules.mistake == Some(Mistake::MarksEarly) || is_over || (has(Topic::Session) && has(Topic::Other))
    }

    pub(crate) fn mark(&mut self, handover: u8) {
        self.connections[handover as usize].is_mark_held = false;
        self.send(self.connections[handover as usize].gateway, Message::Mark(handover));
    }

    fn end_here(&mut self, rules: &Rules, gateway: u8, handover: u8, load: Load) {
        let Leaving::Offered(index) = self.gateway(gateway).leaving[handover as usize] else { return };
        let is_kept = rules.mistake == Some(Mistake::UnclaimsAfterState);
        self.gateway(gateway).leaving[handover as usize] = Leaving::No;
        let knows_gaps =
            self.gateway(gateway).sight == Sight::Clear || rules.mistake == Some(Mistake::MovesBeforeGapIsTold);
        let session = self.session(gateway, index).filter(|_| load == Load::Idle && knows_gaps);
        let Some(moving) = session.and_then(|session| session.outbox.move_out(!is_kept)) else {
            self.unclaim(gateway, index, handover);
            self.send(gateway, Message::Refusal(handover));
            return;
        };
        if is_kept {
            self.gateway(gateway).leaving[handover as usize] = Leaving::Sent(index);
        } else if rules.ends == Ends::Promptly {
            self.end(gateway, index);
        }
        self.moving[handover as usize] = Some(moving);
        self.send(gateway, Message::State(handover));
    }

    fn begin_here(&mut self, rules: &Rules, gateway: u8, handover: u8, load: Load) {
        if !matches!(self.connections[handover as usize].phase, Phase::Offered) {
            return;
        }
        // With the mistake `QueuesFromOffer`, the session of this hand-over is here already.
        let is_own = self.gateway(gateway).sessions[handover as usize].is_some();
        let may_admit = is_own || self.found(gateway).is_none() || rules.mistake == Some(Mistake::AdmitsKnownId);
        if load == Load::Busy || !may_admit {
            self.fail(handover);
            return;
        }
        self.connections[handover as usize].phase = Phase::Marked;
        if self.gateway(gateway).sessions[handover as usize].is_none() {
            self.admit(gateway, handover);
        }
    }

    fn admit(&mut self, gateway: u8, handover: u8) {
        let outbox = Outbox::new(Client::Claimed);
        let session = Session { outbox, connection: None, arrival: None, is_registered: true, is_listed: true };
        self.gateway(gateway).sessions[handover as usize] = Some(session);
        self.gateway(gateway).found = Some(handover);
    }

    fn complete(&mut self, gateway: u8, handover: u8) {
        let Some(moving) = self.moving[handover as usize].take() else { return };
        if self.connections[handover as usize].phase != Phase::Marked {
            return;
        }
        self.connections[handover as usize].phase = Phase::Arrived;
        if let Some(session) = self.session(gateway, handover) {
            session.outbox.move_in(moving);
        }
    }

    /// Ends a session. The registry forgets every session with its id.
    pub(crate) fn end(&mut self, gateway: u8, index: u8) {
        let Some(session) = self.gateway(gateway).sessions[index as usize].take() else { return };
        let gateway = self.gateway(gateway);
        gateway.sessions.iter_mut().flatten().for_each(|other| other.is_listed = false);
        gateway.found = None;
        for connection in session.connection.into_iter().chain(session.arrival) {
            self.hang_up(connection);
        }
    }

    /// Closes a connection.
    pub(crate) fn hang_up(&mut self, connection: u8) {
        let connection = &mut self.connections[connection as usize];
        (connection.phase, connection.is_there) = (Phase::Closed, false);
        connection.is_welcome_due = false;
        connection.packets = Line::default();
    }

    /// Ends the upgrade of a connection for which the gateway has a session.
    pub(crate) fn upgrade(&mut self, connection: u8, succeeds: bool) {
        let gateway = self.connections[connection as usize].gateway;
        match self.connections[connection as usize].phase {
            Phase::Arrived if succeeds => self.open(gateway, connection, connection),
            Phase::Arrived => {
                self.end(gateway, connection);
                self.hang_up(connection);
            }
            Phase::Claimed(index) if succeeds => match self.session(gateway, index) {
                Some(session) if session.outbox.is_claimed() => {
                    let replaced = session.arrival.replace(connection);
                    self.connections[connection as usize].phase = Phase::Given;
                    replaced.into_iter().for_each(|replaced| self.hang_up(replaced));
                }
                _ => self.hang_up(connection),
            },
            Phase::Claimed(index) => {
                self.unclaim(gateway, index, connection);
                self.hang_up(connection);
            }
            _ => {}
        }
    }

    /// Gives a session the connection over which its client has come back.
    pub(crate) fn take_back(&mut self, gateway: u8, index: u8) {
        if let Some(connection) = self.session(gateway, index).and_then(|session| session.arrival) {
            self.open(gateway, index, connection);
        }
    }

    /// Begins to end a session, because its client has been away for too long.
    pub(crate) fn give_up(&mut self, gateway: u8, index: u8) {
        if let Some(session) = self.session(gateway, index) {
            session.outbox.is_closing = true;
        }
    }

    /// Gives a session its next connection, and sends the welcome with a new token.
    pub(crate) fn open(&mut self, gateway: u8, index: u8, connection: u8) {
        if let Some(session) = self.session(gateway, index) {
            session.outbox.client = Client::Here(connection);
            (session.connection, session.arrival) = (Some(connection), None);
        }
        let connection = &mut self.connections[connection as usize];
        (connection.phase, connection.is_resumed) = (Phase::Open, true);
        connection.is_welcome_due = connection.is_there;
    }

    /// Takes a session from its connection, because that broke or the client has claimed the session over another one.
    pub(crate) fn park(&mut self, gateway: u8, index: u8) {
        let Some(session) = self.session(gateway, index) else { return };
        session.outbox.park();
        if let Some(connection) = session.connection.take() {
            self.hang_up(connection);
        }
    }

    /// Writes what waits for the client of a session.
    pub(crate) fn drain(&mut self, gateway: u8, index: u8) {
        let Some(session) = self.session(gateway, index) else { return };
        let Some(connection) = session.connection else { return };
        let batch = session.outbox.drain();
        let connection = &mut self.connections[connection as usize];
        if connection.is_there {
            connection.packets.extend(&batch);
        }
    }

    /// Returns whether a gateway wants to hear a topic.
    pub(crate) fn wants(&self, gateway: u8, topic: Topic) -> bool {
        let is_arriving = self.connections.iter().any(|connection| {
            connection.gateway == gateway && matches!(connection.phase, Phase::Offered | Phase::Marked)
        });
        let has_session = || self.gateways[gateway as usize].sessions.iter().flatten().any(|it| it.is_registered);
        match topic {
            Topic::Own => true,
            Topic::Session => is_arriving || has_session(),
            Topic::Other => is_arriving,
        }
    }

    /// Sends the commands for topics that a gateway begins to want, and withdraws those that were not carried out.
    pub(crate) fn subscribe(&mut self) {
        for gateway in 0..2 {
            for topic in TOPICS {
                let is_wanted = self.wants(gateway, topic);
                let subscription = &mut self.gateway(gateway).subscriptions[topic as usize];
                *subscription = match (*subscription, is_wanted) {
                    (Subscription::No, true) => Subscription::Sent,
                    (Subscription::Sent, false) => Subscription::No,
                    (other, _) => other,
                };
            }
            let it = self.gateway(gateway);
            if it.sight == Sight::Blind && !it.subscriptions.contains(&Subscription::Sent) {
                it.sight = Sight::Untold;
                it.inbox.push(Message::Complete);
            }
        }
    }
}
