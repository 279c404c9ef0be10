//! Secrets, which are in gateway.yaml, in a file of their own, or in addresses.

use crate::file::{self, Unreadable};
use std::path::Path;

/// The maximum size of a file with a secret, in bytes.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Returns the secret `key`, whose value or file is given. The file has one line. `broken_rule` says which rule a secret
/// breaks. Adds a line to `errors` if both are given, if the file has no secret, or if the secret breaks a rule.
pub(super) fn resolve(
    key: &str,
    value: Option<String>,
    file: Option<String>,
    broken_rule: impl Fn(&str) -> Option<String>,
    errors: &mut Vec<String>,
) -> Option<String> {
    resolve_with(read_line, key, (value, file), broken_rule, errors)
}

/// Does the same as [`resolve`] for a secret of several lines, which has no rules.
pub(super) fn resolve_lines(
    key: &str,
    value: Option<String>,
    file: Option<String>,
    errors: &mut Vec<String>,
) -> Option<String> {
    resolve_with(read, key, (value, file), |_| None, errors)
}

fn resolve_with(
    read: fn(&Path) -> Result<String, String>,
    key: &str,
    (value, file): (Option<String>, Option<String>),
    broken_rule: impl Fn(&str) -> Option<String>,
    errors: &mut Vec<String>,
) -> Option<String> {
    if value.is_some() && file.is_some() {
        errors.push(format!("{key}: {key}_file is set as well, keep one of them"));
    }
    let (origin, secret) = match file {
        Some(file) => (format!("{key}_file: {file}"), read(Path::new(&file))),
        None => (key.to_owned(), Ok(value?)),
    };
    let checked = secret.and_then(|secret| broken_rule(&secret).map_or(Ok(secret), Err));
    checked.map_err(|why| errors.push(format!("{origin}: {why}"))).ok()
}

fn read_line(path: &Path) -> Result<String, String> {
    let secret = read(path)?;
    // It is never meant, and nobody sees it in an editor.
    if secret.contains(['\n', '\r']) {
        return Err("it has more than one line: write only the secret into it".to_owned());
    }
    Ok(secret)
}

/// Reads a secret without the line break at its end, which editors and `echo` add.
fn read(path: &Path) -> Result<String, String> {
    let bytes = file::read(path, MAX_SECRET_BYTES).map_err(|error| match error {
        Unreadable::Io(_) => format!("{error}: put the secret there for the gateway's user, or correct the path"),
        Unreadable::TooLarge { .. } => format!("{error}: correct the path"),
        error => error.to_string(),
    })?;
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8: write the secret as text".to_owned())?;
    let secret = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    // It is never meant, and nobody sees it in an editor.
    if secret.starts_with('\u{feff}') {
        return Err("it begins with a byte order mark: save it as UTF-8 without one".to_owned());
    }
    if secret.is_empty() {
        return Err("it is empty: write the secret into it".to_owned());
    }
    Ok(secret.to_owned())
}

/// Returns the error of a value of the wrong type without the value, which may be a secret at the wrong place. Says the
/// types in words of YAML.
pub(super) fn without_value(error: &str) -> String {
    let beginning = ["invalid type: ", "invalid value: "].into_iter().find(|beginning| error.contains(beginning));
    let parts = beginning.and_then(|beginning| {
        let (key, rest) = error.split_once(beginning)?;
        Some((key, beginning, rest.rsplit_once(", expected ")?))
    });
    let Some((key, beginning, (found, expected))) = parts else { return error.to_owned() };
    // Serde writes the kind of the value, and then the value in quotes: `string "x"` or "integer `1`".
    let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
    // An error in a text ends with its place.
    let (expected, place) = expected.find(" at line ").map_or((expected, ""), |at| expected.split_at(at));
    format!("{key}{beginning}{}, expected {}{place}", in_yaml(kind), in_yaml(expected))
}

/// Returns the word of YAML for a type of serde.
fn in_yaml(kind: &str) -> &str {
    match kind {
        "unit value" => "no value",
        "map" => "section",
        "a map" => "a section",
        "sequence" => "list",
        "a sequence" => "a list",
        "u8" => "an integer from 0 to 255",
        "u16" => "an integer from 0 to 65535",
        "u32" => "an integer from 0 to 4294967295",
        "u64" | "usize" => "an integer, at least 0",
        "f64" => "a number",
        kind => kind,
    }
}

/// Returns an address or a URL as it may be shown: without its user, its password and its query.
pub(super) fn without_secrets(address: &str) -> String {
    let scheme = address.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = address.split_at(scheme);
    let (place, query) = rest.split_once(['?', '#']).map_or((rest, None), |(place, query)| (place, Some(query)));
    if query.is_some_and(|query| query.contains('@')) {
        // It may be a password with one of these characters.
        return format!("{scheme}(hidden)");
    }
    let place = place.rsplit_once('@').map_or_else(|| place.to_owned(), |(_, host)| format!("(hidden)@{host}"));
    format!("{scheme}{place}{}", query.map_or("", |_| "?(hidden)"))
}
