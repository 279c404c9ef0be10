//! The origins of web pages that may connect, as `server.allowed_origins` lists them (RFC 6454).

use std::net::Ipv6Addr;

/// A list of origins.
#[derive(Clone, Debug)]
pub struct Origins(Vec<Pattern>);

/// An entry of the list.
#[derive(Clone, Debug)]
enum Pattern {
    /// This origin.
    Exact(Origin),
    /// The origins whose host is a subdomain of the host of this one, with the same scheme and port.
    Subdomains(Origin),
}

/// An origin in its normal form: in lower case, and with the port of its scheme if it names none.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origins {
    /// Returns the origins of a list. Adds a line to `errors` for each entry that is not valid.
    pub(super) fn resolve(written: &[String], errors: &mut Vec<String>) -> Self {
        let mut patterns = Vec::new();
        for (i, entry) in written.iter().enumerate() {
            match Pattern::parse(entry) {
                Some(pattern) => patterns.push(pattern),
                None => errors.push(format!(
                    "server.allowed_origins[{i}]: {entry:?} is not an origin: write scheme://host or \
                     scheme://host:port in ASCII and without a path, such as https://game.example or \
                     https://*.example.com"
                )),
            }
        }
        Self(patterns)
    }

    /// Returns whether the list contains the origin in the value of a header `Origin`.
    #[must_use]
    pub fn contain(&self, origin: &str) -> bool {
        Origin::parse(origin).is_some_and(|origin| self.0.iter().any(|pattern| pattern.matches(&origin)))
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once("://*.") {
            Some((scheme, domain)) => Origin::parse(&format!("{scheme}://{domain}")).map(Self::Subdomains),
            None => Origin::parse(text).map(Self::Exact),
        }
    }

    fn matches(&self, origin: &Origin) -> bool {
        match self {
            Self::Exact(listed) => listed == origin,
            Self::Subdomains(listed) => {
                let labels = origin.host.strip_suffix(&listed.host);
                let is_subdomain = labels.is_some_and(|labels| labels.ends_with('.'));
                is_subdomain && (&listed.scheme, listed.port) == (&origin.scheme, origin.port)
            }
        }
    }
}

impl Origin {
    /// Parses an origin. The origin `null` of pages without one is no origin.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let scheme = scheme.to_ascii_lowercase();
        // The colons of an IPv6 address are within brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(self::port(port)?)),
            _ => (authority, None),
        };
        let port = port.or(match &*scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        });
        is_scheme.then_some(Self { scheme, host: self::host(host)?, port })
    }
}

/// Parses a port. A sign is not allowed, although numbers in Rust may have one.
fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Returns the normal form of a domain, an IPv4 address, or an IPv6 address in brackets.
fn host(text: &str) -> Option<String> {
    if let Some(address) = text.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let is_label = |label: &str| !label.is_empty() && label.chars().all(is_legal);
    text.split('.').all(is_label).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listed: &str, same: &[&str], others: &[&str]) {
        let mut errors = Vec::new();
        let origins = Origins::resolve(&[listed.to_owned()], &mut errors);
        assert_eq!(errors, [""; 0]);
        for origin in same {
            assert!(origins.contain(origin), "{listed} does not contain {origin:?}");
        }
        for origin in others {
            assert!(!origins.contain(origin), "{listed} contains {origin:?}");
        }
    }

    #[test]
    fn an_exact_origin_is_compared_without_case_and_with_the_port_of_its_scheme() {
        let others = [
            "http://game.example",
            "https://game.example:8443",
            "https://www.game.example",
            "https://game.example.evil",
            "https://evilgame.example",
            "https://game.example/",
            "https://game.example.",
            "https://user@game.example",
            "https://game.example https://game.example",
            "https://game.example:",
            "https://game.example:+443",
            "https://game.example:65979",
            "game.example",
            "null",
            "",
        ];
        let same = ["https://game.example", "HTTPS://Game.Example", "https://game.example:443"];
        check("https://game.example", &same, &others);
        check("https://game.example:443", &same, &others);
        check("Https://GAME.example:0443", &same, &others);
        check("http://game.example", &["http://game.example:80"], &["http://game.example:443", "https://game.example"]);
        check("http://localhost:3000", &["http://LOCALHOST:3000"], &["http://localhost", "http://localhost:300"]);
        check(
            "https://[2001:DB8:0::1]",
            &["https://[2001:db8::1]:443"],
            &["https://2001:db8::1", "https://[2001:db8::1"],
        );
        check("capacitor://localhost", &["capacitor://localhost"], &["capacitor://localhost:80", "http://localhost"]);
    }

    #[test]
    fn an_asterisk_stands_for_one_or_more_labels() {
        let same = ["https://a.example.com", "https://a.b.example.com", "HTTPS://A.EXAMPLE.COM:443"];
        let others = [
            "https://example.com",
            "https://.example.com",
            "https://a..example.com",
            "https://aexample.com",
            "https://a.example.com.evil",
            "https://evil/.example.com",
            "https://evil?.example.com",
            "https://evil#.example.com",
            "https://*.example.com",
            "http://a.example.com",
            "https://a.example.com:8443",
        ];
        check("https://*.example.com", &same, &others);
        check("https://*.example.com:8443", &["https://a.example.com:8443"], &["https://a.example.com"]);
    }

    #[test]
    fn an_empty_list_contains_no_origin() {
        assert!(!Origins::resolve(&[], &mut Vec::new()).contain("https://game.example"));
    }

    #[test]
    fn entries_that_are_no_origins_are_errors() {
        let malformed = [
            "",
            "*",
            "null",
            "game.example",
            "*.example.com",
            "https://",
            "https://*",
            "https://*.",
            "https://a.*.example.com",
            "https://a*.example.com",
            "https://*.*.example.com",
            "https://game.example/",
            "https://game.example:x",
            "https://zoë.example",
            "://game.example",
            "1https://game.example",
            " https://game.example",
        ];
        for entry in malformed {
            let mut errors = Vec::new();
            Origins::resolve(&["https://game.example".to_owned(), entry.to_owned()], &mut errors);
            assert_eq!(errors.len(), 1, "{entry:?}");
            let expected = format!("server.allowed_origins[1]: {entry:?} is not an origin: write scheme://host");
            assert!(errors[0].starts_with(&expected), "{errors:?}");
        }
    }
}
