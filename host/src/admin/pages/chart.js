// A line without axes, drawn as SVG. The number next to it says what it is about, so readers of the screen skip it.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [120, 36];

/** The number of values that fill the whole width. More values stand closer together. */
const FULL = 30;

/** Makes a graph of values, the newest at the right end. Returns it, and what draws in it. */
export function sparkline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("spark");
  const [area, line] = ["area", "line"].map((name) => {
    const path = document.createElementNS(SVG, "path");
    path.classList.add(name);
    svg.append(path);
    return path;
  });
  const draw = (values, most = Math.max(...values)) => {
    const step = WIDTH / (Math.max(FULL, values.length) - 1);
    const left = WIDTH - (values.length - 1) * step;
    const top = most > 0 ? most * 1.1 : 1;
    const points = values.map((value, i) => {
      const y = HEIGHT - 1.5 - (Math.min(value, top) / top) * (HEIGHT - 4);
      return `${(left + i * step).toFixed(1)} ${y.toFixed(1)}`;
    });
    const path = points.length > 1 ? `M${points.join("L")}` : "";
    line.setAttribute("d", path);
    area.setAttribute("d", path && `${path}L${WIDTH} ${HEIGHT}L${left.toFixed(1)} ${HEIGHT}Z`);
  };
  return { svg, draw };
}
