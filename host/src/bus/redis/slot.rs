//! The slot of a topic in a Redis Cluster. Each slot belongs to one master.

/// The number of slots of every Cluster.
pub(super) const COUNT: u16 = 16384;

/// Returns the slot of a topic. If the topic has a part in braces that is not empty, only the first such part counts.
/// (Redis Cluster specification: "Hash tags".)
pub(super) fn of(topic: &str) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(key(topic).as_bytes()) % COUNT
}

/// Returns the part of a topic that decides on its slot.
fn key(topic: &str) -> &str {
    let tag = topic.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    tag.filter(|tag| !tag.is_empty()).unwrap_or(topic)
}

/// Returns a channel with this beginning that belongs to the slot of a topic.
///
/// # Panics
/// Panics if the beginning has a part in braces of its own.
pub(super) fn channel_beside(topic: &str, beginning: &str) -> String {
    let (slot, channel) = (of(topic), format!("{beginning}{{{}}}", key(topic)));
    // The braces do not work for a topic with other braces, such as `}`.
    let others = (0_u64..).map(|i| format!("{beginning}{i}"));
    let mut channels = [channel].into_iter().chain(others);
    channels.find(|channel| of(channel) == slot).expect("a channel of each slot")
}

/// Returns the slot in the error for a topic for which another master is responsible: `MOVED SLOT HOST:PORT`.
pub(super) fn in_error(error: &[u8]) -> Option<u16> {
    str::from_utf8(error).ok()?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // The answers of redis 7.0.15 to CLUSTER KEYSLOT.
        let all = [("broadcast", 16181), ("a", 15495), ("{a}b", 15495), ("foo{}bar", 14292), ("{{a}b", 10276)];
        for (topic, slot) in all {
            assert_eq!(of(topic), slot, "{topic}");
        }
    }

    #[test]
    fn a_channel_belongs_to_the_slot_of_its_topic() {
        assert_eq!(channel_beside("game:request:mmo", "gateway:7:"), "gateway:7:{game:request:mmo}");
        assert_eq!(channel_beside("{a}b", "gateway:7:"), "gateway:7:{a}");
        for topic in ["a", "}", "{", "{}", "a}b", "{{a}b", "{}{a}", ""] {
            let channel = channel_beside(topic, "gateway:7:");
            assert_eq!((of(&channel), channel.starts_with("gateway:7:")), (of(topic), true), "{topic}: {channel}");
        }
    }

    #[test]
    fn an_error_names_the_slot_that_has_moved() {
        assert_eq!(in_error(b"MOVED 3999 127.0.0.1:6381"), Some(3999));
        for other in [&b"MOVED"[..], b"MOVED x", b"MOVED 70000 a:1", b""] {
            assert_eq!(in_error(other), None);
        }
    }
}
