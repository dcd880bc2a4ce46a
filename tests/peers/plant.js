// An OPC UA server on npm's node-opcua, told what to do by lines of JSON on its standard input and answering each with a line.
// Arguments: the folder that holds node_modules, and the JSON that plant.py describes. It serves the same names, types and values.
const [, , folder, json] = process.argv;
const opcua = require(folder + "/node_modules/node-opcua");
const path = require("path");
const { DataType, DataValue, Variant, VariantArrayType, StatusCodes, QualifiedName, LocalizedText, AttributeIds } = opcua;
const OPTIONS = JSON.parse(json);
const URI = "http://millrace.test/plant";
const say = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const WHEN = new Date("2026-01-02T03:04:05.678Z");
const big = (text, signed) => {
  const value = BigInt.asUintN(64, BigInt(text));
  return [Number(value >> 32n), Number(value & 0xffffffffn)];
};

const scalars = (ns) => ({
  Bool: [true, "Boolean"], SByte: [-12, "SByte"], Byte: [250, "Byte"], Int16: [-1234, "Int16"], UInt16: [65000, "UInt16"],
  Int32: [-123456, "Int32"], UInt32: [4294967284, "UInt32"], Int64: [big("-9007199254740993"), "Int64"],
  UInt64: [big("18446744073709551615"), "UInt64"], Float: [0.1, "Float"], Double: [0.1, "Double"], NaN: [NaN, "Double"],
  Infinity: [-Infinity, "Double"], String: ['Größe "7"', "String"], EmptyString: ["", "String"], DateTime: [WHEN, "DateTime"],
  Guid: ["4A6FF8BA-ED32-4BD5-8E1D-9C2E8C9D4F2A", "Guid"], Bytes: [Buffer.from([0, 255, 16]), "ByteString"],
  NodeId: [opcua.resolveNodeId("ns=2;s=Types.Bool"), "NodeId"], Status: [opcua.coerceStatusCode(0x80ab0000), "StatusCode"],
  QualifiedName: [new QualifiedName({ namespaceIndex: 2, name: "Name" }), "QualifiedName"],
  LocalizedText: [new LocalizedText({ text: "heiß", locale: "de" }), "LocalizedText"],
  Doubles: [new Float64Array([1.5, -2.5, 3.0]), "Double"], Bools: [[true, false, true], "Boolean"],
  Int64s: [[big("-1"), big("9007199254740993")], "Int64"], Strings: [["a", "", "ß"], "String"], NoDoubles: [new Float64Array(0), "Double"],
});

let server, ns, space, live;
const loads = [];
const find = (name) => {
  const node = space.findNode(`ns=${ns.index};s=${name}`);
  if (!node) throw new Error(`no node ${name}`);
  return node;
};

function variable(parent, name, dataType, variant, more = {}) {
  const options = { componentOf: parent, nodeId: `s=${name}`, browseName: name.split(".").pop(), dataType, minimumSamplingInterval: 0, ...more };
  const node = ns.addVariable(options);
  if (variant) node.setValueFromSource(variant);
  return node;
}

async function furnish() {
  space = server.engine.addressSpace;
  for (const uri of OPTIONS.namespaces || []) space.registerNamespace(uri);
  ns = space.registerNamespace(URI);
  const objects = space.rootFolder.objects;
  const types = ns.addObject({ organizedBy: objects, nodeId: "s=Types", browseName: "Types" });
  for (const [name, [value, kind]] of Object.entries(scalars(ns))) {
    const isArray = ["Doubles", "Bools", "Int64s", "Strings", "NoDoubles"].includes(name);
    const arrayType = isArray ? VariantArrayType.Array : VariantArrayType.Scalar;
    const variant = new Variant({ dataType: DataType[kind], arrayType, value });
    variable(types, `Types.${name}`, kind, variant, isArray ? { valueRank: 1 } : {});
  }
  variable(
    types, "Types.Matrix", "Int32",
    new Variant({ dataType: DataType.Int32, arrayType: VariantArrayType.Matrix, dimensions: [2, 3], value: new Int32Array([1, 2, 3, 4, 5, 6]) }),
    { valueRank: 2, arrayDimensions: [2, 3] },
  );
  variable(types, "Types.Null", "Double", new Variant({ dataType: DataType.Null }));
  const state = ns.addEnumerationType({ browseName: "PressState", enumeration: ["Stopped", "Running", "SetUp", "Fault"] });
  variable(types, "Types.Enum", state.nodeId, new Variant({ dataType: DataType.Int32, value: 1 }));
  const field = (name, dataType, valueRank = -1) => ({ name, dataType: opcua.resolveNodeId(dataType), valueRank, description: "" });
  const die = ns.createDataType({
    browseName: "DieInfo", isAbstract: false, subtypeOf: "Structure",
    partialDefinition: [field("Id", DataType.UInt16), field("Temperature", DataType.Double)],
  });
  const part = ns.createDataType({
    browseName: "PartResult", isAbstract: false, subtypeOf: "Structure",
    partialDefinition: [
      field("Serial", DataType.String), field("Peak", DataType.Float), field("Good", DataType.Boolean), field("State", state.nodeId),
      field("Die", die.nodeId), field("Zones", DataType.Double, 1),
    ],
  });
  for (const type of [die, part]) {
    ns.addObject({ browseName: { name: "Default Binary", namespaceIndex: 0 }, encodingOf: type.nodeId, typeDefinition: "DataTypeEncodingType" });
  }
  await opcua.ensureDatatypeExtracted(space);
  const result = space.constructExtensionObject(part, {
    serial: "P-7", peak: 123.5, good: true, state: 1, die: { id: 9, temperature: 200.25 }, zones: [1.0, 2.5],
  });
  variable(types, "Types.Struct", part.nodeId, new Variant({ dataType: DataType.ExtensionObject, value: result }));

  live = ns.addObject({ organizedBy: objects, nodeId: "s=Live", browseName: "Live", eventNotifier: 1, notifierOf: objects.server });
  const counter = variable(live, "Live.Counter", "Int64", new Variant({ dataType: DataType.Int64, arrayType: VariantArrayType.Scalar, value: big("0") }));
  space.installHistoricalDataNode(counter, { maxOnlineValues: 100000 });
  variable(live, "Live.Temp", "Double", new Variant({ dataType: DataType.Double, value: 20.0 }));
  if (OPTIONS.load) {
    const load = ns.addObject({ organizedBy: objects, nodeId: "s=Load", browseName: "Load" });
    for (let number = 0; number < OPTIONS.load; number++) {
      const name = `Load.N${String(number).padStart(6, "0")}`;
      loads.push(variable(load, name, "Double", new Variant({ dataType: DataType.Double, value: 0.0 })));
    }
  }
}

function write(node, value, status, time) {
  let kind = node.readValue().value.dataType;
  if (kind === DataType.Null) kind = DataType.Double;
  if (Array.isArray(value)) [kind, value] = [DataType[value[0]], value[1]];
  const is64 = kind === DataType.Int64 || kind === DataType.UInt64;
  const variant = value === null || value === undefined ? new Variant() : new Variant({ dataType: kind, arrayType: VariantArrayType.Scalar, value: is64 ? big(String(value)) : value });
  const stamp = time === undefined ? new Date() : new Date(time * 1000);
  node.setValueFromSource(variant, status ? opcua.coerceStatusCode(status) : StatusCodes.Good, stamp);
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function obey(order) {
  switch (order.do) {
    case "set": write(find(order.node), order.value, order.status, order.time); break;
    case "ramp":
      for (let value = order.from; value <= order.to; value++) {
        write(find(order.node), value);
        // A monitored item notices changes of a variable in a turn of their own.
        await (order.pause_ms ? pause(order.pause_ms) : new Promise(setImmediate));
      }
      break;
    case "load": for (const node of loads) write(node, order.value); break;
    case "add":
      variable(live, order.node, order.type || "Double", new Variant({ dataType: DataType[order.type || "Double"], value: order.value }));
      live.raiseEvent("GeneralModelChangeEventType", {
        message: { dataType: DataType.LocalizedText, value: { text: "a node came" } }, severity: { dataType: DataType.UInt16, value: 1 },
        changes: { dataType: DataType.ExtensionObject, arrayType: VariantArrayType.Array, value: [] },
      });
      break;
    case "remove": space.deleteNode(find(order.node)); break;
    case "event":
      live.raiseEvent("BaseEventType", {
        message: { dataType: DataType.LocalizedText, value: { text: order.message } },
        severity: { dataType: DataType.UInt16, value: order.severity || 500 },
        sourceName: { dataType: DataType.String, value: order.source || "Plant" },
      });
      break;
    case "subscriptions": {
      const all = server.engine.getSessions().flatMap((session) => session.publishEngine.subscriptions);
      return { subscriptions: all.map((one) => [one.id, one.monitoredItemCount]).sort((a, b) => a[0] - b[0]) };
    }
    case "sessions": return { sessions: server.engine.currentSessionCount };
    case "drop_sessions":
      for (const session of server.engine.getSessions()) {
        server.engine.closeSession(session.authenticationToken, true, "Terminated");
      }
      break;
    default: throw new Error(`no such order: ${order.do}`);
  }
  return {};
}

async function main() {
  const dir = OPTIONS.home;
  const userCertificateManager = new opcua.OPCUACertificateManager({ automaticallyAcceptUnknownCertificate: true, rootFolder: path.join(dir, "users") });
  await userCertificateManager.initialize();
  const serverCertificateManager = new opcua.OPCUACertificateManager({ automaticallyAcceptUnknownCertificate: !OPTIONS.strict, rootFolder: path.join(dir, "pki") });
  await serverCertificateManager.initialize();
  const policies = ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"].map((name) => opcua.SecurityPolicy[name]);
  server = new opcua.OPCUAServer({
    port: OPTIONS.port, hostname: "127.0.0.1", resourcePath: "/plant", serverCertificateManager, userCertificateManager,
    serverInfo: { applicationUri: "urn:millrace:test:node-opcua", productUri: "urn:millrace:test" },
    securityPolicies: [opcua.SecurityPolicy.None, ...(OPTIONS.dir ? policies : [])],
    securityModes: [opcua.MessageSecurityMode.None, ...(OPTIONS.dir ? [opcua.MessageSecurityMode.Sign, opcua.MessageSecurityMode.SignAndEncrypt] : [])],
    allowAnonymous: !OPTIONS.user, disableDiscovery: false, maxConnectionsPerEndpoint: 50,
    userManager: { isValidUser: (name, password) => !OPTIONS.user || (name === OPTIONS.user[0] && password === OPTIONS.user[1]) },
    serverCapabilities: {
      // 0: every change is told, nothing is folded into intervals.
      minSupportedSampleRate: 0, maxSessions: OPTIONS.sessions || 50,
      maxSubscriptionsPerSession: OPTIONS.subscriptions || 10, maxMonitoredItemsPerSubscription: OPTIONS.items || 100000, maxMonitoredItems: 200000,
      operationLimits: OPTIONS.limit ? { maxNodesPerRead: OPTIONS.limit, maxMonitoredItemsPerCall: OPTIONS.limit, maxNodesPerBrowse: OPTIONS.limit } : {},
    },
  });
  await server.initialize();
  await furnish();
  await server.start();
  say({ ready: true });
  let last = Promise.resolve();
  require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
    const order = JSON.parse(line);
    last = last.then(() => obey(order)).then((more) => say({ done: order.do, ...more }), (error) => say({ failed: order.do, error: String(error.stack) }));
  }).on("close", () => last.then(() => process.exit(0)));
}

main().catch((error) => { console.error(error); process.exit(1); });
