//! Calculates what deliveries to single users cost Redis and the gateways, from costs that `bench/redis-costs.py` has
//! measured. It compares the topic `broadcast`, which every gateway hears, with a topic for each user.

use std::fmt::{self, Write as _};

use clap::Args;

/// The processor time of Redis for a PUBLISH with one subscriber, in µs. This and the next two are for a busy Redis, which
/// reads many publishes at a time.
const PUBLISH_US: f64 = 0.8;

/// The processor time of Redis for each further subscriber of the channel, in µs: (4.2 - 0.8) / 19.
const SUBSCRIBER_US: f64 = 0.18;

/// The processor time of Redis for a PUBLISH on one of a million channels, with one subscriber, in µs. It is more than on
/// one channel, because Redis looks up memory that no cache holds and writes to one connection for each message. An
/// SPUBLISH in a Cluster costs the topic's master the same.
const PUBLISH_TO_ONE_OF_MANY_US: f64 = 3.5;

/// The processor time of Redis for the subscription to one of many channels, in µs.
const SUBSCRIBE_US: f64 = 2.4;

/// The memory of Redis for a channel with one subscriber, in bytes.
const CHANNEL_BYTES: f64 = 217.0;

/// The bytes of a message to a subscriber besides topic, payload, and the digits of their lengths: `*3 $7 message $… $…`,
/// each with the end of its line.
const FRAME_BYTES: f64 = 27.0;

/// The length of the topic `broadcast`, and the mean length of the topics of a million users.
const TOPIC_BYTES: [f64; 2] = [9.0, 21.0];

/// The part of a processor that Redis, which has one thread for commands, can use while it stays responsive.
const MAX_LOAD: f64 = 0.7;

/// What is calculated: players who are spread evenly over gateways, and messages to single players.
#[derive(Args, Clone, Debug)]
pub struct Scale {
    /// The users who are connected, each with one session
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) users: u32,
    /// The gateways
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) gateways: u32,
    /// The messages to single users in a second, over all gateways: one or more rates
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    pub(crate) messages_per_s: Vec<u32>,
    /// The bytes of a message
    #[arg(long, default_value_t = 128)]
    pub(crate) payload: u32,
}

/// What one rate of messages costs.
struct Cost {
    /// The processors that Redis needs.
    redis: f64,
    /// The bits that Redis sends in a second.
    bits: f64,
    /// The messages that each gateway receives in a second.
    received: f64,
    /// The part of them whose user is on another gateway.
    for_nobody: f64,
}

impl Scale {
    /// With `broadcast`, each message goes to every gateway.
    fn broadcast(&self, rate: f64) -> Cost {
        let gateways = f64::from(self.gateways);
        Cost {
            redis: rate * (PUBLISH_US + (gateways - 1.0) * SUBSCRIBER_US) / 1e6,
            bits: rate * gateways * self.message_bytes(TOPIC_BYTES[0]) * 8.0,
            received: rate,
            for_nobody: 1.0 - 1.0 / gateways,
        }
    }

    /// With a topic for each user, each message goes to the gateway that has the user.
    fn per_user(&self, rate: f64) -> Cost {
        Cost {
            redis: rate * PUBLISH_TO_ONE_OF_MANY_US / 1e6,
            bits: rate * self.message_bytes(TOPIC_BYTES[1]) * 8.0,
            received: rate / f64::from(self.gateways),
            for_nobody: 0.0,
        }
    }

    fn message_bytes(&self, topic: f64) -> f64 {
        let payload = f64::from(self.payload);
        let digits = |number: f64| format!("{number:.0}").len() as f64;
        FRAME_BYTES + digits(topic) + topic + digits(payload) + payload
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (users, gateways) = (f64::from(self.users), f64::from(self.gateways));
        let head = format!("{} users, {} gateways", grouped(users), grouped(gateways));
        writeln!(f, "| {head} | `broadcast` | a topic for each user |\n|---|---:|---:|")?;
        let mut row =
            |name: &str, [broadcast, per_user]: [String; 2]| writeln!(f, "| {name} | {broadcast} | {per_user} |");
        let subscribe = |users: f64| format!("{:.2} s", users * SUBSCRIBE_US / 1e6);
        let none = || "0".to_owned();
        row("memory of Redis for topics", [none(), format!("{:.0} MB", users * CHANNEL_BYTES / 1e6)])?;
        row("Redis' processor time to subscribe one gateway again", [none(), subscribe(users / gateways)])?;
        row("the same for all gateways", [none(), subscribe(users)])?;
        for rate in &self.messages_per_s {
            let rate = f64::from(*rate);
            let costs = [self.broadcast(rate), self.per_user(rate)];
            let each = |cell: fn(&Cost) -> String| [cell(&costs[0]), cell(&costs[1])];
            row(&format!("**{} messages/s**: processors of Redis", grouped(rate)), each(Cost::redis))?;
            // One master publishes all messages on one topic.
            let of_one = if costs[0].redis > MAX_LOAD { "no number is enough" } else { "1" };
            let masters = [of_one.to_owned(), grouped((costs[1].redis / MAX_LOAD).ceil())];
            row("masters of a Cluster that this needs", masters)?;
            row("sent by Redis, Mbit/s", each(|cost| grouped(cost.bits / 1e6)))?;
            row("received by each gateway, messages/s", each(|cost| grouped(cost.received)))?;
            row("of these for nobody there", each(|cost| format!("{:.0} %", cost.for_nobody * 100.0)))?;
        }
        Ok(())
    }
}

impl Cost {
    fn redis(&self) -> String {
        let verdict = if self.redis > MAX_LOAD { ", too many for one Redis" } else { "" };
        format!("{:.2}{verdict}", self.redis)
    }
}

/// A whole number with a space before each group of three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(' ');
        }
        // Writing to a string does not fail.
        let _ = text.write_char(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!([0.0, 999.0, 1000.0, 1_234_567.0].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }

    #[test]
    fn one_gateway_hears_everything_either_way() {
        let scale = Scale { users: 1000, gateways: 1, messages_per_s: vec![1000], payload: 128 };
        let [broadcast, per_user] = [scale.broadcast(1000.0), scale.per_user(1000.0)];
        assert_eq!([broadcast.received, per_user.received], [1000.0; 2]);
        assert_eq!([broadcast.for_nobody, per_user.for_nobody], [0.0; 2]);
    }

    #[test]
    fn a_message_has_the_bytes_that_redis_was_seen_to_send() {
        let scale = Scale { users: 1_000_000, gateways: 20, messages_per_s: Vec::new(), payload: 128 };
        // redis-costs.py counts 3365 and 185 bytes, with the answers `:20` and `:1` to the publishers.
        assert_eq!(scale.broadcast(1.0).bits / 8.0, 3365.0 - 5.0);
        assert_eq!(scale.per_user(1.0).bits / 8.0, 185.0 - 4.0);
    }
}
