// A server on µWebSockets.js, a WebSocket library in C++ for Node, for the rows that need no Redis. Run `node server.js
// PORT`. It has no bus, no users and no policy.
//
// - A packet on the system route is echoed as the reply, like the gateway's heartbeat.
// - A packet on the fan-out route subscribes its sender to a topic if the payload is `join`. Any other packet there is
//   published to the topic as it is. The client's own counter in it thus serves as the delivery counter.
// - The game's route is in arena.js.
'use strict';
const { randomUUID } = require('node:crypto');
const uws = require('@trufflesuite/uws-js-unofficial');
const arena = require('./arena');

// If its native library does not load, the package goes on with a server in JavaScript, which has no TLS.
if (!uws.SSLApp) throw new Error('the native library of uWebSockets does not load');

const SYSTEM = 3, GAME = 2, FAN_OUT = 0x70, REPLY = 1, HEADER = 8, TOPIC = 'all';
const JOIN = Buffer.from('join');
const port = Number(process.argv[2]);

/** A Welcome with the session's id and the time, which are all that a new session gets without `resume`. */
function welcome() {
  const bytes = Buffer.alloc(HEADER + 2 + 36 + 1 + 6);
  bytes[4] = SYSTEM;
  bytes.set([0x0a, 36], HEADER);
  bytes.latin1Write(randomUUID(), HEADER + 2);
  bytes[HEADER + 38] = 0x10;
  // Until the year 2109 the time is a varint of 6 bytes.
  for (let i = 0, time = Date.now(); i < 6; i++, time = Math.floor(time / 128)) {
    bytes[HEADER + 39 + i] = (time % 128) | (i < 5 ? 0x80 : 0);
  }
  return bytes;
}

const app = uws.App();
const game = arena.serve(app);

app.ws('/ws', {
  compression: uws.DISABLED,
  // No session ends because it is idle, and none is pinged.
  idleTimeout: 0,
  sendPingsAutomatically: false,
  maxPayloadLength: 64 << 10,
  // A receiver that lags is not skipped.
  maxBackpressure: 16 << 20,
  open(socket) {
    socket.send(welcome(), true);
  },
  message(socket, message) {
    // These bytes are those in the buffer of the socket, so the reply is made in place.
    const bytes = new Uint8Array(message);
    if (bytes.length < HEADER) return socket.close();
    switch (bytes[4]) {
      case SYSTEM:
        bytes[5] = REPLY;
        socket.send(message, true);
        break;
      case FAN_OUT:
        if (JOIN.equals(bytes.subarray(HEADER))) {
          socket.subscribe(TOPIC);
          bytes[5] = REPLY;
          socket.send(message, true);
        } else {
          app.publish(TOPIC, message, true);
        }
        break;
      case GAME:
        game.request(socket, bytes);
        break;
      default:
        socket.close();
    }
  },
  close(socket) {
    game.leave(socket);
  },
}).listen('127.0.0.1', port, (listening) => {
  if (!listening) throw new Error(`port ${port} is taken`);
});
