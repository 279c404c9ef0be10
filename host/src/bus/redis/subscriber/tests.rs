use super::*;
use crate::{
    bus::{
        Topics,
        health::{Direction, Health},
        redis::{
            confirmation::{self, Asking},
            place::Switches,
        },
    },
    config::{self, RedisPlace},
};
use futures_util::FutureExt;
use gateway_wire::resp::{self, Parsed};
use std::{collections::VecDeque, mem};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

struct Deaf;

impl Handler for Deaf {
    type Origin = ();

    fn message(&self, _: &str, _: &Bytes, _: Option<&()>) -> usize {
        1
    }

    fn is_served(&self, (): &()) -> bool {
        true
    }

    fn refused(&self, (): &(), _: &str) {}
}

/// The end of a connection at which Redis would be.
struct Redis {
    stream: TcpStream,
    input: Vec<u8>,
    commands: VecDeque<Vec<String>>,
    answers: String,
}

impl Redis {
    /// Accepts a connection, and answers its handshake.
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut redis =
            Self { stream, input: Vec::with_capacity(64 << 10), commands: VecDeque::new(), answers: String::new() };
        assert_eq!(redis.command().await, ["HELLO", "3"]);
        assert_eq!(redis.command().await, ["PING"]);
        redis
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
            ("SUBSCRIBE", topic) if topic.starts_with("forbidden") => "-NOPERM no permissions\r\n".to_owned(),
            ("SUBSCRIBE" | "UNSUBSCRIBE", _) => ">3\r\n+subscribe\r\n+t\r\n:1\r\n".repeat(command.len() - 1),
            (_, last) => format!("+{last}\r\n"),
        };
        if self.commands.is_empty() {
            self.stream.write_all(mem::take(&mut self.answers).as_bytes()).await.unwrap();
        }
        command
    }
}

/// Starts a subscriber with the fixed topic `fixed`. Returns its Redis after the first change, and the topics.
async fn start(listener: &TcpListener) -> (Redis, Arc<Topics>) {
    let (redis, topics, _) = start_asked(listener).await;
    (redis, topics)
}

/// Does the same as [`start`], and returns the publisher's side as well.
async fn start_asked(listener: &TcpListener) -> (Redis, Arc<Topics>, Asking) {
    let topics = Arc::new(Topics::default());
    topics.set_fixed(BTreeSet::from(["fixed".to_owned()]));
    let config = config::Redis {
        place: RedisPlace::Server(format!("redis://{}", listener.local_addr().unwrap())),
        username: None,
        password: None,
        timeout: Duration::from_secs(60),
        max_message_bytes: 1024,
    };
    let health = Arc::new(Health::new(Arc::default()));
    let intake = Intake { queue: Arc::default(), handler: Deaf, metrics: Arc::clone(&health.metrics) };
    let (asking, confirming) = confirmation::pair(Arc::clone(&topics));
    let switches = Switches::follow(&config.place, &mut JoinSet::new()).unwrap_or_else(|error| panic!("{error}"));
    let link = Link::new(config, health, Direction::Subscribe, switches);
    tokio::spawn(Subscriber::new(link, Arc::new(intake), confirming).run());
    let mut redis = Redis::accept(listener).await;
    assert_eq!(redis.command().await, ["SUBSCRIBE", "fixed"]);
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["PING", "change 1"]);
    (redis, topics, asking)
}

fn add_many(topics: &Topics, count: usize) {
    for i in 0..count {
        topics.add(&i.to_string());
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

#[tokio::test]
async fn many_topics_are_few_commands_and_a_new_connection_subscribes_to_all_of_them() {
    let listener = listener().await;
    let (mut redis, topics) = start(&listener).await;
    add_many(&topics, 10_000);
    for commands in [&[513; 8][..], &[513; 8], &[513, 513, 513, 273]] {
        assert_eq!(redis.command().await, ["PING", "0"]);
        for len in commands {
            let command = redis.command().await;
            assert_eq!((&*command[0], command.len()), ("SUBSCRIBE", *len));
        }
    }
    assert_eq!(redis.command().await, ["PING", "change 10001"]);
    (1..10_000).for_each(|i| topics.remove(&i.to_string()));
    assert_eq!(redis.command().await[0], "UNSUBSCRIBE");
    drop(redis);
    let mut redis = Redis::accept(&listener).await;
    assert_eq!(redis.command().await, ["SUBSCRIBE", "fixed"]);
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "0"]);
    assert_eq!(redis.command().await, ["PING", "change 10001"]);
}

#[tokio::test]
async fn a_new_connection_is_confirmed_when_redis_has_subscribed_to_all_topics() {
    let listener = listener().await;
    let (mut redis, topics, mut asking) = start_asked(&listener).await;
    add_many(&topics, 5000);
    while redis.command().await != ["PING", "change 5001"] {}
    drop(redis);
    let mut redis = Redis::accept(&listener).await;
    let mut confirmed = Box::pin(asking.confirmed());
    assert_eq!((&mut confirmed).now_or_never(), None);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "fixed"]);
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
    assert_eq!(topics, 5000);
    confirmed.await;
}

#[tokio::test]
async fn topics_that_change_one_by_one_are_gathered() {
    const COUNT: usize = 200;
    let listener = listener().await;
    let (mut redis, topics) = start(&listener).await;
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
    let listener = listener().await;
    let (mut redis, topics) = start(&listener).await;
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
    let listener = listener().await;
    let (mut redis, topics) = start(&listener).await;
    topics.add("forbidden");
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "forbidden"]);
    assert_eq!(redis.command().await, ["PING", "change 2"]);
    topics.add("allowed");
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "allowed"]);
    drop(redis);
    let mut redis = Redis::accept(&listener).await;
    assert_eq!(redis.command().await, ["SUBSCRIBE", "fixed"]);
    assert_eq!(redis.command().await, ["PING", "0"]);
    assert_eq!(redis.command().await, ["SUBSCRIBE", "allowed", "forbidden"]);
    assert_eq!(redis.command().await, ["PING", "change 3"]);
    topics.set_fixed(BTreeSet::from(["forbidden too".to_owned()]));
    assert_eq!(redis.command().await, ["SUBSCRIBE", "forbidden too"]);
    assert_eq!(redis.command().await, ["UNSUBSCRIBE", "fixed"]);
    assert_eq!(redis.command().await, ["PING", "0"]);
    let mut redis = Redis::accept(&listener).await;
    assert_eq!(redis.command().await, ["SUBSCRIBE", "forbidden too"]);
}
