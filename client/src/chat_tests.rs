use chat_proto::chat::MessageBroadcast;
use gateway_proto::Welcome;
use gateway_stand_in::{Peer, gateway, scripts};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// The time that a conversation may take. It is long enough for a busy machine.
const PATIENT: Duration = Duration::from_secs(60);

/// Holds a conversation with a stand-in for a gateway. Returns the outcome, the printed text and the result of the
/// stand-in.
async fn hold<T>(
    (url, task): (String, JoinHandle<T>),
    input: impl AsyncBufRead + Unpin,
) -> (anyhow::Result<()>, String, T) {
    let target = Target { url: url.parse().unwrap(), token: None, ca: None };
    let mut session = Session::open(&target, true).await.unwrap();
    let mut out = Vec::new();
    let mut conversation =
        Conversation { session: &mut session, out: &mut out, user_id: 1, game_id: "mmo".into(), last_seq: 0 };
    let outcome = timeout(PATIENT, conversation.hold(input)).await.expect("an end in time");
    session.close().await;
    (outcome, String::from_utf8(out).unwrap(), task.await.unwrap())
}

#[tokio::test]
async fn lines_become_requests_and_answers_become_lines() {
    let gateway = gateway(async |mut peer: Peer| {
        peer.welcome("3f2a").await;
        let requests = [peer.request().await, peer.request().await, peer.request().await];
        let chat = MessageBroadcast { message_id: 17, sender_id: 1, content: "hello".into(), ..Default::default() };
        peer.send(&Packet::push(ROUTE_CHAT, 1, chat.encode_to_vec())).await;
        peer.send(&requests[2].reply(4, "bad word")).await;
        peer.close(1000, "").await;
        requests
    })
    .await;
    // The keyboard stays open until the gateway has closed.
    let (mut keyboard, stdin) = tokio::io::duplex(1024);
    keyboard.write_all(b"hello\n\n@2 hi\r\n@0 hi\n#7 hey\n").await.unwrap();
    let (outcome, printed, requests) = hold(gateway, BufReader::new(stdin)).await;

    let ended = outcome.unwrap_err().to_string();
    assert_eq!(ended, "the gateway closed the connection: 1000 normal closure");
    let expected = "< push #0 system  welcome: session 3f2a, server time 5 ms\n\
                    ! not sent: user ids are 1 to 2147483647\n\
                    < push #1 chat  from user 1 (message 17): hello\n\
                    < reply #3 chat  status 4 rejected: bad word\n";
    assert_eq!(printed, expected);
    check_request(&requests[0], 1, (0, 0, "hello"));
    check_request(&requests[1], 2, (2, 0, "hi"));
    check_request(&requests[2], 3, (0, 7, "hey"));
}

#[track_caller]
fn check_request(packet: &Packet, seq: u32, (receiver_id, channel_id, content): (i32, i32, &str)) {
    let request = ChatRequest::decode(packet.payload.clone()).unwrap();
    assert_eq!(*packet, Packet::request(seq, ROUTE_CHAT, packet.payload.clone()));
    assert_eq!((request.receiver_id, request.channel_id, request.content.as_str()), (receiver_id, channel_id, content));
    let base = request.base.unwrap();
    assert_eq!((base.game_id.as_str(), base.user_id), ("mmo", 1));
    assert!((now_ms() - 60_000..=now_ms()).contains(&base.timestamp), "{}", base.timestamp);
    let meta = request.meta.unwrap();
    assert_eq!(meta.session_id, "3f2a");
    assert_eq!(meta.client_version, CLIENT_VERSION);
    assert_eq!(meta.protocol_version, "1");
}

#[tokio::test]
async fn at_the_end_of_stdin_answers_are_awaited() {
    let gateway = gateway(async |mut peer: Peer| {
        peer.welcome("s").await;
        let request = peer.request().await;
        peer.send(&request.reply(5, "bus down")).await;
        peer.closed().await
    })
    .await;
    let (outcome, printed, code) = hold(gateway, &b"hi"[..]).await;
    outcome.unwrap();
    assert!(printed.ends_with("< reply #1 chat  status 5 unavailable: bus down\n"), "{printed}");
    assert_eq!(code, Some(1000));
}

#[tokio::test]
async fn quit_leaves_at_once_and_sends_nothing_more() {
    let gateway = gateway(async |mut peer: Peer| {
        peer.welcome("s").await;
        peer.closed().await
    })
    .await;
    let (outcome, _, code) = hold(gateway, &b"/quit\nhi\n"[..]).await;
    outcome.unwrap();
    assert_eq!(code, Some(1000));
}

#[tokio::test]
async fn a_break_is_shown_and_the_conversation_goes_on() {
    let welcome = |token: &str, resumed, packets_received| Welcome {
        session_id: "s".into(),
        resume_token: token.into(),
        resumed,
        packets_received,
        ..Welcome::default()
    };
    let mut gateway = scripts().await;
    gateway.connection(async move |mut peer: Peer| {
        peer.welcome_with(welcome("t1", false, 0)).await;
        peer.request().await;
    });
    gateway.connection(async move |mut peer: Peer| {
        peer.welcome_with(welcome("t2", true, 1)).await;
        let chat = MessageBroadcast { message_id: 1, sender_id: 2, content: "hey".into(), ..Default::default() };
        peer.send(&Packet::push(ROUTE_CHAT, 1, chat.encode_to_vec())).await;
    });
    gateway.connection(async move |mut peer: Peer| {
        peer.welcome_with(Welcome { session_id: "new".into(), ..welcome("t3", false, 0) }).await;
        peer.close(4000, "enough").await;
    });
    let url = gateway.url().to_owned();
    let task = tokio::spawn(gateway.end());
    let (mut keyboard, stdin) = tokio::io::duplex(1024);
    keyboard.write_all(b"hello\n").await.unwrap();
    let (outcome, printed, ()) = hold((url, task), BufReader::new(stdin)).await;
    assert!(outcome.unwrap_err().to_string().ends_with(": enough"));
    let shown = |line: &str| line.split([';', ':']).next().unwrap().split(" after").next().unwrap().to_owned();
    let lines: Vec<_> = printed.lines().skip(1).map(shown).collect();
    let lost = "* the connection is lost";
    assert_eq!(
        lines,
        [lost, "* resumed", "< push #1 chat  from user 2 (message 1)", lost, "* new session"],
        "{printed}"
    );
}

#[tokio::test]
async fn lines_that_may_not_have_been_sent_are_a_failure() {
    let gateway = gateway(async |mut peer: Peer| peer.welcome("s").await).await;
    // The stand-in accepts no second connection.
    let (outcome, _, ()) = hold(gateway, &b"hi"[..]).await;
    let why = "there is no connection, so the last lines may not have been sent";
    assert_eq!(outcome.unwrap_err().to_string(), why);
}
