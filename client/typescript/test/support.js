// A WebSocket that the test plays, and the packets of a gateway.
import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { encodePacket } from "../dist/packet.js";
import { ProtoWriter } from "../dist/proto.js";

/** The sockets that were opened. */
export const sockets = [];

export class FakeSocket {
  readyState = 0;
  bufferedAmount = 0;
  sent = [];
  #listeners = {};

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    sockets.push(this);
  }

  addEventListener(type, listener) {
    this.#listeners[type] = listener;
  }

  send(bytes) {
    this.sent.push([...bytes]);
  }

  close(code) {
    this.readyState = 2;
    this.closedWith = code;
  }

  // What the network does.

  open() {
    this.readyState = 1;
    this.#listeners.open({});
  }

  receive(seq, route, flags, status, payload = new Uint8Array()) {
    const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
    this.#listeners.message({ data: encodePacket({ seq, route, flags, status, payload: bytes }).buffer });
  }

  receiveText(data) {
    this.#listeners.message({ data });
  }

  fail(message) {
    this.readyState = 3;
    this.#listeners.error({ message });
  }

  end(code, reason = "") {
    this.readyState = 3;
    this.#listeners.close({ code, reason });
  }

  /** Opens the connection and sends the welcome. */
  welcome({ id = "s", token = "t", resumed = false, received = 0, repliesLost = 0 } = {}) {
    this.open();
    const welcome = new ProtoWriter().text(1, id).text(3, token).int(5, resumed).int(6, received).int(7, repliesLost);
    this.receive(0, 3, 0, 0, welcome.finish());
  }
}

/** Lets the promises that are ready run. */
export async function settle() {
  for (let i = 0; i < 3; i++) await setImmediate();
}

/** Waits until there is this number of sockets, and returns the last one. */
export async function socket(number) {
  for (let i = 0; i < 100 && sockets.length < number; i++) await settle();
  assert.equal(sockets.length, number, "sockets");
  return sockets[number - 1];
}

/** Records the events of a session in the returned list. */
export function record(session) {
  const events = [];
  const names = ["welcome", "push", "resumed", "newSession", "gap", "reconnecting", "refused", "tokenExpires", "closed"];
  for (const name of names) session.on(name, (event) => events.push([name, event]));
  return events;
}
