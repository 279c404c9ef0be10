//! A client whose session is bound to a user. It blocks, and reads only when it is told to, so that it uses no processor
//! time during a measurement: what the server sends waits in the buffers of the system.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use gateway_wire::packet::{HEADER_LEN, Header, split};
use gateway_wire::websocket::{Head, Opcode, Sender, put_masked};

/// The clients that connect at the same time.
const CONNECTING: usize = 200;

/// The time that a message may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A client.
pub(crate) struct Player {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Player {
    /// Connects a client for each user, and sends the request of the user. Returns when all of them are answered.
    pub(crate) fn connect_all(
        port: u16,
        users: impl Iterator<Item = u32>,
        route: u8,
        request: impl Fn(u32) -> Vec<u8>,
    ) -> anyhow::Result<BTreeMap<u32, Self>> {
        let (users, mut players) = (users.collect::<Vec<_>>(), BTreeMap::new());
        for users in users.chunks(CONNECTING) {
            let mut new = users.iter().map(|_| Self::connect(port)).collect::<Result<Vec<_>, _>>()?;
            for (player, user) in new.iter_mut().zip(users) {
                player.upgraded()?;
                let packet = [&Header::request(1, route).encode()[..], &request(*user)].concat();
                let mut frame = Vec::new();
                put_masked(Opcode::Binary, &packet, [0; 4], &mut frame);
                player.socket.write_all(&frame)?;
            }
            for (mut player, user) in new.into_iter().zip(users) {
                // The first packet is the welcome.
                while !split(&player.packet()?)?.0.is_reply() {}
                players.insert(*user, player);
            }
        }
        Ok(players)
    }

    fn connect(port: u16) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(UPGRADE)?;
        Ok(Self { socket, read: Vec::new() })
    }

    fn upgraded(&mut self) -> anyhow::Result<()> {
        loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                ensure!(self.read.starts_with(b"HTTP/1.1 101"), String::from_utf8_lossy(&self.read).into_owned());
                self.read.drain(..end + 4);
                return Ok(());
            }
            self.more()?;
        }
    }

    /// Waits for the next packet.
    pub(crate) fn packet(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            let Some(head) = Head::parse(&self.read, Sender::Server)? else {
                self.more()?;
                continue;
            };
            let end = head.size + usize::try_from(head.len)?;
            while self.read.len() < end {
                self.more()?;
            }
            let packet = self.read[head.size..end].to_vec();
            self.read.drain(..end);
            ensure!(head.opcode != Opcode::Close, "the gateway closed a session");
            if head.opcode == Opcode::Binary && packet.len() >= HEADER_LEN {
                return Ok(packet);
            }
        }
    }

    fn more(&mut self) -> anyhow::Result<()> {
        let mut part = [0; 4096];
        let count = self.socket.read(&mut part).context("a message was lost")?;
        ensure!(count > 0, "the gateway closed a connection");
        self.read.extend(&part[..count]);
        Ok(())
    }
}
