//! The plan of a run: which events happen, and when. The plan is drawn from a seed, so the same seed replays the same
//! run.

use crate::{
    attackers::{self, Attack},
    files::{self, Change},
    outages::Outage,
    player::Leave,
};
use fastrand::Rng;
use std::{fmt, time::Duration};

/// The number of counting players.
pub(crate) const PLAYERS: usize = 8;

/// The time between two events, in milliseconds.
const GAP_MS: std::ops::RangeInclusive<u64> = 150..=850;

/// The plan of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) events: Vec<Event>,
}

/// An event and its time. Outages run one after the other. Changes also run one after the other, concurrently with the
/// outages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    pub(crate) act: Act,
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// An outage of Redis.
    Outage(Outage),
    /// An attack by hostile clients.
    Attack(Attack),
    /// A change of the plugins directory or of gateway.yaml.
    Change(Change),
    /// The player with this index disconnects, and comes back.
    Leave(usize, Leave),
}

impl Plan {
    /// Draws the events of a run of this length from shuffled decks. Each deck has nearly every kind of event.
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
    deck.extend(attackers::AttackKind::ALL.map(|way| {
        let connections = rng.usize(2..=way.most_connections());
        Act::Attack(Attack { way, connections, lasts: ms(rng, 500..3000), seed: rng.u64(..) })
    }));
    deck.extend(files::draw_changes(rng).into_iter().map(Act::Change));
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
    // A short plan is the beginning of a long one, so a run can be cut off where it failed.
    let (short, long) = (Plan::draw(7, length / 2).events, Plan::draw(7, length).events);
    assert_eq!(short[..], long[..short.len()]);
}
