// The console: the status as it comes, every second, and views that ask when they are looked at. Nothing is built from text: a payload is never markup.
import { draw } from "./page/chart.js";
import { begin as beginViews } from "./page/views.js";

export const $ = (id) => document.getElementById(id);
export const number = new Intl.NumberFormat();
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });
export const time = (micros) => (micros ? when.format(new Date(micros / 1000)) : "");
const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) { bytes /= 1024; at++; }
  return new Intl.NumberFormat(undefined, { maximumFractionDigits: at ? 1 : 0 }).format(bytes) + " " + units[at];
};
const KEPT = 300; // seconds of rates
const state = { before: null, rates: [], views: {}, opened: null };
export const me = { role: "viewer" };
export const may = (role) => ["viewer", "operator", "admin"].indexOf(me.role) >= ["viewer", "operator", "admin"].indexOf(role);

// ---- asking ------------------------------------------------------------------------------------------------------------------------

export async function ask(path, method = "GET", signal) {
  const token = sessionStorage.getItem("token");
  const answer = await fetch(path, { method, signal, headers: token ? { Authorization: "Bearer " + token } : {} });
  if (answer.status === 401) logIn();
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(said.error || "HTTP " + answer.status), { problems: said.problems });
  }
  return answer;
}

// A browser has few connections to one server, for all its pages: one that nobody sees gives its streams back.
let unseen = new AbortController();
document.addEventListener("visibilitychange", () => {
  if (document.hidden) unseen.abort();
  else unseen = new AbortController();
});

// Waits until the page is seen. Returns what ends a stream when it is not any more, or when `other` says so.
export async function seen(other) {
  while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  return other ? AbortSignal.any([other, unseen.signal]) : unseen.signal;
}

// Lines of a stream as they come, each to `take`, until it ends.
export async function stream(answer, separator, take) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split(separator);
    rest = parts.pop();
    take(parts);
  }
}

function logIn() {
  $("login").hidden = false;
  document.querySelectorAll("main > section").forEach((section) => { section.hidden = true; });
}

async function whoIsIt() {
  const answer = await (await ask("me")).json();
  Object.assign(me, answer);
  $("who").textContent = answer.login ? answer.name + ", " + answer.role : "";
  $("logout").hidden = !answer.login;
  $("login").hidden = true;
  show();
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const user = $("user").value.trim(), password = $("password").value;
  $("password").value = "";
  $("login-error").textContent = "";
  try {
    let token = password.trim();
    if (user) {
      const body = JSON.stringify({ user, password });
      const answer = await fetch("login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
      const said = await answer.json();
      if (!answer.ok) throw new Error(said.error);
      token = said.token;
    }
    sessionStorage.setItem("token", token);
    await whoIsIt();
  } catch (error) {
    $("login-error").textContent = error.message;
  }
});
$("logout").addEventListener("click", async () => {
  await ask("logout", "POST").catch(() => {});
  sessionStorage.removeItem("token");
  location.reload();
});

// ---- drawing -----------------------------------------------------------------------------------------------------------------------

export function colour(status) {
  if (status === "Running" || status === "good") return "good";
  if (status === "Blocked" || status === "bad" || status === "error") return "bad";
  if (status === "Stopped" || status === "Paused" || status === "none") return "dim";
  return "warn";
}

export function element(name, text, style) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (style) made.className = style;
  return made;
}

export const pill = (status) => element("span", status, "pill " + colour(status));

export function button(text, act, style = "link") {
  const made = element("button", text, style);
  made.type = "button";
  made.act = act;
  made.addEventListener("click", () => made.act());
  return made;
}

// Rows: {name, cells: {key: text | number | node | {text, class}}}. A cell says which number it is, so that it can be looked up. What is there already
// stays the same element: a button is not taken away under a finger, nor the focus.
export function fill(table, rows) {
  const body = table.tBodies[0];
  const known = new Map([...body.rows].map((row) => [row.dataset.name, row]));
  const wanted = rows.map(({ name, cells }) => {
    const row = known.get(String(name)) ?? document.createElement("tr");
    row.dataset.name = name;
    Object.entries(cells).forEach(([key, cell], at) => {
      const td = row.cells[at] ?? row.insertCell();
      td.dataset.key = key;
      put(td, cell);
    });
    return row;
  });
  if (wanted.length !== body.rows.length || wanted.some((row, at) => row !== body.rows[at])) body.replaceChildren(...wanted);
}

function put(td, cell) {
  if (cell instanceof Node) {
    const old = td.firstElementChild;
    if (!old || td.childNodes.length !== 1 || !old.isEqualNode(cell)) td.replaceChildren(cell);
    else if (cell.act) old.act = cell.act;
    return;
  }
  const { text, class: style } = typeof cell === "number" ? { text: number.format(cell), class: "n" } : typeof cell === "object" && cell ? cell : { text: cell ?? "", class: "" };
  if (td.className !== style) td.className = style;
  if (td.firstElementChild || td.textContent !== String(text)) td.textContent = text;
}

const sum = (counts) => Object.values(counts || {}).reduce((all, one) => all + one, 0);
const lostOf = (s) => sum(s.ledger.lost) + s.ledger.dropped_at_intake + s.ledger.dropped_from_log;
const deadOf = (s) => s.ledger.dead_at_intake + s.ledger.dead_at_send;

function tile(key, label, value, note, style) {
  const made = element("div", undefined, "tile " + (style || ""));
  made.dataset.key = key;
  made.append(element("span", label), element("b", value), element("small", note || ""));
  return made;
}

function overview(status, seconds) {
  const sources = Object.values(status.sources);
  const total = (of) => sources.reduce((all, s) => all + of(s), 0);
  const last = state.before && Object.values(state.before.status.sources);
  const rate = (of) => (last && seconds > 0 ? Math.max(0, (total(of) - last.reduce((all, s) => all + of(s), 0)) / seconds) : 0);
  const [received, produced] = [rate((s) => s.ledger.received), rate((s) => s.ledger.produced)];
  if (last) state.rates.push({ t: Date.now(), received, produced });
  if (state.rates.length > KEPT) state.rates.shift();
  const waiting = total((s) => s.ledger.waiting), lost = total(lostOf), dead = total(deadOf);
  const fullest = sources.reduce((most, s) => Math.max(most, s.log_limit ? s.log_bytes / s.log_limit : 0), 0);
  const percent = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 });
  const sinks = Object.keys(status.sinks).length;
  const lag = Object.values(status.sinks).reduce((all, s) => all + s.counts.lag, 0);
  $("tiles").replaceChildren(
    tile("received_rate", "Received", number.format(Math.round(received)) + "/s", number.format(total((s) => s.ledger.received)) + " in all", "good"),
    tile("produced_rate", "To Kafka", number.format(Math.round(produced)) + "/s", number.format(total((s) => s.ledger.produced)) + " in all", "good"),
    tile("waiting", "Waiting in the logs", number.format(waiting), status.kafka.in_flight + " in flight", waiting > 100000 ? "warn" : "good"),
    tile("lost", "Lost", number.format(lost), lost ? "see the ledger" : "nothing", lost ? "bad" : "good"),
    tile("dead", "Dead letters", number.format(dead), dead ? "look, mend, replay" : "none", dead ? "warn" : "good"),
    tile("kafka", "Kafka", status.kafka.status, status.kafka.registry ? "the registry is away" : "", colour(status.kafka.status)),
    tile("log", "Fullest log", percent.format(fullest), size(status.disk.free) + " free on disk", fullest > 0.7 || status.disk.low ? "bad" : "good"),
    tile("lag", "Sinks behind", number.format(lag), sinks + (sinks === 1 ? " sink" : " sinks"), "good"),
  );
  $("fine").hidden = status.troubles.length > 0;
  $("troubles").replaceChildren(...status.troubles.map((t) => {
    const item = element("li", undefined, colour(t.status));
    const head = element("p");
    head.append(element("span", t.what + " ", "strong"), pill(t.status), element("span", t.since ? " since " + time(t.since) : "", "dim"));
    item.append(head, element("p", t.reason), element("p", t.help, "dim"));
    return item;
  }));
  if (!$("overview").hidden) {
    const to = Date.now(), from = Math.min(state.rates[0]?.t ?? to - 60000, to - 60000);
    const of = (key, style) => ({ class: style, points: state.rates.map((r) => ({ t: r.t, v: r[key] })) });
    draw($("rates"), [of("received", "a"), of("produced", "b")], { from, to, zero: true });
  }
}

function connectors(status, seconds) {
  const count = (value, style) => ({ text: number.format(value), class: "n " + (value ? style : "dim") });
  fill($("sources"), Object.entries(status.sources).map(([name, s]) => {
    const last = state.before && state.before.status.sources[name];
    const rate = last && seconds > 0 ? Math.max(0, (s.ledger.received - last.ledger.received) / seconds) : 0;
    const log = document.createElement("meter");
    log.max = s.log_limit; log.value = s.log_bytes; log.high = s.log_limit * 0.7;
    log.setAttribute("aria-label", "log of " + name);
    log.title = size(s.log_bytes) + " of " + size(s.log_limit);
    return { name, cells: { name: button(name, () => open(name, "sources")), type: s.type, status: pill(s.status), tags: s.tags, rate: Math.round(rate),
      received: s.ledger.received, produced: s.ledger.produced, waiting: s.ledger.waiting, dead: count(deadOf(s), "warn"), lost: count(lostOf(s), "bad"), log } };
  }));
  fill($("sinks"), Object.entries(status.sinks).map(([name, s]) => ({ name, cells: { name: button(name, () => open(name, "sinks")), type: s.type,
    status: pill(s.status), consumed: s.counts.consumed, written: s.counts.written, dead: count(s.counts.dead, "warn"), lag: s.counts.lag } })));
  if (state.opened) detail(status);
}

function open(name, kind) {
  state.opened = { name, kind };
  detail(state.before.status);
  $("connector").querySelector("h3").focus();
}

function detail(status) {
  const { name, kind } = state.opened;
  const s = status[kind][name];
  $("connector").hidden = !s;
  if (!s) return;
  $("connector").querySelector("h3").textContent = name;
  const facts = [["Status", s.reason ? s.status + ": " + s.reason : s.status], ["Since", time(s.since)], ["Sessions", number.format(s.sessions)],
    ["Last failure", s.last_failure], ["Survives", s.guarantee], ["Devices and subscriptions", number.format(s.parts_total)],
    ["Log", s.log_limit ? size(s.log_bytes) + " of " + size(s.log_limit) : null], ["Newest record", s.pace && time(s.pace.newest)],
    ["Oldest that waits", s.pace && time(s.pace.waiting_since)]];
  $("connector").querySelector("dl").replaceChildren(...facts.filter(([, value]) => value).flatMap(([key, value]) => [element("dt", key), element("dd", value)]));
  const parts = Object.entries(s.parts || {});
  $("parts").parentElement.hidden = !parts.length;
  fill($("parts"), parts.map(([part, reason]) => ({ name: part, cells: { part, reason } })));
}

function take(status) {
  const now = performance.now();
  const seconds = state.before ? (now - state.before.at) / 1000 : 0;
  $("site").textContent = status.site;
  $("overall").textContent = status.status === "Running" ? "everything runs" : status.status;
  $("overall").className = "pill " + colour(status.status);
  overview(status, seconds);
  connectors(status, seconds);
  state.before = { status, at: now };
  views[current()]?.status?.(status);
}

async function follow() {
  for (;;) {
    try {
      const answer = await ask("events", "GET", await seen());
      await stream(answer, "\n\n", (parts) => {
        const last = parts.filter((part) => part.startsWith("data: ")).pop();
        if (last) take(JSON.parse(last.slice(6)));
      });
      throw new Error("the connection ended");
    } catch (error) {
      if (error.name === "AbortError") continue;
      $("overall").textContent = "no connection: " + error.message + "; what is shown is old";
      $("overall").className = "pill bad";
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

// ---- views -------------------------------------------------------------------------------------------------------------------------

const views = beginViews({ status: () => state.before?.status });
const names = [...document.querySelectorAll("nav a")].map((link) => link.hash.slice(1));
const current = () => (names.includes(location.hash.slice(1)) ? location.hash.slice(1) : names[0]);

function show() {
  if (!$("login").hidden) return;
  const name = current();
  document.querySelectorAll("main > section").forEach((section) => { section.hidden = section.id !== name; });
  document.querySelectorAll("nav a").forEach((link) => {
    if (link.hash === "#" + name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  document.title = "Millrace: " + name;
  views[name]?.open?.();
}
// Who changes the view with a key may have said what is to have the focus there.
let focus = null;
addEventListener("hashchange", () => { show(); (focus ?? $("main")).focus(); focus = null; });
setInterval(() => { if (!document.hidden && $("login").hidden) views[current()]?.tick?.(); }, 2000);
// g and a letter goes to a view; / to the filter.
let went = -Infinity;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === "/") {
    event.preventDefault();
    if (current() === "tags") return $("pattern").focus();
    focus = $("pattern");
    location.hash = "tags";
    return;
  }
  // When a key was pressed, not when there was time to look at it.
  if (event.key === "g") { went = event.timeStamp; return; }
  const to = event.timeStamp - went < 1500 && names.find((name) => name[0] === event.key);
  if (to) location.hash = to;
  went = -Infinity;
});

const themes = ["", "light", "dark"];
function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = { "": "Auto", light: "Light", dark: "Dark" }[name];
  localStorage.setItem("theme", name);
}
theme(themes.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "");
$("theme").addEventListener("click", () => theme(themes[(themes.indexOf(localStorage.getItem("theme") || "") + 1) % 3]));

show();
whoIsIt().catch(() => {});
follow();
