//! A backend that publishes many messages at once.

use crate::in_time;
use gateway_wire::resp;
use std::io;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// The connection of a backend that writes many commands before it reads the answers.
pub struct Publisher {
    stream: BufReader<TcpStream>,
    command: &'static str,
}

impl Publisher {
    /// Connects to the server on this port. `command` is `PUBLISH` or `SPUBLISH`.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached.
    pub async fn connect(port: u16, command: &'static str) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), command })
    }

    /// Publishes messages, each on its topic. Returns the number of subscribers that got each, or the error of Redis.
    ///
    /// # Errors
    /// Returns an error if the connection breaks. Then the messages may or may not be published.
    pub async fn publish<T: AsRef<str>, M: AsRef<[u8]>>(
        &mut self,
        messages: &[(T, M)],
    ) -> io::Result<Vec<Result<usize, String>>> {
        let mut commands = Vec::new();
        for (topic, message) in messages {
            resp::command(&mut commands, &[self.command.as_bytes(), topic.as_ref().as_bytes(), message.as_ref()]);
        }
        self.send(&commands, messages.len()).await
    }

    /// Sends commands that are encoded already, and returns their answers. Each has to be a number or an error.
    ///
    /// # Errors
    /// Returns an error if the connection breaks.
    pub async fn send(&mut self, commands: &[u8], count: usize) -> io::Result<Vec<Result<usize, String>>> {
        in_time("redis to take messages", self.stream.get_mut().write_all(commands)).await?;
        let mut answers = Vec::with_capacity(count);
        let mut line = String::new();
        while answers.len() < count {
            line.clear();
            if in_time("the answers to messages", self.stream.read_line(&mut line)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (kind, rest) = line.trim_end().split_at(1);
            answers.push(match kind {
                ":" => Ok(rest.parse().expect("a number")),
                "-" => Err(rest.to_owned()),
                _ => panic!("neither a number nor an error: {line}"),
            });
        }
        Ok(answers)
    }
}
