// The views that ask when they are looked at: ledger, dead letters, certificates, messages, configuration.
import { $, ask, button, element, fill, may, number, pill, time } from "../console.js";
import { begin as beginTags } from "./tags.js";
import { begin as beginTopics } from "./topics.js";

// ---- ledger ------------------------------------------------------------------------------------------------------------------------

function books(status) {
  fill($("books"), Object.entries(status.sources).map(([name, { ledger: l, adds_up }]) => ({ name, cells: { name, received: l.received, filtered: l.filtered,
    dropped_at_intake: l.dropped_at_intake, dead_at_intake: l.dead_at_intake, appended: l.appended, produced: l.produced, dead_at_send: l.dead_at_send,
    dropped_from_log: l.dropped_from_log, waiting: l.waiting, adds_up: { text: adds_up ? "yes" : "no: report it", class: adds_up ? "good" : "bad" } } })));
}

let lostAsked = 0;

async function lost() {
  const mine = ++lostAsked;
  const window = $("window").value;
  const query = window ? "?since=" + (Date.now() - window * 1000) * 1000 : "";
  const answer = await (await ask("lost" + query)).json();
  if (mine !== lostAsked) return;
  $("none-lost").hidden = answer.lost.length > 0;
  $("lost").parentElement.hidden = !answer.lost.length;
  fill($("lost"), answer.lost.map((row) => ({ name: row.source + " " + row.reason, cells: { source: row.source, what: row.what, reason: row.reason,
    count: row.count, last: time(row.last) } })));
}

// ---- dead letters ------------------------------------------------------------------------------------------------------------------

// A reading that ends after a newer one has nothing to say any more. One that failed is tried again as long as somebody looks.
let deadAsked = 0, deadFailed = false;

async function dead() {
  const mine = ++deadAsked;
  $("dead-note").textContent = "reading ..";
  $("dead-read").disabled = true;
  try {
    const { kinds, letters } = await (await ask("dead?limit=50")).json();
    if (mine !== deadAsked) return;
    deadFailed = false;
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
    if (mine !== deadAsked) return;
    deadFailed = true;
    $("dead-note").textContent = error.message;
  }
  $("dead-read").disabled = false;
}

async function replay(kind) {
  // A kind is told by where its letters belong, and by the longest words of its reason between the values. How many that are is asked first.
  const reason = kind.reason.split(/`\.\.`|"\.\."|#/).reduce((longest, words) => (words.length > longest.length ? words : longest), "");
  const query = new URLSearchParams({ topic: kind.belongs_to, reason });
  $("replay-says").textContent = "";
  $("dead-note").textContent = "asking what would become of them ..";
  try {
    const would = await (await ask("dead/replay?dry_run=true&" + query, "POST")).json();
    $("replay-says").textContent = number.format(would.sent) + " would be sent to " + kind.belongs_to + ", " + number.format(would.refused) + " would be refused again.";
    $("replay-reasons").replaceChildren(...would.reasons.slice(0, 5).map(([id, why]) => element("li", id + ": " + why)));
    $("replay-yes").disabled = would.sent === 0;
    $("dead-note").textContent = "";
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
    const sources = Object.entries(answer.sources).map(([name, how]) => `source ${name}: ${how}`);
    $("changes").replaceChildren(...answer.changes.concat(sources).map((change) => element("li", change)));
    const restart = answer.restarts_everything_because.join("; ");
    $("config-note").textContent = answer.taken === "nothing" ? "The files say what runs."
      : answer.taken === "live" ? (dry ? "Only these change; everything else goes on." : "Taken: only these changed.")
      : (dry ? "Everything starts anew: " : "Taken, everything starts anew: ") + restart;
    $("take").hidden = !dry || answer.taken === "nothing";
  } catch (error) {
    $("config-note").textContent = "The files are not taken; what runs goes on.";
    $("config-problems").hidden = false;
    $("config-problems").textContent = error.message;
  }
}

const quietly = (ask) => () => ask().catch(() => {});

export function begin({ status }) {
  $("window").addEventListener("change", quietly(lost));
  $("dead-read").addEventListener("click", dead);
  $("look").addEventListener("click", () => changes(true));
  $("take").addEventListener("click", () => changes(false));
  return {
    overview: { open: quietly(certificates) },
    tags: beginTags({ status }),
    topics: beginTopics(),
    ledger: { open: quietly(async () => { if (status()) books(status()); await lost(); }), status: books, tick: quietly(lost) },
    dead: { open: dead, tick: () => { if (deadFailed && !$("dead-read").disabled) dead(); } },
    certificates: { open: certificates, tick: certificates },
    messages: { open: quietly(messages), tick: quietly(messages) },
    configuration: { open: () => { $("look").hidden = !may("operator"); } },
  };
}
