//! The SDK for gateway plugins in Rust.
//!
//! A policy is a type that implements [`Policy`], and [`export!`] turns the crate into a plugin. The policy receives
//! packets and bus messages, and returns the actions that the gateway performs. Since a policy performs nothing itself,
//! [`testing::Harness`] can test it natively, without a gateway.
//!
//! ```
//! use gateway_plugin_sdk::{Action, NoConfig, Packet, Policy, Rejection, Settings, testing::Harness};
//!
//! /// Answers each packet on route 0x20 with its payload in capitals.
//! struct Shout;
//!
//! impl Policy for Shout {
//!     const NAME: &str = "shout";
//!     const ROUTES: &[u8] = &[0x20];
//!     type Config = NoConfig;
//!
//!     fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn on_packet(&mut self, _: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
//!         let text = std::str::from_utf8(payload).map_err(|_| Rejection::malformed("the payload is not UTF-8"))?;
//!         Ok(vec![Action::reply(text.to_uppercase())])
//!     }
//! }
//!
//! gateway_plugin_sdk::export!(Shout);
//!
//! let mut shout = Harness::<Shout>::new("{}").unwrap();
//! assert_eq!(shout.packet(0x20, b"hello"), Ok(vec![Action::reply("HELLO")]));
//! assert_eq!(shout.packet(0x20, b"\xff").unwrap_err().status, 2);
//! ```
//!
//! To build the plugin, set `crate-type = ["cdylib"]` and run `cargo build --release --target wasm32-wasip2`. Then copy
//! the `.wasm` file into the gateway's plugins directory.

mod action;
#[doc(hidden)]
pub mod bindings;
mod export;
pub mod log;
pub mod protobuf;
mod rejection;
mod settings;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use bindings::exports::gateway::policy::policy::{
    Action, Answer, Closing, Delivery, Manifest, Packet, Publication, Rejection, SessionId, Target,
};
#[doc(hidden)]
pub use export::Exported;
pub use rejection::Status;
pub use settings::{NoConfig, Settings};

use serde::de::DeserializeOwned;

/// The decisions of a plugin.
///
/// Each instance of the plugin holds one value of this type, and the gateway runs one instance per worker thread.
/// Instances share nothing, and a trap or a reload drops an instance. Keep in the value only state that may be lost,
/// such as parsed settings and caches.
///
/// Only [`configure`](Self::configure) is required. The following policy forwards the messages of a backend to users:
///
/// ```
/// use gateway_plugin_sdk::{Action, NoConfig, Policy, Rejection, Settings, Target, testing::Harness};
///
/// struct News;
///
/// impl Policy for News {
///     const NAME: &str = "news";
///     const ROUTES: &[u8] = &[0x21];
///     type Config = NoConfig;
///
///     fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
///         Ok(Self)
///     }
///
///     fn topics(&self) -> Vec<String> {
///         vec!["news".to_owned()]
///     }
///
///     fn on_message(&mut self, _: &str, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
///         let (user, _) = payload.split_first().ok_or_else(|| Rejection::malformed("the message names no user"))?;
///         Ok(vec![Action::deliver(Target::User((*user).into()), 0x21)])
///     }
/// }
///
/// let mut news = Harness::<News>::new("{}").unwrap();
/// assert_eq!(news.topics, ["news"]);
/// assert_eq!(news.message("news", b"\x07hello"), Ok(vec![Action::deliver(Target::User(7), 0x21)]));
/// // `News` does not implement `on_packet`, so every packet is rejected.
/// assert_eq!(news.packet(0x21, b"").unwrap_err().status, 3);
/// ```
pub trait Policy: Sized + 'static {
    /// The plugin's name, unique in a gateway: the key of its settings in gateway.yaml, and its label in metrics and
    /// logs.
    ///
    /// A name has 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
    const NAME: &str;

    /// The route bytes that the plugin serves, unless the operator sets `routes` in its settings.
    ///
    /// A gateway lets only one plugin serve a route. The list is empty for a plugin that serves no packets.
    const ROUTES: &[u8];

    /// The keys that the operator may set under `plugins.settings.NAME.config`. A plugin without settings uses
    /// [`NoConfig`].
    ///
    /// Add `#[serde(deny_unknown_fields)]` to the type, so that a misspelt key is an error.
    type Config: DeserializeOwned;

    /// Creates the policy from its settings. The gateway calls this function once per instance, before the first
    /// packet.
    ///
    /// # Errors
    /// Return a text for the operator that names the wrong key and a correct value. The gateway then keeps the version
    /// and the settings that were in use. The SDK itself rejects settings that do not fit [`Config`](Self::Config), and
    /// does not call this function.
    fn configure(settings: Settings<Self::Config>) -> Result<Self, String>;

    /// Returns the bus topics to subscribe to, at most 1024. The SDK calls this function once, after
    /// [`configure`](Self::configure).
    ///
    /// The default is no topic. Each topic has 1 to 256 bytes and no control characters.
    fn topics(&self) -> Vec<String> {
        Vec::new()
    }

    /// Decides on a packet, and returns the actions for the gateway to perform in order.
    ///
    /// The gateway performs all of the actions or none. A panic performs nothing, ends the instance, and gives the
    /// client status 8. The default rejects every packet with status 3.
    ///
    /// # Errors
    /// A [`Rejection`] goes to the client as a reply with its status and its message.
    fn on_packet(&mut self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let _ = payload;
        Err(Rejection::new(Status::NoRoute, format!("{} does not serve route 0x{:02x}", Self::NAME, packet.route)))
    }

    /// Decides on a message from one of the [`topics`](Self::topics), and returns the actions for the gateway to
    /// perform in order.
    ///
    /// Only [`Action::Publish`] and [`Action::Deliver`] are allowed, since there is no packet to answer. The default
    /// returns no actions.
    ///
    /// # Errors
    /// The gateway counts and logs a [`Rejection`]. Nobody receives it.
    fn on_message(&mut self, topic: &str, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let _ = (topic, payload);
        Ok(Vec::new())
    }
}
