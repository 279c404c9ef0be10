use std::pin::Pin;
use std::time::Duration;

use anyhow::{anyhow, bail};
use gateway_proto::control::Event as ControlEvent;
use gateway_proto::{Control, Reconnect, Welcome};
use gateway_wire::packet::{Packet, ROUTE_CONTROL, ROUTE_SYSTEM};
use prost::Message;
use tokio::time::{Instant, sleep_until, timeout};

use crate::connection::{CLOSE_TIMEOUT, Connection, Received};
use crate::end::End;
use crate::live::{Live, Over};
use crate::open_error::OpenError;
use crate::state::{Decision, Delay, Outcome, State};
use crate::target::Target;

/// The time that the welcome may take. A gateway sends it first, so it takes one trip through the network.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// The time without a sign of life after which a connection is dead. It is twice the default interval of a gateway's
/// pings. After half of it the client pings, too, since the interval may be longer. A single message that takes longer than this to arrive counts as silence too.
const MAX_SILENCE: Duration = Duration::from_secs(50);

/// What happens in a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message of the gateway has arrived. The welcomes are not among them.
    Received(Received),
    /// There is no connection. The session connects again by itself.
    Reconnecting {
        /// Why the connection ended, or why the last attempt failed.
        why: String,
        /// The time until the next attempt.
        delay: Duration,
    },
    /// The session goes on over a new connection. What the client has missed meanwhile arrives now.
    Resumed {
        /// The time without a connection.
        away: Duration,
        /// The number of packets that are sent again, because the gateway has not received them.
        resent: u64,
        /// The number of packets that the gateway has not received, and that are not sent again. Either there were too
        /// many of them, or the gateway found a message too large.
        lost: u64,
        /// The number of replies that do not come any more.
        replies_lost: u32,
    },
    /// The session could not be kept. The gateway knows nothing of the old one any more, and what it has sent meanwhile
    /// does not come. Replies to packets that were sent before do not come either.
    New {
        /// The time without a connection.
        away: Duration,
        /// The number of the last push of the old session. What came after it is lost.
        seen: u32,
        /// The number of packets that waited to be sent. They are not sent any more.
        lost: u64,
    },
}

/// A session with a gateway, which survives its connections: if one breaks, the session goes on over another one.
pub struct Session {
    target: Target,
    reconnects: bool,
    state: State,
    welcome: Packet,
    id: String,
    link: Link,
    /// When the last connection ended.
    lost_at: Instant,
    silence: Duration,
}

/// The way to the gateway.
enum Link {
    Live(Box<Live>),
    /// The next attempt begins at this moment.
    Waiting(Instant),
    Opening(Pin<Box<dyn Future<Output = Result<Opened, OpenError>> + Send>>),
    /// There will be no connection any more.
    Over,
}

/// A new connection with its welcome.
struct Opened {
    connection: Connection,
    welcome: Welcome,
    packet: Packet,
}

impl Session {
    /// Connects, and waits for the welcome. If `reconnects` is false, the session ends with its connection.
    ///
    /// # Errors
    /// Says why there is no session, and the remedy.
    pub async fn open(target: &Target, reconnects: bool) -> Result<Self, OpenError> {
        let mut state = State::new(target.url.clone());
        let Opened { connection, welcome, packet } = open(target.clone()).await?;
        state.welcome(&welcome);
        Ok(Self {
            target: target.clone(),
            reconnects,
            state,
            welcome: packet,
            id: welcome.session_id,
            link: Link::Live(Box::new(Live::new(connection, MAX_SILENCE))),
            lost_at: Instant::now(),
            silence: MAX_SILENCE,
        })
    }

    /// The packet with the first welcome.
    #[must_use]
    pub fn welcome(&self) -> &Packet {
        &self.welcome
    }

    /// The session id. It changes when the session is new.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether there is a connection now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Live(_))
    }

    /// Sends a packet. Without a connection, the packet waits for the next one of this session, and [`Event`] says if it
    /// is lost. Completes when the connection has taken the packet. If the future is dropped before, the packet is sent
    /// with a later call of this method or of [`Self::next`].
    pub async fn send(&mut self, packet: Packet) {
        self.state.sent.push(packet);
        if let Link::Live(live) = &mut self.link {
            live.write(&mut self.state).await;
        }
    }

    /// Waits for the next event. A session lives only while this is called: it answers pings and connects again in here.
    /// Cancel-safe: no event is lost.
    ///
    /// # Errors
    /// Says why the session is over.
    pub async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            match &mut self.link {
                Link::Live(live) => {
                    live.write(&mut self.state).await;
                    match live.receive().await {
                        Ok(received) if self.is_new(&received) => return Ok(Event::Received(received)),
                        Ok(_) => {}
                        Err(over) => return self.lose(over),
                    }
                }
                Link::Waiting(until) => {
                    sleep_until(*until).await;
                    let target = Target { url: self.state.url(), ..self.target.clone() };
                    self.link = Link::Opening(Box::pin(open(target)));
                }
                Link::Opening(opening) => match opening.await {
                    Ok(opened) => return Ok(self.go_on(opened)),
                    Err(OpenError { end, error }) => return self.decide(end, Duration::ZERO, error),
                },
                Link::Over => bail!("the session is over"),
            }
        }
    }

    /// Ends the session, after the packets that wait have been sent.
    pub async fn close(mut self) {
        if let Link::Live(mut live) = self.link {
            let _ = timeout(CLOSE_TIMEOUT, live.write(&mut self.state)).await;
            live.connection.close().await;
        }
    }

    /// Counts a message, and returns whether it is new.
    fn is_new(&mut self, received: &Received) -> bool {
        let Received::Packet(packet) = received else { return true };
        if self.reconnects
            && let Link::Live(live) = &mut self.link
            && let Some(reconnect) = reconnect(packet)
        {
            live.leave_after(self.state.leave_after(&reconnect));
        }
        self.state.receive(packet.header)
    }

    fn lose(&mut self, over: Over) -> anyhow::Result<Event> {
        let lived = match &self.link {
            Link::Live(live) => live.since.elapsed(),
            _ => Duration::ZERO,
        };
        self.lost_at = Instant::now();
        match over {
            Over::Ended(ended) => self.decide(End::from(&ended), lived, ended.into()),
            Over::Left => {
                let delay = self.state.left(lived);
                Ok(self.wait(&delay, &anyhow!("the gateway stops, and has asked this client to reconnect")))
            }
        }
    }

    fn decide(&mut self, end: End, lived: Duration, error: anyhow::Error) -> anyhow::Result<Event> {
        match self.state.end(end, lived) {
            Decision::Reconnect(delay) if self.reconnects => Ok(self.wait(&delay, &error)),
            // The token of this client is an argument, so there is no newer one.
            Decision::Reconnect(_) | Decision::RenewToken | Decision::Stop => {
                self.link = Link::Over;
                Err(error)
            }
        }
    }

    fn wait(&mut self, Delay { at_least, at_most }: &Delay, why: &anyhow::Error) -> Event {
        // Delays are at most two hours.
        let delay = Duration::from_millis(fastrand::u64(at_least.as_millis() as u64..=at_most.as_millis() as u64));
        self.link = Link::Waiting(Instant::now() + delay);
        Event::Reconnecting { why: format!("{why:#}"), delay }
    }

    fn go_on(&mut self, Opened { connection, welcome, .. }: Opened) -> Event {
        let outcome = self.state.welcome(&welcome);
        self.id = welcome.session_id;
        self.link = Link::Live(Box::new(Live::new(connection, self.silence)));
        let away = self.lost_at.elapsed();
        match outcome {
            Outcome::Resumed { resent, lost, replies_lost } => Event::Resumed { away, resent, lost, replies_lost },
            Outcome::New { seen, lost } => Event::New { away, seen, lost },
        }
    }
}

/// Connects, and waits for the welcome.
async fn open(target: Target) -> Result<Opened, OpenError> {
    let mut connection = Connection::open(&target).await?;
    let received = match timeout(WELCOME_TIMEOUT, connection.receive()).await {
        Ok(received) => received?,
        Err(_) => {
            let error = anyhow!("no Welcome within {} s; is this a gateway?", WELCOME_TIMEOUT.as_secs());
            return Err(OpenError { end: End::NoWelcome, error });
        }
    };
    if let Received::Packet(packet) = received
        && let Some(welcome) = welcome(&packet)
    {
        return Ok(Opened { connection, welcome, packet });
    }
    connection.close().await;
    Err(OpenError::no_gateway(anyhow!("the first packet is not the Welcome; is this a gateway?")))
}

fn welcome(packet: &Packet) -> Option<Welcome> {
    let header = packet.header;
    let is_welcome = (header.route, header.seq, header.status) == (ROUTE_SYSTEM, 0, 0) && !header.is_reply();
    let welcome = is_welcome.then(|| Welcome::decode(packet.payload.clone()).ok())??;
    (!welcome.session_id.is_empty()).then_some(welcome)
}

fn reconnect(packet: &Packet) -> Option<Reconnect> {
    let is_control = (packet.header.route, packet.header.seq) == (ROUTE_CONTROL, 0) && !packet.header.is_reply();
    match is_control.then(|| Control::decode(packet.payload.clone()).ok())??.event? {
        ControlEvent::Reconnect(reconnect) => Some(reconnect),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
