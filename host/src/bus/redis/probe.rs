//! The probes of the publisher, which show whether the subscription works and whether the server is a master.
//!
//! At an interval, the publisher publishes a number on the gateway's own channel, which the subscriber hears, and asks
//! for the server's role. Three failures have no error of their own, and the gateway would be deaf without them being
//! noticed: packets are dropped on the way, the subscription exists no more or on another server, and the server has
//! become a replica while its old connections stay open.
//!
//! A `PING` after silence was rejected as the only check. A server that has lost the subscription answers it, and so
//! does a replica.

use super::{
    connection::Connection,
    error::{LinkError, NOT_PERMITTED, for_log, forbids_command},
    link::Link,
    words::Words,
};
use crate::telemetry::metrics::Metrics;
use gateway_wire::resp::Frame;
use std::{mem, str, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{self, Interval, MissedTickBehavior},
};

/// What the publisher knows about its probes. Numbers count from 1, and 0 stands for no probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The last probe that was sent.
    pub(super) sent: u64,
    /// The last probe that Redis has passed on to a subscriber.
    pub(super) passed_on: u64,
    /// The last probe that had no subscriber.
    pub(super) unheard: u64,
    /// The last probe that a replica answered.
    pub(super) by_replica: u64,
}

/// Returns the publisher's side and the subscriber's side, connected to each other.
pub(super) fn pair(words: &'static Words, channel: Arc<str>, interval: Duration) -> (Prober, Probed) {
    let (report, reports) = watch::channel(Report::default());
    let prober = Prober { words, channel: Arc::clone(&channel), interval, report, refused: Refused::default() };
    (prober, Probed { channel, interval, reports })
}

/// The subscriber's side.
#[derive(Clone, Debug)]
pub(super) struct Probed {
    /// The channel of the probes.
    pub(super) channel: Arc<str>,
    /// The time between two probes.
    pub(super) interval: Duration,
    /// What the publisher reports.
    pub(super) reports: watch::Receiver<Report>,
}

/// The publisher's side.
pub(super) struct Prober {
    words: &'static Words,
    channel: Arc<str>,
    interval: Duration,
    pub(super) report: watch::Sender<Report>,
    refused: Refused,
}

/// The commands that Redis refused on the current connection. They are not sent again on this connection.
#[derive(Default)]
struct Refused {
    publish: bool,
    role: bool,
}

/// The answers to one probe.
#[derive(Default)]
struct Answers {
    receivers: Option<i64>,
    is_replica: bool,
}

impl Prober {
    /// Forgets what Redis refused on the last connection.
    pub(super) fn connected(&mut self) {
        self.refused = Refused::default();
    }

    /// Returns the times at which a probe is due. The first one is due at once.
    pub(super) fn times(&self) -> Interval {
        let mut times = time::interval(self.interval);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        times
    }

    /// Sends a probe, and waits for its answers. No other command may be under way.
    ///
    /// # Errors
    /// Returns an error if the connection breaks or hangs, if nobody heard the probe, or if the server is a replica.
    pub(super) async fn probe(&mut self, connection: &mut Connection, link: &Link) -> Result<(), LinkError> {
        // The subscriber does not have to know yet. It reads this number when it has subscribed.
        self.report.send_if_modified(|report| {
            report.sent += 1;
            false
        });
        let number = self.report.borrow().sent;
        let answers = self.ask(number, connection, link).await?;
        self.report.send_modify(|report| {
            match answers.receivers {
                Some(0) => report.unheard = number,
                Some(_) => report.passed_on = number,
                None => {}
            }
            if answers.is_replica {
                report.by_replica = number;
            }
        });
        match answers {
            Answers { is_replica: true, .. } => Err(connection.is_replica()),
            Answers { receivers: Some(0), .. } => Err(LinkError::Unheard),
            _ => Ok(()),
        }
    }

    async fn ask(&mut self, number: u64, connection: &mut Connection, link: &Link) -> Result<Answers, LinkError> {
        let Self { words, channel, refused, .. } = self;
        let (publishes, asks_role) = (!refused.publish, !refused.role);
        if publishes {
            connection.command(&[words.publish.as_bytes(), channel.as_bytes(), number.to_string().as_bytes()]);
        }
        if asks_role {
            connection.command(&[b"ROLE"]);
        }
        let is_plain = !publishes && !asks_role;
        if is_plain {
            connection.command(&[b"PING"]);
        }
        connection.flush().await?;
        let mut answers = Answers::default();
        let mut to_come = usize::from(publishes) + usize::from(asks_role) + usize::from(is_plain);
        let mut failed = None;
        // Redis answers in the order of the commands.
        let (mut of_publish, mut of_role) = (publishes, asks_role);
        while to_come > 0 {
            let each = |frame: Frame<'_>| {
                to_come = to_come.saturating_sub(1);
                if mem::take(&mut of_publish) {
                    match frame {
                        Frame::Integer(receivers) => answers.receivers = Some(receivers),
                        Frame::Error(why) if why.starts_with(NOT_PERMITTED) => {
                            refused.publish = true;
                            let command = format!("+{}", words.publish.to_lowercase());
                            let rule = if forbids_command(why) { &command } else { "&gateway:*" };
                            warn_of(link.metrics(), "PUBLISH on its own channel", rule, why);
                        }
                        Frame::Error(why) => failed = Some(for_log(why)),
                        _ => {}
                    }
                } else if mem::take(&mut of_role) {
                    match frame {
                        Frame::List(parts) => answers.is_replica = matches!(parts[..], [Frame::Text(b"slave"), ..]),
                        Frame::Error(why) if why.starts_with(NOT_PERMITTED) => {
                            refused.role = true;
                            warn_of(link.metrics(), "ROLE", "+role", why);
                        }
                        _ => {}
                    }
                }
            };
            link.answers(connection, each).await?;
        }
        match failed {
            Some(why) => Err(LinkError::Refused { command: words.publish, why }),
            None => Ok(answers),
        }
    }
}

impl Probed {
    /// Returns the number of a probe that has arrived, or `None` if the message is no probe.
    pub(super) fn number(&self, topic: &str, body: &[u8]) -> Option<u64> {
        (topic == &*self.channel).then(|| str::from_utf8(body).ok()?.parse().ok())?
    }
}

/// Warns that the ACL forbids a part of the probes on this connection.
pub(super) fn warn_of(metrics: &Metrics, what: &str, rule: &str, why: &[u8]) {
    if metrics.log_limits.permit("probe refused by redis", what) {
        tracing::warn!(
            error = for_log(why),
            "redis refused {what}, so some failures of the bus are not noticed: add `{rule}` to the ACL of the gateway's \
             user"
        );
    }
}
