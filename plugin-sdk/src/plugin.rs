//! The traits of a plugin: one for each interface that a plugin can export.

use crate::{
    Absence, Action, Admission, Arrival, Connection, Denial, Departure, Manifest, MetricKind, Packet, Rejection,
    Settings, bindings::plugin::exports::gateway::policy::plugin,
};
use serde::de::DeserializeOwned;

/// What every plugin has: an identity, and settings.
///
/// A plugin also implements the traits of the calls that it needs: [`Policy`], [`Hearing`], [`Sessions`],
/// [`Presence`] and [`Timers`]. Its crate names these traits in [`export!`](crate::export).
///
/// Each instance of the plugin holds one value of this type, and the gateway runs about one instance for each processor.
/// Instances share nothing, and a trap or a reload drops an instance. Keep in the value only data that may be lost,
/// such as parsed settings and caches. Everything else belongs into the plugin's [`state`](crate::state).
pub trait Plugin: Sized + 'static {
    /// The plugin's name, unique in a gateway: the key of its settings in gateway.yaml, and its label in metrics and
    /// logs.
    ///
    /// A name has 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
    const NAME: &str;

    /// The route bytes that the plugin serves, unless the operator sets `routes` in its settings.
    ///
    /// A gateway lets only one plugin serve a route. The list is empty for a plugin that serves no packets.
    const ROUTES: &[u8] = &[];

    /// The plugin's own metrics, at most 64. [`Action::measure`] changes them by their position in this list.
    const METRICS: &[Metric] = &[];

    /// The format of the plugin's state. A version of the plugin that has another number here starts with empty state.
    const STATE_FORMAT: u32 = 0;

    /// Whether no session may begin without the consent of this plugin. If it is `false`, sessions begin without
    /// [`Sessions::on_connect`] while the plugin cannot be asked, because it fails or is too slow.
    const GATEKEEPER: bool = true;

    /// The keys that the operator may set under `plugins.settings.NAME.config`. A plugin without settings uses
    /// [`NoConfig`](crate::NoConfig).
    ///
    /// Add `#[serde(deny_unknown_fields)]` to the type, so that a misspelt key is an error.
    type Config: DeserializeOwned;

    /// Creates the plugin from its settings. The gateway calls this function once for each instance, before any other
    /// call.
    ///
    /// # Errors
    /// Return a text for the operator that names the wrong key and a correct value. The gateway then keeps the version
    /// and the settings that were in use. The SDK itself rejects settings that do not fit [`Config`](Self::Config), and
    /// does not call this function.
    fn configure(settings: Settings<Self::Config>) -> Result<Self, String>;

    /// Returns the bus topics to subscribe to, at most 1024. The SDK calls this function once, after
    /// [`configure`](Self::configure).
    ///
    /// The default is no topic. A plugin with topics has to export [`Hearing`]. Each topic has 1 to 256 bytes and no
    /// control characters.
    fn topics(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Decisions on packets. A plugin that serves routes exports this trait.
pub trait Policy: Plugin {
    /// Decides on a packet, and returns the actions for the gateway to carry out in order.
    ///
    /// The gateway carries out all of the actions or none. A panic has no effect, ends the instance, and gives the
    /// client status 8.
    ///
    /// # Errors
    /// A [`Rejection`] goes to the client as a reply with its status and its message.
    fn on_packet(&mut self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection>;
}

/// Decisions on messages of the bus. The following plugin forwards the messages of a backend to users:
///
/// ```
/// use gateway_plugin_sdk::{
///     Action, Hearing, NoConfig, Plugin, Rejection, Settings, Target, export, testing::Harness,
/// };
///
/// struct News;
///
/// impl Plugin for News {
///     const NAME: &str = "news";
///     type Config = NoConfig;
///
///     fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
///         Ok(Self)
///     }
///
///     fn topics(&self) -> Vec<String> {
///         vec!["news".to_owned()]
///     }
/// }
///
/// impl Hearing for News {
///     fn on_message(&mut self, _: &str, payload: &[u8], _: u64) -> Result<Vec<Action>, Rejection> {
///         let (user, _) = payload.split_first().ok_or_else(|| Rejection::malformed("the message names no user"))?;
///         Ok(vec![Action::deliver(Target::User((*user).into()), 0x21)])
///     }
/// }
///
/// export!(News: Hearing);
///
/// let mut news = Harness::<News>::new("{}").unwrap();
/// assert_eq!(news.topics, ["news"]);
/// assert_eq!(news.message("news", b"\x07hello"), Ok(vec![Action::deliver(Target::User(7), 0x21)]));
/// ```
pub trait Hearing: Plugin {
    /// Decides on a message of a topic that the plugin subscribes to or listens to, and returns the actions for the
    /// gateway to carry out in order. `now` is the time of the call, in milliseconds since 1970-01-01T00:00:00Z.
    /// It may be earlier than that of the message before, because several threads may decide on messages that arrive
    /// together.
    ///
    /// There is no packet to answer, so [`Action::Reply`], [`Action::Echo`] and [`Action::Bind`] are not allowed.
    ///
    /// # Errors
    /// The gateway counts and logs a [`Rejection`]. Nobody receives it.
    fn on_message(&mut self, topic: &str, payload: &[u8], now: u64) -> Result<Vec<Action>, Rejection>;
}

/// The beginning and the end of sessions. The following plugin lets nobody in without a name:
///
/// ```
/// use gateway_plugin_sdk::{
///     Action, Admission, Connection, Denial, NoConfig, Plugin, Sessions, Settings, export, testing::Harness,
/// };
///
/// struct Door;
///
/// impl Plugin for Door {
///     const NAME: &str = "door";
///     type Config = NoConfig;
///
///     fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
///         Ok(Self)
///     }
/// }
///
/// impl Sessions for Door {
///     fn on_connect(&mut self, connection: &Connection) -> Result<Admission, Denial> {
///         let name = connection.query.split('&').find_map(|pair| pair.strip_prefix("name="));
///         let name = name.ok_or_else(|| Denial::new(400, "add ?name=NAME"))?;
///         let attributes = vec![("name".to_owned(), name.to_owned())];
///         let actions = vec![Action::join(connection.session, 1)];
///         Ok(Admission { attributes, actions, ..Admission::default() })
///     }
/// }
///
/// export!(Door: Sessions);
///
/// let mut door = Harness::<Door>::new("{}").unwrap();
/// let anna = door.connect("name=anna").unwrap();
/// assert_eq!(door.members(1), [anna]);
/// assert_eq!(door.connect(""), Err(Denial::new(400, "add ?name=NAME")));
/// ```
pub trait Sessions: Plugin {
    /// Decides whether a session may begin. The default lets every session begin.
    ///
    /// # Errors
    /// The client gets a [`Denial`] as the HTTP answer to its request.
    fn on_connect(&mut self, connection: &Connection) -> Result<Admission, Denial> {
        let _ = connection;
        Ok(Admission::default())
    }

    /// Is called when a session has ended that was admitted. The session is then no member of a group any more, and has
    /// no attributes any more. The default returns no actions.
    fn on_disconnect(&mut self, departure: &Departure) -> Vec<Action> {
        let _ = departure;
        Vec::new()
    }
}

/// Whether the clients of sessions are there. With `resume` configured, a session goes on while its client is away, and
/// the client may come back over another connection. The following plugin tells the members of group 1 about it:
///
/// ```
/// use gateway_plugin_sdk::{
///     Absence, Action, Arrival, NoConfig, Packet, Plugin, Policy, Presence, Rejection, Settings, Target, export,
///     testing::Harness,
/// };
///
/// struct Watch;
///
/// impl Plugin for Watch {
///     const NAME: &str = "watch";
///     const ROUTES: &[u8] = &[0x23];
///     type Config = NoConfig;
///
///     fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
///         Ok(Self)
///     }
/// }
///
/// impl Policy for Watch {
///     fn on_packet(&mut self, packet: &Packet, _: &[u8]) -> Result<Vec<Action>, Rejection> {
///         Ok(vec![Action::join(packet.session, 1)])
///     }
/// }
///
/// impl Presence for Watch {
///     fn on_away(&mut self, _: &Absence) -> Vec<Action> {
///         vec![Action::deliver_body(Target::Group(1), 0x23, "somebody is away")]
///     }
///
///     fn on_back(&mut self, _: &Arrival) -> Vec<Action> {
///         vec![Action::deliver_body(Target::Group(1), 0x23, "somebody is back")]
///     }
/// }
///
/// export!(Watch: Policy, Presence);
///
/// let mut watch = Harness::<Watch>::new("{}").unwrap();
/// watch.packet(0x23, b"").unwrap();
/// let session = watch.session;
/// watch.leave(session);
/// watch.come_back(session);
/// // The client gets what it has missed, and then what is new.
/// let bodies: Vec<_> = watch.delivered(session).into_iter().map(|push| push.body).collect();
/// assert_eq!(bodies, [b"somebody is away", b"somebody is back"]);
/// ```
pub trait Presence: Plugin {
    /// Is called when the client of a session is away and may come back. The session is live as before, and pushes to it
    /// wait for the client. The default returns no actions.
    fn on_away(&mut self, absence: &Absence) -> Vec<Action> {
        let _ = absence;
        Vec::new()
    }

    /// Is called when the client of a session is back, before its next packet is served. With
    /// [`handed_over`](Arrival::handed_over), the session was at another gateway until now, and this is the first call
    /// about it here. The default returns no actions.
    fn on_back(&mut self, arrival: &Arrival) -> Vec<Action> {
        let _ = arrival;
        Vec::new()
    }
}

/// Timers. The following plugin pushes a countdown to the members of group 1:
///
/// ```
/// use gateway_plugin_sdk::{
///     Action, NoConfig, Packet, Plugin, Policy, Rejection, Settings, Target, Timers, export, testing::Harness,
/// };
/// use std::time::Duration;
///
/// const SECOND: Duration = Duration::from_secs(1);
///
/// struct Countdown;
///
/// impl Plugin for Countdown {
///     const NAME: &str = "countdown";
///     const ROUTES: &[u8] = &[0x22];
///     type Config = NoConfig;
///
///     fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
///         Ok(Self)
///     }
/// }
///
/// impl Policy for Countdown {
///     fn on_packet(&mut self, packet: &Packet, _: &[u8]) -> Result<Vec<Action>, Rejection> {
///         Ok(vec![Action::join(packet.session, 1), Action::wake(3, SECOND)])
///     }
/// }
///
/// impl Timers for Countdown {
///     fn on_wake(&mut self, key: u64, _: u64) -> Vec<Action> {
///         let mut actions = vec![Action::deliver_body(Target::Group(1), 0x22, key.to_string())];
///         if key > 0 {
///             actions.push(Action::wake(key - 1, SECOND));
///         }
///         actions
///     }
/// }
///
/// export!(Countdown: Policy, Timers);
///
/// let mut countdown = Harness::<Countdown>::new("{}").unwrap();
/// countdown.packet(0x22, b"").unwrap();
/// countdown.advance(SECOND * 3);
/// let session = countdown.session;
/// let bodies: Vec<_> = countdown.delivered(session).into_iter().map(|push| push.body).collect();
/// assert_eq!(bodies, [b"3", b"2", b"1"]);
/// ```
pub trait Timers: Plugin {
    /// Is called when a timer is due that [`Action::wake`] set, and returns the actions for the gateway to carry out in
    /// order. `now` is the time of the call, in milliseconds since 1970-01-01T00:00:00Z.
    ///
    /// The timer is then no longer set. After a panic, it is set again with the time that it was last set with.
    fn on_wake(&mut self, key: u64, now: u64) -> Vec<Action>;
}

/// A metric of a plugin, which the admin listener shows as `gateway_custom_PLUGIN_NAME`.
///
/// ```
/// use gateway_plugin_sdk::Metric;
///
/// const METRICS: &[Metric] = &[Metric::counter("matches", "Matches that have begun.")];
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// The name: 1 to 64 characters of `a-z 0-9 _`.
    pub name: &'static str,
    /// A sentence that says what the metric counts, and its unit. At most 256 bytes.
    pub help: &'static str,
    /// The kind of the metric.
    pub kind: MetricKind,
}

impl Metric {
    /// Describes a sum that only grows.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Counter }
    }

    /// Describes a value that goes up and down.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Gauge }
    }

    /// Describes a distribution, in buckets from 0.001 to 10000.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Histogram }
    }
}

/// Returns the manifest of a plugin.
pub(crate) fn manifest<P: Plugin>(version: &str) -> Manifest {
    let metric = |it: &Metric| plugin::Metric { name: it.name.to_owned(), help: it.help.to_owned(), kind: it.kind };
    Manifest {
        name: P::NAME.to_owned(),
        version: version.to_owned(),
        routes: P::ROUTES.to_vec(),
        metrics: P::METRICS.iter().map(metric).collect(),
        state_format: P::STATE_FORMAT,
        gatekeeper: P::GATEKEEPER,
    }
}
