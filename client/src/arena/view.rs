//! What a player sees, and how it is drawn.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use arena_proto::client_message::Message as Request;
use arena_proto::server_message::Message as Response;
use arena_proto::{FieldEntered, Input, Move, Player, RoomJoined, Rules, Snapshot};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph};
use tokio::time::Instant;

/// The time after which a player in the field is gone who has not told a position.
const MAX_SILENCE: Duration = Duration::from_secs(3);

/// The largest coordinate of the field.
const FIELD_MAX: i32 = 1_000_000;

/// The distance that the player in the field goes with each request.
const FIELD_STRIDE: i32 = 1_000;

const HELP: &str = "arrows or WASD: move   space: stop   q: leave";

/// What a player sees.
pub(crate) struct View {
    you: u64,
    /// The direction in which the player wants to go, each part -1, 0 or 1.
    direction: (i32, i32),
    place: Place,
    /// What is shown instead of the help until the player turns.
    notice: Option<String>,
}

enum Place {
    Room { width: i32, height: i32, snapshot: Snapshot },
    Field { cell: i32, position: (i32, i32), others: HashMap<u64, Other> },
}

/// Another player in the field.
struct Other {
    position: (i32, i32),
    seen: Instant,
}

/// A character on the map, at a position in thousandths of a unit.
#[derive(Debug, PartialEq)]
struct Mark {
    x: i32,
    y: i32,
    sign: char,
    style: Style,
}

impl View {
    /// Creates the view of a room that was joined.
    pub(crate) fn room(joined: RoomJoined) -> Self {
        let RoomJoined { room, player, width, height, rules } = joined;
        let snapshot = Snapshot { room, rules, ..Snapshot::default() };
        Self { you: player, direction: (0, 0), place: Place::Room { width, height, snapshot }, notice: None }
    }

    /// Creates the view of the field that was entered at a position.
    pub(crate) fn field(entered: FieldEntered, position: (i32, i32)) -> Self {
        // A gateway's answer must not make this client divide by zero.
        let cell = entered.cell.clamp(1, FIELD_MAX);
        let place = Place::Field { cell, position, others: HashMap::new() };
        Self { you: entered.player, direction: (0, 0), place, notice: None }
    }

    /// Changes the direction in which the player wants to go.
    pub(crate) fn turn(&mut self, direction: (i32, i32)) {
        self.direction = direction;
        self.notice = None;
    }

    /// Shows a line instead of the help until the player turns.
    pub(crate) fn notice(&mut self, notice: String) {
        self.notice = Some(notice);
    }

    /// Returns the request that is due now: the direction, or the next position.
    pub(crate) fn request(&mut self) -> Request {
        let (dx, dy) = self.direction;
        match &mut self.place {
            Place::Room { .. } => Request::Input(Input { dx: dx * 1000, dy: dy * 1000 }),
            Place::Field { position, .. } => {
                let moved = |from: i32, part: i32| (from + part * FIELD_STRIDE).clamp(-FIELD_MAX, FIELD_MAX);
                *position = (moved(position.0, dx), moved(position.1, dy));
                Request::Move(Move { x: position.0, y: position.1 })
            }
        }
    }

    /// Takes note of a message that arrived at `now`.
    pub(crate) fn take(&mut self, message: Response, now: Instant) {
        match (&mut self.place, message) {
            (Place::Room { snapshot, .. }, Response::Snapshot(new)) => *snapshot = new,
            // The session has moved to another gateway.
            (_, Response::RoomJoined(joined)) => {
                *self = Self { direction: self.direction, notice: self.notice.take(), ..Self::room(joined) };
            }
            (Place::Field { others, .. }, Response::FieldPosition(it)) => {
                others.insert(it.player, Other { position: (it.x, it.y), seen: now });
            }
            (Place::Field { others, .. }, Response::FieldLeft(it)) => {
                others.remove(&it.player);
            }
            _ => {}
        }
        self.forget(now);
    }

    /// Forgets the players in the field who are silent or out of sight.
    fn forget(&mut self, now: Instant) {
        let Place::Field { cell, position, others } = &mut self.place else { return };
        let is_near = |own: i32, other: i32| (own.div_euclid(*cell) - other.div_euclid(*cell)).abs() <= 1;
        others.retain(|_, Other { position: (x, y), seen }| {
            now - *seen < MAX_SILENCE && is_near(position.0, *x) && is_near(position.1, *y)
        });
    }

    /// Draws the map, the list of players, and the help.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let [main, help] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        let [map, list] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(24)]).areas(main);
        let block = Block::bordered().title(self.title());
        let inside = block.inner(map);
        frame.render_widget(block, map);
        let (size, marks) = self.marks();
        marks.iter().for_each(|mark| put(frame.buffer_mut(), inside, size, mark));
        frame.render_widget(Paragraph::new(self.players()).block(Block::bordered().title(" players ")), list);
        frame.render_widget(Line::from(self.notice.as_deref().unwrap_or(HELP)).dim(), help);
    }

    fn title(&self) -> String {
        match &self.place {
            Place::Room { snapshot: Snapshot { room, tick, rules, .. }, .. } => {
                let Rules { tick_ms, speed } = rules.unwrap_or_default();
                format!(" room {room}, tick {tick} of {tick_ms} ms, speed {} ", f64::from(speed) / 1000.0)
            }
            Place::Field { position: (x, y), .. } => {
                format!(" field, at {:.0} {:.0} ", f64::from(*x) / 1000.0, f64::from(*y) / 1000.0)
            }
        }
    }

    /// Returns the lines about the players, the best first.
    fn players(&self) -> Vec<Line<'static>> {
        match &self.place {
            Place::Room { snapshot, .. } => {
                let mut players = snapshot.players.clone();
                players.sort_by_key(|player| Reverse(player.score));
                let line = |it: &Player| {
                    let name = if it.away { format!("away {}", it.player) } else { self.name(it.player) };
                    Line::from(format!("{:>4}  {} {name}", it.score, self.sign(it.player)))
                };
                players.iter().map(line).collect()
            }
            Place::Field { others, .. } => vec![Line::from(format!("{} others in sight", others.len()))],
        }
    }

    /// Returns the size of the map, and what is on it. The last mark is on top of the others.
    fn marks(&self) -> ((i32, i32), Vec<Mark>) {
        let player = |player: u64, x: i32, y: i32| {
            let style = if player == self.you { Style::new().green().bold() } else { Style::new() };
            Mark { x, y, sign: self.sign(player), style }
        };
        match &self.place {
            Place::Room { width, height, snapshot } => {
                let coin = Style::new().yellow();
                let coins = snapshot.coins.iter().map(|it| Mark { x: it.x, y: it.y, sign: '$', style: coin });
                let mut players = snapshot.players.clone();
                players.sort_by_key(|it| it.player == self.you);
                let players = players.iter().map(|it| player(it.player, it.x, it.y));
                ((*width, *height), coins.chain(players).collect())
            }
            Place::Field { cell, position, others } => {
                let origin = |own: i32| (own.div_euclid(*cell) - 1) * cell;
                let (left, top) = (origin(position.0), origin(position.1));
                let at = |id, (x, y): (i32, i32)| player(id, x - left, y - top);
                let others = others.iter().map(|(id, other)| at(*id, other.position));
                ((3 * cell, 3 * cell), others.chain([at(self.you, *position)]).collect())
            }
        }
    }

    fn sign(&self, player: u64) -> char {
        if player == self.you {
            return '@';
        }
        // The remainder is less than 26.
        char::from(b'a' + (player % 26) as u8)
    }

    fn name(&self, player: u64) -> String {
        if player == self.you { "you".to_owned() } else { format!("player {player}") }
    }
}

/// Puts a mark on the map. A mark that is not on the map is left out.
fn put(buffer: &mut Buffer, area: Rect, (width, height): (i32, i32), mark: &Mark) {
    let at = |start: u16, length: u16, position: i32, size: i32| {
        let last = i64::from(length.checked_sub(1)?);
        let offset = i64::from(position) * last / i64::from(size.max(1));
        (0..=last).contains(&offset).then(|| start + offset as u16)
    };
    if let (Some(x), Some(y)) = (at(area.x, area.width, mark.x, width), at(area.y, area.height, mark.y, height))
        && let Some(cell) = buffer.cell_mut((x, y))
    {
        cell.set_char(mark.sign).set_style(mark.style);
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
