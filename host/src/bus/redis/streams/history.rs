//! Finds the reader's position in a stream again after a break.
//!
//! The last entry that was read may be gone. It was trimmed, a failover has lost the end of the stream, or the server came
//! back empty. Ids contain the time of a server's clock, and the clocks of two servers differ. So whether an entry comes
//! after another is decided by what was read, and never by comparing ids.

use super::{
    position::{Position, START},
    server::{Info, Server},
};
use crate::bus::redis::error::LinkError;

/// The number of ids before the end of a stream that are remembered when reading begins.
const IDS_BEFORE: usize = 128;

/// The number of ids that are looked for at a time.
const IDS_AT_A_TIME: usize = 64;

/// What a break has cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing.
    None,
    /// This number of entries was removed before it was read.
    Entries(u64),
    /// Entries may have been lost, because the stream is not the same any more.
    Perhaps,
}

/// Finds the position in a stream: at the newest entry that was read and still exists, or at the beginning of the
/// stream if there is none. If there is no position yet, it is the end of the stream.
pub(super) async fn find(
    server: &mut Server,
    stream: &str,
    position: &mut Option<Position>,
) -> Result<Loss, LinkError> {
    if let Some(position) = position {
        return find_again(server, stream, position).await;
    }
    let begun = begin(server, stream).await?;
    tracing::info!(stream, after = begun.id(), "reading a stream");
    *position = Some(begun);
    Ok(Loss::None)
}

async fn begin(server: &mut Server, stream: &str) -> Result<Position, LinkError> {
    let Some(info) = server.info(stream).await? else { return Ok(Position::at_end(None, Vec::new())) };
    let before = server.ids_before(stream, &info.last_id, IDS_BEFORE).await?;
    Ok(Position::at_end(Some(&info), before))
}

async fn find_again(server: &mut Server, stream: &str, position: &mut Position) -> Result<Loss, LinkError> {
    let info = server.info(stream).await?;
    if position.id() == START {
        return Ok(Loss::None);
    }
    if let Some(Info { last_id, .. }) = &info {
        if last_id == position.id() {
            return Ok(Loss::None);
        }
        if let Some(id) = newest_existing(server, stream, position).await? {
            if id == position.id() {
                return Ok(Loss::None);
            }
            position.go_back_to(&id);
            return Ok(Loss::Perhaps);
        }
    }
    Ok(match position.go_to_start(info.as_ref()) {
        Some(0) if info.is_some() => Loss::None,
        Some(lost) if info.is_some() => Loss::Entries(lost),
        _ => Loss::Perhaps,
    })
}

async fn newest_existing(server: &mut Server, stream: &str, position: &Position) -> Result<Option<String>, LinkError> {
    let ids: Vec<_> = position.ids().collect();
    for ids in ids.chunks(IDS_AT_A_TIME) {
        if let Some(id) = server.first_existing(stream, ids).await? {
            return Ok(Some(id.to_owned()));
        }
    }
    Ok(None)
}
