use std::fmt;
use std::str::FromStr;

use tokio_tungstenite::tungstenite::http::Uri;

/// The ports of URLs that name none, `ws://` and `wss://` (RFC 6455, section 3).
const DEFAULT_PORT: u16 = 80;
const DEFAULT_TLS_PORT: u16 = 443;

/// The address of a gateway: a `ws://` or `wss://` URL, taken apart once. It is displayed without the query, which may hold a
/// token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

impl Endpoint {
    /// The whole URL, for the upgrade request.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The host and the port. An IPv6 address has no brackets here.
    #[must_use]
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether the URL begins with `wss://`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The path, which is at least `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// Returns the URL with the query parameters that resume a session. The token has no character that a URL would have
    /// to escape.
    pub(crate) fn resuming(&self, token: &str, seen: u32, replies: u64) -> Self {
        self.with_query(&format!("resume={token}&seen={seen}&replies={replies}"))
    }

    /// Returns the URL to which a gateway sends its client, or `None` if the client must not or cannot connect to it. A
    /// URL without a query gets the query of this one.
    pub(crate) fn moved(&self, url: &str) -> Option<Self> {
        let next: Self = url.parse().ok()?;
        // Without TLS, everybody on the way would read the tokens.
        if self.is_tls && !next.is_tls {
            return None;
        }
        match (next.uri.query(), self.uri.query()) {
            (None, Some(query)) => Some(next.with_query(query)),
            _ => Some(next),
        }
    }

    /// Returns the URL with these parameters behind its own ones. If they do not fit, the URL stays as it is.
    fn with_query(&self, parameters: &str) -> Self {
        let query = self.uri.query().filter(|query| !query.is_empty());
        let and = if query.is_some() { "&" } else { "" };
        let path_and_query = format!("{}?{}{and}{parameters}", self.path(), query.unwrap_or_default());
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = path_and_query.parse().ok();
        Uri::from_parts(parts).map_or_else(|_| self.clone(), |uri| Self { uri, ..self.clone() })
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{error}; it has the form ws://HOST:PORT/ws"))?;
        let is_tls = match uri.scheme_str().map(str::to_ascii_lowercase).as_deref() {
            Some("ws") => false,
            Some("wss") => true,
            Some(_) => return Err("this client speaks ws:// and wss:// only".into()),
            None => return Err("the scheme is missing; it has the form ws://HOST:PORT/ws".into()),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err("the host is missing; it has the form ws://HOST:PORT/ws".into());
        }
        let port = port(&uri, if is_tls { DEFAULT_TLS_PORT } else { DEFAULT_PORT })?;
        Ok(Self { uri, host, port, is_tls })
    }
}

/// The port in the URL, or the default. `Uri` ignores a port that is not a u16, so the text is what says whether there
/// is a port.
fn port(uri: &Uri, default: u16) -> Result<u16, String> {
    if let Some(port) = uri.port_u16() {
        return Ok(port);
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.ends_with(uri.host().unwrap_or_default()) {
        Ok(default)
    } else {
        Err("the port is not one of 0 to 65535".into())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracketed = self.host.contains(':');
        let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
        let scheme = if self.is_tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{open}{}{close}:{}{}", self.host, self.port, self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, address: (&str, u16), shown: &str) {
        let endpoint: Endpoint = url.parse().unwrap();
        assert_eq!(endpoint.address(), address);
        assert_eq!(endpoint.to_string(), shown);
    }

    #[test]
    fn a_url_is_taken_apart() {
        check("ws://127.0.0.1:8080/ws", ("127.0.0.1", 8080), "ws://127.0.0.1:8080/ws");
        check("ws://example.org/ws", ("example.org", 80), "ws://example.org:80/ws");
        check("ws://[::1]:8080/ws", ("::1", 8080), "ws://[::1]:8080/ws");
        check("ws://[::1]/ws", ("::1", 80), "ws://[::1]:80/ws");
        check("wss://example.org/ws", ("example.org", 443), "wss://example.org:443/ws");
        check("WSS://[::1]:8080/ws", ("::1", 8080), "wss://[::1]:8080/ws");
        check("WS://localhost:1", ("localhost", 1), "ws://localhost:1/");
    }

    #[test]
    fn a_token_in_the_query_is_sent_but_not_shown() {
        let endpoint: Endpoint = "ws://localhost:1/ws?token=secret".parse().unwrap();
        assert_eq!(endpoint.uri().query(), Some("token=secret"));
        assert_eq!(endpoint.to_string(), "ws://localhost:1/ws");
    }

    #[track_caller]
    fn check_refused(url: &str, why: &str) {
        let refusal = url.parse::<Endpoint>().unwrap_err();
        assert!(refusal.contains(why), "{url}: {refusal}");
    }

    #[test]
    fn what_cannot_be_reached_is_refused() {
        check_refused("https://localhost/ws", "ws:// and wss:// only");
        check_refused("http://localhost/ws", "ws:// and wss:// only");
        check_refused("localhost:8080", "the scheme is missing");
        check_refused("ws://:8080/ws", "ws://HOST:PORT/ws");
        check_refused("ws://localhost:99999/ws", "port");
        check_refused("ws://local host/ws", "ws://HOST:PORT/ws");
        check_refused("", "ws://HOST:PORT/ws");
    }
}
