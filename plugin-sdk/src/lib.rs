//! Write a policy for the gateway in Rust.
//!
//! A policy is a type that implements [`Policy`]; [`export!`] turns the crate into a plugin. It decides on packets and on messages
//! of the bus, and it performs nothing itself, so it is tested like any other Rust with [`testing::Harness`].
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
//! Build it with `crate-type = ["cdylib"]` and `cargo build --release --target wasm32-wasip2`, and put the `.wasm` file into the
//! gateway's plugins directory.

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

/// What a plugin decides. One value of it lives in each instance of the plugin, and the gateway keeps one instance per worker thread:
/// keep in it only what may be lost.
///
/// Only [`configure`](Self::configure) has to be there. This one hears what a backend says, and passes it on:
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
///         let (user, _) = payload.split_first().ok_or_else(|| Rejection::malformed("nobody is named"))?;
///         Ok(vec![Action::deliver(Target::User((*user).into()), 0x21)])
///     }
/// }
///
/// let mut news = Harness::<News>::new("{}").unwrap();
/// assert_eq!(news.topics, ["news"]);
/// assert_eq!(news.message("news", b"\x07hello"), Ok(vec![Action::deliver(Target::User(7), 0x21)]));
/// // No packet is served where nothing says how.
/// assert_eq!(news.packet(0x21, b"").unwrap_err().status, 3);
/// ```
pub trait Policy: Sized + 'static {
    /// The plugin's name: the key of its settings in gateway.yaml, and its label in metrics and logs.
    const NAME: &str;

    /// The routes that it serves, unless the operator says otherwise.
    const ROUTES: &[u8];

    /// What the operator may write under `plugins.settings.NAME.config`; [`NoConfig`] for nothing.
    type Config: DeserializeOwned;

    /// Makes the policy from its settings.
    ///
    /// # Errors
    /// A text for the operator: which key is wrong, and what would mend it. Keys that are missing, unknown or of the wrong type have
    /// been refused before.
    fn configure(settings: Settings<Self::Config>) -> Result<Self, String>;

    /// The bus topics to subscribe to.
    fn topics(&self) -> Vec<String> {
        Vec::new()
    }

    /// Decides on a packet.
    ///
    /// # Errors
    /// A [`Rejection`] goes to the client as a reply with its status.
    fn on_packet(&mut self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let _ = payload;
        Err(Rejection::new(Status::NoRoute, format!("{} serves no route, not even 0x{:02x}", Self::NAME, packet.route)))
    }

    /// Decides on a message of a topic in [`topics`](Self::topics).
    ///
    /// # Errors
    /// A [`Rejection`] is counted and logged; there is nobody to answer to.
    fn on_message(&mut self, topic: &str, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let _ = (topic, payload);
        Ok(Vec::new())
    }
}
