// The view of tags: a list that is asked for again and again, and one tag with its value, its trend, and the way it takes to Kafka and the sinks.
import { $, ask, button, colour, element, fill, number, pill, seen, stream, time } from "../console.js";
import { draw } from "./chart.js";

const POINTS = 4000; // of a trend, before it is thinned
const SPAN = 20000; // milliseconds that a trend shows at least; it grows to what is chosen
const LOOK_AGAIN = 15000; // milliseconds until the way of a tag is asked for once more where it was whole

let status = () => null;
let chosen = null; // {tag, points, stop, why: {at, broken, asking}}

const shown = (value) => (typeof value === "number" ? number.format(value) : typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value));
const valueOf = (tag) => (tag.stale || !tag.sample ? { text: "", class: "n dim" } : { text: shown(tag.sample.value), class: "n" });
const ageOf = (now, tag) => (tag.time ? ((now - tag.time) / 1e6).toFixed(1) + " s" : "");
const qualityOf = (tag) => (tag.stale ? "stale" : tag.quality);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// ---- the list ----------------------------------------------------------------------------------------------------------------------

// Answers may overtake each other: an older one never replaces a newer one.
let asked = 0, answered = 0;

async function tags() {
  const mine = ++asked;
  const query = new URLSearchParams({ limit: 200, stale: $("stale").checked, bad: $("bad").checked });
  const pattern = $("pattern").value.trim();
  if (pattern) query.set("name", pattern.includes("*") ? pattern : "*" + pattern + "*");
  try {
    const found = await (await ask("tags?" + query)).json();
    if (mine < answered) return;
    fill($("tag-list"), found.tags.map((tag) => ({ name: tag.tag, cells: { tag: button(tag.tag, () => choose(tag)), value: valueOf(tag),
      quality: pill(qualityOf(tag)), age: { text: ageOf(found.now, tag), class: "n" }, source: tag.source.split("/").pop(), address: tag.address } })));
    $("count").textContent = number.format(found.tags.length) + " of " + number.format(found.total);
    if (chosen) look(found);
  } catch (error) {
    if (mine < answered) return;
    $("count").textContent = error.message;
  }
  answered = mine;
}

// ---- one tag -----------------------------------------------------------------------------------------------------------------------

function point(sample, quality) {
  const value = typeof sample.value === "boolean" ? Number(sample.value) : sample.value;
  return { t: sample.time / 1000, v: typeof value === "number" ? value : null, mark: quality === "good" ? "" : quality };
}

// Severity of an OPC UA status: its two highest bits.
const severity = (status) => ["good", "uncertain", "bad", "bad"][(status || 0) >>> 30];

async function choose(tag) {
  // A browser has few connections: the one of the tag before is given back.
  chosen?.stop.abort();
  const now = tag.sample && !tag.stale ? [point(tag.sample, tag.quality)] : [];
  const mine = { tag: tag.tag, points: now, stop: new AbortController(), why: { at: 0, broken: null, asking: false }, note: "" };
  chosen = mine;
  $("tag").hidden = false;
  $("tag").querySelector("h3").textContent = tag.tag;
  $("tag").querySelector("h3").focus();
  $("why-title").textContent = "";
  $("why").replaceChildren();
  $("why-help").textContent = "";
  say(tag, tag.time);
  why(mine);
  while (chosen === mine) {
    const end = await seen(mine.stop.signal);
    past(mine);
    try {
      const answer = await ask("tap?" + new URLSearchParams({ name: tag.tag }), "GET", end);
      await stream(answer, "\n", (lines) => {
        for (const line of lines.filter(Boolean)) {
          const sample = JSON.parse(line);
          if (sample.tag !== mine.tag) continue;
          const next = point(sample, severity(sample.status));
          if (next.t < (mine.points.at(-1)?.t ?? 0)) continue;
          mine.points.push(next);
          if (mine.points.length > POINTS) mine.points = thin(mine.points, POINTS / 2);
        }
        if (chosen === mine) trend();
      });
    } catch (error) {
      if (error.name === "AbortError") continue;
      if (chosen === mine) $("trend-note").textContent = error.message;
    }
    await pause(2000);
  }
}

const span = () => Number($("span").value) * 1000;

// What the tag was before: out of its topic, where that is too much for one question out of the lake.
async function past(mine) {
  const window = span(), from = Date.now() - window;
  if (!window) { mine.note = "As it comes."; return; }
  let points = [];
  try {
    const answer = await (await ask("trend?" + new URLSearchParams({ tag: mine.tag, seconds: window / 1000 }), "GET", mine.stop.signal)).json();
    points = answer.points.map(([at, v, status]) => ({ t: at / 1000, v, mark: severity(status) === "good" ? "" : severity(status) }));
    mine.note = "Out of topic " + answer.topic + (answer.complete ? "" : ", which holds more than is read for one question: since " + time(answer.from)) + ", and as it comes.";
    if (!answer.complete) points = await older(mine, from, answer.from / 1000, points);
  } catch (error) {
    mine.note = "As it comes: " + error.message;
  }
  if (chosen !== mine) return;
  const first = points.at(-1)?.t ?? 0;
  mine.points = points.concat(mine.points.filter((p) => p.t > first));
  trend();
}

// Where there is a lake it has the rest.
async function older(mine, from, to, points) {
  if (!Object.values(status()?.sinks ?? {}).some((sink) => sink.type === "lake")) return points;
  try {
    const query = new URLSearchParams({ tag: mine.tag, from: new Date(from).toISOString(), to: new Date(to).toISOString(), as: "minmax", points: 1000 });
    const { tags } = await (await ask("history?" + query, "GET", mine.stop.signal)).json();
    const before = (tags[0]?.rows ?? []).map((row) => ({ t: Date.parse(row.time), v: typeof row.value === "number" ? row.value : null, mark: "" }));
    if (before.length) mine.note = mine.note.replace(/: since .*?,/, ", before that out of the lake,");
    return before.filter((p) => Number.isFinite(p.t) && p.t < (points[0]?.t ?? to)).concat(points);
  } catch {
    return points;
  }
}

// Fewer points that look the same: of each stretch of time the first, the lowest, the highest, the last, and the first gap.
export function thin(points, most) {
  const from = points[0].t, width = (points.at(-1).t - from) / (most / 5) || 1;
  const kept = [];
  let stretch = [], at = 0;
  const close = () => {
    const known = stretch.filter((p) => p.v !== null);
    const by = (pick) => known.reduce((best, p) => (best === null || pick(p.v, best.v) ? p : best), null);
    const keep = new Set([stretch[0], stretch.at(-1), by((a, b) => a < b), by((a, b) => a > b), stretch.find((p) => p.v === null)]);
    kept.push(...stretch.filter((p) => keep.has(p)));
    stretch = [];
  };
  for (const p of points) {
    const of = Math.floor((p.t - from) / width);
    if (of !== at) { close(); at = of; }
    stretch.push(p);
  }
  close();
  return kept;
}

function say(tag, now) {
  $("value").textContent = valueOf(tag).text;
  $("quality").textContent = qualityOf(tag);
  $("quality").className = "pill " + colour(qualityOf(tag));
  $("since").textContent = tag.time ? "of " + time(tag.time) + (now ? ", " + ageOf(now, tag) + " ago" : "") : "never read";
}

function look(found) {
  const tag = found.tags.find((one) => one.tag === chosen.tag);
  if (!tag) return;
  say(tag, found.now);
  trend();
  // What is broken may be mended by now; what is whole is asked for now and then.
  if (chosen.why.broken || Date.now() - chosen.why.at > LOOK_AGAIN) why(chosen);
}

function trend() {
  const { points, note } = chosen;
  const to = Date.now(), longest = span() || 15 * 60000;
  const from = Math.min(Math.max(points[0]?.t ?? to, to - longest), to - SPAN);
  const numbers = points.some((p) => p.v !== null);
  $("trend").toggleAttribute("hidden", !numbers);
  $("trend-note").textContent = numbers ? note + " Red: no value. Marked: not to be trusted." : "This tag has no numbers to draw.";
  if (numbers) draw($("trend"), [{ class: "a", step: true, points: points.filter((p) => p.t >= from) }], { from, to });
}

async function why(mine) {
  if (mine.why.asking) return;
  mine.why.asking = true;
  try {
    const answer = await (await ask("why?" + new URLSearchParams({ tag: mine.tag }), "GET", mine.stop.signal)).json();
    if (chosen !== mine) return;
    mine.why.broken = answer.broken;
    $("why-title").textContent = answer.broken ? "Broken at: " + answer.broken : "Every hop works";
    $("why-title").className = answer.broken ? "bad" : "good";
    $("why").replaceChildren(...answer.hops.map((hop) => {
      const item = element("li", undefined, hop.ok ? "" : "bad");
      item.append(element("span", hop.hop), element("span", hop.says));
      return item;
    }));
    $("why-help").textContent = answer.help || "";
  } catch (error) {
    if (chosen !== mine) return;
    mine.why.broken = error.message;
    $("why-title").textContent = error.message;
    $("why-title").className = "bad";
    $("why").replaceChildren();
  } finally {
    mine.why.at = Date.now();
    mine.why.asking = false;
  }
}

export function begin(means) {
  status = means.status;
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  $("filter").addEventListener("input", tags);
  $("span").addEventListener("change", () => {
    if (!chosen) return;
    chosen.points = chosen.points.slice(-1);
    past(chosen);
  });
  return { open: tags, tick: tags };
}
