//! Ports that a test reserves, so that no other process gets them while the test runs.

use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// A port on 127.0.0.1 that is reserved until this value is dropped.
///
/// A socket that is bound but does not listen holds the port. While no other socket listens, the kernel refuses
/// connections to the port. A second socket may listen on the port if both sockets set `SO_REUSEADDR`, as servers do.
/// The alternative is to look up a free port, release the port and use it later. Then another process could take the
/// port in between.
pub struct ReservedPort {
    holder: TcpSocket,
}

impl ReservedPort {
    /// Reserves a free port. Connections to the port are refused until a socket listens on it.
    #[must_use]
    pub fn reserve() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { holder: bound(any) }
    }

    /// Returns the number of the port.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.holder.local_addr().unwrap().port()
    }

    /// Listens on the port. Connections are refused again when the listener is dropped.
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
