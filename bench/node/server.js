// The usual gateway in Node for the same job: ws, ioredis and protobufjs in one process. Run `node server.js PORT
// REDIS_PORT` in a folder that has the .proto files as well.
'use strict';
const { randomUUID } = require('node:crypto');
const path = require('node:path');
const Redis = require('ioredis');
const protobuf = require('protobufjs');
const { WebSocketServer } = require('ws');

const CHAT = 1, SYSTEM = 3, REPLY = 1, HEADER = 8;
const [port, redisPort] = process.argv.slice(2);

const root = new protobuf.Root();
root.resolvePath = (_, file) => path.join(__dirname, path.basename(file));
root.loadSync(['chat.proto', 'gateway.proto']);
const [ChatRequest, ChatResponse, MessageBroadcast, Welcome] =
  ['chat.ChatRequest', 'chat.ChatResponse', 'chat.MessageBroadcast', 'gateway.Welcome'].map((name) => root.lookupType(name));

const sessions = new Map(); // by id
const users = new Map(); // sets of sessions, by user id
// All commands of one turn of the event loop go out as one pipeline.
const publisher = new Redis(redisPort, '127.0.0.1', { enableAutoPipelining: true });
const subscriber = new Redis(redisPort, '127.0.0.1');

function packet(seq, route, flags, status, payload) {
  const bytes = Buffer.allocUnsafe(HEADER + payload.length);
  bytes.writeUInt32BE(seq, 0);
  bytes[4] = route;
  bytes[5] = flags;
  bytes.writeUInt16BE(status, 6);
  bytes.set(payload, HEADER);
  return bytes;
}

/** Binds the session to its user and publishes the request. Returns a refusal, which is a status and a text, or nothing. */
function admit(session, payload) {
  let base;
  try { base = ChatRequest.decode(payload).base; } catch { return [2, 'not a ChatRequest']; }
  if (!base || !base.gameId || base.userId <= 0) return [2, 'no base, no game_id or no user_id'];
  if (!/^[A-Za-z0-9_.-]{1,64}$/.test(base.gameId)) return [4, 'no such game'];
  if (session.user && session.user !== base.userId) return [6, "another user's id"];
  if (!session.user) {
    session.user = base.userId;
    if (!users.has(session.user)) users.set(session.user, new Set());
    users.get(session.user).add(session);
  }
  publisher.publish(`game:request:${base.gameId}`, payload);
}

function serve(socket) {
  const session = { id: randomUUID(), socket, user: 0, counter: 0 };
  sessions.set(session.id, session);
  const welcome = Welcome.encode({ sessionId: session.id, serverTimeMs: Date.now() }).finish();
  socket.send(packet(0, SYSTEM, 0, 0, welcome));
  socket.on('message', (bytes) => {
    if (bytes.length < HEADER) return socket.send(packet(0, 0, REPLY, 1, Buffer.from('shorter than its header')));
    const seq = bytes.readUInt32BE(0), route = bytes[4], payload = bytes.subarray(HEADER);
    if (route === SYSTEM) return socket.send(packet(seq, SYSTEM, REPLY, 0, payload));
    const refused = route === CHAT ? admit(session, payload) : [3, 'no such route'];
    if (refused) socket.send(packet(seq, route, REPLY, refused[0], Buffer.from(refused[1])));
  });
  socket.on('error', () => {});
  socket.on('close', () => {
    sessions.delete(session.id);
    const others = users.get(session.user);
    if (others?.delete(session) && others.size === 0) users.delete(session.user);
  });
}

function deliver(_, payload) {
  let target;
  try { target = ChatResponse.decode(payload); } catch { target = MessageBroadcast.decode(payload); }
  const { targetSessionId: id, targetUserId: user } = target;
  const targets = id ? [sessions.get(id)] : users.get(user) ?? [];
  for (const session of targets) session?.socket.send(packet(++session.counter, CHAT, 0, 0, payload));
}

subscriber.on('messageBuffer', deliver);
subscriber.subscribe('broadcast').then(() => {
  new WebSocketServer({ host: '127.0.0.1', port, path: '/ws', perMessageDeflate: false }).on('connection', serve);
});
