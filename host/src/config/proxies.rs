//! The proxies in front of the gateway, as `server.trusted_proxies` and `server.proxy_protocol` describe them.

use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;

/// The proxies whose word about a client's address is believed.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    send_header: bool,
}

impl Proxies {
    /// Returns the proxies of these networks. Adds a line to `errors` for each value that is not valid.
    pub(super) fn resolve(trusted: &[String], send_header: bool, errors: &mut Vec<String>) -> Self {
        let mut networks = Vec::new();
        for (i, written) in trusted.iter().enumerate() {
            match network(written) {
                Some(network) => networks.push(network),
                None => errors.push(format!(
                    "server.trusted_proxies[{i}]: {written:?} is not a network: write an address or a CIDR, such as \
                     10.0.0.5, 10.0.0.0/8 or fd00::/8"
                )),
            }
        }
        if send_header && trusted.is_empty() {
            errors.push(
                "server.proxy_protocol: it needs the networks of the proxies that send the header, add \
                 server.trusted_proxies"
                    .to_owned(),
            );
        }
        Self { trusted: networks, send_header }
    }

    /// Returns whether an address is a trusted proxy. The address must not be an IPv4 address that is mapped to IPv6.
    #[must_use]
    pub fn trust(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Returns whether a connection from this address begins with a PROXY header.
    #[must_use]
    pub fn send_header(&self, address: IpAddr) -> bool {
        self.send_header && self.trust(address)
    }
}

/// Parses a CIDR or a single address. A network of IPv4 addresses that are mapped to IPv6 is a network of IPv4.
fn network(text: &str) -> Option<IpNet> {
    let network: IpNet = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    let mapped = match network {
        IpNet::V6(network) => network.addr().to_ipv4_mapped().map(|address| (address, network.prefix_len())),
        IpNet::V4(_) => None,
    };
    match mapped {
        // A network that is larger than IPv4 would contain no address, because addresses are not mapped any more then.
        Some((address, prefix_len)) => Ipv4Net::new(address, prefix_len.checked_sub(96)?).ok().map(IpNet::V4),
        None => Some(network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(network: &str, within: &[&str], outside: &[&str]) {
        let mut errors = Vec::new();
        let proxies = Proxies::resolve(&[network.to_owned()], false, &mut errors);
        assert_eq!(errors, [""; 0]);
        for address in within {
            assert!(proxies.trust(address.parse().unwrap()), "{network} does not contain {address}");
        }
        for address in outside {
            assert!(!proxies.trust(address.parse().unwrap()), "{network} contains {address}");
        }
    }

    #[test]
    fn networks_are_cidrs_or_addresses() {
        check("10.0.0.0/8", &["10.0.0.0", "10.255.255.255"], &["11.0.0.0", "9.255.255.255", "::", "::a00:1"]);
        check("10.1.2.3/8", &["10.0.0.0"], &["11.0.0.0"]);
        check("10.0.0.5", &["10.0.0.5"], &["10.0.0.4"]);
        check("fd00::/8", &["fd00::1", "fdff::"], &["fc00::1", "10.0.0.1"]);
        check("::1", &["::1"], &["::2", "127.0.0.1"]);
        check("::ffff:10.0.0.0/104", &["10.255.255.255"], &["11.0.0.0"]);
        check("::ffff:10.0.0.5", &["10.0.0.5"], &["10.0.0.4"]);
        check("0.0.0.0/0", &["1.2.3.4"], &["::1"]);
    }

    #[test]
    fn the_header_is_expected_from_trusted_proxies_alone() {
        let proxies = |header| Proxies::resolve(&["10.0.0.0/8".to_owned()], header, &mut Vec::new());
        let (inside, outside) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([11, 0, 0, 1]));
        assert!(proxies(true).send_header(inside) && !proxies(true).send_header(outside));
        assert!(!proxies(false).send_header(inside));
        assert!(!Proxies::default().trust(inside));
    }

    #[test]
    fn malformed_networks_are_errors() {
        for written in
            ["", "10.0.0/8", "10.0.0.0/33", "proxy.example", "10.0.0.1:80", "fd00::/129", "*", "::ffff:10.0.0.0/90"]
        {
            let mut errors = Vec::new();
            Proxies::resolve(&["::1".to_owned(), written.to_owned()], true, &mut errors);
            let expected = format!("server.trusted_proxies[1]: {written:?} is not a network");
            assert!(errors.len() == 1 && errors[0].starts_with(&expected), "{errors:?}");
        }
    }
}
