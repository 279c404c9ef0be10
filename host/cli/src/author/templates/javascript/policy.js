// A policy that answers each packet with a greeting.

const ROUTE = {{route}};

const Status = { OK: 0, MALFORMED_PAYLOAD: 2 };

const encoder = new TextEncoder();

export const policy = {
  describe() {
    return { name: "{{name}}", version: "0.1.0", routes: new Uint8Array([ROUTE]) };
  },

  configure(settings) {
    return [];
  },

  onPacket(packet, payload) {
    if (payload.length === 0) throw new Rejection(Status.MALFORMED_PAYLOAD, "the payload is empty");
    const body = new Uint8Array([...encoder.encode("hello, "), ...payload]);
    return [{ tag: "reply", val: { status: Status.OK, body } }];
  },

  onMessage(topic, payload) {
    return [];
  },
};

/** An error that rejects a packet. Its `payload` is the `rejection` of the interface, which the client receives. */
class Rejection extends Error {
  constructor(status, message) {
    super(message);
    this.payload = { status, message };
  }
}
