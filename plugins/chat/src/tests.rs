use super::*;
use chat_proto::{
    chat::{ChatRequest, ChatResponse, MessageBroadcast},
    common::{MessageBase, MessageMeta},
};
use gateway_plugin_sdk::{testing::Harness, tracing::TraceId};
use proptest::prelude::*;
use prost::Message;

const MMO: &str = r#"{"games":["mmo"]}"#;

fn request(game_id: &str, user_id: i32) -> Vec<u8> {
    let base = MessageBase { game_id: game_id.to_owned(), user_id, timestamp: 5 };
    ChatRequest { base: Some(base), content: "hi".to_owned(), ..Default::default() }.encode_to_vec()
}

#[track_caller]
fn refused(settings: &str, payload: &[u8], status: u16) {
    let rejection = Harness::<Chat>::new(settings).unwrap().packet(ROUTE, payload).unwrap_err();
    assert_eq!(rejection.status, status, "{}", rejection.message);
}

#[test]
fn the_first_request_binds_the_session_and_every_request_is_published() {
    let mut chat = Harness::<Chat>::new(MMO).unwrap();
    assert_eq!(chat.topics, ["broadcast"]);
    let publish = Action::publish("game:request:mmo");
    let listen = Action::listen_session(chat.session, "broadcast:user:7");
    let listens = Action::tag(chat.session, 1);
    let first = [Action::Bind(7), listen, listens, publish.clone()];
    assert_eq!(chat.packet(ROUTE, &request("mmo", 7)).unwrap(), first);
    assert!(chat.hears("broadcast:user:7"));
    assert_eq!(chat.packet(ROUTE, &request("mmo", 7)).unwrap(), [publish]);
    assert_eq!(chat.packet(ROUTE, &request("mmo", 8)).unwrap_err().status, 6);

    chat.disconnect(chat.session);
    assert!(!chat.hears("broadcast:user:7"));
}

#[test]
fn a_session_that_a_token_bound_listens_from_its_beginning() {
    let mut chat = Harness::<Chat>::new(MMO).unwrap();
    let anonymous = chat.connect("").unwrap();
    assert_eq!(chat.tag(anonymous), 0);
    let session = chat.connect_as(Connection { user: Some(7), ..chat.connection("") }).unwrap();
    assert_eq!((chat.hears("broadcast:user:7"), chat.tag(session)), (true, 1));
    chat.disconnect(session);
    assert!(!chat.hears("broadcast:user:7"));
}

#[test]
fn a_bound_session_that_is_older_than_the_plugin_listens_from_its_first_accepted_request_on() {
    let mut chat = Harness::<Chat>::new(MMO).unwrap();
    let session = chat.session;
    chat.bind(session, 7);
    assert_eq!(chat.packet(ROUTE, &request("mmo", 8)).unwrap_err().status, 6);
    assert_eq!(chat.tag(session), 0);
    let publish = Action::publish("game:request:mmo");
    let first = [Action::listen_session(session, "broadcast:user:7"), Action::tag(session, 1), publish.clone()];
    assert_eq!(chat.packet(ROUTE, &request("mmo", 7)).unwrap(), first);
    assert_eq!(chat.packet(ROUTE, &request("mmo", 7)).unwrap(), [publish]);
}

#[test]
fn what_is_missing_or_broken_is_malformed() {
    refused(MMO, b"\xff", 2);
    refused(MMO, &ChatRequest::default().encode_to_vec(), 2);
    for (game, user) in [("", 7), ("mmo", 0), ("mmo", -1)] {
        refused(MMO, &request(game, user), 2);
    }
}

#[test]
fn only_configured_games_are_served_or_any_harmless_id_without() {
    refused(MMO, &request("other", 7), 4);
    let long = "x".repeat(65);
    for game in ["a b", "a:b", "a\n", "*", "ü", &long] {
        refused("{}", &request(game, 7), 4);
    }
    let mut any = Harness::<Chat>::new("{}").unwrap();
    assert_eq!(any.packet(ROUTE, &request("A_z.0-9", 7)).unwrap()[3], Action::publish("game:request:A_z.0-9"));
}

#[test]
fn settings_that_nobody_knows_are_refused() {
    let error = Harness::<Chat>::new(r#"{"config":{"colour":"red"}}"#).err().unwrap();
    assert!(error.contains("colour"), "{error}");
}

fn delivered(payload: &[u8]) -> Result<Vec<Action>, u16> {
    delivered_on("broadcast", payload)
}

fn delivered_on(topic: &str, payload: &[u8]) -> Result<Vec<Action>, u16> {
    Harness::<Chat>::new(MMO).unwrap().message(topic, payload).map_err(|rejection| rejection.status)
}

#[test]
fn a_message_on_the_topic_of_a_user_goes_to_this_user_or_one_of_its_sessions() {
    let session = "01234567-89ab-cdef-0123-456789abcdef";
    let response = |target_user_id, target_session_id: &str| {
        let target_session_id = target_session_id.to_owned();
        ChatResponse { target_user_id, target_session_id, ..Default::default() }.encode_to_vec()
    };
    let on_topic = |payload: &[u8]| delivered_on("broadcast:user:7", payload);
    let to = |target| Ok(vec![Action::deliver(target, ROUTE)]);
    assert_eq!(on_topic(&response(0, "")), to(Target::User(7)));
    assert_eq!(on_topic(&response(7, "")), to(Target::User(7)));
    assert_eq!(on_topic(&response(0, session)), to(Target::Session(session.parse().unwrap())));
    assert_eq!(on_topic(&response(8, "")), Err(4));
    assert_eq!(on_topic(&response(8, session)), Err(4));
    assert_eq!(delivered_on("broadcast:user:x", &response(0, "")), Err(2));
}

#[test]
fn a_message_for_nobody_is_refused() {
    assert_eq!(delivered(b""), Err(2));
    assert_eq!(delivered(&request("mmo", 7)), Err(2));
    let junk = ChatResponse { target_session_id: "junk".to_owned(), ..Default::default() };
    assert_eq!(delivered(&junk.encode_to_vec()), Err(2));
}

prop_compose! {
    fn response()(
        base in any::<Option<(String, i32, i64)>>(),
        success: bool, error_message: String, message_id: i64, timestamp: i64, target_user_id: i32,
        session in any::<Option<(u64, u64)>>(),
    ) -> ChatResponse {
        let base = base.map(|(game_id, user_id, timestamp)| MessageBase { game_id, user_id, timestamp });
        let id = |(high, low)| gateway_plugin_sdk::SessionId { high, low }.to_string();
        let target_session_id = session.map(id).unwrap_or_default();
        let meta = traced(TRACE, SPAN).filter(|_| success);
        ChatResponse { base, success, error_message, message_id, timestamp, target_user_id, target_session_id, meta }
    }
}

prop_compose! {
    fn broadcast()(
        message_id: i64, sender_id: i32, sender_name: String, channel_id: i32, content: String, timestamp: i64,
        r#type in 0..4, target_user_id in 1..i32::MAX,
    ) -> MessageBroadcast {
        let meta = None;
        MessageBroadcast { message_id, sender_id, sender_name, channel_id, content, timestamp, r#type, target_user_id, meta }
    }
}

proptest! {
    #[test]
    fn a_response_goes_to_its_session_else_to_its_user(response in response()) {
        let expected = match (response.target_session_id.as_str(), response.target_user_id) {
            ("", 0) => Err(2),
            ("", user) => Ok(Target::User(user.into())),
            (session, _) => Ok(Target::Session(session.parse().unwrap())),
        };
        prop_assert_eq!(delivered(&response.encode_to_vec()), expected.map(|to| vec![Action::deliver(to, ROUTE)]));
    }

    #[test]
    fn a_broadcast_goes_to_its_user(broadcast in broadcast()) {
        let expected = Action::deliver(Target::User(broadcast.target_user_id.into()), ROUTE);
        prop_assert_eq!(delivered(&broadcast.encode_to_vec()), Ok(vec![expected]));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = delivered(&bytes);
        let _ = delivered_on("broadcast:user:7", &bytes);
        let _ = Harness::<Chat>::new(MMO).unwrap().packet(ROUTE, &bytes);
    }
}

/// Generates encoded requests. Some have a merged or missing `base`, and some have one changed byte.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let requests = (any::<[Option<(String, i32)>; 2]>(), any::<Vec<u8>>()).prop_map(|(bases, junk)| {
        let base = |(game_id, user_id)| MessageBase { game_id, user_id, timestamp: -1 };
        // A protobuf decoder merges the encodings of two messages that follow each other.
        let request = |of| ChatRequest { base: Option::map(of, base), extra_data: junk.clone(), ..Default::default() };
        bases.map(|of| request(of).encode_to_vec()).concat()
    });
    (requests, any::<Option<(prop::sample::Index, u8)>>()).prop_map(|(mut bytes, change)| {
        if let Some((at, byte)) = change
            && !bytes.is_empty()
        {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    /// The policy and the backend must read the same game and the same user from a request. Otherwise a client could
    /// pass the policy's checks as one user and act as another.
    #[test]
    fn what_is_decided_on_is_what_a_backend_reads(bytes in nearly_requests()) {
        if let (Ok(ours), Ok(theirs)) = (Base::of_request(&bytes), ChatRequest::decode(&bytes[..])) {
            let ours = ours.map(|base| (base.game_id.to_owned(), base.user_id));
            prop_assert_eq!(ours, theirs.base.map(|base| (base.game_id, base.user_id)));
        }
    }

    #[test]
    fn what_a_backend_can_read_can_be_read_here(base: Option<(String, i32)>, content: String, extra_data: Vec<u8>) {
        let base = base.map(|(game_id, user_id)| MessageBase { game_id, user_id, timestamp: 1 << 40 });
        let request = ChatRequest { base, content, extra_data, ..Default::default() };
        prop_assert!(Base::of_request(&request.encode_to_vec()).is_ok());
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn traced(trace_id: &str, span_id: &str) -> Option<MessageMeta> {
    Some(MessageMeta { trace_id: trace_id.to_owned(), span_id: span_id.to_owned(), ..Default::default() })
}

#[test]
fn a_request_and_a_message_join_the_trace_that_their_meta_names() {
    let trace_id = TraceId { high: 0x4bf9_2f35_77b3_4da6, low: 0xa3ce_929d_0e0e_4736 };
    let context = Context { trace_id, span_id: 0x00f0_67aa_0ba9_02b7, sampled: false };
    let mut chat = Harness::<Chat>::new(MMO).unwrap();
    let base = MessageBase { game_id: "mmo".to_owned(), user_id: 7, timestamp: 5 };
    let mut request = ChatRequest { base: Some(base), meta: traced(TRACE, SPAN), ..Default::default() };
    chat.packet(ROUTE, &request.encode_to_vec()).unwrap();
    assert_eq!(chat.joined(), [context]);
    let response = ChatResponse { target_user_id: 7, meta: traced(TRACE, SPAN), ..Default::default() };
    chat.message(BROADCAST, &response.encode_to_vec()).unwrap();
    let broadcast = MessageBroadcast { target_user_id: 7, meta: traced(TRACE, SPAN), ..Default::default() };
    chat.message(BROADCAST, &broadcast.encode_to_vec()).unwrap();
    assert_eq!(chat.joined(), [context; 2]);

    for (trace, span) in [("", ""), (TRACE, ""), ("", SPAN), (&TRACE[1..], SPAN), (TRACE, "x")] {
        request.meta = traced(trace, span);
        chat.packet(ROUTE, &request.encode_to_vec()).unwrap();
    }
    assert_eq!(chat.joined(), []);
}

#[test]
fn an_error_in_the_meta_is_no_reason_to_refuse_a_message() {
    let mut chat = Harness::<Chat>::new(MMO).unwrap();
    for meta in [&b"\x52\x02\x2a\x05"[..], b"\x50\x07", b"\x52\x03\x2a\x01\xff"] {
        chat.packet(ROUTE, &[&request("mmo", 7), meta].concat()).unwrap();
    }
    assert_eq!(chat.joined(), []);
}
