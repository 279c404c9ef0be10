//! The steps of the model: which are possible in a state, and what they do.

use crate::{
    gateway::Load,
    outbox::Client,
    rules::{Rules, Timers},
    search::Model,
    world::{CONNECTIONS, Connection, Gateway, Leaving, Message, Phase, Sight, Subscription, TOPICS, Topic, World},
};

/// A step. Gateways are 0 and 1, and connections are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The backend publishes the next message to the session's topic.
    Publish,
    /// The client's end of a connection breaks.
    Break(u8),
    /// The client connects to a gateway with its token.
    Connect(u8),
    /// The client receives the next packet of a connection.
    Receive(u8),
    /// A gateway crashes and starts again. What it has sent stays on its way.
    Crash(u8),
    /// A gateway loses its subscriptions and begins to subscribe again.
    LoseSubscriptions(u8),
    /// Redis carries out the oldest publish that a gateway has sent.
    Execute(u8),
    /// Redis carries out a command of a gateway to subscribe.
    Subscribe(u8, Topic),
    /// Redis carries out a command of a gateway to unsubscribe.
    Unsubscribe(u8, Topic),
    /// A gateway handles the oldest message that Redis has sent to it.
    Handle(u8, Load),
    /// A gateway handles the request of a connection.
    Ask(u8),
    /// The upgrade of a connection ends, successfully or not.
    Upgrade(u8, bool),
    /// The old gateway claims the session of a hand-over.
    Claim(u8),
    /// The old gateway offers the session of a hand-over.
    Offer(u8),
    /// The new gateway publishes the mark of a hand-over.
    Mark(u8),
    /// The new gateway does not wait any longer for an answer.
    AnswerTimeout(u8),
    /// The old gateway does not wait any longer for the next step.
    StepTimeout(u8),
    /// The task of a session leaves its connection.
    Park(u8, u8),
    /// The task of a session takes the connection over which the client has come back.
    Return(u8, u8),
    /// The task of a session writes what waits.
    Drain(u8, u8),
    /// The task of a session ends.
    End(u8, u8),
    /// The client of a session has been away for too long.
    WindowPasses(u8, u8),
}

impl Action {
    /// Returns whether the step follows from what has happened before, and is neither an event nor housekeeping.
    #[must_use]
    pub fn is_internal(self) -> bool {
        use Action as A;
        !matches!(
            self,
            A::Publish
                | A::Break(_)
                | A::Connect(_)
                | A::Crash(_)
                | A::LoseSubscriptions(_)
                | A::Unsubscribe(..)
                | A::WindowPasses(..)
        )
    }
}

impl Model for Rules {
    type State = World;
    type Action = Action;

    fn initial(&self) -> World {
        World::new()
    }

    fn actions(&self, world: &World) -> Vec<Action> {
        let mut actions = Vec::with_capacity(16);
        self.client_actions(world, &mut actions);
        (0..2).for_each(|gateway| self.gateway_actions(world, gateway, &mut actions));
        (0..CONNECTIONS as u8).for_each(|connection| self.connection_actions(world, connection, &mut actions));
        self.session_actions(world, &mut actions);
        actions
    }

    fn after(&self, world: &World, action: Action) -> World {
        let mut next = world.clone();
        match action {
            Action::Publish => {
                next.published += 1;
                next.publish(Message::Push(next.published));
            }
            Action::Break(connection) => next.break_off(connection),
            Action::Connect(gateway) => next.connect(gateway),
            Action::Receive(connection) => next.receive(connection),
            Action::Crash(gateway) => next.crash(gateway),
            Action::LoseSubscriptions(gateway) => next.lose_subscriptions(gateway),
            Action::Execute(gateway) => next.execute(gateway),
            Action::Subscribe(gateway, topic) => next.set_subscription(gateway, topic, Subscription::Yes),
            Action::Unsubscribe(gateway, topic) => next.set_subscription(gateway, topic, Subscription::No),
            Action::Handle(gateway, load) => next.handle_next(self, gateway, load),
            Action::Ask(connection) => next.ask(self, connection),
            Action::Upgrade(connection, succeeds) => next.upgrade(connection, succeeds),
            Action::Claim(handover) => next.claim_for_other(self, next.source(handover), handover),
            Action::Offer(handover) => next.offer(self, next.source(handover), handover),
            Action::Mark(handover) => next.mark(handover),
            Action::AnswerTimeout(handover) => next.fail(handover),
            Action::StepTimeout(handover) => next.stop_leaving(next.source(handover), handover),
            Action::Park(gateway, index) => next.park(gateway, index),
            Action::Return(gateway, index) => next.take_back(gateway, index),
            Action::Drain(gateway, index) => next.drain(gateway, index),
            Action::End(gateway, index) => next.end(gateway, index),
            Action::WindowPasses(gateway, index) => next.give_up(gateway, index),
        }
        next.subscribe();
        next
    }
}

impl Rules {
    fn client_actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.published < self.pushes {
            actions.push(Action::Publish);
        }
        let there = || world.connections.iter().filter(|connection| connection.is_there);
        let has_connection = there().any(|connection| connection.is_welcomed);
        let may_try = if self.rivals { !has_connection } else { there().next().is_none() };
        if world.begun <= self.comebacks && may_try && !world.player.is_new {
            actions.extend([Action::Connect(0), Action::Connect(1)]);
        }
        for gateway in 0..2 {
            if world.crashes < self.crashes {
                actions.push(Action::Crash(gateway));
            }
            if world.gaps < self.gaps && world.gateways[gateway as usize].sight == Sight::Clear {
                actions.push(Action::LoseSubscriptions(gateway));
            }
        }
    }

    fn gateway_actions(&self, world: &World, gateway: u8, actions: &mut Vec<Action>) {
        let it: &Gateway = &world.gateways[gateway as usize];
        if !it.sent.is_empty() && it.sight != Sight::Blind {
            actions.push(Action::Execute(gateway));
        }
        if let Some(message) = it.inbox.first() {
            actions.push(Action::Handle(gateway, Load::Idle));
            if self.busy && matches!(message, Message::Mark(_)) {
                actions.push(Action::Handle(gateway, Load::Busy));
            }
        }
        for topic in TOPICS {
            let is_own_first = topic == Topic::Own || it.subscriptions[Topic::Own as usize] == Subscription::Yes;
            match it.subscriptions[topic as usize] {
                Subscription::Sent if is_own_first => actions.push(Action::Subscribe(gateway, topic)),
                Subscription::Yes if !world.wants(gateway, topic) => actions.push(Action::Unsubscribe(gateway, topic)),
                _ => {}
            }
        }
    }

    fn connection_actions(&self, world: &World, index: u8, actions: &mut Vec<Action>) {
        let connection: &Connection = &world.connections[index as usize];
        if connection.is_there {
            actions.push(Action::Break(index));
            if connection.is_welcome_due || !connection.packets.is_empty() {
                actions.push(Action::Receive(index));
            }
        }
        match connection.phase {
            Phase::Asking => actions.push(Action::Ask(index)),
            Phase::Wanted | Phase::Offered | Phase::Marked => actions.push(Action::AnswerTimeout(index)),
            Phase::Arrived | Phase::Claimed(_) => {
                actions.push(Action::Upgrade(index, true));
                if !connection.is_there {
                    actions.push(Action::Upgrade(index, false));
                }
            }
            _ => {}
        }
        if connection.is_mark_held && world.may_mark(self, index) {
            actions.push(Action::Mark(index));
        }
        let source = world.source(index);
        let is_waited_for = matches!(connection.phase, Phase::Wanted | Phase::Offered | Phase::Marked);
        let may_time_out = self.timers == Timers::Any || !is_waited_for;
        match world.gateways[source as usize].leaving[index as usize] {
            Leaving::Asked => actions.push(Action::Claim(index)),
            Leaving::Claimed(session) if world.can_move_out(source, session) => actions.push(Action::Offer(index)),
            Leaving::Claimed(_) => actions.push(Action::StepTimeout(index)),
            Leaving::Offered(_) | Leaving::Sent(_) if may_time_out => actions.push(Action::StepTimeout(index)),
            _ => {}
        }
    }

    fn session_actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (gateway, index, session) in world.sessions() {
            let outbox = &session.outbox;
            let is_parked = session.connection.is_none();
            // A session that has just come has no task yet.
            let has_task = !matches!(world.connections[index as usize].phase, Phase::Marked | Phase::Arrived)
                || world.connections[index as usize].gateway != gateway;
            if let Some(connection) = session.connection {
                let is_broken = !world.connections[connection as usize].is_there;
                if !outbox.is_closing && (is_broken || outbox.is_away()) {
                    actions.push(Action::Park(gateway, index));
                }
                if !outbox.is_away() && !outbox.queue.is_empty() {
                    actions.push(Action::Drain(gateway, index));
                }
            } else if has_task && session.arrival.is_some() {
                actions.push(Action::Return(gateway, index));
            }
            if has_task && outbox.is_closing && session.arrival.is_none() {
                actions.push(Action::End(gateway, index));
            }
            if self.window && is_parked && !outbox.is_closing && matches!(outbox.client, Client::Away(_)) {
                actions.push(Action::WindowPasses(gateway, index));
            }
        }
    }
}

impl World {
    fn break_off(&mut self, connection: u8) {
        let connection = &mut self.connections[connection as usize];
        (connection.is_there, connection.is_welcome_due) = (false, false);
        connection.packets.clear();
        // The gateway notices a break when it has a session to write to.
        if connection.phase == Phase::New {
            connection.phase = Phase::Closed;
        }
    }

    fn connect(&mut self, gateway: u8) {
        let Self { gateways, connections, begun, player, .. } = self;
        connections[*begun as usize] = Connection {
            gateway,
            start: gateways[gateway as usize].starts,
            phase: Phase::Asking,
            token: player.token,
            seen: player.seen,
            is_there: true,
            ..Connection::default()
        };
        *begun += 1;
    }

    fn receive(&mut self, index: u8) {
        let Self { connections, player, .. } = self;
        let connection = &mut connections[index as usize];
        if std::mem::take(&mut connection.is_welcome_due) {
            connection.is_welcomed = true;
            match connection.is_resumed {
                true => player.token = index,
                false => player.is_new = true,
            }
        } else if let Some(push) = connection.packets.pop_front() {
            if push.number == 0 {
                player.knows_gap = true;
                return;
            }
            player.is_confused |= push.number != player.seen + 1 || push.content <= player.content;
            player.misses |= push.content > player.content + 1;
            (player.seen, player.content) = (push.number, push.content);
        }
    }

    /// Lets Redis carry out the oldest publish of a gateway.
    fn execute(&mut self, gateway: u8) {
        if let Some(message) = self.gateway(gateway).sent.pop_front() {
            self.publish(message);
        }
    }

    fn set_subscription(&mut self, gateway: u8, topic: Topic, subscription: Subscription) {
        self.gateway(gateway).subscriptions[topic as usize] = subscription;
    }

    fn crash(&mut self, gateway: u8) {
        let Gateway { starts, sent, .. } = *self.gateway(gateway);
        let subscriptions = [Subscription::Yes, Subscription::No, Subscription::No];
        *self.gateway(gateway) = Gateway { starts: starts + 1, sent, subscriptions, ..Gateway::default() };
        for index in 0..CONNECTIONS as u8 {
            if index < self.begun && self.connections[index as usize].gateway == gateway {
                self.hang_up(index);
                self.connections[index as usize].is_mark_held = false;
            }
        }
        self.crashes += 1;
    }

    fn lose_subscriptions(&mut self, gateway: u8) {
        let it = self.gateway(gateway);
        it.subscriptions = [Subscription::No; 3];
        it.sight = Sight::Blind;
        it.inbox.clear();
        self.gaps += 1;
    }
}
