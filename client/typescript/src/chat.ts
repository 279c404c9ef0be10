// The messages of chat: proto/chat/proto.

import { ProtoWriter, decodeProto, type ProtoFields, type ProtoValue } from "./proto.ts";

/** The types of chat messages. */
export const MessageType = { text: 0, emoji: 1, item: 2, coordinate: 3 } as const;

/** The common first field of requests and responses. */
export interface MessageBase {
  gameId: string;
  userId: number;
  /** Milliseconds since 1970. */
  timestamp: number;
}

/** Information about a client, for backends. */
export interface MessageMeta {
  clientVersion?: string;
  protocolVersion?: string;
  deviceId?: string;
  /** The id of the session. With it, a backend can answer only this session instead of all sessions of the user. */
  sessionId?: string;
  traceId?: string;
  spanId?: string;
  extra?: Record<string, string>;
}

/** A request to the chat backend of a game. */
export interface ChatRequest {
  gameId: string;
  /** The user that sends. The first request binds the session to this user, unless a token has bound it before. */
  userId: number;
  /** Milliseconds since 1970. */
  timestamp?: number;
  /** The user to send to. */
  receiverId?: number;
  /** The channel to send to. */
  channelId?: number;
  /** One of `MessageType`. */
  type?: number;
  content?: string;
  extraData?: Uint8Array;
  meta?: MessageMeta;
}

/** A backend's answer to the sender of a request. */
export interface ChatResponse {
  kind: "response";
  base: MessageBase | undefined;
  success: boolean;
  errorMessage: string;
  /** A bigint, since ids of messages are larger than the integers of a number. */
  messageId: bigint;
  timestamp: number;
  targetUserId: number;
  targetSessionId: string;
}

/** A message of another user. */
export interface MessageBroadcast {
  kind: "broadcast";
  /** A bigint, since ids of messages are larger than the integers of a number. */
  messageId: bigint;
  senderId: number;
  senderName: string;
  channelId: number;
  content: string;
  timestamp: number;
  /** One of `MessageType`. */
  type: number;
  targetUserId: number;
}

/** Returns the payload of a packet on `Route.chat`. */
export function encodeChatRequest(request: ChatRequest): Uint8Array {
  const { gameId, userId, timestamp, meta } = request;
  const base = new ProtoWriter().text(1, gameId).int(2, userId).int(3, timestamp).finish();
  return new ProtoWriter()
    .message(1, base)
    .int(2, request.receiverId)
    .int(3, request.channelId)
    .int(4, request.type)
    .text(5, request.content)
    .bytes(6, request.extraData)
    .message(10, meta && encodeMeta(meta))
    .finish();
}

function encodeMeta(meta: MessageMeta): Uint8Array {
  const writer = new ProtoWriter()
    .text(1, meta.clientVersion)
    .text(2, meta.protocolVersion)
    .text(3, meta.deviceId)
    .text(4, meta.sessionId)
    .text(5, meta.traceId)
    .text(6, meta.spanId);
  for (const [key, value] of Object.entries(meta.extra ?? {})) {
    writer.message(10, new ProtoWriter().text(1, key).text(2, value).finish());
  }
  return writer.finish();
}

/** Decodes the payload of a push on `Route.chat`. Returns `undefined` for anything else than a message of chat. */
export function decodeChat(payload: Uint8Array): ChatResponse | MessageBroadcast | undefined {
  return decodeProto(payload, (fields) => {
    const kind = chatKind(fields);
    return kind === "response" ? response(fields) : kind === "broadcast" ? broadcast(fields) : undefined;
  });
}

function response(fields: ProtoFields): ChatResponse | undefined {
  const bytes = fields.bytes(1);
  const base = decodeProto(bytes, (base) => ({
    gameId: base.text(1),
    userId: base.int32(2),
    timestamp: Number(base.int64(3)),
  }));
  // A damaged base makes the whole message invalid. A base that was left out does not.
  if (bytes && !base) return undefined;
  return {
    kind: "response",
    base,
    success: fields.uint64(2) !== 0n,
    errorMessage: fields.text(3),
    messageId: fields.int64(4),
    timestamp: Number(fields.int64(5)),
    targetUserId: fields.int32(10),
    targetSessionId: fields.text(11),
  };
}

function broadcast(fields: ProtoFields): MessageBroadcast {
  return {
    kind: "broadcast",
    messageId: fields.int64(1),
    senderId: fields.int32(2),
    senderName: fields.text(3),
    channelId: fields.int32(4),
    content: fields.text(5),
    timestamp: Number(fields.int64(6)),
    type: fields.int32(7),
    targetUserId: fields.int32(10),
  };
}

// The type of each field in a response and in a broadcast: "i" is an integer, "b" is bytes, and "-" is no field.
const RESPONSE_TYPES = "-bibii----ib";
const BROADCAST_TYPES = "-iibibii--i-";

/**
 * Nothing in a packet says which of the two messages it carries, so the types of the fields have to tell them apart. A
 * payload that could be both is a response: a broadcast without id, time and content makes no sense.
 */
function chatKind(fields: ProtoFields): "response" | "broadcast" | undefined {
  // Fields of later versions do not matter.
  const known = fields.list.filter(([field]) => RESPONSE_TYPES[field] !== undefined && !(field >= 8 && field <= 9));
  const fits = (types: string) => known.every(([field, value]) => types[field] === typeOf(value));
  // `success` is a boolean, and `sender_id` has the same number.
  const isBoolean = known.every(([field, value]) => field !== 2 || value === 0n || value === 1n);
  if (known.length === 0) return undefined;
  if (fits(RESPONSE_TYPES) && isBoolean) return "response";
  return fits(BROADCAST_TYPES) ? "broadcast" : undefined;
}

function typeOf(value: ProtoValue): string {
  return typeof value === "bigint" ? "i" : value ? "b" : "?";
}
