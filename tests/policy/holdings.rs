//! Tests of what the gateway holds for sessions: tags and groups.

use crate::{ROUTE, ZEBRA, ask, ask_on, assert_push, connect, sessions_are, start, start_both};
use gateway_tests::{Client, Gateway};

const NOT_HERE: &str = "gateway_deliveries_total{outcome=\"not_here\"}";
const PUSHES: &str = "gateway_plugin_pushes_total{plugin=\"probe\"}";

#[tokio::test]
async fn a_tag_comes_with_each_later_packet_and_another_session_can_set_it() {
    let gateway = start().await;
    let (mut first, mut second) = (connect(&gateway, "").await, connect(&gateway, "").await);
    assert_eq!(ask(&mut first, "say $tag; tag 18446744073709551615").await, "0");
    assert_eq!(ask(&mut first, "say $tag; tag 5; tag 6").await, "18446744073709551615");
    assert_eq!(ask(&mut first, "say $tag").await, "6");
    assert_eq!(ask(&mut second, "say $tag").await, "0");
    let first_id = first.welcome.session_id.clone();
    ask(&mut second, &format!("tag 7 {first_id}")).await;
    assert_eq!(ask(&mut first, "say $tag; tag 0").await, "7");
    assert_eq!(ask(&mut first, "say $tag").await, "0");
    drop(first);
    sessions_are(&gateway, 1.0).await;
    assert_eq!(ask(&mut second, &format!("tag 8 {first_id}; join 5 {first_id}; say done")).await, "done");
}

#[tokio::test]
async fn tags_and_groups_of_two_plugins_are_separate() {
    let gateway = start_both().await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "tag 3; join 5").await;
    assert_eq!(ask_on(&mut client, ZEBRA, "say $tag; deliver group:5 always nobody is there").await, "0");
    gateway.metric_is(NOT_HERE, 1.0).await;
    ask_on(&mut client, ZEBRA, "tag 4; leave 5").await;
    assert_eq!(ask(&mut client, "say $tag; deliver group:5 always hello").await, "3");
    assert_push(&mut client, 1, "hello").await;
}

/// Connects this many clients that are members of group 5.
async fn members(gateway: &Gateway, count: usize) -> Vec<Client> {
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(connect(gateway, "do=join+5").await);
    }
    members
}

#[tokio::test]
async fn a_push_to_a_group_reaches_each_member_once_in_order_except_one() {
    let gateway = start().await;
    let mut members = members(&gateway, 3).await;
    // To join again changes nothing.
    ask(&mut members[0], "join 5; join 5; join 6").await;
    let script = "others group:5 always first; deliver group:5 always second; deliver group:6 always third";
    ask(&mut members[0], script).await;
    for (seq, text) in [(1, "second"), (2, "third")] {
        assert_push(&mut members[0], seq, text).await;
    }
    for member in &mut members[1..] {
        for (seq, text) in [(1, "first"), (2, "second")] {
            assert_push(member, seq, text).await;
        }
    }
    gateway.metric_is(PUSHES, 6.0).await;
    for member in &mut members {
        member.assert_alive().await;
    }
}

#[tokio::test]
async fn a_session_that_has_left_or_ended_gets_nothing_and_a_group_without_members_is_no_error() {
    let gateway = start().await;
    let mut members = members(&gateway, 3).await;
    ask(&mut members[0], "leave 5; leave 5; leave 77").await;
    drop(members.pop());
    sessions_are(&gateway, 2.0).await;
    ask(&mut members[0], "deliver group:5 always hello").await;
    assert_push(&mut members[1], 1, "hello").await;
    gateway.metric_is(PUSHES, 1.0).await;
    members[0].assert_alive().await;

    let last = members[1].welcome.session_id.clone();
    let script = format!("leave 5 {last}; deliver group:5 always nobody is there; say done");
    assert_eq!(ask(&mut members[0], &script).await, "done");
    gateway.metric_is(NOT_HERE, 1.0).await;
    members[1].assert_alive().await;
}

#[tokio::test]
async fn an_action_takes_effect_at_its_place_in_the_list() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    let script = "deliver group:5 always a; join 5; deliver group:5 always b; leave 5; deliver group:5 always c";
    ask(&mut client, script).await;
    assert_push(&mut client, 1, "b").await;
    client.assert_alive().await;
    gateway.metric_is(NOT_HERE, 2.0).await;
}

#[tokio::test]
async fn if_one_action_is_refused_none_is_carried_out() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    let reply = client.request(ROUTE, b"join 5; tag 3; put k v; deliver me always x; end me 1006 no such code").await;
    assert_eq!((reply.status, reply.text()), (8, "the plugin failed"));
    assert_eq!(ask(&mut client, "say $tag; get k; deliver group:5 always nobody is there").await, "0 none");
    client.assert_alive().await;
    gateway.metric_is(PUSHES, 0.0).await;
}
