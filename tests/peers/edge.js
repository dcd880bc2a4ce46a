// A Sparkplug B edge node on Eclipse Tahu's sparkplug-client, told what to do by lines of JSON on its standard input and
// answering each with a line: {"do": "birth" | "device_birth" | "data" | "device_data" | "device_death" |
// "skip_seq" | "stop", ...}.
const [, , folder, url, group, node] = process.argv;
const sparkplug = require(folder + "/node_modules/sparkplug-client");
const client = sparkplug.newClient({
  serverUrl: url, username: "", password: "", groupId: group, edgeNode: node, clientId: `${group}-${node}`, version: "spBv1.0", publishDeath: true,
});
const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const births = { node: null, devices: {} };
// A JSON number can't carry 64 bits: large integers come as strings.
const Long = require(folder + "/node_modules/long");
const revive = (metrics) => metrics.map((metric) => {
  if (typeof metric.value === "string" && /^U?Int64$/.test(metric.type)) metric.value = Long.fromString(metric.value, metric.type === "UInt64");
  if (typeof metric.value === "string" && metric.type === "Bytes") metric.value = Buffer.from(metric.value, "base64");
  return metric;
});
const payload = (order) => ({ timestamp: order.timestamp ?? Date.now(), metrics: revive(order.metrics || []) });
client.on("error", (error) => say({ error: String(error) }));
client.on("connect", () => say({ connected: true }));
client.on("birth", () => {
  say({ event: "birth" });
  if (births.node) client.publishNodeBirth(births.node());
  for (const [device, birth] of Object.entries(births.devices)) client.publishDeviceBirth(device, birth());
});
const commanded = (device, p) => {
  const plain = (value) => (Long.isLong(value) ? value.toString() : value);
  const metrics = (p.metrics || []).map(({ name, alias, type, value }) => ({ name, alias: alias && Number(alias), type, value: plain(value) }));
  say({ event: "command", device, metrics });
};
client.on("dcmd", commanded);
client.on("ncmd", (p) => {
  commanded(null, p);
  for (const metric of p.metrics || []) {
    if (metric.name === "Node Control/Rebirth" && metric.value) {
      say({ event: "rebirth requested" });
      if (births.node) client.publishNodeBirth(births.node());
      for (const [device, birth] of Object.entries(births.devices)) client.publishDeviceBirth(device, birth());
    }
  }
});
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const order = JSON.parse(line);
  try {
    const make = () => payload(JSON.parse(line));
    switch (order.do) {
      case "birth": births.node = make; client.publishNodeBirth(make()); break;
      case "device_birth": births.devices[order.device] = make; client.publishDeviceBirth(order.device, make()); break;
      case "data": client.publishNodeData(make()); break;
      case "device_data": client.publishDeviceData(order.device, make()); break;
      case "device_death": client.publishDeviceDeath(order.device, { timestamp: Date.now() }); break;
      case "skip_seq": client.incrementSeqNum(); break;
      case "stop": client.stop(); break;
    }
    say({ done: order.do });
  } catch (error) {
    say({ failed: order.do, error: String(error.stack) });
  }
}).on("close", () => process.exit(0));
