//! `gateway-client chat`: sends each typed line as a chat request, and prints each packet that comes back.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use chat_proto::chat::ChatRequest;
use chat_proto::common::{MessageBase, MessageMeta};
use gateway_connection::{Session, Target, interrupted};
use gateway_wire::packet::{Packet, ROUTE_CHAT};
use prost::Message;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep, sleep_until};

use crate::line::{Line, Saying};
use crate::show;

/// The time without a packet after which the client leaves once stdin has ended. Answers may still be on their way.
const SETTLE: Duration = Duration::from_secs(1);

/// The time after the end of stdin after which the client leaves although packets still arrive.
const SETTLE_AT_MOST: Duration = Duration::from_secs(10);

/// The `client_version` in `MessageMeta`.
const CLIENT_VERSION: &str = concat!("gateway-client/", env!("CARGO_PKG_VERSION"));

/// The `protocol_version` in `MessageMeta`: the version of the packet header and of the messages.
const PROTOCOL_VERSION: &str = "1";

/// Chat: each line that you type is sent, each packet that comes back is printed
///
/// `hello` is sent as it is, `@2 hello` to user 2, `#7 hello` to channel 7. `/quit`, Ctrl-C or the end of stdin leaves;
/// at the end of stdin, answers are awaited until none has come for a second.
///
/// If the connection breaks, the client reconnects and resumes its session.
///
/// Exit status: 0 if you left, 1 if the gateway ended the session, or with `--no-reconnect` the connection.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Your user id
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i32).range(1..))]
    user: i32,
    /// The game's id
    #[arg(long, value_name = "ID", default_value = "mmo")]
    game: String,
    /// End with the connection, with status 1, instead of reconnecting
    #[arg(long)]
    no_reconnect: bool,
    #[command(flatten)]
    target: Target,
}

/// Runs until the user leaves. Fails if the gateway ends the session.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut session = Session::open(&options.target, !options.no_reconnect).await?;
    let mut conversation = Conversation {
        session: &mut session,
        out: io::stdout().lock(),
        user_id: options.user,
        game_id: options.game,
        last_seq: 0,
    };
    let outcome = tokio::select! {
        outcome = conversation.hold(BufReader::new(tokio::io::stdin())) => outcome,
        () = interrupted() => Ok(()),
    };
    session.close().await;
    outcome
}

struct Conversation<'a, W> {
    session: &'a mut Session,
    out: W,
    user_id: i32,
    game_id: String,
    last_seq: u32,
}

impl<W: Write> Conversation<'_, W> {
    async fn hold(&mut self, input: impl AsyncBufRead + Unpin) -> anyhow::Result<()> {
        writeln!(self.out, "{}", show::packet(self.session.welcome()))?;
        let mut lines = input.split(b'\n');
        let mut stdin_ended: Option<Instant> = None;
        loop {
            let is_connected = self.session.is_connected();
            tokio::select! {
                line = lines.next_segment(), if stdin_ended.is_none() => match line? {
                    Some(line) => match Line::parse(&line) {
                        Line::Blank => {}
                        Line::Quit => return Ok(()),
                        Line::Say(saying) => self.say(&saying).await,
                        Line::Wrong(why) => writeln!(self.out, "! not sent: {why}")?,
                    },
                    None => stdin_ended = Some(Instant::now()),
                },
                event = self.session.next() => writeln!(self.out, "{}", show::event(&event?))?,
                () = settled(stdin_ended, is_connected) => {
                    ensure!(is_connected, "there is no connection, so the last lines may not have been sent");
                    return Ok(());
                }
            }
        }
    }

    async fn say(&mut self, saying: &Saying<'_>) {
        self.last_seq = self.last_seq.wrapping_add(1);
        let request = self.request(saying).encode_to_vec();
        self.session.send(Packet::request(self.last_seq, ROUTE_CHAT, request)).await;
    }

    fn request(&self, saying: &Saying<'_>) -> ChatRequest {
        ChatRequest {
            base: Some(MessageBase { game_id: self.game_id.clone(), user_id: self.user_id, timestamp: now_ms() }),
            receiver_id: saying.receiver_id,
            channel_id: saying.channel_id,
            content: saying.content.to_owned(),
            meta: Some(MessageMeta {
                client_version: CLIENT_VERSION.to_owned(),
                protocol_version: PROTOCOL_VERSION.to_owned(),
                session_id: self.session.id().to_owned(),
                ..MessageMeta::default()
            }),
            ..ChatRequest::default()
        }
    }
}

/// Completes when answers have been awaited for long enough. Never completes while stdin is open. The loop calls this
/// anew after every packet, so [`SETTLE`] counts from the last one. Without a connection, no answer can have come.
async fn settled(stdin_ended: Option<Instant>, is_connected: bool) {
    match stdin_ended {
        None => std::future::pending().await,
        Some(ended) => tokio::select! {
            () = sleep(SETTLE), if is_connected => {}
            () = sleep_until(ended + SETTLE_AT_MOST) => {}
        },
    }
}

/// The milliseconds since 1970, or 0 if the machine's clock shows an earlier time.
fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
