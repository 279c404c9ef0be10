//! Decisions on packets of one session that have arrived together, which the plugin makes in one call.
//!
//! A call of a plugin costs several times as much as what a simple policy does in it. So if a client has sent several
//! packets at once, the plugin decides on up to 16 of them in one call of `on-packets`. Everything else goes on for each
//! packet at its turn: the limits, the checks, and the actions, which are carried out before those of the next packet.
//!
//! A batch is used only if its call was quick, has read nothing of the host, and wants to log nothing. A decision of it is
//! used only if the plugin would be asked the same question at the turn of the packet. For example, the packet before it
//! may have bound the session to a user. Otherwise the plugin is called for the packet, and singly for the next ones of
//! the session ([`Conduct::end_batches`]). A call that was not used counts nowhere and against nobody, as in
//! [`early`](super::early). After one that was slow or failed, no call is made for several packets of any session for a
//! while ([`Plugin::pause_batches`]).
//!
//! [`Conduct::end_batches`]: crate::delivery::conduct::Conduct::end_batches

use super::{
    asked::{Asked, Batch},
    calls::{Call, Occasion},
    gateway::Gateway,
    progress::Progress,
    refusal::Refusal,
    snapshot::Snapshot,
};
use crate::{
    delivery::session::Session,
    plugin::{self, Called, Decision, Fault, Packet, Plugin, Usage, store::Reads, trace},
    sync::moment::Moment,
};
use bytes::Bytes;
use gateway_wire::packet::{self, Header};
use std::sync::Arc;

/// The largest number of packets that a plugin decides on in one call.
pub const MAX_PACKETS: usize = 16;

/// The largest size of their payloads in bytes. The payloads are copied once more than that of a single packet.
const MAX_PAYLOAD_BYTES: usize = 16 << 10;

impl Gateway {
    /// Returns whether the plugin that this packet is for may decide on it together with others.
    #[must_use]
    pub fn takes_batches(&self, session: &Session, packet: &Bytes) -> bool {
        let Ok((header, _)) = packet::split(packet) else { return false };
        let snapshot = self.snapshot.load();
        // A trace has each call once. While calls of the session fail or are slow, each one counts before the next.
        snapshot.route(header.route).is_some_and(|route| route.served.plugin.takes_batches())
            && !trace::is_on()
            && self.traces.tracer().is_none()
            && session.conduct.takes_batches()
    }

    /// Lets a plugin decide on packets of a session that have arrived together. Returns `None` if the plugin has to be
    /// called for each of them.
    pub fn decide_together<'a>(
        &self,
        session: &Arc<Session>,
        packets: impl Iterator<Item = &'a Bytes>,
    ) -> Option<Batch> {
        let mut packets = packets.peekable();
        let (header, payload) = packet::parse(Bytes::clone(packets.peek()?)).ok()?;
        let snapshot = self.snapshot.load();
        let served = &snapshot.route(header.route)?.served;
        let plugin = &served.plugin;
        let call = Call { served, occasion: Occasion::Packet { session, header, payload: &payload } };
        let lease = plugin.lease().filter(|_| plugin.takes_batches())?.muted();
        let began = Moment::now();
        let batch = batch(&call, session, call.time(began), packets, &snapshot);
        if batch.seqs.len() < 2 {
            session.conduct.end_batches();
            return None;
        }
        let Called { answer, usage } = lease.on_packets(began, &batch);
        let decisions = self.usable(&call, answer, &usage, &snapshot);
        if decisions.is_none() {
            session.conduct.end_batches();
        }
        let plugin::Batch { user, tag, now, seqs, .. } = batch;
        let elapsed_ns = usage.elapsed_ns / seqs.len() as u64;
        let asked = Asked { served: Arc::clone(served), user, tag, now, elapsed_ns };
        Some(Batch { asked, decisions: decisions?.into_iter() })
    }

    /// Checks the decisions. Returns `None` if they are not used.
    fn usable(
        &self,
        call: &Call<'_>,
        answer: Result<Vec<Decision>, Fault>,
        usage: &Usage,
        snapshot: &Snapshot,
    ) -> Option<Vec<Decision>> {
        let (plugin, rules) = (&call.served.plugin, self.rules(call, snapshot));
        let check = |decisions: &Vec<Decision>| decisions.iter().try_for_each(|decision| rules.check(decision));
        match answer.and_then(|answer| check(&answer).map(|()| answer).map_err(Fault::Answer)) {
            Ok(decisions) => {
                if usage.is_slow {
                    plugin.pause_batches();
                }
                Some(decisions).filter(|_| !usage.is_slow && !usage.has_read && !usage.wanted_to_log)
            }
            Err(fault) => {
                plugin.pause_batches();
                // The instance may be gone, and the calls for single packets need it.
                plugin.refill();
                // The call may have failed because other calls have changed what it has read meanwhile.
                if !usage.has_read {
                    self.log_failed_batch(plugin, &fault);
                }
                None
            }
        }
    }

    #[cold]
    fn log_failed_batch(&self, plugin: &Plugin, fault: &Fault) {
        let generation = format!("{}, generation {}", plugin.name(), plugin.number());
        if self.metrics.log_limits.permit("batch failed", &generation) {
            let (name, version) = (&**plugin.name(), plugin.version());
            tracing::warn!(plugin = name, version, "`on-packets` failed, `on-packet` is called instead: {fault}");
        }
    }

    /// Carries out the decision of the batch on the packet whose turn it is. Returns `None` if the plugin has to be
    /// called.
    pub(super) fn serve_from(
        &self,
        batch: &mut Option<Batch>,
        decision: Decision,
        session: &Session,
        call: &Call<'_>,
    ) -> Option<Result<Progress, Refusal>> {
        let asked = batch.as_ref().map(|batch| &batch.asked).filter(|asked| asked.is_current(session, call));
        let progress = asked.and_then(|Asked { elapsed_ns, now, .. }| {
            // The call has read nothing, and writes in its format.
            let reads = Reads::new(call.served.plugin.state_format());
            let usage = Usage { reads, elapsed_ns: *elapsed_ns, ..Usage::default() };
            self.carry_out_early(call, decision, usage, *now)
        });
        if progress.is_none() {
            *batch = None;
            session.conduct.end_batches();
        }
        progress
    }
}

/// Returns the packets from the front that the plugin may decide on together.
fn batch<'a>(
    call: &Call<'_>,
    session: &Session,
    now: u64,
    packets: impl Iterator<Item = &'a Bytes>,
    snapshot: &Snapshot,
) -> plugin::Batch {
    let Packet { session: id, user, tag, .. } = call.packet(session, Header::default(), now);
    let max_payload = call.served.plugin.settings().max_payload;
    let mut batch = plugin::Batch {
        session: id,
        user,
        tag,
        now,
        seqs: Vec::with_capacity(MAX_PACKETS),
        routes: Vec::with_capacity(MAX_PACKETS),
        flags: Vec::with_capacity(MAX_PACKETS),
        lengths: Vec::with_capacity(MAX_PACKETS),
        payloads: Vec::with_capacity(MAX_PAYLOAD_BYTES.min(call.payload_bytes() * MAX_PACKETS)),
    };
    for packet in packets.take(MAX_PACKETS) {
        let Ok((header, payload)) = packet::split(packet) else { break };
        let is_served_alike = snapshot.route(header.route).is_some_and(|it| Arc::ptr_eq(&it.served, call.served));
        if !is_served_alike || payload.len() > max_payload || batch.payloads.len() + payload.len() > MAX_PAYLOAD_BYTES {
            break;
        }
        batch.seqs.push(header.seq);
        batch.routes.push(header.route);
        batch.flags.push(header.flags);
        batch.lengths.push(payload.len() as u32);
        batch.payloads.extend_from_slice(payload);
    }
    batch
}
