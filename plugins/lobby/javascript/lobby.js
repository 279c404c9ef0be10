// The lobby: clients log in, ask for their user, write to each other, and publish on the bus.

import * as attributes from "gateway:policy/attributes@0.2.3";
import * as log from "gateway:policy/log@0.2.3";
import * as state from "gateway:policy/state@0.2.3";

const ROUTE = 0x10;

/** The group of all sessions. The interface's numbers of 64 bits are BigInts here. */
const EVERYBODY = { tag: "group", val: 1n };

/** The entry that counts the messages since the last report. */
const SAID = "said";

/** The timer for the report of the count. It is set by the first message after a report. */
const REPORT = 1n;
const REPORT_AFTER_MS = 10_000n;

const Status = { OK: 0, MALFORMED_PAYLOAD: 2, REJECTED: 4, FORBIDDEN: 6, LOBBY: 256 };

const encoder = new TextEncoder();
// With `ignoreBOM` the decoder keeps a byte order mark. Without this option, `\ufeffping` would be decoded as `ping`.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const lobby = { topic: "lobby", maxBytes: 64, route: ROUTE };

export const plugin = {
  describe() {
    return {
      name: "lobby",
      version: "0.1.0",
      routes: new Uint8Array([ROUTE]),
      metrics: [],
      stateFormat: 0,
      gatekeeper: true,
    };
  },

  configure(settings) {
    const { config = {}, routes = [] } = JSON.parse(settings);
    Object.assign(lobby, readConfig(config));
    lobby.route = routes[0] ?? ROUTE;
    log.write("debug", "lobby configured");
    return [`${lobby.topic}:out`];
  },
};

export const policy = {
  onPacket({ session, user }, payload) {
    const text = decode(payload);
    if (user === undefined) return logIn(text);
    switch (text) {
      case "whoami":
        return [reply(`user ${user}, session ${formatSession(session)}`)];
      case "ping":
        return [{ tag: "echo" }];
      case "bye":
        return [{ tag: "end", val: { whom: { tag: "sender" }, closing: { code: 1000, reason: "bye" } } }];
      case "status":
        return [reply("lobby", Status.LOBBY)];
      case "crash":
        // The bindings would turn an Error into a rejection without a status. To throw `null` is a trap.
        throw null;
    }
    if (text.startsWith("login ")) throw new Rejection(Status.REJECTED, "already logged in");
    const [, words] = text.match(/^say (.+)$/s) ?? [];
    return words === undefined ? send(user, text) : say(session, user, words);
  },
};

export const hearing = {
  onMessage(topic, payload) {
    const [, head] = tryDecode(payload)?.match(/^([^ ]+) ./s) ?? [];
    const target = parseTarget(head ?? "");
    if (!target) throw new Rejection(Status.MALFORMED_PAYLOAD, "a message is `USER TEXT` or `SESSION TEXT`");
    return [deliver(target)];
  },
};

export const sessions = {
  onConnect({ session, query }) {
    const [, name] = query.match(/(?:^|&)name=([^&]*)/) ?? [];
    if (name !== undefined && !/^[A-Za-z0-9_-]{1,16}$/.test(name)) {
      throw new Rejection(400, "name: 1 to 16 characters of A-Z a-z 0-9 _ - are allowed");
    }
    return {
      tag: 0n,
      attributes: name === undefined ? [] : [["name", name]],
      actions: [{ tag: "join", val: { session, group: EVERYBODY.val } }],
    };
  },

  onDisconnect({ user }) {
    return user === undefined ? [] : [deliver(EVERYBODY, `${user} left`)];
  },
};

export const timers = {
  onWake() {
    const said = messagesSaid();
    if (said === undefined) return [];
    const keep = { tag: "latest", val: REPORT };
    return [deliver(EVERYBODY, `messages: ${said}`, { keep }), { tag: "put", val: { key: SAID } }];
  },
};

/**
 * An error that rejects a packet or a message, or denies a session. Its `payload` is the `rejection` or the `denial` of
 * the interface, which the client receives.
 */
class Rejection extends Error {
  constructor(status, message) {
    super(message);
    this.payload = { status, message };
  }
}

/** An error that refuses the settings. Its `payload` is the text that the operator reads. */
class Refusal extends Error {
  constructor(message) {
    super(message);
    this.payload = message;
  }
}

function readConfig({ topic = "lobby", max_bytes: maxBytes = 64, ...others }) {
  const [unknown] = Object.keys(others);
  if (unknown !== undefined) throw new Refusal(`config.${unknown}: unknown key (known: topic, max_bytes)`);
  if (typeof topic !== "string" || !/^[a-z0-9:_-]{1,64}$/.test(topic)) {
    throw new Refusal("config.topic: 1 to 64 characters of a-z 0-9 : _ - are allowed");
  }
  if (!Number.isInteger(maxBytes) || maxBytes < 1 || maxBytes > 65536) {
    throw new Refusal("config.max_bytes: 1 to 65536 is allowed");
  }
  return { topic, maxBytes };
}

function decode(payload) {
  if (payload.length === 0) throw new Rejection(Status.MALFORMED_PAYLOAD, "the payload is empty");
  const text = tryDecode(payload);
  if (text === undefined) throw new Rejection(Status.MALFORMED_PAYLOAD, "the payload is not UTF-8");
  if (payload.length > lobby.maxBytes) throw new Rejection(Status.REJECTED, `more than ${lobby.maxBytes} bytes`);
  return text;
}

function tryDecode(payload) {
  try {
    return decoder.decode(payload);
  } catch {
    return undefined;
  }
}

function logIn(text) {
  const user = text.startsWith("login ") ? parseUser(text.slice("login ".length)) : undefined;
  if (user === undefined) throw new Rejection(Status.FORBIDDEN, "log in first");
  return [{ tag: "bind", val: user }, reply(`welcome ${user}`)];
}

/** Delivers a text to everybody else, and counts it. */
function say(session, user, text) {
  const name = attributes.get(session, "name") ?? user;
  const said = messagesSaid();
  const count = { key: SAID, value: encoder.encode(`${(said ?? 0n) + 1n}`) };
  const actions = [deliver(EVERYBODY, `${name}: ${text}`, { except: session }), { tag: "put", val: count }];
  if (said === undefined) actions.push({ tag: "wake", val: { key: REPORT, afterMs: REPORT_AFTER_MS } });
  return [...actions, reply("sent")];
}

/** Returns the number of messages since the last report, or undefined if there are none. */
function messagesSaid() {
  const said = state.get(SAID);
  return said && BigInt(decoder.decode(said));
}

/** Delivers a text of the form `to USER TEXT` to one user, and publishes any other text on the bus. */
function send(from, text) {
  const [, head, words] = text.match(/^to ([^ ]+) (.+)$/s) ?? [];
  const user = parseUser(head ?? "");
  if (user === undefined) return [{ tag: "publish", val: { topic: lobby.topic } }];
  return [deliver({ tag: "user", val: user }, `from ${from}: ${words}`), reply("sent")];
}

function parseTarget(text) {
  const user = parseUser(text);
  if (user !== undefined) return { tag: "user", val: user };
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) return undefined;
  const digits = text.replaceAll("-", "");
  return { tag: "session", val: { high: BigInt(`0x${digits.slice(0, 16)}`), low: BigInt(`0x${digits.slice(16)}`) } };
}

/** Parses a user's id. BigInt() alone would also accept signs, spaces, leading zeros and hexadecimal numbers. */
function parseUser(text) {
  const user = /^[1-9][0-9]{0,18}$/.test(text) ? BigInt(text) : undefined;
  return user <= 0x7fff_ffff_ffff_ffffn ? user : undefined;
}

function formatSession({ high, low }) {
  const digits = ((high << 64n) | low).toString(16).padStart(32, "0");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function reply(text, status = Status.OK) {
  return { tag: "reply", val: { status, body: encoder.encode(text) } };
}

/** Pushes a text. Without a text, the push is the payload of the call. */
function deliver(to, text, options) {
  const body = text === undefined ? undefined : encoder.encode(text);
  return { tag: "deliver", val: { to, route: lobby.route, body, keep: { tag: "always" }, ...options } };
}
