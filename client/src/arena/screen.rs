//! The game in the terminal.

use std::time::Duration;

use anyhow::{Context, bail};
use arena_proto::left::Reason;
use arena_proto::server_message::Message as Response;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use gateway_connection::{Event as SessionEvent, Received, Session, Target};
use gateway_wire::packet::{Packet, ROUTE_GAME, Status};
use ratatui::DefaultTerminal;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::entry::{FIRST_SEQ, decode, join, packet};
use super::view::View;
use crate::push::Push;
use crate::show;

/// The time from one input to the next while the direction stays the same.
const BEAT: Duration = Duration::from_millis(200);

/// The position at which a player enters the field.
const START: (i32, i32) = (0, 0);

/// What the player wants.
#[derive(Debug, PartialEq)]
enum Wish {
    Turn((i32, i32)),
    Leave,
}

/// Plays until the player leaves.
pub(crate) async fn run(field: bool, reconnects: bool, target: &Target) -> anyhow::Result<()> {
    let mut session = Session::open(target, reconnects).await?;
    let view = enter(&mut session, field).await?;
    let mut terminal = ratatui::try_init().context("the arena needs a terminal; use --bots without one")?;
    let outcome = play(&mut session, field, view, &mut terminal).await;
    ratatui::restore();
    session.close().await;
    outcome
}

/// Asks for a place.
async fn enter(session: &mut Session, field: bool) -> anyhow::Result<View> {
    Ok(match join(session, field.then_some(START), |_| {}).await? {
        Response::RoomJoined(joined) => View::room(joined),
        Response::FieldEntered(entered) => View::field(entered, START),
        _ => bail!("the reply on route 2 is not of the arena"),
    })
}

async fn play(
    session: &mut Session,
    field: bool,
    mut view: View,
    terminal: &mut DefaultTerminal,
) -> anyhow::Result<()> {
    let mut events = EventStream::new();
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seq = FIRST_SEQ;
    loop {
        tokio::select! {
            event = events.next() => match event.transpose()?.map(|event| wish(&event)) {
                // A terminal that has gone sends no events any more.
                Some(Some(Wish::Leave)) | None => return Ok(()),
                Some(Some(Wish::Turn(direction))) => {
                    view.turn(direction);
                    beats.reset_immediately();
                }
                Some(None) => {}
            },
            // An input that waits for a connection would be too old.
            _ = beats.tick(), if session.is_connected() => {
                seq = seq.wrapping_add(1);
                session.send(packet(seq, view.request())).await;
            }
            event = session.next() => match event? {
                SessionEvent::Received(Received::Packet(packet)) => take(&mut view, &packet)?,
                SessionEvent::Received(Received::NoPacket(_)) => {}
                event @ (SessionEvent::Reconnecting { .. } | SessionEvent::Resumed { .. }) => {
                    view.notice(show::event(&event));
                }
                event @ SessionEvent::New { .. } => {
                    (view, seq) = (enter(session, field).await?, FIRST_SEQ);
                    view.notice(show::event(&event));
                }
            }
        }
        terminal.draw(|frame| view.draw(frame))?;
    }
}

/// Shows a packet. Fails if the player has lost the place.
fn take(view: &mut View, packet: &Packet) -> anyhow::Result<()> {
    if packet.header.status != Status::Ok as u16 {
        bail!("the gateway refused an input: {}", show::status(packet));
    }
    if let Some(Push::Gap(gap)) = Push::of(packet) {
        view.notice(show::gap(&gap));
    }
    if packet.header.route != ROUTE_GAME {
        return Ok(());
    }
    match decode(packet)? {
        Response::Left(left) if left.reason() == Reason::Silent => bail!("you were removed, because you were silent"),
        Response::Left(_) => bail!("the room has ended"),
        message => view.take(message, Instant::now()),
    }
    Ok(())
}

fn wish(event: &Event) -> Option<Wish> {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press | KeyEventKind::Repeat, .. }) = event else {
        return None;
    };
    Some(match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Wish::Leave,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Leave,
        KeyCode::Left | KeyCode::Char('a') => Wish::Turn((-1, 0)),
        KeyCode::Right | KeyCode::Char('d') => Wish::Turn((1, 0)),
        KeyCode::Up | KeyCode::Char('w') => Wish::Turn((0, -1)),
        KeyCode::Down | KeyCode::Char('s') => Wish::Turn((0, 1)),
        KeyCode::Char(' ') => Wish::Turn((0, 0)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use arena_proto::{Left, RoomJoined, ServerMessage};
    use prost::Message;

    use super::*;

    fn key(code: KeyCode, modifiers: KeyModifiers) -> Option<Wish> {
        wish(&Event::Key(KeyEvent::new(code, modifiers)))
    }

    #[test]
    fn keys_mean_wishes() {
        let none = KeyModifiers::NONE;
        assert_eq!(key(KeyCode::Up, none), Some(Wish::Turn((0, -1))));
        assert_eq!(key(KeyCode::Char('a'), none), Some(Wish::Turn((-1, 0))));
        assert_eq!(key(KeyCode::Char(' '), none), Some(Wish::Turn((0, 0))));
        assert_eq!(key(KeyCode::Char('q'), none), Some(Wish::Leave));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Leave));
        assert_eq!(key(KeyCode::Char('c'), none), None);
        let released = KeyEvent::new_with_kind(KeyCode::Up, none, KeyEventKind::Release);
        assert_eq!(wish(&Event::Key(released)), None);
    }

    #[track_caller]
    fn check_ends(packet: &Packet, why: &str) {
        let mut view = View::room(RoomJoined::default());
        assert_eq!(take(&mut view, packet).unwrap_err().to_string(), why);
    }

    #[test]
    fn whoever_has_lost_the_place_learns_why() {
        let left = |reason: Reason| {
            let message = Some(Response::Left(Left { reason: reason.into() }));
            Packet::push(ROUTE_GAME, 1, ServerMessage { message }.encode_to_vec())
        };
        check_ends(&left(Reason::Silent), "you were removed, because you were silent");
        check_ends(&left(Reason::Closed), "the room has ended");
        let refused = Packet::request(1, ROUTE_GAME, "").reply(4, "no");
        check_ends(&refused, "the gateway refused an input: status 4 rejected: no");
    }
}
