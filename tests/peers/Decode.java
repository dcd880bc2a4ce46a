// Decodes values with Apicurio's own Kafka deserializers, through a registry.
//
// Decode URL; URL is a registry's, without a path. Then lines of {"format": "avro" | "json" | "protobuf", "topic": .., "value": base64};
// answers with a line of JSON each. Of Protobuf, "message" names the message: this library passes over the indexes in the value.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import io.apicurio.registry.serde.avro.AvroKafkaDeserializer;
import io.apicurio.registry.serde.jsonschema.JsonSchemaKafkaDeserializer;
import io.apicurio.registry.serde.protobuf.ProtobufKafkaDeserializer;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.Deserializer;

public class Decode {
    public static void main(String[] args) throws Exception {
        // Confluent's wire format is four bytes of an id and, of Protobuf, the message's indexes.
        Map<String, Object> config = Map.of(
            "apicurio.registry.url", args[0] + "/apis/registry/v3",
            "apicurio.registry.use-id", "contentId",
            "apicurio.registry.id-handler", "io.apicurio.registry.serde.Default4ByteIdHandler",
            // Its validator of JSON Schema can't follow a reference by a relative name.
            "apicurio.registry.serde.validation-enabled", "false",
            "apicurio.registry.serde.read-type-ref", "false",
            "apicurio.registry.serde.read-indexes", "true");
        Map<String, Deserializer<?>> deserializers = Map.of(
            "avro", new AvroKafkaDeserializer<Object>(),
            "json", new JsonSchemaKafkaDeserializer<JsonNode>(),
            "protobuf", new ProtobufKafkaDeserializer<Message>());
        deserializers.forEach((format, deserializer) -> {
            Map<String, Object> own = new HashMap<>(config);
            if (format.equals("protobuf")) {
                own.put("apicurio.registry.deserializer.value.return-class", "com.google.protobuf.DynamicMessage");
            }
            deserializer.configure(own, false);
        });
        ObjectMapper json = new ObjectMapper();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            JsonNode order = json.readTree(line);
            byte[] value = Base64.getDecoder().decode(order.get("value").asText());
            Deserializer<?> deserializer = deserializers.get(order.get("format").asText());
            RecordHeaders headers = new RecordHeaders();
            if (deserializer instanceof ProtobufKafkaDeserializer) {
                String message = order.get("message").asText();
                headers.add("apicurio.value.msgType", message.substring(message.lastIndexOf('.') + 1).getBytes());
            }
            Object decoded = deserializer.deserialize(order.get("topic").asText(), headers, value);
            String text = decoded instanceof Message message
                ? JsonFormat.printer().preservingProtoFieldNames().omittingInsignificantWhitespace().print(message)
                : decoded instanceof JsonNode node ? node.toString() : decoded.toString();
            System.out.println(text);
        }
        System.exit(0);
    }
}
