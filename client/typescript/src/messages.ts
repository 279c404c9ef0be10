// The gateway's own messages: proto/gateway/proto/gateway.proto.

import { FLAG_REPLY, HEADER_BYTES, Route, decodeHeader } from "./packet.ts";
import { ProtoWriter, decodeProto } from "./proto.ts";

/** What the gateway says first on each connection. */
export interface Welcome {
  /** The id of the session, a UUID. A backend can answer only this session if a request carries it. */
  sessionId: string;
  /** The gateway's clock in milliseconds since 1970. */
  serverTimeMs: number;
  /** What resumes the session, once. Empty if the gateway resumes no sessions. */
  resumeToken: string;
  /** How long the gateway keeps the session after a break, in milliseconds. */
  resumeWindowMs: number;
  /** Whether the connection goes on with the session of the connection before. */
  resumed: boolean;
  /** How many packets of the client the gateway has read in this session. */
  packetsReceived: number;
  /** How many replies the gateway cannot send again. */
  repliesLost: number;
}

/** Returns the welcome in a message, or `undefined` if the message is another one. */
export function welcomeOf(message: Uint8Array): Welcome | undefined {
  if (message.length < HEADER_BYTES) return undefined;
  const { seq, route, flags, status } = decodeHeader(message);
  const isWelcome = route === Route.system && seq === 0 && status === 0 && !(flags & FLAG_REPLY);
  return isWelcome ? decodeWelcome(message.subarray(HEADER_BYTES)) : undefined;
}

/** Returns `undefined` if the bytes are no welcome. */
export function decodeWelcome(bytes: Uint8Array): Welcome | undefined {
  return decodeProto(bytes, (fields) => {
    const welcome = {
      sessionId: fields.text(1),
      serverTimeMs: Number(fields.int64(2)),
      resumeToken: fields.text(3),
      resumeWindowMs: Number(fields.int64(4)),
      resumed: fields.uint64(5) !== 0n,
      packetsReceived: Number(fields.uint64(6)),
      repliesLost: Number(BigInt.asUintN(32, fields.uint64(7))),
    };
    return welcome.sessionId ? welcome : undefined;
  });
}

/** An event of the control route. */
export type Control =
  | { tokenExpiresInMs: number }
  | { blindMs: number }
  | { reconnect: { url: string; afterMs: number } };

/** Returns `undefined` for an event that this client does not know. */
export function decodeControl(bytes: Uint8Array): Control | undefined {
  return decodeProto(bytes, (fields): Control | undefined => {
    // Of a oneof, the last field counts.
    const [field, value] = fields.list.findLast(([field]) => field >= 1 && field <= 3) ?? [0];
    return decodeProto(typeof value === "object" ? value : undefined, (event): Control => {
      if (field === 1) return { tokenExpiresInMs: Number(event.int64(1)) };
      if (field === 2) return { blindMs: Number(event.int64(1)) };
      return { reconnect: { url: event.text(1), afterMs: Number(event.int64(2)) } };
    });
  });
}

/** Returns the `ClientControl` that replaces the token of the session. */
export function encodeRefresh(token: string): Uint8Array {
  return new ProtoWriter().message(1, new ProtoWriter().text(1, token).finish()).finish();
}
