use std::time::Duration;

use chat_proto::chat::ChatResponse;
use gateway_stand_in::{Peer, Scripts, scripts};
use gateway_wire::packet::{Packet, ROUTE_CHAT};
use prost::Message as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::sleep;

use super::{figure, load_of, redis};

/// The time that a message takes longer to the second client than to the first one.
const LATER: Duration = Duration::from_millis(50);

/// Accepts this many sessions, and hands over each in its turn.
async fn sessions(count: usize) -> (Scripts, UnboundedReceiver<Peer>) {
    let mut stand_in = scripts().await;
    let (accepted, sessions) = unbounded_channel();
    for _ in 0..count {
        let accepted = accepted.clone();
        stand_in.connection(async move |mut peer: Peer| {
            peer.welcome("s").await;
            let _ = accepted.send(peer);
        });
    }
    (stand_in, sessions)
}

#[tokio::test]
async fn a_message_of_one_client_is_followed_to_the_last_of_the_others() {
    let (stand_in, mut sessions) = sessions(3).await;
    let url = stand_in.url().to_owned();
    let serving = tokio::spawn(async move {
        let mut next = async || sessions.recv().await.unwrap();
        let (mut one, mut other, mut sender) = (next().await, next().await, next().await);
        for peer in [&mut one, &mut other] {
            let join = peer.request().await;
            assert_eq!((join.header.route, &join.payload[..]), (9, &b"in"[..]));
            peer.send(&join.reply(0, "")).await;
        }
        let mut payloads = Vec::new();
        for number in 1..=4 {
            let packet = sender.request().await;
            assert_eq!((packet.header.seq, packet.header.route), (number, 9));
            let payload = packet.payload.slice(3..);
            assert_eq!((&packet.payload[..3], payload.len(), payload[0]), (&b"to:"[..], 64, b'@' + number as u8));
            one.send(&Packet::push(9, number, payload.clone())).await;
            payloads.push((number, payload));
        }
        sleep(LATER).await;
        // The third message is lost for the second client.
        for (number, payload) in payloads.into_iter().filter(|(number, _)| *number != 3) {
            other.send(&Packet::push(9, number, payload)).await;
        }
        [one.closed().await, other.closed().await, sender.closed().await]
    });
    let arguments = "fanout --duration-s 0.04 --rate 100 --route 9 --join in --before to:";
    let (json, error) = load_of(2, &url, arguments).await;
    assert_eq!(serving.await.unwrap(), [Some(1000); 3]);
    let expected = "of 8 messages 1 lost, 0 doubled, 0 reordered, 0 refused, 1 miscounted; the first lost one of user 2 is \
                    number 2 of 4";
    assert_eq!(error.unwrap(), expected);
    assert!(figure(&json, "latency_p50_ms") >= LATER.as_secs_f64() * 1e3, "{json}");
    assert_eq!(figure(&json, "stray"), 0.0);
    stand_in.end().await;
}

#[tokio::test]
async fn a_message_of_a_backend_goes_to_all_sessions_of_one_user() {
    let (address, redis) = redis(true).await;
    let (stand_in, mut sessions) = sessions(2).await;
    let url = stand_in.url().to_owned();
    let serving = tokio::spawn(async move {
        let mut redis = redis.await.unwrap();
        let mut peers = [sessions.recv().await.unwrap(), sessions.recv().await.unwrap()];
        for peer in &mut peers {
            redis.relay(&peer.request().await).await;
        }
        for number in 1..=4 {
            let delivery = redis.delivery().await;
            assert_eq!(ChatResponse::decode(delivery.clone()).unwrap().target_user_id, 1);
            for peer in &mut peers {
                peer.send(&Packet::push(ROUTE_CHAT, number, delivery.clone())).await;
            }
        }
        let [one, other] = &mut peers;
        [one.closed().await, other.closed().await]
    });
    let arguments = format!("fanout --duration-s 0.04 --rate 100 --payload 70 --game g --redis {address}");
    let (json, error) = load_of(2, &url, &arguments).await;
    assert_eq!((error, serving.await.unwrap()), (None, [Some(1000); 2]));
    assert!(json.starts_with("{\"mode\":\"fanout\",\"clients\":2,\"rate\":100,"), "{json}");
    stand_in.end().await;
}

#[tokio::test]
async fn a_refusal_to_let_a_client_join_ends_the_run() {
    let (stand_in, mut sessions) = sessions(2).await;
    let url = stand_in.url().to_owned();
    let serving = tokio::spawn(async move {
        let (mut peer, _sender) = (sessions.recv().await.unwrap(), sessions.recv().await.unwrap());
        let join = peer.request().await;
        peer.send(&join.reply(3, "no such route")).await;
        peer.closed().await
    });
    let (_, error) = load_of(1, &url, "fanout --rate 100 --route 9").await;
    assert_eq!(error.unwrap(), "the gateway refuses --join: status 3: no such route");
    serving.abort();
    stand_in.end().await;
}
