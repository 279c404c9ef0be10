//! Decides which requests the admin listener serves: who has the token, and which requests a web page may have caused.
//!
//! A browser on the operator's machine reaches a loopback listener, and so does every page that it shows. Three rules
//! keep pages out. A request from another origin names it in `Origin`. A page whose name resolves to 127.0.0.1 (DNS
//! rebinding) has its own origin, but also its own name in `Host`. And a POST has to be JSON, which a page cannot send to
//! another origin without asking first.

use axum::http::{
    HeaderMap, StatusCode, Uri,
    header::{AUTHORIZATION, HOST, HeaderName, ORIGIN},
};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// The secret that operators bring. If there is none, everybody who reaches the listener is an operator.
pub(crate) struct Access(Option<String>);

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Token,
    Host,
    Origin,
}

impl Denied {
    /// Returns the status of the answer, and the text that says what is wrong.
    pub(super) fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Token => (StatusCode::UNAUTHORIZED, "the request needs `Authorization: Bearer` with admin.token"),
            Self::Host => (
                StatusCode::FORBIDDEN,
                "the Host of the request is neither localhost nor a loopback address: use one of these, or set \
                 admin.token",
            ),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "the request comes from a page of another origin: open the page at the address of this listener",
            ),
        }
    }
}

impl Access {
    pub(crate) fn new(token: Option<String>) -> Self {
        Self(token)
    }

    /// Returns whether the request comes from an operator.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.0 else { return true };
        // The time of the comparison does not depend on the content of the tokens.
        bearer(headers).is_some_and(|shown| shown.as_bytes().ct_eq(token.as_bytes()).into())
    }

    /// Checks a request for the API, which can change something.
    pub(super) fn check_page(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let host = only(headers, &HOST);
        // A page cannot know the token, so with a token any name may lead here, for example that of a proxy.
        if self.0.is_none() && !host.is_some_and(is_local) {
            return Err(Denied::Host);
        }
        if headers.contains_key(ORIGIN) && !is_own(only(headers, &ORIGIN), host) {
            return Err(Denied::Origin);
        }
        Ok(())
    }
}

/// Returns the token of the request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = only(headers, &AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Returns the value of a header that the request has exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Returns whether `Host` names this machine to itself.
fn is_local(host: &str) -> bool {
    let Ok(uri) = host.parse::<Uri>() else { return false };
    let Some(name) = uri.host() else { return false };
    let is_loopback = |name: &str| name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || is_loopback(name.trim_matches(['[', ']']))
}

/// Returns whether `Origin` is the page's that this listener serves. A proxy in between may add TLS.
fn is_own(origin: Option<&str>, host: Option<&str>) -> bool {
    let (Some(origin), Some(host)) = (origin, host) else { return false };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    const TOKEN: &str = "0123456789abcdef";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_the_whole_token_is_admitted() {
        let access = Access::new(Some(TOKEN.to_owned()));
        let admits = |values: &[&str]| {
            let pairs: Vec<_> = values.iter().map(|value| (AUTHORIZATION, *value)).collect();
            access.admits(&headers(&pairs))
        };
        let right = format!("Bearer {TOKEN}");
        assert!(admits(&[&right]) && admits(&[&right.replace("Bearer", "bEARER")]));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            TOKEN,
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer  0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer 0123456789ABCDEF",
        ] {
            assert!(!admits(&[wrong]), "{wrong:?}");
        }
        assert!(!admits(&[]) && !admits(&[&right, &right]));
        assert!(Access::new(None).admits(&HeaderMap::new()));
    }

    #[test]
    fn without_a_token_the_host_is_local() {
        let check = |host: &[&str]| {
            let pairs: Vec<_> = host.iter().map(|value| (HOST, *value)).collect();
            Access::new(None).check_page(&headers(&pairs))
        };
        for local in [
            "localhost",
            "LOCALHOST:8081",
            "gateway.localhost:1",
            "127.0.0.1",
            "127.1.2.3:8081",
            "[::1]",
            "[::1]:8081",
            "localhost.:8081",
        ] {
            assert_eq!(check(&[local]), Ok(()), "{local}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example:8081",
            "127.0.0.1.evil.example",
            "10.0.0.1:8081",
            "notlocalhost",
            "::1",
            "[::2]",
            "localhost@evil.example",
            "evil.example/localhost",
        ] {
            assert_eq!(check(&[other]), Err(Denied::Host), "{other}");
        }
        assert_eq!(check(&[]), Err(Denied::Host));
        assert_eq!(check(&["localhost", "localhost"]), Err(Denied::Host));
        let with_token = Access::new(Some(TOKEN.to_owned()));
        assert_eq!(with_token.check_page(&headers(&[(HOST, "gateway.example")])), Ok(()));
    }

    #[test]
    fn an_origin_is_that_of_the_listener() {
        let check = |origins: &[&str]| {
            let mut pairs = vec![(HOST, "localhost:8081")];
            pairs.extend(origins.iter().map(|origin| (ORIGIN, *origin)));
            Access::new(None).check_page(&headers(&pairs))
        };
        for own in ["http://localhost:8081", "https://LocalHost:8081"] {
            assert_eq!(check(&[own]), Ok(()), "{own}");
        }
        for other in [
            "null",
            "",
            "http://localhost",
            "http://localhost:80810",
            "http://evil.example",
            "localhost:8081",
            "file://localhost:8081",
        ] {
            assert_eq!(check(&[other]), Err(Denied::Origin), "{other}");
        }
        assert_eq!(check(&["http://localhost:8081", "http://localhost:8081"]), Err(Denied::Origin));
    }
}
