//! A policy that answers each packet with a greeting.
//!
//! There are four more traits that a plugin can implement and name in `export!`: `Hearing` for bus messages,
//! `Sessions` for the beginning and the end of sessions, `Presence` for clients that go away and come back, and `Timers`.

use gateway_plugin_sdk::{Action, NoConfig, Packet, Plugin, Policy, Rejection, Settings, export};

struct Greeter;

impl Plugin for Greeter {
    const NAME: &str = "{{name}}";
    const ROUTES: &[u8] = &[{{route}}];
    type Config = NoConfig;

    fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Policy for Greeter {
    fn on_packet(&mut self, _: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        if payload.is_empty() {
            return Err(Rejection::malformed("the payload is empty"));
        }
        // Other actions push a message to a group (`Action::deliver`), add a session to a group (`Action::join`), set a
        // timer (`Action::wake`) and write state (`Action::put`). `gateway_plugin_sdk::state::get` reads state.
        Ok(vec![Action::reply([b"hello, ", payload].concat())])
    }
}

export!(Greeter: Policy);

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_plugin_sdk::testing::{Harness, vectors};

    #[test]
    fn it_greets() {
        let mut greeter = Harness::<Greeter>::new("{}").unwrap();
        assert_eq!(greeter.packet({{route}}, b"world"), Ok(vec![Action::reply("hello, world")]));
    }

    #[test]
    fn it_passes_the_test_vectors() {
        vectors::<Greeter>(include_str!("../vectors.json")).unwrap_or_else(|failures| panic!("{failures}"));
    }
}
