//! Test a policy natively: no gateway, no WebAssembly.

use crate::{Action, Exported, Manifest, Packet, Policy, Rejection, SessionId};
use serde_json::{Value, json};

/// A configured policy and one session that talks to it.
pub struct Harness<P> {
    policy: Exported<P>,
    /// The topics that the policy subscribes to.
    pub topics: Vec<String>,
    /// The session's id.
    pub session: SessionId,
    /// The user that the session is bound to. An [`Action::Bind`] sets it, as the gateway would.
    pub user: Option<i32>,
    seq: u32,
}

impl<P: Policy> Harness<P> {
    /// A policy with these settings: JSON as the gateway passes it, of which both keys, `config` and `games`, may be left out.
    ///
    /// # Errors
    /// The text that the operator would read.
    pub fn new(settings: &str) -> Result<Self, String> {
        let mut settings: Value =
            serde_json::from_str(settings).map_err(|error| format!("the settings are no JSON: {error}"))?;
        if settings.get("config").is_none() {
            settings["config"] = json!({});
        }
        let policy = Exported::new();
        let topics = policy.configure(&settings.to_string())?;
        Ok(Self { policy, topics, session: SessionId { high: 1, low: 2 }, user: None, seq: 0 })
    }

    /// What the policy says of itself.
    #[must_use]
    pub fn describe(&self) -> Manifest {
        Exported::<P>::describe("test")
    }

    /// Sends a packet of the session.
    ///
    /// # Errors
    /// Those of the policy.
    pub fn packet(&mut self, route: u8, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        self.seq += 1;
        let packet = Packet { seq: self.seq, route, flags: 0, session: self.session, user: self.user };
        let actions = self.policy.on_packet(&packet, payload)?;
        for action in &actions {
            if let Action::Bind(user) = action {
                self.user.get_or_insert(*user);
            }
        }
        Ok(actions)
    }

    /// Sends a message of the bus.
    ///
    /// # Errors
    /// Those of the policy.
    pub fn message(&mut self, topic: &str, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        self.policy.on_message(topic, payload)
    }
}
