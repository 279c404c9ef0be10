use super::*;
use crate::bus::intake::Message;
use crate::{
    bus::{
        Topics,
        health::{Direction, Health},
        redis::{
            confirmation::{self, Asking},
            observer::{Alone, Observer},
            place::Switches,
            probe::{self, Prober},
            words::PLAIN,
        },
    },
    config::{self, RedisPlace},
};
use futures_util::FutureExt;
use gateway_wire::resp::{self, Frame, Parsed};
use std::{collections::VecDeque, mem, str, thread};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

/// A handler that takes some time for each message on the topic `fixed`, and hears no other topic.
#[derive(Clone)]
struct Slow {
    slowness: Duration,
    gaps: mpsc::UnboundedSender<Duration>,
}

impl Handler for Slow {
    type Origin = ();

    async fn messages(&self, mut messages: Vec<Message<()>>) -> Vec<Message<()>> {
        messages.retain(|message| {
            let is_heard = message.topic == "fixed";
            if is_heard {
                thread::sleep(self.slowness);
            }
            !is_heard
        });
        messages
    }

    fn takes_entries(&self, _: &str) -> bool {
        true
    }

    fn is_served(&self, (): &()) -> bool {
        true
    }

    async fn missed(&self, blind: Duration) {
        let _ = self.gaps.send(blind);
    }

    fn refused(&self, (): &(), _: &str) {}
}

/// The end of a connection at which Redis would be.
struct Redis {
    stream: TcpStream,
    input: Vec<u8>,
    commands: VecDeque<Vec<String>>,
    answers: String,
    /// The channel of the probes.
    channel: String,
    /// Whether the subscription to the channel of the probes is refused.
    forbids_channel: bool,
}

impl Redis {
    /// Accepts a connection, and answers its handshake and the subscription to the channel of the probes.
    async fn accept(listener: &TcpListener) -> Self {
        Self::accept_with(listener, false).await
    }

    async fn accept_with(listener: &TcpListener, forbids_channel: bool) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut redis = Self {
            stream,
            input: Vec::with_capacity(64 << 10),
            commands: VecDeque::new(),
            answers: String::new(),
            channel: String::new(),
            forbids_channel,
        };
        assert_eq!(redis.command().await, ["HELLO", "3"]);
        assert_eq!(redis.command().await, ["PING"]);
        let first = redis.command().await;
        assert!(first.len() == 2 && first[0] == "SUBSCRIBE" && first[1].starts_with("gateway:"), "{first:?}");
        redis.channel = first[1].clone();
        redis
    }

    /// Sends a message on a topic.
    async fn message(&mut self, topic: &str, body: &str) {
        let frame = format!(">3\r\n+message\r\n+{topic}\r\n+{body}\r\n");
        self.stream.write_all(frame.as_bytes()).await.unwrap();
    }

    /// Waits for a command, and answers it together with the commands that arrived with it. Topics that begin with
    /// `forbidden` are refused.
    async fn command(&mut self) -> Vec<String> {
        while self.commands.is_empty() {
            assert_ne!(self.stream.read_buf(&mut self.input).await.unwrap(), 0, "the connection has ended");
            while let Parsed::Whole(Frame::List(parts), len) = resp::parse(&self.input).unwrap() {
                let text = |part: &Frame<'_>| match part {
                    Frame::Text(text) => str::from_utf8(text).unwrap().to_owned(),
                    other => panic!("{other:?}"),
                };
                self.commands.push_back(parts.iter().map(text).collect());
                self.input.drain(..len);
            }
        }
        let command = self.commands.pop_front().unwrap();
        self.answers += &match (&*command[0], command.last().unwrap()) {
            ("SUBSCRIBE", topic)
                if topic.starts_with("forbidden") || self.forbids_channel && topic.starts_with("gateway:") =>
            {
                "-NOPERM no permissions\r\n".to_owned()
            }
            ("SUBSCRIBE" | "UNSUBSCRIBE", _) => ">3\r\n+subscribe\r\n+t\r\n:1\r\n".repeat(command.len() - 1),
            (_, last) => format!("+{last}\r\n"),
        };
        if self.commands.is_empty() {
            self.stream.write_all(mem::take(&mut self.answers).as_bytes()).await.unwrap();
        }
        command
    }
}

/// A subscriber with the fixed topic `fixed`.
struct Stage {
    listener: TcpListener,
    topics: Arc<Topics>,
    asking: Asking,
    prober: Prober,
    health: Arc<Health>,
    gaps: mpsc::UnboundedReceiver<Duration>,
}

impl Stage {
    /// Starts a subscriber, whose policies take this long for a message. Returns its Redis after the first change.
    async fn start_with(timeout: Duration, slowness: Duration) -> (Redis, Self) {
        let (listener, topics) = (listener().await, Arc::new(Topics::default()));
        topics.set_fixed(BTreeSet::from(["fixed".to_owned()]));
        let config = config::Redis {
            place: RedisPlace::Server(format!("redis://{}", listener.local_addr().unwrap())),
            username: None,
            password: None,
            timeout,
            probe_interval: Duration::from_secs(60),
            max_message_bytes: 1024,
            streams: config::Streams::default(),
        };
        let health = Arc::new(Health::new(Arc::default()));
        health.set(&Direction::Publish.into(), None);
        let (sender, gaps) = mpsc::unbounded_channel();
        let handler = Slow { slowness, gaps: sender };
        let intake = Intake { queue: Arc::default(), handler, metrics: Arc::clone(&health.metrics) };
        let (asking, confirming) = confirmation::pair(Arc::clone(&topics));
        let (prober, probed) = probe::pair(&PLAIN, "gateway:1".into(), config.probe_interval);
        // These belong to a connection that broke before, and say nothing about the next one.
        prober.report.send_replace(Report { sent: 3, passed_on: 1, unheard: 2, by_replica: 3 });
        let switches = Switches::follow(&config.place, &mut JoinSet::new()).unwrap_or_else(|error| panic!("{error}"));
        let link = Link::new(config, Arc::clone(&health), Direction::Subscribe.into(), switches);
        let bus = (Arc::new(intake), Arc::new(Alone(Arc::default())) as Arc<dyn Observer<()>>);
        tokio::spawn(Subscriber::new(link, &PLAIN, bus, confirming, probed).run());
        let stage = Self { listener, topics, asking, prober, health, gaps };
        let mut redis = stage.accept().await;
        assert_eq!(redis.command().await, ["PING", "change 1"]);
        (redis, stage)
    }

    async fn start() -> (Redis, Self) {
        Self::start_with(Duration::from_secs(60), Duration::ZERO).await
    }

    /// Accepts the next connection of the subscriber, which subscribes to `fixed`.
    async fn accept(&self) -> Redis {
        let mut redis = Redis::accept(&self.listener).await;
        assert_eq!(redis.command().await, ["SUBSCRIBE", "fixed"]);
        assert_eq!(redis.command().await, ["PING", "0"]);
        redis
    }

    /// Waits until the topics are confirmed, and reports the next probe, number 4.
    async fn report(&self, report: impl FnOnce(&mut Report)) {
        while self.health.is_down(&Direction::Subscribe.into()) {
            time::sleep(Duration::from_millis(1)).await;
        }
        self.prober.report.send_modify(|all| {
            all.sent = 4;
            report(all);
        });
    }

    /// Asserts that the subscriber connects again, and that this counts as a failed probe. Returns why.
    async fn is_replaced(&self) -> String {
        let redis = Redis::accept(&self.listener).await;
        let why = self.health.error().unwrap();
        assert_eq!(self.health.metrics.bus_probe_failures.get(), 1, "{why}");
        drop(redis);
        why
    }
}

fn add_many(topics: &Topics, count: usize) {
    for i in 0..count {
        topics.add(&format!("{i:04}"));
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

#[tokio::test]
async fn many_topics_are_few_commands_and_a_new_connection_subscribes_to_all_of_them() {
    let (mut redis, stage) = Stage::start().await;
    let topics = &stage.topics;
    add_many(topics, 10_000);
    for commands in [&[513; 8][..], &[513; 8], &[513, 513, 513, 273]] {
        assert_eq!(redis.command().await, ["PING", "0"]);
        for len in commands {
            let command = redis.command().await;
            assert_eq!((&*command[0], command.len()), ("SUBSCRIBE", *len));
        }
    }
    assert_eq!(redis.command().await, ["PING", "change 10001"]);
    (1..10_000).for_each(|i| topics.remove(&format!("{i:04}")));
    assert_eq!(redis.command().await[0], "UNSUBSCRIBE");
    drop(redis);
    let mut redis = stage.accept().await;
    assert_eq!(redis.command().await, ["SUBSCRIBE", "0000"]);
    assert_eq!(redis.command().await, ["PING", "change 10001"]);
}

#[tokio::test]
async fn a_new_connection_is_confirmed_when_redis_has_subscribed_to_all_topics() {
    let (mut redis, mut stage) = Stage::start().await;
    add_many(&stage.topics, 5000);
    while redis.command().await != ["PING", "change 5001"] {}
    drop(redis);
    let mut redis = Redis::accept(&stage.listener).await;
    let mut confirmed = Box::pin(stage.asking.confirmed());
    assert_eq!((&mut confirmed).now_or_never(), None);
    let mut topics = 0;
    loop {
        let command = redis.command().await;
        match &*command[0] {
            "SUBSCRIBE" => topics += command.len() - 1,
            _ if command[1].starts_with("change ") => break,
            _ => {}
        }
        assert_eq!((&mut confirmed).now_or_never(), None, "after {topics} topics");
    }
    assert_eq!(topics, 5001);
    confirmed.await;
}

#[tokio::test]
async fn what_was_subscribed_to_is_confirmed_even_if_the_rest_is_not_wanted_any_more() {
    let (mut redis, stage) = Stage::start().await;
    add_many(&stage.topics, 5000);
    assert_eq!(redis.command().await, ["PING", "0"]);
    (0..5000).filter(|i| *i >= 4096).for_each(|i| stage.topics.remove(&format!("{i:04}")));
    // The last of these lets the ping be answered, after which the subscriber looks for more changes.
    for len in [513; 8] {
        assert_eq!(redis.command().await.len(), len);
    }
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["PING", "change 5001"]);
}

#[tokio::test]
async fn topics_that_change_one_by_one_are_gathered() {
    const COUNT: usize = 200;
    let (mut redis, stage) = Stage::start().await;
    let topics = &stage.topics;
    let began = Instant::now();
    let listen = async {
        for i in 0..COUNT {
            topics.add(&i.to_string());
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    let count = async {
        let (mut heard, mut writes) = (0, 0);
        while heard < COUNT {
            assert_eq!(redis.command().await, ["PING", "0"]);
            heard += redis.command().await.len() - 1;
            assert_eq!(redis.command().await, ["PING".to_owned(), format!("change {}", heard + 1)]);
            writes += 1;
        }
        writes
    };
    let ((), writes) = tokio::join!(listen, count);
    let max = began.elapsed().as_millis() / MIN_CHANGE_INTERVAL.as_millis() + 2;
    assert!(writes <= max, "{writes} writes in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_change_waits_until_redis_has_carried_out_the_last_one() {
    let (mut redis, stage) = Stage::start().await;
    let topics = &stage.topics;
    topics.add("a");
    // The ping is not answered before the other command of its write is taken.
    assert_eq!(redis.command().await, ["PING", "0"]);
    topics.add("b");
    let early = time::timeout(MIN_CHANGE_INTERVAL * 5, redis.stream.readable()).await;
    assert!(early.is_err(), "a change was sent");
    assert_eq!(redis.command().await, ["SUBSCRIBE", "a"]);
    assert_eq!(redis.command().await, ["PING", "change 2"]);
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "b"]);
}

#[tokio::test]
async fn a_forbidden_topic_ends_the_connection_only_if_it_is_fixed() {
    let (mut redis, stage) = Stage::start().await;
    let topics = &stage.topics;
    topics.add("forbidden");
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "forbidden"]);
    assert_eq!(redis.command().await, ["PING", "change 2"]);
    topics.add("allowed");
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "allowed"]);
    drop(redis);
    let mut redis = stage.accept().await;
    assert_eq!(redis.command().await, ["SUBSCRIBE", "allowed", "forbidden"]);
    assert_eq!(redis.command().await, ["PING", "change 3"]);
    topics.set_fixed(BTreeSet::from(["forbidden too".to_owned()]));
    assert_eq!(redis.command().await, ["SUBSCRIBE", "forbidden too"]);
    assert_eq!(redis.command().await, ["UNSUBSCRIBE", "fixed"]);
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["PING", "change 4"]);
    let mut redis = Redis::accept(&stage.listener).await;
    assert!(stage.health.error().unwrap().contains("NOPERM"));
    assert_eq!(redis.command().await, ["SUBSCRIBE", "forbidden too"]);
}

#[tokio::test]
async fn messages_that_arrive_together_with_the_refusal_of_a_fixed_topic_are_handled() {
    let (mut redis, stage) = Stage::start().await;
    // It is written together with the next answers.
    redis.answers += ">3\r\n+message\r\n+heard by nobody\r\n+hi\r\n";
    stage.topics.set_fixed(BTreeSet::from(["forbidden".to_owned()]));
    assert_eq!(redis.command().await, ["SUBSCRIBE", "forbidden"]);
    while redis.command().await != ["PING", "change 2"] {}
    let _redis = Redis::accept(&stage.listener).await;
    assert!(stage.health.error().unwrap().contains("NOPERM"));
    assert_eq!(stage.health.metrics.heard_not_here.get(), 1);
}

/// The timeout of the tests in which it passes. A quarter of it is long enough for a busy machine.
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_subscription_that_is_lost_although_pings_are_answered_is_replaced() {
    let (mut redis, stage) = Stage::start_with(SHORT, Duration::ZERO).await;
    stage.report(|report| report.passed_on = 4).await;
    // Messages on other topics prove nothing.
    redis.message("fixed", "hi").await;
    assert_eq!(redis.command().await, ["PING", "alive"]);
    assert_eq!(
        stage.is_replaced().await.split_once(": ").unwrap().1,
        "it answers, but a message of the gateway to itself did not arrive: the subscription is lost"
    );
}

#[tokio::test]
async fn a_probe_that_arrives_keeps_the_connection() {
    let (mut redis, stage) = Stage::start_with(SHORT, Duration::ZERO).await;
    let channel = redis.channel.clone();
    redis.message(&channel, "4").await;
    stage.report(|report| report.passed_on = 4).await;
    assert_eq!(redis.command().await, ["PING", "alive"]);
    // A probe that has not arrived would cause a ping within a quarter of the timeout.
    assert!(time::timeout(SHORT, redis.stream.readable()).await.is_err(), "something was sent");
    assert_eq!(stage.health.metrics.bus_probe_failures.get(), 0);
}

#[tokio::test]
async fn a_connection_on_which_nothing_arrives_is_late_and_then_replaced() {
    let (mut redis, stage) = Stage::start_with(SHORT, Duration::ZERO).await;
    stage.report(|report| report.passed_on = 4).await;
    let silence = async {
        assert_ne!(redis.stream.read_buf(&mut redis.input).await.unwrap(), 0, "no ping");
        assert_eq!(stage.health.error(), None, "the connection is late before the ping was unanswered");
        while stage.health.error().is_none() {
            time::sleep(Duration::from_millis(1)).await;
        }
        stage.health.error().unwrap()
    };
    let late = silence.await;
    assert_eq!(stage.health.metrics.bus_probe_failures.get(), 0, "{late}");
    let address = stage.listener.local_addr().unwrap();
    let expected = format!("redis redis://{address}: nothing has arrived from {address} since ");
    assert!(late.starts_with(&expected) && late.ends_with(" UTC, although an answer is due"), "{late}");
    assert_eq!(
        stage.is_replaced().await.split_once(": ").unwrap().1,
        "it does not answer within 2s (`redis.timeout_ms`)"
    );
}

#[tokio::test]
async fn a_late_connection_that_answers_after_all_is_kept() {
    let (mut redis, stage) = Stage::start_with(SHORT, Duration::ZERO).await;
    stage.report(|report| report.passed_on = 4).await;
    while stage.health.error().is_none() {
        time::sleep(Duration::from_millis(1)).await;
    }
    let channel = redis.channel.clone();
    redis.message(&channel, "4").await;
    while stage.health.error().is_some() {
        time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(redis.command().await, ["PING", "alive"]);
    assert_eq!(stage.health.metrics.bus_probe_failures.get(), 0);
}

#[tokio::test]
async fn a_subscription_on_another_server_or_on_a_replica_is_replaced_at_once() {
    let (_redis, stage) = Stage::start().await;
    stage.report(|report| report.unheard = 4).await;
    let why = stage.is_replaced().await;
    assert!(why.ends_with("had no subscriber: the subscription is lost, or is on another server"), "{why}");
    let (_redis, stage) = Stage::start().await;
    stage.report(|report| report.by_replica = 4).await;
    let why = stage.is_replaced().await;
    let address = stage.listener.local_addr().unwrap();
    assert!(why.contains(&format!("{address} is a replica, not a master")), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_is_behind_because_policies_are_slow_is_kept() {
    let (mut redis, stage) = Stage::start_with(SHORT / 4, Duration::from_millis(20)).await;
    let began = Instant::now();
    stage.report(|report| report.passed_on = 4).await;
    // One read is 64 messages, for which the policies take longer than the timeout.
    for _ in 0..200 {
        redis.message("fixed", &"x".repeat(1000)).await;
    }
    let channel = redis.channel.clone();
    redis.message(&channel, "4").await;
    stage.topics.add("after all of them");
    // This change is sent by the same task between two reads, and confirmed by the answers that come after the backlog.
    while redis.command().await != ["SUBSCRIBE", "after all of them"] {}
    stage.topics.add("and after that");
    while redis.command().await != ["SUBSCRIBE", "and after that"] {}
    assert!(began.elapsed() > Duration::from_secs(4), "the policies were not slow: {:?}", began.elapsed());
    assert_eq!((stage.health.error(), stage.health.metrics.bus_probe_failures.get()), (None, 0));
}

#[tokio::test]
async fn a_channel_that_the_acl_forbids_costs_no_connection() {
    let (redis, stage) = Stage::start().await;
    stage.report(|_| {}).await;
    drop(redis);
    let mut redis = Redis::accept_with(&stage.listener, true).await;
    assert_eq!(redis.command().await, ["SUBSCRIBE", "fixed"]);
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["PING", "change 1"]);
    stage.report(|_| {}).await;
    stage.topics.add("a");
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "a"]);
    assert_eq!(redis.command().await, ["PING", "change 2"]);
    assert_eq!(stage.health.error(), None);
}

#[tokio::test]
async fn a_gap_lasts_from_the_last_bytes_until_every_topic_is_subscribed_to_again() {
    const PAUSE: Duration = Duration::from_millis(300);
    let (redis, mut stage) = Stage::start().await;
    stage.report(|_| {}).await;
    add_many(&stage.topics, 5000);
    time::sleep(PAUSE).await;
    drop(redis);
    // This connection breaks after Redis has subscribed to the fixed topics, and before all topics are subscribed to.
    let mut redis = stage.accept().await;
    for len in [513; 8] {
        assert_eq!(redis.command().await.len(), len);
    }
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert!(stage.health.is_down(&Direction::Subscribe.into()), "not all topics are subscribed to");
    drop(redis);
    let mut redis = stage.accept().await;
    for len in [513; 8] {
        assert_eq!(redis.command().await.len(), len);
    }
    assert_eq!(redis.command().await, ["PING", "0"]);
    for len in [513, 393] {
        assert_eq!(redis.command().await.len(), len);
    }
    assert!(stage.gaps.try_recv().is_err(), "the gap has not ended");
    assert_eq!(redis.command().await, ["PING", "change 5001"]);
    let blind = stage.gaps.recv().await.unwrap();
    assert!(blind >= PAUSE && blind < Duration::from_secs(30), "{blind:?}");
    // Later changes are no gap.
    stage.topics.add("later");
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "later"]);
    assert_eq!(redis.command().await, ["PING", "change 5002"]);
    stage.topics.add("latest");
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert!(stage.gaps.try_recv().is_err());
}
