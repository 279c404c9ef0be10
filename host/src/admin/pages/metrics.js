// Reads the text of /metrics, and remembers the last two minutes of it. Every figure on the pages comes from here, so the
// pages and a Prometheus show the same.

// The labels end at the first `}` outside of quotes: an exemplar, which may follow the value, has labels as well.
const LINE = /^([a-zA-Z_]\w*)(?:\{((?:[^"}]|"(?:\\.|[^"\\])*")*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** The number of samples that are kept, one for each second. */
const KEPT = 121;

/** What the gateway has counted, at one moment. */
export class Sample {
  #series = new Map();

  constructor(text, at) {
    this.at = at;
    for (const line of text.split("\n")) {
      const match = line[0] === "#" ? null : LINE.exec(line);
      if (!match) continue;
      const [, name, written = "", value] = match;
      const labels = {};
      for (const [, label, quoted] of written.matchAll(LABEL)) {
        labels[label] = quoted.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
      }
      if (!this.#series.has(name)) this.#series.set(name, []);
      this.#series.get(name).push({ labels, value: Number(value.replace("+Inf", "Infinity")) });
    }
  }

  /** Returns the series with this name and these labels. */
  of(name, wanted = {}) {
    const series = this.#series.get(name) ?? [];
    return series.filter(({ labels }) => Object.entries(wanted).every(([label, value]) => labels[label] === value));
  }

  /** Returns the sum of the series with this name and these labels. */
  sum(name, wanted) {
    return this.of(name, wanted).reduce((sum, { value }) => sum + value, 0);
  }

  /** Returns the sums of the series with this name by the value of a label. */
  by(name, label) {
    const sums = new Map();
    for (const { labels, value } of this.of(name)) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
    return sums;
  }

  /** Returns the counts of a histogram's buckets by their upper bounds, each with those of the smaller buckets. */
  buckets(name, wanted) {
    const sums = new Map();
    for (const { labels, value } of this.of(`${name}_bucket`, wanted)) {
      const bound = Number(labels.le.replace("+Inf", "Infinity"));
      sums.set(bound, (sums.get(bound) ?? 0) + value);
    }
    return sums;
  }
}

/** The samples of the last two minutes, the oldest first. */
export class History {
  samples = [];

  push(sample) {
    this.samples.push(sample);
    if (this.samples.length > KEPT) this.samples.shift();
  }

  clear() {
    this.samples = [];
  }

  get last() {
    return this.samples.at(-1);
  }

  /** Returns the newest sample that is this many seconds older than the last one, or the oldest of all. */
  before(seconds) {
    const from = this.last.at - seconds * 1000;
    return this.samples.findLast((sample) => sample.at <= from) ?? this.samples[0];
  }

  /** Returns how much a counter has grown in the last seconds. */
  growth(seconds, name, wanted) {
    return Math.max(0, this.last.sum(name, wanted) - this.before(seconds).sum(name, wanted));
  }

  /** Returns how much a counter has grown in a second, over the last seconds. */
  rate(seconds, name, wanted) {
    return perSecond(this.before(seconds), this.last, name, wanted);
  }

  /** Returns the rate between each two neighbours. */
  rates(name, wanted) {
    return this.samples.slice(1).map((sample, i) => perSecond(this.samples[i], sample, name, wanted));
  }

  /** Returns a value of each sample. */
  values(name, wanted) {
    return this.samples.map((sample) => sample.sum(name, wanted));
  }

  /** Returns quantiles of a histogram over the last seconds, or `null` if nothing was recorded. */
  quantiles(seconds, quantiles, name, wanted) {
    return between(this.before(seconds), this.last, quantiles, name, wanted);
  }

  /** Returns a quantile of a histogram between each two neighbours, and the one before where nothing was recorded. */
  quantileLine(quantile, name, wanted) {
    let latest = 0;
    return this.samples.slice(1).map((sample, i) => {
      latest = between(this.samples[i], sample, [quantile], name, wanted)?.[0] ?? latest;
      return latest;
    });
  }
}

function perSecond(from, to, name, wanted) {
  const seconds = (to.at - from.at) / 1000;
  return seconds > 0 ? Math.max(0, to.sum(name, wanted) - from.sum(name, wanted)) / seconds : 0;
}

function between(from, to, quantiles, name, wanted) {
  const earlier = from === to ? new Map() : from.buckets(name, wanted);
  const grown = [...to.buckets(name, wanted)].map(([bound, total]) => [bound, total - (earlier.get(bound) ?? 0)]);
  grown.sort(([a], [b]) => a - b);
  const all = grown.at(-1)?.[1] ?? 0;
  return all > 0 ? quantiles.map((quantile) => estimate(grown, all * quantile)) : null;
}

/** Returns the value below which this many recorded values are, as if those of a bucket were spread evenly. */
function estimate(buckets, rank) {
  let [low, below] = [0, 0];
  for (const [bound, upTo] of buckets) {
    if (upTo >= rank) {
      return bound === Infinity ? low : low + ((bound - low) * (rank - below)) / Math.max(1, upTo - below);
    }
    [low, below] = [bound, upTo];
  }
  return low;
}
