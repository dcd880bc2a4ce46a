"""Decodes values with confluent-kafka's own deserializers, through a schema registry.

decode.py URL; then lines of {"format": "avro" | "json" | "protobuf", "topic": .., "value": base64}; answers with a line of JSON each.
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


def message_of(client, value):
    """The class of the first message of the schema that a value names; the registry gives it as a descriptor."""
    schema = client.get_schema(int.from_bytes(value[1:5], "big"), fmt="serialized")
    file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(schema.schema_str))
    file.name = "value.proto"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    name = f"{file.package}.{file.message_type[0].name}" if file.package else file.message_type[0].name
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


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
            deserializer = ProtobufDeserializer(message_of(client, value), {"use.deprecated.format": False}, client)
            decoded = json_format.MessageToDict(deserializer(value, context), preserving_proto_field_name=True)
        print(json.dumps(decoded, default=str), flush=True)


main(*sys.argv[1:])
