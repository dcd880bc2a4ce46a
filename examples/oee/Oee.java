// OEE of each press and hour, and the condition of its bearings, by Kafka Streams out of the samples that Millrace wrote.
//
//     java -cp 'libs/*' Oee.java BROKERS [STATE_DIR]
//
// Reads    presses      samples; the key is the press
// Writes   oee          a record for each press and hour that is over
//          conditions   a record when a press begins to vibrate too much, and one when it is quiet again
//          late         samples that came after their hour was closed, as they were
//
// A press has a clock of its own: the greatest `time` it has said. A sample waits until that clock is GRACE beyond it; then samples are taken in the
// order of their time, whatever order they came in. What comes later than that is late: it changes no result, and is not dropped. Each press has its own
// clock and key, so one that is switched off holds up nobody.

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

public final class Oee {
    /** Times are microseconds since 1970, as in the samples. */
    static final long SECOND = 1_000_000L;

    static final long HOUR = 3_600 * SECOND;
    static final long GRACE = 900 * SECOND;

    /** Seconds a part takes at best. */
    static final double IDEAL_CYCLE = 12.0;

    /** The mean of so many good samples counts: above ON (mm/s) the condition begins, below OFF it ends. */
    static final int MEAN_OF = 5;

    static final double ON = 4.5;
    static final double OFF = 4.0;

    static final String INPUT = "presses";
    static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, "oee");
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args.length > 0 ? args[0] : "127.0.0.1:9092");
        if (args.length > 1) {
            properties.put(StreamsConfig.STATE_DIR_CONFIG, args[1]);
        }
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        try (Admin admin = Admin.create(properties)) {
            make(admin, "oee", "conditions", "late");
        }
        KafkaStreams streams = new KafkaStreams(topology(), properties);
        CountDownLatch ended = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            System.err.println("Kafka Streams: " + now);
            if (now == KafkaStreams.State.ERROR) {
                ended.countDown();
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
        streams.start();
        ended.await();
        System.exit(1);
    }

    static void make(Admin admin, String... topics) throws Exception {
        for (String topic : topics) {
            try {
                admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all().get();
            } catch (ExecutionException error) {
                if (!(error.getCause() instanceof TopicExistsException)) {
                    throw error;
                }
            }
        }
    }

    static Topology topology() {
        Topology topology = new Topology();
        topology.addSource("samples", new StringDeserializer(), new StringDeserializer(), INPUT);
        topology.addProcessor("shift", Shift::new, "samples");
        for (String store : List.of("waiting", "presses")) {
            var inMemory = Stores.inMemoryKeyValueStore(store);
            topology.addStateStore(Stores.keyValueStoreBuilder(inMemory, Serdes.String(), Serdes.String()), "shift");
        }
        for (String topic : List.of("oee", "conditions", "late")) {
            topology.addSink(topic, topic, new StringSerializer(), new StringSerializer(), "shift");
        }
        return topology;
    }

    /** What is known of each press, and the samples that wait for their turn. */
    static final class Shift implements Processor<String, String, String, String> {
        private ProcessorContext<String, String> context;
        private KeyValueStore<String, String> waiting;
        private KeyValueStore<String, String> presses;

        @Override
        public void init(ProcessorContext<String, String> context) {
            this.context = context;
            waiting = context.getStateStore("waiting");
            presses = context.getStateStore("presses");
        }

        @Override
        public void process(Record<String, String> record) {
            String key = record.key();
            JsonNode sample = parse(record.value());
            long time = sample.get("time").asLong();
            String known = presses.get(key);
            Press press = new Press(known == null ? JSON.createObjectNode() : (ObjectNode) parse(known));
            long clock = press.get("clock", Long.MIN_VALUE);
            if (clock != Long.MIN_VALUE && time < clock - GRACE) {
                forward("late", key, sample, time);
                return;
            }
            waiting.put(place(key, time, sample.get("seq").asLong()), record.value());
            clock = Math.max(clock, time);
            press.put("clock", clock);
            long until = clock - GRACE;
            List<String> taken = new ArrayList<>();
            try (KeyValueIterator<String, String> turn = waiting.range(place(key, 0, 0), place(key, until, Long.MAX_VALUE))) {
                while (turn.hasNext()) {
                    KeyValue<String, String> next = turn.next();
                    taken.add(next.key);
                    JsonNode one = parse(next.value);
                    closeHours(key, press, one.get("time").asLong());
                    if (press.take(one)) {
                        ObjectNode change = JSON.createObjectNode().put("press", key).put("condition", "vibration");
                        change.put("active", press.isVibrating()).put("time", one.get("time").asLong()).put("mean", press.mean());
                        forward("conditions", key, change, one.get("time").asLong());
                    }
                }
            }
            taken.forEach(waiting::delete);
            closeHours(key, press, until);
            presses.put(key, press.known.toString());
        }

        /** Time passes: hours that end by then are over. */
        private void closeHours(String key, Press press, long now) {
            while (press.has("at") && now >= press.hour() + HOUR) {
                long hour = press.hour();
                press.passes(hour + HOUR);
                forward("oee", key, press.result(key), hour + HOUR - 1);
                press.begin(hour + HOUR);
            }
        }

        private void forward(String to, String key, JsonNode value, long time) {
            context.forward(new Record<>(key, value.toString(), time / 1_000), to);
        }

        private static String place(String key, long time, long seq) {
            return String.format("%s|%019d|%019d", key, Math.max(0, time), seq);
        }
    }

    /** One press: its open hour, and what holds until the next sample. */
    static final class Press {
        final ObjectNode known;

        Press(ObjectNode known) {
            this.known = known;
        }

        boolean has(String name) {
            return known.has(name);
        }

        long get(String name, long otherwise) {
            return known.path(name).asLong(otherwise);
        }

        void put(String name, long value) {
            known.put(name, value);
        }

        long hour() {
            return known.get("hour").asLong();
        }

        boolean isVibrating() {
            return known.path("vibrating").asBoolean();
        }

        /** An hour begins, with nothing in it. */
        void begin(long hour) {
            put("hour", hour);
            for (String count : List.of("running", "stopped", "fault", "off", "unknown", "good", "scrap", "bad")) {
                put(count, 0);
            }
        }

        /** The state held until now. */
        void passes(long now) {
            String state = known.path("state").asText("unknown");
            put(state, get(state, 0) + now - known.get("at").asLong());
            put("at", now);
        }

        /** Takes a sample in its turn. Returns whether the condition changed. */
        boolean take(JsonNode sample) {
            long time = sample.get("time").asLong();
            if (!has("at")) {
                begin(Math.floorDiv(time, HOUR) * HOUR);
                put("at", time);
            }
            passes(time);
            String tag = sample.get("tag").asText();
            tag = tag.substring(tag.lastIndexOf('/') + 1);
            JsonNode value = sample.path("value");
            // The two highest bits of a status: 0 is good, 1 uncertain, 2 bad.
            boolean isBad = sample.path("status").asLong() >>> 30 >= 2 || value.isNull() || value.isMissingNode();
            if (isBad) {
                put("bad", get("bad", 0) + 1);
            }
            switch (tag) {
                case "state" -> {
                    if (isBad) {
                        known.remove("state");
                    } else {
                        known.put("state", value.asText());
                    }
                }
                case "parts" -> counts("good", "parts", isBad, value);
                case "scrap" -> counts("scrap", "thrown", isBad, value);
                case "vibration" -> {
                    return !isBad && vibrates(value.asDouble());
                }
                default -> {}
            }
            return false;
        }

        /** A lower count is a counter that began again at 0. */
        private void counts(String into, String last, boolean isBad, JsonNode value) {
            if (isBad) {
                return;
            }
            long now = value.asLong();
            if (has(last)) {
                long before = get(last, 0);
                put(into, get(into, 0) + (now >= before ? now - before : now));
            }
            put(last, now);
        }

        private boolean vibrates(double value) {
            ArrayNode recent = known.withArray("recent");
            recent.add(value);
            if (recent.size() > MEAN_OF) {
                recent.remove(0);
            }
            boolean is = recent.size() == MEAN_OF && (isVibrating() ? mean() >= OFF : mean() > ON);
            boolean changed = is != isVibrating();
            known.put("vibrating", is);
            return changed;
        }

        double mean() {
            double sum = 0;
            for (JsonNode value : known.withArray("recent")) {
                sum += value.asDouble();
            }
            return sum / known.withArray("recent").size();
        }

        ObjectNode result(String key) {
            double running = get("running", 0) / (double) SECOND;
            double stands = (get("stopped", 0) + get("fault", 0)) / (double) SECOND;
            long good = get("good", 0);
            long made = good + get("scrap", 0);
            ObjectNode result = JSON.createObjectNode().put("press", key).put("hour", hour());
            for (String state : List.of("running", "stopped", "fault", "off", "unknown")) {
                result.put(state + "_us", get(state, 0));
            }
            result.put("good", good).put("scrap", get("scrap", 0)).put("bad_samples", get("bad", 0));
            if (running > 0 && made > 0) {
                double availability = running / (running + stands);
                double performance = made * IDEAL_CYCLE / running;
                double quality = good / (double) made;
                result.put("availability", availability).put("performance", performance).put("quality", quality);
                result.put("oee", availability * performance * quality);
            }
            return result;
        }
    }

    static JsonNode parse(String text) {
        try {
            return JSON.readTree(text);
        } catch (JsonProcessingException error) {
            throw new IllegalStateException("a record that is not JSON: " + text, error);
        }
    }
}
