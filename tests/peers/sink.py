"""What one writes who has no sink: samples from Kafka into a Delta table, by confluent-kafka and deltalake, positions in the same commit.

sink.py BROKERS TOPIC TABLE COUNT; reads so many records, says {"rows": N, "cpu": SECONDS}.
"""

import json
import sys
import time

import deltalake
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

BATCH = 200_000
SCHEMA = pa.schema([
    ("tag", pa.string()), ("time", pa.timestamp("us", tz="UTC")), ("value_double", pa.float64()), ("status", pa.int64()),
    ("quality", pa.string()), ("origin", pa.string()), ("time_source", pa.string()), ("read_delay", pa.int64()), ("def", pa.int32()),
    ("source", pa.string()), ("seq", pa.int64()), ("date", pa.date32()),
])

brokers, topic, table, count = sys.argv[1:5]
consumer = Consumer({"bootstrap.servers": brokers, "group.id": "rival", "enable.auto.commit": False, "auto.offset.reset": "earliest"})
consumer.assign([TopicPartition(topic, part, 0) for part in range(3)])
began = time.process_time()
rows, positions = 0, {}
while rows < int(count):
    columns = {name: [] for name in SCHEMA.names}
    while len(columns["tag"]) < BATCH and rows + len(columns["tag"]) < int(count):
        for message in consumer.consume(10_000, timeout=1.0):
            sample = json.loads(message.value())
            for name in ("tag", "time", "status", "quality", "origin", "time_source", "def", "source", "seq"):
                columns[name].append(sample[name])
            columns["value_double"].append(sample["value"])
            columns["read_delay"].append(sample["read_time"] - sample["time"])
            columns["date"].append(sample["time"] // 86_400_000_000)
            positions[message.partition()] = message.offset() + 1
    columns["date"] = pa.array(columns["date"], pa.int32()).cast(pa.date32())
    batch = pa.table(columns, schema=SCHEMA).sort_by([("tag", "ascending"), ("time", "ascending")])
    moved = [deltalake.Transaction(f"rival/{topic}/{part}", offset) for part, offset in positions.items()]
    deltalake.write_deltalake(table, batch, mode="append", partition_by=["date"], commit_properties=deltalake.CommitProperties(app_transactions=moved))
    rows += batch.num_rows
print(json.dumps({"rows": rows, "cpu": time.process_time() - began}), flush=True)
