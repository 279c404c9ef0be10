// What a client knows about its session, and what it does when a connection ends.
//
// Nothing in here does I/O, reads a clock or draws a random number. Times are parameters in milliseconds, and a delay
// is a range in which the caller draws. docs/protocol.md explains the decisions ("Reconnect and resume"), and
// client/vectors/reconnect.json lists them.

import type { Welcome } from "./messages.ts";
import { FLAG_ACK, FLAG_REPLY, type Header, type Packet } from "./packet.ts";
import { Sent } from "./sent.ts";

/** The longest delay before the second attempt. It doubles with each attempt that follows. */
const BASE_MS = 500;

/** The longest delay before any attempt. */
const CAP_MS = 30_000;

/** The time after its welcome at which a connection counts as good, so that the delays begin anew. */
const LIVED_MS = 10_000;

/** The least delay after code 1009. Nothing becomes better if the client comes back at once. */
const SLOW_MS = 10_000;

/** The longest time that a server can make the client wait. */
const MAX_WAIT_MS = 3_600_000;

/** The number of connections in a row without a welcome after which the server is no gateway. */
const MAX_WITHOUT_WELCOME = 5;

/** The number of failed attempts in a row at the URL of a `Reconnect` after which the client goes back to its own. */
const MAX_FAILURES_ELSEWHERE = 4;

/** A text that can stand in a URL as it is, and that does not make the URL endless. */
const RESUME_TOKEN = /^[A-Za-z0-9._-]{1,1024}$/;

/** How a connection ended, or why an attempt gave none. */
export type End =
  /** The gateway sent a close frame with this code, or with none. */
  | { closed: number | null }
  /** The answer to the upgrade is this HTTP status. Browsers hide it, and the end is `unreachable` there. */
  | { refused: number; retryAfterMs: number }
  /** The connection broke without a close frame. */
  | "lost"
  /** Nothing was received for too long. */
  | "silent"
  /** There is no answer to the upgrade. */
  | "unreachable"
  /** The connection was upgraded, but the welcome did not come in time. */
  | "noWelcome"
  /** The first packet is not the welcome. */
  | "noGateway";

/** A range of delays. All delays in it are equally likely. */
export type Delay = [atLeastMs: number, atMostMs: number];

/** What the client does next. With `renewToken`, it connects at once with a new token, and stops without one. */
export type Decision = { reconnect: Delay } | "renewToken" | "stop";

/** What a welcome means for the session. */
export type Outcome =
  /** The session goes on. `lost` packets were not received, and are not sent again. */
  | { resumed: true; resent: number; lost: number; repliesLost: number }
  /** The session is new. What came after the push `seen` of the old one does not come, and `lost` packets were never sent. */
  | { resumed: false; seen: number; lost: number };

/** The session, as its client knows it. */
export class State {
  readonly sent = new Sent();
  /** The URL that the user has chosen. */
  #own: URL;
  /** The URL of the next connection. */
  #url: URL;
  /** The resume token of the last welcome, if it had one. */
  #token: string | undefined;
  /** Whether there was a welcome at all. */
  #hasBegun = false;
  /** Whether the present connection has got its welcome. */
  #isWelcome = false;
  /** The number of connections and attempts in a row of which none has lived. */
  #failures = 0;
  /** The number of attempts in a row that have failed at the present URL. */
  #failuresHere = 0;
  /** The number of connections in a row that ended without a welcome. */
  #withoutWelcome = 0;
  /** The delivery number of the last push, or 0. */
  #seen = 0;
  /** The number of replies. */
  #replies = 0;

  /** Throws a TypeError if the URL is none of a WebSocket. */
  constructor(url: string) {
    const parsed = webSocketUrl(url);
    if (!parsed) throw new TypeError(`the URL ${url} does not have the form ws://HOST:PORT/ws or wss://HOST:PORT/ws`);
    this.#own = this.#url = parsed;
  }

  /** The URL to connect to, with what resumes the session if it can be resumed. */
  get url(): string {
    if (!this.#token) return this.#url.href;
    return withQuery(this.#url, `resume=${this.#token}&seen=${this.#seen}&replies=${this.#replies}`);
  }

  /** Takes note of the welcome of a connection. */
  welcome(welcome: Pick<Welcome, "resumeToken" | "resumed" | "packetsReceived" | "repliesLost">): Outcome {
    // A gateway cannot resume a session that nobody has asked for.
    const resumed = welcome.resumed && this.#token !== undefined;
    this.#token = RESUME_TOKEN.test(welcome.resumeToken) ? welcome.resumeToken : undefined;
    const hadBegun = this.#hasBegun;
    this.#hasBegun = this.#isWelcome = true;
    this.#failuresHere = this.#withoutWelcome = 0;
    if (resumed) {
      const lost = this.sent.resume(welcome.packetsReceived);
      return { resumed, resent: this.sent.waiting, lost, repliesLost: welcome.repliesLost };
    }
    const seen = this.#seen;
    this.#seen = this.#replies = 0;
    // The first session gets the packets that have waited for it.
    return { resumed, seen, lost: hadBegun ? this.sent.restart() : this.sent.resume(0) };
  }

  /**
   * Counts a packet of the gateway. Returns the number of pushes that are missing before it, or `undefined` if it has
   * come before: then the application must not get it.
   */
  receive({ seq, flags }: Header): number | undefined {
    if (flags & FLAG_REPLY) {
      this.#replies += 1;
      return 0;
    }
    // The welcome and the pushes of the control route have no number.
    if (seq === 0) return 0;
    // The numbers wrap around, so half of them are after any number (RFC 1982).
    const distance = (seq - this.#seen) >>> 0;
    if (this.#seen !== 0 && (distance === 0 || distance >= 2 ** 31)) return undefined;
    // After 4294967295 comes 1.
    const wrapped = seq < this.#seen ? 1 : 0;
    this.#seen = seq;
    return distance - 1 - wrapped;
  }

  /** The next packet to write to the present connection, with the newest acknowledgement. */
  nextPacket(): Packet | undefined {
    const packet = this.sent.unwritten;
    if (!packet || this.#seen === 0) return packet;
    // The low 16 bits are enough: far fewer pushes than that wait for an acknowledgement.
    return { ...packet, flags: FLAG_ACK, status: this.#seen & 0xffff };
  }

  /** Takes note of a `Reconnect`. Returns the time after which the client has to leave the connection. */
  leaveAfter({ url, afterMs }: { url: string; afterMs: number }): number {
    const next = webSocketUrl(url);
    // A URL that cannot be used is as good as none. Without TLS, everybody on the way would read the tokens.
    if (next && !(this.#url.protocol === "wss:" && next.protocol === "ws:")) {
      next.search ||= this.#url.search;
      this.#url = next;
    }
    return Math.min(Math.max(afterMs, 0), MAX_WAIT_MS);
  }

  /** Returns the delay before the next connection when the client has left because of a `Reconnect`. */
  left(livedMs: number): Delay {
    this.#isWelcome = false;
    this.sent.end();
    const delay = this.#backoff(0, livedMs);
    // The gateway has chosen the moment. It only must not be able to make the client turn in a circle.
    return livedMs >= LIVED_MS ? [0, 0] : delay;
  }

  /** Decides what to do after the end of a connection or of an attempt, which has lived since its welcome. */
  end(end: End, livedMs: number): Decision {
    // If there has never been a gateway, the application has to know at once.
    if (!this.#hasBegun) return "stop";
    this.sent.end();
    // Probably one of the packets was too large. It would be too large again.
    if (typeof end === "object" && "closed" in end && end.closed === 1009) this.sent.giveUp();
    const isAttempt = !this.#isWelcome;
    this.#isWelcome = false;
    const isRefusal = end === "noGateway" || (typeof end === "object" && "refused" in end);
    if (isAttempt) {
      this.#failuresHere += 1;
      if (!isRefusal && end !== "unreachable") this.#withoutWelcome += 1;
    }
    const verdict = verdictOf(end);
    const isNoGateway = this.#withoutWelcome >= MAX_WITHOUT_WELCOME || (isRefusal && verdict === "never");
    const isHopelessHere = isNoGateway || this.#failuresHere >= MAX_FAILURES_ELSEWHERE;
    if (verdict === "renewToken") return verdict;
    if (verdict === "never" && !isRefusal) return "stop";
    if (isAttempt && isHopelessHere && this.#url.href !== this.#own.href) {
      this.#url = this.#own;
      this.#failuresHere = this.#withoutWelcome = 0;
      return { reconnect: this.#backoff(0, livedMs) };
    }
    return verdict === "never" || isNoGateway ? "stop" : { reconnect: this.#backoff(verdict, livedMs) };
  }

  /** Exponential backoff with full jitter, on top of the least delay that was asked for. */
  #backoff(atLeastMs: number, livedMs: number): Delay {
    if (livedMs >= LIVED_MS) this.#failures = 0;
    const ceiling = Math.min(BASE_MS * 2 ** this.#failures, CAP_MS);
    this.#failures += 1;
    return [atLeastMs, atLeastMs + ceiling];
  }
}

/** What an end alone means: connect again, but not before this time, or with a new token, or never. */
function verdictOf(end: End): number | "renewToken" | "never" {
  if (end === "noGateway") return "never";
  if (typeof end === "string") return 0;
  if ("refused" in end) {
    const isBusy = end.refused === 429 || (end.refused >= 500 && end.refused <= 599);
    return isBusy ? Math.min(end.retryAfterMs, MAX_WAIT_MS) : "never";
  }
  const code = end.closed ?? 0;
  if (code === 1009) return SLOW_MS;
  if (code === 4001) return "renewToken";
  const isFinal = [1000, 1002, 1003, 1007, 1008].includes(code) || (code >= 3000 && code <= 4999);
  return isFinal ? "never" : 0;
}

function webSocketUrl(text: string): URL | undefined {
  try {
    const url = new URL(text);
    url.hash = "";
    return /^wss?:$/.test(url.protocol) ? url : undefined;
  } catch {
    return undefined;
  }
}

/** Returns the URL with these parameters behind its own ones. */
export function withQuery(url: URL, parameters: string): string {
  const longer = new URL(url);
  longer.search += `${url.search ? "&" : ""}${parameters}`;
  return longer.href;
}
