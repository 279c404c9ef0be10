use super::*;
use crate::auth::tests::{authenticator, token};
use std::sync::Arc;
use tokio::io::DuplexStream;

type Sent = (Result<Request, Refused>, DuplexStream, DuplexStream);

/// Returns a request for this path, with these lines after the headers that every upgrade has.
fn upgrade(path: &str, lines: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    )
}

/// Sends bytes, and returns the request that the gateway reads, and both ends of the connection.
async fn sent(bytes: &[u8], auth: Option<&Authenticator>) -> Sent {
    let (mut client, mut server) = tokio::io::duplex(64 << 10);
    client.write_all(bytes).await.unwrap();
    let (mut remote, settings) = (SocketAddr::from(([127, 0, 0, 1], 1)), config::Config::default().server);
    let off = Authenticator::new(Arc::default());
    let auth = auth.unwrap_or(&off);
    (request(&mut server, &mut remote, true, &settings, auth, |_| Ok(())).await, client, server)
}

async fn valid(request: &str) -> Request {
    sent(request.as_bytes(), None).await.0.unwrap_or_else(|refused| panic!("{request}: {refused}"))
}

/// Returns everything that the gateway has sent.
async fn received(mut client: DuplexStream, server: DuplexStream) -> String {
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn an_accepted_request_gets_101_and_leaves_the_bytes_after_it() {
    let (request, client, mut server) = sent(&[upgrade("/ws", "").as_bytes(), b"early"].concat(), None).await;
    assert_eq!(request.unwrap_or_else(|_| panic!()).accept(&mut server).await.unwrap(), b"early");
    let expected = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(received(client, server).await, expected);
}

#[tokio::test]
async fn a_valid_request_is_not_answered_before_it_is_accepted_or_refused() {
    let (_, client, server) = sent(upgrade("/ws", "").as_bytes(), None).await;
    assert_eq!(received(client, server).await, "");
    let (refused, client, server) = sent(upgrade("/", "").as_bytes(), None).await;
    assert_eq!(refused.err().unwrap().reason(), "not_found");
    let answer = received(client, server).await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n") && answer.ends_with("\r\n\r\nthe only path is /ws\n"));
}

#[tokio::test]
async fn a_refused_request_gets_the_status_and_a_bounded_reason() {
    let long = format!("a{}", "ß".repeat(1024));
    let cut = &long[..1023];
    let answers = [
        (403, "no", "403 Forbidden", "2\r\n\r\nno"),
        (429, "", "429 Too Many Requests\r\nRetry-After: 1", "0\r\n\r\n"),
        (503, "full", "503 Service Unavailable\r\nRetry-After: 1", "4\r\n\r\nfull"),
        (499, &long, "499 ", &format!("1023\r\n\r\n{cut}")),
    ];
    for (status, reason, head, end) in answers {
        let (request, client, mut server) = sent(upgrade("/ws", "").as_bytes(), None).await;
        request.unwrap_or_else(|_| panic!()).refuse(&mut server, status, reason).await.unwrap();
        let expected = format!(
            "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {end}"
        );
        assert_eq!(received(client, server).await, expected);
    }
}

#[tokio::test]
async fn the_query_has_every_parameter_except_the_token() {
    let queries = [
        ("", ""),
        ("?", ""),
        ("?a=1&b=%20&&c", "a=1&b=%20&&c"),
        ("?token=x", ""),
        ("?a=1&token=x&token&token=y=z&tokens=2", "a=1&tokens=2"),
        ("?a=b?c", "a=b?c"),
    ];
    for (written, query) in queries {
        assert_eq!(valid(&upgrade(&format!("/ws{written}"), "")).await.query(), query, "{written}");
    }
}

#[tokio::test]
async fn only_the_listed_headers_are_returned_with_every_occurrence() {
    let lines = b"X-Region: eu \r\nCookie: a\r\nx-region:us\r\nX-Bad: \xff\r\nX-Name: Zo\xc3\xab\r\n";
    let written = upgrade("/ws", "LINES").into_bytes();
    let (head, _) = written.split_at(written.len() - "LINES\r\n".len());
    let request = sent(&[head, lines, b"\r\n"].concat(), None).await.0.unwrap_or_else(|_| panic!());
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = [header("x-region", "eu"), header("x-region", "us"), header("x-name", "Zoë")];
    assert_eq!(request.headers(&names(&["x-name", "X-REGION", "x-bad", "x-none"])), expected);
    assert_eq!(request.headers(&[]), []);
    let request = valid(&upgrade("/ws", "Sec-WebSocket-Protocol: a, bearer.secret,b\r\n")).await;
    let name = "sec-websocket-protocol";
    assert_eq!(request.headers(&names(&[name])), [header(name, "a, b")]);
}

#[tokio::test]
async fn the_claims_are_those_of_the_token_that_was_checked() {
    let auth = authenticator("");
    let token = |sub: &str| token(&serde_json::json!({ "sub": sub, "exp": 9_000_000_000_u64 }));
    let in_header = upgrade("/ws?token=other", &format!("Authorization: Bearer {}\r\n", token("3000000000")));
    let in_query = upgrade(&format!("/ws?token={}", token("3000000000")), "");
    for written in [in_header, in_query] {
        let request = sent(written.as_bytes(), Some(&auth)).await.0.unwrap_or_else(|_| panic!());
        assert_eq!(request.identity.map(|identity| identity.user), Some(3_000_000_000));
        assert_eq!(request.claims().unwrap(), r#"{"exp":9000000000,"sub":"3000000000"}"#);
        let unchecked = valid(&written).await;
        assert_eq!((unchecked.identity, unchecked.claims()), (None, None));
    }
    let (denied, client, server) = sent(upgrade("/ws?token=x", "").as_bytes(), Some(&auth)).await;
    assert_eq!(denied.err().unwrap().reason(), "denied");
    let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nConnection: close\r\n";
    assert!(received(client, server).await.starts_with(head));
}
