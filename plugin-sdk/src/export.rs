//! The functions that the gateway calls, implemented with a [`Policy`].

use crate::{Action, Manifest, Packet, Policy, Rejection, settings};
use std::cell::RefCell;

/// The policy of an instance, empty until the gateway calls `configure`.
///
/// A `RefCell` is enough, since an instance runs on one thread at a time.
pub struct Exported<P>(RefCell<Option<P>>);

impl<P: Policy> Exported<P> {
    /// Creates an instance that is not configured yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Implements the exported function `describe`.
    #[must_use]
    pub fn describe(version: &str) -> Manifest {
        Manifest { name: P::NAME.to_owned(), version: version.to_owned(), routes: P::ROUTES.to_vec() }
    }

    /// Implements the exported function `configure`, and returns the topics to subscribe to.
    ///
    /// # Errors
    /// Returns a text for the operator if the JSON does not fit [`Policy::Config`], or if [`Policy::configure`] fails.
    pub fn configure(&self, json: &str) -> Result<Vec<String>, String> {
        let policy = P::configure(settings::parse(json)?)?;
        let topics = policy.topics();
        *self.0.borrow_mut() = Some(policy);
        Ok(topics)
    }

    /// Implements the exported function `on-packet`.
    ///
    /// # Errors
    /// Returns the rejection of [`Policy::on_packet`].
    pub fn on_packet(&self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        self.with(|policy| policy.on_packet(packet, payload))
    }

    /// Implements the exported function `on-message`.
    ///
    /// # Errors
    /// Returns the rejection of [`Policy::on_message`].
    pub fn on_message(&self, topic: &str, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        self.with(|policy| policy.on_message(topic, payload))
    }

    fn with<R>(&self, call: impl FnOnce(&mut P) -> R) -> R {
        let mut policy = self.0.borrow_mut();
        call(policy.as_mut().expect("the gateway calls `configure` before anything else"))
    }
}

impl<P: Policy> Default for Exported<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes the crate a plugin that runs the given [`Policy`]. The plugin's version is the crate's version.
///
/// On targets other than WebAssembly the macro exports nothing, so that the crate can be tested natively.
///
/// ```
/// use gateway_plugin_sdk::{NoConfig, Policy, Settings, export};
///
/// struct Silent;
///
/// impl Policy for Silent {
///     const NAME: &str = "silent";
///     const ROUTES: &[u8] = &[];
///     type Config = NoConfig;
///
///     fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
///         Ok(Self)
///     }
/// }
///
/// export!(Silent);
/// ```
#[macro_export]
macro_rules! export {
    ($policy:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: $crate::Exported<$policy> = $crate::Exported::new();

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the exported functions are called by the gateway")]
        const _: () = {
            struct Component;

            ::std::thread_local! {
                static POLICY: $crate::Exported<$policy> = const { $crate::Exported::new() };
            }

            impl $crate::bindings::exports::gateway::policy::policy::Guest for Component {
                fn describe() -> $crate::Manifest {
                    $crate::Exported::<$policy>::describe(::std::env!("CARGO_PKG_VERSION"))
                }

                fn configure(
                    settings: ::std::string::String,
                ) -> ::std::result::Result<::std::vec::Vec<::std::string::String>, ::std::string::String> {
                    POLICY.with(|policy| policy.configure(&settings))
                }

                fn on_packet(
                    packet: $crate::Packet,
                    payload: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<::std::vec::Vec<$crate::Action>, $crate::Rejection> {
                    POLICY.with(|policy| policy.on_packet(&packet, &payload))
                }

                fn on_message(
                    topic: ::std::string::String,
                    payload: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<::std::vec::Vec<$crate::Action>, $crate::Rejection> {
                    POLICY.with(|policy| policy.on_message(&topic, &payload))
                }
            }

    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
    };
}
