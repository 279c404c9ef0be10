use super::*;
use crate::{
    bus::{
        health::{Direction, Health},
        intake::Message,
        redis::place::Switches,
    },
    config::RedisPlace,
    telemetry::metrics::Metrics,
};
use gateway_wire::resp::{self, Parsed};
use redis::IntoConnectionInfo;
use std::{
    collections::VecDeque,
    str,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The answer to an entry that was written.
const WRITTEN: Frame<'static> = Frame::Text(b"1-0");

/// The answer to an entry whose slot has moved.
const MOVED: Frame<'static> = Frame::Error(b"MOVED 4435 127.0.0.1:7002");

/// A handler that records what is refused, by the number of the publish.
#[derive(Clone, Default)]
struct Refusals(Arc<Mutex<Vec<(u64, String)>>>);

impl Handler for Refusals {
    type Origin = u64;

    async fn messages(&self, messages: Vec<Message<u64>>) -> Vec<Message<u64>> {
        messages
    }

    fn takes_entries(&self, _: &str) -> bool {
        true
    }

    fn is_served(&self, _: &u64) -> bool {
        true
    }

    async fn missed(&self, _: Duration) {}

    fn refused(&self, origin: &u64, why: &str) {
        self.0.lock().unwrap().push((*origin, why.to_owned()));
    }
}

/// Publishes, and what became of them.
struct Stage {
    appends: Appends<u64>,
    intake: Intake<Refusals>,
}

impl Stage {
    /// Returns publishes with the numbers from 1, that count as accepted when this number of replicas has them.
    fn new(publishes: u64, replicas: u64) -> Self {
        let mut streams = config::Streams::of(&["t"]);
        streams.replicas = replicas;
        let intake = Intake { queue: Arc::default(), handler: Refusals::default(), metrics: Arc::new(Metrics::new()) };
        let mut stage = Self { appends: Appends::new(streams), intake };
        (1..=publishes).for_each(|number| stage.push(number));
        stage
    }

    fn push(&mut self, number: u64) {
        self.push_to("t", number);
    }

    fn push_to(&mut self, topic: &str, number: u64) {
        self.appends.push(&Publication { topic, body: b"hi", origin: Some(&number), trace: None });
    }

    fn answer(&mut self, answer: &Frame<'_>) {
        self.appends.answered(answer, &self.intake);
    }

    fn end_attempt(&mut self) {
        self.appends.end_attempt(&self.intake);
    }

    /// Returns the numbers of the publishes that are sent again, in their order.
    fn kept(&self) -> Vec<u64> {
        let number = |append: &Append<u64>| {
            let (writer, number) = append.id.rsplit_once('-').unwrap();
            assert_eq!((writer, append.publication.origin), (&*self.appends.writer, number.parse().ok()), "another id");
            append.publication.origin.unwrap()
        };
        self.appends.unaccepted.iter().map(number).collect()
    }

    fn refused(&self) -> Vec<u64> {
        self.intake.handler.0.lock().unwrap().iter().map(|(number, _)| *number).collect()
    }

    /// Returns why the last publish was refused.
    fn why(&self) -> String {
        self.intake.handler.0.lock().unwrap().last().unwrap().1.clone()
    }

    fn accepted(&self) -> u64 {
        self.intake.metrics.published.get()
    }
}

/// Asserts what becomes of publishes with these answers: `w` is written, `m` is moved, `r` is refused for good, and `-` is
/// the end of the connection.
#[track_caller]
fn check(answers: &str, replicas: u64, kept: &[u64], refused: &[u64], accepted: u64) {
    let mut stage = Stage::new(answers.len() as u64, replicas);
    for answer in answers.chars() {
        match answer {
            'w' => stage.answer(&WRITTEN),
            'm' => stage.answer(&MOVED),
            'r' => stage.answer(&Frame::Error(b"OOM command not allowed")),
            _ => break,
        }
    }
    stage.end_attempt();
    let mut sorted = stage.refused();
    sorted.sort_unstable();
    assert_eq!((&*stage.kept(), &*sorted, stage.accepted()), (kept, refused, accepted), "{answers}");
}

#[test]
fn an_entry_is_sent_again_unless_a_later_one_may_be_written() {
    check("www", 0, &[], &[], 3);
    check("mmm", 0, &[1, 2, 3], &[], 0);
    check("---", 0, &[1, 2, 3], &[], 0);
    check("wmm", 0, &[2, 3], &[], 1);
    check("w--", 0, &[2, 3], &[], 1);
    // Readers would take the first one for a duplicate.
    check("mw", 0, &[], &[1], 1);
    check("m-", 0, &[2], &[1], 0);
    check("mwm", 0, &[3], &[1], 1);
    check("mmwm-", 0, &[5], &[1, 2, 4], 1);
    // What was refused for good is in no stream.
    check("mr", 0, &[1], &[2], 0);
    check("rm", 0, &[2], &[1], 0);
    check("mrm", 0, &[1, 3], &[2], 0);
    check("mrw", 0, &[], &[1, 2], 1);
}

#[test]
fn an_entry_is_sent_again_although_a_later_one_is_written_to_another_stream() {
    let mut stage = Stage::new(0, 0);
    for (number, topic) in (1..).zip(["t", "u", "t", "u", "t"]) {
        stage.push_to(topic, number);
    }
    [MOVED, MOVED, WRITTEN, MOVED, MOVED].iter().for_each(|answer| stage.answer(answer));
    stage.end_attempt();
    assert_eq!((stage.kept(), stage.refused(), stage.accepted()), (vec![2, 4, 5], vec![1], 1));
}

#[test]
fn with_replicas_a_written_entry_is_not_accepted_yet() {
    check("ww", 1, &[1, 2], &[], 0);
    check("wm", 1, &[1, 2], &[], 0);
    check("mw", 1, &[2], &[1], 0);
    check("wmw-", 1, &[1, 3, 4], &[2], 0);
}

#[test]
fn errors_that_may_pass_refuse_nothing() {
    for error in [
        "MOVED 4435 127.0.0.1:7002",
        "ASK 4435 127.0.0.1:7002",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down",
        "NOREPLICAS Not enough good replicas to write.",
        "BUSY Redis is busy running a script",
    ] {
        let mut stage = Stage::new(1, 0);
        stage.answer(&Frame::Error(error.as_bytes()));
        stage.end_attempt();
        assert_eq!((stage.kept(), stage.refused()), (vec![1], vec![]), "{error}");
    }
    for (answer, why) in [
        (Frame::Error(b"WRONGTYPE Operation"), NotTaken::NotAStream),
        (Frame::Error(b"NOPERM no permissions"), NotTaken::Forbidden),
        (Frame::Error(b"OOM command not allowed"), NotTaken::Full),
        (Frame::Error(b"ERR unknown command"), NotTaken::Refused),
        (Frame::Integer(1), NotTaken::Unintelligible),
    ] {
        let mut stage = Stage::new(1, 0);
        stage.answer(&answer);
        stage.end_attempt();
        assert_eq!((stage.kept(), stage.refused(), stage.why()), (vec![], vec![1], why.to_string()));
    }
}

#[tokio::test]
async fn what_is_not_accepted_within_the_grace_period_is_refused() {
    let mut stage = Stage::new(1, 0);
    let earliest = Instant::now() + GRACE;
    stage.end_attempt();
    let at = stage.appends.refused_at.unwrap();
    assert!(at >= earliest && at <= Instant::now() + GRACE);
    // Another attempt does not begin the period anew, and what comes later shares it.
    stage.push(2);
    [MOVED, MOVED].iter().for_each(|answer| stage.answer(answer));
    stage.end_attempt();
    assert_eq!((stage.kept(), stage.appends.refused_at), (vec![1, 2], Some(at)));
    let refuse = async |stage: &mut Stage| {
        let Stage { appends, intake } = stage;
        let refused = time::timeout(Duration::from_millis(20), appends.refuse_in_time(intake)).await;
        assert!(refused.is_err(), "it never returns");
    };
    refuse(&mut stage).await;
    assert_eq!((stage.kept(), stage.refused()), (vec![1, 2], vec![]));
    stage.appends.refused_at = Some(Instant::now());
    refuse(&mut stage).await;
    assert_eq!((stage.kept(), stage.refused(), stage.why()), (vec![], vec![1, 2], NotTaken::Unknown.to_string()));
    assert!(stage.appends.is_empty() && stage.appends.refused_at.is_none());
}

/// The end of a connection at which Redis would be.
struct Redis {
    stream: TcpStream,
    input: Vec<u8>,
    commands: VecDeque<Vec<String>>,
}

impl Redis {
    /// Returns both ends of a connection, and its link.
    async fn connected() -> (Self, Connection, Link) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let config = config::Redis {
            place: RedisPlace::Server(url.clone()),
            username: None,
            password: None,
            timeout: Duration::from_secs(60),
            probe_interval: Duration::from_secs(60),
            max_message_bytes: 1024,
            streams: config::Streams::default(),
        };
        let switches = Switches::follow(&config.place, &mut JoinSet::new()).unwrap();
        let handshake = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut redis = Self { stream, input: Vec::new(), commands: VecDeque::new() };
            redis.expects(&["HELLO", "PING"], "+OK\r\n+PONG\r\n").await;
            redis
        };
        let open = Connection::open(&config, url.into_connection_info().unwrap(), switches.clone());
        let (redis, connection) = tokio::join!(handshake, open);
        let health = Arc::new(Health::new(Arc::default()));
        (redis, connection.unwrap(), Link::new(config, health, Direction::Publish.into(), switches))
    }

    /// Waits for commands with these beginnings, and gives these answers. Each command gets one line.
    async fn expects(&mut self, commands: &[&str], answers: &str) {
        let mut answers = answers.split_inclusive("\r\n");
        for wanted in commands {
            let command = self.command().await.join(" ");
            assert!(command.starts_with(wanted), "{wanted}: {command}");
            self.stream.write_all(answers.next().unwrap_or_default().as_bytes()).await.unwrap();
        }
    }

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
        self.commands.pop_front().unwrap()
    }
}

/// Returns the command for the publish with this number, up to its payload.
fn xadd(stage: &Stage, number: u64) -> String {
    format!("XADD t MAXLEN ~ 1000 * id {}-{number} payload hi", stage.appends.writer)
}

#[tokio::test]
async fn a_passing_error_lets_written_entries_wait_and_all_are_sent_again_in_order_with_their_ids() {
    let (mut redis, mut connection, link) = Redis::connected().await;
    let mut stage = Stage::new(3, 1);
    [WRITTEN, MOVED, MOVED].iter().for_each(|answer| stage.answer(answer));
    stage.end_attempt();
    let Stage { appends, intake } = &mut stage;
    // There is no WAIT, and so nothing is accepted that is in front of what was refused.
    let error = appends.settle(&mut connection, &link, intake).await.unwrap_err();
    assert!(matches!(&error, LinkError::Refused { command: "XADD", why } if why.starts_with("MOVED ")), "{error}");
    assert_eq!((stage.kept(), stage.accepted()), (vec![1, 2, 3], 0));
    let commands = [1, 2, 3].map(|number| xadd(&stage, number));
    let [first, second, third] = commands.each_ref().map(|command| &**command);
    let Stage { appends, intake } = &mut stage;
    let commands = [first, second, third, "WAIT 1 500"];
    let all = redis.expects(&commands, "+1-0\r\n+2-0\r\n+3-0\r\n:1\r\n");
    let (resent, ()) = tokio::join!(appends.resend(&mut connection, &link, intake), all);
    resent.unwrap();
    assert_eq!((stage.kept(), stage.refused(), stage.accepted()), (vec![], vec![], 3));
}

#[tokio::test]
async fn mixed_answers_to_entries_that_are_sent_again_are_settled_as_at_first() {
    let (mut redis, mut connection, link) = Redis::connected().await;
    let mut stage = Stage::new(3, 1);
    stage.end_attempt();
    let Stage { appends, intake } = &mut stage;
    let answers = redis.expects(&["XADD"; 3], "-TRYAGAIN later\r\n+2-0\r\n-CLUSTERDOWN\r\n");
    let (resent, ()) = tokio::join!(appends.resend(&mut connection, &link, intake), answers);
    assert!(matches!(resent, Err(LinkError::Refused { command: "XADD", .. })), "{resent:?}");
    assert_eq!((stage.kept(), stage.refused(), stage.accepted()), (vec![2, 3], vec![1], 0));
}

#[tokio::test]
async fn without_enough_replicas_entries_are_asked_about_until_the_grace_period_is_over() {
    let (mut redis, mut connection, link) = Redis::connected().await;
    let mut stage = Stage::new(2, 1);
    let mut settle = async |stage: &mut Stage, answers: &str| {
        stage.answer(&WRITTEN);
        stage.answer(&WRITTEN);
        stage.end_attempt();
        let waits = vec!["WAIT 1 500"; answers.lines().count()];
        let answers = redis.expects(&waits, answers);
        let Stage { appends, intake } = stage;
        tokio::join!(appends.settle(&mut connection, &link, intake), answers).0.unwrap();
    };
    settle(&mut stage, ":0\r\n:0\r\n:2\r\n").await;
    assert_eq!((stage.kept(), stage.refused(), stage.accepted()), (vec![], vec![], 2));
    // The grace period is over.
    [3, 4].into_iter().for_each(|number| stage.push(number));
    stage.appends.refused_at = Some(Instant::now());
    settle(&mut stage, ":0\r\n").await;
    let few = NotTaken::FewReplicas.to_string();
    assert_eq!((stage.kept(), stage.refused(), stage.why(), stage.accepted()), (vec![], vec![3, 4], few, 2));
    // While replicas are missing, the next ones wait only once.
    [5, 6].into_iter().for_each(|number| stage.push(number));
    settle(&mut stage, ":0\r\n").await;
    assert_eq!((stage.kept(), stage.refused(), stage.accepted()), (vec![], vec![3, 4, 5, 6], 2));
    [7, 8].into_iter().for_each(|number| stage.push(number));
    settle(&mut stage, ":1\r\n").await;
    assert_eq!((stage.kept(), stage.accepted(), stage.appends.is_short), (vec![], 4, false));
}

#[tokio::test]
async fn a_wait_without_an_answer_accepts_and_refuses_nothing() {
    for answer in ["-ERR unknown command 'WAIT'\r\n", ""] {
        let (mut redis, mut connection, link) = Redis::connected().await;
        let mut stage = Stage::new(2, 1);
        stage.answer(&WRITTEN);
        stage.answer(&WRITTEN);
        stage.end_attempt();
        let Stage { appends, intake } = &mut stage;
        let answers = async {
            redis.expects(&["WAIT"], answer).await;
            drop(redis);
        };
        let (settled, ()) = tokio::join!(appends.settle(&mut connection, &link, intake), answers);
        let is_refused = matches!(settled, Err(LinkError::Refused { command: "WAIT", .. }));
        assert_eq!((settled.is_err(), is_refused), (true, !answer.is_empty()));
        assert_eq!((stage.kept(), stage.refused(), stage.accepted()), (vec![1, 2], vec![], 0));
    }
}
