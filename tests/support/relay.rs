//! A relay between clients and a gateway, which breaks their connections.

use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A running relay.
pub struct Relay {
    /// The address for clients.
    pub address: SocketAddr,
    breaks: Arc<watch::Sender<Break>>,
}

/// What happens to the connections that are open at that moment.
#[derive(Clone, Copy)]
enum Break {
    None,
    /// They end without a close frame.
    Cut,
    /// They stay open, but nothing passes any more.
    Freeze,
}

impl Relay {
    /// Starts a relay in front of this gateway.
    pub async fn start(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self { address: listener.local_addr().unwrap(), breaks: Arc::new(watch::Sender::new(Break::None)) };
        let breaks = Arc::clone(&relay.breaks);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, gateway, breaks.subscribe()));
            }
        });
        relay
    }

    /// Ends all connections. New ones work.
    pub fn cut(&self) {
        self.breaks.send_replace(Break::Cut);
    }

    /// Lets nothing pass any more over the connections that are open now. New ones work.
    pub fn freeze(&self) {
        self.breaks.send_replace(Break::Freeze);
    }
}

async fn carry(mut client: TcpStream, gateway: SocketAddr, mut breaks: watch::Receiver<Break>) {
    let Ok(mut server) = TcpStream::connect(gateway).await else { return };
    tokio::select! {
        // An error means that one end has left.
        _ = copy_bidirectional(&mut client, &mut server) => return,
        _ = breaks.changed() => {}
    }
    if let Break::Freeze = *breaks.borrow() {
        tokio::spawn(async move {
            let _open = (client, server);
            std::future::pending::<()>().await;
        });
    }
}
