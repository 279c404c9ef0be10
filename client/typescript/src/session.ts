import { ClosedError, LostError, StatusError } from "./errors.ts";
import { Listeners } from "./events.ts";
import { Link, type SocketConstructor } from "./link.ts";
import { decodeControl, encodeRefresh, welcomeOf, type Welcome } from "./messages.ts";
import { wakeWithPage } from "./page.ts";
import { FLAG_REPLACES, FLAG_REPLY, HEADER_BYTES, Route, decodeHeader, encodePacket, type Header } from "./packet.ts";
import { encodeText } from "./proto.ts";
import { State, withQuery, type Delay, type End } from "./state.ts";

/** The token, or a function that returns the newest one. */
export type TokenSource = string | (() => string | undefined | Promise<string | undefined>);

export interface ConnectOptions {
  /** The gateway's URL, such as `wss://game.example/ws`. Plugins may ask for parameters in its query. */
  url: string;
  /**
   * The JSON Web Token. With a function the session renews its token by itself: the function is called for each
   * connection, and when the token is about to expire.
   */
  token?: TokenSource | undefined;
  /**
   * The subprotocols to offer. If there are any, the token goes along as the subprotocol `bearer.TOKEN`. Otherwise it
   * is the query parameter `token`, which proxies may write to their logs.
   */
  protocols?: string[] | undefined;
  /** The WebSocket to use. The default is the global one, which Node has from version 22 on. */
  WebSocket?: SocketConstructor | undefined;
  /** The time between two heartbeats in milliseconds. The default is 25 seconds. */
  heartbeatMs?: number | undefined;
}

export interface RequestOptions {
  /** Ends the wait for the reply, for example `AbortSignal.timeout(5000)`. */
  signal?: AbortSignal | undefined;
}

/** A message that the client did not ask for. */
export interface Push {
  route: number;
  payload: Uint8Array;
  /** The delivery number, or 0 for a push that is not counted. */
  number: number;
  /** Whether older pushes were skipped on purpose, since only the newest of them matters. */
  replaced: boolean;
}

export interface SessionEvents {
  /** A connection has got its welcome: the first one, and each that follows a break. */
  welcome: Welcome;
  push: Push;
  /** The session goes on over a new connection. What the client has missed follows. */
  resumed: {
    /** The time without a connection in milliseconds. */
    awayMs: number;
    /** How many packets are sent again, because the gateway has not received them. */
    resent: number;
    /** How many packets the gateway has not received and that are not sent again. */
    lost: number;
    /** How many replies do not come any more. */
    repliesLost: number;
  };
  /** The session could not be kept, and a new one has begun. Fetch the state of your game again. */
  newSession: { awayMs: number; seen: number; lost: number };
  /**
   * Messages were lost, and do not come again: this many pushes, because the client reads too slowly, or an unknown
   * number, because the gateway did not hear the backends for `blindMs`.
   */
  gap: { pushes: number; blindMs: number };
  /** There is no connection. The next attempt begins after `delayMs`. */
  reconnecting: { why: string; delayMs: number };
  /** The gateway has refused a packet of `send`, which has returned this seq. */
  refused: { seq: number; error: StatusError };
  /** The token expires. Call `refresh`, unless the option `token` is a function. */
  tokenExpires: { inMs: number };
  /** The session is over. Nothing follows. */
  closed: ClosedError;
}

/** The most packets of which is remembered that nobody waits for their replies. */
const MAX_UNWANTED = 256;

/** A request whose reply has not come yet. */
interface Pending {
  resolve(reply: Uint8Array): void;
  reject(error: unknown): void;
}

/** Begins a session. It survives its connections: if one breaks, the session goes on over another one. */
export function connect(options: ConnectOptions): Session {
  return new Session(options);
}

/** A session with a gateway. */
export class Session {
  /** The first welcome. It rejects with a `ClosedError` if the first connection fails. */
  readonly opened: Promise<Welcome>;
  #socketType: SocketConstructor;
  #protocols: string[];
  #heartbeatMs: number;
  #source: TokenSource | undefined;
  /** The token that the gateway knows. */
  #token: string | undefined;
  #state: State;
  #listeners = new Listeners<SessionEvents>();
  #pending = new Map<number, Pending>();
  /** The seqs of packets whose replies nobody waits for any more, the oldest first. Their refusals are no events. */
  #unwanted = new Set<number>();
  #welcome: Welcome | undefined;
  #link: Link | undefined;
  /** The next attempt, while the session waits for it. */
  #attempt: ReturnType<typeof setTimeout> | undefined;
  /** The moment before which the next attempt must not begin. */
  #notBefore = 0;
  /** The moment at which the client leaves its connection. */
  #leaving: ReturnType<typeof setTimeout> | undefined;
  /** When the last connection with a welcome ended. */
  #lostAt = 0;
  #closed: ClosedError | undefined;
  #over = new AbortController();

  constructor({ url, token, protocols = [], WebSocket, heartbeatMs = 25_000 }: ConnectOptions) {
    const socketType = WebSocket ?? (globalThis as { WebSocket?: SocketConstructor }).WebSocket;
    if (!socketType) {
      throw new TypeError("there is no global WebSocket: use Node 22 or later, or pass that of the npm package ws");
    }
    this.#socketType = socketType;
    this.#protocols = protocols;
    this.#heartbeatMs = heartbeatMs;
    this.#source = token;
    this.#state = new State(url);
    this.opened = new Promise((resolve, reject) => {
      this.on("welcome", resolve);
      this.on("closed", reject);
    });
    // Who listens to `closed` need not wait for this promise.
    this.opened.catch(() => {});
    wakeWithPage(() => this.wake(), this.#over.signal);
    void this.#connect();
  }

  /** Calls `listener` for each of these events. Returns a function that ends this. */
  on<Name extends keyof SessionEvents>(name: Name, listener: (event: SessionEvents[Name]) => void): () => void {
    return this.#listeners.on(name, listener);
  }

  /** The id of the session, which is empty before the first welcome. It changes when a new session begins. */
  get id(): string {
    return this.#welcome?.sessionId ?? "";
  }

  /** Whether there is a connection now. */
  get isConnected(): boolean {
    return this.#link?.welcomedAt !== undefined;
  }

  /** The number of bytes that wait in the WebSocket. If it grows, the network is slower than the game sends. */
  get bufferedAmount(): number {
    return this.#link?.bufferedAmount ?? 0;
  }

  /**
   * Sends a packet, and returns its seq. Without a connection, the packet waits for the next one of this session. The
   * event `refused` says if the gateway refuses it.
   */
  send(route: number, payload: Uint8Array | string = ""): number {
    if (this.#closed) throw this.#closed;
    const seq = this.#state.sent.push(route, typeof payload === "string" ? encodeText(payload) : payload);
    this.#write();
    return seq;
  }

  /**
   * Sends a packet, and resolves with the payload of the reply. Rejects with a `StatusError` if the packet is refused,
   * with a `LostError` if the reply cannot come any more, with a `ClosedError` if the session is over, and with the
   * reason of the signal. A chat request has no reply unless it is refused: use `send` for it.
   */
  request(route: number, payload: Uint8Array | string = "", options: RequestOptions = {}): Promise<Uint8Array> {
    const { signal } = options;
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const seq = this.send(route, payload);
      const abort = () => {
        this.#forget(seq);
        reject(signal?.reason);
      };
      const settling =
        <T>(settle: (outcome: T) => void) =>
        (outcome: T) => {
          signal?.removeEventListener("abort", abort);
          settle(outcome);
        };
      this.#pending.set(seq, { resolve: settling(resolve), reject: settling(reject) });
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** Sends a heartbeat, and resolves with the time of the round trip in milliseconds. */
  async ping(): Promise<number> {
    const start = performance.now();
    await this.request(Route.system, "ping");
    return performance.now() - start;
  }

  /** Replaces the token of the session by a newer one of the same user. Rejects as `request` does. */
  async refresh(token: string): Promise<void> {
    await this.request(Route.control, encodeRefresh(token));
    this.#token = token;
    if (typeof this.#source === "string") this.#source = token;
  }

  /**
   * Says that the network may have changed, or that the player is back. While the session waits for its next attempt,
   * it connects at once, but never earlier than the gateway has asked for. A connection has to prove that it lives: if
   * nothing comes within 5 seconds, it is cut, and the session goes on over another one.
   *
   * In browsers the session calls this by itself.
   */
  wake(): void {
    if (this.#attempt === undefined) this.#link?.check();
    else this.#connectAfter(this.#notBefore - performance.now());
  }

  /** Ends the session, after the packets that were sent over the present connection. */
  close(): void {
    this.#link?.close();
    this.#close(new ClosedError("the application has closed the session", 1000));
  }

  async #connect(): Promise<void> {
    this.#attempt = undefined;
    let link: Link;
    try {
      const token = await this.#newestToken();
      if (this.#closed) return;
      this.#token = token;
      link = new Link(this.#open(token), {
        received: (message) => this.#received(link, message),
        ended: (end, why) => this.#ended(end, why),
      });
      this.#link = link;
    } catch (error) {
      // The application may have closed the session while it got the token.
      if (this.#closed) return;
      this.#ended("unreachable", `there is no token, or no WebSocket: ${error}`);
    }
  }

  #open(token: string | undefined) {
    const { url } = this.#state;
    if (!token) return new this.#socketType(url, this.#protocols);
    if (this.#protocols.length) return new this.#socketType(url, [...this.#protocols, `bearer.${token}`]);
    return new this.#socketType(withQuery(new URL(url), `token=${encodeURIComponent(token)}`), []);
  }

  /** Rejects also if the function throws at once. */
  async #newestToken(): Promise<string | undefined> {
    return typeof this.#source === "function" ? this.#source() : this.#source;
  }

  #received(link: Link, message: Uint8Array | undefined): void {
    if (link.welcomedAt === undefined) return this.#begin(link, message);
    if (!message || message.length < HEADER_BYTES) return;
    const header = decodeHeader(message);
    const missing = this.#state.receive(header);
    if (missing === undefined) return;
    const payload = message.subarray(HEADER_BYTES);
    if (header.flags & FLAG_REPLY) return this.#reply(header, payload);
    if (header.route === Route.control) return this.#control(payload);
    if (missing) this.#listeners.emit("gap", { pushes: missing, blindMs: 0 });
    const replaced = (header.flags & FLAG_REPLACES) !== 0;
    this.#listeners.emit("push", { route: header.route, payload, number: header.seq, replaced });
  }

  /** Begins or goes on with the session, as the first message of a connection says. */
  #begin(link: Link, message: Uint8Array | undefined): void {
    const welcome = message && welcomeOf(message);
    if (!welcome) {
      link.close();
      return this.#ended("noGateway", "the first message is not the welcome: this is no gateway");
    }
    const isFirst = !this.#welcome;
    this.#welcome = welcome;
    link.welcomed(this.#heartbeatMs, () => this.#beat());
    const outcome = this.#state.welcome(welcome);
    if (outcome.resumed || isFirst) {
      const error = new LostError("the gateway has not received the packet, and it is not sent again");
      this.#rejectBefore(this.#state.sent.oldest, outcome.lost, error);
    } else this.#rejectAll(new LostError("a new session has begun, which does not get the reply"));
    if (outcome.resumed && outcome.repliesLost) this.#findLostReplies();
    const awayMs = performance.now() - this.#lostAt;
    this.#listeners.emit("welcome", welcome);
    if (outcome.resumed) {
      const { resent, lost, repliesLost } = outcome;
      this.#listeners.emit("resumed", { awayMs, resent, lost, repliesLost });
    } else if (!isFirst) {
      this.#listeners.emit("newSession", { awayMs, seen: outcome.seen, lost: outcome.lost });
    }
    this.#write();
  }

  #reply({ seq, route, status }: Header, payload: Uint8Array): void {
    const pending = this.#pending.get(seq);
    this.#pending.delete(seq);
    const isUnwanted = this.#unwanted.delete(seq);
    if (status === 0) return pending?.resolve(payload);
    const error = new StatusError(route, status, new TextDecoder().decode(payload));
    if (pending) pending.reject(error);
    else if (!isUnwanted) this.#listeners.emit("refused", { seq, error });
  }

  #control(payload: Uint8Array): void {
    const control = decodeControl(payload);
    if (!control) return;
    if ("blindMs" in control) this.#listeners.emit("gap", { pushes: 0, blindMs: control.blindMs });
    else if ("reconnect" in control) {
      const link = this.#link;
      clearTimeout(this.#leaving);
      this.#leaving = setTimeout(() => link?.leave(), this.#state.leaveAfter(control.reconnect));
    } else {
      this.#listeners.emit("tokenExpires", { inMs: control.tokenExpiresInMs });
      if (typeof this.#source === "function") void this.#refreshFromSource();
    }
  }

  async #refreshFromSource(): Promise<void> {
    try {
      const token = await this.#newestToken();
      if (token && token !== this.#token) await this.refresh(token);
    } catch {
      // The session keeps its old token. When that expires, the client connects again with a newer one.
    }
  }

  #ended(end: End | "left", why: string): void {
    const welcomedAt = this.#link?.welcomedAt;
    const lived = welcomedAt === undefined ? 0 : performance.now() - welcomedAt;
    if (welcomedAt !== undefined) this.#lostAt = performance.now();
    this.#link = undefined;
    clearTimeout(this.#leaving);
    if (end === "left") return this.#wait(this.#state.left(lived), why);
    const code = typeof end === "object" && "closed" in end ? (end.closed ?? undefined) : undefined;
    const decision = this.#state.end(end, lived);
    if (decision === "stop") return this.#close(new ClosedError(why, code));
    if (decision === "renewToken") return void this.#renew(new ClosedError(why, code));
    this.#wait(decision.reconnect, why);
  }

  /** Connects with a new token, or closes the session without one. */
  async #renew(expired: ClosedError): Promise<void> {
    const token = await this.#newestToken().catch(() => undefined);
    if (this.#closed) return;
    if (!token || token === this.#token) return this.#close(expired);
    this.#wait([0, 0], expired.message);
  }

  #wait([atLeastMs, atMostMs]: Delay, why: string): void {
    const delayMs = atLeastMs + Math.random() * (atMostMs - atLeastMs);
    this.#notBefore = performance.now() + atLeastMs;
    this.#connectAfter(delayMs);
    this.#listeners.emit("reconnecting", { why, delayMs });
  }

  #connectAfter(delayMs: number): void {
    clearTimeout(this.#attempt);
    this.#attempt = setTimeout(() => void this.#connect(), delayMs);
  }

  #write(): void {
    for (let packet; this.#link?.isWritable && (packet = this.#state.nextPacket()); ) {
      this.#link.send(encodePacket(packet));
      this.#state.sent.wrote();
    }
  }

  #beat(): void {
    this.#forget(this.send(Route.system, "beat"));
  }

  /**
   * Finds the requests whose replies were lost with the connection: those without a reply when a later packet is
   * answered. Only a refusal because of the bus may come later still, and nobody waits for it then.
   */
  #findLostReplies(): void {
    const error = new LostError("the reply was lost with the connection");
    const seq = this.send(Route.system, "beat");
    const reject = () => this.#rejectBefore(seq, 2 ** 31, error);
    this.#pending.set(seq, { resolve: reject, reject });
  }

  /** Rejects the requests among the last `count` packets before this seq. */
  #rejectBefore(seq: number, count: number, error: LostError): void {
    for (const [other, pending] of this.#pending) {
      if ((seq - other - 1) >>> 0 >= count) continue;
      this.#forget(other);
      pending.reject(error);
    }
  }

  /** Takes note that nobody waits for the reply to this packet any more. */
  #forget(seq: number): void {
    this.#pending.delete(seq);
    this.#unwanted.add(seq);
    // Many packets never get a reply.
    const [oldest = 0] = this.#unwanted;
    if (this.#unwanted.size > MAX_UNWANTED) this.#unwanted.delete(oldest);
  }

  #rejectAll(error: Error): void {
    const all = [...this.#pending.values()];
    this.#pending.clear();
    this.#unwanted.clear();
    for (const pending of all) pending.reject(error);
  }

  #close(error: ClosedError): void {
    if (this.#closed) return;
    this.#closed = error;
    this.#link = undefined;
    clearTimeout(this.#attempt);
    clearTimeout(this.#leaving);
    this.#attempt = undefined;
    this.#over.abort();
    this.#rejectAll(error);
    this.#listeners.emit("closed", error);
    // A listener may have closed the session while there was more to tell.
    this.#listeners.clear();
  }
}
