// Charts as SVG: the last hour, or what there is of it; an axis that ends at a round number; a hair line that says what was when.

const NS = "http://www.w3.org/2000/svg";
const HIGH = 168, LEFT = 34, TOP = 8, BOTTOM = 20;
const LONGEST_S = 3600, SHORTEST_S = 300;

function svg(name, attributes = {}, text = null) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

// The smallest of 1, 2, 5 times a power of ten that is not below: people read 0, 5, 10 and not 0, 3.7, 7.4.
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.9999);
}

export class Chart {
  // series: [{name, key, format, tone}]: the first is filled; a tone of 4 is red. `most`: an axis that does not follow the values.
  constructor(place, label, series, { format = String, most = null, least = 1 } = {}) {
    this.place = place;
    this.label = label;
    this.series = series;
    this.format = format;
    this.most = most;
    this.least = least;
    this.columns = { at: [] };
    this.svg = svg("svg", { role: "img", "aria-label": label });
    this.legend = document.createElement("ul");
    this.legend.className = "legend";
    this.place.replaceChildren(this.svg, this.legend);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.hovered = null;
    new ResizeObserver(() => this.draw()).observe(this.place);
  }

  show(columns) {
    this.columns = columns;
    this.draw();
  }

  scale() {
    const width = Math.max(this.place.clientWidth, 200);
    const now = this.columns.at.at(-1) ?? 0;
    const seen = this.series.flatMap(({ key }) => this.columns[key] ?? []).filter((value) => value !== null && value !== undefined);
    const most = this.most ?? roundUp(Math.max(this.least, ...seen));
    const span = Math.min(LONGEST_S, Math.max(SHORTEST_S, now - (this.columns.at[0] ?? now)));
    const x = (at) => LEFT + (1 - (now - at) / span) * (width - LEFT - 4);
    const y = (value) => TOP + (1 - Math.min(value, most) / most) * (HIGH - TOP - BOTTOM);
    return { width, now, most, span, x, y };
  }

  draw() {
    const { width, now, most, span, x, y } = this.scale();
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HIGH}`);
    const drawn = [];
    for (const share of [0, 0.5, 1]) {
      const value = most * share, at = y(value);
      drawn.push(svg("line", { class: "axis", x1: LEFT, x2: width - 4, y1: at, y2: at }));
      drawn.push(svg("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, this.format(value)));
    }
    const minutes = Math.round(span / 60);
    for (const [ago, word, anchor] of [[span, `${minutes} min ago`, "start"], [span / 2, String(Math.round(minutes * 5) / 10), "middle"], [0, "now", "end"]]) {
      drawn.push(svg("text", { x: x(now - ago), y: HIGH - 4, "text-anchor": anchor }, word));
    }
    const { at } = this.columns;
    [...this.series.entries()].reverse().forEach(([number, { key, tone = number + 1 }]) => {
      const values = this.columns[key] ?? [];
      if (number && values.every((value) => !value)) return; // a line along the axis says nothing, and hides the others
      let line = "", from = null, last = null;
      const areas = [];
      values.forEach((value, place) => {
        if (value === null || value === undefined || now - at[place] > span) { if (from !== null) areas.push([from, last]); from = null; return; }
        const broken = from === null || at[place] - at[last] > 30;
        if (broken && from !== null) areas.push([from, last]);
        line += `${broken ? "M" : "L"}${x(at[place]).toFixed(1)} ${y(value).toFixed(1)}`;
        if (broken) from = place;
        last = place;
      });
      if (from !== null) areas.push([from, last]);
      if (number === 0 && tone === 1) {
        const base = y(0).toFixed(1);
        const shape = areas.map(([first, end]) => `M${x(at[first]).toFixed(1)} ${base}` +
          values.slice(first, end + 1).map((value, step) => `L${x(at[first + step]).toFixed(1)} ${y(value).toFixed(1)}`).join("") +
          `L${x(at[end]).toFixed(1)} ${base}Z`).join("");
        drawn.push(svg("path", { class: "area", d: shape }));
      }
      drawn.push(svg("path", { class: `s${tone}`, d: line }));
    });
    if (this.hovered !== null && at[this.hovered] !== undefined) {
      const place = x(at[this.hovered]);
      drawn.push(svg("line", { class: "hair", x1: place, x2: place, y1: TOP, y2: HIGH - BOTTOM }));
    }
    this.svg.replaceChildren(...drawn);
    this.tell(at);
  }

  tell(at) {
    const place = this.hovered ?? at.length - 1;
    const rows = this.series.map(({ name, key, format, tone }, number) => {
      const value = (this.columns[key] ?? [])[place];
      const row = document.createElement("li");
      row.className = `s${tone ?? number + 1}`;
      row.append(name);
      const figure = document.createElement("b");
      figure.textContent = value === null || value === undefined ? "–" : (format ?? this.format)(value);
      row.append(figure);
      return row;
    });
    const when = document.createElement("time");
    when.textContent = this.hovered === null ? "" : new Date(at[place] * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
    this.legend.replaceChildren(...rows, when);
    this.svg.setAttribute("aria-label", `${this.label}: ${rows.map((row) => row.textContent).join(", ")}`);
  }

  point(event) {
    const { at } = this.columns;
    if (event === null || !at.length) {
      this.hovered = null;
    } else {
      const { width, now, span } = this.scale();
      const box = this.svg.getBoundingClientRect();
      const asked = now - (1 - ((event.clientX - box.left) / box.width * width - LEFT) / (width - LEFT - 4)) * span;
      let best = 0;
      at.forEach((one, place) => { if (Math.abs(one - asked) < Math.abs(at[best] - asked)) best = place; });
      this.hovered = best;
    }
    this.draw();
  }
}
