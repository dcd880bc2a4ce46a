"""What librdkafka, through PyPI's confluent-kafka, sees of a broker: a line for each observation, the same for every broker that is Kafka.

    librdkafka.py BROKERS PREFIX [SCENARIO...]

Names of topics, groups and transactions begin with PREFIX. Nothing that may differ between two runs is printed: no times, no random ids.
$DAY_MS is a time of the last days, in milliseconds since 1970, that both runs share.
"""

import hashlib
import os
import random
import sys
import time

import confluent_kafka as ck
from confluent_kafka import admin as cka

_, brokers, prefix, *chosen = sys.argv
DAY_MS = int(os.environ["DAY_MS"])
SCENARIOS = []
PATIENCE = 60
scenario_name = ""


def scenario(function):
    SCENARIOS.append(function)
    return function


def say(*words):
    print(f"{scenario_name}:", *words, flush=True)


def name(of):
    return f"{prefix}-{of}"


def error(caught):
    """An error's name, which is the same whatever the broker's text says."""
    if isinstance(caught, ck.KafkaException):
        caught = caught.args[0]
    return caught.name() if isinstance(caught, ck.KafkaError) else type(caught).__name__


def attempt(what, function):
    """Says how something ended, well or not."""
    try:
        done = function()
        say(what, "->", "done" if done is None else done)
        return done
    except (ck.KafkaException, ck.KafkaError) as caught:
        say(what, "->", error(caught))


def until(what, event):
    end = time.monotonic() + PATIENCE
    while True:
        found = event()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen")
        time.sleep(0.02)


def client(**config):
    return {"bootstrap.servers": brokers, "log_level": 3} | {key.replace("_", "."): value for key, value in config.items()}


ADMIN = []


def admin():
    # One for all: futures of a client that is forgotten end with it.
    if not ADMIN:
        ADMIN.append(cka.AdminClient(client()))
    return ADMIN[0]


def create(of, partitions=1, **config):
    topic = cka.NewTopic(name(of), partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
    admin().create_topics([topic])[name(of)].result(PATIENCE)
    until("the topic is known", lambda: len(admin().list_topics(name(of), 10).topics[name(of)].partitions) == partitions)
    return name(of)


def producer(**config):
    return ck.Producer(client(**config))


def produce(topic, values, partition=0, key=None, **config):
    outcomes = []
    with_them = producer(**config)
    for value in values:
        with_them.produce(topic, value, key, partition, on_delivery=lambda e, m: outcomes.append(error(e) if e else m.offset()))
    with_them.flush(PATIENCE)
    return outcomes


def consumer(group=None, **config):
    config = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "enable_partition_eof": True,
              "fetch_wait_max_ms": 20, "heartbeat_interval_ms": 500} | config
    return ck.Consumer(client(group_id=group or name("nobody"), **config))


def read(topic, partition=0, offset=ck.OFFSET_BEGINNING, **config):
    """All records of a partition, to its end."""
    reader = consumer(**config)
    reader.assign([ck.TopicPartition(topic, partition, offset)])
    records = []
    try:
        while True:
            message = reader.poll(PATIENCE)
            if message is None:
                raise TimeoutError("the end of the partition was not reached")
            if message.error():
                if message.error().code() == ck.KafkaError._PARTITION_EOF:
                    return records
                raise ck.KafkaException(message.error())
            records.append(message)
    finally:
        reader.close()


def texts(records):
    return [record.value().decode() if record.value() is not None else None for record in records]


def offsets_of(topic, spec, partition=0, **options):
    wanted = {ck.TopicPartition(topic, partition): spec}
    return next(iter(admin().list_offsets(wanted, **options).values())).result(PATIENCE).offset


@scenario
def codecs():
    topic = create("codecs")
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        sender = producer(compression_codec=codec, linger_ms=200)
        for i in range(200):
            headers = [("codec", codec.encode()), ("nothing", None)]
            sender.produce(topic, f"{codec} {i} ".encode() * 20, f"key {i}", 0, timestamp=DAY_MS + i, headers=headers)
        say(codec, "left in the queue", sender.flush(PATIENCE))
    records = read(topic)
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr((record.offset(), record.key(), record.value(), record.timestamp(), record.headers())).encode())
    say(len(records), "records", digest.hexdigest())


@scenario
def records():
    topic = create("records")
    sender = producer()
    for key, value in [(None, None), (b"", b""), (b"\0\xff", b"\xff" * 3), ("schlüssel", "wert")]:
        sender.produce(topic, value, key, 0, timestamp=DAY_MS)
    sender.flush(PATIENCE)
    for record in read(topic):
        say(record.offset(), record.key(), record.value(), record.timestamp(), record.headers())
    for acks in ["0", "1", "all"]:
        produce(topic, [f"acks {acks}"], acks=acks, enable_idempotence=False)
    until("all are there", lambda: len(read(topic)) == 7)
    say(texts(read(topic, offset=4)))
    say("watermarks", consumer().get_watermark_offsets(ck.TopicPartition(topic, 0), PATIENCE))
    appended = create("log-append-time", message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000) - 60_000
    sender.produce(appended, b"x", timestamp=DAY_MS)
    sender.flush(PATIENCE)
    kind, stamp = read(appended)[0].timestamp()
    say("log append time", kind, before < stamp < before + 120_000)


@scenario
def partitions():
    topic = create("partitions", 5)
    sender = producer(partitioner="murmur2_random")
    for i in range(50):
        sender.produce(topic, str(i), f"key {i % 10}")
    sender.flush(PATIENCE)
    for partition in range(5):
        say(partition, texts(read(topic, partition)))
    reader = consumer()
    reader.assign([ck.TopicPartition(topic, p, ck.OFFSET_BEGINNING) for p in range(5)])
    seen, ends = [], set()
    while len(ends) < 5:
        for message in reader.consume(100, 0.2):
            ends.add(message.partition()) if message.error() else seen.append(message.value().decode())
    reader.close()
    say(sorted(seen, key=int))


@scenario
def idempotence():
    topic = create("idempotence")
    settings = {"enable_idempotence": True, "max_in_flight_requests_per_connection": 5, "batch_num_messages": 7, "linger_ms": 0}
    say(produce(topic, (str(i) for i in range(1000)), **settings) == list(range(1000)))
    say(texts(read(topic)) == [str(i) for i in range(1000)])


@scenario
def transactions():
    topic, other = create("transactions"), create("transactions-other", 3)
    first = producer(transactional_id=name("t"), transaction_timeout_ms=60_000)
    first.init_transactions(PATIENCE)
    for round, ends in enumerate(["commit", "abort", "commit", "abort", "commit"]):
        first.begin_transaction()
        for i in range(3):
            first.produce(topic, f"{ends} {round}.{i}", partition=0)
            first.produce(other, f"{ends} {round}.{i}", partition=i)
        first.flush(PATIENCE)
        attempt(ends, lambda: (first.commit_transaction if ends == "commit" else first.abort_transaction)(PATIENCE))
    produce(topic, ["plain"])
    first.begin_transaction()
    first.produce(topic, "open", partition=0)
    first.flush(PATIENCE)
    produce(topic, ["behind the open one"])
    say("committed", texts(read(topic, isolation_level="read_committed")))
    say("uncommitted", texts(read(topic, isolation_level="read_uncommitted")))
    say("offsets", [record.offset() for record in read(topic, isolation_level="read_uncommitted")])
    say("other", [texts(read(other, p, isolation_level="read_committed")) for p in range(3)])
    for isolation in [ck.IsolationLevel.READ_COMMITTED, ck.IsolationLevel.READ_UNCOMMITTED]:
        say("end,", isolation.name, offsets_of(topic, cka.OffsetSpec.latest(), isolation_level=isolation))
    second = producer(transactional_id=name("t"), transaction_timeout_ms=60_000)
    second.init_transactions(PATIENCE)
    first.produce(topic, "fenced", partition=0)
    try:
        first.commit_transaction(PATIENCE)
        say("the fenced one committed")
    except ck.KafkaException as caught:
        say("fenced:", error(caught), "fatal" if caught.args[0].fatal() else "not fatal")
    second.begin_transaction()
    second.produce(topic, "second", partition=0)
    second.commit_transaction(PATIENCE)
    say("committed", texts(read(topic, isolation_level="read_committed")))
    second.begin_transaction()
    attempt("an empty transaction", lambda: second.commit_transaction(PATIENCE))


@scenario
def transactional_offsets():
    source, target, group = create("from"), create("to"), name("copies")
    produce(source, [str(i) for i in range(10)])
    reader = consumer(group, isolation_level="read_committed")
    reader.subscribe([source])
    batch = []
    until("ten records", lambda: batch.extend(m for m in reader.consume(10, 0.2) if not m.error()) or len(batch) == 10)
    sender = producer(transactional_id=name("copies"))
    sender.init_transactions(PATIENCE)
    committed = lambda: consumer(group).committed([ck.TopicPartition(source, 0)], PATIENCE)[0].offset
    for upto, ends in [(3, "abort"), (5, "commit"), (8, "abort"), (10, "commit")]:
        sender.begin_transaction()
        for message in batch[:upto]:
            sender.produce(target, message.value(), partition=0)
        positions = [ck.TopicPartition(source, 0, upto)]
        sender.send_offsets_to_transaction(positions, reader.consumer_group_metadata(), PATIENCE)
        (sender.commit_transaction if ends == "commit" else sender.abort_transaction)(PATIENCE)
        say(ends, upto, "-> committed", committed())
    reader.close()
    say(len(read(target, isolation_level="read_committed")), "records are visible")
    stranger = consumer(name("copies-strange"))
    sender.begin_transaction()
    attempt("of an unknown group", lambda: sender.send_offsets_to_transaction([ck.TopicPartition(source, 0, 1)], stranger.consumer_group_metadata(), PATIENCE))
    attempt("and its commit", lambda: sender.commit_transaction(PATIENCE))


@scenario
def times():
    topic = create("times")
    sender = producer()
    for i in range(100):
        sender.produce(topic, str(i), timestamp=DAY_MS + 1_000 * (i if i != 50 else 99))
        if i % 10 == 9:
            sender.flush(PATIENCE)
    for at in [-1_000_000, 0, 1, 49_500, 99_000, 99_001]:
        found = consumer().offsets_for_times([ck.TopicPartition(topic, 0, DAY_MS + at)], PATIENCE)[0]
        say(at, "->", found.offset)
    for label, spec in [("earliest", cka.OffsetSpec.earliest()), ("latest", cka.OffsetSpec.latest()), ("largest time", cka.OffsetSpec.max_timestamp())]:
        say(label, offsets_of(topic, spec))
    say("an empty topic", offsets_of(create("times-empty"), cka.OffsetSpec.max_timestamp()))


@scenario
def groups():
    topic, group = create("groups", 4), name("group")
    for partition in range(4):
        produce(topic, [f"{partition}.{i}" for i in range(5)], partition)
    owned = {}

    def join(member, **config):
        reader = consumer(group, session_timeout_ms=10_000, **config)
        owned[member] = set()
        take = lambda _, parts: owned[member].update(p.partition for p in parts)
        give = lambda _, parts: owned[member].difference_update(p.partition for p in parts)
        reader.subscribe([topic], on_assign=take, on_revoke=give)
        return reader

    def share(*readers):
        until("each has its share", lambda: [r.poll(0.05) for r in readers] and sorted(p for of in owned.values() for p in of) == [0, 1, 2, 3]
              and all(len(of) == 4 // len(readers) for member, of in owned.items() if of))
        return sorted(map(len, owned.values()), reverse=True)

    for strategy in ["range", "cooperative-sticky"]:
        owned.clear()
        first = join("a", partition_assignment_strategy=strategy)
        say(strategy, "one", share(first))
        second = join("b", partition_assignment_strategy=strategy)
        say(strategy, "two", share(first, second))
        other = join("c", partition_assignment_strategy="roundrobin")
        refused = until("the stranger is refused", lambda: [m for m in [other.poll(0.05), first.poll(0.01), second.poll(0.01)] if m and m.error()
                        and m.error().code() not in (ck.KafkaError._PARTITION_EOF,)])
        say(strategy, "another strategy", refused[0].error().name())
        other.close()
        first.close()
        owned["a"].clear()
        del owned["c"]
        say(strategy, "the other one alone", share(second))
        second.close()


@scenario
def commits():
    topic, group = create("commits", 2), name("commits")
    produce(topic, [str(i) for i in range(10)])
    reader = consumer(group)
    reader.subscribe([topic])
    until("an assignment", lambda: reader.poll(0.1) is not None and reader.assignment())
    committed = reader.commit(offsets=[ck.TopicPartition(topic, 0, 4, "so far")], asynchronous=False)
    say("committed", [(c.partition, c.offset, error(c.error) if c.error else None) for c in committed])
    ask = lambda of: [(c.partition, c.offset, c.metadata) for c in consumer(of).committed([ck.TopicPartition(topic, p) for p in (0, 1)], PATIENCE)]
    say("asked", ask(group), "of another group", ask(name("commits-other")))
    attempt("long metadata", lambda: reader.commit(offsets=[ck.TopicPartition(topic, 0, 5, "x" * 5000)], asynchronous=False)[0].error)
    attempt("unknown topic", lambda: reader.commit(offsets=[ck.TopicPartition(name("missing"), 0, 5)], asynchronous=False))
    attempt("unknown partition", lambda: reader.commit(offsets=[ck.TopicPartition(topic, 9, 5)], asynchronous=False))
    outsider = consumer(group)
    attempt("from outside while members are there", lambda: outsider.commit(offsets=[ck.TopicPartition(topic, 0, 6)], asynchronous=False) and None)
    reader.close()
    attempt("from outside when nobody is", lambda: outsider.commit(offsets=[ck.TopicPartition(topic, 0, 6)], asynchronous=False) and None)
    say("asked", ask(group))
    again = consumer(group)
    again.subscribe([topic])
    message = until("a record", lambda: (lambda m: m if m and not m.error() else None)(again.poll(0.1)))
    say("goes on at", message.offset())
    again.close()


@scenario
def static_members():
    topic, group = create("static", 2), name("static")
    moves = []

    def join(instance):
        reader = consumer(group, group_instance_id=instance, session_timeout_ms=30_000)
        reader.subscribe([topic], on_assign=lambda _, parts: moves.append((instance, "takes", sorted(p.partition for p in parts))),
                         on_revoke=lambda _, parts: moves.append((instance, "gives", sorted(p.partition for p in parts))))
        return reader

    first, second = join("one"), join("two")
    has_one = lambda reader: len(reader.assignment()) == 1
    until("both have one", lambda: [first.poll(0.05), second.poll(0.05)] and has_one(first) and has_one(second))
    before = first.assignment()[0].partition
    moves.clear()
    first.close()
    again = join("one")
    until("it is back", lambda: [again.poll(0.05), second.poll(0.05)] and has_one(again))
    say("the same partition", again.assignment()[0].partition == before, "the other was disturbed", any(who == "two" for who, *_ in moves))
    usurper = join("one")
    fenced = until("the first is fenced", lambda: [m for m in [again.poll(0.05), usurper.poll(0.05), second.poll(0.01)] if m and m.error()
                   and m.error().code() != ck.KafkaError._PARTITION_EOF])
    say("fenced:", fenced[0].error().name())
    for reader in [usurper, second]:
        reader.close()
    left = admin().describe_consumer_groups([group])[group].result(PATIENCE)
    say("members stay", sorted(m.group_instance_id for m in left.members), left.state.name)


@scenario
def topics():
    with_it = admin()

    def new(of, partitions=1, replication=1, **config):
        topic = cka.NewTopic(of, partitions, replication, config=config)
        return with_it.create_topics([topic], operation_timeout=30)[of].result(PATIENCE)

    topic = name("topics")
    attempt("create", lambda: new(topic, 3))
    attempt("create again", lambda: new(topic))
    attempt("a bad name", lambda: new("no spaces please"))
    attempt("a long name", lambda: new("x" * 250))
    attempt("dots", lambda: new(".."))
    attempt("no partitions", lambda: new(name("none"), 0))
    attempt("three replicas", lambda: new(name("three"), 1, 3))
    attempt("a bad value", lambda: new(name("bad"), config=None, **{"retention.ms": "soon"}))
    attempt("an unknown key", lambda: new(name("bad"), **{"no.such.key": "1"}))
    attempt("a bad policy", lambda: new(name("bad"), **{"cleanup.policy": "shred"}))
    attempt("default partitions", lambda: new(name("default"), -1, -1))
    attempt("only asked", lambda: with_it.create_topics([cka.NewTopic(name("asked"), 1, 1)], validate_only=True)[name("asked")].result(PATIENCE))
    until("the topic is known", lambda: topic in with_it.list_topics(timeout=10).topics)
    mine = lambda: sorted((t.topic, len(t.partitions)) for t in with_it.list_topics(timeout=10).topics.values() if t.topic.startswith(prefix + "-") and any(t.topic == name(n) for n in ("topics", "default", "asked", "bad", "three", "none")))
    until("the default one is known, too", lambda: name("default") in with_it.list_topics(timeout=10).topics)
    say(mine())
    grow = lambda count: with_it.create_partitions([cka.NewPartitions(topic, count)])[topic].result(PATIENCE)
    attempt("grow", lambda: grow(5))
    attempt("not grow", lambda: grow(5))
    attempt("shrink", lambda: grow(2))
    attempt("grow what is not", lambda: with_it.create_partitions([cka.NewPartitions(name("missing"), 2)])[name("missing")].result(PATIENCE))
    until("five partitions", lambda: len(with_it.list_topics(topic, 10).topics[topic].partitions) == 5)
    say("produce to the last", produce(topic, ["x"], 4))
    described = with_it.describe_topics(ck.TopicCollection([topic]))[topic].result(PATIENCE)
    say("described", described.name == topic, described.is_internal, [(p.id, len(p.replicas), len(p.isr), p.leader is not None) for p in described.partitions])
    attempt("describe what is not", lambda: with_it.describe_topics(ck.TopicCollection([name("missing")]))[name("missing")].result(PATIENCE))
    drop = lambda of: with_it.delete_topics([of], operation_timeout=30)[of].result(PATIENCE)
    attempt("delete", lambda: drop(topic))
    until("it is gone", lambda: topic not in with_it.list_topics(timeout=10).topics)
    attempt("delete again", lambda: drop(topic))
    attempt("create anew", lambda: new(topic, 1))
    until("it is back", lambda: topic in with_it.list_topics(timeout=10).topics)
    say("empty", consumer().get_watermark_offsets(ck.TopicPartition(topic, 0), PATIENCE))


@scenario
def configs():
    topic = create("configs", 1, retention_ms="3600000", cleanup_policy="compact,delete")
    with_it = admin()
    resource = lambda of=topic: cka.ConfigResource(ck.admin.ConfigResource.Type.TOPIC, of)
    describe = lambda of=topic: next(iter(with_it.describe_configs([resource(of)]).values())).result(PATIENCE)
    asked = ["retention.ms", "retention.bytes", "cleanup.policy", "max.message.bytes", "segment.ms", "compression.type",
             "message.timestamp.type", "min.insync.replicas", "delete.retention.ms", "min.compaction.lag.ms", "min.cleanable.dirty.ratio",
             "message.timestamp.after.max.ms", "message.timestamp.before.max.ms", "unclean.leader.election.enable", "file.delete.delay.ms"]

    def show(label):
        found = describe()
        for key in asked:
            entry = found.get(key)
            say(label, key, (entry.value, cka.ConfigSource(entry.source).name == "DYNAMIC_TOPIC_CONFIG", entry.is_read_only, entry.is_sensitive) if entry else "missing")

    show("created")

    def alter(*changes, of=topic):
        entries = [cka.ConfigEntry(key, value, incremental_operation=operation) for operation, key, value in changes]
        asked = cka.ConfigResource(ck.admin.ConfigResource.Type.TOPIC, of, incremental_configs=entries)
        return next(iter(with_it.incremental_alter_configs([asked]).values())).result(PATIENCE)

    operation = cka.AlterConfigOpType
    attempt("set", lambda: alter((operation.SET, "retention.ms", "7200000"), (operation.SET, "max.message.bytes", "2000")))
    attempt("append", lambda: alter((operation.DELETE, "cleanup.policy", None)))
    attempt("append", lambda: alter((operation.APPEND, "cleanup.policy", "compact")))
    attempt("subtract", lambda: alter((operation.SUBTRACT, "cleanup.policy", "delete")))
    attempt("a bad value", lambda: alter((operation.SET, "retention.ms", "later")))
    attempt("an unknown key", lambda: alter((operation.SET, "no.such.key", "1")))
    attempt("of no list", lambda: alter((operation.APPEND, "retention.ms", "1")))
    attempt("of no topic", lambda: alter((operation.SET, "retention.ms", "1"), of=name("missing")))
    attempt("describe no topic", lambda: describe(name("missing")))
    until("the change is told", lambda: describe()["cleanup.policy"].value == "compact")
    show("altered")
    noise = random.Random(1).randbytes(5_000)
    say("too large:", produce(topic, [noise], key="k", enable_idempotence=False))
    say("without a key:", produce(topic, [b"x"], enable_idempotence=False))
    say("a tombstone:", produce(topic, [None], key="k"))
    broker = with_it.describe_configs([cka.ConfigResource(ck.admin.ConfigResource.Type.BROKER, str(next(iter(with_it.list_topics(timeout=10).brokers))))])
    found = next(iter(broker.values())).result(PATIENCE)
    for key in ["message.max.bytes", "num.partitions", "auto.create.topics.enable", "log.retention.hours", "offsets.retention.minutes"]:
        say("broker", key, key in found)


@scenario
def deleted_records():
    topic = create("deleted")
    produce(topic, [str(i) for i in range(20)])
    with_it = admin()
    delete = lambda offset, of=topic, partition=0: with_it.delete_records([ck.TopicPartition(of, partition, offset)])
    low = lambda *asked: next(iter(delete(*asked).values())).result(PATIENCE).low_watermark
    attempt("below seven", lambda: low(7))
    attempt("below three", lambda: low(3))
    say("left", texts(read(topic))[:2])
    reader = consumer(auto_offset_reset="error")
    reader.assign([ck.TopicPartition(topic, 0, 2)])
    say("reading at two:", until("an answer", lambda: reader.poll(1)).error().name())
    reader.close()
    say("reading on from the start:", texts(read(topic, offset=2))[:1])
    say("reading far behind the end:", texts(read(topic, offset=1_000, auto_offset_reset="latest")))
    attempt("too far", lambda: low(21))
    attempt("to the end", lambda: low(-1))
    say("watermarks", consumer().get_watermark_offsets(ck.TopicPartition(topic, 0), PATIENCE))
    say("and on", produce(topic, ["x"]))
    attempt("of no topic", lambda: low(1, name("missing")))
    attempt("of no partition", lambda: low(1, topic, 9))


@scenario
def compaction():
    settings = {"cleanup_policy": "compact", "segment_ms": "200", "min_cleanable_dirty_ratio": "0.01", "delete_retention_ms": "0", "min_compaction_lag_ms": "0", "max_compaction_lag_ms": "500"}
    topic = create("compaction", **settings)
    sender = producer(compression_codec="lz4")
    for i in range(300):
        sender.produce(topic, f"{i // 10}", f"key {i % 10}")
    sender.produce(topic, None, "key 3")
    sender.flush(PATIENCE)
    nudges = 0

    def compacted():
        nonlocal nudges
        nudges += 1
        produce(topic, [f"nudge {nudges}"], key="nudge")
        time.sleep(0.3)
        seen = [(r.key(), r.value()) for r in read(topic) if r.key() != b"nudge"]
        return len(seen) <= 9 and seen

    for key, value in until("the topic is compacted", compacted):
        say(key, value)
    offsets = [record.offset() for record in read(topic)]
    say("offsets are kept", offsets[0] == 290, offsets == sorted(offsets))


@scenario
def group_admin():
    topic, group = create("group-admin", 3), name("group-admin")
    with_it = admin()
    parts = lambda *offsets: [ck.TopicPartition(topic, p, o) for p, o in enumerate(offsets)]
    result = lambda futures: next(iter(futures.values())).result(PATIENCE)
    alter = lambda of, positions: [(p.partition, p.offset, error(p.error) if p.error else None) for p in
             result(with_it.alter_consumer_group_offsets([ck.ConsumerGroupTopicPartitions(of, positions)])).topic_partitions]
    attempt("alter", lambda: alter(group, parts(1, 2, 3)))
    listed = lambda: [(p.partition, p.offset) for p in result(with_it.list_consumer_group_offsets([ck.ConsumerGroupTopicPartitions(group)])).topic_partitions]
    attempt("list", lambda: sorted(listed()))
    state = lambda: [(g.state.name, g.is_simple_consumer_group) for g in with_it.list_consumer_groups().result(PATIENCE).valid if g.group_id == group]
    say("simple", state())
    produce(topic, ["x"])
    reader = consumer(group, client_id="reader")
    reader.subscribe([topic])
    until("an assignment", lambda: reader.poll(0.1) is not None and reader.assignment())
    say("joined", state())
    described = result(with_it.describe_consumer_groups([group]))
    say("described", described.state.name, described.partition_assignor, described.is_simple_consumer_group, described.coordinator.host)
    for member in described.members:
        say("member", member.client_id, member.host, sorted(p.partition for p in member.assignment.topic_partitions), member.member_id.startswith("reader-"))
    attempt("alter a busy one", lambda: alter(group, parts(0)))
    attempt("delete a busy one", lambda: result(with_it.delete_consumer_groups([group])))
    reader.close()
    until("it is empty", lambda: state() == [("EMPTY", False)])
    attempt("delete", lambda: result(with_it.delete_consumer_groups([group])))
    attempt("delete again", lambda: result(with_it.delete_consumer_groups([group])))
    attempt("list", lambda: sorted(listed()))
    attempt("describe what is not", lambda: (lambda d: (d.state.name, len(d.members)))(result(with_it.describe_consumer_groups([name("missing")]))))


@scenario
def cluster():
    with_it = admin()
    described = with_it.describe_cluster().result(PATIENCE)
    say("nodes", len(described.nodes), "a controller", described.controller is not None, "an id", bool(described.cluster_id))
    metadata = with_it.list_topics(timeout=10)
    say("brokers", len(metadata.brokers), "the controller is one", metadata.controller_id in metadata.brokers, metadata.cluster_id == described.cluster_id)


@scenario
def errors():
    say("a topic that is made by using it:", produce(name("made"), ["x"]))
    missing = name("missing")
    topic = create("errors", 2)
    attempt("unknown partition", lambda: produce(topic, ["x"], 7))
    reader = consumer()
    reader.subscribe([missing])
    say("subscribe:", until("an error", lambda: reader.poll(1)).error().name())
    reader.close()
    attempt("a session too short", lambda: joins(topic, session_timeout_ms=10, heartbeat_interval_ms=5))
    late = producer(enable_idempotence=False)
    outcome = []
    late.produce(topic, b"x", partition=0, timestamp=int(time.time() * 1000) + 86_400_000, on_delivery=lambda e, m: outcome.append(error(e) if e else "taken"))
    late.flush(PATIENCE)
    say("a day ahead:", outcome)


def joins(topic, group=None, **config):
    reader = consumer(group or name("errors"), **config)
    reader.subscribe([topic])
    try:
        message = until("an answer", lambda: reader.poll(1))
        return message.error().name()
    finally:
        reader.close()


def everything():
    """All there is; for a look before a restart and one behind it."""
    with_it = admin()
    for topic, found in sorted(with_it.list_topics(timeout=10).topics.items()):
        given = next(iter(with_it.describe_configs([cka.ConfigResource(ck.admin.ConfigResource.Type.TOPIC, topic)]).values())).result(PATIENCE)
        say(topic, sorted((c.name, c.value) for c in given.values() if cka.ConfigSource(c.source).name == "DYNAMIC_TOPIC_CONFIG"))
        for partition in sorted(found.partitions):
            records = read(topic, partition, isolation_level="read_committed")
            say(topic, partition, consumer().get_watermark_offsets(ck.TopicPartition(topic, partition), PATIENCE),
                offsets_of(topic, cka.OffsetSpec.latest(), partition, isolation_level=ck.IsolationLevel.READ_COMMITTED),
                hashlib.sha256(repr([(r.offset(), r.key(), r.value(), r.timestamp(), r.headers()) for r in records]).encode()).hexdigest())
    for group in sorted(g.group_id for g in with_it.list_consumer_groups().result(PATIENCE).valid):
        listed = next(iter(with_it.list_consumer_group_offsets([ck.ConsumerGroupTopicPartitions(group)]).values())).result(PATIENCE)
        say(group, sorted((p.topic, p.partition, p.offset, p.metadata) for p in listed.topic_partitions))


if chosen == ["everything"]:
    SCENARIOS.append(everything)

for function in SCENARIOS:
    scenario_name = function.__name__
    if not chosen or scenario_name in chosen:
        began = time.monotonic()
        try:
            function()
        except Exception as caught:
            say("UNEXPECTED", type(caught).__name__, error(caught), caught)
        print(f"{scenario_name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
