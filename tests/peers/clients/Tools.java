import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Supplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.admin.MemberToRemove;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Exit;

/**
 * What Kafka's own Java clients and command-line tools see of a broker: a line for each observation, the same for every broker that is Kafka.
 *
 * <pre>java -cp 'libs/*' Tools.java BROKERS PREFIX FOLDER [SCENARIO...]</pre>
 *
 * The tools run in this process, one after the other; what they print is said without what may differ between two runs: addresses, ids, times, rates.
 */
public class Tools {
    static final PrintStream OUT = System.out;
    static final InputStream IN = System.in;
    static final Duration PATIENCE = Duration.ofSeconds(60);
    static String brokers;
    static String prefix;
    static Path folder;
    static String scenario = "";
    static Integer ended;
    static final List<Runnable> hooks = new ArrayList<>();

    /** What a tool ends the process with. */
    static class Ended extends RuntimeException {}

    interface Scenario {
        void run() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        brokers = args[0];
        prefix = args[1];
        folder = Path.of(args[2]);
        List<String> chosen = Arrays.asList(args).subList(3, args.length);
        Exit.Procedure end = (status, message) -> {
            // Some tools catch this one, too, and end a second time.
            ended = ended == null ? status : ended;
            throw new Ended();
        };
        Exit.setExitProcedure(end);
        Exit.setHaltProcedure(end);
        Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));
        Map<String, Scenario> scenarios = new java.util.LinkedHashMap<>();
        scenarios.put("topics", Tools::topics);
        scenarios.put("configs", Tools::configs);
        scenarios.put("console", Tools::console);
        scenarios.put("loads", Tools::loads);
        scenarios.put("groups", Tools::groups);
        scenarios.put("records", Tools::records);
        scenarios.put("transactions", Tools::transactions);
        scenarios.put("members", Tools::members);
        scenarios.put("cluster", Tools::cluster);
        for (Map.Entry<String, Scenario> one : scenarios.entrySet()) {
            if (!chosen.isEmpty() && !chosen.contains(one.getKey())) {
                continue;
            }
            scenario = one.getKey();
            long began = System.nanoTime();
            try {
                one.getValue().run();
            } catch (Throwable caught) {
                say("UNEXPECTED " + caught);
                caught.printStackTrace();
            }
            System.err.printf("%s: %.1f s%n", scenario, (System.nanoTime() - began) / 1e9);
        }
        OUT.flush();
        Runtime.getRuntime().halt(0);
    }

    static synchronized void say(Object... words) {
        StringBuilder line = new StringBuilder("tools." + scenario + ":");
        for (Object word : words) {
            line.append(' ').append(word);
        }
        OUT.println(line);
        OUT.flush();
    }

    static String name(String of) {
        return prefix + "-" + of;
    }

    /** Takes out what may differ between two runs. */
    static String plain(String text) {
        return text.replace(brokers, "BROKERS")
            .replaceAll("TopicId: [\\w-]+", "TopicId: ID")
            .replaceAll("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID")
            .replaceAll("\\b\\d{13}\\b", "TIME")
            // Defaults of the broker, not of the topic.
            .replaceAll("(min.insync.replicas=1|segment.bytes=\\d+),?", "")
            .replaceAll("synonyms=\\{[^}]*\\}", "")
            .replaceAll("[ \\t]+", " ")
            .strip();
    }

    /** Runs a tool in this process; its status and what it printed. */
    static List<String> run(String type, String input, String... args) throws Exception {
        return run(printed -> true, type, input, args);
    }

    /** Runs a tool whose threads go on printing behind its end. */
    static List<String> run(Function<String, Boolean> whole, String type, String input, String... args) throws Exception {
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream to = new PrintStream(printed, true, StandardCharsets.UTF_8);
        System.setOut(to);
        System.setErr(to);
        System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
        ended = null;
        hooks.clear();
        try {
            Class.forName(type).getMethod("main", String[].class).invoke(null, (Object) args);
        } catch (InvocationTargetException caught) {
            if (!(caught.getCause() instanceof Ended)) {
                to.println(caught.getCause());
            }
        } finally {
            hooks.forEach(Runnable::run);
            until("its last word", () -> whole.apply(printed.toString(StandardCharsets.UTF_8)));
            System.setOut(OUT);
            System.setErr(ERR);
            System.setIn(IN);
        }
        List<String> lines = new ArrayList<>(List.of("status " + (ended == null ? 0 : ended)));
        for (String line : printed.toString(StandardCharsets.UTF_8).split("\n")) {
            if (!line.isBlank() && !line.startsWith("SLF4J") && !line.contains("Tools$Ended") && !line.equals("null")) {
                lines.add(plain(line));
            }
        }
        return lines;
    }

    static final PrintStream ERR = System.err;

    static List<String> tool(String type, String... args) throws Exception {
        List<String> all = new ArrayList<>(List.of("--bootstrap-server", brokers));
        all.addAll(Arrays.asList(args));
        String from = switch (type) {
            case "ConfigCommand" -> "kafka.admin.";
            case "ConsumerGroupCommand" -> "org.apache.kafka.tools.consumer.group.";
            default -> "org.apache.kafka.tools.";
        };
        return run(from + type, "", all.toArray(new String[0]));
    }

    /** Runs a tool and says all it printed, sorted where its order means nothing; stack traces shortened to their first line. */
    static void show(String type, String... args) throws Exception {
        String head = type + " " + String.join(" ", args);
        List<String> lines = tool(type, args);
        say(head, "->", lines.get(0));
        lines.subList(1, lines.size()).stream().filter(line -> !line.startsWith("at ") && !line.startsWith("...")).sorted().forEach(line -> say("  ", line));
    }

    static void until(String what, java.util.concurrent.Callable<Boolean> event) throws Exception {
        long end = System.nanoTime() + PATIENCE.toNanos();
        while (!event.call()) {
            if (System.nanoTime() > end) {
                throw new IllegalStateException(what + " did not happen");
            }
            Thread.sleep(50);
        }
    }

    static Map<String, Object> client(Object... more) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", brokers, "key.serializer", StringSerializer.class,
            "value.serializer", StringSerializer.class, "key.deserializer", StringDeserializer.class, "value.deserializer",
            StringDeserializer.class, "auto.offset.reset", "earliest", "enable.auto.commit", "false", "heartbeat.interval.ms", "200"));
        for (int i = 0; i < more.length; i += 2) {
            all.put((String) more[i], more[i + 1]);
        }
        return all;
    }

    static Admin admin() {
        return Admin.create(client());
    }

    static String create(String of, int partitions) throws Exception {
        try (Admin admin = admin()) {
            admin.createTopics(List.of(new NewTopic(name(of), partitions, (short) 1))).all().get();
            until("the topic is known", () -> admin.listTopics().names().get().contains(name(of)));
        }
        return name(of);
    }

    static void produce(String topic, int partition, int count) throws Exception {
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(client())) {
            for (int i = 0; i < count; i++) {
                producer.send(new ProducerRecord<>(topic, partition, "key " + i, "value " + i));
            }
        }
    }

    static String failure(java.util.concurrent.Callable<?> call) throws Exception {
        Throwable failed;
        try {
            return String.valueOf(call.call());
        } catch (ExecutionException caught) {
            failed = caught.getCause();
        } catch (org.apache.kafka.common.KafkaException caught) {
            failed = caught;
        }
        // Which of the two depends on the version of transactions; both are for good.
        boolean fenced = failed instanceof InvalidProducerEpochException || failed instanceof ProducerFencedException;
        return fenced ? "fenced" : failed.getClass().getSimpleName();
    }

    static void topics() throws Exception {
        String topic = name("java.topics");
        show("TopicCommand", "--create", "--topic", topic, "--partitions", "3", "--config", "retention.ms=3600000", "--config", "cleanup.policy=compact");
        show("TopicCommand", "--create", "--topic", topic);
        show("TopicCommand", "--create", "--topic", topic, "--if-not-exists");
        show("TopicCommand", "--create", "--topic", name("java.three"), "--replication-factor", "3");
        show("TopicCommand", "--create", "--topic", name("java.bad"), "--config", "cleanup.policy=shred");
        show("TopicCommand", "--describe", "--topic", topic);
        show("TopicCommand", "--describe", "--topic", name("java.missing"));
        show("TopicCommand", "--describe", "--under-replicated-partitions");
        show("TopicCommand", "--describe", "--unavailable-partitions");
        show("TopicCommand", "--alter", "--topic", topic, "--partitions", "5");
        show("TopicCommand", "--alter", "--topic", topic, "--partitions", "2");
        show("TopicCommand", "--list", "--topic", topic + ".*");
        show("TopicCommand", "--delete", "--topic", topic);
        show("TopicCommand", "--delete", "--topic", topic);
        show("TopicCommand", "--list", "--topic", topic + ".*");
    }

    static void configs() throws Exception {
        String topic = create("java.configs", 1);
        String[] of = {"--entity-type", "topics", "--entity-name", topic};
        Function<String[], String[]> with = more -> {
            List<String> all = new ArrayList<>(Arrays.asList(more));
            all.addAll(Arrays.asList(of));
            return all.toArray(new String[0]);
        };
        show("ConfigCommand", with.apply(new String[] {"--describe"}));
        show("ConfigCommand", with.apply(new String[] {"--alter", "--add-config", "retention.ms=7200000,max.message.bytes=2000"}));
        show("ConfigCommand", with.apply(new String[] {"--describe"}));
        show("ConfigCommand", with.apply(new String[] {"--alter", "--delete-config", "retention.ms"}));
        show("ConfigCommand", with.apply(new String[] {"--alter", "--add-config", "no.such.key=1"}));
        show("ConfigCommand", with.apply(new String[] {"--alter", "--add-config", "retention.ms=soon"}));
        show("ConfigCommand", with.apply(new String[] {"--describe"}));
        List<String> all = tool("ConfigCommand", with.apply(new String[] {"--describe", "--all"}));
        say("all of them, given", all.stream().filter(line -> line.contains("DYNAMIC_TOPIC_CONFIG")).toList());
        say("describes the broker", tool("ConfigCommand", "--describe", "--all", "--entity-type", "brokers", "--entity-name", "1").stream()
            .anyMatch(line -> line.startsWith("message.max.bytes=1048588")));
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(client())) {
            say("too large", failure(() -> producer.send(new ProducerRecord<>(topic, "x".repeat(10_000))).get()));
        }
    }

    static void console() throws Exception {
        String topic = create("java.console", 1);
        String type = "org.apache.kafka.tools.";
        String lines = "a:one\nb:two\nc:three\n:empty\n";
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            say("produced", codec, run(type + "ConsoleProducer", lines, "--bootstrap-server", brokers, "--topic", topic, "--compression-codec=" + codec,
                "--property", "parse.key=true", "--property", "key.separator=:").get(0));
        }
        List<String> seen = run(type + "consumer.ConsoleConsumer", "", "--bootstrap-server", brokers, "--topic", topic, "--from-beginning", "--max-messages", "20",
            "--property", "print.key=true", "--property", "print.offset=true", "--property", "print.partition=true");
        seen.forEach(line -> say("consumed", line));
        seen = run(type + "consumer.ConsoleConsumer", "", "--bootstrap-server", brokers, "--topic", topic, "--partition", "0", "--offset", "18", "--timeout-ms", "2000");
        seen.stream().filter(line -> !line.contains("TimeoutException")).forEach(line -> say("from 18", line));
    }

    static void loads() throws Exception {
        String topic = create("java.loads", 2);
        List<String> lines = run("org.apache.kafka.tools.ProducerPerformance", "", "--topic", topic, "--num-records", "5000", "--record-size", "100", "--throughput", "-1",
            "--producer-props", "bootstrap.servers=" + brokers, "acks=all");
        say("perf", lines.get(0), lines.get(lines.size() - 1).replaceAll(" sent.*", " sent"));
        lines = run("org.apache.kafka.tools.ConsumerPerformance", "", "--bootstrap-server", brokers, "--topic", topic, "--messages", "5000", "--timeout", "20000");
        String[] columns = lines.get(lines.size() - 1).split(", ");
        say("perf", lines.get(0), columns[4].equals("5000") ? "all consumed" : "consumed " + columns[4]);
        String verified = create("java.verified", 1);
        lines = run(printed -> printed.split("producer_send_").length > 500, "org.apache.kafka.tools.VerifiableProducer", "", "--bootstrap-server", brokers, "--topic", verified,
            "--max-messages", "500", "--acks", "-1");
        say("verifiable", lines.get(0), lines.stream().filter(line -> line.contains("producer_send_success")).count(), "acknowledged",
            lines.stream().filter(line -> line.contains("producer_send_error")).count(), "refused");
        lines = run("org.apache.kafka.tools.VerifiableConsumer", "", "--bootstrap-server", brokers, "--topic", verified, "--group-id", name("java.verifiable"),
            "--max-messages", "500", "--reset-policy", "earliest");
        long consumed = lines.stream().filter(line -> line.contains("\"records_consumed\"")).mapToLong(line -> Long.parseLong(line.replaceAll(".*\"count\":(\\d+),.*", "$1"))).sum();
        say("verifiable", consumed, "consumed", lines.stream().filter(line -> line.contains("offsets_committed")).allMatch(line -> line.contains("\"success\":true")), "committed");
    }

    static KafkaConsumer<String, String> member(String group, Object... more) {
        Object[] all = Arrays.copyOf(more, more.length + 2);
        all[more.length] = "group.id";
        all[more.length + 1] = group;
        return new KafkaConsumer<>(client(all));
    }

    static void groups() throws Exception {
        String topic = create("java.groups", 2);
        String group = name("java.group");
        produce(topic, 0, 10);
        produce(topic, 1, 4);
        try (KafkaConsumer<String, String> consumer = member(group, "client.id", "reader")) {
            consumer.subscribe(List.of(topic));
            int[] count = {0};
            until("fourteen records", () -> (count[0] += consumer.poll(Duration.ofMillis(100)).count()) == 14);
            consumer.commitSync(Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(7, "seven"), new TopicPartition(topic, 1), new OffsetAndMetadata(4)));
            show("ConsumerGroupCommand", "--describe", "--group", group);
            show("ConsumerGroupCommand", "--describe", "--group", group, "--members", "--verbose");
            show("ConsumerGroupCommand", "--describe", "--group", group, "--state");
            show("ConsumerGroupCommand", "--reset-offsets", "--group", group, "--topic", topic, "--to-earliest", "--execute");
            show("ConsumerGroupCommand", "--delete", "--group", group);
            show("ConsumerGroupCommand", "--delete-offsets", "--group", group, "--topic", topic);
        }
        until("the member has left", () -> tool("ConsumerGroupCommand", "--describe", "--group", group, "--state").stream().anyMatch(line -> line.contains("Empty")));
        show("ConsumerGroupCommand", "--describe", "--group", group);
        for (String[] to : new String[][] {{"--to-offset", "3"}, {"--shift-by", "-2"}, {"--to-latest"}, {"--to-earliest"}, {"--to-datetime", "2001-01-01T00:00:00.000"}, {"--by-duration", "PT0S"}}) {
            List<String> args = new ArrayList<>(List.of("--reset-offsets", "--group", group, "--topic", topic, "--execute"));
            args.addAll(Arrays.asList(to));
            show("ConsumerGroupCommand", args.toArray(new String[0]));
        }
        say("listed", tool("ConsumerGroupCommand", "--list", "--state").stream().filter(line -> line.startsWith(group)).toList());
        say("listed", tool("ConsumerGroupCommand", "--list", "--state", "Stable").stream().filter(line -> line.startsWith(group)).toList());
        say("listed", tool("GroupsCommand", "--list").stream().filter(line -> line.startsWith(group)).toList());
        show("ConsumerGroupCommand", "--delete-offsets", "--group", group, "--topic", topic + ":1");
        show("ConsumerGroupCommand", "--describe", "--group", group, "--offsets");
        show("ConsumerGroupCommand", "--delete", "--group", group);
        show("ConsumerGroupCommand", "--delete", "--group", group);
        show("ConsumerGroupCommand", "--describe", "--group", group);
    }

    static void records() throws Exception {
        String topic = create("java.records", 2);
        produce(topic, 0, 20);
        show("GetOffsetShell", "--topic", topic);
        Path file = folder.resolve("delete.json");
        Files.writeString(file, "{\"partitions\": [{\"topic\": \"" + topic + "\", \"partition\": 0, \"offset\": 12}], \"version\": 1}");
        List<String> deleted = tool("DeleteRecordsCommand", "--offset-json-file", file.toString());
        deleted.forEach(line -> say("deleted", line));
        for (String time : List.of("earliest", "latest", "0")) {
            show("GetOffsetShell", "--topic", topic, "--time", time);
        }
        List<String> dirs = tool("LogDirsCommand", "--describe", "--topic-list", topic);
        String json = dirs.get(dirs.size() - 1);
        say("log dirs", dirs.get(0), json.contains("\"partition\":\"" + topic + "-0\""), json.contains("\"partition\":\"" + topic + "-1\""), json.contains("\"offsetLag\":0"),
            json.contains("\"error\":null"));
    }

    static void transactions() throws Exception {
        String topic = create("java.transactions", 1);
        String id = name("java.t");
        Map<String, Object> with = client("transactional.id", id, "transaction.timeout.ms", "50000");
        KafkaProducer<String, String> first = new KafkaProducer<>(with);
        first.initTransactions();
        for (String end : List.of("commit", "abort", "commit")) {
            first.beginTransaction();
            first.send(new ProducerRecord<>(topic, end));
            first.flush();
            if (end.equals("commit")) {
                first.commitTransaction();
            } else {
                first.abortTransaction();
            }
        }
        first.beginTransaction();
        first.send(new ProducerRecord<>(topic, "open"));
        first.flush();
        List<String> listed = tool("TransactionsCommand", "list");
        say("listed", listed.stream().filter(line -> line.startsWith(id + " ")).map(line -> line.split(" ")[3]).toList());
        List<String> described = tool("TransactionsCommand", "describe", "--transactional-id", id);
        String[] columns = described.get(described.size() - 1).split(" ");
        say("described", described.get(0), columns[0].equals("1"), columns[4], columns[5], columns[columns.length - 1]);
        described = tool("TransactionsCommand", "describe-producers", "--topic", topic, "--partition", "0");
        columns = described.get(described.size() - 1).split(" ");
        // Epoch and sequence depend on the version of transactions that broker and client agree on.
        say("producers", described.get(0), described.get(1), columns.length, columns[5]);
        show("TransactionsCommand", "describe", "--transactional-id", name("java.missing"));
        try (Admin admin = admin()) {
            TopicPartition partition = new TopicPartition(topic, 0);
            for (IsolationLevel level : IsolationLevel.values()) {
                say(level, admin.listOffsets(Map.of(partition, OffsetSpec.latest()), new ListOffsetsOptions(level)).partitionResult(partition).get().offset());
            }
            KafkaProducer<String, String> second = new KafkaProducer<>(with);
            second.initTransactions();
            say("fenced", failure(() -> first.send(new ProducerRecord<>(topic, "fenced")).get()), failure(() -> {
                first.commitTransaction();
                return "committed";
            }));
            second.beginTransaction();
            second.send(new ProducerRecord<>(topic, "second"));
            second.commitTransaction();
            say("fence by an admin", failure(() -> admin.fenceProducers(List.of(id)).all().get()));
            second.beginTransaction();
            second.send(new ProducerRecord<>(topic, "fenced, too"));
            say("and", failure(() -> {
                second.commitTransaction();
                return "committed";
            }));
        }
        for (String level : List.of("read_committed", "read_uncommitted")) {
            try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(client("isolation.level", level))) {
                TopicPartition partition = new TopicPartition(topic, 0);
                consumer.assign(List.of(partition));
                consumer.seekToBeginning(List.of(partition));
                long end = consumer.endOffsets(List.of(partition)).get(partition);
                List<String> seen = new ArrayList<>();
                while (consumer.position(partition) < end) {
                    for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(500))) {
                        seen.add(record.offset() + " " + record.value());
                    }
                }
                say(level, "to", end, seen);
            }
        }
    }

    static void members() throws Exception {
        String topic = create("java.members", 3);
        String group = name("java.members");
        TreeMap<String, TreeSet<Integer>> owned = new TreeMap<>();
        class Seat implements AutoCloseable {
            final String name;
            final KafkaConsumer<String, String> consumer;

            Seat(String name, String strategy) {
                this.name = name;
                consumer = member(group, "group.instance.id", name, "client.id", name, "partition.assignment.strategy",
                    "org.apache.kafka.clients.consumer." + strategy, "session.timeout.ms", "20000");
                consumer.subscribe(List.of(topic));
            }

            void poll() {
                consumer.poll(Duration.ofMillis(20));
                TreeSet<Integer> mine = new TreeSet<>();
                consumer.assignment().forEach(partition -> mine.add(partition.partition()));
                owned.put(name, mine);
            }

            public void close() {
                consumer.close();
            }
        }
        for (String strategy : List.of("RangeAssignor", "CooperativeStickyAssignor")) {
            owned.clear();
            try (Seat a = new Seat("a", strategy); Seat b = new Seat("b", strategy); Seat c = new Seat("c", strategy)) {
                until("each has one", () -> {
                    for (Seat seat : List.of(a, b, c)) {
                        seat.poll();
                    }
                    return owned.values().stream().flatMap(Collection::stream).distinct().count() == 3 && owned.values().stream().allMatch(mine -> mine.size() == 1);
                });
                say(strategy, "each has one");
                TreeSet<Integer> before = owned.get("b");
                b.close();
                try (Seat again = new Seat("b", strategy)) {
                    until("it is back", () -> {
                        a.poll();
                        c.poll();
                        again.poll();
                        return owned.get("b").size() == 1;
                    });
                    say(strategy, "the same", owned.get("b").equals(before));
                }
            }
            try (Admin admin = admin()) {
                say(strategy, "static members stay", admin.describeConsumerGroups(List.of(group)).describedGroups().get(group).get().members().size());
                admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("a"), new MemberToRemove("b"), new MemberToRemove("c")))).all().get();
                say(strategy, "removed", admin.describeConsumerGroups(List.of(group)).describedGroups().get(group).get().groupState());
                say(strategy, "again", failure(() -> admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("a")))).all().get()));
            }
        }
    }

    static void cluster() throws Exception {
        say("api versions", tool("BrokerApiVersionsCommand").get(0));
        say("cluster id", run("org.apache.kafka.tools.ClusterTool", "", "cluster-id", "--bootstrap-server", brokers).get(1).replaceAll(": .*", ": ID"));
        say("endpoints", run("org.apache.kafka.tools.ClusterTool", "", "list-endpoints", "--bootstrap-server", brokers).get(0));
        try (Admin admin = admin()) {
            say("nodes", admin.describeCluster().nodes().get(10, TimeUnit.SECONDS).size(), "controller", admin.describeCluster().controller().get().id());
            say("acls", failure(() -> admin.describeAcls(org.apache.kafka.common.acl.AclBindingFilter.ANY).values().get()));
            say("reassignments", failure(() -> admin.listPartitionReassignments().reassignments().get()));
        }
    }
}
