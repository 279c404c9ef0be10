//! An HTTP server for one document, such as a key set.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

/// An HTTP server on a free port that answers every request with the same bytes.
pub struct KeyServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

struct State {
    /// The answer, or `None` if there is none.
    answer: Option<Vec<u8>>,
    requests: Vec<String>,
}

impl KeyServer {
    /// Starts a server that answers with status 200 and this document.
    pub async fn start(document: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { answer: Some(ok(document)), requests: Vec::new() }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0)
                {
                }
                let answer = {
                    let mut state = shared.lock().unwrap();
                    state.requests.push(String::from_utf8(request).unwrap());
                    state.answer.clone()
                };
                let Some(answer) = answer else { return pending().await };
                // The gateway may close the connection before it has read everything.
                let _ = stream.write_all(&answer).await;
            }
        });
        Self { address, state, task }
    }

    /// Returns the URL of the key set.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/keys.json?a=b", self.origin())
    }

    /// Returns the origin of the server's URLs, such as `http://127.0.0.1:4000`.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers with status 200 and this document from now on.
    pub fn serve(&self, document: &str) {
        self.answer(ok(document));
    }

    /// Answers with these bytes from now on.
    pub fn answer(&self, answer: Vec<u8>) {
        self.state.lock().unwrap().answer = Some(answer);
    }

    /// Accepts the next request, and answers nothing any more.
    pub fn fall_silent(&self) {
        self.state.lock().unwrap().answer = None;
    }

    /// Returns the requests up to now.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn ok(document: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{document}", document.len()).into_bytes()
}
