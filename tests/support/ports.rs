//! Ports that are a test's own for as long as it needs them, also while nothing listens on them.

use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// A port of 127.0.0.1 that nobody else gets while this lives.
///
/// A socket that is bound and does not listen holds the port. The kernel refuses connections to it, and lets another socket listen beside it if
/// both of them set `SO_REUSEADDR`, as servers do. A port that is looked up, released and then used could be taken in between.
pub struct ReservedPort {
    holder: TcpSocket,
}

impl ReservedPort {
    /// Reserves a free port. Connections to it are refused until somebody listens on it.
    #[must_use]
    pub fn reserve() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { holder: bound(any) }
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.holder.local_addr().unwrap().port()
    }

    /// Listens on the port. Once the listener is dropped, connections are refused again.
    #[must_use]
    pub fn listen(&self) -> TcpListener {
        bound(self.holder.local_addr().unwrap()).listen(128).unwrap()
    }
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}
