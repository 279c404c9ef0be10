//! The rules for topics: the maximum number per plugin, and the bytes that a topic may consist of.

use crate::telemetry::text;

/// The maximum number of topics that one plugin may subscribe to.
const MAX_TOPICS: usize = 1024;

/// Checks the list of topics that a plugin subscribes to.
pub(super) fn check_topics(topics: &[String]) -> Result<(), String> {
    if topics.len() > MAX_TOPICS {
        return Err(format!("it subscribes to {} topics, and {MAX_TOPICS} are the most", topics.len()));
    }
    let illegal = topics.iter().find(|topic| !is_topic(topic));
    illegal
        .map_or(Ok(()), |topic| Err(format!("it subscribes to \"{}\", and {TOPIC_RULE}", text::bounded_to(256, topic))))
}

/// The topic on which gateways tell each other what their operators want. It is the host's own, as are all topics that
/// begin with it: a plugin that could publish on them could end or take over every session.
pub const HOST_TOPIC: &str = "gateway:host";

/// The rule that [`is_topic`] checks, worded for error messages.
pub const TOPIC_RULE: &str =
    "a topic is 1 to 256 bytes without control characters, and does not begin with gateway:host";

/// Returns whether a plugin may subscribe to the topic and publish on it.
#[must_use]
pub fn is_topic(topic: &str) -> bool {
    // Checking bytes is faster than decoding characters. Unicode has control characters outside ASCII, so a topic that
    // is not ASCII is also checked by character.
    let has_control = topic.bytes().fold(false, |found, byte| found | byte.is_ascii_control())
        || (!topic.is_ascii() && topic.contains(char::is_control));
    (1..=256).contains(&topic.len()) && !has_control && !topic.starts_with(HOST_TOPIC)
}
