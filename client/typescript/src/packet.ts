// The packet that client and gateway exchange: a header of 8 bytes, then the payload. All integers are big-endian.

export const HEADER_BYTES = 8;

/** Bit 0 of the flags: the packet answers the packet of the client with the same seq. */
export const FLAG_REPLY = 1;

/** Bit 1 of the flags: the push took the place of older pushes, which were skipped on purpose. */
export const FLAG_REPLACES = 2;

/** Bit 2 of the flags, in packets of the client: the status holds the low 16 bits of the last push's number. */
export const FLAG_ACK = 4;

/** The routes that every gateway has. Other numbers are the routes of other plugins. */
export const Route = { control: 0, chat: 1, game: 2, system: 3 } as const;

/** The reasons for which a packet is refused. The numbers from 256 on are defined by the game. */
export const Status = {
  ok: 0,
  malformedPacket: 1,
  malformedPayload: 2,
  noRoute: 3,
  rejected: 4,
  unavailable: 5,
  forbidden: 6,
  tooManyRequests: 7,
  internal: 8,
  payloadTooLarge: 9,
} as const;

export interface Header {
  seq: number;
  route: number;
  flags: number;
  status: number;
}

/** A packet of the client. */
export interface Packet extends Header {
  payload: Uint8Array;
}

export function encodePacket({ seq, route, flags, status, payload }: Packet): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, seq);
  view.setUint8(4, route);
  view.setUint8(5, flags);
  view.setUint16(6, status);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** Returns the header of a message of at least 8 bytes. */
export function decodeHeader(bytes: Uint8Array): Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return { seq: view.getUint32(0), route: view.getUint8(4), flags: view.getUint8(5), status: view.getUint16(6) };
}
