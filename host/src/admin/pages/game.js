// The messages of the arena (proto/arena/proto/arena.proto), as far as rooms need them.

import { ProtoWriter, readProto } from "./client/proto.ts";

const EMPTY = new Uint8Array();
const zigzag = (number) => (number << 1) ^ (number >> 31);
const unzigzag = (value) => (Number(value) >>> 1) ^ -(Number(value) & 1);

/** Why a session has left its room. */
export const LEFT = ["you left", "you were silent for 30 seconds", "the room has ended"];

export const findRoom = () => new ProtoWriter().message(1, EMPTY).finish();
export const leave = () => new ProtoWriter().message(5, EMPTY).finish();
/** The direction in which the player goes, in thousandths. */
export const input = (dx, dy) =>
  new ProtoWriter().message(2, new ProtoWriter().int(1, zigzag(dx)).int(2, zigzag(dy)).finish()).finish();

/** Decodes a message of the arena. Returns `undefined` if it is none of those of a room. */
export function decode(payload) {
  const [field, bytes] = readProto(payload)?.list.at(-1) ?? [];
  const fields = bytes instanceof Uint8Array ? readProto(bytes) : undefined;
  if (!fields) return undefined;
  if (field === 1) {
    const [room, player] = [1, 2].map((field) => Number(fields.uint64(field)));
    return {
      kind: "joined",
      room,
      player,
      width: signed(fields, 3),
      height: signed(fields, 4),
      rules: rules(fields.bytes(5)),
    };
  }
  if (field === 2) {
    const repeated = (wanted) => fields.list.filter(([field]) => field === wanted).map(([, bytes]) => readProto(bytes));
    return {
      kind: "snapshot",
      room: Number(fields.uint64(1)),
      tick: Number(fields.uint64(2)),
      rules: rules(fields.bytes(3)),
      players: repeated(4).map((player) => ({
        player: Number(player.uint64(1)),
        x: signed(player, 2),
        y: signed(player, 3),
        score: Number(player.uint64(4)),
      })),
      coins: repeated(5).map((coin) => ({ x: signed(coin, 1), y: signed(coin, 2) })),
    };
  }
  return field === 6 ? { kind: "left", reason: Number(fields.uint64(1)) } : undefined;
}

const signed = (fields, field) => unzigzag(fields.uint64(field));

function rules(bytes) {
  const fields = readProto(bytes ?? EMPTY);
  return { tickMs: Number(fields.uint64(1)), speed: Number(fields.uint64(2)) };
}
