use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::connection::{CLOSE_TIMEOUT, CUT, Connection, Received};
use crate::ended::Ended;
use crate::state::State;

/// A connection that has got its welcome.
pub(crate) struct Live {
    pub(crate) connection: Connection,
    /// When the welcome came.
    pub(crate) since: Instant,
    /// When the gateway was heard for the last time.
    heard: Instant,
    /// The longest time between two signs of life of the gateway.
    silence: Duration,
    /// Whether the gateway was pinged since it was heard for the last time.
    is_pinged: bool,
    /// Whether packets may wait in the connection.
    needs_flush: bool,
    /// When the client leaves, as the gateway has asked it to do.
    leaves_at: Option<Instant>,
    /// Until when the rest is read, once nothing is written any more, and why that is so.
    rest: Option<(Instant, Over)>,
    /// Why nothing is read any more.
    over: Option<Over>,
}

/// Why a connection is over.
pub(crate) enum Over {
    /// It ended, although the client did not want that.
    Ended(Ended),
    /// The client has left, because the gateway has asked it to do so.
    Left,
}

impl Live {
    pub(crate) fn new(connection: Connection, silence: Duration) -> Self {
        let now = Instant::now();
        let (is_pinged, needs_flush, leaves_at, rest, over) = (false, false, None, None, None);
        Self { connection, since: now, heard: now, silence, is_pinged, needs_flush, leaves_at, rest, over }
    }

    /// Leaves the connection after this time.
    pub(crate) fn leave_after(&mut self, time: Duration) {
        self.leaves_at = Some(Instant::now() + time);
    }

    /// Writes the packets that wait. If that fails, the next reads say why. Cancel-safe: no packet is written twice.
    pub(crate) async fn write(&mut self, state: &mut State) {
        if self.rest.is_some() || self.over.is_some() {
            return;
        }
        let writing = async {
            while let Some(packet) = state.next_packet() {
                self.connection.feed(&packet).await?;
                self.needs_flush = true;
                state.sent.wrote();
            }
            if self.needs_flush {
                self.connection.flush().await?;
                self.needs_flush = false;
            }
            Ok(())
        };
        let now = Instant::now;
        match timeout(self.silence, writing).await {
            Ok(Ok(())) => {}
            // Often the reason is a close frame of the gateway, which waits to be read behind packets.
            Ok(Err(ended)) => self.rest = Some((now() + CLOSE_TIMEOUT, Over::Ended(ended))),
            Err(_) => self.over = Some(Over::Ended(Ended::Silent(self.silence))),
        }
    }

    /// Waits for the next message. Cancel-safe: no message is lost.
    ///
    /// # Errors
    /// Says why the connection is over.
    pub(crate) async fn receive(&mut self) -> Result<Received, Over> {
        loop {
            if self.over.is_some() {
                // The answer to a close frame may wait to be sent.
                let _ = timeout(CLOSE_TIMEOUT, self.connection.flush()).await;
                return Err(self.over.take().unwrap_or(Over::Left));
            }
            let until = self.rest.as_ref().map_or(self.heard + self.silence, |(until, _)| *until);
            tokio::select! {
                heard = self.connection.hear() => match heard {
                    Ok(received) => {
                        (self.heard, self.is_pinged) = (Instant::now(), false);
                        if let Some(received) = received {
                            return Ok(received);
                        }
                    }
                    Err(ended) => self.over = Some(self.why(ended)),
                },
                () = sleep_until(until) => self.over = Some(self.why(Ended::Silent(self.silence))),
                () = sleep_until(self.heard + self.silence / 2), if !self.is_pinged && self.rest.is_none() => {
                    // The gateway's own pings may come less often, and its answer is a sign of life as well.
                    (self.is_pinged, self.needs_flush) = (true, true);
                    let ping = async {
                        self.connection.feed_ping().await?;
                        self.connection.flush().await
                    };
                    // If the connection takes nothing any more, the silence or the next write ends it.
                    let _ = timeout(self.silence / 2, ping).await;
                }
                () = moment(self.leaves_at), if self.rest.is_none() => {
                    // What the gateway has sent until it answers is still received.
                    self.rest = Some((Instant::now() + CLOSE_TIMEOUT, Over::Left));
                    self.connection.cut().await;
                }
            }
        }
    }

    /// Why the connection is over if this was the end of what could be read.
    fn why(&mut self, ended: Ended) -> Over {
        match (self.rest.take(), &ended) {
            (None, _) => Over::Ended(ended),
            (Some((_, Over::Left)), Ended::Closed(Some((CUT, _)))) => Over::Left,
            (Some(_), Ended::Closed(Some(_))) => Over::Ended(ended),
            (Some((_, over)), _) => over,
        }
    }
}

/// Completes at this moment, or never.
async fn moment(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
