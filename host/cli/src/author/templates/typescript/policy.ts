// A policy that answers each packet with a greeting.
//
// Every exported object is an interface of wit/policy.wit. With the world `game` in the Makefile, export three more of
// them: `hearing` for bus messages, `sessions` for the beginning and the end of sessions, and `timers`.

import type * as GatewayPlugin from "gateway:policy/plugin@0.2.3";
import type * as GatewayPolicy from "gateway:policy/policy@0.2.3";
import type { Rejection as Refusal } from "gateway:policy/types@0.2.3";

const ROUTE = {{route}};

const Status = { OK: 0, MALFORMED_PAYLOAD: 2 };

const encoder = new TextEncoder();

export const plugin: typeof GatewayPlugin = {
  describe() {
    return {
      name: "{{name}}",
      version: "0.1.0",
      routes: new Uint8Array([ROUTE]),
      metrics: [],
      stateFormat: 0,
      gatekeeper: true,
    };
  },

  configure(settings) {
    return [];
  },
};

export const policy: typeof GatewayPolicy = {
  onPacket(packet, payload) {
    if (payload.length === 0) throw new Rejection(Status.MALFORMED_PAYLOAD, "the payload is empty");
    const body = new Uint8Array([...encoder.encode("hello, "), ...payload]);
    // Other actions push a message to a group (`deliver`), add a session to a group (`join`), set a timer (`wake`) and
    // write state (`put`). `import { get } from "gateway:policy/state@0.2.3"` reads state.
    return [{ tag: "reply", val: { status: Status.OK, body } }];
  },
};

/** An error that rejects a packet. Its `payload` is the `rejection` of the interface, which the client receives. */
class Rejection extends Error {
  readonly payload: Refusal;

  constructor(status: number, message: string) {
    super(message);
    this.payload = { status, message };
  }
}
