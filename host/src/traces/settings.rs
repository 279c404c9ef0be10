//! The settings of traces.

use hyper::{HeaderMap, Uri};
use std::fmt;

/// The settings of traces.
#[derive(Clone)]
pub struct Settings {
    /// The URL that spans are sent to.
    pub url: Uri,
    /// The headers of these requests, which may have secrets.
    pub headers: HeaderMap,
    /// The share of the traces that are recorded, from 0 to 1.
    pub sample_ratio: f64,
    /// The maximum number of handshakes and calls that are recorded in a second.
    pub max_per_s: u32,
    /// The name of the service in the traces.
    pub service_name: String,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({})", self.url)
    }
}
