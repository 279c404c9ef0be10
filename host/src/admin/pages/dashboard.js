// The dashboard: asks the gateway once a second, and shows what it answers.

import { ApiError, ask, isOperator, metricsText, token } from "./api.js";
import { sparkline } from "./chart.js";
import { byId, bytes, clock, count, duration, el, list, plural, rate, setText } from "./dom.js";
import { startLog } from "./log.js";
import { History, Sample } from "./metrics.js";
import { startPlugins } from "./plugins.js";
import { DROPPED, ENDS, HANDSHAKES, RESUMES, ROUTING, UNRESUMED } from "./reasons.js";
import { startSessions } from "./sessions.js";

const PAUSE_MS = 1000;
/** The seconds over which the large figures are averaged, and those of latencies. */
const [SHORT, LONG] = [5, 60];
const CALLS = "gateway_plugin_call_seconds";

const history = new History();
let unreachableSince = null;
let startedAt = null;

function figure(id, label) {
  const parts = { value: el("strong", {}, "–"), unit: el("span", { class: "unit" }), text: el("p", { class: "sub" }) };
  const { svg, draw } = sparkline();
  byId(id).append(el("h2", {}, label), el("p", { class: "value" }, parts.value, parts.unit), parts.text, svg);
  return (value, unit, text, line, most) => {
    setText(parts.value, value);
    setText(parts.unit, unit);
    setText(parts.text, text);
    if (line.length > 0) draw(line, most);
  };
}

const figures = {
  sessions: figure("figure-sessions", "Sessions"),
  received: figure("figure-received", "Packets in"),
  sent: figure("figure-sent", "Packets out"),
  calls: figure("figure-calls", "Plugin call, p99"),
  lost: figure("figure-lost", "Messages lost"),
  bus: figure("figure-bus", "Bus"),
};

function showFigures(gateway) {
  const { last } = history;
  const away = last.sum("gateway_sessions_parked");
  const sessions = last.sum("gateway_sessions");
  figures.sessions(
    count(sessions),
    "",
    `${count(away)} away · ${rate(history.rate(SHORT, "gateway_connections_total"))} new /s`,
    history.values("gateway_sessions"),
  );
  const traffic = (show, name) =>
    show(rate(history.rate(SHORT, name)), "/s", `${count(last.sum(name))} since the start`, history.rates(name));
  traffic(figures.received, "gateway_messages_received_total");
  traffic(figures.sent, "gateway_messages_sent_total");
  const latency = history.quantiles(LONG, [0.5, 0.99], CALLS);
  const [number, unit] = latency ? duration(latency[1]).split(" ") : ["–", ""];
  const called = rate(history.rate(SHORT, `${CALLS}_count`));
  figures.calls(
    number,
    unit,
    latency ? `p50 ${duration(latency[0])} · ${called} calls/s` : "no call yet",
    history.quantileLine(0.99, CALLS),
  );
  const lost = last.sum("gateway_messages_dropped_total");
  const lately = history.growth(LONG, "gateway_messages_dropped_total");
  const losses = lost === 0 ? "none since the start" : `${count(lately)} in the last minute`;
  figures.lost(count(lost), "", losses, history.rates("gateway_messages_dropped_total"), Math.max(1, lately / 10));
  byId("figure-lost").dataset.status = lately > 0 ? "bad" : "";
  const connected = last.sum("gateway_bus_connected") === 1;
  const blind = last.sum("gateway_bus_blind_seconds_total");
  figures.bus(
    connected ? "Connected" : "Down",
    "",
    connected ? `${gateway.bus.kind} · blind ${duration(blind)}` : "the errors below say why",
    history.rates("gateway_bus_published_total"),
  );
  byId("figure-bus").dataset.status = connected ? "" : "bad";
}

/** Makes a list of names and values in the element, and returns what updates it. */
function facts(element) {
  const show = list(
    element,
    ([name]) => name,
    ([name, , hint]) => {
      const value = el("dd");
      const node = el("div", {}, el("dt", {}, name, hint && el("small", {}, hint)), value);
      return { node, update: ([, text]) => setText(value, text) };
    },
  );
  return (rows) => show(rows.filter(Boolean));
}

const showBusFacts = facts(byId("bus"));

function showBus({ bus }) {
  const { last } = history;
  const total = (name) => last.sum(`gateway_bus_${name}_total`);
  const heard = last.by("gateway_bus_received_total", "outcome");
  showBusFacts([
    ["Kind", bus.kind === "embedded" ? "inside the process" : bus.kind],
    bus.place && ["Address", bus.place],
    ["State", bus.error ?? "connected"],
    ["Waiting", plural(last.sum("gateway_bus_queued"), "message")],
    ["Published", `${count(total("published"))} · ${rate(history.rate(SHORT, "gateway_bus_published_total"))} /s`],
    ["Received", `${count(heard.get("here") ?? 0)} · ${count(heard.get("not_here") ?? 0)} for nobody here`],
    ["Heard by nobody", count(total("unheard")), "no backend listened"],
    [
      "Blind",
      `${duration(total("blind_seconds"))} in ${plural(total("gaps"), "gap")}`,
      "the gateway could hear nothing",
    ],
    bus.kind !== "embedded" && ["Probes failed", count(total("probe_failures"))],
  ]);
}

/** Makes groups of reasons with their counts. Returns what updates them. */
function reasons(element, groups, none) {
  const empty = el("p", { class: "empty" }, none);
  const shown = groups.map(([title, name, texts, label = "reason", hidden = []]) => {
    const body = el("dl", { class: "facts" });
    const show = facts(body);
    const node = el("div", { class: "group" }, el("h3", {}, title), body);
    element.append(node);
    return () => {
      const counts = [...history.last.by(name, label)].filter(
        ([reason, total]) => total > 0 && !hidden.includes(reason),
      );
      counts.sort(([, a], [, b]) => b - a);
      show(
        counts.map(([reason, total]) => {
          const lately = history.growth(LONG, name, { [label]: reason });
          return [reason, lately > 0 ? `${count(total)}  (+${count(lately)})` : count(total), texts[reason]];
        }),
      );
      node.hidden = counts.length === 0;
      return counts.length;
    };
  });
  element.append(empty);
  return () => {
    const rows = shown.map((show) => show()).reduce((sum, rows) => sum + rows, 0);
    empty.hidden = rows > 0;
  };
}

const showLost = reasons(
  byId("lost"),
  [
    ["Messages lost", "gateway_messages_dropped_total", DROPPED],
    ["Packets and bus messages refused", "gateway_routing_errors_total", ROUTING],
    ["Connections refused", "gateway_handshakes_refused_total", HANDSHAKES],
    ["Connections ended", "gateway_disconnections_total", ENDS],
  ],
  "Nothing was lost or refused, and no connection has ended since the start.",
);

const awayFacts = el("dl", { class: "facts" });
const showAwayFacts = facts(awayFacts);
const resumeReasons = el("div");
const resumeOff = el(
  "p",
  { class: "empty" },
  "A session ends with its connection. With the section ",
  el("code", {}, "resume"),
  " in gateway.yaml, a client that loses its connection gets the same session back, and all that it missed.",
);
byId("resume").append(resumeOff, awayFacts, resumeReasons);
const showResumeReasons = reasons(
  resumeReasons,
  [
    ["Clients that came back", "gateway_resumes_total", RESUMES, "outcome"],
    ["Sessions that nobody came back to", "gateway_sessions_not_resumed_total", UNRESUMED],
  ],
  "No client has lost its connection so far.",
);

function showResume({ resume_window_ms: window }) {
  const on = window !== null;
  resumeOff.hidden = on;
  awayFacts.hidden = resumeReasons.hidden = !on;
  if (!on) return;
  const { last } = history;
  showAwayFacts([
    ["Away now", plural(last.sum("gateway_sessions_parked"), "session")],
    ["Kept for them", bytes(last.sum("gateway_sessions_parked_bytes"))],
    ["A client may be away for", duration(window / 1000)],
  ]);
  showResumeReasons();
}

const showProblemList = list(
  byId("problems"),
  (text) => text,
  (text) => ({ node: el("p", { class: "notice bad" }, text) }),
);

function showState(gateway) {
  const { ready, reasons: why, quarantined, directory_error: directory } = gateway.readiness;
  const problems = why.map((reason) => `Not ready: ${reason}.`);
  if (ready && directory) problems.push(directory);
  for (const name of quarantined) {
    problems.push(`The plugin ${name} is in quarantine because it keeps failing: its routes answer status 5.`);
  }
  showProblemList(problems);
  setPill(ready ? "ok" : "warn", ready ? "Ready" : "Not ready");
  setText(byId("about"), `${gateway.version} · up ${duration((Date.now() - gateway.started_at_ms) / 1000)}`);
}

function setPill(status, text) {
  byId("state").dataset.status = status;
  setText(byId("state"), text);
}

function showUnreachable(error) {
  unreachableSince ??= Date.now();
  const since = clock(unreachableSince);
  setPill("bad", `Not reachable since ${since}, trying again`);
  byId("board").classList.add("stale");
  if (byId("board").hidden) return;
  showProblemList([
    `The gateway has not answered since ${since} (${error.message}): it was stopped, or the network is down. ` +
      "The figures below are the last ones. This page goes on by itself when the gateway is back.",
  ]);
}

const showPlugins = startPlugins(byId("plugins"), history, LONG);
const log = startLog(byId("log"), byId("only-errors"), byId("log-text"));
startSessions();

async function update() {
  const [text, gateway, plugins, lines] = await Promise.all([
    metricsText(),
    ask("/api/gateway"),
    ask("/api/plugins"),
    ask(`/api/log?after=${log.last()}`),
  ]);
  unreachableSince = null;
  byId("board").classList.remove("stale");
  byId("board").hidden = false;
  if (startedAt !== null && startedAt !== gateway.started_at_ms) {
    // Another process: its counters begin at 0, and so do the numbers of its lines.
    history.clear();
    log.clear();
  } else {
    log.add(lines);
  }
  startedAt = gateway.started_at_ms;
  history.push(new Sample(text, performance.now()));
  showState(gateway);
  showFigures(gateway);
  showBus(gateway);
  showResume(gateway);
  showLost();
  showPlugins(plugins);
}

async function run() {
  for (;;) {
    try {
      await update();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) return signIn("The token is not the one in gateway.yaml.");
      if (error.status === 0) showUnreachable(error);
      else showRefused(error);
    }
    await new Promise((resume) => setTimeout(resume, PAUSE_MS));
  }
}

function showRefused(error) {
  setPill("bad", "Refused");
  byId("board").hidden = false;
  byId("board").classList.add("stale");
  showProblemList([`The gateway refuses the requests of this page: ${error.message}.`]);
}

function signIn(why = "") {
  token.set("");
  byId("board").hidden = true;
  byId("sign-out").hidden = true;
  byId("login").hidden = false;
  setPill("", "Signed out");
  setText(byId("login-error"), why);
  byId("token").focus();
}

async function start() {
  for (;;) {
    try {
      if (await isOperator()) break;
      return signIn(token.get() ? "The token is not the one in gateway.yaml." : "");
    } catch (error) {
      showUnreachable(error);
      await new Promise((resume) => setTimeout(resume, PAUSE_MS));
    }
  }
  byId("login").hidden = true;
  byId("sign-out").hidden = !token.get();
  await run();
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value);
  byId("token").value = "";
  start();
});
byId("sign-out").addEventListener("click", () => {
  token.set("");
  location.reload();
});

start();
