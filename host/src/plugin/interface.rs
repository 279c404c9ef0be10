//! The exports of a component, in either version of the plugin interface.
//!
//! Everything else in the host uses the types of 0.2. The exports of a plugin of 0.1 are called with its own types, and
//! its answers are translated.

use super::{
    bindings::{
        Absence, Action, Admission, Arrival, Batch, Connection, Decision, Decisions, Denial, Departure, Manifest,
        Packet, v0_1,
        v0_2::exports::gateway::policy::{batches, hearing, plugin, policy, presence, sessions, timers},
    },
    state::State,
    translate,
};
use wasmtime::{
    Result, Store,
    component::{InstancePre, types::ComponentItem},
};

/// The interface that every plugin of 0.1 exports.
pub(super) const POLICY: &str = "gateway:policy/policy";

/// The interface that every plugin of 0.2 exports.
pub(super) const PLUGIN: &str = "gateway:policy/plugin";

/// The interface with which a plugin of 0.2 decides on several packets in one call.
const BATCHES: &str = "gateway:policy/batches";

/// The calls that a plugin takes, besides `describe` and `configure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// It decides on packets.
    pub packets: bool,
    /// It decides on several packets in one call.
    pub batches: bool,
    /// It decides on bus messages.
    pub messages: bool,
    /// It is asked at the beginning of sessions, and is told their end.
    pub sessions: bool,
    /// It is told that the client of a session is away, and that it is back.
    pub presence: bool,
    /// It is called when timers are due.
    pub timers: bool,
}

/// A component that is ready to be instantiated, with the places of its exports.
pub(super) struct Interface {
    pre: InstancePre<State>,
    exports: Indices,
    takes: Takes,
}

enum Indices {
    V0_1(v0_1::PluginIndices),
    V0_2(Box<IndicesOf0_2>),
}

struct IndicesOf0_2 {
    plugin: plugin::GuestIndices,
    policy: Option<policy::GuestIndices>,
    batches: Option<batches::GuestIndices>,
    hearing: Option<hearing::GuestIndices>,
    sessions: Option<sessions::GuestIndices>,
    presence: Option<presence::GuestIndices>,
    timers: Option<timers::GuestIndices>,
}

impl Interface {
    /// Finds the exports of a component. An interface whose functions have other types than in the WIT is an error.
    pub(super) fn new(pre: InstancePre<State>) -> Result<Self> {
        let (component, engine) = (pre.component(), pre.engine());
        let ty = component.component_type();
        let exports = |interface: &str| {
            let names = &mut ty.exports(engine);
            names.any(|(name, item)| {
                let name = name.split_once('@').map_or(name, |(name, _)| name);
                matches!(item.ty, ComponentItem::ComponentInstance(_)) && name == interface
            })
        };
        let exports = if exports(PLUGIN) {
            Indices::V0_2(Box::new(IndicesOf0_2 {
                plugin: plugin::GuestIndices::new(&pre)?,
                policy: exports(POLICY).then(|| policy::GuestIndices::new(&pre)).transpose()?,
                // Without `policy`, the plugin could not be asked again about a batch that is not used.
                batches: (exports(BATCHES) && exports(POLICY)).then(|| batches::GuestIndices::new(&pre)).transpose()?,
                hearing: exports("gateway:policy/hearing").then(|| hearing::GuestIndices::new(&pre)).transpose()?,
                sessions: exports("gateway:policy/sessions").then(|| sessions::GuestIndices::new(&pre)).transpose()?,
                presence: exports("gateway:policy/presence").then(|| presence::GuestIndices::new(&pre)).transpose()?,
                timers: exports("gateway:policy/timers").then(|| timers::GuestIndices::new(&pre)).transpose()?,
            }))
        } else {
            Indices::V0_1(v0_1::PluginIndices::new(&pre)?)
        };
        let takes = match &exports {
            Indices::V0_1(_) => Takes { packets: true, messages: true, ..Takes::default() },
            Indices::V0_2(indices) => Takes {
                packets: indices.policy.is_some(),
                batches: indices.batches.is_some(),
                messages: indices.hearing.is_some(),
                sessions: indices.sessions.is_some(),
                presence: indices.presence.is_some(),
                timers: indices.timers.is_some(),
            },
        };
        Ok(Self { pre, exports, takes })
    }

    /// Returns the calls that the plugin takes.
    pub(super) fn takes(&self) -> Takes {
        self.takes
    }

    /// Returns a new store for one instance.
    pub(super) fn store(&self, state: State) -> Store<State> {
        Store::new(self.pre.engine(), state)
    }

    /// Creates an instance in the store. This runs the start-up code of the plugin's language.
    pub(super) fn instantiate(&self, store: &mut Store<State>) -> Result<Exports> {
        let instance = self.pre.instantiate(&mut *store)?;
        Ok(match &self.exports {
            Indices::V0_1(indices) => Exports::V0_1(indices.load(store, &instance)?),
            Indices::V0_2(indices) => Exports::V0_2(Box::new(ExportsOf0_2 {
                plugin: indices.plugin.load(&mut *store, &instance)?,
                policy: indices.policy.as_ref().map(|it| it.load(&mut *store, &instance)).transpose()?,
                batches: indices.batches.as_ref().map(|it| it.load(&mut *store, &instance)).transpose()?,
                hearing: indices.hearing.as_ref().map(|it| it.load(&mut *store, &instance)).transpose()?,
                sessions: indices.sessions.as_ref().map(|it| it.load(&mut *store, &instance)).transpose()?,
                presence: indices.presence.as_ref().map(|it| it.load(&mut *store, &instance)).transpose()?,
                timers: indices.timers.as_ref().map(|it| it.load(&mut *store, &instance)).transpose()?,
            })),
        })
    }
}

/// The exports of one instance.
pub(super) enum Exports {
    V0_1(v0_1::Plugin),
    V0_2(Box<ExportsOf0_2>),
}

/// The exports of one instance of 0.2.
pub(super) struct ExportsOf0_2 {
    plugin: plugin::Guest,
    policy: Option<policy::Guest>,
    batches: Option<batches::Guest>,
    hearing: Option<hearing::Guest>,
    sessions: Option<sessions::Guest>,
    presence: Option<presence::Guest>,
    timers: Option<timers::Guest>,
}

impl Exports {
    pub(super) fn describe(&self, store: &mut Store<State>) -> Result<Manifest> {
        match self {
            Self::V0_1(it) => it.gateway_policy_policy().call_describe(store).map(translate::manifest),
            Self::V0_2(it) => it.plugin.call_describe(store),
        }
    }

    pub(super) fn configure(
        &self,
        store: &mut Store<State>,
        settings: &str,
    ) -> Result<std::result::Result<Vec<String>, String>> {
        match self {
            Self::V0_1(it) => it.gateway_policy_policy().call_configure(store, settings),
            Self::V0_2(it) => it.plugin.call_configure(store, settings),
        }
    }

    pub(super) fn on_packet(&self, store: &mut Store<State>, packet: Packet, payload: &[u8]) -> Result<Decision> {
        match self {
            Self::V0_1(it) => {
                let packet = translate::packet(&packet);
                it.gateway_policy_policy().call_on_packet(store, packet, payload).map(translate::decision)
            }
            Self::V0_2(it) => exported(it.policy.as_ref(), "policy")?.call_on_packet(store, packet, payload),
        }
    }

    pub(super) fn on_packets(&self, store: &mut Store<State>, batch: &Batch) -> Result<Decisions> {
        exported(self.of_0_2().and_then(|it| it.batches.as_ref()), "batches")?.call_on_packets(store, batch)
    }

    pub(super) fn on_message(
        &self,
        store: &mut Store<State>,
        topic: &str,
        payload: &[u8],
        now: u64,
    ) -> Result<Decision> {
        match self {
            Self::V0_1(it) => {
                it.gateway_policy_policy().call_on_message(store, topic, payload).map(translate::decision)
            }
            Self::V0_2(it) => exported(it.hearing.as_ref(), "hearing")?.call_on_message(store, topic, payload, now),
        }
    }

    pub(super) fn on_connect(
        &self,
        store: &mut Store<State>,
        connection: &Connection,
    ) -> Result<std::result::Result<Admission, Denial>> {
        exported(self.of_0_2().and_then(|it| it.sessions.as_ref()), "sessions")?.call_on_connect(store, connection)
    }

    pub(super) fn on_disconnect(&self, store: &mut Store<State>, departure: &Departure) -> Result<Vec<Action>> {
        exported(self.of_0_2().and_then(|it| it.sessions.as_ref()), "sessions")?.call_on_disconnect(store, departure)
    }

    pub(super) fn on_away(&self, store: &mut Store<State>, absence: Absence) -> Result<Vec<Action>> {
        exported(self.of_0_2().and_then(|it| it.presence.as_ref()), "presence")?.call_on_away(store, absence)
    }

    pub(super) fn on_back(&self, store: &mut Store<State>, arrival: Arrival) -> Result<Vec<Action>> {
        exported(self.of_0_2().and_then(|it| it.presence.as_ref()), "presence")?.call_on_back(store, arrival)
    }

    pub(super) fn on_wake(&self, store: &mut Store<State>, key: u64, now: u64) -> Result<Vec<Action>> {
        exported(self.of_0_2().and_then(|it| it.timers.as_ref()), "timers")?.call_on_wake(store, key, now)
    }

    fn of_0_2(&self) -> Option<&ExportsOf0_2> {
        match self {
            Self::V0_1(_) => None,
            Self::V0_2(it) => Some(it),
        }
    }
}

/// Returns the exported interface. The gateway makes only the calls that the plugin takes, so an error reaches only the
/// author who tries a call with `gateway plugin`.
fn exported<'a, T>(interface: Option<&'a T>, name: &str) -> Result<&'a T> {
    interface.ok_or_else(|| wasmtime::Error::msg(format!("the plugin does not export `gateway:policy/{name}`")))
}
