// Runs every case of client/vectors/messages.json, from the root of the repository.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { decodeChat, encodeChatRequest } from "../dist/index.js";
import { decodeControl, decodeWelcome, encodeRefresh } from "../dist/messages.js";

const { cases } = JSON.parse(readFileSync("client/vectors/messages.json", "utf8"));

/** Returns the fields in the names and the types of this client. */
function named(fields) {
  const entries = Object.entries(fields).map(([field, value]) => {
    const name = field.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
    if (field === "message_id") return [name, BigInt(value)];
    if (/^(timestamp|packets_received|.*_ms)$/.test(field)) return [name, Number(value)];
    if (field === "extra_data") return [name, bytesOf(value)];
    return [name, typeof value === "object" && field !== "extra" ? named(value) : value];
  });
  return Object.fromEntries(entries);
}

const bytesOf = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

const base = (fields) => fields && { gameId: "", userId: 0, timestamp: 0, ...fields };

const checks = {
  "gateway.Welcome"(bytes, fields) {
    const empty = { serverTimeMs: 0, resumeToken: "", resumeWindowMs: 0, resumed: false, packetsReceived: 0 };
    assert.deepEqual(decodeWelcome(bytes), { ...empty, repliesLost: 0, ...fields });
  },
  "gateway.Control"(bytes, { tokenExpires, gap, reconnect }) {
    const expected =
      (tokenExpires && { tokenExpiresInMs: tokenExpires.inMs }) ??
      (gap && { blindMs: gap.blindMs }) ?? { reconnect: { url: "", afterMs: 0, ...reconnect } };
    assert.deepEqual(decodeControl(bytes), expected);
  },
  "gateway.ClientControl": (bytes, { refresh }) => assert.deepEqual(encodeRefresh(refresh.token), bytes),
  "chat.ChatRequest": (bytes, { base, ...fields }) =>
    assert.deepEqual(encodeChatRequest({ ...base, ...fields }), bytes),
  "chat.ChatResponse"(bytes, fields) {
    const empty = { success: false, errorMessage: "", messageId: 0n, timestamp: 0, targetUserId: 0 };
    const expected = { kind: "response", ...empty, targetSessionId: "", ...fields, base: base(fields.base) };
    assert.deepEqual(decodeChat(bytes), expected);
  },
  "chat.MessageBroadcast"(bytes, fields) {
    const empty = { messageId: 0n, senderId: 0, senderName: "", channelId: 0, content: "", timestamp: 0, type: 0 };
    assert.deepEqual(decodeChat(bytes), { kind: "broadcast", ...empty, targetUserId: 0, ...fields });
  },
  null: (bytes) => assert.equal(decodeChat(bytes), undefined),
};

for (const { name, message, bytes, fields = {} } of cases) {
  test(`${message}: ${name}`, () => checks[message](bytesOf(bytes), named(fields)));
}

test("fields of a later version do not matter", () => {
  for (const later of ["62026869", "6001", "4001", "4a00", "61" + "00".repeat(8), "65" + "00".repeat(4)]) {
    assert.equal(decodeChat(bytesOf(`2805${later}`)).timestamp, 5, later);
  }
});

test("a field with the number 0 makes a message invalid", () => {
  assert.equal(decodeWelcome(bytesOf("0a0173")).sessionId, "s");
  assert.equal(decodeWelcome(bytesOf("0a01730001")), undefined);
});

test("of a field that comes several times the last one counts", () => {
  assert.equal(decodeChat(bytesOf("28052806")).timestamp, 6);
  assert.deepEqual(decodeControl(bytesOf("1202080512020806")), { blindMs: 6 });
});
