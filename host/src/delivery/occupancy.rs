//! How many sessions there are, in all and from each network.
//!
//! They are counted even if no limit is configured, so that a limit that is set later counts the sessions that are there
//! already. That costs a handshake one look-up, and a packet nothing. The table has an entry only for networks that have
//! sessions, so the sessions bound it.

use super::{
    limits::{Limits, OverLimit},
    network::{Network, networks},
};
use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The numbers of live sessions.
#[derive(Debug, Default)]
pub(super) struct Occupancy {
    sessions: AtomicUsize,
    networks: DashMap<Network, u32, RandomState>,
}

/// Room for one session that is about to begin. Dropping it gives the room up.
pub struct Seat {
    /// The numbers in which the seat counts, and the client's address, until a session has the seat.
    counted: Option<(Arc<Occupancy>, IpAddr)>,
}

impl Seat {
    /// Leaves the seat to a session, whose end has to give it up.
    pub(super) fn pass_on(mut self) {
        self.counted = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some((occupancy, address)) = self.counted.take() {
            occupancy.leave(address);
        }
    }
}

impl Occupancy {
    /// Counts a session that is about to begin.
    ///
    /// # Errors
    /// Returns the limit that would be exceeded. Then the session is not counted.
    pub(super) fn reserve(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Result<Seat, OverLimit> {
        self.enter(address, limits)?;
        Ok(Seat { counted: Some((Arc::clone(self), address)) })
    }

    /// Counts a session that begins.
    ///
    /// # Errors
    /// Returns the limit that would be exceeded. Then the session is not counted.
    fn enter(&self, address: IpAddr, limits: &Limits) -> Result<(), OverLimit> {
        let before = self.sessions.fetch_add(1, Ordering::Relaxed);
        if limits.sessions.is_some_and(|max| before >= max as usize) {
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            return Err(OverLimit::Sessions);
        }
        for (i, network) in networks(address).enumerate() {
            if !self.enter_network(network, limits.sessions_per_ip) {
                networks(address).take(i).for_each(|network| self.leave_network(network));
                self.sessions.fetch_sub(1, Ordering::Relaxed);
                return Err(OverLimit::SessionsPerIp);
            }
        }
        Ok(())
    }

    /// Counts a session that ends.
    pub(super) fn leave(&self, address: IpAddr) {
        networks(address).for_each(|network| self.leave_network(network));
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a session whose client has another address now.
    pub(super) fn relocate(&self, from: IpAddr, to: IpAddr) {
        if from != to {
            // The new networks have no limit for it.
            networks(to).for_each(|network| _ = self.enter_network(network, None));
            networks(from).for_each(|network| self.leave_network(network));
        }
    }

    fn enter_network(&self, network: Network, limit: Option<u32>) -> bool {
        let mut sessions = self.networks.entry(network).or_insert(0);
        let has_room = limit.is_none_or(|limit| *sessions < network.limit(limit));
        // If there is no room, the network has sessions, because no limit is 0. So its entry stays for a reason.
        *sessions += u32::from(has_room);
        has_room
    }

    fn leave_network(&self, network: Network) {
        if let Entry::Occupied(mut entry) = self.networks.entry(network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn sessions_are_limited_in_all_and_by_address() {
        let occupancy = Occupancy::default();
        let limits = Limits { sessions: Some(3), sessions_per_ip: Some(2), ..Limits::default() };
        let [a, b, c] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(address);
        assert_eq!([a, a].map(|a| occupancy.enter(a, &limits)), [Ok(()), Ok(())]);
        assert_eq!(occupancy.enter(a, &limits), Err(OverLimit::SessionsPerIp));
        assert_eq!(occupancy.enter(b, &limits), Ok(()));
        assert_eq!(occupancy.enter(c, &limits), Err(OverLimit::Sessions));
        occupancy.leave(a);
        assert_eq!([c, c].map(|c| occupancy.enter(c, &limits)), [Ok(()), Err(OverLimit::Sessions)]);
        for address in [a, b, c] {
            occupancy.leave(address);
        }
        assert_eq!((occupancy.sessions.into_inner(), occupancy.networks.len()), (0, 0));
    }

    #[test]
    fn a_session_whose_client_has_moved_counts_for_its_new_address_whatever_the_limit() {
        let occupancy = Occupancy::default();
        let limits = Limits { sessions_per_ip: Some(1), ..Limits::default() };
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(address);
        assert_eq!([a, b].map(|address| occupancy.enter(address, &limits)), [Ok(()); 2]);
        occupancy.relocate(a, b);
        occupancy.relocate(b, b);
        assert_eq!(occupancy.enter(b, &limits), Err(OverLimit::SessionsPerIp));
        assert_eq!(occupancy.enter(a, &limits), Ok(()));
        [a, b, b].into_iter().for_each(|address| occupancy.leave(address));
        assert_eq!((occupancy.sessions.into_inner(), occupancy.networks.len()), (0, 0));
    }

    #[test]
    fn sessions_that_began_without_a_limit_count_against_a_later_one() {
        let occupancy = Occupancy::default();
        let a = address("192.0.2.1");
        assert_eq!([a; 3].map(|a| occupancy.enter(a, &Limits::default())), [Ok(()); 3]);
        let limits = Limits { sessions_per_ip: Some(3), ..Limits::default() };
        assert_eq!(occupancy.enter(a, &limits), Err(OverLimit::SessionsPerIp));
        occupancy.leave(a);
        assert_eq!(occupancy.enter(a, &limits), Ok(()));
    }

    #[test]
    fn room_that_is_reserved_is_taken_until_it_is_given_up() {
        let occupancy = Arc::<Occupancy>::default();
        let limits = Limits { sessions: Some(1), ..Limits::default() };
        let a = address("192.0.2.1");
        let seat = occupancy.reserve(a, &limits).ok().unwrap();
        assert_eq!(occupancy.reserve(a, &limits).err(), Some(OverLimit::Sessions));
        drop(seat);
        occupancy.reserve(a, &limits).ok().unwrap().pass_on();
        assert_eq!(occupancy.enter(a, &limits), Err(OverLimit::Sessions));
        occupancy.leave(a);
        assert_eq!(occupancy.networks.len(), 0);
    }

    #[test]
    fn a_refused_session_of_ipv6_is_counted_for_none_of_its_networks() {
        let occupancy = Occupancy::default();
        let limits = Limits { sessions_per_ip: Some(1), ..Limits::default() };
        let of = |network: u16, host: u16| address(&format!("2001:db8:0:{network:x}::{host:x}"));
        for network in 0..16 {
            assert_eq!(occupancy.enter(of(network, 1), &limits), Ok(()));
            assert_eq!(occupancy.enter(of(network, 2), &limits), Err(OverLimit::SessionsPerIp));
        }
        // The /48 has 16 sessions, so another /64 gets none.
        assert_eq!(occupancy.enter(of(16, 1), &limits), Err(OverLimit::SessionsPerIp));
        assert_eq!(occupancy.enter(address("2001:db8:1::1"), &limits), Ok(()));
        occupancy.leave(of(3, 1));
        assert_eq!(occupancy.enter(of(16, 1), &limits), Ok(()));
        assert_eq!(occupancy.networks.len(), 19);
    }
}
