//! Finds the address of a client whose request came through HTTP proxies, in the header `X-Forwarded-For`.
//!
//! Each proxy appends the address that it was connected from. So only what trusted proxies have appended is known to be
//! true, and it is at the end. The header `Forwarded` (RFC 7239) is not read, because few proxies write it, and a proxy
//! that writes one of the two headers lets the client's own copy of the other one pass.

use crate::{
    config::Proxies,
    net::head::{self, Head},
};
use std::{
    net::{IpAddr, SocketAddr},
    str,
};

/// The maximum number of addresses that are looked at.
const MAX_ADDRESSES: usize = 64;

/// Returns the address of the client: the last one in the header that is not a trusted proxy. The search ends at the
/// first entry that is malformed, and returns the address after it. The port is 0 if the header does not name it.
#[must_use]
pub fn client(head: &Head<'_, '_>, peer: SocketAddr, proxies: &Proxies) -> SocketAddr {
    let mut client = peer;
    let entries = head::values(head, "x-forwarded-for").rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
    for address in entries.take(MAX_ADDRESSES).map_while(address) {
        if !proxies.trust(client.ip()) {
            break;
        }
        client = address;
    }
    client
}

/// Parses `ADDRESS`, `[ADDRESS]`, `IPV4:PORT` or `[IPV6]:PORT`.
fn address(entry: &[u8]) -> Option<SocketAddr> {
    let entry = str::from_utf8(entry).ok()?.trim();
    let without_port = || {
        let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
        bare.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 0))
    };
    let address = entry.parse::<SocketAddr>().ok().or_else(without_port)?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    const PEER: &str = "10.0.0.1:4711";

    fn found(lines: &[u8], peer: &str) -> String {
        let config = Config::parse("plugins: { directory: . }\nserver: { trusted_proxies: [10.0.0.0/8, 'fd00::/8'] }");
        let proxies = config.unwrap().server.proxies;
        head::with(lines, |head| client(head, peer.parse().unwrap(), &proxies)).to_string()
    }

    #[track_caller]
    fn check(value: &str, client: &str) {
        assert_eq!(found(format!("X-Forwarded-For: {value}\r\n").as_bytes(), PEER), client, "{value:?}");
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_trusted() {
        assert_eq!(found(b"", PEER), PEER);
        check("203.0.113.7", "203.0.113.7:0");
        check("1.2.3.4, 203.0.113.7", "203.0.113.7:0");
        check("1.2.3.4,203.0.113.7 ,10.0.0.2, fd00::2", "203.0.113.7:0");
        check("10.0.0.3, 10.0.0.2", "10.0.0.3:0");
        let lines =
            b"X-Forwarded-For: 1.2.3.4\r\nCookie: a\r\nx-forwarded-for:203.0.113.7\r\nX-FORWARDED-FOR: 10.1.1.1\r\n";
        assert_eq!(found(lines, PEER), "203.0.113.7:0");
    }

    #[test]
    fn the_header_of_a_stranger_is_ignored() {
        let lines = b"X-Forwarded-For: 203.0.113.7\r\n";
        assert_eq!(found(lines, "11.0.0.1:80"), "11.0.0.1:80");
        assert_eq!(found(lines, "[fd00::1]:80"), "203.0.113.7:0");
    }

    #[test]
    fn entries_may_have_ports_and_brackets() {
        check("203.0.113.7:5", "203.0.113.7:5");
        check("[2001:DB8::1]:5", "[2001:db8::1]:5");
        check("[2001:db8::1]", "[2001:db8::1]:0");
        check("2001:db8::1", "[2001:db8::1]:0");
        check("::ffff:203.0.113.7", "203.0.113.7:0");
        check("203.0.113.7, [::ffff:10.0.0.2]:6", "203.0.113.7:0");
    }

    #[test]
    fn a_malformed_entry_ends_the_search_at_the_address_after_it() {
        for malformed in
            ["", "unknown", "1.2.3", "1.2.3.4:", "1.2.3.4:65536", "01.2.3.4", "_x", "[::1", "a b", "fe80::1%eth0"]
        {
            check(malformed, PEER);
            check(&format!("203.0.113.7, {malformed}"), PEER);
            check(&format!("203.0.113.7, {malformed}, 10.0.0.2"), "10.0.0.2:0");
            check(&format!("{malformed}, 203.0.113.7"), "203.0.113.7:0");
        }
        assert_eq!(found(b"X-Forwarded-For: 203.0.113.7, \xff\r\n", PEER), PEER);
    }

    #[test]
    fn at_most_64_addresses_are_looked_at() {
        let with_proxies = |count: usize| format!("203.0.113.7{}", ", 10.9.9.9".repeat(count));
        check(&with_proxies(63), "203.0.113.7:0");
        check(&with_proxies(64), "10.9.9.9:0");
    }

    proptest! {
        #[test]
        fn no_value_leads_to_an_address_that_is_not_in_it(value in "[0-9a-f:., \\[\\]]{0,200}") {
            let client = found(format!("X-Forwarded-For: {value}\r\n").as_bytes(), PEER);
            let address = client.parse::<SocketAddr>().unwrap().ip().to_canonical();
            let is_written = value.split(',').any(|entry| self::address(entry.as_bytes()).is_some_and(|a| a.ip() == address));
            prop_assert!(client == PEER || is_written, "{client}");
        }
    }
}
