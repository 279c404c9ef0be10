//! Redis: requests go out in pipelines. Deliveries come in as pushes, which the task of the connection handles.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use chat_proto::chat::{ChatResponse, MessageBroadcast};
use prost::Message as _;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, PushInfo, PushKind, Value};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use crate::registry::Registry;

/// The number of requests that may wait. If the queue is full, sessions stop reading.
const QUEUE: usize = 16_384;

/// The most requests that go out as one write.
const BATCH: usize = 1024;

/// A topic and a payload.
pub(crate) type Publication = (String, Bytes);

/// Connects. Returns the queue of requests, and the task that publishes them. The task ends only if Redis fails.
pub(crate) async fn connect(
    address: &str,
    registry: Arc<Registry>,
) -> Result<(Sender<Publication>, JoinHandle<Result<()>>)> {
    let client = Client::open(format!("redis://{address}/?protocol=resp3"))?;
    // The library's own timeout of half a second is too short for a busy machine.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let publisher = client.get_multiplexed_async_connection_with_config(&config).await?;
    let pushes = move |push: PushInfo| deliver(&registry, push);
    let config = config.set_push_sender(pushes);
    let mut subscriber = client.get_multiplexed_async_connection_with_config(&config).await?;
    subscriber.subscribe("broadcast").await?;
    let (sender, receiver) = channel(QUEUE);
    let publishing = tokio::spawn(async move {
        // Dropping the connection would end the subscription.
        let _subscriber = subscriber;
        publish(publisher, receiver).await
    });
    Ok((sender, publishing))
}

async fn publish(mut redis: MultiplexedConnection, mut receiver: Receiver<Publication>) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let mut pipeline = Pipeline::with_capacity(batch.len());
        for (topic, payload) in batch.drain(..) {
            pipeline.cmd("PUBLISH").arg(topic).arg(&payload[..]);
        }
        redis.send_packed_commands(&pipeline, 0, pipeline.len()).await?;
    }
    Ok(())
}

fn deliver(registry: &Registry, push: PushInfo) -> Result<(), prost::DecodeError> {
    let (PushKind::Message, Ok([_, Value::BulkString(payload)])) = (push.kind, <[Value; 2]>::try_from(push.data))
    else {
        return Ok(());
    };
    let payload = Bytes::from(payload);
    match ChatResponse::decode(&payload[..]) {
        Ok(response) => registry.deliver(&response.target_session_id, response.target_user_id, &payload),
        Err(_) => registry.deliver("", MessageBroadcast::decode(&payload[..])?.target_user_id, &payload),
    }
    Ok(())
}
