//! Conversions between the types of this crate and generated bindings.

/// Defines two conversion functions between the types of this crate and the generated bindings in the given module.
///
/// The function `packet` converts this crate's [`Packet`](crate::Packet) to the packet of the bindings. The function
/// `decision` converts the actions or the rejection of the bindings to the types of this crate.
///
/// This is a macro, since the gateway and the SDK each generate types of their own, with the same names and fields.
#[macro_export]
macro_rules! conversions {
    ($($bindings:ident)::+) => {
        fn packet(packet: &$crate::Packet, route: u8) -> $($bindings)::+::Packet {
            let $crate::Packet { seq, flags, session, user, .. } = packet;
            let (high, low) = session.as_u64_pair();
            let session = $($bindings)::+::SessionId { high, low };
            $($bindings)::+::Packet { seq: *seq, route, flags: *flags, session, user: *user }
        }

        fn decision(
            decision: Result<Vec<$($bindings)::+::Action>, $($bindings)::+::Rejection>,
        ) -> Result<Vec<$crate::Action>, $crate::Rejection> {
            decision
                .map(|actions| actions.into_iter().map(action).collect())
                .map_err(|it| $crate::Rejection { status: it.status, message: it.message })
        }

        fn action(action: $($bindings)::+::Action) -> $crate::Action {
            use $crate::Bytes;
            use $($bindings)::+::{Action, Target};
            match action {
                Action::Publish(it) => $crate::Action::Publish { topic: it.topic, body: it.body.map(Bytes) },
                Action::Bind(user) => $crate::Action::Bind(user),
                Action::Reply(it) => $crate::Action::Reply { status: it.status, body: Bytes(it.body) },
                Action::Echo => $crate::Action::Echo,
                Action::Deliver(it) => $crate::Action::Deliver {
                    to: match it.to {
                        Target::Session(id) => $crate::Target::session(id.high, id.low),
                        Target::User(user) => $crate::Target::User(user),
                    },
                    route: it.route,
                    body: it.body.map(Bytes),
                },
                Action::Close(it) => $crate::Action::Close { code: it.code, reason: it.reason },
            }
        }
    };
}
