"""What PyPI's kafka-python, a client written in Python alone, sees of a broker: a line for each observation, the same for every broker that is Kafka.

    kafka_python.py BROKERS PREFIX [SCENARIO...]

$DAY_MS is a time of the last days, in milliseconds since 1970, that both runs share.
"""

import logging
import os
import sys
import threading
import time

import kafka
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic

logging.disable(logging.CRITICAL)
_, brokers, prefix, *chosen = sys.argv
DAY_MS = int(os.environ["DAY_MS"])
SCENARIOS = []
PATIENCE = 60
scenario_name = ""


def scenario(function):
    SCENARIOS.append(function)
    return function


def say(*words):
    print(f"kafka-python.{scenario_name}:", *words, flush=True)


def name(of):
    return f"{prefix}-python-{of}"


def attempt(what, function):
    try:
        done = function()
        say(what, "->", "done" if done is None else done)
    except kafka.errors.KafkaError as caught:
        say(what, "->", type(caught).__name__)


def until(what, event):
    end = time.monotonic() + PATIENCE
    while True:
        found = event()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen")
        time.sleep(0.02)


def create(of, partitions=1, **config):
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    try:
        admin.create_topics([NewTopic(name(of), partitions, 1, topic_configs={k.replace("_", "."): v for k, v in config.items()})])
        until("the topic is known", lambda: name(of) in admin.list_topics())
    finally:
        admin.close()
    return name(of)


def consumer(group=None, **config):
    return KafkaConsumer(bootstrap_servers=brokers, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False, heartbeat_interval_ms=500, **config)


def read(topic, partition=0, **config):
    reader = consumer(**config)
    try:
        where = TopicPartition(topic, partition)
        reader.assign([where])
        reader.seek_to_beginning(where)
        end = reader.end_offsets([where])[where]
        records = []
        until("the end", lambda: records.extend(reader.poll(200).get(where, [])) or reader.position(where) >= end)
        return records
    finally:
        reader.close()


@scenario
def codecs():
    topic = create("codecs")
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        producer = KafkaProducer(bootstrap_servers=brokers, compression_type=codec, linger_ms=50)
        for i in range(50):
            producer.send(topic, f"{codec} {i}".encode() * 10, b"key", headers=[("codec", str(codec).encode())], partition=0, timestamp_ms=DAY_MS + i)
        producer.flush(PATIENCE)
        producer.close()
    records = read(topic)
    say(len(records), [record.offset for record in records] == list(range(250)), records[249].value[:12], records[249].timestamp, records[249].headers)


@scenario
def transactions():
    topic = create("transactions")
    producer = KafkaProducer(bootstrap_servers=brokers, transactional_id=name("t"))
    producer.init_transactions()
    for ends in ["commit", "abort", "commit"]:
        producer.begin_transaction()
        producer.send(topic, ends.encode(), partition=0).get(PATIENCE)
        (producer.commit_transaction if ends == "commit" else producer.abort_transaction)()
    say("committed", [record.value for record in read(topic, isolation_level="read_committed")])
    say("uncommitted", [(record.offset, record.value) for record in read(topic)])
    group = name("copies")
    producer.begin_transaction()
    producer.send_offsets_to_transaction({TopicPartition(topic, 0): OffsetAndMetadata(3, "three", -1)}, group)
    producer.commit_transaction()
    reader = consumer(group)
    say("offset", reader.committed(TopicPartition(topic, 0)))
    reader.close()
    second = KafkaProducer(bootstrap_servers=brokers, transactional_id=name("t"))
    second.init_transactions()
    attempt("the first goes on", lambda: (producer.begin_transaction(), producer.send(topic, b"fenced", partition=0).get(PATIENCE))[0])
    second.close()
    producer.close(timeout=1)


class Seat(threading.Thread):
    """A member of a group in a thread of its own: it has to be polled without a pause while the group rebalances."""

    def __init__(self, topic, group):
        super().__init__(daemon=True)
        self.consumer = consumer(group)
        self.consumer.subscribe([topic])
        self.owned, self.wish, self.ends = set(), None, False
        self.start()

    def run(self):
        while not self.ends:
            self.consumer.poll(500)
            if self.wish and self.consumer.assignment():
                wish, self.wish = self.wish, None
                wish(self.consumer)
            self.owned = set(self.consumer.assignment())
        self.consumer.close()

    def close(self):
        self.ends = True
        self.join()


@scenario
def groups():
    topic, group = create("groups", 4), name("group")
    first, second = Seat(topic, group), Seat(topic, group)
    until("each has two", lambda: len(first.owned) == len(second.owned) == 2 and first.owned.isdisjoint(second.owned))
    second.close()
    until("one has four", lambda: len(first.owned) == 4)
    say("one has all")
    told, mine = [], TopicPartition(topic, 3)
    first.wish = lambda member: (member.commit({mine: OffsetAndMetadata(7, "seven", -1)}), told.append((member.committed(mine), member.committed(mine, metadata=True).metadata)))
    say("committed", until("the commit", lambda: told)[0])
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    say("described", sorted((g["group_state"], g["protocol_type"], len(g["members"])) for g in _groups(admin.describe_groups([group]))))
    attempt("delete a busy one", lambda: _outcomes(admin.delete_groups([group])))
    first.close()
    say("offsets", sorted((p.partition, o.offset) for p, o in _offsets(admin.list_group_offsets({group: None}), group).items()))
    attempt("delete", lambda: _outcomes(admin.delete_groups([group])))
    admin.close()


def _groups(described):
    return list(described.values()) if isinstance(described, dict) else described


def _offsets(listed, group):
    return listed.get(group, listed)


def _outcomes(deleted):
    return sorted(str(outcome).replace(prefix, "") for outcome in (deleted.items() if isinstance(deleted, dict) else deleted))


@scenario
def times():
    topic = create("times")
    producer = KafkaProducer(bootstrap_servers=brokers)
    for i in range(10):
        producer.send(topic, b"x", partition=0, timestamp_ms=DAY_MS + i * 1_000)
    producer.flush()
    producer.close()
    reader, where = consumer(), TopicPartition(topic, 0)
    for at in [-1_000_000, 4_500, 9_001]:
        found = reader.offsets_for_times({where: DAY_MS + at})[where]
        say(at, "->", found and (found.offset, found.timestamp - DAY_MS))
    say(reader.beginning_offsets([where])[where], reader.end_offsets([where])[where])
    reader.close()


@scenario
def admin():
    with_it = KafkaAdminClient(bootstrap_servers=brokers)
    topic = create("admin", 2, retention_ms="3600000")
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    described = str(with_it.describe_configs([resource]))
    say("described", "retention.ms" in described, "3600000" in described)
    attempt("create again", lambda: with_it.create_topics([NewTopic(topic, 1, 1)]) and None)
    attempt("grow", lambda: with_it.create_partitions({topic: 4}) and None)
    until("four partitions", lambda: len(with_it.describe_topics([topic])[0]["partitions"]) == 4)
    where = TopicPartition(topic, 0)
    producer = KafkaProducer(bootstrap_servers=brokers)
    for _ in range(5):
        producer.send(topic, b"x", partition=0)
    producer.flush()
    producer.close()
    deleted = with_it.delete_records({where: 3})
    say("deleted below", deleted[where]["low_watermark"] if isinstance(deleted[where], dict) else deleted[where])
    attempt("delete the topic", lambda: with_it.delete_topics([topic]) and None)
    until("it is gone", lambda: topic not in with_it.list_topics())
    attempt("delete again", lambda: with_it.delete_topics([topic]) and None)
    with_it.close()


for function in SCENARIOS:
    scenario_name = function.__name__
    if not chosen or scenario_name in chosen:
        began = time.monotonic()
        try:
            function()
        except Exception as caught:
            say("UNEXPECTED", type(caught).__name__, caught)
        print(f"{scenario_name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
