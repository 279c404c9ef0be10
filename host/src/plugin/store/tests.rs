use super::*;
use proptest::prelude::*;
use std::thread;

/// The time of the calls whose time does not matter.
const NOW: u64 = 1_000;

fn store() -> Store {
    Store::new(usize::MAX)
}

fn put(key: &str, value: &str) -> Put {
    Put { key: key.to_owned(), value: Some(value.into()), ttl_ms: None }
}

fn put_for(key: &str, value: &str, ttl_ms: u64) -> Put {
    Put { ttl_ms: Some(ttl_ms), ..put(key, value) }
}

fn remove(key: &str) -> Put {
    Put { key: key.to_owned(), value: None, ttl_ms: None }
}

/// Commits changes of a call that has read nothing.
#[track_caller]
fn write(store: &Store, puts: impl IntoIterator<Item = Put>) {
    assert_eq!(store.commit(&Reads::default(), puts, NOW), Ok(()));
}

fn value(store: &Store, key: &str, now_ms: u64) -> Option<String> {
    let value = store.get(key, now_ms, &mut Reads::default());
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Scans all entries with the prefix at [`NOW`].
fn keys(store: &Store, prefix: &str, max: usize, max_bytes: usize, reads: &mut Reads) -> Vec<String> {
    store.scan(prefix, max, max_bytes, NOW, reads).into_iter().map(|(key, _)| key.to_string()).collect()
}

#[test]
fn entries_are_written_read_and_removed() {
    let store = store();
    write(&store, [put("a", "1"), put("b", "22"), put("a", "333"), remove("b"), remove("c")]);
    assert_eq!((value(&store, "a", NOW), value(&store, "b", NOW)), (Some("333".to_owned()), None));
    assert_eq!(store.usage(), Usage { entries: 1, bytes: 68 });
    write(&store, [remove("a"), put("a", "4")]);
    assert_eq!(value(&store, "a", NOW), Some("4".to_owned()));
    write(&store, [remove("a")]);
    assert_eq!(store.usage(), Usage { entries: 0, bytes: 0 });
}

#[test]
fn a_scan_is_in_the_order_of_the_keys_and_within_its_bounds() {
    let (store, reads) = (store(), &mut Reads::default());
    write(&store, ["b/2", "b", "b/10", "b/é", "a", "c", "b/1"].map(|key| put(key, "12345")));
    assert_eq!(keys(&store, "b/", 9, usize::MAX, reads), ["b/1", "b/10", "b/2", "b/é"]);
    assert_eq!(keys(&store, "", 3, usize::MAX, reads), ["a", "b", "b/1"]);
    assert_eq!(keys(&store, "d", 9, usize::MAX, reads), [""; 0]);
    assert_eq!(keys(&store, "", 0, usize::MAX, reads), [""; 0]);
    // The entry `b/1` counts 72 bytes, and `b/10` counts 73.
    assert_eq!(keys(&store, "b/", 9, 145, reads), ["b/1", "b/10"]);
    assert_eq!(keys(&store, "b/", 9, 144, reads), ["b/1"]);
    assert_eq!(keys(&store, "b/", 9, 0, reads), ["b/1"]);
}

#[test]
fn a_key_that_is_too_long_to_exist_is_not_remembered() {
    let (store, mut reads) = (store(), Reads::default());
    let (longest, too_long) = ("k".repeat(256), "k".repeat(257));
    write(&store, [put(&longest, "")]);
    assert_eq!(store.get(&too_long, NOW, &mut reads), None);
    assert_eq!(keys(&store, &too_long, 9, usize::MAX, &mut reads), [""; 0]);
    assert!(reads.is_empty());
    assert_eq!(keys(&store, &longest, 9, usize::MAX, &mut reads), [longest]);
    assert!(!reads.is_empty());
}

/// Checks how a call is committed that reads at [`NOW`], if `meanwhile` is committed between its read and its commit.
#[track_caller]
fn check_meanwhile(read: impl FnOnce(&Store, &mut Reads), meanwhile: Put, outcome: Result<(), Abort>) {
    let (store, mut reads) = (store(), Reads::default());
    write(&store, [put("a", "1"), put("b/1", "1"), put("b/2", "22"), put("b/3", "3")]);
    read(&store, &mut reads);
    write(&store, [meanwhile]);
    assert_eq!(store.commit(&reads, [put("written", "")], NOW), outcome);
    assert_eq!(value(&store, "written", NOW).is_some(), outcome.is_ok());
}

#[test]
fn a_call_conflicts_if_an_entry_that_it_has_read_has_changed() {
    let get = |key| move |store: &Store, reads: &mut Reads| drop(store.get(key, NOW, reads));
    check_meanwhile(get("a"), put("a", "2"), Err(Abort::Conflict));
    check_meanwhile(get("a"), put("a", "1"), Err(Abort::Conflict));
    check_meanwhile(get("a"), remove("a"), Err(Abort::Conflict));
    check_meanwhile(get("new"), put("new", ""), Err(Abort::Conflict));
    check_meanwhile(get("new"), remove("new"), Ok(()));
    check_meanwhile(get("a"), put("b", ""), Ok(()));
    check_meanwhile(|_, _| {}, put("a", "2"), Ok(()));
}

#[test]
fn a_call_conflicts_if_a_scan_would_find_other_entries() {
    let scan = |max, bytes| move |store: &Store, reads: &mut Reads| drop(store.scan("b/", max, bytes, NOW, reads));
    let all = || scan(usize::MAX, usize::MAX);
    check_meanwhile(all(), put("b/4", ""), Err(Abort::Conflict));
    check_meanwhile(all(), put("b/10", ""), Err(Abort::Conflict));
    check_meanwhile(all(), put("b/2", "22"), Err(Abort::Conflict));
    check_meanwhile(all(), remove("b/3"), Err(Abort::Conflict));
    check_meanwhile(all(), put("b", ""), Ok(()));
    check_meanwhile(all(), put("c", ""), Ok(()));
    check_meanwhile(scan(2, usize::MAX), put("b/3", "4"), Ok(()));
    check_meanwhile(scan(2, usize::MAX), put("b/0", ""), Err(Abort::Conflict));
    // The entry `b/1` counts 68 bytes, and `b/2` counts 69 until it becomes shorter.
    check_meanwhile(scan(9, 136), put("b/2", "333"), Ok(()));
    check_meanwhile(scan(9, 136), put("b/2", "1"), Err(Abort::Conflict));
}

#[test]
fn a_call_that_reads_different_values_conflicts() {
    let (store, mut reads) = (store(), Reads::default());
    store.get("a", NOW, &mut reads);
    write(&store, [put("a", "1")]);
    store.get("a", NOW, &mut reads);
    assert_eq!(store.commit(&reads, [], NOW), Err(Abort::Conflict));
}

#[test]
fn writes_that_do_not_fit_change_nothing() {
    let store = Store::new(200);
    write(&store, [put("a", "1"), put("b", "1")]);
    let commit = |puts: [Put; 2]| store.commit(&Reads::default(), puts, NOW);
    let full = Abort::Full { bytes: 201, max: 200 };
    assert_eq!(commit([remove("c"), put("c", "12345")]), Err(Abort::Full { bytes: 202, max: 200 }));
    assert_eq!(commit([put("a", ""), put("c", "12345")]), Err(full));
    assert_eq!(
        full.to_string(),
        "the plugin's state would grow to 201 bytes, and 200 are the most: let the plugin remove entries, or raise its \
         `state_mb`"
    );
    assert_eq!((value(&store, "a", NOW), store.usage().bytes), (Some("1".to_owned()), 132));
    assert_eq!(commit([put("a", ""), put("c", "1234")]), Ok(()));
    assert_eq!(store.usage(), Usage { entries: 3, bytes: 200 });
}

#[test]
fn state_over_its_limit_may_shrink_but_not_grow() {
    let store = Store::new(1000);
    write(&store, [put("a", "22"), put("b", "")]);
    store.set_max_bytes(10);
    let commit = |put| store.commit(&Reads::default(), [put], NOW);
    assert_eq!(commit(put("a", "333")), Err(Abort::Full { bytes: 133, max: 10 }));
    assert_eq!((commit(put("a", "44")), commit(put("a", "5")), commit(remove("b"))), (Ok(()), Ok(()), Ok(())));
    assert_eq!(store.usage(), Usage { entries: 1, bytes: 66 });
}

#[test]
fn an_entry_is_present_until_it_expires() {
    let store = store();
    write(&store, [put_for("a", "1", 10), put_for("b", "1", 20), put_for("c", "1", u64::MAX), put_for("d", "1", 10)]);
    write(&store, [put("d", "2")]);
    assert_eq!((value(&store, "a", NOW + 9), value(&store, "a", NOW + 10)), (Some("1".to_owned()), None));
    let found = store.scan("", 9, usize::MAX, NOW + 10, &mut Reads::default());
    assert_eq!(found.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["b", "c", "d"]);
    assert_eq!(store.usage(), Usage { entries: 4, bytes: 264 });
    store.sweep(NOW + 10);
    assert_eq!(store.usage(), Usage { entries: 3, bytes: 198 });
    store.sweep(u64::MAX - 1);
    assert_eq!(store.usage(), Usage { entries: 2, bytes: 132 });
}

#[test]
fn expired_entries_make_room() {
    let store = Store::new(140);
    write(&store, [put_for("a", "1", 10), put("b", "1")]);
    let commit = |now_ms| store.commit(&Reads::default(), [put("c", "1")], now_ms);
    assert_eq!(commit(NOW + 9), Err(Abort::Full { bytes: 198, max: 140 }));
    assert_eq!(commit(NOW + 10), Ok(()));
    assert_eq!(store.usage(), Usage { entries: 2, bytes: 132 });
}

#[test]
fn an_entry_that_expires_during_a_call_conflicts_only_when_it_is_removed() {
    let (store, mut reads) = (store(), Reads::default());
    write(&store, [put_for("a", "1", 10)]);
    store.get("a", NOW + 9, &mut reads);
    store.scan("", 9, usize::MAX, NOW + 9, &mut reads);
    assert_eq!(store.commit(&reads, [], NOW + 9), Ok(()));
    store.sweep(NOW + 10);
    assert_eq!(store.commit(&reads, [], NOW + 9), Err(Abort::Conflict));
}

#[test]
fn another_format_removes_all_entries_and_refuses_earlier_calls() {
    let store = store();
    store.set_format(1);
    let mut reads = Reads::new(1);
    assert_eq!(store.commit(&reads, [put_for("a", "1", 10)], NOW), Ok(()));
    store.set_format(1);
    assert!(store.get("a", NOW, &mut reads).is_some());
    store.set_format(2);
    assert_eq!(store.usage(), Usage { entries: 0, bytes: 0 });
    assert_eq!(store.commit(&reads, [], NOW), Err(Abort::Replaced));
    assert_eq!(store.commit(&Reads::new(1), [put("a", "1")], NOW), Err(Abort::Replaced));
    assert_eq!(store.commit(&Reads::new(2), [put("a", "2")], NOW), Ok(()));
    store.sweep(NOW + 10);
    assert_eq!(value(&store, "a", NOW), Some("2".to_owned()));
    assert_eq!((Reads::new(2).format, store.entries().format), (2, 2));
}

#[test]
fn state_is_restored_as_it_was_saved() {
    let old = store();
    old.set_format(7);
    assert_eq!(old.commit(&Reads::new(7), [put("b", "2"), put_for("a", "1", 10)], NOW), Ok(()));
    let saved = old.entries();
    let entry = |key: &str, value: &[u8], expires_ms| SavedEntry { key: key.into(), value: value.into(), expires_ms };
    assert_eq!(saved, Saved { format: 7, entries: vec![entry("a", b"1", Some(NOW + 10)), entry("b", b"2", None)] });
    assert_eq!((saved.entries[0].is_present(NOW + 9), saved.entries[0].is_present(NOW + 10)), (true, false));

    let new = Store::new(1);
    new.restore(saved.clone());
    assert_eq!((new.entries(), new.usage()), (saved, Usage { entries: 2, bytes: 132 }));
    new.set_format(7);
    new.sweep(NOW + 10);
    assert_eq!((value(&new, "a", NOW), value(&new, "b", NOW)), (None, Some("2".to_owned())));
    new.set_format(8);
    assert_eq!(new.usage(), Usage { entries: 0, bytes: 0 });
}

/// Adds 1 to the number under the key `n`, as one attempt of a call.
fn increment(store: &Store, within: impl FnOnce()) -> Result<(), Abort> {
    let mut reads = Reads::default();
    let read = store.get("n", NOW, &mut reads);
    let number: u64 = read.map_or(0, |read| String::from_utf8(read.to_vec()).unwrap().parse().unwrap());
    within();
    store.commit(&reads, [put("n", &(number + 1).to_string())], NOW)
}

#[test]
fn no_increment_is_lost_between_threads() {
    let store = store();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    while increment(&store, thread::yield_now) == Err(Abort::Conflict) {}
                }
            });
        }
    });
    assert_eq!(value(&store, "n", NOW), Some("4000".to_owned()));
}

#[test]
fn sweep_removes_nothing_that_a_transaction_may_have_read() {
    let store = store();
    write(&store, [put_for("n", "1", 10), put_for("m", "1", 10)]);
    let order = store.transaction();
    assert_eq!(increment(&store, || assert!(!store.sweep(NOW + 10))), Ok(()));
    assert_eq!(store.usage().entries, 2);
    drop(order);
    store.sweep(NOW + 10);
    assert_eq!((store.usage().entries, value(&store, "n", NOW)), (1, Some("2".to_owned())));
}

#[test]
fn entries_that_expire_together_are_removed_a_few_at_a_time() {
    let store = store();
    write(&store, (0..1000).map(|n| put_for(&n.to_string(), "1", 10)));
    assert!(store.sweep(NOW + 10));
    assert_eq!(store.usage().entries, 1000 - MAX_REMOVED);
    assert_eq!(store.scan("", 9, usize::MAX, NOW + 10, &mut Reads::default()).len(), 0);
    let sweeps = (0..9).take_while(|_| store.sweep(NOW + 10)).count();
    assert_eq!((sweeps, store.usage().entries), (2, 0));
}

#[test]
fn expired_entries_are_removed_until_the_new_ones_fit() {
    let store = Store::new(1000 * 66);
    write(&store, (100..1000).map(|n| put_for(&n.to_string(), "", 10)));
    let large = put("large", &"x".repeat(600 * 66));
    assert_eq!(store.commit(&Reads::default(), [large], NOW + 10), Ok(()));
    assert_eq!(store.usage().entries, 900 - 2 * MAX_REMOVED + 1);
}

#[test]
fn a_long_transaction_is_known_while_it_lasts() {
    let store = store();
    let long = store.long_transaction();
    assert!(store.is_held_long() && !store.sweep(NOW));
    drop(long);
    assert!(!store.is_held_long());
    let short = store.transaction();
    assert!(!store.is_held_long());
    drop(short);
}

proptest! {
    /// A store behaves like a map of values and expiries, and counts exactly the bytes of its entries.
    #[test]
    fn a_store_is_a_map(
        steps in prop::collection::vec(
            (0..8_u8, prop::option::of("[a-z]{0,9}"), prop::option::of(0..6_u64), any::<bool>()),
            0..60,
        ),
    ) {
        let (store, mut model) = (store(), BTreeMap::<String, (String, u64)>::new());
        for (now_ms, (key, written, ttl_ms, is_swept)) in (0..).zip(steps) {
            let key = key.to_string();
            let put = Put { key: key.clone(), value: written.clone().map(String::into_bytes), ttl_ms };
            prop_assert_eq!(store.commit(&Reads::default(), [put], now_ms), Ok(()));
            model.remove(&key);
            if let Some(written) = written {
                model.insert(key, (written, ttl_ms.map_or(u64::MAX, |ttl_ms| now_ms + ttl_ms)));
            }
            model.retain(|_, (_, expires_ms)| *expires_ms > now_ms);
            let found = store.scan("", usize::MAX, usize::MAX, now_ms, &mut Reads::default());
            let found = found.iter().map(|(key, value)| (key.to_string(), value.to_vec())).collect::<Vec<_>>();
            let wanted = model.iter().map(|(key, (value, _))| (key.clone(), value.clone().into_bytes()));
            prop_assert_eq!(&found, &wanted.collect::<Vec<_>>());
            if is_swept {
                store.sweep(now_ms);
                let bytes = found.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
                prop_assert_eq!(store.usage(), Usage { entries: found.len(), bytes });
            }
        }
    }
}
