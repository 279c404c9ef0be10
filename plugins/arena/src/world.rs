//! The world of a room and its rules. What happens in a tick follows from the world, the rules and the inputs alone.

use arena_proto::{Coin, Input, Player as Shown, Rules};
use gateway_plugin_sdk::SessionId;
use std::{collections::BTreeMap, mem};

/// The largest x of a position.
pub(crate) const WIDTH: i32 = 60_000;
/// The largest y of a position.
pub(crate) const HEIGHT: i32 = 20_000;
/// The number of coins in the room at any time.
const COINS: usize = 8;
/// The distance at which a player collects a coin.
const REACH: i64 = 1_000;
/// The length of the longest direction.
const FULL: i64 = 1_000;
/// The time after which a player without input is removed.
const MAX_SILENCE_MS: u32 = 30_000;

/// The world of a room, as it is stored. A later version may add fields, and reads the worlds of this version.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct World {
    /// The number of ticks so far.
    #[prost(uint64, tag = "1")]
    pub(crate) tick: u64,
    /// The time at which the next tick is due, in milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub(crate) due: u64,
    /// The state of the random numbers.
    #[prost(fixed64, tag = "3")]
    random: u64,
    /// The players in the order in which they joined.
    #[prost(message, repeated, tag = "4")]
    pub(crate) players: Vec<Player>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) coins: Vec<Coin>,
    /// Whether the room is in the list of the rooms with a free place.
    #[prost(bool, tag = "6")]
    pub(crate) is_listed: bool,
}

/// A player in a room.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Player {
    #[prost(fixed64, tag = "1")]
    session_high: u64,
    #[prost(fixed64, tag = "2")]
    session_low: u64,
    /// What everybody in the room sees of the player.
    #[prost(message, required, tag = "3")]
    pub(crate) shown: Shown,
    /// The time since the player's last input.
    #[prost(uint32, tag = "4")]
    silent_ms: u32,
}

impl Player {
    pub(crate) fn session(&self) -> SessionId {
        SessionId { high: self.session_high, low: self.session_low }
    }
}

impl World {
    /// Creates a world without players. Worlds with different seeds have their coins in different places.
    pub(crate) fn new(seed: u64, due: u64) -> Self {
        let mut world = Self { random: seed, due, ..Self::default() };
        for _ in 0..COINS {
            let (x, y) = world.somewhere();
            world.coins.push(Coin { x, y });
        }
        world
    }

    /// Puts a new player into the world.
    pub(crate) fn join(&mut self, player: u64, session: SessionId) {
        let (x, y) = self.somewhere();
        let shown = Shown { player, x, y, score: 0, away: false };
        self.players.push(Player { session_high: session.high, session_low: session.low, shown, silent_ms: 0 });
    }

    /// Returns the player of a session.
    pub(crate) fn player(&self, session: SessionId) -> Option<&Player> {
        self.players.iter().find(|player| player.session() == session)
    }

    /// Records whether the client of a session's player is away. Returns whether that is a change.
    pub(crate) fn set_away(&mut self, session: SessionId, is_away: bool) -> bool {
        let player = self.players.iter_mut().find(|player| player.session() == session);
        player.is_some_and(|player| {
            player.silent_ms = 0;
            mem::replace(&mut player.shown.away, is_away) != is_away
        })
    }

    /// Removes the player of a session, if there is one.
    pub(crate) fn remove(&mut self, session: SessionId) {
        self.players.retain(|player| player.session() != session);
    }

    /// Advances the world by one tick.
    pub(crate) fn step(&mut self, rules: Rules, inputs: &BTreeMap<SessionId, Input>) {
        self.tick += 1;
        // A player whose client is away stands still and stays.
        for player in self.players.iter_mut().filter(|player| !player.shown.away) {
            player.silent_ms += rules.tick_ms;
            if let Some(input) = inputs.get(&player.session()) {
                player.silent_ms = 0;
                go(&mut player.shown, *input, rules);
            }
        }
        self.collect();
    }

    /// Removes the players who have been silent for too long, and returns their sessions.
    pub(crate) fn remove_silent(&mut self) -> Vec<SessionId> {
        let is_silent = |player: &mut Player| player.silent_ms >= MAX_SILENCE_MS;
        self.players.extract_if(.., is_silent).map(|player| player.session()).collect()
    }

    /// Sets the time of the next tick, after a tick at `now`. Returns whether the tick was so late that another one
    /// was missed. Missed ticks are not made up for, and the later ticks keep their cadence.
    pub(crate) fn schedule(&mut self, now: u64, tick_ms: u32) -> bool {
        // If the clock was set back, the cadence begins anew.
        let due = self.due.min(now);
        let missed = (now - due) / u64::from(tick_ms);
        self.due = due + (missed + 1) * u64::from(tick_ms);
        missed > 0
    }

    /// Gives each coin to the first player who reaches it, and puts a new one somewhere else. A player whose client is away
    /// takes no coin from the others.
    fn collect(&mut self) {
        for index in 0..self.coins.len() {
            let coin = self.coins[index];
            if let Some(player) =
                self.players.iter_mut().find(|player| !player.shown.away && reaches(&player.shown, coin))
            {
                player.shown.score += 1;
                let (x, y) = self.somewhere();
                self.coins[index] = Coin { x, y };
            }
        }
    }

    fn somewhere(&mut self) -> (i32, i32) {
        (self.random_up_to(WIDTH), self.random_up_to(HEIGHT))
    }

    /// Returns a random number from 0 to `max`. This is the generator SplitMix64.
    fn random_up_to(&mut self, max: i32) -> i32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // The high half of the product is less than `max` + 1, so it is an i32.
        ((u128::from(bits) * (max as u128 + 1)) >> 64) as i32
    }
}

/// Moves a player for one tick, at most to the border.
fn go(player: &mut Shown, input: Input, Rules { tick_ms, speed }: Rules) {
    let (dx, dy) = (i64::from(input.dx), i64::from(input.dy));
    // A diagonal is not faster than a straight line.
    let length = (dx * dx + dy * dy).isqrt().max(FULL);
    let distance = i64::from(speed) * i64::from(tick_ms) / 1000;
    let moved = |from: i32, part: i64, max: i32| {
        // The result lies between 0 and `max`, so it is an i32.
        (i64::from(from) + distance * part / length).clamp(0, i64::from(max)) as i32
    };
    player.x = moved(player.x, dx, WIDTH);
    player.y = moved(player.y, dy, HEIGHT);
}

fn reaches(player: &Shown, coin: Coin) -> bool {
    let (dx, dy) = (i64::from(player.x - coin.x), i64::from(player.y - coin.y));
    dx * dx + dy * dy <= REACH * REACH
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    const RULES: Rules = Rules { tick_ms: 50, speed: 6_000 };

    fn session(low: u64) -> SessionId {
        SessionId { high: 1, low }
    }

    /// A world without coins and with players at the given positions.
    fn world<const N: usize>(positions: [(i32, i32); N]) -> World {
        let mut world = World { coins: Vec::new(), ..World::new(1, 0) };
        for (number, (x, y)) in (1..).zip(positions) {
            world.join(number, session(number));
            world.players[number as usize - 1].shown = Shown { player: number, x, y, score: 0, away: false };
        }
        world
    }

    fn inputs<const N: usize>(inputs: [(i32, i32); N]) -> BTreeMap<SessionId, Input> {
        (1..).map(session).zip(inputs.map(|(dx, dy)| Input { dx, dy })).collect()
    }

    #[track_caller]
    fn check_moved(from: (i32, i32), direction: (i32, i32), to: (i32, i32)) {
        let mut world = world([from]);
        world.step(RULES, &inputs([direction]));
        let shown = world.players[0].shown;
        assert_eq!((shown.x, shown.y), to);
    }

    #[test]
    fn a_player_goes_at_the_speed_of_the_rules_and_stops_at_the_border() {
        check_moved((5_000, 5_000), (1000, 0), (5_300, 5_000));
        check_moved((5_000, 5_000), (0, -500), (5_000, 4_850));
        check_moved((5_000, 5_000), (1000, 1000), (5_212, 5_212));
        check_moved((5_000, 5_000), (-1000, 0), (4_700, 5_000));
        check_moved((100, 5_000), (-1000, 0), (0, 5_000));
        check_moved((WIDTH - 1, HEIGHT), (1000, 1000), (WIDTH, HEIGHT));
    }

    #[test]
    fn the_first_player_in_reach_gets_the_coin_and_a_new_one_appears() {
        let mut world = world([(9_000, 5_000), (10_000, 5_000), (10_500, 5_000)]);
        world.coins = vec![Coin { x: 11_000, y: 5_000 }, Coin { x: 30_000, y: 9_000 }];
        world.step(RULES, &inputs([]));
        assert_eq!(world.players.iter().map(|player| player.shown.score).collect::<Vec<_>>(), [0, 1, 0]);
        assert_ne!(world.coins[0], Coin { x: 11_000, y: 5_000 });
        assert_eq!(world.coins[1], Coin { x: 30_000, y: 9_000 });
    }

    #[test]
    fn a_player_whose_client_is_away_stands_still_takes_no_coin_and_stays() {
        let mut world = world([(9_000, 5_000), (9_500, 5_000)]);
        world.coins = vec![Coin { x: 9_000, y: 5_000 }];
        assert!(world.set_away(session(1), true));
        assert!(!world.set_away(session(1), true) && !world.set_away(session(3), true));
        for _ in 0..600 {
            world.step(RULES, &inputs([(1000, 0), (0, 0)]));
        }
        let shown = world.players[0].shown;
        assert_eq!((shown.x, shown.y, shown.score, shown.away), (9_000, 5_000, 0, true));
        assert_eq!((world.players[1].shown.score > 0, world.remove_silent()), (true, vec![]));
        world.set_away(session(1), false);
        world.step(RULES, &inputs([(1000, 0), (0, 0)]));
        assert_eq!(world.players[0].shown.x, 9_300);
    }

    #[test]
    fn a_silent_player_is_removed_after_30_s() {
        let mut world = world([(0, 0), (0, 0)]);
        for _ in 0..599 {
            world.step(RULES, &inputs([(0, 0)]));
        }
        assert_eq!(world.remove_silent(), []);
        world.step(RULES, &inputs([(0, 0)]));
        assert_eq!(world.remove_silent(), [session(2)]);
        assert_eq!((world.players.len(), world.tick), (1, 600));
    }

    #[track_caller]
    fn check_scheduled(due: u64, now: u64, next: u64, missed: bool) {
        let mut world = World::new(1, due);
        assert_eq!((world.schedule(now, 50), world.due), (missed, next));
    }

    #[test]
    fn ticks_keep_their_cadence() {
        check_scheduled(1000, 1000, 1050, false);
        check_scheduled(1000, 1049, 1050, false);
        check_scheduled(1000, 1050, 1100, true);
        check_scheduled(1000, 1260, 1300, true);
        check_scheduled(1000, 500, 550, false);
    }

    #[test]
    fn a_full_room_is_far_below_64_kb() {
        let mut world = World::new(1, 1_700_000_000_000);
        for number in 0..200 {
            world.join(1_000_000 + number, SessionId { high: u64::MAX, low: u64::MAX - number });
        }
        assert!(world.encode_to_vec().len() < 8_192, "{}", world.encode_to_vec().len());
        assert_eq!(World::decode(world.encode_to_vec().as_slice()).unwrap(), world);
    }

    proptest! {
        #[test]
        fn the_same_inputs_give_the_same_world_and_nobody_leaves_the_field_or_is_too_fast(
            seed: u64,
            directions in prop::collection::vec([(-1000..=1000, -1000..=1000), (-1000..=1000, -1000..=1000)], 1..50),
        ) {
            let (mut one, mut other) = (World::new(seed, 0), World::new(seed, 0));
            for number in 1..=2 {
                one.join(number, session(number));
                other.join(number, session(number));
            }
            for directions in directions {
                let before = one.clone();
                one.step(RULES, &inputs(directions));
                other.step(RULES, &inputs(directions));
                prop_assert_eq!(&one, &other);
                for (player, before) in one.players.iter().zip(&before.players) {
                    let (shown, before) = (player.shown, before.shown);
                    prop_assert!((0..=WIDTH).contains(&shown.x) && (0..=HEIGHT).contains(&shown.y));
                    let (dx, dy) = (i64::from(shown.x - before.x), i64::from(shown.y - before.y));
                    // The length of a direction is rounded down, so a diagonal may be faster by less than 0.1 %.
                    prop_assert!(dx * dx + dy * dy <= 301 * 301, "{} {}", dx, dy);
                }
                prop_assert_eq!(one.coins.len(), COINS);
            }
        }
    }
}
