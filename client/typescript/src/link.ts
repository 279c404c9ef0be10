import type { End } from "./state.ts";

/** The time for the name lookup, TCP, TLS and the upgrade together. A gateway allows as much for an upgrade. */
const CONNECT_TIMEOUT_MS = 10_000;

/** The time that the welcome may take after the upgrade. A gateway sends it first. */
const WELCOME_TIMEOUT_MS = 5_000;

/** The time for the gateway's answer to a close frame. */
const CLOSE_TIMEOUT_MS = 2_000;

/** The time in which something has to come after a check. */
const CHECK_TIMEOUT_MS = 5_000;

/** The close code of a client that goes on with its session over another connection. */
const CUT = 4000;

/** What this client needs of a WebSocket. The browser's has it, as those of Node and of the npm package `ws` have. */
export interface Socket {
  binaryType: string;
  readonly readyState: number;
  readonly bufferedAmount: number;
  /** The parameter of the browser's is a `Uint8Array<ArrayBuffer>`, a type that older compilers do not know. */
  send(data: any): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: string, listener: (event: any) => void): void;
  /** Only that of the npm package `ws` has it. */
  on?: any;
}

export type SocketConstructor = new (url: string, protocols?: string[]) => Socket;

/** What a connection tells its session. Nothing more comes after `ended`. */
export interface LinkEvents {
  /** A message, or `undefined` for a text, which no gateway sends. */
  received(message: Uint8Array | undefined): void;
  /** `left` is the end of a connection that the session has left with `leave`. */
  ended(end: End | "left", why: string): void;
}

/** One connection: the time that it may take, the heartbeats, and the reason of its end. */
export class Link {
  /** When the welcome came, on the clock of `performance`. */
  welcomedAt: number | undefined;
  #socket: Socket;
  #events: LinkEvents;
  #isOpen = false;
  #isLeaving = false;
  #isOver = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #heartbeatMs = 0;
  #beat = () => {};
  /** Whether the next message ends a check. */
  #isChecking = false;
  /** How many heartbeats in a row have brought nothing. */
  #unanswered = 0;

  constructor(socket: Socket, events: LinkEvents) {
    this.#socket = socket;
    this.#events = events;
    socket.binaryType = "arraybuffer";
    this.#within(CONNECT_TIMEOUT_MS, () => this.#cut("unreachable", "the gateway has not answered in time"));
    socket.addEventListener("open", () => {
      this.#isOpen = true;
      this.#within(WELCOME_TIMEOUT_MS, () => this.#cut("noWelcome", "the welcome has not come in time"));
    });
    socket.addEventListener("message", ({ data }) => {
      if (this.#isOver) return;
      this.#unanswered = 0;
      if (this.#isChecking) this.#awaitBeat();
      events.received(typeof data === "string" ? undefined : new Uint8Array(data));
    });
    // After an error there is no close frame, and the WebSocket of Node 20 does not even tell that it is closed.
    socket.addEventListener("error", ({ message }) => this.#closed(1006, message ?? ""));
    socket.addEventListener("close", ({ code, reason }) => this.#closed(code, reason));
    // A browser hides why an upgrade was refused. The npm package `ws` does not.
    socket.on?.("unexpected-response", (_: unknown, { statusCode, headers }: any) => {
      const retryAfterMs = 1000 * (Number.parseInt(headers["retry-after"]) || 0);
      this.#cut({ refused: statusCode, retryAfterMs }, `the gateway refused the upgrade with HTTP ${statusCode}`);
    });
  }

  /** Whether a packet can be sent now. */
  get isWritable(): boolean {
    return this.welcomedAt !== undefined && this.#socket.readyState === 1;
  }

  get bufferedAmount(): number {
    return this.#socket.bufferedAmount;
  }

  send(packet: Uint8Array): void {
    this.#socket.send(packet);
  }

  /** Takes note of the welcome, and calls `beat` from now on whenever a heartbeat is due. */
  welcomed(heartbeatMs: number, beat: () => void): void {
    this.welcomedAt = performance.now();
    this.#heartbeatMs = heartbeatMs;
    this.#beat = beat;
    this.#awaitBeat();
  }

  /** Calls `beat` now, and cuts the connection if nothing comes soon. */
  check(): void {
    // Another check must not put off the end of the first one.
    if (!this.isWritable || this.#isChecking) return;
    const why = "the gateway has not answered the check of the connection";
    this.#within(CHECK_TIMEOUT_MS, () => this.#cut("silent", why));
    this.#isChecking = true;
    this.#beat();
  }

  /** Leaves the connection, but not the session. What still arrives is received, where the WebSocket allows it. */
  leave(): void {
    this.#isLeaving = true;
    this.#within(CLOSE_TIMEOUT_MS, () => this.#end("left", LEFT));
    this.#socket.close(CUT);
  }

  /** Ends the session, after what was sent. */
  close(): void {
    this.#finish();
    this.#socket.close(1000);
  }

  /** Waits until the next heartbeat is due. */
  #awaitBeat(): void {
    this.#within(this.#heartbeatMs, () => {
      // A page does not see the gateway's pings. And in a hidden page a timer may be late by a minute, so a time
      // without a message proves nothing: two heartbeats without an answer do.
      if (this.#unanswered >= 2) return this.#cut("silent", "the gateway has not answered the heartbeats");
      this.#unanswered += 1;
      this.#awaitBeat();
      this.#beat();
    });
  }

  #closed(code: number, reason: string): void {
    const colon = reason ? ": " : "";
    // 1005 and 1006 are never sent: they stand for a close frame without a code, and for none at all.
    if (this.#isLeaving && [CUT, 1005, 1006].includes(code)) this.#end("left", LEFT);
    else if (!this.#isOpen) this.#end("unreachable", `the gateway cannot be reached${colon}${reason}`);
    else if (code === 1006) this.#end("lost", `the connection is lost${colon}${reason}`);
    else if (code === 1005) this.#end({ closed: null }, "the gateway closed the connection without a code");
    else this.#end({ closed: code }, `the gateway closed the connection: ${code}${reason && ` ${reason}`}`);
  }

  #cut(end: End, why: string): void {
    this.#end(end, why);
    this.#socket.close(CUT);
  }

  #end(end: End | "left", why: string): void {
    if (this.#isOver) return;
    this.#finish();
    this.#events.ended(end, why);
  }

  #finish(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }

  /** Calls `late` after this time, instead of what was to be called before. */
  #within(time: number, late: () => void): void {
    clearTimeout(this.#timer);
    this.#isChecking = false;
    this.#timer = setTimeout(late, time);
  }
}

const LEFT = "the gateway stops, and has asked this client to reconnect";
