// A chat backend: answers every chat request of a game, and passes it on to the user that it names.

import { fileURLToPath } from "node:url";
import protobuf from "protobufjs";
import { createClient } from "redis";

const REQUESTS = `game:request:${process.env.GAME ?? "mmo"}`;
const url = process.env.REDIS_URL ?? "redis://127.0.0.1:6379";

// chat.proto imports common.proto from the same folder.
const file = new URL("../../../proto/chat/proto/chat.proto", import.meta.url);
const protocol = await protobuf.load(fileURLToPath(file));
const [ChatRequest, ChatResponse, MessageBroadcast] = ["ChatRequest", "ChatResponse", "MessageBroadcast"].map(
  (name) => protocol.lookupType(`chat.${name}`),
);

async function answer(payload) {
  const request = ChatRequest.toObject(ChatRequest.decode(payload), { defaults: true });
  const sender = request.base?.userId ?? 0;
  const messageId = Math.round((performance.timeOrigin + performance.now()) * 1000);
  // The meta has the trace of the request, to which the deliveries belong then.
  const shared = { messageId, timestamp: Date.now(), meta: request.meta };
  // An answer for the session that asked. Without a session id, it goes to every session of the user.
  const targetSessionId = request.meta?.sessionId ?? "";
  const response = { base: request.base, success: true, targetUserId: sender, targetSessionId, ...shared };
  await publish(sender, ChatResponse, response);
  if (request.receiverId > 0) {
    const { channelId, content, type, receiverId: targetUserId } = request;
    const message = { senderId: sender, senderName: `user ${sender}`, channelId, content, type, targetUserId, ...shared };
    await publish(targetUserId, MessageBroadcast, message);
  }
}

async function publish(user, type, message) {
  const payload = type.encode(type.fromObject(message)).finish();
  await broker.publish(`broadcast:user:${user}`, Buffer.from(payload));
}

function report(error) {
  console.error(error.message || error.code || error);
}

// Both clients connect again by themselves, and subscribe again. The ping notices a connection that is dead without an
// error. Answers wait for the connection in a queue with a bound.
const broker = createClient({ url, pingInterval: 10_000, commandsQueueMaxLength: 10_000 }).on("error", report);
const requests = createClient({ url, pingInterval: 10_000 }).on("error", report);
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => process.exit(0));
}
await Promise.all([broker.connect(), requests.connect()]);
await requests.subscribe(REQUESTS, (payload) => answer(payload).catch(report), true);
console.log(`serving ${REQUESTS}`);
