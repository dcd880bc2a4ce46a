"""Writes values with confluent-kafka's own serializers, which register their schemas in a schema registry.

encode.py URL; prints a line of {"format": .., "topic": .., "value": base64} for Avro, JSON and Protobuf, as decode.py and decode.js take them.
"""

import base64
import json
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

AVRO = {
    "type": "record",
    "name": "R",
    "namespace": "acme",
    "fields": [{"name": "tag", "type": "string"}, {"name": "v", "type": ["null", "double"], "default": None}],
}
JSON = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "R",
    "type": "object",
    "properties": {"tag": {"type": "string"}, "v": {"type": "number"}},
    "required": ["tag"],
}


def message():
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package="acme", syntax="proto3")
    record = file.message_type.add(name="R")
    record.field.add(name="tag", number=1, type=9, label=1)
    record.field.add(name="v", number=2, type=1, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("acme.R"))


def main(url):
    client = SchemaRegistryClient({"url": url})
    kind = message()
    writers = {
        "avro": (AvroSerializer(client, json.dumps(AVRO)), {"tag": "a", "v": 1.5}),
        "json": (JSONSerializer(json.dumps(JSON), client), {"tag": "a", "v": 1.5}),
        "protobuf": (ProtobufSerializer(kind, client, {"use.deprecated.format": False}), kind(tag="a", v=1.5)),
    }
    for name, (serialize, value) in writers.items():
        topic = f"foreign-{name}"
        encoded = serialize(value, SerializationContext(topic, MessageField.VALUE))
        print(json.dumps({"format": name, "topic": topic, "value": base64.b64encode(encoded).decode()}), flush=True)


main(*sys.argv[1:])
