// Runs every case of client/vectors/reconnect.json against the state, from the root of the repository.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { FLAG_ACK, FLAG_REPLY } from "../dist/packet.js";
import { State } from "../dist/state.js";

const { cases } = JSON.parse(readFileSync("client/vectors/reconnect.json", "utf8"));
const empty = new Uint8Array();

/** Returns what a decision means in the words of the vectors. */
function decided(decision) {
  if (decision === "renewToken") return { then: "renew_token" };
  return decision === "stop" ? { then: "stop" } : { then: "reconnect", delay_ms: decision.reconnect };
}

const welcomeOf = ({ resume_token = "", resumed = false, packets_received = 0, replies_lost = 0 }) => ({
  resumeToken: resume_token,
  resumed,
  packetsReceived: packets_received,
  repliesLost: replies_lost,
});

const happenings = {
  welcome(state, welcome) {
    const { resumed, resent, seen, lost, repliesLost } = state.welcome(welcomeOf(welcome));
    return { outcome: resumed ? { resumed: { resent, lost, replies_lost: repliesLost } } : { new: { seen, lost } } };
  },
  push: (state, seq) => ({ delivered: state.receive({ seq, route: 1, flags: 0, status: 0 }) !== undefined }),
  reply: (state) => ({ delivered: state.receive({ seq: 1, route: 1, flags: FLAG_REPLY, status: 0 }) !== undefined }),
  send(state, packets) {
    for (let i = 0; i < packets; i++) state.sent.push(1, empty);
    return {};
  },
  written(state, packets) {
    for (let i = 0; i < packets; i++) {
      assert.ok(state.nextPacket(), "no packet waits");
      state.sent.wrote();
    }
    return {};
  },
  reconnect: (state, { url, after_ms }) => ({ leave_after_ms: state.leaveAfter({ url, afterMs: after_ms }) }),
  left: (state, _, lived) => ({ then: "reconnect", delay_ms: state.left(lived) }),
  closed: (state, code, lived) => decided(state.end({ closed: code }, lived)),
  refused: (state, { status, retry_after_s = 0 }, lived) =>
    decided(state.end({ refused: status, retryAfterMs: 1000 * retry_after_s }, lived)),
  lost: (state, _, lived) => decided(state.end("lost", lived)),
  silent: (state, _, lived) => decided(state.end("silent", lived)),
  unreachable: (state, _, lived) => decided(state.end("unreachable", lived)),
  no_welcome: (state, _, lived) => decided(state.end("noWelcome", lived)),
  no_gateway: (state, _, lived) => decided(state.end("noGateway", lived)),
};

const checked = ["then", "delay_ms", "url", "outcome", "delivered", "ack", "leave_after_ms"];

for (const { name, url, steps } of cases) {
  test(name, () => {
    const state = new State(url);
    for (const [index, { event, lived_ms = 0, ...expected }] of steps.entries()) {
      const [[kind, value]] = typeof event === "string" ? [[event]] : Object.entries(event);
      const effect = { ...happenings[kind](state, value, lived_ms), url: state.url };
      if (expected.ack !== undefined) {
        state.sent.push(1, empty);
        const { flags, status } = state.nextPacket();
        state.sent.wrote();
        effect.ack = flags === FLAG_ACK ? status : undefined;
      }
      for (const [what, wanted] of Object.entries(expected)) {
        assert.ok(checked.includes(what), `step ${index + 1}: this test does not know ${what}`);
        assert.deepEqual(effect[what], wanted, `step ${index + 1}: ${what}`);
      }
    }
  });
}

test("there are 86 cases or more", () => assert.ok(cases.length >= 86, `${cases.length} cases`));

test("the largest numbers of a gateway do no harm", () => {
  const state = new State("ws://a/ws");
  const most = (resumed) => ({ resumeToken: "t", resumed, packetsReceived: 2 ** 64, repliesLost: 2 ** 32 - 1 });
  state.welcome(most(false));
  for (const resent of [0, 1]) {
    state.sent.push(1, empty);
    const outcome = { resumed: true, resent, lost: 0, repliesLost: 2 ** 32 - 1 };
    assert.deepEqual(state.welcome(most(true)), outcome);
    for (let i = 0; i < resent; i++) state.sent.wrote();
    assert.equal(state.nextPacket(), undefined);
  }
});

test("a token of a gateway does not make the URL endless", () => {
  const search = [1024, 1025].map((length) => {
    const state = new State("ws://a/ws");
    state.welcome({ resumeToken: "t".repeat(length), resumed: false, packetsReceived: 0, repliesLost: 0 });
    return new URL(state.url).search !== "";
  });
  assert.deepEqual(search, [true, false]);
});

test("the size of a gap is the count of the pushes that are missing", () => {
  const state = new State("ws://a/ws");
  const receive = (seq) => state.receive({ seq, route: 1, flags: 0, status: 0 });
  assert.deepEqual([2, 3, 3, 7, 0, 8].map(receive), [1, 0, undefined, 3, 0, 0]);
  const wrapping = new State("ws://a/ws");
  const next = (seq) => wrapping.receive({ seq, route: 1, flags: 0, status: 0 });
  assert.deepEqual([4294967294, 4294967295, 1, 3].map(next), [4294967293, 0, 0, 1]);
});

test("a URL that is none of a WebSocket is refused", () => {
  for (const url of ["http://a/ws", "a:8080", "", "ws://"]) assert.throws(() => new State(url), TypeError, url);
});
