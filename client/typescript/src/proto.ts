// As much of Protocol Buffers as the messages of this client need: varints, texts and bytes. A library would be several
// times as large as the whole client.

const utf8Encoder = new TextEncoder();
const utf8Decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function encodeText(text: string): Uint8Array {
  return utf8Encoder.encode(text);
}

/** Writes the fields of a message. A field with the default value is left out, as proto3 does. */
export class ProtoWriter {
  #bytes: number[] = [];

  /** Writes an integer of up to 64 bits, or a boolean. */
  int(field: number, value: number | bigint | boolean | undefined): this {
    return value ? this.#varint(field << 3).#varint(value) : this;
  }

  text(field: number, value: string | undefined): this {
    return value ? this.bytes(field, encodeText(value)) : this;
  }

  bytes(field: number, value: Uint8Array | undefined): this {
    return value?.length ? this.message(field, value) : this;
  }

  /** Writes an embedded message, also if it is empty. */
  message(field: number, value: Uint8Array | undefined): this {
    if (value) {
      this.#varint((field << 3) | 2).#varint(value.length);
      for (const byte of value) this.#bytes.push(byte);
    }
    return this;
  }

  finish(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }

  #varint(value: number | bigint | boolean): this {
    // Negative numbers take ten bytes, as in every implementation.
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest > 0x7fn; rest >>= 7n) this.#bytes.push(Number(rest & 0x7fn) | 0x80);
    this.#bytes.push(Number(rest));
    return this;
  }
}

/** The value of a field: a varint, bytes, or nothing for the types that no message here has. */
export type ProtoValue = bigint | Uint8Array | undefined;

/** The fields of a message, in the order in which they were sent. */
export class ProtoFields {
  readonly list: [field: number, value: ProtoValue][];

  constructor(list: [number, ProtoValue][]) {
    this.list = list;
  }

  /** An integer of 32 bits with a sign, or 0. */
  int32(field: number): number {
    return Number(BigInt.asIntN(32, this.uint64(field)));
  }

  /** An integer of 64 bits with a sign, or 0. */
  int64(field: number): bigint {
    return BigInt.asIntN(64, this.uint64(field));
  }

  /** An integer of 64 bits, or 0. */
  uint64(field: number): bigint {
    const value = this.#last(field);
    return typeof value === "bigint" ? value : 0n;
  }

  bytes(field: number): Uint8Array | undefined {
    const value = this.#last(field);
    return typeof value === "object" ? value : undefined;
  }

  /** A text, or the empty one. Throws if it is not UTF-8. */
  text(field: number): string {
    return utf8Decoder.decode(this.bytes(field));
  }

  #last(field: number): ProtoValue {
    let last: ProtoValue;
    for (const [number, value] of this.list) if (number === field) last = value;
    return last;
  }
}

/** Reads the fields of a message. Returns `undefined` if the bytes are no message. */
export function readProto(bytes: Uint8Array): ProtoFields | undefined {
  const list: [number, ProtoValue][] = [];
  let at = 0;
  const varint = (): bigint | undefined => {
    let value = 0n;
    for (let shift = 0n; shift < 64n && at < bytes.length; shift += 7n) {
      const byte = bytes[at++] as number;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
    return undefined;
  };
  const take = (length: number): Uint8Array | undefined => {
    if (length > bytes.length - at) return undefined;
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const key = varint();
    if (key === undefined || key < 8n) return undefined;
    const field = Number(key >> 3n);
    const type = Number(key & 7n);
    let value: ProtoValue;
    if (type === 0) {
      value = varint();
      if (value === undefined) return undefined;
    } else if (type === 2) {
      const length = varint();
      value = length === undefined ? undefined : take(Number(length));
      if (!value) return undefined;
    } else if (type === 1 || type === 5) {
      if (!take(type === 1 ? 8 : 4)) return undefined;
    } else {
      // A group, which proto3 does not have.
      return undefined;
    }
    list.push([field, value]);
  }
  return new ProtoFields(list);
}

/** Decodes a message. Returns `undefined` if the bytes are no message, or if a text in it is not UTF-8. */
export function decodeProto<T>(
  bytes: Uint8Array | undefined,
  decode: (fields: ProtoFields) => T | undefined,
): T | undefined {
  const fields = bytes && readProto(bytes);
  if (!fields) return undefined;
  try {
    return decode(fields);
  } catch {
    return undefined;
  }
}
