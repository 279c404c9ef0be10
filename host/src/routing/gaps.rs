//! Tells clients that messages of the bus may have been lost.

use super::{effects::count_if_dropped, gateway::Gateway};
use crate::delivery::outbox::Outcome;
use bytes::Bytes;
use gateway_proto::{Control, Gap, control::Event};
use prost::Message as _;
use std::time::Duration;
use tokio::task;

/// The number of sessions after which the task yields to other tasks.
const SESSIONS_PER_TURN: usize = 256;

impl Gateway {
    /// Tells every session that lives now that messages may have been lost for the time `blind`.
    pub(super) async fn tell_gap(&self, blind: Duration) {
        let blind_ms = i64::try_from(blind.as_millis()).unwrap_or(i64::MAX);
        let payload = Bytes::from(Control { event: Some(Event::Gap(Gap { blind_ms })) }.encode_to_vec());
        let mut told = 0;
        for sessions in self.registry.all().chunks(SESSIONS_PER_TURN) {
            for session in sessions {
                match session.outbox.control(payload.clone()) {
                    // The client of a session that ends misses nothing.
                    Outcome::Closed => {}
                    outcome => {
                        told += usize::from(outcome != Outcome::Full);
                        count_if_dropped(&self.metrics, session, outcome);
                    }
                }
            }
            task::yield_now().await;
        }
        self.metrics.bus_gaps.inc();
        self.metrics.bus_blind_seconds.inc_by(blind.as_secs_f64());
        tracing::warn!(
            blind_ms,
            sessions = told,
            "messages of the bus may have been lost while it was not connected: the clients of these sessions are told"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus,
        delivery::{
            outbox::{Keep, Limits},
            session::Session,
        },
        telemetry::metrics::Metrics,
    };
    use gateway_wire::packet::{Header, ROUTE_CHAT, ROUTE_CONTROL};
    use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

    #[tokio::test]
    async fn every_session_is_told_outside_of_its_delivery_numbers_unless_its_queue_is_full() {
        let gateway = Gateway::new(Arc::new(Metrics::new()), Arc::<bus::Queue<_>>::default(), 1 << 20);
        let limits = Limits::of(2, 999);
        let sessions: Vec<_> = (0..SESSIONS_PER_TURN + 1)
            .map(|_| gateway.registry.admit(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), limits)).unwrap())
            .collect();
        let (full, others) = sessions.split_first().unwrap();
        for _ in 0..2 {
            full.outbox.push(ROUTE_CHAT, Bytes::new(), Keep::Always);
        }
        gateway.tell_gap(Duration::from_millis(2100)).await;
        for session in others {
            session.outbox.push(ROUTE_CHAT, Bytes::new(), Keep::Always);
            let mut batch = VecDeque::new();
            assert_eq!(session.outbox.drain(&mut batch), None);
            let headers: Vec<_> = batch.iter().map(|outgoing| outgoing.header).collect();
            assert_eq!(headers, [Header::push(ROUTE_CONTROL, 0), Header::push(ROUTE_CHAT, 1)]);
            let control = Control::decode(batch[0].payload.clone()).unwrap();
            assert_eq!(control.event, Some(Event::Gap(Gap { blind_ms: 2100 })));
        }
        let metrics = gateway.metrics.encode().unwrap();
        for line in [
            "gateway_messages_dropped_total{reason=\"send_queue_full\"} 1",
            "gateway_bus_gaps_total 1",
            "gateway_bus_blind_seconds_total 2.1",
        ] {
            assert!(metrics.lines().any(|shown| shown == line), "{line} is not in {metrics}");
        }
    }
}
