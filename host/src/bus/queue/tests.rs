use super::{super::batch::MIN_SHARED_BYTES, *};
use futures_util::FutureExt;

const HALF: usize = MAX_QUEUED_PUBLISHES / 2;

fn taken(queue: &Queue<u32>) -> Vec<(String, Vec<u8>, Option<u32>)> {
    let mut batch = Batch::default();
    queue.take(&mut batch).now_or_never();
    batch.iter().map(|it| (it.topic.to_owned(), it.body.to_owned(), it.origin.copied())).collect()
}

fn publish(queue: &Queue<u32>, share: &Share, publishes: usize, body: &Bytes) -> Result<(), Full> {
    let bytes = publishes * (1 + body.len());
    let permit = queue.reserve(share, Load { publishes, bytes })?;
    permit.commit(0, (0..publishes).map(|_| ("t", Cow::Borrowed(body), Some(1))));
    Ok(())
}

#[test]
fn publishes_keep_their_order_and_content_whatever_their_size() {
    let (queue, share) = (Queue::default(), Share::default());
    let sizes = [0, 1, MIN_SHARED_BYTES - 1, MIN_SHARED_BYTES, 3, 3 * MIN_SHARED_BYTES, 5];
    let bodies = sizes.map(|len| Bytes::from(vec![b'x'; len]));
    let topics = ["a", "bcd", "", "ü", "e", "f", "g"];
    let publishes = || topics.into_iter().zip(&bodies);
    let load = |publishes| Load { publishes, bytes: 1000 };
    let permit = queue.reserve(&share, load(topics.len())).unwrap();
    permit.commit(0, publishes().map(|(topic, body)| (topic, Cow::Borrowed(body), Some(7))));
    queue.reserve(&share, load(1)).unwrap().commit(0, [(topics[0], Cow::Borrowed(&bodies[0]), None)].into_iter());
    let all: Vec<_> = publishes().map(|(topic, body)| (topic.to_owned(), body.to_vec(), Some(7))).collect();
    let last = (topics[0].to_owned(), Vec::new(), None);
    assert_eq!(taken(&queue), [all, vec![last]].concat());
    assert_eq!(taken(&queue), []);
}

#[test]
fn a_sender_gets_half_of_the_queue_and_another_one_half_of_the_rest() {
    let (queue, greedy, modest) = (Queue::default(), Share::default(), Share::default());
    assert_eq!(publish(&queue, &greedy, HALF, &Bytes::new()), Ok(()));
    assert_eq!(publish(&queue, &greedy, 1, &Bytes::new()), Err(Full::Share));
    assert_eq!(publish(&queue, &modest, HALF / 2, &Bytes::new()), Ok(()));
    assert_eq!(publish(&queue, &modest, 1, &Bytes::new()), Err(Full::Share));
    assert_eq!(taken(&queue).len(), HALF + HALF / 2);
    assert_eq!(publish(&queue, &greedy, HALF, &Bytes::new()), Ok(()), "the bus has taken the earlier publishes");
}

#[test]
fn bytes_are_bounded_before_they_are_queued() {
    let (queue, share) = (Queue::default(), Share::default());
    let large = Bytes::from(vec![0; MAX_QUEUED_BYTES / 8]);
    assert_eq!(publish(&queue, &share, 1024, &large), Err(Full::Queue));
    assert_eq!(publish(&queue, &share, 3, &large), Ok(()));
    assert_eq!(publish(&queue, &share, 1, &large), Err(Full::Share), "the topic counts as well");
    assert_eq!(taken(&queue).len(), 3);
}

#[test]
fn an_uncommitted_permit_delays_no_other_sender() {
    let (queue, slow, other) = (Queue::default(), Share::default(), Share::default());
    let permit = queue.reserve(&slow, Load { publishes: 2, bytes: 2 }).unwrap();
    assert_eq!(publish(&queue, &other, 1, &Bytes::new()), Ok(()));
    assert_eq!(taken(&queue).len(), 1, "the bus sees nothing before the commit");
    let body = Bytes::new();
    permit.commit(0, (0..2).map(|_| ("t", Cow::Borrowed(&body), None)));
    assert_eq!(taken(&queue).len(), 2);
}

#[test]
fn capacity_that_is_not_used_is_free_again() {
    let (queue, share) = (Queue::<u32>::default(), Share::default());
    let half = Load { publishes: HALF, bytes: 0 };
    drop(queue.reserve(&share, half).unwrap());
    drop(queue.reserve(&share, half).unwrap());
    assert_eq!(publish(&queue, &share, HALF, &Bytes::new()), Ok(()));
    assert_eq!(taken(&queue).len(), HALF);
}

/// Queues a publish with this body that waits for a change.
fn publish_after(queue: &Queue<u32>, share: &Share, after: ChangeNumber, body: &'static str) {
    let permit = queue.reserve(share, Load { publishes: 1, bytes: 1 + body.len() }).unwrap();
    permit.commit(after, [("t", Cow::Owned(Bytes::from(body)), None)].into_iter());
}

fn bodies(queue: &Queue<u32>) -> Vec<String> {
    taken(queue).into_iter().map(|(_, body, _)| String::from_utf8(body).unwrap()).collect()
}

#[test]
fn a_publish_waits_for_its_change_only_and_keeps_its_place_behind_others_of_the_change() {
    let (queue, share) = (Queue::default(), Share::default());
    publish_after(&queue, &share, 7, "before the connection");
    queue.set_carried_out(3);
    for (after, body) in [(4, "4 a"), (3, "3"), (5, "5"), (4, "4 b"), (0, "0")] {
        publish_after(&queue, &share, after, body);
    }
    assert_eq!(bodies(&queue), ["before the connection", "3", "0"]);
    assert_eq!(queue.load().publishes, 3);
    queue.set_carried_out(4);
    publish_after(&queue, &share, 4, "4 c");
    assert_eq!(bodies(&queue), ["4 a", "4 b", "4 c"]);
    queue.close();
    assert_eq!(bodies(&queue), ["5"], "a queue that is closed waits for nothing");
    assert_eq!(queue.state().held_bytes, 0);
}

#[test]
fn held_publishes_use_capacity() {
    let (queue, share) = (Queue::<u32>::default(), Share::default());
    queue.set_carried_out(0);
    let permit = queue.reserve(&share, Load { publishes: HALF, bytes: 2 * HALF }).unwrap();
    let body = Bytes::from_static(b"b");
    permit.commit(1, (0..HALF).map(|_| ("t", Cow::Borrowed(&body), None)));
    let free = |queue: &Queue<u32>| queue.state().free().unwrap();
    assert_eq!(free(&queue), Load { publishes: HALF, bytes: MAX_QUEUED_BYTES - 2 * HALF });
    queue.set_carried_out(1);
    taken(&queue);
    assert_eq!(free(&queue), Load { publishes: 2 * HALF, bytes: MAX_QUEUED_BYTES });
}

#[test]
fn publishes_from_before_the_close_are_taken() {
    let (queue, share) = (Queue::default(), Share::default());
    assert_eq!(publish(&queue, &share, 1, &Bytes::new()), Ok(()));
    queue.close();
    assert_eq!(publish(&queue, &share, 1, &Bytes::new()), Err(Full::Queue));
    assert_eq!(taken(&queue).len(), 1);
    assert!(queue.take(&mut Batch::default()).now_or_never().is_some());
}

#[test]
fn take_waits_for_permits_from_before_the_close() {
    let (queue, share) = (Queue::default(), Share::default());
    let permit = queue.reserve(&share, Load { publishes: 1, bytes: 1 }).unwrap();
    queue.close();
    assert!(queue.take(&mut Batch::default()).now_or_never().is_none());
    let body = Bytes::new();
    permit.commit(0, [("t", Cow::Borrowed(&body), None)].into_iter());
    assert_eq!(taken(&queue).len(), 1);
    assert!(queue.take(&mut Batch::default()).now_or_never().is_some());
}
