//! The backend of a run. It receives the requests, responds to each request's session, and also sends numbered messages
//! to the users.

use crate::{
    journal::{Journal, Kind},
    messages::{BROADCAST, Id, REQUESTS, broadcast, read_request, response},
    player::Phase,
};
use futures_util::StreamExt;
use redis::{AsyncCommands, AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use std::time::Duration;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

/// The time between two broadcasts. The users take turns.
const PERIOD: Duration = Duration::from_millis(25);
/// How long the backend waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(20);
/// The capacity of the queue of messages to publish. A run cannot fill the queue even while Redis is paused.
const QUEUE: usize = 1 << 16;

type Outgoing = (Id, Vec<u8>);

/// Serves until the phase is [`Phase::Done`].
pub(crate) async fn serve(redis: u16, users: Vec<i32>, journal: Journal, mut phase: watch::Receiver<Phase>) {
    let client = Client::open(format!("redis://127.0.0.1:{redis}")).unwrap();
    let (outgoing, queue) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    tasks.spawn(publish(client.clone(), queue, journal.clone()));
    tasks.spawn(hear(client, journal.clone(), outgoing.clone()));
    tasks.spawn(tell(users, journal, phase.clone(), outgoing));
    // An error means that the run is over.
    let _ = phase.wait_for(|phase| *phase == Phase::Done).await;
}

/// Receives requests. If the subscription breaks, it subscribes again.
async fn hear(client: Client, journal: Journal, outgoing: mpsc::Sender<Outgoing>) {
    loop {
        if let Ok(mut subscriber) = client.get_async_pubsub().await
            && subscriber.subscribe(REQUESTS).await.is_ok()
        {
            let mut requests = subscriber.into_on_message();
            while let Some(request) = requests.next().await {
                answer(request.get_payload_bytes(), &journal, &outgoing).await;
            }
        }
        time::sleep(RECONNECT).await;
    }
}

async fn answer(request: &[u8], journal: &Journal, outgoing: &mpsc::Sender<Outgoing>) {
    let Some((request, session_id)) = read_request(request) else { return };
    journal.heard(request);
    let id = journal.respond(request);
    let _ = outgoing.send((id, response(id, &session_id))).await;
}

/// Sends broadcasts to the users in turn.
async fn tell(users: Vec<i32>, journal: Journal, phase: watch::Receiver<Phase>, outgoing: mpsc::Sender<Outgoing>) {
    let mut ticks = time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for user in users.into_iter().cycle() {
        ticks.tick().await;
        if *phase.borrow() == Phase::Play {
            let id = journal.send(Kind::Broadcast, None, user);
            let _ = outgoing.send((id, broadcast(id, user))).await;
        }
    }
}

/// Publishes the messages one after the other, and records how many subscribers Redis counts. If Redis does not confirm
/// a message, the message is not sent again.
async fn publish(client: Client, mut queue: mpsc::Receiver<Outgoing>, journal: Journal) {
    let mut connection = None;
    while let Some((id, body)) = queue.recv().await {
        let open = match connection.take() {
            Some(open) => open,
            None => connect(&client).await,
        };
        connection = publish_one(open, id, &body, &journal).await;
    }
}

/// Publishes one message. Returns the connection if it can still be used.
async fn publish_one(
    mut connection: MultiplexedConnection,
    id: Id,
    body: &[u8],
    journal: &Journal,
) -> Option<MultiplexedConnection> {
    let receivers: i64 = connection.publish(BROADCAST, body).await.ok()?;
    journal.published(id, receivers);
    Some(connection)
}

async fn connect(client: &Client) -> MultiplexedConnection {
    // A backend would be about this patient with a paused Redis.
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(3)));
    loop {
        if let Ok(connection) = client.get_multiplexed_async_connection_with_config(&config).await {
            return connection;
        }
        time::sleep(RECONNECT).await;
    }
}
