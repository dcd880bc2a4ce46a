"""Writes orders in Protobuf with confluent-kafka's own serializer: one by a first schema, one by a second that has grown.

orders.py URL TOPIC; prints a line of {"value": base64} for each.
"""

import base64
import json
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

STRING, INT32, DOUBLE, MESSAGE = 9, 5, 1, 11
ONE, MANY = 1, 3


def order(has_grown):
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="acme", syntax="proto3")
    # Not the first of its file, so that a value says which it is.
    file.message_type.add(name="Shift").field.add(name="wage", number=1, type=INT32, label=ONE)
    record = file.message_type.add(name="Order")
    record.field.add(name="id", number=1, type=STRING, label=ONE)
    record.field.add(name="operators", number=2, type=MESSAGE, type_name=".acme.Order.Person", label=MANY)
    person = record.nested_type.add(name="Person")
    person.field.add(name="name", number=1, type=STRING, label=ONE)
    person.field.add(name="shift", number=2, type=INT32, label=ONE)
    if has_grown:
        record.field.add(name="margin", number=3, type=DOUBLE, label=ONE)
        person.field.add(name="badge", number=3, type=STRING, label=ONE)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("acme.Order"))


def main(url, topic):
    client = SchemaRegistryClient({"url": url})
    for has_grown in (False, True):
        kind = order(has_grown)
        value = kind(id="4711")
        person = value.operators.add(name="Ann", shift=2)
        if has_grown:
            value.margin = 0.31
            person.badge = "gold"
        serialize = ProtobufSerializer(kind, client, {"use.deprecated.format": False})
        encoded = serialize(value, SerializationContext(topic, MessageField.VALUE))
        print(json.dumps({"value": base64.b64encode(encoded).decode()}), flush=True)


main(*sys.argv[1:])
