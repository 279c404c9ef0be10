// The last warnings and errors of the log. Their texts may come from strangers.

import { clock, el, list } from "./dom.js";

const MOST = 200;

/** Shows the lines in the element, and follows the two filters. */
export function startLog(element, onlyErrors, text) {
  let lines = [];
  let last = 0;
  const empty = el("p", { class: "empty" });
  const rows = el("ol", { class: "lines" });
  element.append(rows, empty);
  const show = list(
    rows,
    ({ number }) => number,
    (line) => ({ node: row(line) }),
  );
  const refresh = () => {
    const word = text.value.trim().toLowerCase();
    const fits = (line) =>
      (!onlyErrors.checked || line.level === "ERROR") && (!word || JSON.stringify(line).toLowerCase().includes(word));
    const shown = lines.filter(fits);
    show(shown.toReversed());
    empty.hidden = shown.length > 0;
    empty.textContent =
      lines.length > 0
        ? "No line fits the filter."
        : "No warnings or errors since the start. The log on stderr has everything else.";
  };
  onlyErrors.addEventListener("change", refresh);
  text.addEventListener("input", refresh);
  text.form.addEventListener("submit", (event) => event.preventDefault());
  refresh();
  return {
    /** Returns the number of the last line. */
    last: () => last,
    /** Adds the lines of an answer. */
    add(answer) {
      if (answer.lines.length === 0) return;
      lines = [...lines, ...answer.lines].slice(-MOST);
      last = answer.last;
      refresh();
    },
    /** Forgets all lines, since those of another process follow. */
    clear() {
      [lines, last] = [[], 0];
      refresh();
    },
  };
}

function row({ at_ms: at, level, target, message, fields }) {
  const shown = Object.entries(fields).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  return el(
    "li",
    {},
    el("time", { datetime: new Date(at).toISOString(), title: new Date(at).toString() }, clock(at)),
    el(
      "span",
      { class: "pill", "data-status": level === "ERROR" ? "bad" : "warn" },
      level === "ERROR" ? "error" : "warning",
    ),
    el(
      "div",
      { class: "line" },
      el("p", {}, message),
      el("dl", {}, el("div", {}, el("dt", {}, "from"), el("dd", {}, target)), ...shown),
    ),
  );
}
