//! The section `traces`.

use super::{range::range, raw, secret, url};
use crate::traces::Settings;
use hyper::{
    HeaderMap, Uri,
    header::{HeaderName, HeaderValue},
};

/// The path of OTLP below the endpoint of a collector.
const PATH: &str = "/v1/traces";

/// The highest limit on what is recorded in a second.
const MAX_PER_S: u64 = 100_000;

/// Returns the settings of traces. Adds a line to `errors` for each value that is not valid.
pub(super) fn resolve(raw: raw::Traces, errors: &mut Vec<String>) -> Settings {
    if !(0.0..=1.0).contains(&raw.sample_ratio) {
        errors.push(format!("traces.sample_ratio: {} is not within 0 to 1", raw.sample_ratio));
    }
    range("traces.max_per_s", u64::from(raw.max_per_s), 1, MAX_PER_S, errors);
    if raw.service_name.is_empty() {
        errors.push("traces.service_name: it is empty: leave the key out for the name gateway".to_owned());
    }
    let written = secret::resolve_lines("traces.headers", raw.headers, raw.headers_file, errors).unwrap_or_default();
    Settings {
        url: collector(&raw.endpoint, errors),
        headers: headers(&written, errors),
        sample_ratio: raw.sample_ratio,
        max_per_s: raw.max_per_s,
        service_name: raw.service_name,
    }
}

/// Returns the URL that spans are sent to.
fn collector(endpoint: &str, errors: &mut Vec<String>) -> Uri {
    let mut wrong = |why: &str| errors.push(format!("traces.endpoint: {why}"));
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.is_empty() {
        wrong("the URL of a collector is required, such as http://127.0.0.1:4318");
    } else if endpoint.ends_with(PATH) {
        wrong("the gateway adds the path /v1/traces itself, leave it out");
    }
    // A fragment or a query would swallow the path.
    let whole = Some(format!("{endpoint}{PATH}")).filter(|_| !endpoint.contains(['#', '?']));
    let url = whole.and_then(|url| url::parse(&url, ["http", "https"]));
    if url.is_none() && !endpoint.is_empty() {
        wrong("it is not an http:// or https:// URL without user, password, query and fragment");
    }
    url.unwrap_or_default()
}

/// Returns the headers of the requests to the collector. The errors do not repeat a header, because it may be a secret.
fn headers(written: &str, errors: &mut Vec<String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (i, line) in written.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let header = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        match header {
            Some((name, value)) => drop(headers.append(name, value)),
            None => errors.push(format!("traces.headers: line {} is not of the form `name: value`", i + 1)),
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use crate::{config::Config, traces::Settings};

    fn parsed(keys: &str) -> Result<Settings, Vec<String>> {
        let config = Config::parse(&format!("plugins: {{ directory: . }}\ntraces: {{ {keys} }}\n"))?;
        Ok(config.traces.unwrap())
    }

    #[track_caller]
    fn check(keys: &str, expected: &[&str]) {
        assert_eq!(parsed(keys).map(|_| ()).unwrap_err(), expected, "{keys}");
    }

    #[test]
    fn each_wrong_value_has_its_own_error() {
        check("", &["traces.endpoint: the URL of a collector is required, such as http://127.0.0.1:4318"]);
        for url in ["localhost:4318", "ftp://a", "http://", "http://user:word@a", "http://a?b", "grpc://a:4317"] {
            let error =
                "traces.endpoint: it is not an http:// or https:// URL without user, password, query and fragment";
            check(&format!("endpoint: \"{url}\""), &[error]);
        }
        let path = "traces.endpoint: the gateway adds the path /v1/traces itself, leave it out";
        check("endpoint: \"http://a/v1/traces/\"", &[path]);
        let with = |keys: &str| format!("endpoint: \"http://a\", {keys}");
        for ratio in ["1.1", "-0.1"] {
            let error = format!("traces.sample_ratio: {ratio} is not within 0 to 1");
            check(&with(&format!("sample_ratio: {ratio}")), &[&error]);
        }
        check(&with("max_per_s: 0"), &["traces.max_per_s: 0 is not within 1 to 100000"]);
        check(&with("service_name: ''"), &["traces.service_name: it is empty: leave the key out for the name gateway"]);
        check(&with("headers: \"a: b\\nsecret\\n\""), &["traces.headers: line 2 is not of the form `name: value`"]);
    }

    #[test]
    fn the_url_has_the_path_of_otlp_and_headers_are_lines() {
        let url = |endpoint: &str| parsed(&format!("endpoint: \"{endpoint}\"")).unwrap().url.to_string();
        assert_eq!(url("http://127.0.0.1:4318"), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(url("https://a/otlp/"), "https://a/otlp/v1/traces");
        let settings = parsed("endpoint: \"http://a\", headers: \"Authorization: Bearer x\\n\\nb: c:d \\n\"").unwrap();
        assert_eq!(settings.headers["authorization"], "Bearer x");
        assert_eq!(settings.headers["b"], "c:d");
        assert_eq!((settings.headers.len(), settings.max_per_s, settings.sample_ratio), (2, 100, 0.01));
    }
}
