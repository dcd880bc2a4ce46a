"""Decodes values with confluent-kafka's own deserializers, through a schema registry.

decode.py URL; then lines of {"format": "avro" | "json" | "protobuf", "topic": .., "value": base64}; answers with a line of JSON each.
Of Protobuf, "message" names the message where it is not the first of its file. With "descriptors", a list of [name, base64] that ends
with the message's own file, the class is made of these and no registry is asked.
"""

import base64
import json
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory


def message_of(client, order, value):
    """The class of a message; a registry gives schemas as descriptors."""
    pool = descriptor_pool.DescriptorPool()
    added = {}

    def add(name, descriptor):
        file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(descriptor))
        file.name = name
        pool.Add(file)
        return file

    def fetch(name, schema):
        for reference in schema.references or []:
            if reference.name not in added:
                version = client.get_version(reference.subject, reference.version, fmt="serialized")
                added[reference.name] = fetch(reference.name, version.schema)
        return add(name, schema.schema_str)

    if "descriptors" in order:
        file = [add(name, descriptor) for name, descriptor in order["descriptors"]][-1]
    else:
        file = fetch("value.proto", client.get_schema(int.from_bytes(value[1:5], "big"), fmt="serialized"))
    first = f"{file.package}.{file.message_type[0].name}" if file.package else file.message_type[0].name
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(order.get("message") or first))


def main(url):
    client = SchemaRegistryClient({"url": url})
    for line in sys.stdin:
        order = json.loads(line)
        value = base64.b64decode(order["value"])
        context = SerializationContext(order["topic"], MessageField.VALUE)
        if order["format"] == "avro":
            decoded = AvroDeserializer(client)(value, context)
        elif order["format"] == "json":
            decoded = JSONDeserializer(None, schema_registry_client=client)(value, context)
        else:
            asked = None if "descriptors" in order else client
            deserializer = ProtobufDeserializer(message_of(client, order, value), {"use.deprecated.format": False}, asked)
            decoded = json_format.MessageToDict(deserializer(value, context), preserving_proto_field_name=True)
        print(json.dumps(decoded, default=str), flush=True)


main(*sys.argv[1:])
