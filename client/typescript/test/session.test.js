// Tests of the session with a WebSocket that the test plays and a clock that it moves.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import test, { afterEach, beforeEach, mock } from "node:test";
import { ClosedError, LostError, StatusError, connect } from "../dist/index.js";
import { ProtoWriter } from "../dist/proto.js";
import { FakeSocket, record, settle, socket, sockets } from "./support.js";

beforeEach(() => {
  sockets.length = 0;
  mock.timers.enable({ apis: ["setTimeout"] });
});

afterEach(() => mock.timers.reset());

const open = (options = {}) => connect({ url: "ws://a/ws", WebSocket: FakeSocket, ...options });

/** A session with its first connection and its events. */
async function begun(options, welcome) {
  const session = open(options);
  const events = record(session);
  const first = await socket(1);
  first.welcome(welcome);
  await settle();
  return { session, events, first };
}

/** Breaks the last connection, and waits for the next one. */
async function back(code = 1006) {
  sockets.at(-1).end(code);
  await settle();
  mock.timers.tick(500);
  return socket(sockets.length + 1);
}

const names = (events) => events.map(([name]) => name);
const beat = [...new TextEncoder().encode("beat")];
const control = (field, inner) => new ProtoWriter().message(field, inner.finish()).finish();

test("packets that are sent before the welcome wait for it, and a reply finds its request", async () => {
  const session = open();
  const events = record(session);
  const reply = session.request(9, "hi");
  assert.equal(session.id, "");
  const first = await socket(1);
  assert.equal(first.url, "ws://a/ws");
  first.open();
  assert.deepEqual(first.sent, []);
  first.welcome({ id: "s1" });
  assert.deepEqual(first.sent, [[0, 0, 0, 1, 9, 0, 0, 0, 104, 105]]);
  assert.equal((await session.opened).sessionId, "s1");
  assert.ok(session.isConnected && session.id === "s1");
  first.receive(1, 9, 1, 0, "ho");
  assert.equal(new TextDecoder().decode(await reply), "ho");
  assert.deepEqual(names(events), ["welcome"]);
});

test("a refusal rejects its request, and a refused packet of send is an event", async () => {
  const { session, events, first } = await begun();
  const reply = session.request(9);
  first.receive(1, 9, 1, 3, "no plugin serves route 0x09");
  const error = await reply.catch((error) => error);
  assert.ok(error instanceof StatusError);
  assert.deepEqual([error.route, error.status, error.text], [9, 3, "no plugin serves route 0x09"]);
  assert.equal(error.message, "status 3 no route on route 9: no plugin serves route 0x09");
  const seq = session.send(1, "?");
  first.receive(seq, 1, 1, 300, "not now");
  assert.deepEqual(names(events), ["welcome", "refused"]);
  assert.equal(events[1][1].seq, 2);
  assert.equal(events[1][1].error.message, "status 300 (the game's own) on route 1: not now");
});

test("a request that is aborted rejects with the reason, and its late reply is nobody's", async () => {
  const { session, events, first } = await begun();
  const abort = new AbortController();
  const reply = session.request(9, "", { signal: abort.signal });
  abort.abort(new Error("too slow"));
  await assert.rejects(reply, /too slow/);
  first.receive(1, 9, 1, 5, "late");
  assert.deepEqual(names(events), ["welcome"]);
  await assert.rejects(session.request(9, "", { signal: abort.signal }), /too slow/);
  assert.equal(first.sent.length, 1, "a request that is aborted before is not sent");
  const { signal } = new AbortController();
  const answered = session.request(9, "", { signal });
  first.receive(2, 9, 1, 0);
  await answered;
  assert.equal(getEventListeners(signal, "abort").length, 0, "the signal may live longer than the request");
});

test("only the last 256 requests that were aborted are remembered", async () => {
  const { session, events, first } = await begun();
  for (let i = 0; i < 257; i++) {
    const abort = new AbortController();
    const reply = session.request(9, "", { signal: abort.signal });
    abort.abort(new Error("too slow"));
    await assert.rejects(reply, /too slow/);
  }
  for (const seq of [2, 257, 1]) first.receive(seq, 9, 1, 5, "late");
  assert.deepEqual(names(events), ["welcome", "refused"]);
  assert.equal(events[1][1].seq, 1);
});

test("pushes come once and in order, gaps are told, and what follows acknowledges", async () => {
  const { session, events, first } = await begun();
  for (const number of [1, 2, 2, 5]) first.receive(number, 7, number === 5 ? 2 : 0, 0, `${number}`);
  const pushes = events.filter(([name]) => name === "push").map(([, push]) => push);
  assert.deepEqual(pushes.map(({ number, replaced }) => [number, replaced]), [[1, false], [2, false], [5, true]]);
  assert.equal(pushes[0].route, 7);
  assert.deepEqual(names(events), ["welcome", "push", "push", "gap", "push"]);
  assert.deepEqual(events[3][1], { pushes: 2, blindMs: 0 });
  session.send(7);
  assert.deepEqual(first.sent, [[0, 0, 0, 1, 7, 4, 0, 5]]);
});

test("a session that is cut resumes, and requests that were not received are sent again", async () => {
  const { session, events, first } = await begun();
  first.receive(1, 7, 0, 0);
  const replies = [session.request(9, "a"), session.request(9, "b")];
  first.receive(1, 9, 1, 0, "A");
  const second = await back();
  assert.equal(second.url, "ws://a/ws?resume=t&seen=1&replies=1");
  assert.ok(!session.isConnected);
  replies.push(session.request(9, "c"));
  second.welcome({ token: "t2", resumed: true, received: 1 });
  assert.deepEqual(second.sent, [[0, 0, 0, 2, 9, 4, 0, 1, 98], [0, 0, 0, 3, 9, 4, 0, 1, 99]]);
  second.receive(2, 9, 1, 0, "B");
  second.receive(3, 9, 1, 0, "C");
  const texts = (await Promise.all(replies)).map((reply) => new TextDecoder().decode(reply));
  assert.deepEqual(texts, ["A", "B", "C"]);
  assert.deepEqual(names(events), ["welcome", "push", "reconnecting", "welcome", "resumed"]);
  const { awayMs, ...resumed } = events[4][1];
  assert.deepEqual(resumed, { resent: 2, lost: 0, repliesLost: 0 });
  assert.ok(awayMs >= 0);
});

test("a buffer may be used again after it was sent", async () => {
  // A slice of a Buffer of Node is no copy.
  for (const buffer of [Uint8Array.of(1), Buffer.of(1)]) {
    sockets.length = 0;
    const { session } = await begun();
    session.send(9, buffer);
    buffer[0] = 2;
    const second = await back();
    session.send(9, buffer);
    buffer[0] = 3;
    second.welcome({ token: "t2", resumed: true, received: 0 });
    assert.deepEqual(second.sent.map((packet) => packet.at(-1)), [1, 2]);
  }
});

test("a new session rejects the requests of the old one", async () => {
  const { session, events } = await begun();
  const lost = [session.request(9, "a")];
  const second = await back(1001);
  lost.push(session.request(9, "b"));
  second.welcome({ id: "new" });
  for (const reply of lost) await assert.rejects(reply, LostError);
  assert.deepEqual(names(events), ["welcome", "reconnecting", "welcome", "newSession"]);
  assert.deepEqual([events[3][1].seen, events[3][1].lost], [0, 1]);
  assert.equal(session.id, "new");
  assert.deepEqual(second.sent, []);
});

test("packets that are no longer kept reject their requests", async () => {
  const { session, events } = await begun();
  const second = await back();
  const replies = Array.from({ length: 258 }, () => session.request(9));
  second.welcome({ resumed: true });
  for (const reply of replies.slice(0, 2)) await assert.rejects(reply, LostError);
  assert.deepEqual([events.at(-1)[1].resent, events.at(-1)[1].lost], [256, 2]);
  assert.equal(second.sent.length, 256);
  second.receive(3, 9, 1, 0, "ok");
  assert.equal(new TextDecoder().decode(await replies[2]), "ok");
  second.end(4009);
  for (const reply of replies.slice(3)) await assert.rejects(reply, ClosedError);
});

test("packets before the first welcome that are too many reject their requests", async () => {
  const session = open();
  const first = session.request(9);
  for (let i = 0; i < 256; i++) session.send(9);
  (await socket(1)).welcome();
  await assert.rejects(first, LostError);
  assert.equal(sockets[0].sent.length, 256);
});

test("replies that the gateway has lost reject their requests, and only these", async () => {
  const { session } = await begun();
  const replies = ["a", "b"].map((text) => session.request(9, text));
  session.send(9, "its refusal is lost");
  const second = await back();
  second.welcome({ resumed: true, received: 3, repliesLost: 2 });
  assert.deepEqual(second.sent, [[0, 0, 0, 4, 3, 0, 0, 0, ...beat]]);
  const later = session.request(9, "c");
  second.receive(2, 9, 1, 0, "B");
  second.receive(4, 3, 1, 0, "beat");
  await assert.rejects(replies[0], LostError);
  assert.equal(new TextDecoder().decode(await replies[1]), "B");
  second.receive(5, 9, 1, 0, "C");
  assert.equal(new TextDecoder().decode(await later), "C");
});

test("a refusal that comes after its request counted as lost is nobody's", async () => {
  const { session, events } = await begun();
  const replies = ["a", "b"].map((text) => session.request(9, text));
  const second = await back();
  second.welcome({ resumed: true, received: 2, repliesLost: 1 });
  second.receive(3, 3, 1, 0, "beat");
  for (const reply of replies) await assert.rejects(reply, LostError);
  second.receive(2, 9, 1, 5, "the bus did not answer in time");
  assert.deepEqual(names(events), ["welcome", "reconnecting", "welcome", "resumed"]);
});

test("a code that does not come back closes the session, and what follows is refused", async () => {
  const { session, events, first } = await begun();
  const reply = session.request(9);
  first.end(4009, "another session");
  const error = await reply.catch((error) => error);
  assert.ok(error instanceof ClosedError);
  assert.equal(error.code, 4009);
  assert.equal(error.message, "the gateway closed the connection: 4009 another session");
  assert.throws(() => session.send(9), ClosedError);
  await assert.rejects(session.ping(), ClosedError);
  mock.timers.tick(100_000);
  await settle();
  assert.deepEqual([names(events), sockets.length], [["welcome", "closed"], 1]);
});

test("a first connection that fails closes the session", async () => {
  const session = open();
  const events = record(session);
  (await socket(1)).end(1006);
  await assert.rejects(session.opened, /the gateway cannot be reached/);
  assert.deepEqual(names(events), ["closed"]);
  assert.equal(events[0][1].code, undefined);
  // Nobody waits for this one, and its end must not be an error that nobody catches.
  const unwatched = open();
  (await socket(2)).end(1006);
  await settle();
  assert.throws(() => unwatched.send(9), ClosedError);
});

test("an error ends a connection, also if the WebSocket does not tell that it is closed", async () => {
  const never = open();
  (await socket(1)).fail("no route to the host");
  await assert.rejects(never.opened, /the gateway cannot be reached: no route to the host/);
  sockets.length = 0;
  const { events, first } = await begun();
  first.fail("reset");
  first.end(1006);
  assert.deepEqual(names(events), ["welcome", "reconnecting"]);
  assert.equal(events[1][1].why, "the connection is lost: reset");
});

test("a refusal that the WebSocket tells is obeyed", async () => {
  let refuse;
  class TellingSocket extends FakeSocket {
    on(event, listener) {
      assert.equal(event, "unexpected-response");
      refuse = (statusCode, headers = {}) => listener({}, { statusCode, headers });
    }
  }
  const { events, first } = await begun({ WebSocket: TellingSocket });
  first.end(1006);
  await settle();
  mock.timers.tick(500);
  const second = await socket(2);
  refuse(503, { "retry-after": "7" });
  second.end(1006);
  assert.equal(events.at(-1)[1].why, "the gateway refused the upgrade with HTTP 503");
  assert.ok(events.at(-1)[1].delayMs >= 7000 && events.at(-1)[1].delayMs <= 8000, "Retry-After counts");
  mock.timers.tick(8000);
  await socket(3);
  refuse(403);
  assert.deepEqual(names(events).slice(-2), ["reconnecting", "closed"]);
});

test("a server that is no gateway closes the session", async () => {
  const session = open();
  (await socket(1)).open();
  sockets[0].receiveText("hello");
  await assert.rejects(session.opened, /no gateway/);
  assert.equal(sockets[0].closedWith, 1000);
});

test("an upgrade and a welcome have to come in time", async () => {
  const slow = open();
  await socket(1);
  mock.timers.tick(10_000);
  await assert.rejects(slow.opened, /has not answered in time/);
  const silent = open();
  (await socket(2)).open();
  mock.timers.tick(5_000);
  await assert.rejects(silent.opened, /the welcome has not come in time/);
  assert.deepEqual(sockets.map(({ closedWith }) => closedWith), [4000, 4000]);
});

test("two heartbeats in a row without an answer cut the connection, and any message counts as one", async () => {
  const { events, first } = await begun({ heartbeatMs: 1000 });
  mock.timers.tick(1000);
  assert.deepEqual(first.sent, [[0, 0, 0, 1, 3, 0, 0, 0, ...beat]]);
  mock.timers.tick(1000);
  first.receive(1, 7, 0, 0);
  mock.timers.tick(1000);
  mock.timers.tick(1000);
  assert.equal(first.sent.length, 4);
  assert.deepEqual(names(events), ["welcome", "push"]);
  mock.timers.tick(1000);
  assert.deepEqual(names(events), ["welcome", "push", "reconnecting"]);
  assert.equal(first.closedWith, 4000);
  // The replies to heartbeats that the policy refuses are nobody's.
  const second = await socket(1).then(() => back());
  second.welcome({ resumed: true, received: 4 });
  for (const seq of [1, 2, 3, 4]) second.receive(seq, 3, 1, 3, "no plugin serves route 0x03");
  assert.deepEqual(names(events), ["welcome", "push", "reconnecting", "welcome", "resumed"]);
});

test("a session that is woken up while it waits connects at once", async () => {
  const { session, first } = await begun();
  first.end(1006);
  await settle();
  session.wake();
  session.wake();
  mock.timers.tick(0);
  const second = await socket(2);
  // There is an attempt already, and a connection without its welcome.
  session.wake();
  second.open();
  session.wake();
  mock.timers.tick(1000);
  await settle();
  assert.deepEqual([sockets.length, second.sent], [2, []]);
  second.welcome({ resumed: true });
  assert.ok(session.isConnected);
});

test("a session that is woken up does not connect earlier than the gateway has asked for", async () => {
  const { session, first } = await begun();
  first.end(1009);
  session.wake();
  mock.timers.tick(9000);
  await settle();
  assert.equal(sockets.length, 1);
  mock.timers.tick(1000);
  await socket(2);
});

test("a connection that does not answer when the session is woken up is cut", async () => {
  const { session, events, first } = await begun();
  session.wake();
  assert.deepEqual(first.sent, [[0, 0, 0, 1, 3, 0, 0, 0, ...beat]]);
  mock.timers.tick(4999);
  // This does not put off the end.
  session.wake();
  assert.equal(first.sent.length, 1);
  assert.deepEqual(names(events), ["welcome"]);
  mock.timers.tick(1);
  assert.deepEqual(names(events), ["welcome", "reconnecting"]);
  assert.equal(events[1][1].why, "the gateway has not answered the check of the connection");
  assert.equal(first.closedWith, 4000);
});

test("a connection that brings something when the session is woken up lives on", async () => {
  const { session, events, first } = await begun({ heartbeatMs: 20_000 });
  session.wake();
  mock.timers.tick(4999);
  first.receive(1, 7, 0, 0);
  mock.timers.tick(19_999);
  assert.equal(first.sent.length, 1);
  // Now the next heartbeat is due, and the session can be woken up again.
  mock.timers.tick(1);
  assert.equal(first.sent.length, 2);
  session.wake();
  assert.equal(first.sent.length, 3);
  // A refusal of the heartbeat shows as well that the connection lives.
  first.receive(3, 3, 1, 3, "no plugin serves route 0x03");
  mock.timers.tick(5000);
  assert.deepEqual([names(events), first.closedWith], [["welcome", "push"], undefined]);
});

test("a session that leaves its connection or that is over is not woken up", async () => {
  let calls = 0;
  const { session, events, first } = await begun({ token: () => void calls++ });
  session.wake();
  first.receive(0, 0, 0, 0, control(3, new ProtoWriter()));
  session.wake();
  mock.timers.tick(0);
  assert.equal(first.closedWith, 4000);
  const { length } = first.sent;
  session.wake();
  // What still arrives does not put off the end.
  first.receive(1, 7, 0, 0);
  mock.timers.tick(2000);
  assert.deepEqual([first.sent.length, names(events)], [length, ["welcome", "push", "reconnecting"]]);
  session.close();
  session.wake();
  mock.timers.tick(100_000);
  await settle();
  assert.deepEqual([calls, sockets.length, names(events).at(-1)], [1, 1, "closed"]);
});

test("in a page the session wakes up with the network and with the page", async () => {
  const page = new EventTarget();
  globalThis.addEventListener = page.addEventListener.bind(page);
  globalThis.document = page;
  const { session, first } = await begun();
  delete globalThis.addEventListener;
  const happens = (event, visibilityState) => {
    page.visibilityState = visibilityState;
    page.dispatchEvent(new Event(event));
    const { length } = first.sent;
    // The answer ends the check.
    first.receive(length, 3, 1, 0, "beat");
    return length;
  };
  assert.equal(happens("visibilitychange", "hidden"), 0);
  assert.equal(happens("visibilitychange", "visible"), 1);
  assert.equal(happens("online", "hidden"), 2);
  session.close();
  delete globalThis.document;
  assert.deepEqual(["online", "visibilitychange"].map((name) => getEventListeners(page, name).length), [0, 0]);
});

test("a Reconnect is obeyed when its time has come, and what the old connection says until then counts", async () => {
  const { session, events, first } = await begun();
  first.receive(0, 0, 0, 0, control(3, new ProtoWriter().text(1, "ws://b/ws").int(2, 3000)));
  mock.timers.tick(2999);
  first.receive(1, 7, 0, 0);
  assert.equal(first.closedWith, undefined);
  mock.timers.tick(1);
  assert.equal(first.closedWith, 4000);
  session.send(9);
  assert.deepEqual(first.sent, []);
  first.receive(2, 7, 0, 0);
  const second = await back(4000);
  assert.equal(second.url, "ws://b/ws?resume=t&seen=2&replies=0");
  second.welcome({ resumed: true });
  assert.equal(second.sent.length, 1);
  assert.deepEqual(names(events), ["welcome", "push", "push", "reconnecting", "welcome", "resumed"]);
});

test("a gateway that does not answer the close frame is left all the same", async () => {
  const { first } = await begun();
  first.receive(0, 0, 0, 0, control(3, new ProtoWriter()));
  mock.timers.tick(0);
  assert.equal(first.closedWith, 4000);
  mock.timers.tick(2000);
  mock.timers.tick(500);
  assert.equal((await socket(2)).url, "ws://a/ws?resume=t&seen=0&replies=0");
});

test("a gap of the gateway is an event, and an unknown event of the control route is none", async () => {
  const { events, first } = await begun();
  first.receive(0, 0, 0, 0, control(2, new ProtoWriter().int(1, 4000)));
  first.receive(0, 0, 0, 0, control(9, new ProtoWriter().int(1, 1)));
  first.receive(0, 0, 0, 0, "junk");
  assert.deepEqual(events.slice(1), [["gap", { pushes: 0, blindMs: 4000 }]]);
});

test("a token goes along as a parameter, or as a subprotocol if there are others", async () => {
  const { first } = await begun({ token: "T.0" });
  assert.deepEqual([first.url, first.protocols], ["ws://a/ws?token=T.0", []]);
  const second = await back();
  assert.equal(second.url, "ws://a/ws?resume=t&seen=0&replies=0&token=T.0");
  open({ token: "T.0", protocols: ["game.v1"] });
  const third = await socket(3);
  assert.deepEqual([third.url, third.protocols], ["ws://a/ws", ["game.v1", "bearer.T.0"]]);
});

test("a token that expires is renewed by the function, or by refresh", async () => {
  const tokens = ["T1", "T2", "T3", "T3"];
  const { session, events, first } = await begun({ token: async () => tokens.shift() });
  assert.equal(first.url, "ws://a/ws?token=T1");
  first.receive(0, 0, 0, 0, control(1, new ProtoWriter().int(1, 30_000)));
  await settle();
  assert.deepEqual(first.sent, [[0, 0, 0, 1, 0, 0, 0, 0, 10, 4, 10, 2, 84, 50]]);
  assert.deepEqual(events[1], ["tokenExpires", { inMs: 30_000 }]);
  first.receive(1, 0, 1, 0);
  await settle();
  first.end(4001, "the token has expired");
  await settle();
  mock.timers.tick(0);
  assert.equal((await socket(2)).url, "ws://a/ws?resume=t&seen=0&replies=1&token=T3");
  sockets[1].welcome({ resumed: true });
  const refreshed = session.refresh("T5");
  sockets[1].receive(2, 0, 1, 6, "another user");
  await assert.rejects(refreshed, StatusError);
});

test("a function that still returns the token in use renews nothing", async () => {
  const { first } = await begun({ token: () => "T" });
  first.receive(0, 0, 0, 0, control(1, new ProtoWriter().int(1, 30_000)));
  await settle();
  assert.deepEqual(first.sent, []);
});

test("without a new token the session is over when its token has expired", async () => {
  const fixed = await begun({ token: "T" });
  fixed.first.end(4001);
  await settle();
  assert.equal(fixed.events.at(-1)[1].code, 4001);
  sockets.length = 0;
  const stale = await begun({ token: () => "T" });
  stale.first.end(4001);
  await settle();
  assert.equal(stale.events.at(-1)[1].code, 4001);
  sockets.length = 0;
  let fails = false;
  const failing = await begun({
    token: () => {
      if (fails) throw new Error("no network");
      return "T";
    },
  });
  fails = true;
  failing.first.end(4001);
  await settle();
  assert.equal(failing.events.at(-1)[1].code, 4001);
});

test("a function that fails once is asked again", async () => {
  let calls = 0;
  const token = () => (calls++ === 1 ? Promise.reject(new Error("no network")) : `T${calls}`);
  const { events } = await begun({ token });
  sockets[0].end(1006);
  await settle();
  mock.timers.tick(500);
  await settle();
  assert.match(events.at(-1)[1].why, /no network/);
  mock.timers.tick(1000);
  assert.equal((await socket(2)).url, "ws://a/ws?resume=t&seen=0&replies=0&token=T3");
});

test("a session that is closed ends with 1000, and stays closed", async () => {
  const { session, events, first } = await begun();
  const reply = session.request(9);
  session.close();
  session.close();
  assert.equal(first.closedWith, 1000);
  await assert.rejects(reply, ClosedError);
  first.end(1000);
  mock.timers.tick(100_000);
  await settle();
  assert.deepEqual([names(events), events[1][1].code, sockets.length], [["welcome", "closed"], 1000, 1]);
  const early = open();
  early.close();
  await assert.rejects(early.opened, ClosedError);
  await settle();
  assert.equal(sockets.length, 1);
});

test("a token that fails after the end of the session begins nothing", async () => {
  let calls = 0;
  let fail;
  const token = () => (calls++ === 0 ? "T" : new Promise((_, reject) => (fail = reject)));
  const { session, events, first } = await begun({ token });
  first.end(1006);
  await settle();
  mock.timers.tick(500);
  await settle();
  session.close();
  fail(new Error("no network"));
  await settle();
  mock.timers.tick(100_000);
  await settle();
  assert.deepEqual([names(events), calls], [["welcome", "reconnecting", "closed"], 2]);
});

test("a session that is closed by a listener says nothing more", async () => {
  const { session, events } = await begun();
  const second = await back();
  session.on("welcome", () => session.close());
  second.welcome({ resumed: true, repliesLost: 1 });
  assert.deepEqual(names(events), ["welcome", "reconnecting", "welcome", "closed"]);
  assert.equal(second.closedWith, 1000);
});

test("a listener that throws does not break the session, and a listener can leave", async () => {
  const session = open();
  const seen = [];
  const leave = session.on("push", ({ number }) => seen.push(number));
  session.on("push", () => {
    throw new Error("of the application");
  });
  (await socket(1)).welcome();
  const report = mock.method(globalThis, "queueMicrotask", () => {});
  sockets[0].receive(1, 7, 0, 0);
  leave();
  sockets[0].receive(2, 7, 0, 0);
  const reports = report.mock.calls.map((call) => call.arguments[0]);
  report.mock.restore();
  assert.equal(reports.length, 2);
  assert.throws(reports[0], /of the application/);
  assert.deepEqual(seen, [1]);
  assert.ok(session.isConnected);
});

test("an error says what is missing", () => {
  assert.throws(() => open({ url: "http://a/" }), /ws:\/\/HOST:PORT\/ws/);
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  assert.throws(() => connect({ url: "ws://a/ws" }), /npm package ws/);
  globalThis.WebSocket = WebSocket;
});
