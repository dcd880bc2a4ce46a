// What npm's kafkajs sees of a broker: a line for each observation, the same for every broker that is Kafka.
//
//     kafkajs.js BROKERS PREFIX [SCENARIO...]
//
// $DAY_MS is a time of the last days, in milliseconds since 1970, that both runs share.

const { Kafka, CompressionTypes, ConfigResourceTypes, logLevel } = require("kafkajs");

const [, , brokers, prefix, ...chosen] = process.argv;
const DAY_MS = Number(process.env.DAY_MS);
process.env.KAFKAJS_NO_PARTITIONER_WARNING = "1";
const kafka = new Kafka({ clientId: "js", brokers: brokers.split(","), logLevel: logLevel.NOTHING, retry: { initialRetryTime: 50, retries: 20 } });
let scenario = "";

const say = (...words) => console.log(`kafkajs.${scenario}:`, ...words.map((word) => (typeof word === "string" ? word : JSON.stringify(word))));
const name = (of) => `${prefix}-js-${of}`;
const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

async function attempt(what, call) {
  try {
    const done = await call();
    say(what, "->", done === undefined ? "done" : done);
  } catch (error) {
    const inner = error.errors ? error.errors.map((e) => e.type) : error.groups ? error.groups.map((g) => g.errorCode) : (error.cause && error.cause.type) || error.type || error.name;
    say(what, "->", inner);
  }
}

async function until(what, event) {
  const end = Date.now() + 60_000;
  for (;;) {
    const found = await event();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what} did not happen`);
    await sleep(20);
  }
}

async function withAdmin(use) {
  const admin = kafka.admin();
  await admin.connect();
  try {
    return await use(admin);
  } finally {
    await admin.disconnect();
  }
}

async function create(of, numPartitions = 1, configEntries = []) {
  await withAdmin(async (admin) => {
    await admin.createTopics({ topics: [{ topic: name(of), numPartitions, configEntries }], waitForLeaders: true });
    // The controller has it; its partitions take a moment to learn of it.
    await until("the topic is there", () => admin.fetchTopicOffsets(name(of)).catch(() => false));
  });
  return name(of);
}

// Reads a topic from its beginning until so many records have come.
async function read(topic, count, group, options = {}) {
  const consumer = kafka.consumer({ groupId: group, heartbeatInterval: 300, maxWaitTimeInMs: 100, ...options });
  const seen = [];
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await consumer.run({ autoCommit: true, eachMessage: async ({ partition, message }) => void seen.push({ partition, ...message }) });
  await until(`${count} records`, () => seen.length >= count);
  await consumer.disconnect();
  return seen;
}

const scenarios = {
  async codecs() {
    const topic = await create("codecs");
    const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
    await producer.connect();
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
      const messages = Array.from({ length: 50 }, (_, i) => ({ key: `k${i}`, value: `v${i}`.repeat(20), headers: { h: "1" }, timestamp: String(DAY_MS + i) }));
      const [sent] = await producer.send({ topic, acks: -1, compression, messages });
      say(sent.errorCode, sent.baseOffset);
    }
    await producer.send({ topic, acks: -1, messages: [{ key: null, value: null }] });
    await producer.disconnect();
    const seen = await read(topic, 101, name("codecs"));
    say(seen.length, seen[99].offset, seen[99].key.toString(), seen[99].value.length, seen[99].timestamp, seen[99].headers.h.toString(), seen[100].value);
  },

  async transactions() {
    const topic = await create("transactions");
    const producer = kafka.producer({ idempotent: true, transactionalId: name("t"), maxInFlightRequests: 1 });
    await producer.connect();
    for (const end of ["commit", "abort", "commit"]) {
      const transaction = await producer.transaction();
      await transaction.send({ topic, messages: [{ value: end }] });
      await transaction.sendOffsets({ consumerGroupId: name("copies"), topics: [{ topic, partitions: [{ partition: 0, offset: end === "commit" ? "5" : "9" }] }] });
      await (end === "commit" ? transaction.commit() : transaction.abort());
    }
    await producer.disconnect();
    const seen = await read(topic, 2, name("transactions"), { readUncommitted: false });
    say(seen.map((record) => [record.offset, record.value.toString()]));
    await withAdmin(async (admin) => {
      const [offsets] = await admin.fetchOffsets({ groupId: name("copies"), topics: [topic] });
      say("offset", offsets.partitions);
    });
  },

  async groups() {
    const topic = await create("groups", 4);
    const groupId = name("group");
    const owned = {};
    const join = async (member) => {
      const consumer = kafka.consumer({ groupId, heartbeatInterval: 300, maxWaitTimeInMs: 100, sessionTimeout: 10_000 });
      consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => (owned[member] = (payload.memberAssignment[topic] || []).length));
      await consumer.connect();
      await consumer.subscribe({ topics: [topic], fromBeginning: true });
      await consumer.run({ eachMessage: async () => {} });
      return consumer;
    };
    const [first, second] = [await join("a"), await join("b")];
    await until("each has two", () => owned.a === 2 && owned.b === 2);
    say("each has two");
    await second.disconnect();
    await until("one has all", () => owned.a === 4);
    say("one has all");
    await withAdmin(async (admin) => {
      const { groups } = await admin.describeGroups([groupId]);
      say("described", groups.map((group) => [group.state, group.protocolType, group.protocol, group.members.length, group.members[0].clientId, group.members[0].clientHost]));
      say("listed", (await admin.listGroups()).groups.filter((group) => group.groupId === groupId).length);
      await attempt("delete a busy one", async () => void (await admin.deleteGroups([groupId])));
      await first.disconnect();
      await admin.setOffsets({ groupId, topic, partitions: [{ partition: 0, offset: "3" }] });
      say("offsets", (await admin.fetchOffsets({ groupId, topics: [topic] }))[0].partitions.sort((a, b) => a.partition - b.partition).map((p) => [p.partition, p.offset]));
      await attempt("delete", async () => void (await admin.deleteGroups([groupId])));
    });
  },

  async admin() {
    const topic = await create("admin", 2, [{ name: "retention.ms", value: "864000000" }]);
    await withAdmin(async (admin) => {
      say("create again", await admin.createTopics({ topics: [{ topic }] }));
      await attempt("grow", () => admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] }));
      await attempt("shrink", () => admin.createPartitions({ topicPartitions: [{ topic, count: 1 }] }));
      await until("three partitions", async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length === 3);
      const config = async () =>
        (await admin.describeConfigs({ resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: ["retention.ms"] }] })).resources[0].configEntries.map((e) => [e.configName, e.configValue, e.isDefault]);
      say("config", await config());
      await attempt("alter", async () => void (await admin.alterConfigs({ resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name: "retention.ms", value: "777600000" }] }] })));
      await until("it is altered", async () => (await config())[0][1] === "777600000");
      const producer = kafka.producer();
      await producer.connect();
      await producer.send({ topic, messages: Array.from({ length: 10 }, (_, i) => ({ value: String(i), partition: 0, timestamp: String(DAY_MS + i * 1_000) })) });
      await attempt("an unknown topic", async () => void (await kafka.producer({ allowAutoTopicCreation: false, retry: { retries: 1 } }).connect()));
      await producer.disconnect();
      await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: "4" }] });
      const sorted = (offsets) => offsets.sort((a, b) => a.partition - b.partition);
      say("offsets", sorted(await admin.fetchTopicOffsets(topic)));
      say("by time", sorted(await admin.fetchTopicOffsetsByTimestamp(topic, DAY_MS + 6_500)));
      const cluster = await admin.describeCluster();
      say("cluster", cluster.brokers.length, cluster.brokers.some((broker) => broker.nodeId === cluster.controller), Boolean(cluster.clusterId));
      await attempt("delete", () => admin.deleteTopics({ topics: [topic] }));
    });
  },
};

(async () => {
  for (const [of, run] of Object.entries(scenarios)) {
    if (chosen.length > 0 && !chosen.includes(of)) continue;
    scenario = of;
    const began = Date.now();
    try {
      await run();
    } catch (error) {
      say("UNEXPECTED", error.stack);
    }
    console.error(`${of}: ${(Date.now() - began) / 1000} s`);
  }
  process.exit(0);
})();
