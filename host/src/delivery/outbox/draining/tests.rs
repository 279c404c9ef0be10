use super::*;
use crate::delivery::outbox::{Keep, Limits, Outcome, ReplayLimits};
use bytes::Bytes;
use gateway_wire::packet::Header;
use proptest::prelude::*;
use socket2::SockRef;
use std::{
    io::{self, Read},
    net,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
    time::Duration,
};
use tokio::{net::TcpListener, runtime};

/// The length of the payload of all messages that fill a connection.
const LARGE: usize = 100_000;

/// Counts how often the receiver is woken up.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// An outbox, its receiver, and a client that is connected to them.
struct Connection {
    outbox: Outbox,
    wakes: Arc<Wakes>,
    /// The sending side of the connection, while the receiver has it.
    writer: Option<Writer>,
    client: net::TcpStream,
    /// The bytes that the client has received.
    received: Vec<u8>,
    /// The bytes of all messages that were queued, in their order.
    expected: Vec<u8>,
}

impl Connection {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        SockRef::from(&stream).set_send_buffer_size(8192).unwrap();
        Self {
            outbox: Outbox::new(Limits { batch_bytes: 16_384, ..Limits::of(100_000, usize::MAX) }),
            wakes: Arc::default(),
            writer: Some(Writer::new(stream.into_split().1)),
            client,
            received: Vec::new(),
            expected: Vec::new(),
        }
    }

    fn push(&mut self, len: usize) -> Outcome {
        let payload = Bytes::from(vec![self.expected.len() as u8; len]);
        let outcome = self.outbox.push(1, payload.clone(), Keep::Always);
        let header = Header::push(1, self.outbox.state().pushes);
        Outgoing { header, payload, keep: Keep::Always }.put_frame(&mut self.expected);
        outcome
    }

    /// Polls the outbox as the receiver does. Returns the messages for the receiver to write, or `None` if it waits.
    fn poll(&mut self) -> Option<VecDeque<Outgoing>> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut batch = VecDeque::new();
        let poll = self.outbox.poll_drain(&Context::from_waker(&waker), &mut batch, &mut self.writer);
        poll.is_ready().then_some(batch)
    }

    /// Does what the receiver does when it is woken up: writes until nothing is left.
    async fn receive(&mut self) {
        while let Some(batch) = self.poll() {
            let (write, mut bytes) = self.writer.take().unwrap().into_parts();
            batch.iter().for_each(|packet| packet.put_frame(&mut bytes));
            let mut left = &bytes[..];
            while !left.is_empty() {
                match write.try_write(left) {
                    Ok(written) => left = &left[written..],
                    Err(_) => {
                        self.read();
                        // Lets the runtime look at the connection.
                        tokio::time::timeout(Duration::from_millis(5), write.writable()).await.ok();
                    }
                }
            }
            self.writer = Some(Writer::new(write));
        }
    }

    /// Lets the client read what has arrived.
    fn read(&mut self) {
        let mut buffer = [0; 65_536];
        loop {
            match self.client.read(&mut buffer) {
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits until the client has received everything.
    async fn read_all(&mut self) {
        while self.received.len() < self.expected.len() {
            self.read();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(self.received == self.expected, "the received bytes differ from those of the messages");
    }

    fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_thread_writes_what_it_has_queued_and_the_receiver_sleeps_on() {
    let mut connection = Connection::new().await;
    assert!(connection.poll().is_none());
    for _ in 0..3 {
        // Only one of those who push has to flush.
        assert_eq!(connection.push(5), Outcome::Unannounced);
        assert_eq!(connection.push(6), Outcome::Queued);
        assert_eq!(connection.outbox.flush(), 2);
        assert_eq!(connection.outbox.flush(), 0);
    }
    connection.read_all().await;
    assert_eq!((connection.wakes(), connection.outbox.waiting()), (0, (0, 0)));
}

#[tokio::test]
async fn what_the_connection_does_not_take_is_left_to_the_receiver() {
    let mut connection = Connection::new().await;
    assert!(connection.poll().is_none());
    let mut pushes = 0;
    while connection.wakes() == 0 {
        connection.push(LARGE);
        connection.outbox.flush();
        pushes += 1;
        assert!(pushes < 1000, "the connection takes everything");
    }
    assert_eq!(connection.outbox.waiting().0, 1, "the message is in flight");
    // What is queued now comes after the rest of the last message, and nobody has to flush.
    assert_eq!(connection.push(1), Outcome::Queued);
    assert_eq!((connection.outbox.flush(), connection.wakes()), (0, 1));
    let batch = connection.poll().unwrap();
    assert!(batch.is_empty() && connection.writer.as_ref().unwrap().has_unwritten());
    connection.outbox.announce_drain();
    connection.receive().await;
    connection.read_all().await;
}

#[tokio::test]
async fn an_ending_session_is_left_to_its_receiver() {
    let mut connection = Connection::new().await;
    assert!(connection.poll().is_none());
    connection.push(1);
    connection.outbox.close(Closing::going_away());
    assert_eq!(connection.wakes(), 0, "the flush follows");
    assert_eq!((connection.outbox.flush(), connection.wakes()), (0, 1));
    assert_eq!(connection.poll().unwrap().len(), 1);
}

#[tokio::test]
async fn a_receiver_at_work_writes_itself() {
    let mut connection = Connection::new().await;
    assert!(connection.poll().is_none());
    let writer = connection.outbox.announce_drain();
    assert!(writer.is_some());
    assert_eq!(connection.push(1), Outcome::Queued);
    assert_eq!((connection.outbox.flush(), connection.wakes()), (0, 0));
}

#[tokio::test]
async fn a_push_that_nobody_flushes_is_left_to_the_receiver() {
    let mut connection = Connection::new().await;
    assert!(connection.poll().is_none());
    assert_eq!(connection.push(1), Outcome::Unannounced);
    connection.outbox.leave_to_receiver();
    assert_eq!(connection.wakes(), 1);
    assert_eq!(connection.poll().unwrap().len(), 1);
}

#[tokio::test]
async fn a_broken_connection_is_left_to_the_receiver() {
    let mut connection = Connection::new().await;
    assert!(connection.poll().is_none());
    SockRef::from(&connection.client).set_linger(Some(Duration::ZERO)).unwrap();
    connection.client =
        net::TcpStream::connect(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()).unwrap();
    for _ in 0..1000 {
        connection.push(1);
        connection.outbox.flush();
        if connection.wakes() > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the receiver does not get to know it");
}

#[tokio::test]
async fn a_full_batch_is_left_to_the_receiver_before_the_flush() {
    let mut connection = Connection::new().await;
    assert!(connection.poll().is_none());
    assert_eq!(connection.push(16_000), Outcome::Unannounced);
    assert_eq!(connection.wakes(), 0);
    // Only the push that completes the batch wakes the receiver up.
    for _ in 0..3 {
        assert_eq!(connection.push(400), Outcome::Queued);
        assert_eq!(connection.wakes(), 1);
    }
    connection.receive().await;
    assert_eq!(connection.outbox.flush(), 0);
    connection.read_all().await;
}

#[tokio::test]
async fn what_is_not_written_counts_until_the_receiver_asks_for_more() {
    let mut connection = Connection::new().await;
    assert!(connection.poll().is_none());
    while connection.wakes() == 0 {
        connection.push(LARGE);
        connection.outbox.flush();
    }
    assert!(connection.outbox.announce_drain().unwrap().has_unwritten());
    assert_eq!(connection.outbox.waiting().0, 1);
}

#[tokio::test]
async fn a_connection_that_is_to_end_is_left_to_its_receiver_even_if_nothing_waits() {
    let mut connection = Connection::new().await;
    let replay = Some(ReplayLimits { messages: 4, bytes: 1000 });
    connection.outbox = Outbox::new(Limits { replay, ..Limits::of(4, 100) });
    connection.outbox.admit_claims([1; 16]);
    assert!(connection.poll().is_none());
    let latest = |len| connection.outbox.push(1, Bytes::from(vec![0; len]), Keep::Latest { owner: 1, key: 1 });
    assert_eq!(latest(10), Outcome::Unannounced);
    // The push is too large to take the place of the first one, so both are dropped.
    assert_eq!(latest(200), Outcome::Full);
    assert!(connection.outbox.dismiss());
    assert_eq!((connection.outbox.flush(), connection.wakes()), (0, 1));
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize),
    Flush,
    /// The receiver goes on, with the sending side or without.
    Receive,
    /// The client reads.
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 0..300_usize, 1 => 20_000..LARGE];
    prop_oneof![4 => len.prop_map(Step::Push), 4 => Just(Step::Flush), 1 => Just(Step::Receive), 1 => Just(Step::Read)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_arrives_whole_and_in_its_order(steps in prop::collection::vec(step(), 0..60)) {
        let run = async {
            let mut connection = Connection::new().await;
            connection.receive().await;
            let mut is_due = false;
            for step in steps {
                match step {
                    Step::Push(len) => is_due |= connection.push(len) == Outcome::Unannounced,
                    Step::Flush => {
                        connection.outbox.flush();
                        is_due = false;
                    }
                    Step::Receive => connection.receive().await,
                    Step::Read => connection.read(),
                }
                // Somebody will write: the one who has to flush, or the receiver, which was woken up.
                let is_waiting = connection.outbox.waiting().0 > 0;
                assert!(!is_waiting || is_due || connection.wakes() > 0, "messages wait for nobody");
            }
            connection.receive().await;
            connection.read_all().await;
        };
        runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run);
    }
}
