//! Translates the types of version 0.1 of the plugin interface into those of 0.2, and a packet the other way.

use super::bindings::{
    Action, Answer, Closing, Decision, Delivery, Ending, Keep, Manifest, Packet, Publication, Rejection, SessionId,
    Target, v0_1::exports::gateway::policy::policy as v0_1,
};

/// Translates a packet. A user whose id does not fit into 32 bits looks unbound to a plugin of 0.1.
pub(super) fn packet(packet: &Packet) -> v0_1::Packet {
    let SessionId { high, low } = packet.session;
    v0_1::Packet {
        seq: packet.seq,
        route: packet.route,
        flags: packet.flags,
        session: v0_1::SessionId { high, low },
        user: packet.user.and_then(|user| i32::try_from(user).ok()),
    }
}

pub(super) fn manifest(manifest: v0_1::Manifest) -> Manifest {
    let v0_1::Manifest { name, version, routes } = manifest;
    Manifest { name, version, routes, metrics: Vec::new(), state_format: 0, gatekeeper: false }
}

pub(super) fn decision(decision: Result<Vec<v0_1::Action>, v0_1::Rejection>) -> Decision {
    match decision {
        Ok(actions) => {
            // `map` and `collect` take 25 instructions more for a request.
            let mut translated = Vec::with_capacity(actions.len());
            for it in actions {
                translated.push(action(it));
            }
            Ok(translated)
        }
        Err(v0_1::Rejection { status, message }) => Err(Rejection { status, message }),
    }
}

fn action(action: v0_1::Action) -> Action {
    match action {
        v0_1::Action::Publish(v0_1::Publication { topic, body }) => Action::Publish(Publication { topic, body }),
        v0_1::Action::Bind(user) => Action::Bind(user.into()),
        v0_1::Action::Reply(v0_1::Answer { status, body }) => Action::Reply(Answer { status, body }),
        v0_1::Action::Echo => Action::Echo,
        v0_1::Action::Deliver(v0_1::Delivery { to, route, body }) => {
            let to = match to {
                v0_1::Target::Session(v0_1::SessionId { high, low }) => Target::Session(SessionId { high, low }),
                v0_1::Target::User(user) => Target::User(user.into()),
            };
            Action::Deliver(Delivery { to, except: None, route, body, keep: Keep::Always })
        }
        v0_1::Action::Close(v0_1::Closing { code, reason }) => {
            Action::End(Ending { whom: Target::Sender, closing: Closing { code, reason } })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_beyond_32_bits_looks_unbound_to_a_plugin_of_0_1() {
        let seen = |user| {
            let session = SessionId { high: 1, low: 2 };
            packet(&Packet { seq: 3, route: 4, flags: 5, session, user, tag: 6, now: 7 }).user
        };
        assert_eq!(seen(None), None);
        assert_eq!(seen(Some(i64::from(i32::MAX))), Some(i32::MAX));
        assert_eq!(seen(Some(i64::from(i32::MIN))), Some(i32::MIN));
        assert_eq!(seen(Some(i64::from(i32::MAX) + 1)), None);
    }
}
