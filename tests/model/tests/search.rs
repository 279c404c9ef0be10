//! Tests that the search visits every state, and finds the shortest counterexamples.

use gateway_model::search::{Checks, Model, Searched, search};

/// A counter that goes up by 1 or 3. It stops at 10 or more.
struct Counter;

impl Model for Counter {
    type State = u8;
    type Action = u8;

    fn initial(&self) -> u8 {
        0
    }

    fn actions(&self, state: &u8) -> Vec<u8> {
        if *state < 10 { vec![1, 3] } else { Vec::new() }
    }

    fn after(&self, state: &u8, action: u8) -> u8 {
        state + action
    }
}

/// Searches for a state that is `forbidden`, and for one from which none of the `goals` can be reached.
fn run(forbidden: u8, goals: &[u8]) -> Result<Searched, (&'static str, Vec<u8>)> {
    let checks = Checks {
        always: &|state: &u8, _: &[u8]| if *state == forbidden { Err("forbidden") } else { Ok(()) },
        is_goal: &|state: &u8| goals.contains(state),
        kinds: &|state: &u8| u32::from(*state == 6),
    };
    search(&Counter, &checks).map_err(|counterexample| (counterexample.property, counterexample.steps))
}

#[test]
fn every_state_is_visited_once() {
    let searched = run(99, &[10, 11, 12]).unwrap();
    assert_eq!((searched.states, searched.kinds), (13, 1));
}

#[test]
fn the_counterexample_is_one_of_the_shortest() {
    let (property, steps) = run(7, &[10, 11, 12]).unwrap_err();
    assert_eq!((property, steps.len(), steps.iter().sum::<u8>()), ("forbidden", 3, 7));
}

#[test]
fn a_state_without_a_way_to_a_goal_is_found() {
    let (property, steps) = run(99, &[10, 11]).unwrap_err();
    assert_eq!((property, steps.iter().sum::<u8>()), ("from every state, a goal can be reached", 12));
}
