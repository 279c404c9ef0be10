use super::*;
use crate::{
    bus::{self, health::Part, intake::Message, redis::observer::Observer},
    config::RedisPlace,
    telemetry::metrics::Metrics,
};
use bytes::Bytes;
use std::{borrow::Cow, iter};

/// A handler that hears nothing.
#[derive(Clone)]
struct Deaf;

impl Handler for Deaf {
    type Origin = ();

    async fn messages(&self, messages: Vec<Message<()>>) -> Vec<Message<()>> {
        messages
    }

    fn takes_entries(&self, _: &str) -> bool {
        true
    }

    fn is_served(&self, (): &()) -> bool {
        true
    }

    async fn missed(&self, _: Duration) {}

    fn refused(&self, (): &(), _: &str) {}
}

/// Two addresses at which nothing listens.
const MASTERS: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:2"];

/// Returns slots that all belong to one master, except the first half, which belongs to another one.
fn view(first: &str, second: &str) -> Slots {
    Slots::from_ranges([(0..=8191, first), (8192..=16383, second)])
}

fn cluster() -> Cluster<Deaf> {
    cluster_with(&[])
}

/// Returns a Cluster in which these topics are streams.
fn cluster_with(streams: &[&str]) -> Cluster<Deaf> {
    let metrics = Arc::new(Metrics::new());
    let intake = Intake { queue: Arc::default(), handler: Deaf, metrics: Arc::clone(&metrics) };
    let config = config::Redis {
        place: RedisPlace::Cluster { urls: vec![format!("redis://{}", MASTERS[0])] },
        username: None,
        password: None,
        timeout: Duration::from_secs(60),
        probe_interval: Duration::from_secs(60),
        max_message_bytes: 1024,
        streams: config::Streams::of(streams),
    };
    let mut cluster = Cluster::new(config, Arc::new(intake), Arc::default(), Arc::new(Health::new(metrics)));
    cluster.apply(MASTERS[0], &view(MASTERS[0], MASTERS[1]), Instant::now());
    cluster
}

/// Returns how many publishes were refused.
fn refused(cluster: &Cluster<Deaf>) -> usize {
    let metrics = cluster.intake.metrics.encode().unwrap();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("gateway_messages_dropped_total{reason=\"bus_unavailable\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

/// Makes a node one that began longer ago than the time in which it should have been reached.
fn age(cluster: &mut Cluster<Deaf>, master: &str) {
    cluster.nodes.get_mut(master).unwrap().began -= Duration::from_secs(6);
}

/// The first master refuses a publish, because another one is responsible.
fn is_refused_by_the_first(cluster: &Cluster<Deaf>) {
    // The slot of this topic is 4435.
    let publication = Publication { topic: "game:request:mmo", body: b"hi", origin: None, trace: None };
    assert!(cluster.nodes[MASTERS[0]].observer().take_back(&publication));
}

#[tokio::test]
async fn a_publish_that_a_master_refuses_waits_until_that_master_says_who_is_responsible() {
    let mut cluster = cluster();
    let earlier = Instant::now();
    is_refused_by_the_first(&cluster);
    // The other master does not know yet, and the first one was asked too early.
    cluster.apply(MASTERS[1], &view(MASTERS[0], MASTERS[1]), Instant::now());
    cluster.apply(MASTERS[0], &view(MASTERS[0], MASTERS[1]), earlier);
    assert_eq!((refused(&cluster), cluster.is_in_trouble()), (0, true));
    assert_eq!(cluster.nodes[MASTERS[1]].queued(), 0);
    cluster.apply(MASTERS[0], &view(MASTERS[1], MASTERS[1]), Instant::now());
    assert_eq!((refused(&cluster), cluster.nodes.len()), (0, 1), "the first master has no slot any more");
    assert_eq!(cluster.nodes[MASTERS[1]].queued(), 1);
}

#[tokio::test]
async fn a_master_that_refuses_its_own_topics_is_connected_to_anew() {
    let mut cluster = cluster();
    let number = cluster.nodes[MASTERS[0]].number;
    is_refused_by_the_first(&cluster);
    cluster.apply(MASTERS[0], &view(MASTERS[0], MASTERS[1]), Instant::now());
    assert_ne!(cluster.nodes[MASTERS[0]].number, number);
    assert_eq!((refused(&cluster), cluster.nodes[MASTERS[0]].queued()), (0, 1));
}

#[tokio::test]
async fn a_topic_whose_slot_moves_is_not_unsubscribed_from_at_its_previous_master() {
    const SLOT: usize = 4435;
    let [first, second] = MASTERS;
    let moved = Slots::from_ranges([(0..=8191, first), (SLOT..=SLOT, second), (8192..=16383, second)]);
    // The own channel of the first master stays where it is.
    let mut cluster = iter::repeat_with(cluster).find(|cluster| cluster.nodes[first].has_own_channel(&moved)).unwrap();
    cluster.topics.set_fixed(["game:request:mmo".to_owned()].into());
    cluster.topics.add("{game:request:mmo}:7");
    cluster.change_topics();
    let taken = |cluster: &Cluster<Deaf>, master: &str| {
        let changes = cluster.nodes[master].topics.take();
        (changes.fixed.len(), changes.added.len(), changes.removed.len())
    };
    assert_eq!((taken(&cluster, first), taken(&cluster, second)), ((1, 1, 0), (0, 0, 0)));
    cluster.apply(first, &moved, Instant::now());
    assert_eq!((taken(&cluster, first), taken(&cluster, second)), ((0, 0, 0), (1, 1, 0)));
    assert_eq!(cluster.moves.len(), 1);
}

#[tokio::test]
async fn a_topic_that_plugins_end_and_sessions_listen_to_stays_subscribed_to() {
    let topic = "game:request:mmo";
    let mut cluster = cluster();
    cluster.topics = Arc::new(Topics::new(Duration::ZERO));
    cluster.topics.set_fixed([topic.to_owned()].into());
    cluster.change_topics();
    let taken = |cluster: &Cluster<Deaf>| {
        let changes = cluster.nodes[MASTERS[0]].topics.take();
        (changes.fixed.len(), changes.added.len(), changes.removed.len())
    };
    assert_eq!(taken(&cluster), (1, 0, 0));
    cluster.topics.add(topic);
    cluster.topics.set_fixed([].into());
    cluster.change_topics();
    assert_eq!(taken(&cluster), (0, 0, 0));
    cluster.topics.remove(topic);
    cluster.change_topics();
    assert_eq!(taken(&cluster), (0, 0, 1));
}

#[tokio::test]
async fn a_master_that_is_never_reached_is_replaced_like_one_that_is_lost() {
    let [first, second] = MASTERS;
    let mut cluster = cluster();
    let took_over = Slots::from_ranges([(0..=16383, second)]);
    let masters = |cluster: &Cluster<Deaf>| cluster.nodes.keys().map(ToString::to_string).collect::<Vec<_>>();
    cluster.apply(second, &took_over, Instant::now());
    assert_eq!(masters(&cluster), [first, second], "it may be about to answer");
    age(&mut cluster, first);
    assert_eq!((&*cluster.to_ask()[0], cluster.is_in_trouble()), (second, true));
    cluster.apply(second, &took_over, Instant::now());
    assert_eq!(masters(&cluster), [second]);
}

#[tokio::test]
async fn the_first_topic_at_a_master_that_had_none_is_waited_for() {
    let mut cluster = cluster();
    cluster.nodes[MASTERS[0]].observer().carried_out(0);
    age(&mut cluster, MASTERS[0]);
    let node = &cluster.nodes[MASTERS[0]];
    assert!(!node.is_away());
    assert!(node.has_carried_out(0) && !node.has_carried_out(1));
}

#[tokio::test]
async fn what_a_master_says_about_a_slot_that_has_moved_in_the_meantime_is_old_news() {
    let [first, second] = MASTERS;
    let moved = Slots::from_ranges([(0..=8191, first), (4435..=4435, second), (8192..=16383, second)]);
    let mut cluster = iter::repeat_with(cluster).find(|cluster| cluster.nodes[first].has_own_channel(&moved)).unwrap();
    let number = cluster.nodes[first].number;
    let asked_at = Instant::now();
    // These come back while the master is being asked.
    is_refused_by_the_first(&cluster);
    cluster.apply(first, &moved, asked_at);
    assert_eq!((cluster.nodes[second].queued(), cluster.is_in_trouble()), (1, false));
    cluster.apply(first, &moved, Instant::now());
    assert_eq!((cluster.nodes[first].number, refused(&cluster)), (number, 0));
}

#[tokio::test]
async fn streams_are_no_channels_and_publishes_wait_until_they_are_read() {
    let mut cluster = cluster_with(&["broadcast"]);
    cluster.is_known = true;
    cluster.topics.set_fixed(["broadcast", "game:request:mmo"].map(str::to_owned).into());
    assert_eq!(cluster.way_of_publishes(), Way::Wait);
    cluster.topics.begin_reading(cluster.topics.streams().iter(), [].iter());
    assert_eq!(cluster.way_of_publishes(), Way::PassOn);
    cluster.change_topics();
    assert_eq!(cluster.placed.fixed.keys().map(|topic| &**topic).collect::<Vec<_>>(), ["game:request:mmo"]);
    for topic in ["broadcast", "game:request:mmo"] {
        cluster.pass_on(&Publication { topic, body: b"hi", origin: None, trace: None });
    }
    // The slot of the stream belongs to the second master.
    assert_eq!((cluster.nodes[MASTERS[0]].queued(), cluster.nodes[MASTERS[1]].queued(), refused(&cluster)), (1, 0, 0));
    assert_eq!(cluster.streams.queued("broadcast"), 1);
}

#[tokio::test]
async fn publishes_that_were_taken_before_a_stream_became_wanted_wait_until_it_is_read() {
    let mut cluster = cluster_with(&["broadcast", "broadcast:user:7"]);
    cluster.is_known = true;
    let taken = |cluster: &Cluster<Deaf>| {
        let (queue, share, mut batch) = (Arc::clone(&cluster.intake.queue), bus::Share::default(), Batch::default());
        let permit = queue.reserve(&share, bus::Load { publishes: 1, bytes: 18 }).unwrap();
        permit.commit(0, [("game:request:mmo", Cow::Borrowed(&Bytes::from_static(b"hi")), None)].into_iter());
        queue.take_now(&mut batch);
        batch
    };
    let mut batch = taken(&cluster);
    assert_eq!(cluster.way_of_publishes(), Way::PassOn);
    cluster.topics.set_fixed(["broadcast".to_owned()].into());
    cluster.publish(&mut batch);
    assert_eq!((batch.len(), cluster.nodes[MASTERS[0]].queued()), (1, 0));
    cluster.topics.begin_reading(cluster.topics.streams().iter(), [].iter());
    cluster.publish(&mut batch);
    assert_eq!((batch.len(), cluster.nodes[MASTERS[0]].queued(), refused(&cluster)), (0, 1, 0));
    // If a stream cannot be read for long, they are refused.
    let mut batch = taken(&cluster);
    cluster.topics.set_fixed(["broadcast", "broadcast:user:7"].map(str::to_owned).into());
    assert_eq!(cluster.way_of_publishes(), Way::Wait);
    cluster.patience.ends = Some(Instant::now());
    cluster.publish(&mut batch);
    assert_eq!((batch.len(), cluster.nodes[MASTERS[0]].queued(), refused(&cluster)), (0, 1, 1));
}

#[tokio::test]
async fn masters_whose_streams_do_not_work_are_asked_by_turns() {
    let mut cluster = cluster_with(&["broadcast", "game:request:mmo"]);
    let [first, second] = MASTERS;
    let asks = |cluster: &Cluster<Deaf>| cluster.to_ask()[0].to_string();
    cluster.apply(first, &view(first, second), Instant::now());
    assert_eq!(asks(&cluster), second, "it was not asked for longer");
    cluster.topics.set_fixed(["broadcast", "game:request:mmo"].map(str::to_owned).into());
    cluster.streams.begin_wanted(&cluster.slots, &mut cluster.tasks);
    cluster.apply(second, &view(first, second), Instant::now());
    let down = |cluster: &Cluster<Deaf>, stream: &str| {
        let part = Part { direction: Direction::Read, node: cluster.streams.part_of(stream).unwrap() };
        cluster.health.set(&part, Some("why".to_owned()));
    };
    down(&cluster, "broadcast");
    assert_eq!(asks(&cluster), second, "its slot may have moved");
    cluster.apply(second, &view(first, second), Instant::now());
    assert_eq!(asks(&cluster), second);
    down(&cluster, "game:request:mmo");
    for asked in [first, second, first] {
        assert_eq!(asks(&cluster), asked);
        cluster.apply(asked, &view(first, second), Instant::now());
    }
}

#[tokio::test]
async fn a_slot_ends_when_no_stream_of_it_was_wanted_or_published_to_for_a_while() {
    let mut cluster = cluster_with(&["broadcast", "game:request:mmo", "x"]);
    cluster.topics.set_fixed(["broadcast".to_owned()].into());
    cluster.streams.begin_wanted(&cluster.slots, &mut cluster.tasks);
    cluster.pass_on(&Publication { topic: "game:request:mmo", body: b"hi", origin: None, trace: None });
    let begun = |cluster: &Cluster<Deaf>| {
        ["broadcast", "game:request:mmo", "x"].map(|stream| cluster.streams.part_of(stream).is_some())
    };
    let soon = Instant::now() + Duration::from_secs(30);
    cluster.streams.end_unused(soon);
    assert_eq!(begun(&cluster), [true, true, false]);
    cluster.streams.end_unused(soon + Duration::from_secs(40));
    assert_eq!(begun(&cluster), [true, false, false]);
    cluster.topics.set_fixed(["x".to_owned()].into());
    cluster.streams.begin_wanted(&cluster.slots, &mut cluster.tasks);
    cluster.streams.end_unused(soon + Duration::from_secs(120));
    assert_eq!(begun(&cluster), [false, false, true]);
    // It begins again with another name, because the connections of the first one may still be about to end.
    let first = cluster.streams.part_of("x");
    cluster.topics.set_fixed([].into());
    cluster.streams.end_unused(soon + Duration::from_secs(300));
    cluster.pass_on(&Publication { topic: "x", body: b"hi", origin: None, trace: None });
    assert!(cluster.streams.part_of("x").is_some_and(|part| Some(part) != first));
}
