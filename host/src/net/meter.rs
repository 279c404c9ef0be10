//! The limits on the packets of one session: what it may send in a second, and when it has sent too much for too long.

use crate::{
    delivery::limits::Rates,
    sync::{moment::Moment, token_bucket::TokenBucket},
};

/// A session that sends this many times its limit is flooding.
const FLOOD_FACTOR: u64 = 10;

/// The number of seconds in a row for which a session may flood. After a pause of its network, a good client's packets
/// arrive in a burst, but such a burst is over sooner.
const MAX_FLOOD_S: u32 = 5;

const SECOND_NS: u64 = 1_000_000_000;

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is served.
    Serve,
    /// It is refused, because the session is over its limit.
    Refuse,
    /// It is refused, and the session ends, because it has flooded for too long.
    End,
}

/// The meter of one session. Sessions without limits have none.
#[derive(Debug)]
pub struct Meter {
    rates: Rates,
    now_ns: u64,
    packets: TokenBucket,
    bytes: TokenBucket,
    /// The time at which the current second began.
    began_ns: u64,
    packets_since: u64,
    bytes_since: u64,
    /// The number of seconds in a row in which the session has flooded.
    flood_s: u32,
}

impl Meter {
    /// Returns the meter of a session that has sent nothing yet.
    #[must_use]
    pub fn new(rates: Rates) -> Self {
        Self::at(rates, Moment::now().monotonic_ns())
    }

    fn at(rates: Rates, now_ns: u64) -> Self {
        Self {
            rates,
            now_ns,
            packets: TokenBucket::default(),
            bytes: TokenBucket::default(),
            began_ns: now_ns,
            packets_since: 0,
            bytes_since: 0,
            flood_s: 0,
        }
    }

    /// Sets the time and the limits for the packets that have arrived together. So the clock is read once for them.
    pub fn begin(&mut self, rates: Rates) {
        self.begin_at(rates, Moment::now().monotonic_ns());
    }

    fn begin_at(&mut self, rates: Rates, now_ns: u64) {
        (self.rates, self.now_ns) = (rates, now_ns);
        let elapsed_ns = now_ns.saturating_sub(self.began_ns);
        if elapsed_ns < SECOND_NS {
            return;
        }
        let floods = |since: u64, per_s: u32| {
            per_s != 0
                && u128::from(since) * 1_000_000_000
                    >= u128::from(FLOOD_FACTOR * u64::from(per_s)) * u128::from(elapsed_ns)
        };
        let is_flood = floods(self.packets_since, rates.packets_per_s) || floods(self.bytes_since, rates.bytes_per_s);
        self.flood_s = if is_flood { self.flood_s + 1 } else { 0 };
        (self.began_ns, self.packets_since, self.bytes_since) = (now_ns, 0, 0);
    }

    /// Returns whether this many packets, with these bytes in all, would be served now.
    #[must_use]
    pub fn has_room(&self, packets: u64, bytes: usize) -> bool {
        let Rates { packets_per_s, bytes_per_s } = self.rates;
        let has_tokens = |mut copy: TokenBucket, per_s, tokens| per_s == 0 || copy.take(self.now_ns, per_s, tokens);
        self.flood_s < MAX_FLOOD_S
            && has_tokens(self.packets, packets_per_s, packets)
            && has_tokens(self.bytes, bytes_per_s, bytes as u64)
    }

    /// Counts a packet of `bytes` bytes, header included, and decides what happens to it.
    pub fn packet(&mut self, bytes: usize) -> Verdict {
        let Rates { packets_per_s, bytes_per_s } = self.rates;
        let bytes = bytes as u64;
        self.packets_since += 1;
        self.bytes_since += bytes;
        let has_tokens = (packets_per_s == 0 || self.packets.take(self.now_ns, packets_per_s, 1))
            && (bytes_per_s == 0 || self.bytes.take(self.now_ns, bytes_per_s, bytes));
        if self.flood_s >= MAX_FLOOD_S {
            Verdict::End
        } else if has_tokens {
            Verdict::Serve
        } else {
            Verdict::Refuse
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = SECOND_NS;
    const BYTES: usize = 100;

    fn rates(packets_per_s: u32, bytes_per_s: u32) -> Rates {
        Rates { packets_per_s, bytes_per_s }
    }

    /// Counts packets at one moment. Returns how many are served and refused, or `None` if the session ends.
    fn send(meter: &mut Meter, rates: Rates, now_ns: u64, packets: usize) -> Option<(usize, usize)> {
        meter.begin_at(rates, now_ns);
        let verdicts: Vec<_> = (0..packets).map(|_| meter.packet(BYTES)).collect();
        let count = |verdict| verdicts.iter().filter(|other| **other == verdict).count();
        (count(Verdict::End) == 0).then(|| (count(Verdict::Serve), count(Verdict::Refuse)))
    }

    #[test]
    fn packets_and_bytes_are_limited_with_a_burst_of_twice_the_rate() {
        for (rates, served) in [(rates(10, 0), 10), (rates(0, 1000), 10), (rates(50, 1000), 10), (rates(10, 9000), 10)]
        {
            let mut meter = Meter::at(rates, S);
            assert_eq!(send(&mut meter, rates, S, 50), Some((2 * served, 50 - 2 * served)), "{rates:?}");
            assert_eq!(send(&mut meter, rates, 2 * S, 50), Some((served, 50 - served)), "{rates:?}");
            assert_eq!(send(&mut meter, rates, 10 * S, 20), Some((20, 0)), "{rates:?}");
        }
    }

    #[test]
    fn there_is_room_for_packets_exactly_if_all_of_them_are_served() {
        for (rates, served) in [(rates(10, 0), 20), (rates(0, 1000), 20), (rates(10, 9000), 20), (rates(0, 0), 99)] {
            let mut meter = Meter::at(rates, S);
            assert!(meter.has_room(served, served as usize * BYTES), "{rates:?}");
            assert_eq!(meter.has_room(served + 1, (served + 1) as usize * BYTES), rates == Rates::default());
            assert_eq!(send(&mut meter, rates, S, served as usize), Some((served as usize, 0)), "{rates:?}");
            assert_eq!(meter.has_room(1, BYTES), rates == Rates::default());
        }
        let flooding = Meter { flood_s: MAX_FLOOD_S, ..Meter::at(rates(10, 0), S) };
        assert!(!flooding.has_room(1, BYTES));
    }

    #[test]
    fn a_new_limit_holds_from_the_next_packets_on() {
        let mut meter = Meter::at(rates(10, 0), S);
        assert_eq!(send(&mut meter, rates(10, 0), S, 30), Some((20, 10)));
        assert_eq!(send(&mut meter, rates(20, 0), 2 * S, 30), Some((20, 10)));
        assert_eq!(send(&mut meter, rates(0, 100), 2 * S, 30), Some((2, 28)));
    }

    /// Sends a number of packets every tenth of a second, and returns after how many seconds the session ends.
    fn ends_after(packets: usize, seconds: u64) -> Option<u64> {
        let rates = rates(10, 0);
        let mut meter = Meter::at(rates, S);
        (0..10 * seconds)
            .find(|tenth| send(&mut meter, rates, S + tenth * S / 10, packets).is_none())
            .map(|tenth| tenth / 10)
    }

    #[test]
    fn a_session_that_goes_on_at_ten_times_its_limit_ends() {
        assert_eq!(ends_after(1, 100), None);
        assert_eq!(ends_after(9, 100), None);
        assert_eq!(ends_after(10, 100), Some(u64::from(MAX_FLOOD_S)));
        assert_eq!(ends_after(1000, 100), Some(u64::from(MAX_FLOOD_S)));
    }

    #[test]
    fn bytes_are_a_flood_as_well() {
        let rates = rates(1000, 1000);
        let mut meter = Meter::at(rates, S);
        let ended = (0..100).find(|second| send(&mut meter, rates, S + second * S, 100).is_none());
        assert_eq!(ended, Some(u64::from(MAX_FLOOD_S)));
    }

    #[test]
    fn bursts_after_pauses_of_the_network_are_no_flood() {
        let rates = rates(10, 0);
        let mut meter = Meter::at(rates, S);
        let mut now_ns = S;
        for _ in 0..20 {
            // All packets of a minute arrive within four seconds.
            for _ in 0..4 {
                assert!(send(&mut meter, rates, now_ns, 150).is_some());
                now_ns += S;
            }
            now_ns += 56 * S;
        }
    }
}
