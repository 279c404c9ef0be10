//! What has to hold in the states of the model.

use crate::{
    steps::Action,
    world::{Phase, World},
};

/// The kinds of states that have to occur, so that the properties are not true for want of states: the client has all
/// messages at the gateway to which it has come back. Bit 0 is for the first gateway, and bit 1 for the second one.
#[must_use]
pub fn kinds(world: &World, pushes: u8) -> u32 {
    let has_all = world.player.content == pushes && !world.player.misses;
    let resumed = world.connections.iter().filter(|it| it.is_resumed && it.is_there && it.is_welcomed && has_all);
    resumed.fold(0, |kinds, connection| kinds | 1 << connection.gateway)
}

/// Checks a state.
///
/// # Errors
/// Returns the name of the property that it violates.
pub fn check(world: &World, actions: &[Action]) -> Result<(), &'static str> {
    let require = |holds: bool, property| if holds { Ok(()) } else { Err(property) };
    let player = &world.player;
    require(!player.is_confused, "the client receives each push once, with the next number and in order")?;
    require(!player.misses || world.gaps > 0, "the client receives all messages without a hole")?;
    let resumed = |token: u8| world.connections.iter().filter(|it| it.is_resumed && it.token == token).count();
    require((0..world.begun).all(|token| resumed(token) <= 1), "a token resumes a session once")?;
    let available = world.sessions().filter(|(_, _, session)| session.outbox.is_available()).count();
    require(available <= 1, "the client can get the session at one gateway only")?;
    if actions.iter().any(|action| action.is_internal()) {
        return Ok(());
    }
    require(world.sessions().count() <= 1, "the session is not left at both gateways")?;
    require(world.sessions().all(|(_, _, it)| it.outbox.is_available()), "no session stays claimed for ever")?;
    for connection in world.connections.iter().filter(|connection| connection.is_there) {
        let is_answered = matches!(connection.phase, Phase::Open | Phase::New) && connection.is_welcomed;
        require(is_answered, "every connection gets a session")?;
        if connection.phase == Phase::Open {
            let is_found = |gateway: u8, index: u8| world.gateways[gateway as usize].found == Some(index);
            let has_session = world.sessions().any(|(gateway, index, it)| it.is_listed && is_found(gateway, index));
            require(has_session, "a client with a session can be reached")?;
            let has_all = player.content == world.published && !player.misses;
            require(has_all || player.knows_gap, "the client has everything, or knows that it may miss something")?;
        }
    }
    Ok(())
}

/// Returns whether the client has a connection with a session. Without any attempt left, it has nothing to hope for.
#[must_use]
pub fn is_connected(world: &World, comebacks: u8) -> bool {
    let mut there = world.connections.iter().filter(|connection| connection.is_there);
    let has_given_up = || world.begun > comebacks || world.player.is_new;
    there.any(|connection| connection.is_welcomed)
        || (world.connections.iter().all(|it| !it.is_there) && has_given_up())
}
