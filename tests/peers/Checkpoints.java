import java.time.Duration;
import java.util.Map;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.connect.mirror.RemoteClusterUtils;

/** Asks a cluster, as MirrorMaker 2's own client does, where a group of another cluster goes on: BROKERS ALIAS GROUP; a line for each partition. */
class Checkpoints {
  public static void main(String[] args) throws Exception {
    Map<String, Object> properties = Map.of("bootstrap.servers", args[0]);
    Map<TopicPartition, OffsetAndMetadata> offsets =
        RemoteClusterUtils.translateOffsets(properties, args[1], args[2], Duration.ofSeconds(30));
    offsets.forEach((part, offset) -> System.out.println(part.topic() + " " + part.partition() + " " + offset.offset()));
  }
}
