use arena_proto::{Coin, FieldLeft, FieldPosition};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn room() -> View {
    let rules = Some(Rules { tick_ms: 50, speed: 6500 });
    View::room(RoomJoined { room: 3, player: 7, width: 1000, height: 400, rules })
}

fn field(position: (i32, i32)) -> View {
    View::field(FieldEntered { player: 7, cell: 1000 }, position)
}

fn player(player: u64, x: i32, y: i32, score: u32) -> Player {
    Player { player, x, y, score, away: false }
}

/// The lines of a screen, without the spaces at their ends.
fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.draw(frame)).unwrap();
    let cells = terminal.backend().buffer().content();
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    cells.chunks(usize::from(width)).map(|cells| line(cells).trim_end().to_owned()).collect()
}

#[test]
fn a_room_is_drawn_to_scale_with_the_best_player_first() {
    let mut view = room();
    let snapshot = Snapshot {
        room: 3,
        tick: 12,
        rules: Some(Rules { tick_ms: 50, speed: 6500 }),
        players: vec![player(7, 0, 0, 1), player(28, 1000, 400, 2), Player { away: true, ..player(27, 500, 500, 0) }],
        coins: vec![Coin { x: 500, y: 200 }, Coin { x: 0, y: 0 }],
    };
    view.take(Response::Snapshot(snapshot), Instant::now());
    let lines = [
        "┌ room 3, tick 12 of 50 ms, speed 6.5 ──┐┌ players ─────────────┐",
        "│@                                      ││   2  c player 28     │",
        "│                                       ││   1  @ you           │",
        "│                   $                   ││   0  b away 27       │",
        "│                                       ││                      │",
        "│                                      c││                      │",
        "└───────────────────────────────────────┘└──────────────────────┘",
        "arrows or WASD: move   space: stop   q: leave",
    ];
    assert_eq!(screen(&view, 65, 8), lines);
}

#[test]
fn a_player_whose_session_moves_to_another_gateway_is_in_another_room() {
    let mut view = room();
    view.turn((1, 0));
    let joined = RoomJoined { room: 4, player: 9, width: 1000, height: 400, rules: None };
    view.take(Response::RoomJoined(joined), Instant::now());
    let snapshot = Snapshot { room: 4, players: vec![player(9, 0, 0, 2)], ..Snapshot::default() };
    view.take(Response::Snapshot(snapshot), Instant::now());
    assert!(screen(&view, 65, 8)[1].ends_with("│   2  @ you           │"));
    assert!(matches!(view.request(), Request::Input(Input { dx: 1000, dy: 0 })));
}

#[test]
fn any_screen_is_large_enough() {
    for (width, height) in [(1, 1), (3, 3), (26, 3), (300, 1)] {
        screen(&room(), width, height);
        screen(&field((0, 0)), width, height);
    }
}

#[test]
fn a_player_asks_for_a_direction_in_a_room_and_for_a_position_in_the_field() {
    let mut view = room();
    assert_eq!(view.request(), Request::Input(Input { dx: 0, dy: 0 }));
    view.turn((-1, 1));
    assert_eq!(view.request(), Request::Input(Input { dx: -1000, dy: 1000 }));
    let mut view = field((999_500, 0));
    view.turn((1, -1));
    assert_eq!(view.request(), Request::Move(Move { x: 1_000_000, y: -1000 }));
    assert_eq!(view.request(), Request::Move(Move { x: 1_000_000, y: -2000 }));
}

#[track_caller]
fn check_in_sight(view: &View, count: usize) {
    assert_eq!(view.players(), [Line::from(format!("{count} others in sight"))]);
}

#[test]
fn players_in_the_field_are_forgotten_when_they_leave_or_are_silent_or_out_of_sight() {
    let mut view = field((-1, 500));
    let begin = Instant::now();
    let at = |player, x, y| Response::FieldPosition(FieldPosition { player, x, y });
    for near in [at(1, 999, 0), at(2, -2000, 1999), at(3, 0, -1000)] {
        view.take(near, begin);
    }
    check_in_sight(&view, 3);
    view.take(at(4, 1000, 0), begin);
    view.take(at(3, 0, -1001), begin);
    check_in_sight(&view, 2);
    view.take(Response::FieldLeft(FieldLeft { player: 2 }), begin);
    check_in_sight(&view, 1);
    view.take(at(5, 0, 0), begin + MAX_SILENCE);
    check_in_sight(&view, 1);
}

#[test]
fn the_map_of_the_field_shows_the_cells_around_the_player() {
    let mut view = field((-1, 500));
    view.take(Response::FieldPosition(FieldPosition { player: 27, x: 999, y: 0 }), Instant::now());
    let (size, marks) = view.marks();
    assert_eq!(size, (3000, 3000));
    let places: Vec<_> = marks.iter().map(|mark| (mark.sign, mark.x, mark.y)).collect();
    assert_eq!(places, [('b', 2999, 1000), ('@', 1999, 1500)]);
}
