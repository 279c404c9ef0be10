// The arena: a canvas on which everybody in the room moves. The gateway decides where they are, 20 times a second.

import { ask } from "./api.js";
import { byId, clock, count, el, list, plural, setText } from "./dom.js";
import { LEFT, decode, findRoom, input, leave } from "./game.js";

const ROUTE = 2;
/** An input holds for a second, so it is sent again before. */
const INPUT_MS = 400;
/** A player without any input for 30 s is removed. */
const ALIVE_MS = 8000;
const PLUGIN_MS = 1000;
/** The space around the field, in its units, so that players at the edge are seen as a whole. */
const MARGIN = 900;
const KEYS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
  a: [-1, 0],
  d: [1, 0],
  w: [0, -1],
  s: [0, 1],
};

/** Makes the arena. `enter` returns the session of the page, and connects first if there is none. */
export function startArena(enter) {
  const canvas = byId("canvas");
  let session;
  let room;
  let [before, now] = [null, null];
  let direction = [0, 0];
  let sentAt = 0;
  const held = new Set();
  const isMe = ({ player }) => player === room?.player;

  const showPlayers = list(
    byId("players"),
    ({ player }) => player,
    ({ player }) => {
      const [dot, name, score] = [el("span", { class: "dot" }), el("span"), el("span", { class: "score" })];
      dot.style.background = color(player);
      const node = el("li", { "data-player": player }, dot, name, score);
      const update = ({ x, y, score: coins }) => {
        setText(name, player === room?.player ? `Player ${player}, you` : `Player ${player}`);
        setText(score, plural(coins, "coin"));
        [node.dataset.x, node.dataset.y] = [x, y];
      };
      return { node, update };
    },
  );

  async function play() {
    setText(byId("overlay-text"), "Looking for a room…");
    byId("play").disabled = true;
    try {
      session = await enter();
      const reply = decode(await session.request(ROUTE, findRoom()));
      if (reply?.kind !== "joined") throw new Error("the reply is no RoomJoined");
      room = reply;
      [before, now] = [null, null];
      byId("overlay").hidden = true;
      canvas.focus({ preventScroll: true });
      requestAnimationFrame(draw);
    } catch (error) {
      const none =
        error.status === 3
          ? "No plugin serves route 2: the file arena.wasm is not in the plugins directory."
          : `No place in the arena: ${error.message}.`;
      showOverlay(error.reason ?? none);
    } finally {
      byId("play").disabled = false;
    }
  }

  function showOverlay(text) {
    room = undefined;
    [before, now] = [null, null];
    held.clear();
    setText(byId("overlay-text"), text);
    setText(byId("arena-room"), "");
    byId("overlay").hidden = false;
    byId("players-empty").hidden = false;
    showPlayers([]);
  }

  function received(payload) {
    const message = decode(payload);
    if (message?.kind === "left" && room)
      showOverlay(`You are not in the room any more: ${LEFT[message.reason] ?? "unknown reason"}.`);
    if (message?.kind !== "snapshot" || message.room !== room?.room) return;
    const old = now?.rules;
    [before, now] = [now, { ...message, at: performance.now() }];
    byId("players-empty").hidden = true;
    showPlayers(message.players.toSorted((a, b) => isMe(b) - isMe(a) || b.score - a.score || a.player - b.player));
    const { speed, tickMs } = message.rules;
    setText(
      byId("arena-room"),
      `Room ${message.room} · ${plural(message.players.length, "player")} · speed ${speed / 1000} · ${Math.round(1000 / tickMs)} ticks/s`,
    );
    const changes = [];
    if (old && old.speed !== speed) changes.push(`speed ${old.speed / 1000} → ${speed / 1000}`);
    if (old && old.tickMs !== tickMs) changes.push(`tick ${old.tickMs} → ${tickMs} ms`);
    if (changes.length > 0) {
      told(
        `The rules changed while you play: ${changes.join(", ")}. The room went on from tick ${count(message.tick)}.`,
      );
    }
  }

  function told(text) {
    byId("swapped").prepend(el("p", { class: "notice ok" }, `${clock(Date.now())}  ${text}`));
    while (byId("swapped").childElementCount > 2) byId("swapped").lastChild.remove();
  }

  function steer() {
    const sum = [...held].map((key) => KEYS[key]).reduce(([x, y], [dx, dy]) => [x + dx, y + dy], [0, 0]);
    go(sum);
  }

  function go([x, y]) {
    const length = Math.hypot(x, y);
    const next = length > 0 ? [Math.round((x / length) * 1000), Math.round((y / length) * 1000)] : [0, 0];
    if (next[0] === direction[0] && next[1] === direction[1]) return;
    direction = next;
    sendInput();
  }

  function sendInput() {
    if (!room || !session.isConnected) return;
    session.send(ROUTE, input(...direction));
    sentAt = performance.now();
  }

  setInterval(() => {
    const moves = direction[0] !== 0 || direction[1] !== 0;
    if (room && performance.now() - sentAt >= (moves ? INPUT_MS : ALIVE_MS)) sendInput();
  }, INPUT_MS / 2);

  canvas.addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!KEYS[key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    held.add(key);
    steer();
  });
  canvas.addEventListener("keyup", (event) => {
    held.delete(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    steer();
  });
  canvas.addEventListener("blur", () => {
    held.clear();
    steer();
  });
  const point = (event) => {
    const me = now?.players.find(isMe);
    if (!me || event.buttons === 0) return;
    const box = canvas.getBoundingClientRect();
    const scale = (room.width + 2 * MARGIN) / box.width;
    go([(event.clientX - box.left) * scale - MARGIN - me.x, (event.clientY - box.top) * scale - MARGIN - me.y]);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    point(event);
  });
  canvas.addEventListener("pointermove", point);
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => go([0, 0]));
  byId("play").addEventListener("click", play);

  function draw() {
    if (!room) return paint(canvas, null);
    requestAnimationFrame(draw);
    const part = now && before ? Math.min(1, (performance.now() - now.at) / now.rules.tickMs) : 1;
    const players = (now?.players ?? []).map((player) => {
      const from = before?.players.find((other) => other.player === player.player) ?? player;
      return { ...player, x: from.x + (player.x - from.x) * part, y: from.y + (player.y - from.y) * part };
    });
    paint(canvas, { ...room, players, coins: now?.coins ?? [] });
  }

  paint(canvas, null);
  return {
    received,
    /** The connection is back, with the same session or a new one. */
    connected: (isSame) => room && !isSame && showOverlay("The session is new, so your place in the room is gone."),
    ended: () => room && showOverlay("You are not connected any more."),
    leave: () => room && session.isConnected && session.send(ROUTE, leave()),
    follow: () => followPlugin(told, () => room && now),
  };
}

/** Shows which generation of the plugin serves, for operators, and says when another one takes over. */
async function followPlugin(told, isPlaying) {
  let known = 0;
  for (;;) {
    try {
      const { plugins } = await ask("/api/plugins");
      const { plugin, error } = plugins.find(({ plugin }) => plugin?.routes.includes(ROUTE)) ?? {};
      const text = plugin
        ? `${plugin.name} ${plugin.version} · generation ${plugin.generation}`
        : "no plugin serves route 2";
      setText(byId("arena-plugin"), error ? `${text} · a newer file was rejected, see the dashboard` : text);
      byId("arena-plugin").dataset.generation = plugin?.generation ?? 0;
      if (plugin && known && plugin.generation > known) {
        const goesOn = isPlaying()
          ? "You are still in the room, over the same connection."
          : "All connections went on.";
        told(`The plugin ${plugin.name} was swapped: generation ${known} → ${plugin.generation}. ${goesOn}`);
      }
      known = plugin?.generation ?? known;
    } catch {
      setText(byId("arena-plugin"), "");
    }
    await new Promise((resume) => setTimeout(resume, PLUGIN_MS));
  }
}

const color = (player) => `hsl(${(player * 67 + 200) % 360} 70% 52%)`;

/** Draws the room, or an empty field. */
function paint(canvas, room) {
  const { width, height } = room ?? { width: 60_000, height: 20_000 };
  const style = getComputedStyle(canvas);
  const wide = canvas.clientWidth * devicePixelRatio;
  const scale = wide / (width + 2 * MARGIN);
  const high = (height + 2 * MARGIN) * scale;
  if (canvas.width !== Math.round(wide) || canvas.height !== Math.round(high))
    [canvas.width, canvas.height] = [wide, high];
  const pen = canvas.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  const ink = (name) => style.getPropertyValue(name);
  pen.fillStyle = ink("--field");
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.translate(MARGIN * scale, MARGIN * scale);
  pen.fillStyle = ink("--line");
  for (let x = 0; x <= width; x += 1000) {
    for (let y = 0; y <= height; y += 1000) pen.fillRect(x * scale - 1, y * scale - 1, 2, 2);
  }
  const unit = Math.max(400 * scale, 5 * devicePixelRatio);
  const disc = (x, y, radius) => {
    pen.beginPath();
    pen.arc(x * scale, y * scale, radius, 0, 2 * Math.PI);
  };
  for (const { x, y } of room?.coins ?? []) {
    disc(x, y, unit * 0.55);
    pen.fillStyle = "#f0b429";
    pen.fill();
    pen.strokeStyle = "#a86b00";
    pen.lineWidth = devicePixelRatio;
    pen.stroke();
  }
  pen.font = `600 ${12 * devicePixelRatio}px system-ui, sans-serif`;
  pen.textAlign = "center";
  for (const { player, x, y } of room?.players ?? []) {
    const isMe = player === room.player;
    disc(x, y, unit);
    pen.fillStyle = color(player);
    pen.fill();
    if (isMe) {
      disc(x, y, unit + 3.5 * devicePixelRatio);
      pen.strokeStyle = ink("--text");
      pen.lineWidth = 2 * devicePixelRatio;
      pen.stroke();
    }
    pen.fillStyle = ink("--text");
    const above = y * scale - unit - 7 * devicePixelRatio;
    const place = above > 12 * devicePixelRatio ? above : y * scale + unit + 17 * devicePixelRatio;
    pen.fillText(isMe ? "you" : player, x * scale, place);
  }
}
