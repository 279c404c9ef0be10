// The playground: one session with the gateway, and what can be done with it.

import { isOperator } from "./api.js";
import { startArena } from "./arena.js";
import { startChat } from "./chat.js";
import { sparkline } from "./chart.js";
import { begin, explain, ownUrl, refusals } from "./connection.js";
import { byId, clock, duration, el, plural, setText } from "./dom.js";
import { startPackets } from "./packets.js";

const BEAT_MS = 1000;
const MOST_BEATS = 60;
const MOST_HAPPENED = 5;

let session = null;
let cut = null;
/** The beginning of a session, which everything that needs one waits for. */
let opening = null;
/** Why the last attempt to begin a session failed, as a promise of a text. */
let failure = null;

const urlIsKnown = ownUrl().then((url) => {
  byId("url").value ||= url;
});
const tap = startPackets();
const arena = startArena(enter);
const chat = startChat(enter);

function setPill(status, text) {
  byId("state").dataset.status = status;
  setText(byId("state"), text);
}

function happened(text) {
  byId("happened").prepend(el("li", {}, el("time", {}, clock(Date.now())), el("span", {}, text)));
  while (byId("happened").childElementCount > MOST_HAPPENED) byId("happened").lastChild.remove();
}

function trouble(...nodes) {
  byId("trouble").replaceChildren(...nodes.map((node) => el("p", { class: "notice bad" }, node)));
}

function setConnected(isConnected) {
  byId("connect").hidden = isConnected;
  byId("cut").hidden = byId("disconnect").hidden = !isConnected;
  byId("send-button").disabled = !isConnected;
  for (const id of ["url", "jwt"]) byId(id).disabled = isConnected;
  byId("resume-on").disabled = false;
}

/**
 * Returns the session, and begins one if there is none. Rejects if that fails. If there is no connection, the `reason` of
 * the error says why, in whole sentences.
 */
async function enter() {
  if (!session) {
    opening ??= open().finally(() => (opening = null));
    await opening;
  }
  const current = session;
  try {
    await current.opened;
  } catch (error) {
    error.reason = await failure;
    throw error;
  }
  return current;
}

async function open() {
  trouble();
  await urlIsKnown;
  const [url, before] = [byId("url").value.trim(), await refusals()];
  if (!URL.canParse(url) || !/^wss?:/.test(url)) {
    trouble("The address of a gateway begins with ws:// or wss://, such as ws://localhost:8080/ws.");
    throw new Error("the address is not valid");
  }
  setPill("warn", "Connecting…");
  setConnected(true);
  const begun = begin({ url, token: byId("jwt").value, resumes: () => byId("resume-on").checked, tap });
  session = begun.session;
  cut = begun.cut;
  listen(session, url, before);
}

function listen(current, url, before) {
  let isOpen = false;
  current.on("welcome", (welcome) => {
    setPill("ok", "Connected");
    showSession(welcome);
    if (!isOpen) happened(`Connected to ${url}.${welcome.resumeToken ? "" : " This gateway resumes no sessions."}`);
    isOpen = true;
  });
  current.on("resumed", ({ awayMs, resent, repliesLost }) => {
    const sent = resent ? `, and ${plural(resent, "packet")} was sent again` : "";
    const lost = repliesLost ? ` ${plural(repliesLost, "reply")} cannot come any more.` : "";
    happened(`The same session goes on after ${duration(awayMs / 1000)}${sent}. What came meanwhile follows.${lost}`);
    arena.connected(true);
  });
  current.on("newSession", ({ awayMs }) => {
    happened(`A new session has begun after ${duration(awayMs / 1000)}. Messages may have been lost.`);
    arena.connected(false);
    chat.renewed();
  });
  current.on("reconnecting", ({ why, delayMs }) => {
    setPill("warn", "Reconnecting…");
    happened(`No connection: ${why}. The next attempt is in ${duration(delayMs / 1000)}.`);
  });
  current.on("gap", ({ pushes, blindMs }) =>
    happened(
      pushes
        ? `${plural(pushes, "push")} lost: this page reads too slowly.`
        : `The gateway heard no backend for ${duration(blindMs / 1000)}: messages may have been lost.`,
    ),
  );
  current.on("tokenExpires", ({ inMs }) => happened(`The token expires in ${duration(inMs / 1000)}.`));
  current.on("refused", (refused) => {
    chat.refused(refused);
    if (refused.error.route !== 1) happened(`Packet #${refused.seq} was refused: ${refused.error.message}.`);
  });
  current.on("push", ({ route, payload }) => {
    if (route === 1) chat.received(payload);
    if (route === 2) arena.received(payload);
  });
  current.on("closed", async (error) => {
    if (session !== current) return;
    session = cut = null;
    setConnected(false);
    byId("session").hidden = true;
    setPill(error.code === 1000 ? "" : "bad", error.code === 1000 ? "Not connected" : "Closed");
    arena.ended();
    chat.renewed();
    if (isOpen) return happened(`The session is over: ${error.message}.`);
    failure = explain(url, before);
    trouble(await failure);
  });
}

function showSession({ sessionId, resumeToken, resumeWindowMs }) {
  const kept = resumeToken ? `kept for ${duration(resumeWindowMs / 1000)} after a break` : "ends with its connection";
  byId("session").replaceChildren(
    "Session ",
    el("a", { href: `/#session=${sessionId}` }, el("code", {}, sessionId)),
    `, ${kept}`,
  );
  byId("session").hidden = false;
  // Without a token there is nothing to resume.
  byId("resume-on").disabled = !resumeToken;
}

byId("connection").addEventListener("submit", (event) => {
  event.preventDefault();
  enter().catch(() => {});
});
byId("disconnect").addEventListener("click", () => {
  arena.leave();
  session?.close();
});
byId("cut").addEventListener("click", () => cut?.());

// Heartbeats.

const { svg, draw } = sparkline();
byId("rtt-graph").append(svg);
const beats = [];
setInterval(async () => {
  if (!session?.isConnected || !byId("beat-on").checked) return;
  try {
    beats.push(await session.ping());
  } catch (error) {
    return setText(byId("rtt-text"), `No heartbeat: ${error.message}.`);
  }
  if (beats.length > MOST_BEATS) beats.shift();
  const [number, unit] = duration(beats.at(-1) / 1000).split(" ");
  setText(byId("rtt"), number);
  setText(byId("rtt-unit"), unit);
  const sorted = beats.toSorted((a, b) => a - b);
  const at = (part) => duration(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] / 1000);
  setText(byId("rtt-text"), `median ${at(0.5)} · longest ${at(1)} of ${beats.length}`);
  draw(beats);
}, BEAT_MS);

// Any packet.

function payloadOf(text, form) {
  if (form === "text") return new TextEncoder().encode(text);
  const digits = text.replace(/[\s,]|0x/g, "");
  if (!/^([0-9a-f]{2})*$/i.test(digits))
    throw new Error("hexadecimal payloads are pairs of digits, such as 62 65 61 74");
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

byId("send").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    session.send(Number(byId("route").value), payloadOf(byId("payload").value, byId("form").value));
    setText(byId("send-error"), "");
  } catch (error) {
    setText(byId("send-error"), `Not sent: ${error.message}.`);
  }
});

isOperator().then(
  (may) => may && arena.follow(),
  () => {},
);
