//! Redis: requests go out in pipelines, deliveries come in as pushes that the connection's own task handles.

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

/// Requests that may wait; sessions then read no more until there is room.
const QUEUE: usize = 16_384;

/// Requests that go out as one write.
const BATCH: usize = 1024;

/// A topic and a payload.
pub(crate) type Publication = (String, Bytes);

/// Connects. Requests are published by the task, which ends only if Redis fails.
pub(crate) async fn connect(
    address: &str,
    registry: Arc<Registry>,
) -> Result<(Sender<Publication>, JoinHandle<Result<()>>)> {
    let client = Client::open(format!("redis://{address}/?protocol=resp3"))?;
    // The library's own limit, of half a second, is too short for a machine that is busy.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let publisher = client.get_multiplexed_async_connection_with_config(&config).await?;
    let pushes = move |push: PushInfo| deliver(&registry, push);
    let config = config.set_push_sender(pushes);
    let mut subscriber = client.get_multiplexed_async_connection_with_config(&config).await?;
    subscriber.subscribe("broadcast").await?;
    let (sender, receiver) = channel(QUEUE);
    let publishing = tokio::spawn(async move {
        // To drop it would end the subscription.
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
