//! Tests that a session which moves to another gateway loses and doubles nothing, in every interleaving of a few steps.
//!
//! A counterexample is printed as the list of the steps that lead to it.

use gateway_model::{
    properties::{check, is_connected, kinds},
    rules::{Ends, Mistake, Rules, Timers},
    search::{Checks, Counterexample, Searched, search},
    steps::Action,
};

/// Two messages, and a client that comes back once. No part fails, and no timer but those of the hand-over fires.
const ONCE: Rules = Rules {
    pushes: 2,
    comebacks: 1,
    rivals: false,
    crashes: 0,
    gaps: 0,
    busy: false,
    window: false,
    timers: Timers::InOrder,
    ends: Ends::Promptly,
    mistake: None,
};

/// One message, and a client that comes back twice.
const TWICE: Rules = Rules { pushes: 1, comebacks: 2, ..ONCE };

fn run(rules: Rules) -> Result<Searched, Counterexample<Action>> {
    let checks = Checks {
        always: &check,
        is_goal: &|world| is_connected(world, rules.comebacks),
        kinds: &|world| kinds(world, rules.pushes),
    };
    search(&rules, &checks)
}

/// Checks that all properties hold, and that the client can get everything at either gateway.
#[track_caller]
fn holds(rules: Rules) {
    match run(rules) {
        Ok(searched) => assert_eq!(searched.kinds, 0b11, "{searched:?}"),
        Err(counterexample) => panic!("{counterexample}"),
    }
}

/// Checks that the search finds a state that violates this property, and none before that violates another one.
#[track_caller]
fn violates(property: &str, rules: Rules) {
    match run(rules) {
        Ok(searched) => panic!("no counterexample in {searched:?}"),
        Err(counterexample) => assert_eq!(counterexample.property, property, "{counterexample}"),
    }
}

#[test]
fn a_session_moves_with_all_messages() {
    holds(Rules { pushes: 3, busy: true, window: true, ..ONCE });
}

#[test]
fn a_session_moves_there_and_back() {
    holds(Rules { pushes: 2, ..TWICE });
}

#[test]
fn one_of_two_clients_with_the_same_token_gets_the_session() {
    holds(Rules { rivals: true, ..TWICE });
}

#[test]
fn any_gateway_may_crash_at_any_moment() {
    holds(Rules { crashes: 1, ..TWICE });
}

#[test]
fn any_timer_may_fire_at_any_moment() {
    let late = Rules { timers: Timers::Any, ends: Ends::Late, ..ONCE };
    holds(Rules { pushes: 3, crashes: 1, busy: true, window: true, ..late });
}

#[test]
fn a_client_is_told_of_a_gap() {
    holds(Rules { gaps: 1, timers: Timers::Any, busy: true, ..ONCE });
}

#[test]
fn a_session_comes_back_before_its_earlier_task_has_ended_and_while_an_earlier_hand_over_still_waits() {
    holds(Rules { timers: Timers::Any, ends: Ends::Late, ..TWICE });
}

#[test]
fn a_client_is_not_told_of_a_gap_if_its_session_moves_before() {
    let property = "the client has everything, or knows that it may miss something";
    violates(property, Rules { gaps: 1, mistake: Some(Mistake::MovesBeforeGapIsTold), ..ONCE });
}

#[test]
fn a_session_is_lost_if_another_one_with_its_id_may_begin() {
    let property = "a client with a session can be reached";
    let known = Some(Mistake::AdmitsKnownId);
    violates(property, Rules { ends: Ends::Late, mistake: known, ..TWICE });
    violates(property, Rules { timers: Timers::Any, mistake: known, ..TWICE });
}

#[test]
fn a_message_is_doubled_if_the_new_gateway_queues_from_the_offer_on() {
    let property = "the client receives each push once, with the next number and in order";
    violates(property, Rules { mistake: Some(Mistake::QueuesFromOffer), ..ONCE });
}

#[test]
fn a_message_is_lost_if_the_old_gateway_cuts_at_the_offer() {
    let property = "the client has everything, or knows that it may miss something";
    violates(property, Rules { mistake: Some(Mistake::CutsAtOffer), ..ONCE });
}

#[test]
fn a_message_is_lost_if_the_mark_comes_before_the_subscriptions() {
    let property = "the client has everything, or knows that it may miss something";
    violates(property, Rules { mistake: Some(Mistake::MarksEarly), ..ONCE });
}

#[test]
fn two_clients_get_the_session_if_a_secret_can_be_used_twice() {
    let mistake = Some(Mistake::SecretTwice);
    violates("a token resumes a session once", Rules { rivals: true, mistake, ..TWICE });
}

#[test]
fn a_session_is_at_both_gateways_if_it_can_be_claimed_after_its_state_was_sent() {
    let property = "the client can get the session at one gateway only";
    violates(property, Rules { mistake: Some(Mistake::UnclaimsAfterState), ..ONCE });
}
