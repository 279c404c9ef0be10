import { HEADER_BYTES, type Packet } from "./packet.ts";

/** The most packets that are kept to be sent again. */
const MAX_PACKETS = 256;

/**
 * The most bytes that are kept to be sent again. The last packet is always kept, and so are all that wait for a connection
 * that lives: it is only slow.
 */
const MAX_BYTES = 64 << 10;

/** The largest count of packets that a gateway can claim. Sums with it are still exact. */
const MAX_RECEIVED = 2 ** 52;

/**
 * The packets of a session that were sent last. They are kept, since the gateway may not have received them. Each has a
 * number, which is its count in the session from 1 on.
 */
export class Sent {
  #packets: Packet[] = [];
  #bytes = 0;
  /** The seq of the last packet. The seqs go on in a new session. */
  #seq = 0;
  /** The number of the last packet. */
  #last = 0;
  /** The number of the last packet that was written to the present connection. */
  #written = 0;
  /** The number up to which no packet is sent again. */
  #givenUp = 0;
  /** Whether the present connection takes packets. */
  #isLive = false;

  /** Adds a packet with a copy of the payload. It waits to be written. Returns its seq. */
  push(route: number, payload: Uint8Array): number {
    this.#seq = (this.#seq + 1) >>> 0;
    this.#packets.push({ seq: this.#seq, route, flags: 0, status: 0, payload: new Uint8Array(payload) });
    this.#bytes += HEADER_BYTES + payload.length;
    this.#last += 1;
    this.#trim();
    return this.#seq;
  }

  /** The next packet to write. */
  get unwritten(): Packet | undefined {
    return this.#packets[Math.max(0, this.#written - this.#forgotten)];
  }

  /** The seq of the oldest packet that is kept, or of the next one. The seqs have no gaps. */
  get oldest(): number {
    return (this.#seq - this.#packets.length + 1) >>> 0;
  }

  /** The number of packets that wait to be written. */
  get waiting(): number {
    return this.#last - Math.max(this.#written, this.#forgotten);
  }

  /** Takes note that the next packet was written. */
  wrote(): void {
    this.#written = Math.max(this.#written, this.#forgotten) + 1;
    this.#trim();
  }

  /** Takes note of the end of the connection. The packets that still wait count to those that are kept. */
  end(): void {
    this.#isLive = false;
    this.#trim();
  }

  /** Decides that the packets that were written so far are never sent again. */
  giveUp(): void {
    this.#givenUp = this.#written;
  }

  /**
   * Goes on after a resume, if the gateway has received the packets up to this number. The later ones wait to be
   * written again, and are numbered as the gateway counts them. Returns the number of packets that are lost.
   */
  resume(packetsReceived: number): number {
    const received = Math.min(packetsReceived, MAX_RECEIVED);
    const forgotten = this.#forgotten;
    const lost = Math.max(0, Math.max(forgotten, this.#givenUp) - received);
    const gone = Math.max(received, this.#givenUp) - forgotten;
    for (let i = Math.min(gone, this.#packets.length); i > 0; i--) this.#pop();
    this.#written = received;
    this.#last = received + this.#packets.length;
    this.#givenUp = 0;
    this.#isLive = true;
    return lost;
  }

  /** Begins a new session, which gets none of the packets. Returns the number of those that were not written. */
  restart(): number {
    const lost = Math.max(0, this.#last - this.#written);
    this.#packets = [];
    this.#bytes = this.#last = this.#written = this.#givenUp = 0;
    this.#isLive = true;
    return lost;
  }

  /** The number of the last packet that is no longer kept. */
  get #forgotten(): number {
    return this.#last - this.#packets.length;
  }

  /** Forgets the oldest packets if there are too many. */
  #trim(): void {
    while (this.#packets.length > MAX_PACKETS || (this.#bytes > MAX_BYTES && this.#packets.length > 1)) {
      // A packet that is forgotten unwritten has a number, but the gateway does not count it. The next welcome tells.
      if (this.#isLive && this.#forgotten >= this.#written) return;
      this.#pop();
    }
  }

  #pop(): void {
    const packet = this.#packets.shift();
    if (packet) this.#bytes -= HEADER_BYTES + packet.payload.length;
  }
}
