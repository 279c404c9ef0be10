//! What `gateway check` finds wrong around the gateway: what it is, where, and what would mend it.

use serde::Serialize;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The key or the part of the machine that it concerns.
    pub place: String,
    /// What is wrong, and what would mend it.
    pub text: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The gateway cannot work like this.
    Error,
    /// The gateway works, but not always as expected. Or the cause may be over when the gateway starts.
    Warning,
}

impl Finding {
    /// Returns an error.
    pub fn error(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place: place.into(), text: text.into() }
    }

    /// Returns a warning.
    pub fn warning(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, place: place.into(), text: text.into() }
    }
}
