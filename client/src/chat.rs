//! `gateway-client chat`: sends each typed line as a chat request, and prints each packet that comes back.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use chat_proto::chat::ChatRequest;
use chat_proto::common::{MessageBase, MessageMeta};
use gateway_connection::{Connection, Received, Target, interrupted};
use gateway_wire::packet::{Packet, ROUTE_CHAT};
use prost::Message;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::line::{Line, Saying};
use crate::push::Push;
use crate::show;

/// The time that the welcome may take. A gateway sends it first, so it takes one trip through the network.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

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
/// Exit status: 0 if you left, 1 if the gateway ended the connection, whatever its code.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Your user id
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i32).range(1..))]
    user: i32,
    /// The game's id
    #[arg(long, value_name = "ID", default_value = "mmo")]
    game: String,
    #[command(flatten)]
    target: Target,
}

/// Runs until the user leaves. Fails if the gateway ends the connection.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut connection = Connection::open(&options.target).await?;
    let mut conversation = Conversation {
        connection: &mut connection,
        out: io::stdout().lock(),
        user_id: options.user,
        game_id: options.game,
        session_id: String::new(),
        last_seq: 0,
    };
    let outcome = tokio::select! {
        outcome = conversation.hold(BufReader::new(tokio::io::stdin())) => outcome,
        () = interrupted() => Ok(()),
    };
    connection.close().await;
    outcome
}

struct Conversation<'a, W> {
    connection: &'a mut Connection,
    out: W,
    user_id: i32,
    game_id: String,
    /// The session id from the welcome. It is empty before the welcome.
    session_id: String,
    last_seq: u32,
}

impl<W: Write> Conversation<'_, W> {
    async fn hold(&mut self, input: impl AsyncBufRead + Unpin) -> anyhow::Result<()> {
        self.await_welcome().await?;
        let mut lines = input.split(b'\n');
        let mut stdin_ended: Option<Instant> = None;
        loop {
            tokio::select! {
                line = lines.next_segment(), if stdin_ended.is_none() => match line? {
                    Some(line) => match Line::parse(&line) {
                        Line::Blank => {}
                        Line::Quit => return Ok(()),
                        Line::Say(saying) => self.say(&saying).await?,
                        Line::Wrong(why) => writeln!(self.out, "! not sent: {why}")?,
                    },
                    None => stdin_ended = Some(Instant::now()),
                },
                received = self.connection.receive() => writeln!(self.out, "{}", show::received(&received?))?,
                () = settled(stdin_ended) => return Ok(()),
            }
        }
    }

    async fn await_welcome(&mut self) -> anyhow::Result<()> {
        let first = timeout(WELCOME_TIMEOUT, self.connection.receive())
            .await
            .map_err(|_| anyhow!("no Welcome within {} s; is this a gateway?", WELCOME_TIMEOUT.as_secs()))??;
        writeln!(self.out, "{}", show::received(&first))?;
        match &first {
            Received::Packet(packet) if let Some(Push::Welcome(welcome)) = Push::of(packet) => {
                self.session_id = welcome.session_id;
                Ok(())
            }
            _ => Err(anyhow!("the first packet is not the Welcome; is this a gateway?")),
        }
    }

    async fn say(&mut self, saying: &Saying<'_>) -> anyhow::Result<()> {
        self.last_seq = self.last_seq.wrapping_add(1);
        let request = self.request(saying).encode_to_vec();
        self.connection.send(&Packet::request(self.last_seq, ROUTE_CHAT, request)).await?;
        Ok(())
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
                session_id: self.session_id.clone(),
                ..MessageMeta::default()
            }),
            ..ChatRequest::default()
        }
    }
}

/// Completes when answers have been awaited for long enough. Never completes while stdin is open. The loop calls this
/// anew after every packet, so [`SETTLE`] counts from the last one.
async fn settled(stdin_ended: Option<Instant>) {
    match stdin_ended {
        None => std::future::pending().await,
        Some(ended) => tokio::select! {
            () = sleep(SETTLE) => {}
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
