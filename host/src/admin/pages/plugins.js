// The table of plugins: what serves, how fast, and what came of the last change of each file.

import { sparkline } from "./chart.js";
import { ago, bytes, clock, count, duration, el, list, rate, setText } from "./dom.js";
import { FAULTS } from "./reasons.js";

const COLUMNS = ["Plugin", "State", "Calls", "p50", "p99", "Faults", "Memory", "Last change"];
const CLASSES = ["name", null, "number", "number", "number", "number", "number", "wide"];
const SHORT = 5;

/** Makes the table in the element, and returns what updates it. Latencies are those of the last `seconds`. */
export function startPlugins(element, history, seconds) {
  const heads = COLUMNS.map((name) => el("th", { role: "columnheader", scope: "col" }, name));
  const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads));
  const table = el("table", { class: "plugins", role: "table", "aria-labelledby": "plugins-title" }, head);
  const empty = el(
    "p",
    { class: "empty" },
    "There is no plugin file. ",
    el("code", {}, "make plugins"),
    " builds those of the repository into plugins/dist, and the gateway loads them without a restart.",
  );
  element.append(table, empty);
  const show = list(
    table,
    ({ file }) => file,
    () => row(history, seconds),
  );
  return ({ plugins }) => {
    table.hidden = plugins.length === 0;
    empty.hidden = plugins.length > 0;
    show(plugins);
  };
}

function row(history, seconds) {
  const [name, about, state, calls, p50, p99, faults, memory, change, since] = Array.from({ length: 10 }, () =>
    el("span"),
  );
  const { svg, draw } = sparkline();
  state.className = "pill";
  about.className = since.className = "sub";
  const error = el("pre", { class: "error", tabindex: "0" });
  const errorTitle = el("p");
  const errorCell = el("td", { role: "cell", colspan: COLUMNS.length, class: "wide error-cell" }, errorTitle, error);
  const errorRow = el("tr", { role: "row", class: "error-row", hidden: true }, errorCell);
  const cells = [
    [name, about],
    [state],
    [el("div", { class: "calls" }, calls, svg)],
    [p50],
    [p99],
    [faults],
    [memory],
    [change, since],
  ];
  const main = el(
    "tr",
    { role: "row" },
    ...cells.map((parts, i) => el("td", { role: "cell", "data-label": COLUMNS[i], class: CLASSES[i] }, ...parts)),
  );
  name.className = "strong";
  const node = el("tbody", { role: "rowgroup" }, main, errorRow);
  const update = ({ file, plugin, error: why, compiling }) => {
    const label = { plugin: plugin?.name };
    setText(name, plugin?.name ?? file);
    setText(about, plugin ? aboutPlugin(file, plugin) : "serves nothing yet");
    const [status, word] = stateOf(plugin, why, compiling);
    state.dataset.status = status;
    setText(state, word);
    setText(change, lastChange(plugin, why, compiling));
    setText(since, plugin?.in_use_since_ms ? `generation ${plugin.generation}, ${clock(plugin.in_use_since_ms)}` : "");
    errorRow.hidden = !why;
    setText(errorTitle, errorText(file, plugin));
    setText(error, why ?? "");
    if (!plugin) {
      for (const cell of [calls, p50, p99, faults, memory]) setText(cell, "–");
      svg.hidden = true;
      return;
    }
    svg.hidden = false;
    setText(calls, `${rate(history.rate(SHORT, "gateway_plugin_calls_total", label))} /s`);
    draw(history.rates("gateway_plugin_calls_total", label));
    const latency = history.quantiles(seconds, [0.5, 0.99], "gateway_plugin_call_seconds", label);
    setText(p50, latency ? duration(latency[0]) : "–");
    setText(p99, latency ? duration(latency[1]) : "–");
    const failed = Object.entries(FAULTS).filter(([outcome]) => plugin.calls[outcome] > 0);
    setText(faults, count(failed.reduce((sum, [outcome]) => sum + plugin.calls[outcome], 0)));
    faults.title = failed.map(([outcome, meaning]) => `${count(plugin.calls[outcome])} ${meaning}`).join(", ");
    faults.className = failed.length > 0 ? "bad" : "";
    setText(memory, bytes(history.last.sum("gateway_plugin_memory_bytes", label)));
  };
  return { node, update };
}

function aboutPlugin(file, { version, routes, topics }) {
  const parts = [`${version}`, file];
  if (routes.length > 0) parts.push(`route${routes.length > 1 ? "s" : ""} ${routes.join(", ")}`);
  if (topics.length > 0) parts.push(`hears ${topics.join(", ")}`);
  return parts.join(" · ");
}

function stateOf(plugin, why, compiling) {
  if (plugin?.quarantined) return ["bad", "quarantined"];
  if (compiling) return ["warn", "compiling"];
  if (!plugin) return [why ? "bad" : "warn", why ? "rejected" : "starting"];
  return why ? ["warn", "serves an older file"] : ["ok", "serves"];
}

function lastChange(plugin, why, compiling) {
  if (compiling) return "being compiled";
  if (why) return "rejected";
  if (!plugin?.in_use_since_ms) return "–";
  return `${plugin.generation > 1 ? "swapped" : "loaded"} ${ago(plugin.in_use_since_ms)}`;
}

function errorText(file, plugin) {
  return plugin
    ? `The newest content of ${file} was rejected. Version ${plugin.version}, which was loaded before, goes on serving:`
    : `${file} was rejected, and nothing serves in its place:`;
}
