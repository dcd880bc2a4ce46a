// The view of topics: what is declared and what Kafka has, who writes and reads it, the newest records, and the schema they are written with.
import { $, ask, button, element, fill, number, time } from "../console.js";

let opened = null; // {name, stop}
let asked = 0;

async function topics() {
  const mine = ++asked;
  if (!$("topic-list").tBodies[0].rows.length) $("topics-note").textContent = "asking Kafka ..";
  try {
    const answer = await (await ask("topics")).json();
    if (mine !== asked) return;
    $("topics-note").textContent = answer.why ? "Kafka is not asked: " + answer.why : "";
    fill($("topic-list"), answer.topics.map((t) => ({ name: t.name, cells: { name: button(t.name, () => open(t)), format: t.format, schema: t.schema?.name ?? "",
      key: t.key, partitions: t.partitions ?? { text: "not there", class: "n warn" }, records: t.records ?? "", writers: t.writers.join(", "), readers: t.readers.join(", ") } })));
  } catch (error) {
    if (mine === asked) $("topics-note").textContent = error.message;
  }
}

function open(topic) {
  opened?.stop.abort();
  const mine = { name: topic.name, stop: new AbortController() };
  opened = mine;
  $("topic").hidden = false;
  $("topic").querySelector("h3").textContent = topic.name;
  $("topic").querySelector("h3").focus();
  const facts = [["Dead letters go to", topic.dead_letter], ["Shape", topic.shape], ["Subject", topic.schema?.subject], ["Declared", topic.declared ? "yes" : "no: JSON, no schema"]];
  $("topic").querySelector("dl").replaceChildren(...facts.filter(([, value]) => value).flatMap(([key, value]) => [element("dt", key), element("dd", value)]));
  $("topic-schema").hidden = !topic.schema;
  $("topic-schema").querySelector("pre").textContent = topic.schema?.text ?? "";
  records(mine);
}

async function records(mine) {
  $("records").replaceChildren();
  $("records-note").textContent = "reading ..";
  try {
    const { records } = await (await ask("topics/" + encodeURIComponent(mine.name), "GET", mine.stop.signal)).json();
    if (opened !== mine) return;
    $("records-note").textContent = records.length ? "" : "There are none.";
    $("records").replaceChildren(...records.map((record) => {
      const card = element("div", undefined, "letter");
      const head = element("p");
      head.append(element("span", record.partition + ":" + number.format(record.offset), "strong"),
        element("span", "  " + time(record.timestamp * 1000) + (record.key === null ? "" : "  " + record.key) + "  " + number.format(record.size) + " B", "dim"));
      const body = element("pre", JSON.stringify(record.value, null, 1));
      body.tabIndex = 0;
      card.append(head, body);
      return card;
    }));
  } catch (error) {
    if (opened === mine) $("records-note").textContent = error.message;
  }
}

export function begin() {
  return { open: topics };
}
