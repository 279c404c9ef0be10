//! A real Chromium, driven over its DevTools protocol.

use crate::{chromium, eventually, has, in_time, missing_program};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{cell::RefCell, fs};
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Child, sync::Mutex};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// The browser is driven over a port of its own choice, and a window that is behind another one goes on as well.
const ARGUMENTS: [&str; 5] = [
    "--remote-debugging-port=0",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "about:blank",
];

/// A running browser. It is killed when this value is dropped.
pub struct Browser {
    connection: Mutex<Connection>,
    /// What the pages have reported as errors: exceptions, and what the policy of a page has refused.
    errors: RefCell<Vec<String>>,
    _child: Child,
    _home: TempDir,
}

struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last: u64,
}

/// A window of the browser.
pub struct Page<'a> {
    browser: &'a Browser,
    session: String,
}

impl Browser {
    /// Starts a browser, or returns `None` if none is installed and the test has to be skipped.
    pub async fn start(test: &str) -> Option<Self> {
        if !has(test, missing_program(&["chromium"]).as_deref()) {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let child = chromium(home.path(), &ARGUMENTS);
        let file = home.path().join("profile/DevToolsActivePort");
        let url = eventually("the port of the browser", || async {
            let text = fs::read_to_string(&file).ok()?;
            let (port, path) = text.split_once('\n')?;
            Some(format!("ws://127.0.0.1:{port}{}", path.trim()))
        })
        .await;
        let (socket, _) = in_time("the browser", connect_async(url)).await.unwrap();
        let connection = Mutex::new(Connection { socket, last: 0 });
        Some(Self { connection, errors: RefCell::default(), _child: child, _home: home })
    }

    /// Opens a URL in a window of its own.
    pub async fn open(&self, url: &str) -> Page<'_> {
        let target = self.call("", "Target.createTarget", json!({ "url": "about:blank", "newWindow": true })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.call("", "Target.attachToTarget", attach).await["sessionId"].as_str().unwrap().to_owned();
        let page = Page { browser: self, session };
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            page.call(domain, json!({})).await;
        }
        // Several windows have the focus at once, as if each were on a screen of its own.
        page.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true })).await;
        page.call("Page.navigate", json!({ "url": url })).await;
        // The scripts have run then, so the page listens to clicks.
        page.until("document.readyState === 'complete' && location.href !== 'about:blank'").await;
        page
    }

    /// Returns the errors of all pages.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        self.errors.borrow().clone()
    }

    async fn call(&self, session: &str, method: &str, params: Value) -> Value {
        let mut connection = self.connection.lock().await;
        connection.last += 1;
        let id = connection.last;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if !session.is_empty() {
            request["sessionId"] = session.into();
        }
        let asking = async {
            connection.socket.send(Message::text(request.to_string())).await.unwrap();
            loop {
                let message = connection.socket.next().await.unwrap().unwrap();
                let Message::Text(text) = message else { continue };
                let answer: Value = serde_json::from_str(&text).unwrap();
                if answer["id"] == id {
                    assert!(answer["error"].is_null(), "{method}: {answer}");
                    return answer["result"].clone();
                }
                self.heard(&answer);
            }
        };
        in_time(method, asking).await
    }

    fn heard(&self, event: &Value) {
        let params = &event["params"];
        let is_error = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => params["entry"]["level"] == "error" && params["entry"]["source"] != "network",
            _ => false,
        };
        if is_error {
            self.errors.borrow_mut().push(params.to_string());
        }
    }
}

impl Page<'_> {
    /// Evaluates an expression in the page, and waits for its promise if it is one.
    pub async fn evaluate(&self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let outcome = self.call("Runtime.evaluate", params).await;
        assert!(outcome["exceptionDetails"].is_null(), "{expression}: {outcome}");
        outcome["result"]["value"].clone()
    }

    /// Waits until the expression is true. Fails with the text of the page.
    pub async fn until(&self, expression: &str) {
        let deadline = tokio::time::Instant::now() + crate::PATIENCE;
        // The page is loading at first, so an element may be missing.
        let guarded = format!("(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()");
        while self.evaluate(&guarded).await != true {
            if tokio::time::Instant::now() > deadline {
                panic!("never true: {expression}\n{}", self.evaluate("document.body.innerText").await);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Waits until the text of an element contains `text`.
    pub async fn says(&self, selector: &str, text: &str) {
        self.until(&format!("document.querySelector({selector:?}).innerText.includes({text:?})")).await;
    }

    /// Clicks on an element, once it can be clicked.
    pub async fn click(&self, selector: &str) {
        let element = format!("document.querySelector({selector:?})");
        self.until(&format!("{element}.checkVisibility() && !{element}.disabled")).await;
        self.evaluate(&format!("{element}.click()")).await;
    }

    /// Writes into a field.
    pub async fn fill(&self, selector: &str, value: &str) {
        self.until(&format!("document.querySelector({selector:?}).checkVisibility()")).await;
        let fill = format!(
            "(() => {{ const field = document.querySelector({selector:?}); field.value = {value:?}; \
             field.dispatchEvent(new Event('input', {{ bubbles: true }})) }})()"
        );
        self.evaluate(&fill).await;
    }

    /// Presses a key such as `ArrowRight`, and holds it.
    pub async fn press(&self, key: &str) {
        self.call("Input.dispatchKeyEvent", json!({ "type": "rawKeyDown", "key": key, "code": key })).await;
    }

    /// Lets go of a key.
    pub async fn release(&self, key: &str) {
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key, "code": key })).await;
    }

    /// Loads the page again.
    pub async fn reload(&self) {
        self.call("Page.reload", json!({})).await;
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        self.browser.call(&self.session, method, params).await
    }
}
