// The rooms of the game `arena`, as plugins/arena plays them: the same rules, and messages of the same bytes. Whatever
// the players of the benchmark do not use is left out, which is the free field, leaving and being silent.
//
// Messages are read and written by hand, since that is faster than a library for Protocol Buffers. A snapshot is built
// once for each tick and published to the room's topic.
'use strict';

const GAME = 2, REPLY = 1, HEADER = 8;
const TICK_MS = 50, SPEED = 6000, ROOM_SIZE = 20;
const WIDTH = 60_000, HEIGHT = 20_000, COINS = 8, REACH = 1000, FULL = 1000, INPUT_MS = 1000;

/** Serves the game with this app. Returns the functions for packets on the game's route and for sessions that end. */
exports.serve = (app) => {
  let lastRoom = 0, lastPlayer = 0, open;
  return { request, leave };

  function request(socket, bytes) {
    const at = HEADER + 2; // behind the tag and the length of the only field of a ClientMessage
    switch (bytes[HEADER]) {
      case 0x0a: return findRoom(socket, bytes);
      case 0x12: return input(socket, bytes.subarray(at, at + bytes[HEADER + 1]));
      default: socket.close();
    }
  }

  function findRoom(socket, bytes) {
    const room = open ??= { number: ++lastRoom, topic: `room ${lastRoom}`, tick: 0, due: 0, players: [], coins: coins() };
    const player = { number: ++lastPlayer, x: random(WIDTH), y: random(HEIGHT), score: 0, dx: 0, dy: 0, until: 0, room };
    room.players.push(player);
    socket.player = player;
    socket.subscribe(room.topic);
    const reply = begin(Buffer.from(bytes.subarray(0, HEADER)).readUInt32BE(0), REPLY);
    const joined = new Writer().field(1, room.number).field(2, player.number);
    joined.field(3, zigzag(WIDTH)).field(4, zigzag(HEIGHT)).message(5, rules);
    socket.send(reply.message(1, joined).bytes(), true);
    if (room.players.length === ROOM_SIZE) {
      // All players then have seen the same ticks, so that the number of a tick can serve as the delivery counter.
      open = undefined;
      room.due = performance.now() + TICK_MS;
      setTimeout(tick, TICK_MS, room);
    }
  }

  function input({ player }, fields) {
    let dx = 0, dy = 0;
    for (let at = 0; at < fields.length;) {
      const tag = fields[at++];
      let value = 0, shift = 0;
      do value |= (fields[at] & 0x7f) << shift, shift += 7; while (fields[at++] & 0x80);
      value = (value >>> 1) ^ -(value & 1);
      if (tag === 0x08) dx = value; else if (tag === 0x10) dy = value;
    }
    if (!player || Math.abs(dx) > FULL || Math.abs(dy) > FULL) return;
    player.dx = dx;
    player.dy = dy;
    player.until = performance.now() + INPUT_MS;
  }

  function leave({ player }) {
    if (player) player.room.players = player.room.players.filter((other) => other !== player);
  }

  function tick(room) {
    if (room.players.length === 0) return;
    const now = performance.now();
    room.tick++;
    for (const player of room.players) if (player.until > now) go(player);
    collect(room);
    app.publish(room.topic, snapshot(room), true);
    // Missed ticks are not made up for, and the later ticks keep their cadence.
    room.due += (Math.floor(Math.max(0, now - room.due) / TICK_MS) + 1) * TICK_MS;
    setTimeout(tick, room.due - now, room);
  }
};

function go(player) {
  // A diagonal is not faster than a straight line.
  const length = Math.max(FULL, Math.floor(Math.sqrt(player.dx * player.dx + player.dy * player.dy)));
  const distance = (SPEED * TICK_MS) / 1000;
  player.x = Math.min(WIDTH, Math.max(0, player.x + Math.trunc((distance * player.dx) / length)));
  player.y = Math.min(HEIGHT, Math.max(0, player.y + Math.trunc((distance * player.dy) / length)));
}

function collect({ players, coins }) {
  for (const coin of coins) {
    const player = players.find(({ x, y }) => (x - coin.x) ** 2 + (y - coin.y) ** 2 <= REACH * REACH);
    if (player) {
      player.score++;
      coin.x = random(WIDTH);
      coin.y = random(HEIGHT);
    }
  }
}

function snapshot({ number, tick, players, coins }) {
  body.clear().field(1, number).field(2, tick).message(3, rules);
  for (const { number, x, y, score } of players) {
    part.clear().field(1, number).field(2, zigzag(x)).field(3, zigzag(y)).field(4, score);
    body.message(4, part);
  }
  for (const { x, y } of coins) body.message(5, part.clear().field(1, zigzag(x)).field(2, zigzag(y)));
  return begin(tick, 0).message(2, body).bytes();
}

function coins() {
  return Array.from({ length: COINS }, () => ({ x: random(WIDTH), y: random(HEIGHT) }));
}

function random(max) {
  return Math.floor(Math.random() * (max + 1));
}

function zigzag(value) {
  return value << 1 ^ value >> 31;
}

/** Writes the fields of a message. The buffer is used again for every message. */
class Writer {
  constructor(size = 64) {
    this.buffer = Buffer.alloc(size);
    this.length = 0;
  }

  clear() {
    this.length = 0;
    return this;
  }

  /** Adds a number. Zero is the default and is left out. */
  field(tag, value) {
    if (value === 0) return this;
    this.buffer[this.length++] = tag << 3;
    return this.varint(value);
  }

  message(tag, { buffer, length }) {
    this.buffer[this.length++] = (tag << 3) | 2;
    this.varint(length);
    this.buffer.set(buffer.subarray(0, length), this.length);
    this.length += length;
    return this;
  }

  varint(value) {
    for (; value > 0x7f; value >>>= 7) this.buffer[this.length++] = (value & 0x7f) | 0x80;
    this.buffer[this.length++] = value;
    return this;
  }

  bytes() {
    return this.buffer.subarray(0, this.length);
  }
}

const rules = new Writer().field(1, TICK_MS).field(2, SPEED);
const packet = new Writer(4096), body = new Writer(4096), part = new Writer();

/** Begins a packet on the game's route. */
function begin(seq, flags) {
  packet.length = HEADER;
  packet.buffer.writeUInt32BE(seq, 0);
  packet.buffer.set([GAME, flags, 0, 0], 4);
  return packet;
}
