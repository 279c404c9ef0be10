//! The limit on the handshakes from one address, with a token bucket for each network.
//!
//! A full bucket is like no bucket, so the table forgets the networks whose buckets are full. A bucket is full again two
//! seconds after the last handshake at the latest. So the table holds only the networks of the last two seconds.

use crate::{
    delivery::network::{Network, networks},
    sync::{moment::Moment, token_bucket::TokenBucket},
};
use foldhash::fast::RandomState;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

/// The largest number of networks in the table. If there are more, handshakes from further networks are not limited for
/// a moment. Refusing them was rejected: a client with many networks would keep everybody else out.
const MAX_NETWORKS: usize = 1 << 16;

/// The number of networks from which on full buckets are looked for.
const MIN_SWEPT: usize = 1024;

/// The pause between two searches for full buckets in a table without room.
const SWEEP_PAUSE_NS: u64 = 100_000_000;

/// The buckets of all networks.
#[derive(Debug, Default)]
pub struct HandshakeRate(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    buckets: HashMap<Network, TokenBucket, RandomState>,
    /// The number of networks at which full buckets are removed.
    sweep_at: usize,
    swept_at_ns: u64,
}

impl HandshakeRate {
    /// Returns whether the address may begin a handshake now. If it may, counts the handshake.
    pub fn permit(&self, address: IpAddr, per_s: u32) -> bool {
        // No code panics in the middle of a change under this lock, so a poisoned table is consistent.
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.permit(Moment::now().monotonic_ns(), address, per_s)
    }
}

impl Table {
    fn permit(&mut self, now_ns: u64, address: IpAddr, per_s: u32) -> bool {
        self.sweep(now_ns);
        networks(address).all(|network| {
            let has_room = self.buckets.len() < MAX_NETWORKS;
            match self.buckets.get_mut(&network) {
                Some(bucket) => bucket.take(now_ns, network.limit(per_s), 1),
                None => {
                    let mut bucket = TokenBucket::default();
                    let is_permitted = bucket.take(now_ns, network.limit(per_s), 1);
                    if has_room {
                        self.buckets.insert(network, bucket);
                    }
                    is_permitted
                }
            }
        })
    }

    /// Forgets the networks with full buckets, if there are twice as many networks as after the last time.
    fn sweep(&mut self, now_ns: u64) {
        if self.buckets.len() < self.sweep_at.clamp(MIN_SWEPT, MAX_NETWORKS)
            || now_ns.saturating_sub(self.swept_at_ns) < SWEEP_PAUSE_NS
        {
            return;
        }
        self.buckets.retain(|_, bucket| !bucket.is_full(now_ns));
        self.buckets.shrink_to(2 * self.buckets.len());
        (self.sweep_at, self.swept_at_ns) = (2 * self.buckets.len(), now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const S: u64 = 1_000_000_000;

    fn permitted(table: &mut Table, now_ns: u64, address: impl Into<IpAddr>, tries: usize) -> usize {
        let address = address.into();
        (0..tries).filter(|_| table.permit(now_ns, address, 20)).count()
    }

    #[test]
    fn each_address_has_a_burst_and_a_rate_of_its_own() {
        let mut table = Table::default();
        let [a, b] = [1, 2].map(|host| Ipv4Addr::new(192, 0, 2, host));
        assert_eq!(permitted(&mut table, S, a, 100), 40);
        assert_eq!(permitted(&mut table, S, b, 100), 40);
        assert_eq!(permitted(&mut table, 2 * S, a, 100), 20);
        assert_eq!(permitted(&mut table, 9 * S, a.to_ipv6_mapped(), 100), 40);
        assert_eq!(permitted(&mut table, 9 * S, a, 100), 0);
    }

    #[test]
    fn a_64_counts_as_one_address_and_a_48_as_sixteen() {
        let mut table = Table::default();
        let of = |network: u16, host: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host);
        let in_64: usize = (0..100).map(|host| permitted(&mut table, S, of(1, host), 1)).sum();
        assert_eq!(in_64, 40);
        let in_48: usize = (2..1000).map(|network| permitted(&mut table, S, of(network, 1), 1)).sum();
        // The first 40 handshakes of the /48 were permitted above.
        assert_eq!(in_48, 16 * 40 - 40);
    }

    #[test]
    fn idle_networks_are_forgotten() {
        let mut table = Table::default();
        for round in 1..100_u32 {
            for host in 0..1000 {
                let address = Ipv4Addr::from_bits(round << 16 | host);
                assert_eq!(permitted(&mut table, u64::from(round) * S, address, 1), 1);
            }
            assert!(table.buckets.len() <= 2 * MIN_SWEPT, "{}", table.buckets.len());
        }
    }

    #[test]
    fn the_table_is_bounded_and_other_addresses_still_get_in() {
        let mut table = Table::default();
        let early = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(permitted(&mut table, S, early, 100), 40);
        for host in 0..2 * MAX_NETWORKS as u32 {
            assert_eq!(permitted(&mut table, S, Ipv4Addr::from_bits(host), 1), 1);
        }
        assert_eq!(table.buckets.len(), MAX_NETWORKS);
        // An address in the table is still limited.
        assert_eq!(permitted(&mut table, S, early, 1), 0);
        assert_eq!(permitted(&mut table, 4 * S, early, 1), 1);
        assert_eq!(table.buckets.len(), 1);
    }
}
