//! The health of one generation of a plugin: whether slow calls cause all its calls to be offloaded, and whether failed
//! calls put the plugin into quarantine.
//!
//! A plugin is judged by the number of different senders for which its calls are slow or fail. So one client whose
//! packets make the plugin fail does not take the plugin away from other clients. `delivery::conduct` judges that
//! client's session. Only a call for several packets is not judged like this, because it counts against no session.

use crate::sync::uptime::now_ms;
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// All calls of the plugin are offloaded when calls for this many different senders were slow within one window of
/// [`SLOW_WINDOW_MS`].
const MAX_SLOW_SENDERS: usize = 3;

/// The length of the window in which senders with slow calls are counted, in milliseconds.
const SLOW_WINDOW_MS: u64 = 1000;

/// How long all calls of the plugin stay offloaded, in milliseconds. The time starts again with each further slow call
/// in a window that already has [`MAX_SLOW_SENDERS`] senders.
const OFFLOAD_MS: u64 = 5000;

/// How long no call is made for several packets after one that was slow or failed, in milliseconds.
const BATCHES_PAUSE_MS: u64 = 5000;

/// The number of quick calls after which a new generation leaves probation. During probation, packets are served on the
/// offload thread only. So a packet on which a new version loops forever never blocks a thread that serves players.
const PROBATION_CALLS: u32 = 16;

/// The plugin is quarantined when calls for this many different senders have failed without an answer in between.
const MAX_FAILED_SENDERS: usize = 5;

/// The first pause of a quarantine, in milliseconds. The pause doubles with each failed trial, up to [`MAX_PAUSE_MS`].
const MIN_PAUSE_MS: u64 = 1000;

/// The longest pause of a quarantine, in milliseconds.
const MAX_PAUSE_MS: u64 = 60_000;

/// The sender that caused a call of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The session that sent the packet. A bus message also has this sender if the session's packet is known to have
    /// caused the message.
    Session(Uuid),
    /// The unknown sender of a bus message. Each such message counts as a different sender.
    Bus,
    /// The address that asked for a session. All connections of one address count as the same sender.
    Address(IpAddr),
    /// The plugin's timer with this key.
    Timer(u64),
}

/// Permission to make one call of the plugin.
#[derive(Debug)]
pub struct CallPermit {
    /// Whether the call is a trial: the plugin is in quarantine, and the call shows whether the plugin answers again.
    trial: bool,
}

/// How the outcome of a call changed the state of the plugin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The state is the same as before the call.
    Nothing,
    /// The plugin is in quarantine. The next trial is due after this pause.
    Quarantined(Duration),
    /// The quarantine has ended.
    Released,
}

/// The health of one generation. Times are milliseconds on the clock of [`now_ms`].
#[derive(Debug)]
pub(super) struct Health {
    probation_calls_left: AtomicU32,
    /// The end of the time in which all calls are offloaded, or 0 if they are not offloaded.
    offloaded_until_ms: AtomicU64,
    /// The end of the time in which calls for sessions and timers are offloaded, or 0.
    hooks_offloaded_until_ms: AtomicU64,
    /// The end of the time in which no call is made for several packets, or 0.
    batches_paused_until_ms: AtomicU64,
    /// The time of the next trial, or 0 if the plugin is not in quarantine.
    trial_at_ms: AtomicU64,
    /// Whether a call has failed since the last answer. If none has, an answer needs no lock.
    has_failed: AtomicBool,
    record: Mutex<Record>,
}

/// The part of the health that lies behind a lock. Quick calls that do not fail rarely need the lock.
#[derive(Debug, Default)]
struct Record {
    slow_window_ends_ms: u64,
    slow: Senders,
    failed: Senders,
    failed_trials: u32,
}

/// A set of different senders. Every [`Sender::Bus`] is a new sender.
#[derive(Debug, Default)]
struct Senders(Vec<Sender>);

impl Senders {
    /// Adds a sender, unless the set already has `max` senders. Returns the number of senders in the set.
    fn add(&mut self, sender: Sender, max: usize) -> usize {
        let is_new = sender == Sender::Bus || !self.0.contains(&sender);
        if is_new && self.0.len() < max {
            self.0.push(sender);
        }
        self.0.len()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probation_calls_left: AtomicU32::new(PROBATION_CALLS),
            offloaded_until_ms: AtomicU64::default(),
            hooks_offloaded_until_ms: AtomicU64::default(),
            batches_paused_until_ms: AtomicU64::default(),
            trial_at_ms: AtomicU64::default(),
            has_failed: AtomicBool::default(),
            record: Mutex::default(),
        }
    }
}

impl Sender {
    /// Returns the sender for an address. A host with IPv6 usually has a network of 64 bits, so all its addresses are one
    /// sender.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Address(address),
            IpAddr::V6(address) => Self::Address(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        }
    }
}

impl Health {
    /// Returns whether calls for sessions and timers are offloaded, because one of them was recently slow or failed.
    pub(super) fn are_hooks_offloaded(&self) -> bool {
        is_before(&self.hooks_offloaded_until_ms)
    }

    /// Records a call for a session or a timer that was slow or failed. One sender is enough here, because such calls
    /// have no session of their own that could be slowed down.
    pub(super) fn offload_hooks(&self) {
        self.hooks_offloaded_until_ms.store(now_ms() + OFFLOAD_MS, Ordering::Relaxed);
    }

    /// Returns whether packets that arrive together are decided on singly, because a call for several packets was
    /// recently slow or failed.
    pub(super) fn are_batches_paused(&self) -> bool {
        is_before(&self.batches_paused_until_ms)
    }

    /// Records a call for several packets that was slow or failed. One is enough, because it counts against no session:
    /// it is not known which packet is the cause, and whether that packet's turn ever comes.
    pub(super) fn pause_batches(&self) {
        self.batches_paused_until_ms.store(now_ms() + BATCHES_PAUSE_MS, Ordering::Relaxed);
    }

    /// Returns whether the generation is on probation: it has made fewer than [`PROBATION_CALLS`] quick calls.
    pub(super) fn is_on_probation(&self) -> bool {
        self.probation_calls_left.load(Ordering::Relaxed) > 0
    }

    /// Returns whether all calls of the plugin are offloaded because of slow calls.
    pub(super) fn is_offloaded(&self) -> bool {
        is_before(&self.offloaded_until_ms)
    }

    /// Returns whether no call is admitted now, not even a trial.
    pub(super) fn admits_nothing(&self) -> bool {
        let at = self.trial_at_ms.load(Ordering::Relaxed);
        at != 0 && now_ms() < at
    }

    /// Admits a call. During a quarantine, admits one call after each pause as a trial, and returns `None` for other
    /// calls.
    pub(super) fn admit(&self) -> Option<CallPermit> {
        let at = self.trial_at_ms.load(Ordering::Relaxed);
        if at == 0 { Some(CallPermit { trial: false }) } else { self.admit_trial(at) }
    }

    #[cold]
    fn admit_trial(&self, at: u64) -> Option<CallPermit> {
        let now = now_ms();
        if now < at {
            return None;
        }
        let next = now + self.record().pause_ms();
        let won = self.trial_at_ms.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        won.then_some(CallPermit { trial: true })
    }

    /// Returns whether the plugin is in quarantine.
    pub(super) fn is_quarantined(&self) -> bool {
        self.trial_at_ms.load(Ordering::Relaxed) != 0
    }

    /// Records a call that returned an answer and was not slow.
    pub(super) fn record_quick(&self) {
        if self.is_on_probation() {
            // An error means that another thread has already counted the last call of the probation.
            let _ = self
                .probation_calls_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        }
    }

    /// Records a slow call.
    pub(super) fn record_slow(&self, sender: Sender) {
        let now = now_ms();
        let mut record = self.record();
        if now >= record.slow_window_ends_ms {
            // The offload thread makes one call after another, so fewer senders are seen in the same time.
            let is_offloaded = now < self.offloaded_until_ms.load(Ordering::Relaxed);
            record.slow_window_ends_ms = now + if is_offloaded { OFFLOAD_MS } else { SLOW_WINDOW_MS };
            record.slow = Senders::default();
        }
        if record.slow.add(sender, MAX_SLOW_SENDERS) >= MAX_SLOW_SENDERS {
            self.offloaded_until_ms.store(now + OFFLOAD_MS, Ordering::Relaxed);
        }
    }

    /// Records a call that returned an answer.
    pub(super) fn record_answer(&self) -> Change {
        if self.has_failed.load(Ordering::Relaxed) { self.record_recovery() } else { Change::Nothing }
    }

    #[cold]
    fn record_recovery(&self) -> Change {
        let mut record = self.record();
        self.has_failed.store(false, Ordering::Relaxed);
        record.failed = Senders::default();
        record.failed_trials = 0;
        if self.trial_at_ms.swap(0, Ordering::Relaxed) == 0 { Change::Nothing } else { Change::Released }
    }

    /// Records a call that failed.
    pub(super) fn record_failure(&self, admission: &CallPermit, sender: Sender) -> Change {
        let mut record = self.record();
        self.has_failed.store(true, Ordering::Relaxed);
        if self.is_quarantined() {
            // A call that began before the quarantine must not prolong the pause.
            if !admission.trial {
                return Change::Nothing;
            }
            record.failed_trials += 1;
        } else if record.failed.add(sender, MAX_FAILED_SENDERS) < MAX_FAILED_SENDERS {
            return Change::Nothing;
        }
        let pause = record.pause_ms();
        self.trial_at_ms.store(now_ms() + pause, Ordering::Relaxed);
        Change::Quarantined(Duration::from_millis(pause))
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // No code panics in the middle of a change under this lock, so a poisoned record is still consistent.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn pause_ms(&self) -> u64 {
        (MIN_PAUSE_MS << self.failed_trials.min(16)).min(MAX_PAUSE_MS)
    }
}

/// Returns whether it is before this time, and replaces a time that has passed by 0, for which no clock is read.
fn is_before(until_ms: &AtomicU64) -> bool {
    let until = until_ms.load(Ordering::Relaxed);
    if until == 0 {
        return false;
    }
    let is_before = now_ms() < until;
    if !is_before {
        // Another thread may have set a later time.
        let _ = until_ms.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
    is_before
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: CallPermit = CallPermit { trial: false };

    fn session(number: u128) -> Sender {
        Sender::Session(Uuid::from_u128(number))
    }

    fn quarantined() -> Health {
        let health = Health::default();
        let changes: Vec<_> = (0..5).map(|i| health.record_failure(&CALL, session(i))).collect();
        assert_eq!(changes[4], Change::Quarantined(Duration::from_millis(MIN_PAUSE_MS)));
        assert!(changes[..4].iter().all(|change| *change == Change::Nothing));
        health
    }

    fn trial(health: &Health) -> CallPermit {
        health.trial_at_ms.store(1, Ordering::Relaxed);
        let admission = health.admit().expect("a trial");
        assert!(admission.trial && health.admit().is_none(), "one trial");
        admission
    }

    #[test]
    fn failures_for_different_senders_quarantine_and_an_answer_releases() {
        let health = quarantined();
        assert!(health.is_quarantined() && health.admit().is_none());
        let admission = trial(&health);
        let longer = Duration::from_millis(2 * MIN_PAUSE_MS);
        assert_eq!(health.record_failure(&admission, session(1)), Change::Quarantined(longer));
        trial(&health);
        assert_eq!(health.record_answer(), Change::Released);
        assert!(health.admit().is_some_and(|admission| !admission.trial) && !health.is_quarantined());
    }

    #[test]
    fn failures_for_one_session_do_not_quarantine() {
        let health = Health::default();
        for _ in 0..1000 {
            assert_eq!(health.record_failure(&CALL, session(7)), Change::Nothing);
        }
        assert!(health.admit().is_some());
    }

    #[test]
    fn failures_with_answers_in_between_do_not_quarantine() {
        let health = Health::default();
        for i in 0..100 {
            assert_eq!(health.record_failure(&CALL, session(i)), Change::Nothing);
            assert_eq!(health.record_answer(), Change::Nothing);
        }
    }

    #[test]
    fn each_bus_message_counts_as_a_different_sender() {
        let health = Health::default();
        let last = (0..5).map(|_| health.record_failure(&CALL, Sender::Bus)).last();
        assert_eq!(last, Some(Change::Quarantined(Duration::from_millis(MIN_PAUSE_MS))));
    }

    #[test]
    fn calls_that_were_under_way_do_not_prolong_the_first_pause() {
        let health = quarantined();
        for i in 0..100 {
            assert_eq!(health.record_failure(&CALL, session(i)), Change::Nothing);
        }
        let left = health.trial_at_ms.load(Ordering::Relaxed).saturating_sub(now_ms());
        assert!(left <= MIN_PAUSE_MS, "{left} ms");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let health = quarantined();
        let last = (0..100).map(|_| health.record_failure(&trial(&health), Sender::Bus)).last();
        assert_eq!(last, Some(Change::Quarantined(Duration::from_millis(MAX_PAUSE_MS))));
    }

    #[test]
    fn a_new_generation_has_to_be_quick_before_it_runs_on_threads_that_serve_players() {
        let health = Health::default();
        for _ in 0..PROBATION_CALLS {
            assert!(health.is_on_probation());
            health.record_quick();
        }
        assert!(!health.is_on_probation());
        health.record_quick();
        assert!(!health.is_on_probation());
    }

    #[test]
    fn slow_calls_for_different_senders_offload_the_plugin_for_a_while() {
        let health = Health::default();
        (0..100).for_each(|_| health.record_slow(session(1)));
        assert!(!health.is_offloaded(), "the slow calls of one session must not offload the plugin");
        health.record_slow(session(2));
        health.record_slow(Sender::Bus);
        assert!(health.is_offloaded());
        // The next slow call comes after the window. It begins one in which the offload thread can make three calls.
        health.record().slow_window_ends_ms = 0;
        health.record_slow(session(4));
        assert!(health.record().slow_window_ends_ms > now_ms() + SLOW_WINDOW_MS);
        health.offloaded_until_ms.store(1, Ordering::Relaxed);
        assert!(!health.is_offloaded());
    }
}
