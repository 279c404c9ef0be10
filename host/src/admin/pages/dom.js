// Builds elements, keeps lists of them up to date, and formats numbers. Texts, whoever wrote them, only ever become
// text nodes: nothing here turns a string into HTML.

/**
 * Creates an element. A function among the attributes is a listener: `{ click: end }`. An attribute that is `null`,
 * `undefined` or `false` is left out, and `true` is an attribute without a value.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Sets the text of an element, and touches nothing if it is the same: a selection of the user survives. */
export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/**
 * Makes the last children of an element show the items, and keeps the nodes of the items that stay. `create` returns the
 * node for an item, and a function that updates the node.
 */
export function list(parent, keyOf, create) {
  let shown = new Map();
  const first = parent.childNodes.length;
  return (items) => {
    const next = new Map();
    let place = parent.childNodes[first] ?? null;
    for (const item of items) {
      const key = keyOf(item);
      const entry = shown.get(key) ?? create(item);
      entry.update?.(item);
      next.set(key, entry);
      if (entry.node === place) place = place.nextSibling;
      else parent.insertBefore(entry.node, place);
    }
    for (const [key, entry] of shown) if (next.get(key) !== entry) entry.node.remove();
    shown = next;
  };
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** Formats a count: `1,234`, and `1.2M` from a hundred thousand on. */
export const count = (number) => (Math.abs(number) < 100_000 ? whole : compact).format(number);

/** Formats a rate: `0.4`, `12`, `1.2K`. */
export const rate = (number) =>
  number < 10 ? tenths.format(number) : number < 10_000 ? whole.format(number) : compact.format(number);

const scaled = (number, units) => {
  let [size, unit] = units[0];
  for (const [from, name] of units) if (number >= from) [size, unit] = [from, name];
  const shown = number / size;
  return `${shown < 10 ? tenths.format(shown) : whole.format(shown)} ${unit}`;
};

/** Formats a duration in seconds with the unit that fits, from `ns` to `d`. */
export const duration = (seconds) =>
  seconds === 0
    ? "0 s"
    : scaled(seconds, [
        [1e-9, "ns"],
        [1e-6, "µs"],
        [1e-3, "ms"],
        [1, "s"],
        [60, "min"],
        [3600, "h"],
        [86_400, "d"],
      ]);

export const bytes = (number) =>
  scaled(number, [
    [1, "B"],
    [1024, "KiB"],
    [1024 ** 2, "MiB"],
    [1024 ** 3, "GiB"],
  ]);

/** Formats the time of the day of a moment in milliseconds since 1970. */
export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

/** Formats how long ago a moment was. */
export const ago = (ms, now = Date.now()) =>
  now - ms < 2000 ? "just now" : `${duration(Math.max(0, now - ms) / 1000)} ago`;

/** Returns the number and the noun, in the plural unless it is one. */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
