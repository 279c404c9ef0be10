//! The first request of a player, which asks for a place in the arena, and the messages of the protocol in packets.

use std::time::Duration;

use anyhow::{Context, anyhow};
use arena_proto::client_message::Message as Request;
use arena_proto::server_message::Message as Response;
use arena_proto::{ClientMessage, EnterField, FindRoom, ServerMessage};
use gateway_connection::{Event, Received, Session};
use gateway_wire::packet::{Packet, ROUTE_GAME, Status};
use prost::Message;
use tokio::time::timeout;

use crate::show;

/// The time that the reply to the first request may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The seq of the packet that asks for a place. All other packets have a higher one.
pub(super) const FIRST_SEQ: u32 = 1;

/// Asks for a place in a room, or for this position in the field. Returns the reply, which is `RoomJoined` or
/// `FieldEntered`. Packets before the reply go to `other`.
pub(super) async fn join(
    session: &mut Session,
    position: Option<(i32, i32)>,
    mut other: impl FnMut(&Packet),
) -> anyhow::Result<Response> {
    let request = match position {
        Some((x, y)) => Request::EnterField(EnterField { x, y }),
        None => Request::FindRoom(FindRoom {}),
    };
    let request = packet(FIRST_SEQ, request);
    let reply = async {
        session.send(request.clone()).await;
        loop {
            match session.next().await? {
                Event::Received(Received::Packet(packet)) if packet.header.is_reply() => return anyhow::Ok(packet),
                Event::Received(Received::Packet(packet)) => other(&packet),
                // The place that the old session may have got is lost.
                Event::New { .. } => session.send(request.clone()).await,
                Event::Received(Received::NoPacket(_)) | Event::Reconnecting { .. } | Event::Resumed { .. } => {}
            }
        }
    };
    let reply = timeout(REPLY_TIMEOUT, reply)
        .await
        .map_err(|_| anyhow!("no reply on route 2 within {} s", REPLY_TIMEOUT.as_secs()))??;
    if reply.header.status != Status::Ok as u16 {
        return Err(anyhow!("the gateway gives no place in the arena: {}", show::status(&reply)));
    }
    match decode(&reply)? {
        joined @ (Response::RoomJoined(_) | Response::FieldEntered(_)) => Ok(joined),
        _ => Err(anyhow!("the reply on route 2 is not of the arena; does another plugin serve this route?")),
    }
}

pub(super) fn packet(seq: u32, message: Request) -> Packet {
    Packet::request(seq, ROUTE_GAME, ClientMessage { message: Some(message) }.encode_to_vec())
}

pub(super) fn decode(packet: &Packet) -> anyhow::Result<Response> {
    let message = ServerMessage::decode(packet.payload.clone()).context("a packet on route 2 is not of the arena")?;
    message.message.context("a message of the arena has a type that this client does not know")
}
