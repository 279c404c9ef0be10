"""A chat backend: answers every chat request of a game, and passes it on to the user that it names."""

import os
import signal
import time

import redis
from google.protobuf.message import DecodeError

from chat_pb2 import ChatRequest, ChatResponse, MessageBroadcast

REQUESTS = "game:request:" + os.environ.get("GAME", "mmo")
running = True


def stop(*_):
    global running
    running = False


def answer(broker, payload):
    request = ChatRequest.FromString(payload)
    sender, now = request.base.user_id, time.time_ns()
    # The meta has the trace of the request, to which the deliveries belong then.
    shared = {"message_id": now // 1000, "timestamp": now // 1_000_000, "meta": request.meta}
    # An answer for the session that asked. Without a session id, it goes to every session of the user.
    response = ChatResponse(
        base=request.base, success=True, target_user_id=sender, target_session_id=request.meta.session_id, **shared
    )
    broker.publish(f"broadcast:user:{sender}", response.SerializeToString())
    if request.receiver_id > 0:
        message = MessageBroadcast(
            sender_id=sender,
            sender_name=f"user {sender}",
            channel_id=request.channel_id,
            content=request.content,
            type=request.type,
            target_user_id=request.receiver_id,
            **shared,
        )
        broker.publish(f"broadcast:user:{request.receiver_id}", message.SerializeToString())


def serve(broker):
    with broker.pubsub(ignore_subscribe_messages=True) as requests:
        requests.subscribe(REQUESTS)
        print(f"serving {REQUESTS}", flush=True)
        while running:
            message = requests.get_message(timeout=0.5)
            if message is None:
                continue
            try:
                answer(broker, message["data"])
            except DecodeError as error:
                print(f"not a ChatRequest on {REQUESTS}: {error}", flush=True)


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
# The health check notices a connection that is dead without an error.
broker = redis.Redis.from_url(url, socket_timeout=5, health_check_interval=10)
while running:
    try:
        serve(broker)
    except (redis.ConnectionError, redis.TimeoutError) as error:
        print(f"no connection to Redis, trying again in a second: {error}", flush=True)
        time.sleep(1)
