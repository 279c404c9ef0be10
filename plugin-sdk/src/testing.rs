//! Tests a plugin natively, without a gateway and without WebAssembly.

pub(crate) mod reads;
mod rules;
#[cfg(test)]
mod tests;
mod vectors;
mod world;

pub use vectors::vectors;
pub use world::Push;

use crate::{
    Absence, Action, Admission, Arrival, Closing, Connection, Denial, Departure, Exported, Instance, Manifest, Packet,
    Rejection, SessionId, plugin, tracing::Context,
};
use rules::{Call, exported};
use serde_json::{Value, json};
use std::time::Duration;
use world::{Session, World};

/// The time at which a harness begins, in milliseconds since 1970: 2023-11-14T22:13:20Z.
const START_MS: u64 = 1_700_000_000_000;

/// A configured plugin in a simulated gateway.
///
/// Each call returns what the plugin decided, and the harness carries out the actions. A harness simulates sessions,
/// groups, tags, attributes, state, timers, metrics, and the bus. Messages on the bus are recorded and go nowhere. All
/// clients are fast, so no push is dropped or replaced. The plugin gets the calls of the traits that it names in
/// [`export!`](crate::export).
///
/// ```
/// use gateway_plugin_sdk::testing::Harness;
/// # use gateway_plugin_sdk::{Action, NoConfig, Packet, Plugin, Policy, Rejection, Settings, export};
/// # struct Login;
/// # export!(Login: Policy);
/// # impl Plugin for Login {
/// #     const NAME: &str = "login";
/// #     type Config = NoConfig;
/// #     fn configure(_: Settings<NoConfig>) -> Result<Self, String> { Ok(Self) }
/// # }
/// # impl Policy for Login {
/// #     fn on_packet(&mut self, packet: &Packet, _: &[u8]) -> Result<Vec<Action>, Rejection> {
/// #         Ok(vec![packet.user.map_or(Action::Bind(7), |user| Action::reply(user.to_string()))])
/// #     }
/// # }
///
/// // `Login` binds an unbound session to user 7, and answers a bound session with the user's id.
/// let mut login = Harness::<Login>::new("{}").unwrap();
/// assert_eq!(login.packet(0x20, b"hello"), Ok(vec![Action::Bind(7)]));
/// assert_eq!(login.user(login.session), Some(7));
/// assert_eq!(login.packet(0x20, b"hello"), Ok(vec![Action::reply("7")]));
/// ```
///
/// # Panics
/// A call panics if the gateway would refuse what it returned, for example a reply to a bus message, or a rejection
/// with a reserved status, and if the plugin does not export the call.
pub struct Harness<P> {
    instance: Instance<P>,
    /// The bus topics that the plugin subscribes to.
    pub topics: Vec<String>,
    /// The first session, with `high` 1 and `low` 2. It is live from the beginning, and the plugin is not asked about
    /// it.
    pub session: SessionId,
    /// The time, in milliseconds since 1970-01-01T00:00:00Z. [`advance`](Self::advance) moves it forward.
    pub now: u64,
    world: World,
    seq: u32,
}

impl<P: Exported> Harness<P> {
    /// Creates a plugin with the given settings, and a session that is not bound to a user.
    ///
    /// The settings are the JSON object that the gateway passes, with the keys `config`, `games` and `routes`. A
    /// missing key gets its default: an empty object, an empty list, or the plugin's routes.
    ///
    /// # Errors
    /// Returns the text that the operator would read if the plugin does not accept the settings.
    pub fn new(settings: &str) -> Result<Self, String> {
        let mut settings: Value =
            serde_json::from_str(settings).map_err(|error| format!("the settings are no JSON: {error}"))?;
        let defaults = [("config", json!({})), ("games", json!([])), ("routes", json!(P::ROUTES))];
        for (key, default) in defaults {
            if settings.get(key).is_none() {
                settings[key] = default;
            }
        }
        let instance = Instance::new();
        let topics = instance.configure(&settings.to_string())?;
        let session = SessionId { high: 1, low: 2 };
        let mut world = World::default();
        world.sessions.insert(session, Session::default());
        Ok(Self { instance, topics, session, now: START_MS, world, seq: 0 })
    }

    /// Replaces the instance, as a reload or a trap does. Everything that the gateway keeps stays as it is.
    ///
    /// # Errors
    /// Returns the text that the operator would read if the plugin does not accept the settings.
    pub fn reload(&mut self, settings: &str) -> Result<(), String> {
        let fresh = Self::new(settings)?;
        (self.instance, self.topics) = (fresh.instance, fresh.topics);
        Ok(())
    }

    /// Returns the plugin's manifest, with the version `test`.
    #[must_use]
    pub fn describe(&self) -> Manifest {
        plugin::manifest::<P>("test")
    }

    /// Binds a session to a user, as a token does.
    pub fn bind(&mut self, session: SessionId, user: i64) {
        self.live(session).user = Some(user);
    }

    /// Returns the user that a session is bound to.
    #[must_use]
    pub fn user(&self, session: SessionId) -> Option<i64> {
        self.world.sessions.get(&session)?.user
    }

    /// Returns the tag of a session, or 0.
    #[must_use]
    pub fn tag(&self, session: SessionId) -> u64 {
        self.world.sessions.get(&session).map_or(0, |session| session.tag)
    }

    /// Returns the close code and the reason of a session that the plugin ended.
    #[must_use]
    pub fn closing(&self, session: SessionId) -> Option<Closing> {
        self.world.sessions.get(&session)?.closing.clone()
    }

    /// Removes and returns the pushes that a session has received, in order.
    pub fn delivered(&mut self, session: SessionId) -> Vec<Push> {
        self.world.sessions.get_mut(&session).map(|session| std::mem::take(&mut session.pushes)).unwrap_or_default()
    }

    /// Removes and returns the topics and the messages that the plugin has published, in order.
    pub fn published(&mut self) -> Vec<(String, Vec<u8>)> {
        std::mem::take(&mut self.world.published)
    }

    /// Gives every call from now on this span, or none.
    pub fn record(&mut self, span: Option<Context>) {
        self.world.reads.span = span;
    }

    /// Removes and returns the traces that the plugin has named with [`tracing::join`](crate::tracing::join), in order.
    pub fn joined(&mut self) -> Vec<Context> {
        std::mem::take(&mut self.world.reads.joined)
    }

    /// Returns the members of a group, in the order of their ids.
    #[must_use]
    pub fn members(&self, group: u64) -> Vec<SessionId> {
        self.world.groups.get(&group).into_iter().flatten().copied().collect()
    }

    /// Returns whether the plugin hears a topic: it subscribes to the topic, or a session or a group listens to it.
    #[must_use]
    pub fn hears(&self, topic: &str) -> bool {
        self.topics.iter().any(|it| it == topic) || self.world.listens(topic)
    }

    /// Returns an entry of the plugin's state.
    pub fn state(&mut self, key: &str) -> Option<Vec<u8>> {
        self.world.call(self.now, || crate::state::get(key))
    }

    /// Writes an entry of the plugin's state.
    pub fn put(&mut self, key: &str, value: impl Into<Vec<u8>>) {
        self.world.put(key.to_owned(), Some(value.into()), None);
    }

    /// Returns the time until a timer is due, if it is set.
    #[must_use]
    pub fn timer(&self, key: u64) -> Option<Duration> {
        self.world.timers.get(&key).map(|due| Duration::from_millis(due.saturating_sub(self.now)))
    }

    /// Returns the value of a metric, given by its position in [`Plugin::METRICS`](crate::Plugin::METRICS). For a histogram, this is the sum of
    /// the observed values.
    #[must_use]
    pub fn metric(&self, position: usize) -> f64 {
        self.world.metrics.get(&position).copied().unwrap_or_default()
    }

    /// Sends a packet from the first session, and returns the policy's actions. The packets have the seqs 1, 2, 3 and
    /// so on.
    ///
    /// # Errors
    /// Returns the policy's rejection.
    #[track_caller]
    pub fn packet(&mut self, route: u8, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        self.packet_from(self.session, route, payload)
    }

    /// Sends a packet from a session, and returns the policy's actions.
    ///
    /// # Errors
    /// Returns the policy's rejection. If the policy binds a session that is bound to another user, this is the
    /// gateway's rejection with status 6.
    #[track_caller]
    pub fn packet_from(&mut self, session: SessionId, route: u8, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let on_packet = exported(P::CALLS.on_packet, "Policy");
        self.seq += 1;
        let &mut Session { user, tag, .. } = self.live(session);
        let packet = Packet { seq: self.seq, route, flags: 0, session, user, tag, now: self.now };
        let actions = match self.call(|plugin| on_packet(plugin, &packet, payload)) {
            Ok(actions) => actions,
            Err(rejection) => {
                rules::check_rejection("on_packet", &rejection);
                return Err(rejection);
            }
        };
        let mut user = user;
        for action in &actions {
            if let Action::Bind(to) = action
                && user.replace(*to).is_some_and(|user| user != *to)
            {
                return Err(Rejection::forbidden("the session is bound to another user"));
            }
        }
        self.apply(Call { name: "on_packet", sender: Some(session), payload: Some(payload) }, &actions);
        Ok(actions)
    }

    /// Sends a bus message, and returns the plugin's actions. The topic need not be one that the plugin hears.
    ///
    /// # Errors
    /// Returns the plugin's rejection.
    #[track_caller]
    pub fn message(&mut self, topic: &str, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let on_message = exported(P::CALLS.on_message, "Hearing");
        let now = self.now;
        let actions = match self.call(|plugin| on_message(plugin, topic, payload, now)) {
            Ok(actions) => actions,
            Err(rejection) => {
                rules::check_rejection("on_message", &rejection);
                return Err(rejection);
            }
        };
        self.apply(Call { name: "on_message", sender: None, payload: Some(payload) }, &actions);
        Ok(actions)
    }

    /// Begins a session with the given query, and returns its id. The plugin is asked if it exports
    /// [`Sessions`](crate::Sessions).
    ///
    /// # Errors
    /// Returns the plugin's denial.
    #[track_caller]
    pub fn connect(&mut self, query: &str) -> Result<SessionId, Denial> {
        self.connect_as(self.connection(query))
    }

    /// Describes the client of the next session. It has no claims and no headers. Change what the test needs, and pass
    /// it to [`connect_as`](Self::connect_as).
    #[must_use]
    pub fn connection(&self, query: &str) -> Connection {
        let last = self.world.sessions.keys().map(|session| session.low).max();
        Connection {
            session: SessionId { high: 1, low: last.unwrap_or_default() + 1 },
            remote: "127.0.0.1:50000".to_owned(),
            query: query.to_owned(),
            headers: Vec::new(),
            user: None,
            claims: None,
            now: self.now,
        }
    }

    /// Begins a session, and returns its id.
    ///
    /// # Errors
    /// Returns the plugin's denial. If the plugin admits another user than the one of the connection, this is the
    /// gateway's denial with status 403.
    #[track_caller]
    pub fn connect_as(&mut self, connection: Connection) -> Result<SessionId, Denial> {
        let session = connection.session;
        let answer = match P::CALLS.on_connect {
            Some(on_connect) => self.call(|plugin| on_connect(plugin, &connection)),
            None => Ok(Admission::default()),
        };
        rules::check_admission(&answer);
        let Admission { user, tag, attributes, actions } = answer?;
        if user.is_some() && connection.user.is_some_and(|known| user != Some(known)) {
            return Err(Denial::new(403, "the session is bound to another user"));
        }
        self.world.sessions.insert(session, Session { user: connection.user.or(user), tag, ..Session::default() });
        self.world.reads.attributes.insert(session, attributes.into_iter().collect());
        self.apply(Call { name: "on_connect", sender: Some(session), payload: None }, &actions);
        Ok(session)
    }

    /// Ends a session, as a client does that closes it. The plugin is called if it exports
    /// [`Sessions`](crate::Sessions). It is also called for each session that it ends itself.
    #[track_caller]
    pub fn disconnect(&mut self, session: SessionId) {
        self.live(session);
        self.world.end(session, "closed");
        self.report_ended();
    }

    /// Breaks the connection of a session. Its client is away until [`come_back`](Self::come_back), and the session is
    /// live as before. The plugin is called if it exports [`Presence`](crate::Presence).
    #[track_caller]
    pub fn leave(&mut self, session: SessionId) {
        let live = self.live(session);
        assert!(!live.is_away, "the client of session {session} is away already");
        live.is_away = true;
        let &mut Session { user, tag, .. } = live;
        let absence = Absence { session, user, tag, now: self.now };
        let actions = P::CALLS.on_away.map(|on_away| self.call(|plugin| on_away(plugin, &absence)));
        self.apply(Call { name: "on_away", sender: Some(session), payload: None }, &actions.unwrap_or_default());
    }

    /// Brings the client of a session back. The plugin is called if it exports [`Presence`](crate::Presence).
    #[track_caller]
    pub fn come_back(&mut self, session: SessionId) {
        let was_away = std::mem::take(&mut self.live(session).is_away);
        assert!(was_away, "the client of session {session} is not away");
        self.arrive(session, false);
    }

    /// Begins a session that was at another gateway until now, with the tag that it had there, and returns its id. The
    /// plugin is called if it exports [`Presence`](crate::Presence).
    #[track_caller]
    pub fn hand_over(&mut self, user: Option<i64>, tag: u64) -> SessionId {
        let session = self.connection("").session;
        self.world.sessions.insert(session, Session { user, tag, ..Session::default() });
        self.arrive(session, true);
        session
    }

    #[track_caller]
    fn arrive(&mut self, session: SessionId, handed_over: bool) {
        let &mut Session { user, tag, .. } = self.live(session);
        let arrival = Arrival { session, user, tag, handed_over, now: self.now };
        let actions = P::CALLS.on_back.map(|on_back| self.call(|plugin| on_back(plugin, &arrival)));
        self.apply(Call { name: "on_back", sender: Some(session), payload: None }, &actions.unwrap_or_default());
    }

    /// Moves the time forward. Calls the timers that are due in the meantime, each at its own time, and returns their
    /// actions in order.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) -> Vec<Action> {
        let end = self.now.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
        let mut all = Vec::new();
        while let Some((key, due)) = self.world.take_due(end) {
            let on_wake = exported(P::CALLS.on_wake, "Timers");
            self.now = self.now.max(due);
            let now = self.now;
            let actions = self.call(|plugin| on_wake(plugin, key, now));
            self.apply(Call { name: "on_wake", sender: None, payload: None }, &actions);
            all.extend(actions);
        }
        self.now = end;
        all
    }

    fn call<R>(&mut self, call: impl FnOnce(&mut P) -> R) -> R {
        self.world.call(self.now, || self.instance.with(call))
    }

    #[track_caller]
    fn apply(&mut self, call: Call<'_>, actions: &[Action]) {
        call.check::<P>(actions);
        self.world.apply(call, self.now, actions, P::METRICS);
        self.report_ended();
    }

    #[track_caller]
    fn report_ended(&mut self) {
        while let Some((session, cause)) = self.world.ended.pop_front() {
            let Some(on_disconnect) = P::CALLS.on_disconnect else { continue };
            let (user, tag) = (self.user(session), self.tag(session));
            let departure = Departure { session, user, tag, cause: cause.to_owned(), now: self.now };
            let actions = self.call(|plugin| on_disconnect(plugin, &departure));
            self.apply(Call { name: "on_disconnect", sender: Some(session), payload: None }, &actions);
        }
    }

    #[track_caller]
    fn live(&mut self, session: SessionId) -> &mut Session {
        let found = self.world.sessions.get_mut(&session).filter(|session| !session.has_ended);
        found.unwrap_or_else(|| panic!("there is no live session {session}"))
    }
}
