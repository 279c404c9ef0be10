use super::*;
use futures_util::FutureExt;

/// Returns topics that have these fixed topics, on a connection that has subscribed to them. No topic lingers.
fn connected(fixed: &[&str]) -> Topics {
    let topics = Topics::new(Duration::ZERO);
    topics.set_fixed(set(fixed));
    topics.take();
    topics
}

fn set(topics: &[&str]) -> BTreeSet<String> {
    topics.iter().map(|&topic| topic.to_owned()).collect()
}

/// Asserts that the next changes are to subscribe to `added` and to unsubscribe from `removed`.
#[track_caller]
fn takes(topics: &Topics, added: &[&str], removed: &[&str]) {
    let changes = topics.take();
    let of = |changes: &[Arc<str>]| changes.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((of(&[changes.fixed, changes.added].concat()), of(&changes.removed)), (list(added), list(removed)));
}

fn list(topics: &[&str]) -> Vec<String> {
    topics.iter().map(|&topic| topic.to_owned()).collect()
}

#[test]
fn only_the_difference_to_what_was_sent_is_taken() {
    let topics = connected(&[]);
    topics.add("a");
    topics.add("b");
    topics.remove("a");
    takes(&topics, &["b"], &[]);
    topics.remove("b");
    topics.add("c");
    topics.add("b");
    takes(&topics, &["c"], &[]);
    topics.remove("b");
    takes(&topics, &[], &["b"]);
    takes(&topics, &[], &[]);
}

#[test]
fn a_topic_of_both_kinds_stays_subscribed_until_both_end() {
    let topics = connected(&["a", "b"]);
    topics.add("a");
    topics.add("b");
    takes(&topics, &[], &[]);
    topics.remove("a");
    topics.set_fixed(set(&["a"]));
    takes(&topics, &[], &[]);
    topics.remove("b");
    topics.set_fixed(set(&[]));
    takes(&topics, &[], &["a", "b"]);
    topics.add("c");
    topics.set_fixed(set(&["c"]));
    topics.remove("c");
    takes(&topics, &["c"], &[]);
    topics.add("c");
    topics.set_fixed(set(&[]));
    topics.remove("c");
    takes(&topics, &[], &["c"]);
}

#[test]
fn a_new_connection_subscribes_to_all_that_is_wanted_then() {
    let topics = connected(&["a"]);
    topics.add("b");
    topics.add("c");
    takes(&topics, &["b", "c"], &[]);
    topics.remove("b");
    topics.lost();
    topics.remove("c");
    topics.add("d");
    topics.add("a");
    assert_eq!(topics.changed().now_or_never(), Some(()));
    let changes = topics.take();
    let (fixed, added, news) = (vec!["a".into()], vec!["d".into()], Some(set(&["a"])));
    assert_eq!(changes, Changes { fixed, added, removed: Vec::new(), news, last: Some(4) });
    assert_eq!(topics.take(), Changes { last: Some(4), ..Changes::default() });
}

#[test]
fn only_changes_of_the_fixed_topics_are_marked_and_are_news() {
    let topics = connected(&["a"]);
    let marked = topics.fixed_changes();
    topics.add("b");
    assert_eq!((topics.take().news, marked.has_changed().unwrap()), (None, false));
    topics.set_fixed(set(&["a"]));
    assert_eq!((topics.take().news, marked.has_changed().unwrap()), (None, false));
    topics.set_fixed(set(&["a", "b"]));
    assert_eq!((topics.take().news, marked.has_changed().unwrap()), (Some(set(&["a", "b"])), true));
}

#[test]
fn the_fixed_topics_come_before_a_bounded_number_of_others() {
    let topics = Topics::default();
    for i in 0..=MAX_CHANGES {
        topics.add(&format!("{i:05}"));
    }
    topics.set_fixed(set(&["z"]));
    let changes = topics.take();
    assert_eq!((changes.fixed, changes.added.len(), changes.last), (vec!["z".into()], MAX_CHANGES, None));
    takes(&topics, &["04096"], &[]);
}

#[test]
fn the_number_of_the_last_change_comes_even_if_the_rest_of_the_changes_is_not_wanted_any_more() {
    let topics = connected(&[]);
    for i in 0..=MAX_CHANGES {
        topics.add(&format!("{i:05}"));
    }
    assert_eq!(topics.take().last, None);
    topics.remove("04096");
    assert_eq!(topics.changed().now_or_never(), Some(()));
    assert_eq!(topics.take(), Changes { last: Some(MAX_CHANGES as u64 + 1), ..Changes::default() });
    assert_eq!(topics.changed().now_or_never(), None);
}

#[test]
fn ended_topics_leave_nothing_behind() {
    let is_empty = |topics: &Topics| {
        let Table { topics, changed, lingering, .. } = &*topics.table();
        topics.is_empty() && changed.is_empty() && lingering.is_empty()
    };
    let topics = Topics::new(Duration::ZERO);
    topics.add("a");
    assert!(!is_empty(&topics));
    topics.remove("a");
    topics.remove("never added");
    assert!(is_empty(&topics), "without a connection");
    topics.add("a");
    topics.take();
    topics.remove("a");
    topics.take();
    assert!(is_empty(&topics), "with a connection");
    topics.add("a");
    topics.take();
    topics.remove("a");
    topics.lost();
    assert!(is_empty(&topics), "with a connection that was lost");
}

#[test]
fn a_topic_lingers_and_may_be_wanted_again() {
    let (mut table, now) = (Table { is_fixed_known: true, ..Table::default() }, Instant::now());
    let at = |s| now + Duration::from_secs(s);
    let add = |table: &mut Table, topic: &str| table.update(topic, None, |state| state.is_listened_to = true);
    let end = |table: &mut Table, topic: &str, until| {
        table.update(topic, Some(until), |state| state.is_listened_to = false);
    };
    add(&mut table, "a");
    add(&mut table, "b");
    assert_eq!(table.take(at(0)).added, [Arc::from("a"), Arc::from("b")]);
    end(&mut table, "a", at(2));
    end(&mut table, "b", at(3));
    assert_eq!((table.due(at(1)), table.take(at(1)).removed), (Due::At(at(2)), Vec::new()));
    add(&mut table, "a");
    assert_eq!(table.due(at(2)), Due::At(at(3)), "`a` is wanted again");
    end(&mut table, "a", at(4));
    assert_eq!((table.due(at(3)), table.take(at(3)).removed), (Due::Now, vec![Arc::from("b")]));
    assert_eq!((table.due(at(3)), table.take(at(4)).removed), (Due::At(at(4)), vec![Arc::from("a")]));
    assert_eq!((table.due(at(5)), table.topics.len()), (Due::Later, 0));
}

#[test]
fn the_number_of_a_change_is_that_of_the_subscription_it_began() {
    let topics = connected(&["fixed"]);
    assert_eq!((topics.add("a"), topics.add("b")), (2, 3));
    assert_eq!(topics.take().last, Some(3));
    topics.remove("a");
    assert_eq!(topics.take().last, Some(3));
    assert_eq!((topics.add("a"), topics.add("b")), (4, 3), "`b` is still subscribed to");
    assert_eq!(topics.add("fixed"), 0, "all publishes wait for fixed topics");
    topics.with_last(|last| assert_eq!(last, 4));
}

#[tokio::test]
async fn changed_waits_for_a_change() {
    let topics = connected(&[]);
    let mut waiting = Box::pin(topics.changed());
    assert_eq!((&mut waiting).now_or_never(), None);
    topics.add("a");
    topics.remove("a");
    assert_eq!((&mut waiting).now_or_never(), None, "the topic is not wanted any more");
    topics.add("b");
    assert_eq!((&mut waiting).now_or_never(), Some(()));
    topics.take();
    let mut waiting = Box::pin(topics.changed());
    assert_eq!((&mut waiting).now_or_never(), None);
    topics.set_fixed(set(&["b"]));
    assert_eq!((&mut waiting).now_or_never(), Some(()), "the fixed topics have changed");
    topics.take();
    let mut waiting = Box::pin(topics.changed());
    assert_eq!((&mut waiting).now_or_never(), None);
    topics.lost();
    assert_eq!((&mut waiting).now_or_never(), Some(()), "the next connection has no subscriptions");
}

#[test]
fn streams_are_read_and_not_subscribed_to() {
    let topics = Topics::new(Duration::ZERO);
    topics.set_fixed(set(&["a", "s"]));
    topics.add("t");
    topics.add("b");
    topics.set_streams(config::Streams::of(&["s", "t", "u"]));
    let names = |topics: &Topics| topics.streams().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((names(&topics), topics.are_streams_read()), (list(&["s", "t"]), false));
    takes(&topics, &["a", "b"], &[]);
    topics.begin_reading(topics.streams().iter(), [].iter());
    assert!(topics.are_streams_read());
    let mut changes = topics.stream_changes();
    changes.mark_unchanged();
    topics.begin_reading(topics.streams().iter(), [].iter());
    assert!(!changes.has_changed().unwrap(), "readers would wake each other again and again");

    assert_eq!(topics.add("u"), 0, "a publish must not wait for a subscription to a stream");
    assert!(!topics.are_streams_read());
    topics.begin_reading([&"u".into(), &"s".into()].into_iter(), [].iter());
    assert!(topics.are_streams_read());
    topics.remove("t");
    topics.remove("u");
    assert_eq!(names(&topics), list(&["s"]));
    topics.add("s");
    topics.set_fixed(set(&[]));
    assert_eq!((names(&topics), topics.are_streams_read()), (list(&["s"]), true));
    topics.lost();
    takes(&topics, &["b"], &[]);
    topics.remove("s");
    topics.add("s");
    assert!(!topics.are_streams_read(), "the position of a stream that was not wanted meanwhile");
}

#[test]
fn a_stream_that_is_left_out_is_waited_for_if_a_plugin_subscribes_to_it() {
    let topics = Topics::new(Duration::ZERO);
    topics.set_streams(config::Streams::of(&["s"]));
    topics.add("s");
    assert!(!topics.are_streams_read());
    topics.begin_reading([].iter(), topics.streams().iter());
    assert!(topics.are_streams_read());
    topics.set_fixed(set(&["s"]));
    assert!(!topics.are_streams_read());
    topics.begin_reading(topics.streams().iter(), [].iter());
    assert!(topics.are_streams_read());
    topics.begin_reading([].iter(), topics.streams().iter());
    assert!(!topics.are_streams_read());
    topics.set_fixed(set(&[]));
    assert!(topics.are_streams_read());
}
