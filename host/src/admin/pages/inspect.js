// Explains the bytes of one packet: the header, the payload as bytes and as text, and the message in it.

import { decodeChat } from "./client/chat.ts";
import { decodeControl, decodeWelcome } from "./client/messages.ts";
import { FLAG_ACK, FLAG_REPLACES, FLAG_REPLY, HEADER_BYTES, Status, decodeHeader } from "./client/packet.ts";
import { readProto } from "./client/proto.ts";
import { bytes as formatBytes, clock, el } from "./dom.js";
import { decode as decodeGame } from "./game.js";

const ROUTES = { 0: "control", 1: "chat", 2: "game", 3: "system" };
/** The bytes of a payload that are shown. */
const MOST_SHOWN = 1024;

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");

/** Parses the header of a message in one direction. */
export function parse(direction, bytes) {
  if (bytes.length < HEADER_BYTES)
    return { direction, bytes, kind: "other", summary: "shorter than a header", at: Date.now() };
  const header = decodeHeader(bytes);
  const payload = bytes.subarray(HEADER_BYTES);
  const isReply = direction === "in" && (header.flags & FLAG_REPLY) !== 0;
  const welcome = direction === "in" && !isReply && header.route === 3 && header.seq === 0 && decodeWelcome(payload);
  const kind =
    welcome || header.route === 0
      ? "session"
      : header.route === 1
        ? "chat"
        : header.route === 2
          ? "game"
          : header.route === 3
            ? "heartbeat"
            : "other";
  const role = direction === "out" ? "packet" : isReply ? "reply" : "push";
  return { direction, bytes, header, payload, kind, role, welcome, at: Date.now() };
}

export const routeName = (route) => ROUTES[route] ?? "";

export function statusName(status) {
  const name = Object.entries(Status).find(([, number]) => number === status)?.[0] ?? "of the game";
  return name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

/** Returns the elements that explain the packet. */
export function explain({ direction, bytes, header, payload, role, at, ...packet }) {
  if (!header) return [el("p", { class: "notice bad" }, `${bytes.length} bytes: ${packet.summary}.`), dump(bytes)];
  const { seq, route, flags, status } = header;
  const acknowledges = direction === "out" && (flags & FLAG_ACK) !== 0;
  const cells = [
    ["seq", bytes.subarray(0, 4), seq, seqMeaning(role, seq)],
    ["route", bytes.subarray(4, 5), route, ROUTES[route] ? `${ROUTES[route]}` : "the plugin with this route"],
    ["flags", bytes.subarray(5, 6), `0b${flags.toString(2).padStart(3, "0")}`, flagMeaning(role, flags)],
    [
      "status",
      bytes.subarray(6, 8),
      status,
      acknowledges
        ? "the last push that was received, its low 16 bits"
        : direction === "out"
          ? "0 in packets of the client"
          : statusName(status),
    ],
  ];
  const arrow = direction === "out" ? "↑ client to gateway" : "↓ gateway to client";
  const message = decoded({ direction, header, payload, role, ...packet });
  return [
    el("p", { class: "hint" }, `${arrow} · ${role} · ${clock(at)} · ${formatBytes(bytes.length)}`),
    el(
      "div",
      { class: "header-cells" },
      ...cells.map(([name, part, value, meaning]) =>
        el(
          "div",
          { class: `cell bytes-${part.length}` },
          el("h3", {}, name),
          el("code", { class: "raw" }, hex(part)),
          el("strong", {}, value),
          el("small", {}, meaning),
        ),
      ),
    ),
    el("h3", {}, `Payload, ${formatBytes(payload.length)}`),
    payload.length > 0 ? dump(payload) : el("p", { class: "empty" }, "The payload is empty."),
    message && el("h3", {}, `As ${message[0]}`),
    message && el("pre", { class: "decoded", tabindex: "0" }, message[1]),
  ].filter(Boolean);
}

function seqMeaning(role, seq) {
  if (role === "packet") return "the client's number: the reply repeats it";
  if (role === "reply") return "the number of the packet that is answered";
  return seq === 0 ? "a push outside of the delivery counter" : "the delivery number: a gap means a loss";
}

function flagMeaning(role, flags) {
  const words = [];
  if (role === "packet" && flags & FLAG_ACK) words.push("acknowledges pushes");
  if (role !== "packet" && flags & FLAG_REPLY) words.push("a reply");
  if (role === "push" && flags & FLAG_REPLACES) words.push("older values were skipped");
  return words.join(", ") || (role === "push" ? "a push" : "none");
}

function dump(bytes) {
  const rows = [];
  for (let at = 0; at < Math.min(bytes.length, MOST_SHOWN); at += 16) {
    const row = bytes.subarray(at, at + 16);
    const text = Array.from(row, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "·")).join("");
    rows.push(`${at.toString(16).padStart(4, "0")}  ${hex(row).padEnd(47)}  ${text}`);
  }
  if (bytes.length > MOST_SHOWN) rows.push(`… and ${bytes.length - MOST_SHOWN} more bytes`);
  return el("pre", { class: "dump", tabindex: "0" }, rows.join("\n"));
}

/** Returns the name and the text of the message in the payload, if there is one. */
function decoded({ direction, header, payload, role, welcome }) {
  if (payload.length === 0) return null;
  if (role === "reply" && header.status !== 0) return ["text", new TextDecoder().decode(payload)];
  const known =
    direction === "in" &&
    {
      0: () => ["gateway.Control", decodeControl(payload)],
      1: () => ["a message of chat", decodeChat(payload)],
      2: () => ["arena.ServerMessage", decodeGame(payload)],
      3: () => ["gateway.Welcome", welcome || undefined],
    }[header.route]?.();
  if (known?.[1]) return [known[0], pretty(known[1])];
  const text = asText(payload);
  if (text !== undefined) return ["text", text];
  const fields = readProto(payload);
  return fields && ["fields of Protocol Buffers", fieldList(fields)];
}

function asText(payload) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(payload);
    return /[\0-\x08\x0e-\x1f]/.test(text) ? undefined : text;
  } catch {
    return undefined;
  }
}

const pretty = (value) => JSON.stringify(value, (_, inner) => (typeof inner === "bigint" ? `${inner}` : inner), 1);

function fieldList({ list }, depth = 0) {
  const indent = "  ".repeat(depth);
  return list
    .map(([field, value]) => {
      if (!(value instanceof Uint8Array)) return `${indent}${field}: ${value ?? "(fixed)"}`;
      const text = asText(value);
      if (text !== undefined && value.length > 0) return `${indent}${field}: ${JSON.stringify(text)}`;
      const inner = depth < 4 ? readProto(value) : undefined;
      return inner
        ? `${indent}${field}: {\n${fieldList(inner, depth + 1)}\n${indent}}`
        : `${indent}${field}: ${hex(value)}`;
    })
    .join("\n");
}
