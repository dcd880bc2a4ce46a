// An OPC UA server on Eclipse Milo, told what to do by lines of JSON on its standard input and answering each with a line.
// Its one argument is the JSON that plant.py describes. It serves the same names, types and values; it has no history.

import static org.eclipse.milo.opcua.stack.core.types.builtin.unsigned.Unsigned.*;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.security.KeyPair;
import java.security.Security;
import java.security.cert.X509Certificate;
import java.time.Instant;
import java.util.*;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.eclipse.milo.opcua.sdk.core.AccessLevel;
import org.eclipse.milo.opcua.sdk.core.Reference;
import org.eclipse.milo.opcua.sdk.core.types.DynamicStructType;
import org.eclipse.milo.opcua.sdk.core.types.codec.DynamicCodecFactory;
import org.eclipse.milo.opcua.sdk.core.types.codec.DynamicStructCodec;
import org.eclipse.milo.opcua.sdk.core.typetree.DataType;
import org.eclipse.milo.opcua.sdk.server.*;
import org.eclipse.milo.opcua.sdk.server.identity.*;
import org.eclipse.milo.opcua.sdk.server.items.*;
import org.eclipse.milo.opcua.sdk.server.model.objects.BaseEventTypeNode;
import org.eclipse.milo.opcua.sdk.server.model.objects.DataTypeEncodingTypeNode;
import org.eclipse.milo.opcua.sdk.server.model.objects.ServerTypeNode;
import org.eclipse.milo.opcua.sdk.server.nodes.*;
import org.eclipse.milo.opcua.sdk.server.util.SubscriptionModel;
import org.eclipse.milo.opcua.stack.core.NodeIds;
import org.eclipse.milo.opcua.stack.core.security.*;
import org.eclipse.milo.opcua.stack.core.transport.TransportProfile;
import org.eclipse.milo.opcua.stack.core.types.builtin.*;
import org.eclipse.milo.opcua.stack.core.types.builtin.unsigned.UInteger;
import org.eclipse.milo.opcua.stack.core.types.enumerated.MessageSecurityMode;
import org.eclipse.milo.opcua.stack.core.types.enumerated.StructureType;
import org.eclipse.milo.opcua.stack.core.types.structured.*;
import org.eclipse.milo.opcua.stack.core.util.SelfSignedCertificateBuilder;
import org.eclipse.milo.opcua.stack.core.util.SelfSignedCertificateGenerator;
import org.eclipse.milo.opcua.stack.transport.server.tcp.OpcTcpServerTransport;
import org.eclipse.milo.opcua.stack.transport.server.tcp.OpcTcpServerTransportConfig;

public class Plant extends ManagedNamespaceWithLifecycle {
  static final String URI = "http://millrace.test/plant";
  static final String APPLICATION = "urn:millrace:test:milo";
  static JsonObject options;

  static synchronized void say(Object... what) {
    Map<String, Object> line = new LinkedHashMap<>();
    for (int i = 0; i < what.length; i += 2) line.put((String) what[i], what[i + 1]);
    System.out.println(new Gson().toJson(line));
  }

  public static void main(String[] args) throws Exception {
    Security.addProvider(new BouncyCastleProvider());
    options = JsonParser.parseString(args[0]).getAsJsonObject();
    OpcUaServer server = server();
    if (options.has("namespaces")) {
      for (JsonElement uri : options.getAsJsonArray("namespaces")) server.getNamespaceTable().add(uri.getAsString());
    }
    Plant plant = new Plant(server);
    plant.startup();
    server.startup().get();
    say("ready", true);
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      JsonObject order = JsonParser.parseString(line).getAsJsonObject();
      String what = order.get("do").getAsString();
      try {
        plant.obey(what, order);
      } catch (Exception error) {
        say("failed", what, "error", error.toString());
      }
    }
    System.exit(0);
  }

  static OpcUaServer server() throws Exception {
    KeyPair pair = SelfSignedCertificateGenerator.generateRsaKeyPair(2048);
    X509Certificate certificate =
        new SelfSignedCertificateBuilder(pair).setCommonName("Milo").setApplicationUri(APPLICATION).addDnsName("localhost").addIpAddress("127.0.0.1").build();
    var factory =
        new RsaSha256CertificateFactory() {
          @Override
          protected KeyPair createRsaSha256KeyPair() {
            return pair;
          }

          @Override
          protected X509Certificate[] createRsaSha256CertificateChain(KeyPair keyPair) {
            return new X509Certificate[] {certificate};
          }
        };
    var group =
        DefaultApplicationGroup.createAndInitialize(
            new MemoryTrustListManager(), new MemoryCertificateStore(), factory, new CertificateValidator.InsecureCertificateValidator());
    boolean hasUser = options.has("user");
    Set<EndpointConfig> endpoints = new LinkedHashSet<>();
    var base =
        EndpointConfig.newBuilder()
            .setBindAddress("127.0.0.1").setHostname("127.0.0.1").setPath("/plant").setBindPort(options.get("port").getAsInt())
            .setTransportProfile(TransportProfile.TCP_UASC_UABINARY).setCertificate(certificate);
    if (!hasUser) base.addTokenPolicies(OpcUaServerConfig.USER_TOKEN_POLICY_ANONYMOUS);
    base.addTokenPolicies(OpcUaServerConfig.USER_TOKEN_POLICY_USERNAME, OpcUaServerConfig.USER_TOKEN_POLICY_X509);
    endpoints.add(base.copy().setSecurityPolicy(SecurityPolicy.None).setSecurityMode(MessageSecurityMode.None).build());
    if (options.has("dir")) {
      for (var policy : List.of(SecurityPolicy.Basic256Sha256, SecurityPolicy.Aes128_Sha256_RsaOaep, SecurityPolicy.Aes256_Sha256_RsaPss)) {
        for (var mode : List.of(MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt)) {
          endpoints.add(base.copy().setSecurityPolicy(policy).setSecurityMode(mode).build());
        }
      }
    }
    var users =
        new UsernameIdentityValidator(
            challenge -> {
              JsonArray user = options.getAsJsonArray("user");
              return user == null
                  || user.get(0).getAsString().equals(challenge.getUsername()) && user.get(1).getAsString().equals(challenge.getPassword());
            });
    var limits =
        new OpcUaServerConfigLimits() {
          UInteger limit(int usual) {
            return uint(options.has("limit") ? options.get("limit").getAsInt() : usual);
          }

          @Override
          public UInteger getMaxNodesPerRead() {
            return limit(8192);
          }

          @Override
          public UInteger getMaxMonitoredItemsPerCall() {
            return limit(8192);
          }

          @Override
          public UInteger getMaxNodesPerBrowse() {
            return limit(8192);
          }
        };
    OpcUaServerConfig config =
        OpcUaServerConfig.builder()
            .setApplicationUri(APPLICATION).setApplicationName(LocalizedText.english("Milo")).setProductUri("urn:millrace:test")
            .setBuildInfo(new BuildInfo("urn:millrace:test", "eclipse", "milo", OpcUaServer.SDK_VERSION, "", DateTime.now()))
            .setEndpoints(endpoints).setLimits(limits)
            .setCertificateManager(new DefaultCertificateManager(new MemoryCertificateQuarantine(), group))
            .setIdentityValidator(
                hasUser
                    ? new CompositeValidator(users, new X509IdentityValidator(any -> true))
                    : new CompositeValidator(AnonymousIdentityValidator.INSTANCE, users))
            .build();
    return new OpcUaServer(config, profile -> new OpcTcpServerTransport(OpcTcpServerTransportConfig.newBuilder().build()));
  }

  final SubscriptionModel model;
  final Map<String, UaVariableNode> variables = new HashMap<>();
  final List<UaVariableNode> loads = new ArrayList<>();
  UaFolderNode live;

  Plant(OpcUaServer server) {
    super(server, URI);
    model = new SubscriptionModel(server, this);
    getLifecycleManager().addLifecycle(model);
    getLifecycleManager()
        .addStartupTask(
            () -> {
              try {
                furnish();
              } catch (Exception error) {
                throw new RuntimeException(error);
              }
            });
  }

  UaFolderNode folder(String name) {
    UaFolderNode folder = new UaFolderNode(getNodeContext(), newNodeId(name), newQualifiedName(name), LocalizedText.english(name));
    getNodeManager().addNode(folder);
    folder.addReference(new Reference(folder.getNodeId(), NodeIds.Organizes, NodeIds.ObjectsFolder.expanded(), false));
    return folder;
  }

  UaVariableNode variable(UaFolderNode parent, String name, NodeId type, Object value) {
    String last = name.substring(name.lastIndexOf('.') + 1);
    var builder =
        new UaVariableNode.UaVariableNodeBuilder(getNodeContext())
            .setNodeId(newNodeId(name)).setBrowseName(newQualifiedName(last)).setDisplayName(LocalizedText.english(last)).setDataType(type)
            .setTypeDefinition(NodeIds.BaseDataVariableType).setAccessLevel(AccessLevel.READ_WRITE).setUserAccessLevel(AccessLevel.READ_WRITE)
            .setMinimumSamplingInterval(0.0);
    if (value instanceof Matrix matrix) {
      builder.setValueRank(matrix.getDimensions().length);
      builder.setArrayDimensions(Arrays.stream(matrix.getDimensions()).mapToObj(size -> uint(size)).toArray(UInteger[]::new));
    } else if (value != null && value.getClass().isArray()) {
      builder.setValueRank(1);
      builder.setArrayDimensions(new UInteger[] {uint(0)});
    }
    UaVariableNode node = builder.build();
    node.setValue(new DataValue(new Variant(value), StatusCode.GOOD, DateTime.now(), DateTime.now()));
    getNodeManager().addNode(node);
    parent.addOrganizes(node);
    variables.put(name, node);
    return node;
  }

  void furnish() throws Exception {
    if (getServer().getAddressSpaceManager().getManagedNode(NodeIds.Server).orElse(null) instanceof ServerTypeNode node) {
      node.setEventNotifier(ubyte(1));
    }
    UaFolderNode types = folder("Types");
    Object[][] scalars = {
      {"Bool", NodeIds.Boolean, true}, {"SByte", NodeIds.SByte, (byte) -12}, {"Byte", NodeIds.Byte, ubyte(250)},
      {"Int16", NodeIds.Int16, (short) -1234}, {"UInt16", NodeIds.UInt16, ushort(65000)}, {"Int32", NodeIds.Int32, -123456},
      {"UInt32", NodeIds.UInt32, uint(4294967284L)}, {"Int64", NodeIds.Int64, -9007199254740993L},
      {"UInt64", NodeIds.UInt64, ulong("18446744073709551615")}, {"Float", NodeIds.Float, 0.1f}, {"Double", NodeIds.Double, 0.1},
      {"NaN", NodeIds.Double, Double.NaN}, {"Infinity", NodeIds.Double, Double.NEGATIVE_INFINITY}, {"String", NodeIds.String, "Größe \"7\""},
      {"EmptyString", NodeIds.String, ""}, {"DateTime", NodeIds.DateTime, new DateTime(Instant.parse("2026-01-02T03:04:05.678901Z"))},
      {"Guid", NodeIds.Guid, UUID.fromString("4a6ff8ba-ed32-4bd5-8e1d-9c2e8c9d4f2a")},
      {"Bytes", NodeIds.ByteString, ByteString.of(new byte[] {0, (byte) 255, 16})}, {"NodeId", NodeIds.NodeId, new NodeId(2, "Types.Bool")},
      {"Status", NodeIds.StatusCode, new StatusCode(0x80AB0000L)}, {"QualifiedName", NodeIds.QualifiedName, new QualifiedName(2, "Name")},
      {"LocalizedText", NodeIds.LocalizedText, new LocalizedText("de", "heiß")}, {"Doubles", NodeIds.Double, new Double[] {1.5, -2.5, 3.0}},
      {"Bools", NodeIds.Boolean, new Boolean[] {true, false, true}}, {"Int64s", NodeIds.Int64, new Long[] {-1L, 9007199254740993L}},
      {"Strings", NodeIds.String, new String[] {"a", "", "ß"}}, {"NoDoubles", NodeIds.Double, new Double[] {}},
      {"Matrix", NodeIds.Int32, Matrix.ofInt32(new int[][] {{1, 2, 3}, {4, 5, 6}})}, {"Null", NodeIds.Double, null},
    };
    for (Object[] one : scalars) variable(types, "Types." + one[0], (NodeId) one[1], one[2]);
    NodeId state = enumeration("PressState", "Stopped", "Running", "SetUp", "Fault");
    variable(types, "Types.Enum", state, 1);
    DataType die = structure("DieInfo", field("Id", NodeIds.UInt16, -1), field("Temperature", NodeIds.Double, -1));
    DataType part =
        structure(
            "PartResult", field("Serial", NodeIds.String, -1), field("Peak", NodeIds.Float, -1), field("Good", NodeIds.Boolean, -1),
            field("State", state, -1), field("Die", die.getNodeId(), -1), field("Zones", NodeIds.Double, 1));
    var dieMembers = new LinkedHashMap<String, Object>();
    dieMembers.put("Id", ushort(9));
    dieMembers.put("Temperature", 200.25);
    var members = new LinkedHashMap<String, Object>();
    members.put("Serial", "P-7");
    members.put("Peak", 123.5f);
    members.put("Good", true);
    members.put("State", new org.eclipse.milo.opcua.sdk.core.types.DynamicEnumType(getServer().getDataTypeTree().getDataType(state), 1));
    members.put("Die", new DynamicStructType(die, dieMembers));
    members.put("Zones", new Double[] {1.0, 2.5});
    var value = ExtensionObject.encode(getServer().getDynamicEncodingContext(), new DynamicStructType(part, members));
    variable(types, "Types.Struct", part.getNodeId(), value);
    live = folder("Live");
    variable(live, "Live.Counter", NodeIds.Int64, 0L);
    variable(live, "Live.Temp", NodeIds.Double, 20.0);
    if (options.has("load")) {
      UaFolderNode load = folder("Load");
      for (int number = 0; number < options.get("load").getAsInt(); number++) {
        loads.add(variable(load, "Load.N%06d".formatted(number), NodeIds.Double, 0.0));
      }
    }
  }

  UaDataTypeNode dataType(String name, NodeId above) {
    NodeId id = newNodeId("DataType." + name);
    var node =
        new UaDataTypeNode(
            getNodeContext(), id, newQualifiedName(name), LocalizedText.english(name), LocalizedText.NULL_VALUE, uint(0), uint(0), false);
    node.addReference(new Reference(id, NodeIds.HasSubtype, above.expanded(), Reference.Direction.INVERSE));
    getNodeManager().addNode(node);
    return node;
  }

  NodeId enumeration(String name, String... names) throws Exception {
    UaDataTypeNode node = dataType(name, NodeIds.Enumeration);
    var fields = new EnumField[names.length];
    for (int i = 0; i < names.length; i++) {
      fields[i] = new EnumField((long) i, LocalizedText.english(names[i]), LocalizedText.NULL_VALUE, names[i]);
    }
    node.setEnumStrings(Arrays.stream(names).map(LocalizedText::english).toArray(LocalizedText[]::new));
    node.setDataTypeDefinition(new EnumDefinition(fields));
    var tree = getServer().updateDataTypeTree();
    var codec = DynamicCodecFactory.create(tree.getDataType(node.getNodeId()), tree);
    getServer().getDynamicDataTypeManager().registerType(node.getNodeId(), codec, null, null, null);
    return node.getNodeId();
  }

  static StructureField field(String name, NodeId type, int rank) {
    return new StructureField(name, LocalizedText.NULL_VALUE, type, rank, rank == 1 ? new UInteger[] {uint(0)} : null, uint(0), false);
  }

  DataType structure(String name, StructureField... fields) throws Exception {
    UaDataTypeNode node = dataType(name, NodeIds.Structure);
    NodeId id = node.getNodeId();
    NodeId binary = newNodeId("DataType." + name + ".Binary");
    var encoding =
        new DataTypeEncodingTypeNode(
            getNodeContext(), binary, new QualifiedName(0, "Default Binary"), LocalizedText.english("Default Binary"), LocalizedText.NULL_VALUE,
            uint(0), uint(0), null, null, null);
    encoding.addReference(new Reference(binary, NodeIds.HasTypeDefinition, NodeIds.DataTypeEncodingType.expanded(), Reference.Direction.FORWARD));
    encoding.addReference(new Reference(binary, NodeIds.HasEncoding, id.expanded(), Reference.Direction.INVERSE));
    getNodeManager().addNode(encoding);
    node.setDataTypeDefinition(new StructureDefinition(binary, NodeIds.Structure, StructureType.Structure, fields));
    var tree = getServer().updateDataTypeTree();
    DataType type = tree.getDataType(id);
    getServer().getDynamicDataTypeManager().registerType(id, new DynamicStructCodec(type, tree), binary, null, null);
    return type;
  }

  UaVariableNode find(JsonObject order) {
    String name = order.get("node").getAsString();
    UaVariableNode node = variables.get(name);
    if (node == null) throw new IllegalArgumentException("no node " + name);
    return node;
  }

  void write(UaVariableNode node, JsonElement value, long status, DateTime time) {
    Object old = node.getValue().value().value();
    Object now = null;
    if (value != null && value.isJsonArray()) {
      JsonArray typed = value.getAsJsonArray();
      now = typed.get(0).getAsString().equals("String") ? typed.get(1).getAsString() : (Object) typed.get(1).getAsDouble();
    } else if (value != null && !value.isJsonNull()) {
      now = old instanceof Long ? (Object) value.getAsLong() : value.getAsDouble();
    }
    node.setValue(new DataValue(new Variant(now), new StatusCode(status), time, time));
  }

  void fire(NodeId type, String source, String message, int severity) throws Exception {
    BaseEventTypeNode event = getServer().getEventFactory().createEvent(newNodeId(UUID.randomUUID()), type);
    event.setBrowseName(newQualifiedName("event"));
    event.setDisplayName(LocalizedText.english("event"));
    event.setEventId(ByteString.of(UUID.randomUUID().toString().getBytes(StandardCharsets.UTF_8)));
    event.setEventType(type);
    event.setSourceNode(NodeIds.Server);
    event.setSourceName(source);
    event.setTime(DateTime.now());
    event.setReceiveTime(DateTime.now());
    event.setMessage(LocalizedText.english(message));
    event.setSeverity(ushort(severity));
    getServer().getEventNotifier().fire(event);
    event.delete();
  }

  void obey(String what, JsonObject order) throws Exception {
    switch (what) {
      case "set" -> {
        DateTime time = order.has("time") ? new DateTime(Instant.ofEpochMilli((long) (order.get("time").getAsDouble() * 1000))) : DateTime.now();
        write(find(order), order.get("value"), order.has("status") ? order.get("status").getAsLong() : 0, time);
      }
      case "ramp" -> {
        UaVariableNode node = find(order);
        long pause = order.has("pause_ms") ? order.get("pause_ms").getAsLong() : 0;
        for (long value = order.get("from").getAsLong(); value <= order.get("to").getAsLong(); value++) {
          node.setValue(new DataValue(new Variant(value), StatusCode.GOOD, DateTime.now(), DateTime.now()));
          if (pause > 0) Thread.sleep(pause);
        }
      }
      case "load" -> {
        for (UaVariableNode node : loads) write(node, order.get("value"), 0, DateTime.now());
      }
      case "add" -> {
        variable(live, order.get("node").getAsString(), NodeIds.Double, order.get("value").getAsDouble());
        fire(NodeIds.GeneralModelChangeEventType, "Server", "a node came", 1);
      }
      case "remove" -> {
        find(order).delete();
        variables.remove(order.get("node").getAsString());
      }
      case "event" -> {
        String source = order.has("source") ? order.get("source").getAsString() : "Plant";
        fire(NodeIds.BaseEventType, source, order.get("message").getAsString(), order.has("severity") ? order.get("severity").getAsInt() : 500);
      }
      case "sessions" -> {
        say("done", what, "sessions", getServer().getSessionManager().getAllSessions().size());
        return;
      }
      case "drop_sessions" -> {
        for (Session session : getServer().getSessionManager().getAllSessions()) {
          getServer().getSessionManager().killSession(session.getSessionId(), true);
        }
      }
      default -> throw new IllegalArgumentException("no such order: " + what);
    }
    say("done", what);
  }

  @Override
  public void onDataItemsCreated(List<DataItem> items) {
    model.onDataItemsCreated(items);
  }

  @Override
  public void onDataItemsModified(List<DataItem> items) {
    model.onDataItemsModified(items);
  }

  @Override
  public void onDataItemsDeleted(List<DataItem> items) {
    model.onDataItemsDeleted(items);
  }

  @Override
  public void onMonitoringModeChanged(List<MonitoredItem> items) {
    model.onMonitoringModeChanged(items);
  }
}
