//! What happens in a run, and when. Everything is drawn from a seed, so that a seed replays a run.

use crate::{
    files::{self, Change},
    outages::Outage,
    player::Leave,
    strangers::{self, Attack},
};
use fastrand::Rng;
use std::{fmt, time::Duration};

/// The counting players.
pub(crate) const PLAYERS: usize = 8;

/// The time between two events.
const GAP_MS: std::ops::RangeInclusive<u64> = 150..=850;

/// A run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) events: Vec<Event>,
}

/// Something that happens at a time. Events of one kind wait for the one before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    pub(crate) act: Act,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// To Redis.
    Outage(Outage),
    /// By hostile clients.
    Attack(Attack),
    /// To the plugins directory or gateway.yaml.
    Change(Change),
    /// A player leaves, and comes back.
    Leave(usize, Leave),
}

impl Plan {
    /// Draws the events of a run of this length. Each deck has every kind of event, in an order of its own.
    pub(crate) fn draw(seed: u64, length: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (mut events, mut deck, mut at) = (Vec::new(), Vec::new(), Duration::from_millis(500));
        while at < length {
            if deck.is_empty() {
                deck = shuffled_deck(&mut rng);
            }
            events.extend(deck.pop().map(|act| Event { at, act }));
            at += Duration::from_millis(rng.u64(GAP_MS));
        }
        Self { seed, events }
    }
}

fn shuffled_deck(rng: &mut Rng) -> Vec<Act> {
    let ms = |rng: &mut Rng, range: std::ops::Range<u64>| Duration::from_millis(rng.u64(range));
    let mut deck = vec![
        Act::Outage(Outage::Kill { away: ms(rng, 50..1500) }),
        Act::Outage(Outage::Kill { away: ms(rng, 1500..7000) }),
        Act::Outage(Outage::Pause { lasts: ms(rng, 100..1500) }),
        Act::Outage(Outage::Pause { lasts: ms(rng, 1500..7000) }),
        Act::Outage(Outage::Cut),
    ];
    for leave in [Leave::Reset, Leave::Reset, Leave::Close, Leave::Close] {
        deck.push(Act::Leave(rng.usize(..PLAYERS), leave));
    }
    deck.extend(strangers::Way::ALL.map(|way| {
        let connections = rng.usize(2..=way.most_connections());
        Act::Attack(Attack { way, connections, lasts: ms(rng, 500..3000), seed: rng.u64(..) })
    }));
    deck.extend(files::drawn(rng).into_iter().map(Act::Change));
    rng.shuffle(&mut deck);
    deck
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan of seed {} ({} events)", self.seed, self.events.len())?;
        self.events.iter().try_for_each(|Event { at, act }| writeln!(f, "{:>8.3} s  {act:?}", at.as_secs_f64()))
    }
}

#[test]
fn a_seed_replays_a_plan_and_another_one_does_not() {
    let length = Duration::from_secs(60);
    assert_eq!(Plan::draw(7, length), Plan::draw(7, length));
    assert_ne!(Plan::draw(7, length).events, Plan::draw(8, length).events);
    // A short plan is the beginning of a long one, so that a run can be cut where it failed.
    let (short, long) = (Plan::draw(7, length / 2).events, Plan::draw(7, length).events);
    assert_eq!(short[..], long[..short.len()]);
}
