//! The turn of a thread, in which calls of plugins are made and carried out. What they push to sessions is written at the
//! end of the turn: all messages for a session with one write, and without waking up the session's task.
//!
//! Outside of a turn, for example on the offload thread of a plugin, the tasks of the sessions write.

use crate::{delivery::session::Session, telemetry::metrics::Metrics};
use std::{cell::RefCell, mem, sync::Arc};
use tokio::runtime::Handle;

/// The number of sessions for which one thread writes at once. If there are more, other threads can write for them.
const PIECE: usize = 64;

thread_local! {
    /// The sessions for which this thread writes at the end of its turn, or `None` outside of a turn.
    static PUSHED: RefCell<Option<Vec<Arc<Session>>>> = const { RefCell::new(None) };
}

/// A turn. It ends when this is dropped, if not before.
pub struct Turn<'a> {
    metrics: &'a Arc<Metrics>,
    pushed: Vec<Arc<Session>>,
}

impl<'a> Turn<'a> {
    /// Returns a turn in which nothing has been pushed.
    #[must_use]
    pub fn new(metrics: &'a Arc<Metrics>) -> Self {
        Self { metrics, pushed: Vec::new() }
    }

    /// Does a part of the turn's work.
    pub fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let running = Running::begin(self);
        let output = work();
        drop(running);
        if self.pushed.len() >= PIECE {
            self.hand_over();
        }
        output
    }

    /// Writes what was pushed.
    pub fn end(&mut self) {
        write(mem::take(&mut self.pushed), self.metrics);
    }

    /// Leaves the writing to other threads of the runtime, or to this one when it has time.
    fn hand_over(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        while self.pushed.len() >= PIECE {
            let piece = self.pushed.split_off(self.pushed.len() - PIECE);
            let metrics = Arc::clone(self.metrics);
            runtime.spawn(async move { write(piece, &metrics) });
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The time in which a part of a turn's work is done. A panic in it loses nothing.
struct Running<'t, 'a>(&'t mut Turn<'a>);

impl<'t, 'a> Running<'t, 'a> {
    fn begin(turn: &'t mut Turn<'a>) -> Self {
        let outer = PUSHED.replace(Some(mem::take(&mut turn.pushed)));
        debug_assert!(outer.is_none(), "a turn within a turn");
        Self(turn)
    }
}

impl Drop for Running<'_, '_> {
    fn drop(&mut self) {
        self.0.pushed = PUSHED.take().unwrap_or_default();
    }
}

/// Lets the thread write what was pushed to the session, at the end of its turn. Outside of a turn, the session's task
/// writes it.
pub(super) fn write_later(session: &Arc<Session>) {
    let is_in_turn = PUSHED.with_borrow_mut(|pushed| match pushed {
        Some(pushed) => {
            pushed.push(Arc::clone(session));
            true
        }
        None => false,
    });
    if !is_in_turn {
        session.outbox.leave_to_receiver();
    }
}

fn write(sessions: Vec<Arc<Session>>, metrics: &Metrics) {
    let sent: usize = sessions.iter().map(|session| session.outbox.flush()).sum();
    if sent > 0 {
        metrics.sent.inc_by(sent as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::outbox::{Keep, Limits, Outcome, Writer};
    use bytes::Bytes;
    use std::{
        collections::VecDeque,
        net::SocketAddr,
        panic::{AssertUnwindSafe, catch_unwind},
        task::{Context, Waker},
        time::Duration,
    };
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
        time,
    };

    /// The length of the frame of an empty push.
    const FRAME_LEN: usize = 10;

    /// Returns sessions whose tasks wait, each with its client.
    async fn waiting(count: usize) -> Vec<(Arc<Session>, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sessions = Vec::new();
        for _ in 0..count {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, remote) = listener.accept().await.unwrap();
            let session = Arc::new(Session::new(remote, Limits::of(10, 1000)));
            let mut writer = Some(Writer::new(stream.into_split().1));
            let cx = Context::from_waker(Waker::noop());
            assert!(session.outbox.poll_drain(&cx, &mut VecDeque::new(), &mut writer).is_pending());
            sessions.push((session, client));
        }
        sessions
    }

    fn push(session: &Arc<Session>) {
        if session.outbox.push(1, Bytes::new(), Keep::Always) == Outcome::Unannounced {
            write_later(session);
        }
    }

    /// Waits until the client has received this many pushes.
    async fn received(client: &mut TcpStream, pushes: usize) {
        let mut bytes = vec![0; pushes * FRAME_LEN];
        time::timeout(Duration::from_secs(20), client.read_exact(&mut bytes)).await.unwrap().unwrap();
    }

    fn sent(metrics: &Metrics) -> String {
        let text = metrics.encode().unwrap();
        text.lines().find_map(|line| line.strip_prefix("gateway_messages_sent_total ")).unwrap().to_owned()
    }

    #[tokio::test]
    async fn what_a_turn_pushes_is_written_at_its_end() {
        let metrics = Arc::new(Metrics::new());
        let mut sessions = waiting(2).await;
        let mut turn = Turn::new(&metrics);
        for _ in 0..3 {
            turn.run(|| sessions.iter().for_each(|(session, _)| push(session)));
        }
        assert_eq!(turn.pushed.len(), 2, "each session is written for once");
        assert_eq!(sessions[0].0.outbox.waiting().0, 3);
        turn.end();
        assert_eq!(sent(&metrics), "6");
        for (_, client) in &mut sessions {
            received(client, 3).await;
        }
    }

    #[tokio::test]
    async fn the_writes_of_a_large_turn_are_shared() {
        let metrics = Arc::new(Metrics::new());
        let mut sessions = waiting(PIECE * 3 + 1).await;
        let mut turn = Turn::new(&metrics);
        turn.run(|| sessions.iter().for_each(|(session, _)| push(session)));
        assert!(turn.pushed.len() < PIECE, "{} are left to this thread", turn.pushed.len());
        drop(turn);
        for (_, client) in &mut sessions {
            received(client, 1).await;
        }
        assert_eq!(sent(&metrics), sessions.len().to_string());
    }

    #[tokio::test]
    async fn a_panic_in_a_turn_loses_nothing() {
        let metrics = Arc::new(Metrics::new());
        let mut sessions = waiting(1).await;
        let mut turn = Turn::new(&metrics);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            turn.run(|| {
                push(&sessions[0].0);
                panic!("a defect");
            });
        }));
        assert!(panicked.is_err());
        drop(turn);
        received(&mut sessions[0].1, 1).await;
        // Outside of a turn, nothing is written later.
        let outside = Arc::new(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), Limits::of(1, 100)));
        write_later(&outside);
        assert!(PUSHED.take().is_none());
    }
}
