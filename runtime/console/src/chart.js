// A chart in SVG: lines or steps over time, gaps where nothing is known, marks where a value is not to be trusted. Times in milliseconds.
const NAMES = "http://www.w3.org/2000/svg";
const LEFT = 56, BOTTOM = 24, TOP = 10, RIGHT = 14;
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumSignificantDigits: 4 });

function node(name, attributes, text) {
  const made = document.createElementNS(NAMES, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Round steps: 1, 2 or 5 times a power of ten.
export function ticks(low, high, about) {
  if (!(high > low)) return [low];
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return found;
}

// series: [{class, step, points: [{t, v, mark}]}]; v null: a gap begins. mark: "uncertain", "bad" or nothing.
export function draw(svg, series, { from, to, zero = false }) {
  const width = Math.max(200, svg.clientWidth || 600), height = svg.clientHeight || 240;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const known = series.flatMap((one) => one.points).filter((p) => typeof p.v === "number" && Number.isFinite(p.v)).map((p) => p.v);
  let low = zero ? 0 : Math.min(...known), high = Math.max(...known);
  if (!known.length) { low = 0; high = 1; }
  if (high === low) { high += zero ? 1 : Math.abs(high) * 0.1 || 1; if (!zero) low -= Math.abs(low) * 0.1 || 1; }
  const margin = (high - low) * 0.06;
  high += margin;
  if (!zero) low -= margin;
  const x = (t) => LEFT + ((t - from) / (to - from || 1)) * (width - LEFT - RIGHT);
  const y = (v) => TOP + (1 - (v - low) / (high - low)) * (height - TOP - BOTTOM);
  const parts = [];
  for (const at of ticks(low, high, 4)) {
    parts.push(node("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(at), y2: y(at) }));
    parts.push(node("text", { x: LEFT - 8, y: y(at) + 4, "text-anchor": "end" }, short.format(at)));
  }
  for (let i = 0; i <= 3; i++) {
    const t = from + ((to - from) * i) / 3;
    parts.push(node("text", { x: x(t), y: height - 5, "text-anchor": i === 0 ? "start" : i === 3 ? "end" : "middle" }, clock.format(new Date(t))));
  }
  for (const one of series) {
    let path = "", open = false, last = null, gap = null;
    for (const p of one.points) {
      if (p.v === null) {
        if (open && one.step) path += `H${x(p.t).toFixed(1)}`;
        open = false;
        gap = gap ?? p.t;
        continue;
      }
      if (gap !== null) parts.push(node("rect", { class: "gap", x: x(gap), y: TOP, width: Math.max(1, x(p.t) - x(gap)), height: height - TOP - BOTTOM }));
      gap = null;
      const at = `${x(p.t).toFixed(1)} ${y(p.v).toFixed(1)}`;
      path += !open ? `M${at}` : one.step ? `H${x(p.t).toFixed(1)}V${y(p.v).toFixed(1)}` : `L${at}`;
      open = true;
      last = p;
    }
    if (gap !== null) parts.push(node("rect", { class: "gap", x: x(gap), y: TOP, width: Math.max(1, x(to) - x(gap)), height: height - TOP - BOTTOM }));
    if (open && one.step) path += `H${x(to).toFixed(1)}`;
    parts.push(node("path", { class: one.class, d: path || "M0 0" }));
    const marked = one.points.filter((p) => p.v !== null && (p.mark || one.points.length < 80 && one.step));
    for (const p of marked) parts.push(node("circle", { class: p.mark === "bad" ? "badpoint" : p.mark || "", cx: x(p.t), cy: y(p.v), r: p.mark ? 4 : 2.5 }));
    if (last && !marked.length) parts.push(node("circle", { class: one.class, cx: x(last.t), cy: y(last.v), r: 2 }));
  }
  svg.replaceChildren(...parts);
}
