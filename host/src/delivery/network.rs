//! The networks that an address belongs to. Limits for each address count these, because one client has many IPv6
//! addresses.

use std::net::{IpAddr, Ipv4Addr};

/// How many times the limit of an address holds for a whole /48 of IPv6. A provider may give a /48 to a single
/// customer, who then has 65 536 networks of /64. Without this limit, such a customer alone could take all sessions.
const PREFIX_48_SHARE: u32 = 16;

/// A network whose sessions and handshakes are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// One address of IPv4.
    V4(Ipv4Addr),
    /// A /64 of IPv6, by the first 64 bits.
    Prefix64(u64),
    /// A /48 of IPv6, by the first 48 bits.
    Prefix48(u64),
}

impl Network {
    /// Returns the limit of this network, if `limit` is that of an address.
    #[must_use]
    pub fn limit(self, limit: u32) -> u32 {
        if matches!(self, Self::Prefix48(_)) { limit.saturating_mul(PREFIX_48_SHARE) } else { limit }
    }
}

/// Returns the networks that an address counts for. An IPv4 address that is written as IPv6 counts as IPv4.
pub fn networks(address: IpAddr) -> impl Iterator<Item = Network> + Clone {
    let networks = match address.to_canonical() {
        IpAddr::V4(address) => [Some(Network::V4(address)), None],
        IpAddr::V6(address) => {
            let first64 = (address.to_bits() >> 64) as u64;
            [Some(Network::Prefix64(first64)), Some(Network::Prefix48(first64 >> 16))]
        }
    };
    networks.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expected: &[Network]) {
        assert_eq!(networks(address.parse().unwrap()).collect::<Vec<_>>(), expected, "{address}");
    }

    #[test]
    fn ipv4_counts_by_address_and_ipv6_by_its_first_64_and_48_bits() {
        let v4 = Network::V4(Ipv4Addr::new(192, 0, 2, 1));
        check("192.0.2.1", &[v4]);
        check("::ffff:192.0.2.1", &[v4]);
        let (prefix64, prefix48) = (Network::Prefix64(0x2001_0db8_0001_0002), Network::Prefix48(0x2001_0db8_0001));
        check("2001:db8:1:2::", &[prefix64, prefix48]);
        check("2001:db8:1:2:ffff:ffff:ffff:ffff", &[prefix64, prefix48]);
        check("2001:db8:1:3::", &[Network::Prefix64(0x2001_0db8_0001_0003), prefix48]);
        check("::1", &[Network::Prefix64(0), Network::Prefix48(0)]);
    }

    #[test]
    fn a_48_has_a_limit_of_its_own() {
        assert_eq!(Network::Prefix64(1).limit(50), 50);
        assert_eq!(Network::Prefix48(1).limit(50), 800);
        assert_eq!(Network::Prefix48(1).limit(u32::MAX), u32::MAX);
    }
}
