//! Conversions between the types of this crate and generated bindings.

/// Defines conversion functions between the types of this crate and the generated bindings in the given module.
///
/// The functions `packet`, `connection`, `departure`, `absence` and `arrival` convert the calls of this crate to the records of the bindings.
/// The functions `decision` and `admission` convert the answers of the bindings to an [`Outcome`](crate::Outcome). The
/// functions `session_id` and `uuid` convert the id of a session.
///
/// This is a macro, since the gateway and the SDK each generate types of their own, with the same names and fields.
#[macro_export]
macro_rules! conversions {
    ($($bindings:ident)::+) => {
        fn session_id(session: $crate::Uuid) -> $($bindings)::+::SessionId {
            let (high, low) = session.as_u64_pair();
            $($bindings)::+::SessionId { high, low }
        }

        fn uuid(session: $($bindings)::+::SessionId) -> $crate::Uuid {
            $crate::Uuid::from_u64_pair(session.high, session.low)
        }

        fn packet(packet: &$crate::Packet, now: u64) -> $($bindings)::+::Packet {
            let $crate::Packet { seq, route, flags, session, user, tag, .. } = *packet;
            let (route, session) = (route.unwrap_or_default(), session_id(session));
            $($bindings)::+::Packet { seq, route, flags, session, user, tag, now }
        }

        fn connection(connect: &$crate::Connect, now: u64) -> $($bindings)::+::Connection {
            let $crate::Connect { session, remote, query, headers, user, claims } = connect.clone();
            $($bindings)::+::Connection { session: session_id(session), remote, query, headers, user, claims, now }
        }

        fn departure(disconnect: &$crate::Disconnect, now: u64) -> $($bindings)::+::Departure {
            let $crate::Disconnect { session, user, tag, cause } = disconnect.clone();
            $($bindings)::+::Departure { session: session_id(session), user, tag, cause, now }
        }

        fn absence(away: &$crate::Away, now: u64) -> $($bindings)::+::Absence {
            let $crate::Away { session, user, tag } = *away;
            $($bindings)::+::Absence { session: session_id(session), user, tag, now }
        }

        fn arrival(back: &$crate::Back, now: u64) -> $($bindings)::+::Arrival {
            let $crate::Back { session, user, tag, handed_over } = *back;
            $($bindings)::+::Arrival { session: session_id(session), user, tag, handed_over, now }
        }

        fn decision(
            decision: Result<Vec<$($bindings)::+::Action>, $($bindings)::+::Rejection>,
        ) -> $crate::Outcome {
            match decision {
                Ok(actions) => $crate::Outcome::Actions(actions.into_iter().map(action).collect()),
                Err(it) => $crate::Outcome::Reject($crate::Rejection { status: it.status, message: it.message }),
            }
        }

        fn admission(
            admission: Result<$($bindings)::+::Admission, $($bindings)::+::Denial>,
        ) -> $crate::Outcome {
            match admission {
                Ok(it) => $crate::Outcome::Admit($crate::Admission {
                    user: it.user,
                    tag: it.tag,
                    attributes: it.attributes.into_iter().collect(),
                    actions: it.actions.into_iter().map(action).collect(),
                }),
                Err(it) => $crate::Outcome::Deny($crate::Rejection { status: it.status, message: it.message }),
            }
        }

        fn action(action: $($bindings)::+::Action) -> $crate::Action {
            use $crate::{Action as Written, Bytes};
            use $($bindings)::+::Action;
            match action {
                Action::Publish(it) => Written::Publish { topic: it.topic, body: it.body.map(Bytes) },
                Action::Reply(it) => Written::Reply { status: it.status, body: Bytes(it.body) },
                Action::Echo => Written::Echo,
                Action::Bind(user) => Written::Bind(user),
                Action::Deliver(it) => Written::Deliver {
                    to: target(it.to),
                    except: it.except.map(uuid),
                    route: it.route,
                    body: it.body.map(Bytes),
                    keep: keep(it.keep),
                },
                Action::Join(it) => Written::Join { session: uuid(it.session), group: it.group },
                Action::Leave(it) => Written::Leave { session: uuid(it.session), group: it.group },
                Action::Listen(it) => Written::Listen { holder: holder(it.holder), topic: it.topic },
                Action::Unlisten(it) => Written::Unlisten { holder: holder(it.holder), topic: it.topic },
                Action::SetTag(it) => Written::SetTag { session: uuid(it.session), tag: it.tag },
                Action::End(it) => {
                    Written::End { whom: target(it.whom), code: it.closing.code, reason: it.closing.reason }
                }
                Action::Put(it) => Written::Put { key: it.key, value: it.value.map(Bytes), ttl_ms: it.ttl_ms },
                Action::Wake(it) => Written::Wake { key: it.key, after_ms: it.after_ms },
                Action::Measure(it) => Written::Measure { metric: it.metric, value: it.value },
            }
        }

        fn target(target: $($bindings)::+::Target) -> $crate::Target {
            use $($bindings)::+::Target;
            match target {
                Target::Sender => $crate::Target::Sender,
                Target::Session(session) => $crate::Target::Session(uuid(session)),
                Target::User(user) => $crate::Target::User(user),
                Target::Group(group) => $crate::Target::Group(group),
            }
        }

        fn keep(keep: $($bindings)::+::Keep) -> $crate::Keep {
            use $($bindings)::+::Keep;
            match keep {
                Keep::Always => $crate::Keep::Always,
                Keep::MayDrop => $crate::Keep::MayDrop,
                Keep::Latest(key) => $crate::Keep::Latest(key),
            }
        }

        fn holder(holder: $($bindings)::+::Holder) -> $crate::Holder {
            use $($bindings)::+::Holder;
            match holder {
                Holder::Session(session) => $crate::Holder::Session(uuid(session)),
                Holder::Group(group) => $crate::Holder::Group(group),
            }
        }
    };
}
