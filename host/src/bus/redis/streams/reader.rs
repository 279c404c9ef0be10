//! The task that reads streams. It asks for entries after its position, so it takes no more than the plugins can decide
//! on, and goes on after a break where it stopped. A stream whose plugins are too busy is left out of the questions until
//! they are not, so it holds up no other stream.

use super::{
    ID, PAYLOAD,
    history::{self, Loss},
    position::Position,
    server::{Entries, Entry, Server},
};
use crate::{
    bus::{
        intake::{Handler, Intake, Message},
        redis::{error::LinkError, link::Link, slot},
        topics::Topics,
    },
    telemetry::metrics::Metrics,
};
use bytes::Bytes;
use std::{collections::BTreeMap, convert::Infallible, future, sync::Arc, time::Duration};
use tokio::{sync::watch, task, time::Instant};

/// The maximum number of entries of one stream in one answer.
const MAX_ENTRIES: usize = 128;

/// The size of the payloads of all streams that one answer should have at most, in bytes. It is estimated from the mean
/// entry of the last answer, as Redis bounds only the number of entries of each stream.
const ANSWER_BYTES: usize = 4 << 20;

/// How long an answer may take while a stream is left out, because its plugins are too busy.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The streams that one reader reads: those that are wanted, and belong to the slot if there is one.
pub(in super::super) struct Wanted {
    pub(in super::super) topics: Arc<Topics>,
    pub(in super::super) slot: Option<u16>,
}

impl Wanted {
    fn streams(&self) -> Vec<Arc<str>> {
        let mut streams = self.topics.streams();
        streams.retain(|stream| self.slot.is_none_or(|slot| slot::of(stream) == slot));
        streams
    }
}

/// The owner of the reading connections.
pub(in super::super) struct Reader<H: Handler> {
    link: Link,
    intake: Arc<Intake<H>>,
    wanted: Wanted,
    /// Notified when other streams are wanted.
    changes: watch::Receiver<()>,
    positions: BTreeMap<Arc<str>, Position>,
    /// The mean size of the entries in the last answer, in bytes.
    mean_bytes: usize,
    /// When the end of all streams was last reached.
    at_end: Instant,
    /// When the lag is measured next.
    next_sample: Instant,
}

impl<H: Handler> Reader<H> {
    pub(in super::super) fn new(link: Link, intake: Arc<Intake<H>>, wanted: Wanted) -> Self {
        let (changes, now) = (wanted.topics.stream_changes(), Instant::now());
        let positions = BTreeMap::new();
        // The first answer has one entry of each stream, because nothing is known about their size.
        let mean_bytes = ANSWER_BYTES;
        Self { link, intake, wanted, changes, positions, mean_bytes, at_end: now, next_sample: now }
    }

    /// Waits until streams are wanted. Then connects again and again, and passes on their entries. Never returns.
    pub(in super::super) async fn run(mut self) {
        while self.wanted.streams().is_empty() {
            changed(&mut self.changes).await;
        }
        self.link.begin();
        loop {
            let mut server = self.connect().await;
            let Err(error) = self.follow(&mut server).await;
            self.link.down(&error);
        }
    }

    async fn connect(&mut self) -> Server {
        loop {
            self.link.pause().await;
            match self.open().await {
                Ok(server) => {
                    self.link.begun();
                    return server;
                }
                Err(error) => self.link.down(&error),
            }
        }
    }

    async fn open(&mut self) -> Result<Server, LinkError> {
        let (info, switches) = self.link.find().await?;
        Server::open(info, switches, self.link.config().timeout).await
    }

    /// Reads until the connection breaks.
    async fn follow(&mut self, server: &mut Server) -> Result<Infallible, LinkError> {
        self.find_positions(server).await?;
        self.next_sample = Instant::now();
        loop {
            self.begin(server).await?;
            if Instant::now() >= self.next_sample {
                self.sample(server).await?;
            }
            self.link.up();
            // What a busy plugin does not take waits in Redis.
            let taken = self.positions.iter().filter(|(stream, _)| self.intake.handler.takes_entries(stream));
            let positions: Vec<_> = taken.map(|(stream, position)| (&**stream, position.id())).collect();
            let is_all = positions.len() == self.positions.len();
            let count = entries_at_once(self.mean_bytes, positions.len());
            let interval = self.link.config().probe_interval;
            let interval = if is_all { interval } else { LOOK_INTERVAL };
            let entries = server.read(positions.into_iter(), count, interval, changed(&mut self.changes)).await?;
            let is_end = entries.iter().all(|(_, of_stream)| of_stream.len() < count);
            self.pass_on(entries).await;
            if is_all && is_end {
                self.at_end = Instant::now();
            }
        }
    }

    /// Finds the positions again on a new connection.
    async fn find_positions(&mut self, server: &mut Server) -> Result<(), LinkError> {
        let (mut lost, mut is_gap) = (0, false);
        for (stream, position) in &mut self.positions {
            match history::find(server, stream, position).await? {
                Loss::None => continue,
                Loss::Entries(entries) => lost += entries,
                Loss::Perhaps => {}
            }
            is_gap = true;
            tracing::warn!(stream = &**stream, "the end of the stream is lost, so entries of it may be missing");
        }
        self.record(lost, is_gap).await;
        Ok(())
    }

    /// Gets a position in each stream that is new, and forgets the streams that are not wanted any more.
    async fn begin(&mut self, server: &mut Server) -> Result<(), LinkError> {
        self.changes.mark_unchanged();
        let wanted = self.wanted.streams();
        let metrics = &self.intake.metrics;
        self.positions.retain(|stream, _| {
            let is_wanted = wanted.binary_search(stream).is_ok();
            if !is_wanted {
                metrics.forget_stream(stream);
            }
            is_wanted
        });
        let new: Vec<_> = wanted.into_iter().filter(|stream| !self.positions.contains_key(stream)).collect();
        for stream in new {
            let position = history::begin(server, &stream).await?;
            tracing::info!(stream = &*stream, after = position.id(), "reading a stream");
            metrics.set_stream_lag(&stream, 0);
            self.positions.insert(stream, position);
        }
        if !self.wanted.topics.are_streams_read() {
            self.wanted.topics.begin_reading(self.positions.keys());
        }
        Ok(())
    }

    /// Measures how far the reader is behind, and whether entries were removed before it has read them.
    async fn sample(&mut self, server: &mut Server) -> Result<(), LinkError> {
        server.check_role().await?;
        let mut lost = 0;
        for (stream, position) in &mut self.positions {
            let Some(info) = server.info(stream).await? else {
                self.intake.metrics.set_stream_lag(stream, 0);
                continue;
            };
            lost += position.lost(&info);
            if let Some(lag) = position.lag(&info) {
                self.intake.metrics.set_stream_lag(stream, lag);
            }
        }
        self.record(lost, lost > 0).await;
        self.next_sample = Instant::now() + self.link.config().probe_interval;
        Ok(())
    }

    /// Counts lost entries, and tells the sessions about a gap.
    async fn record(&mut self, lost: u64, is_gap: bool) {
        self.intake.metrics.stream_lost.inc_by(lost);
        if lost > 0 {
            tracing::warn!(
                entries = lost,
                "entries of streams were removed before they were read: raise `redis.stream_max_len`"
            );
        }
        if is_gap {
            self.intake.handler.missed(self.at_end.elapsed()).await;
        }
    }

    async fn pass_on(&mut self, read: Entries) {
        let (mut entries, mut bytes) = (0, 0);
        for (stream, of_stream) in read {
            let Some(position) = self.positions.get_mut(&*stream) else { continue };
            let mut messages = Vec::with_capacity(of_stream.len());
            for (id, fields) in of_stream {
                position.advance(&id);
                bytes += fields.iter().map(|(_, value)| value.len()).sum::<usize>();
                self.intake.metrics.stream_entries.inc();
                entries += 1;
                let max_bytes = self.link.config().max_message_bytes;
                messages.extend(message(&stream, (id, fields), position, max_bytes, &self.intake));
            }
            for _ in self.intake.handler.messages(messages).await {
                self.intake.no_subscriber();
            }
            task::yield_now().await;
        }
        self.mean_bytes = bytes.checked_div(entries).unwrap_or(self.mean_bytes);
    }
}

/// Returns the maximum number of entries of each stream in the next answer.
fn entries_at_once(mean_bytes: usize, streams: usize) -> usize {
    (ANSWER_BYTES / mean_bytes.max(1) / streams.max(1)).clamp(1, MAX_ENTRIES)
}

/// Waits until other streams are wanted. Cancel-safe.
async fn changed(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        future::pending().await
    }
}

/// Returns the message of an entry, unless the entry is a duplicate or cannot be read.
fn message<H: Handler>(
    stream: &str,
    (id, fields): Entry,
    position: &mut Position,
    max_bytes: usize,
    intake: &Intake<H>,
) -> Option<Message<H::Origin>> {
    let metrics: &Metrics = &intake.metrics;
    let (mut payload, mut own_id) = (None, None);
    for (name, value) in fields {
        match &*name {
            name if name == PAYLOAD.as_bytes() => payload = Some(value),
            name if name == ID.as_bytes() => own_id = Some(value),
            _ => {}
        }
    }
    if own_id.is_some_and(|own| position.seen.is_duplicate(&own)) {
        metrics.stream_duplicates.inc();
        return None;
    }
    let Some(payload) = payload else {
        metrics.dropped("bus_entry_malformed", 1);
        if metrics.log_limits.permit("entry of a stream without a payload", stream) {
            tracing::warn!(stream, id, "entry of a stream dropped: it has no field `{PAYLOAD}`");
        }
        return None;
    };
    if payload.len() > max_bytes {
        metrics.dropped("bus_message_too_large", 1);
        if metrics.log_limits.permit("bus message too large", "") {
            tracing::warn!("bus message dropped: it is larger than `server.max_message_bytes`");
        }
        return None;
    }
    Some(Message { topic: stream.to_owned(), body: Bytes::from(payload), cause: None, is_entry: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_has_a_bounded_size_however_many_streams_there_are() {
        assert_eq!(entries_at_once(ANSWER_BYTES, 1), 1);
        assert_eq!(entries_at_once(0, 0), MAX_ENTRIES);
        assert_eq!(entries_at_once(128, 10), MAX_ENTRIES);
        for (mean_bytes, streams) in [(128, 1000), (64 << 10, 2), (64 << 10, 60)] {
            let count = entries_at_once(mean_bytes, streams);
            assert!((1..MAX_ENTRIES).contains(&count), "{mean_bytes} {streams}: {count}");
            assert!(count * mean_bytes * streams <= ANSWER_BYTES, "{mean_bytes} {streams}: {count}");
        }
    }
}
