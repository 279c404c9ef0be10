//! The ranges of numbers.

/// Adds a line to `errors` if the value of a key is not within the range.
pub(super) fn range(key: &str, value: u64, from: u64, to: u64, errors: &mut Vec<String>) {
    if !(from..=to).contains(&value) {
        errors.push(format!("{key}: {value} is not within {from} to {to}"));
    }
}
