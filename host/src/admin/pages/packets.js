// The list of packets, in both directions.

import { byId, bytes as formatBytes, clock, count, el, list, setText } from "./dom.js";
import { explain, parse, routeName, statusName } from "./inspect.js";

const MOST = 200;
/** The kinds of packets, and whether they are shown at first. The game sends many. */
const KINDS = [
  ["session", true],
  ["chat", true],
  ["game", false],
  ["heartbeat", false],
  ["other", true],
];

/** Makes the list. Returns what takes a packet. */
export function startPackets() {
  const kept = new Map(KINDS.map(([kind]) => [kind, []]));
  const totals = new Map(KINDS.map(([kind]) => [kind, 0]));
  const shown = new Map();
  let number = 0;
  let chosen = null;
  let isDue = false;

  const show = list(
    byId("packets"),
    ({ number }) => number,
    (packet) => {
      const node = el(
        "li",
        {},
        el("button", { type: "button", class: "packet", click: () => choose(packet) }, ...summary(packet)),
      );
      return { node, update: () => node.firstChild.setAttribute("aria-pressed", packet === chosen) };
    },
  );

  for (const [kind, isShown] of KINDS) {
    const box = el("input", { type: "checkbox", checked: isShown, change: refresh });
    const label = el("span", {}, kind);
    shown.set(kind, { box, label });
    byId("kinds").append(el("label", { class: "check" }, box, label));
  }

  function refresh() {
    const visible = KINDS.filter(([kind]) => shown.get(kind).box.checked).flatMap(([kind]) => kept.get(kind));
    visible.sort((a, b) => b.number - a.number);
    show(visible.slice(0, MOST));
    byId("packets-empty").hidden = visible.length > 0;
    for (const [kind] of KINDS)
      setText(shown.get(kind).label, totals.get(kind) ? `${kind} ${count(totals.get(kind))}` : kind);
  }

  function choose(packet) {
    chosen = packet;
    byId("inspector").replaceChildren(...explain(packet));
    refresh();
  }

  byId("clear").addEventListener("click", () => {
    for (const packets of kept.values()) packets.length = 0;
    chosen = null;
    byId("inspector").replaceChildren();
    refresh();
  });

  return (direction, bytes) => {
    const packet = { ...parse(direction, bytes.slice()), number: ++number };
    totals.set(packet.kind, totals.get(packet.kind) + 1);
    if (byId("pause").checked) return;
    const packets = kept.get(packet.kind);
    packets.push(packet);
    if (packets.length > MOST) packets.shift();
    if (!chosen && packet.kind === "session") choose(packet);
    // Many packets may come at once, and a drawn list is only looked at a few times a second.
    if (isDue) return;
    isDue = true;
    setTimeout(() => {
      isDue = false;
      refresh();
    }, 200);
  };
}

function summary({ direction, header, payload, role, bytes, at, welcome }) {
  const parts = [
    el("time", {}, clock(at)),
    el(
      "span",
      { class: `arrow ${direction}`, title: direction === "out" ? "to the gateway" : "from the gateway" },
      direction === "out" ? "↑" : "↓",
    ),
  ];
  if (!header) return [...parts, el("span", {}, `${bytes.length} bytes without a header`)];
  const name = routeName(header.route);
  const what = welcome ? "welcome" : role;
  const refused = direction === "in" && header.status !== 0;
  return [
    ...parts,
    el("span", { class: "what" }, `${what} #${header.seq}`),
    el("span", { class: "where" }, `route ${header.route}${name && ` ${name}`}`),
    refused && el("span", { class: "pill", "data-status": "bad" }, `${header.status} ${statusName(header.status)}`),
    el("span", { class: "size" }, formatBytes(payload.length)),
  ].filter(Boolean);
}
