//! The task that reads streams. It asks for entries after its position, so it takes no more than the plugins can decide
//! on, and goes on after a break where it stopped. A stream whose plugins are too busy is left out of the questions
//! until they are not, so it holds up no other stream.
//!
//! A stream that Redis does not let the gateway read is left out if no plugin subscribes to it, as its name may come
//! from a client. It is tried again at each sample, and then read from its old position. If a plugin subscribes to it,
//! the bus does not count as connected, and publishes wait until the stream has a position.

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
    /// The streams that are left out, because Redis refuses them, with the positions that they had.
    left_out: BTreeMap<Arc<str>, Option<Position>>,
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
        let (positions, left_out) = (BTreeMap::new(), BTreeMap::new());
        // The first answer has one entry of each stream, because nothing is known about their size.
        let mean_bytes = ANSWER_BYTES;
        Self { link, intake, wanted, changes, positions, left_out, mean_bytes, at_end: now, next_sample: now }
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
            // The last answer may have been too large for the time. The next one has one entry of each stream.
            self.mean_bytes = ANSWER_BYTES;
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
        let known = self.positions.keys().cloned().collect();
        self.find(server, known).await?;
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
            if is_all && is_end && self.left_out.is_empty() {
                self.at_end = Instant::now();
            }
        }
    }

    /// Finds the positions in these streams, and tells the sessions if entries may be missing.
    async fn find(&mut self, server: &mut Server, streams: Vec<Arc<str>>) -> Result<(), LinkError> {
        let (mut lost, mut is_gap, mut outcome) = (0, false, Ok(()));
        for stream in streams {
            match self.find_in(server, stream).await {
                Ok(Loss::None) => continue,
                Ok(Loss::Entries(entries)) => lost += entries,
                Ok(Loss::Perhaps) => {}
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            is_gap = true;
        }
        self.record(lost, is_gap).await;
        outcome
    }

    /// Finds the position in a stream again, or gets one at its end. Leaves the stream out if Redis refuses it.
    async fn find_in(&mut self, server: &mut Server, stream: Arc<str>) -> Result<Loss, LinkError> {
        let (was_known, mut position) = match self.left_out.remove(&stream) {
            Some(position) => (true, position),
            None => (false, self.positions.remove(&stream)),
        };
        let is_new = position.is_none();
        match history::find(server, &stream, &mut position).await {
            Ok(loss) => {
                // Until now, nobody heard a stream that was left out from the beginning.
                let loss = if is_new && was_known { Loss::Perhaps } else { loss };
                if loss != Loss::None {
                    tracing::warn!(
                        stream = &*stream,
                        "entries of a stream may be missing: its end is lost, or it was left out"
                    );
                }
                self.positions.extend(position.map(|position| (stream, position)));
                Ok(loss)
            }
            Err(error) if matches!(error, LinkError::Unreadable { .. }) && !self.wanted.topics.is_fixed(&stream) => {
                self.intake.metrics.forget_stream(&stream);
                if !was_known && self.intake.metrics.log_limits.permit("unreadable stream", "") {
                    tracing::warn!(
                        stream = &*stream,
                        %error,
                        "redis refuses a stream, so its listeners do not hear it: remove the key if it is no stream, or \
                         allow it in the ACL of the gateway's user"
                    );
                }
                self.left_out.insert(stream, position);
                Ok(Loss::None)
            }
            Err(error) => {
                self.positions.extend(position.map(|position| (stream, position)));
                Err(error)
            }
        }
    }

    /// Gets a position in each stream that is new, and forgets the streams that are not wanted any more.
    async fn begin(&mut self, server: &mut Server) -> Result<(), LinkError> {
        self.changes.mark_unchanged();
        let (wanted, topics) = (self.wanted.streams(), Arc::clone(&self.wanted.topics));
        let metrics = &self.intake.metrics;
        self.positions.retain(|stream, _| {
            let is_wanted = wanted.binary_search(stream).is_ok();
            if !is_wanted {
                metrics.forget_stream(stream);
            }
            is_wanted
        });
        self.left_out.retain(|stream, _| wanted.binary_search(stream).is_ok());
        let is_left_out = |stream: &Arc<str>| self.left_out.contains_key(stream) && !topics.is_fixed(stream);
        let is_new = |stream: &Arc<str>| !self.positions.contains_key(stream) && !is_left_out(stream);
        let new: Vec<_> = wanted.into_iter().filter(is_new).collect();
        for stream in &new {
            metrics.set_stream_lag(stream, 0);
        }
        self.find(server, new).await?;
        if !topics.are_streams_read() || !self.left_out.is_empty() {
            topics.begin_reading(self.positions.keys(), self.left_out.keys());
        }
        Ok(())
    }

    /// Measures how far the reader is behind, and whether entries were removed before it has read them.
    async fn sample(&mut self, server: &mut Server) -> Result<(), LinkError> {
        server.check_role().await?;
        let left_out = self.left_out.keys().cloned().collect();
        self.find(server, left_out).await?;
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
        if metrics.log_limits.permit("entry of a stream too large", stream) {
            let bytes = payload.len();
            tracing::warn!(
                stream,
                id,
                bytes,
                "entry of a stream dropped: it is larger than `server.max_message_bytes`"
            );
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
