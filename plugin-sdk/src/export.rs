//! The functions that the gateway calls, implemented with the traits of a plugin.

use crate::{
    Absence, Action, Admission, Arrival, Connection, Denial, Departure, Hearing, Manifest, Packet, Plugin, Policy,
    Presence, Rejection, Sessions, Timers,
    bindings::{
        self,
        batches::exports::gateway::policy::batches::{Batch, Decisions},
    },
    plugin, settings,
};
use std::{cell::RefCell, marker::PhantomData, thread::LocalKey};

/// The plugin of an instance, empty until the gateway calls `configure`.
///
/// A `RefCell` is enough, since an instance runs on one thread at a time.
pub struct Instance<P>(RefCell<Option<P>>);

impl<P: Plugin> Instance<P> {
    /// Creates an instance that is not configured yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Creates the plugin from the JSON of its settings, and returns the topics to subscribe to.
    ///
    /// # Errors
    /// Returns a text for the operator if the JSON does not fit [`Plugin::Config`], or if [`Plugin::configure`] fails.
    pub fn configure(&self, json: &str) -> Result<Vec<String>, String> {
        let plugin = P::configure(settings::parse(json)?)?;
        let topics = plugin.topics();
        *self.0.borrow_mut() = Some(plugin);
        Ok(topics)
    }

    /// Calls the plugin.
    ///
    /// # Panics
    /// Panics if the instance is not configured.
    pub fn with<R>(&self, call: impl FnOnce(&mut P) -> R) -> R {
        let mut plugin = self.0.borrow_mut();
        call(plugin.as_mut().expect("the gateway calls `configure` before anything else"))
    }
}

impl<P: Plugin> Default for Instance<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// A plugin that [`export!`](crate::export) exports. Implement this trait with the macro only.
pub trait Exported: Plugin {
    /// The version of the plugin's crate.
    const VERSION: &str;
    /// The instance that the gateway calls.
    const INSTANCE: &'static LocalKey<Instance<Self>>;
    /// The calls of the exported traits, for native tests.
    const CALLS: Calls<Self>;
}

/// The calls that a plugin exports.
pub struct Calls<P> {
    /// The call of [`Policy`].
    pub on_packet: Option<OnPacket<P>>,
    /// The call of [`Hearing`].
    pub on_message: Option<OnMessage<P>>,
    /// The first call of [`Sessions`].
    pub on_connect: Option<OnConnect<P>>,
    /// The second call of [`Sessions`].
    pub on_disconnect: Option<OnDisconnect<P>>,
    /// The first call of [`Presence`].
    pub on_away: Option<OnAway<P>>,
    /// The second call of [`Presence`].
    pub on_back: Option<OnBack<P>>,
    /// The call of [`Timers`].
    pub on_wake: Option<OnWake<P>>,
}

type OnPacket<P> = fn(&mut P, &Packet, &[u8]) -> Result<Vec<Action>, Rejection>;
type OnMessage<P> = fn(&mut P, &str, &[u8], u64) -> Result<Vec<Action>, Rejection>;
type OnConnect<P> = fn(&mut P, &Connection) -> Result<Admission, Denial>;
type OnDisconnect<P> = fn(&mut P, &Departure) -> Vec<Action>;
type OnAway<P> = fn(&mut P, &Absence) -> Vec<Action>;
type OnBack<P> = fn(&mut P, &Arrival) -> Vec<Action>;
type OnWake<P> = fn(&mut P, u64, u64) -> Vec<Action>;

#[allow(non_snake_case, reason = "the functions have the names of the traits, since `export!` is given those")]
impl<P> Calls<P> {
    /// No calls.
    pub const NONE: Self = Self {
        on_packet: None,
        on_message: None,
        on_connect: None,
        on_disconnect: None,
        on_away: None,
        on_back: None,
        on_wake: None,
    };

    /// Adds the call of [`Policy`].
    #[must_use]
    pub const fn Policy(self) -> Self
    where
        P: Policy,
    {
        Self { on_packet: Some(P::on_packet), ..self }
    }

    /// Adds the call of [`Hearing`].
    #[must_use]
    pub const fn Hearing(self) -> Self
    where
        P: Hearing,
    {
        Self { on_message: Some(P::on_message), ..self }
    }

    /// Adds the calls of [`Sessions`].
    #[must_use]
    pub const fn Sessions(self) -> Self
    where
        P: Sessions,
    {
        Self { on_connect: Some(P::on_connect), on_disconnect: Some(P::on_disconnect), ..self }
    }

    /// Adds the calls of [`Presence`].
    #[must_use]
    pub const fn Presence(self) -> Self
    where
        P: Presence,
    {
        Self { on_away: Some(P::on_away), on_back: Some(P::on_back), ..self }
    }

    /// Adds the call of [`Timers`].
    #[must_use]
    pub const fn Timers(self) -> Self
    where
        P: Timers,
    {
        Self { on_wake: Some(P::on_wake), ..self }
    }
}

/// The exports of a plugin. It implements the generated traits of all interfaces that the plugin has traits for.
pub struct Component<P>(PhantomData<P>);

impl<P: Exported> bindings::plugin::exports::gateway::policy::plugin::Guest for Component<P> {
    fn describe() -> Manifest {
        plugin::manifest::<P>(P::VERSION)
    }

    fn configure(settings: String) -> Result<Vec<String>, String> {
        P::INSTANCE.with(|instance| instance.configure(&settings))
    }
}

impl<P: Exported + Policy> bindings::policy::exports::gateway::policy::policy::Guest for Component<P> {
    fn on_packet(packet: Packet, payload: Vec<u8>) -> Result<Vec<Action>, Rejection> {
        P::INSTANCE.with(|instance| instance.with(|plugin| plugin.on_packet(&packet, &payload)))
    }
}

impl<P: Exported + Policy> bindings::batches::exports::gateway::policy::batches::Guest for Component<P> {
    fn on_packets(batch: Batch) -> Decisions {
        let Batch { session, user, tag, now, seqs, routes, flags, lengths, payloads } = batch;
        let (mut rest, count) = (&*payloads, seqs.len());
        let mut decisions =
            Decisions { counts: Vec::with_capacity(count), actions: Vec::with_capacity(count), rejections: Vec::new() };
        let headers = seqs.into_iter().zip(routes).zip(flags).zip(lengths);
        let decide = |plugin: &mut P| {
            for (((seq, route), flags), length) in headers {
                let payload = rest.split_off(..length as usize).expect("the payloads have the given lengths");
                let answer = plugin.on_packet(&Packet { seq, route, flags, session, user, tag, now }, payload);
                let (place, before) = (decisions.counts.len() as u32, decisions.actions.len());
                match answer {
                    Ok(actions) => decisions.actions.extend(actions),
                    Err(rejection) => decisions.rejections.push((place, rejection)),
                }
                decisions.counts.push((decisions.actions.len() - before) as u32);
            }
        };
        P::INSTANCE.with(|instance| instance.with(decide));
        decisions
    }
}

impl<P: Exported + Hearing> bindings::hearing::exports::gateway::policy::hearing::Guest for Component<P> {
    fn on_message(topic: String, payload: Vec<u8>, now: u64) -> Result<Vec<Action>, Rejection> {
        P::INSTANCE.with(|instance| instance.with(|plugin| plugin.on_message(&topic, &payload, now)))
    }
}

impl<P: Exported + Sessions> bindings::sessions::exports::gateway::policy::sessions::Guest for Component<P> {
    fn on_connect(connection: Connection) -> Result<Admission, Denial> {
        P::INSTANCE.with(|instance| instance.with(|plugin| plugin.on_connect(&connection)))
    }

    fn on_disconnect(departure: Departure) -> Vec<Action> {
        P::INSTANCE.with(|instance| instance.with(|plugin| plugin.on_disconnect(&departure)))
    }
}

impl<P: Exported + Presence> bindings::presence::exports::gateway::policy::presence::Guest for Component<P> {
    fn on_away(absence: Absence) -> Vec<Action> {
        P::INSTANCE.with(|instance| instance.with(|plugin| plugin.on_away(&absence)))
    }

    fn on_back(arrival: Arrival) -> Vec<Action> {
        P::INSTANCE.with(|instance| instance.with(|plugin| plugin.on_back(&arrival)))
    }
}

impl<P: Exported + Timers> bindings::timers::exports::gateway::policy::timers::Guest for Component<P> {
    fn on_wake(key: u64, now: u64) -> Vec<Action> {
        P::INSTANCE.with(|instance| instance.with(|plugin| plugin.on_wake(key, now)))
    }
}

/// Makes the crate a plugin. After the type come the traits that the plugin exports: any of [`Policy`], [`Hearing`],
/// [`Sessions`], [`Presence`] and [`Timers`]. The plugin's version is the crate's version.
///
/// The gateway makes only the calls of the exported traits. On targets other than WebAssembly the macro exports
/// nothing, so that the crate can be tested natively.
///
/// ```
/// use gateway_plugin_sdk::{NoConfig, Plugin, Sessions, Settings, export};
///
/// struct Open;
///
/// impl Plugin for Open {
///     const NAME: &str = "open";
///     type Config = NoConfig;
///
///     fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
///         Ok(Self)
///     }
/// }
///
/// impl Sessions for Open {}
///
/// export!(Open: Sessions);
/// ```
#[macro_export]
macro_rules! export {
    ($plugin:ident : $($interface:ident),+ $(,)?) => {
        const _: () = {
            ::std::thread_local! {
                static INSTANCE: $crate::Instance<$plugin> = const { $crate::Instance::new() };
            }

            impl $crate::Exported for $plugin {
                const VERSION: &str = ::std::env!("CARGO_PKG_VERSION");
                const INSTANCE: &'static ::std::thread::LocalKey<$crate::Instance<Self>> = &INSTANCE;
                const CALLS: $crate::Calls<Self> = $crate::Calls::NONE$(.$interface())+;
            }
        };

        // This use of the type keeps the native build from warning of dead code.
        const _: $crate::Instance<$plugin> = $crate::Instance::new();

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the exported functions are called by the gateway")]
        const _: () = {
            type Component = $crate::Component<$plugin>;
            $crate::export_interface!(Plugin for Component);
            $($crate::export_interface!($interface for Component);)+
        };
    };
}

/// Exports one interface of a [`Component`].
#[doc(hidden)]
#[macro_export]
macro_rules! export_interface {
    (Plugin for $component:ident) => {
        $crate::bindings::plugin::export_component!($component with_types_in $crate::bindings::plugin);
    };
    (Policy for $component:ident) => {
        $crate::bindings::policy::export_component!($component with_types_in $crate::release::policy);
        $crate::bindings::batches::export_component!($component with_types_in $crate::bindings::batches);
    };
    (Hearing for $component:ident) => {
        $crate::bindings::hearing::export_component!($component with_types_in $crate::release::hearing);
    };
    (Sessions for $component:ident) => {
        $crate::bindings::sessions::export_component!($component with_types_in $crate::bindings::sessions);
    };
    (Presence for $component:ident) => {
        $crate::bindings::presence::export_component!($component with_types_in $crate::bindings::presence);
    };
    (Timers for $component:ident) => {
        $crate::bindings::timers::export_component!($component with_types_in $crate::bindings::timers);
    };
}
