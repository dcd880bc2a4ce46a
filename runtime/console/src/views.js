// The views that ask when they are looked at: tags with their trends, ledger, dead letters, certificates, messages, configuration.
import { $, ask, button, colour, element, fill, may, number, pill, stream, time } from "../console.js";
import { draw } from "./chart.js";

const POINTS = 2000; // of a trend
const SPAN = 20000; // milliseconds that a trend shows at first; it grows to a quarter of an hour

// ---- tags --------------------------------------------------------------------------------------------------------------------------

let chosen = null; // {tag, points, stop}

const shown = (value) => (typeof value === "number" ? number.format(value) : typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value));
const valueOf = (tag) => (tag.stale || !tag.sample ? { text: "", class: "n dim" } : { text: shown(tag.sample.value), class: "n" });
const ageOf = (now, tag) => (tag.time ? ((now - tag.time) / 1e6).toFixed(1) + " s" : "");
const qualityOf = (tag) => (tag.stale ? "stale" : tag.quality);

async function tags() {
  const query = new URLSearchParams({ limit: 200, stale: $("stale").checked, bad: $("bad").checked });
  const pattern = $("pattern").value.trim();
  if (pattern) query.set("name", pattern.includes("*") ? pattern : "*" + pattern + "*");
  try {
    const found = await (await ask("tags?" + query)).json();
    fill($("tag-list"), found.tags.map((tag) => ({ name: tag.tag, cells: { tag: button(tag.tag, () => choose(tag)), value: valueOf(tag),
      quality: pill(qualityOf(tag)), age: { text: ageOf(found.now, tag), class: "n" }, source: tag.source.split("/").pop(), address: tag.address } })));
    $("count").textContent = number.format(found.tags.length) + " of " + number.format(found.total);
    if (chosen) look(found);
  } catch (error) {
    $("count").textContent = error.message;
  }
}

function point(sample, quality) {
  const value = typeof sample.value === "boolean" ? Number(sample.value) : sample.value;
  return { t: sample.time / 1000, v: typeof value === "number" ? value : null, mark: quality === "good" ? "" : quality };
}

// Severity of an OPC UA status: its two highest bits.
const severity = (status) => ["good", "uncertain", "bad", "bad"][(status || 0) >>> 30];

async function choose(tag) {
  // A browser has few connections: the one of the tag before is given back.
  chosen?.stop.abort();
  const mine = { tag: tag.tag, points: tag.sample && !tag.stale ? [point(tag.sample, tag.quality)] : [], stop: new AbortController() };
  chosen = mine;
  $("tag").hidden = false;
  $("tag").querySelector("h3").textContent = tag.tag;
  $("tag").querySelector("h3").focus();
  say(tag, tag.time);
  why(tag.tag);
  try {
    const answer = await ask("tap?" + new URLSearchParams({ name: tag.tag }), "GET", mine.stop.signal);
    await stream(answer, "\n", (lines) => {
      for (const line of lines.filter(Boolean)) {
        const sample = JSON.parse(line);
        if (sample.tag !== mine.tag) continue;
        const before = mine.points.at(-1);
        const next = point(sample, severity(sample.status));
        if (before && next.t < before.t) continue;
        mine.points.push(next);
        if (mine.points.length > POINTS) mine.points.shift();
      }
      if (chosen === mine) trend();
    });
  } catch (error) {
    if (chosen === mine) $("trend-note").textContent = error.message;
  }
}

function say(tag, now) {
  $("value").textContent = valueOf(tag).text;
  $("quality").textContent = qualityOf(tag);
  $("quality").className = "pill " + colour(qualityOf(tag));
  $("since").textContent = tag.time ? "of " + time(tag.time) + (now ? ", " + ageOf(now, tag) + " ago" : "") : "never read";
}

async function look(found) {
  const tag = found.tags.find((one) => one.tag === chosen.tag);
  if (tag) say(tag, found.now);
  trend();
}

function trend() {
  const { points } = chosen;
  const to = Date.now(), from = Math.min(Math.max(points[0]?.t ?? to, to - 15 * 60000), to - SPAN);
  const numbers = points.some((p) => p.v !== null);
  $("trend").toggleAttribute("hidden", !numbers);
  $("trend-note").textContent = numbers ? "As it comes, since this tag was chosen. Red: no value. Marked: not to be trusted." : "This tag has no numbers to draw.";
  if (numbers) draw($("trend"), [{ class: "a", step: true, points: points.filter((p) => p.t >= from) }], { from, to });
}

async function why(tag) {
  try {
    const answer = await (await ask("why?" + new URLSearchParams({ tag }))).json();
    $("why-title").textContent = answer.broken ? "Broken at: " + answer.broken : "Every hop works";
    $("why-title").className = answer.broken ? "bad" : "good";
    $("why").replaceChildren(...answer.hops.map((hop) => {
      const item = element("li", undefined, hop.ok ? "" : "bad");
      item.append(element("span", hop.hop), element("span", hop.says));
      return item;
    }));
    $("why-help").textContent = answer.help || "";
  } catch (error) {
    $("why-title").textContent = error.message;
    $("why").replaceChildren();
  }
}

// ---- ledger ------------------------------------------------------------------------------------------------------------------------

function books(status) {
  fill($("books"), Object.entries(status.sources).map(([name, { ledger: l, adds_up }]) => ({ name, cells: { name, received: l.received, filtered: l.filtered,
    dropped_at_intake: l.dropped_at_intake, dead_at_intake: l.dead_at_intake, appended: l.appended, produced: l.produced, dead_at_send: l.dead_at_send,
    dropped_from_log: l.dropped_from_log, waiting: l.waiting, adds_up: { text: adds_up ? "yes" : "no: report it", class: adds_up ? "good" : "bad" } } })));
}

async function lost() {
  const window = $("window").value;
  const query = window ? "?since=" + (Date.now() - window * 1000) * 1000 : "";
  const answer = await (await ask("lost" + query)).json();
  $("none-lost").hidden = answer.lost.length > 0;
  $("lost").parentElement.hidden = !answer.lost.length;
  fill($("lost"), answer.lost.map((row) => ({ name: row.source + " " + row.reason, cells: { source: row.source, what: row.what, reason: row.reason,
    count: row.count, last: time(row.last) } })));
}

// ---- dead letters ------------------------------------------------------------------------------------------------------------------

async function dead() {
  $("dead-note").textContent = "reading ..";
  $("dead-read").disabled = true;
  try {
    const { kinds, letters } = await (await ask("dead?limit=50")).json();
    $("dead-note").textContent = kinds.length ? "" : "There are none.";
    fill($("kinds"), kinds.map((kind, at) => ({ name: kind.belongs_to + " " + at, cells: { count: kind.count, belongs_to: kind.belongs_to, reason: kind.example,
      replay: may("operator") ? button("Replay ..", () => replay(kind), "") : "" } })));
    $("letters").replaceChildren(...letters.map((letter) => {
      const card = element("div", undefined, "card letter");
      const head = element("p");
      head.append(element("span", letter.id, "strong"), element("span", "  belongs to " + letter.belongs_to + ", " + time(letter.timestamp_ms * 1000), "dim"));
      const payload = typeof letter.value === "string" ? letter.value : JSON.stringify(letter.value, null, 1);
      card.append(head, element("p", letter.reason, "bad"), element("pre", payload));
      card.querySelector("pre").tabIndex = 0;
      return card;
    }));
  } catch (error) {
    $("dead-note").textContent = error.message;
  }
  $("dead-read").disabled = false;
}

async function replay(kind) {
  // A kind is told by where its letters belong, and by the longest words of its reason between the values. How many that are is asked first.
  const reason = kind.reason.split(/`\.\.`|"\.\."|#/).reduce((longest, words) => (words.length > longest.length ? words : longest), "");
  const query = new URLSearchParams({ topic: kind.belongs_to, reason });
  try {
    const would = await (await ask("dead/replay?dry_run=true&" + query, "POST")).json();
    $("replay-says").textContent = number.format(would.sent) + " would be sent to " + kind.belongs_to + ", " + number.format(would.refused) + " would be refused again.";
    $("replay-reasons").replaceChildren(...would.reasons.slice(0, 5).map(([id, why]) => element("li", id + ": " + why)));
    $("replay-yes").disabled = would.sent === 0;
    $("replay").showModal();
    $("replay").onclose = async () => {
      if ($("replay").returnValue !== "yes") return;
      try {
        const done = await (await ask("dead/replay?dry_run=false&" + query, "POST")).json();
        await dead();
        $("dead-note").textContent = number.format(done.sent) + " sent, " + number.format(done.refused) + " refused. A letter stays where it is; it is not sent twice.";
      } catch (error) {
        $("dead-note").textContent = error.message;
      }
    };
  } catch (error) {
    $("dead-note").textContent = error.message;
  }
}

// ---- certificates ------------------------------------------------------------------------------------------------------------------

const SHELVES = { rejected: "turned away", trusted: "trusted", issuers: "issuer", own: "our own" };

async function certificates() {
  try {
    const all = await (await ask("certificates")).json();
    const waiting = all.filter((one) => one.shelf === "rejected").length;
    $("inbox").hidden = !waiting;
    $("inbox").textContent = waiting;
    const order = Object.keys(SHELVES);
    all.sort((a, b) => order.indexOf(a.shelf) - order.indexOf(b.shelf));
    fill($("certs"), all.map((one) => {
      const act = { rejected: ["Trust", "approve"], trusted: ["Trust no longer", "reject"] }[one.shelf];
      const decide = async () => {
        try {
          const done = await (await ask("certificates/" + one.thumbprint + "/" + act[1], "POST")).json();
          $("cert-note").textContent = done.subject + (done.trusted ? " is trusted; the source connects by itself" : " is trusted no longer");
        } catch (error) {
          $("cert-note").textContent = error.message;
        }
        await certificates();
      };
      return { name: one.thumbprint, cells: { shelf: { text: SHELVES[one.shelf] || one.shelf, class: one.shelf === "rejected" ? "warn" : "" }, subject: one.subject,
        names: one.names.join(", "), until: one.until, thumbprint: element("code", one.thumbprint.replace(/(.{4})(?=.)/g, "$1 ")),
        trust: act && may("admin") ? button(act[0], decide, one.shelf === "rejected" ? "main" : "") : "" } };
    }));
  } catch (error) {
    $("cert-note").textContent = error.message;
  }
}

// ---- messages, configuration -------------------------------------------------------------------------------------------------------

async function messages() {
  const said = await (await ask("messages")).json();
  $("no-messages").hidden = said.length > 0;
  $("said").parentElement.hidden = !said.length;
  fill($("said"), said.map((m, at) => ({ name: at, cells: { time: { text: time(m.time), class: "dim n" }, level: pill(m.level), message: m.message } })));
}

async function changes(dry) {
  $("config-problems").hidden = true;
  $("changes").replaceChildren();
  $("take").hidden = true;
  try {
    const answer = await (await ask("reload?dry_run=" + dry, "POST")).json();
    $("changes").replaceChildren(...answer.changes.map((change) => element("li", change)));
    const restart = answer.restarts_everything_because.join("; ");
    $("config-note").textContent = answer.taken === "nothing" ? "The files say what runs."
      : answer.taken === "live" ? (dry ? "Only these are stopped and started; everything else goes on." : "Taken: only these were stopped and started.")
      : (dry ? "Everything starts anew: " : "Taken, everything starts anew: ") + restart;
    $("take").hidden = !dry || answer.taken === "nothing";
  } catch (error) {
    $("config-note").textContent = "The files are not taken; what runs goes on.";
    $("config-problems").hidden = false;
    $("config-problems").textContent = error.message;
  }
}

export function begin({ status }) {
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  $("filter").addEventListener("input", tags);
  $("window").addEventListener("change", lost);
  $("dead-read").addEventListener("click", dead);
  $("look").addEventListener("click", () => changes(true));
  $("take").addEventListener("click", () => changes(false));
  const quietly = (ask) => () => ask().catch(() => {});
  return {
    overview: { open: quietly(certificates) },
    tags: { open: tags, tick: tags },
    ledger: { open: quietly(async () => { if (status()) books(status()); await lost(); }), status: books, tick: quietly(lost) },
    dead: { open: dead },
    certificates: { open: certificates, tick: certificates },
    messages: { open: quietly(messages), tick: quietly(messages) },
    configuration: { open: () => { $("look").hidden = !may("operator"); } },
  };
}
