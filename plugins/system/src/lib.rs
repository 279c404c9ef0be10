//! The system route. The policy answers each heartbeat with its own payload.

use gateway_plugin_sdk::{Action, NoConfig, Packet, Plugin, Policy, Rejection, Settings, export};

struct System;

impl Plugin for System {
    const NAME: &str = "system";
    const ROUTES: &[u8] = &[0x03];
    type Config = NoConfig;

    fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Policy for System {
    fn on_packet(&mut self, _: &Packet, _: &[u8]) -> Result<Vec<Action>, Rejection> {
        Ok(vec![Action::Echo])
    }
}

export!(System: Policy);

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_plugin_sdk::testing::Harness;

    #[test]
    fn a_heartbeat_is_echoed() {
        let mut system = Harness::<System>::new("{}").unwrap();
        assert_eq!(system.packet(0x03, b"beat").unwrap(), [Action::Echo]);
    }
}
