// Decodes values with @confluentinc/schemaregistry's own deserializers, through a schema registry.
//
// decode.js FOLDER URL; FOLDER holds node_modules. Then lines of {"format": "avro" | "json" | "protobuf", "topic": .., "value": base64};
// answers with a line of JSON each.

const path = require('path');
const readline = require('readline');
const [folder, url] = process.argv.slice(2);
const { SchemaRegistryClient, AvroDeserializer, JsonDeserializer, ProtobufDeserializer, SerdeType } =
  require(path.join(folder, 'node_modules', '@confluentinc', 'schemaregistry'));

const client = new SchemaRegistryClient({ baseURLs: [url] });
const deserializers = {
  avro: new AvroDeserializer(client, SerdeType.VALUE, {}),
  json: new JsonDeserializer(client, SerdeType.VALUE, {}),
  protobuf: new ProtobufDeserializer(client, SerdeType.VALUE, {}),
};
const plain = (key, value) => (typeof value === 'bigint' ? Number(value) : value);

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    const decoded = await deserializers[order.format].deserialize(order.topic, Buffer.from(order.value, 'base64'));
    console.log(JSON.stringify(decoded, plain));
  }
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
