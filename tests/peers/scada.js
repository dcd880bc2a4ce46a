// A SCADA system's OPC UA client, by npm's node-opcua, over an encrypted channel with a certificate of its own.
// Arguments: the folder that holds node_modules, the endpoint, and JSON: {"home": FOLDER, "user": .., "password": .., "read": [..], "watch": .., "changes": N}.
// Says one object: the values that were read and the changes that came, or why there are none.
const [, , folder, endpoint, json] = process.argv;
const opcua = require(folder + "/node_modules/node-opcua");
const OPTIONS = JSON.parse(json);
const NAMESPACE = "http://millrace.dev/status";

async function main() {
  const clientCertificateManager = new opcua.OPCUACertificateManager({ automaticallyAcceptUnknownCertificate: true, rootFolder: OPTIONS.home + "/pki" });
  await clientCertificateManager.initialize();
  const client = opcua.OPCUAClient.create({
    applicationName: "scada", clientCertificateManager, endpointMustExist: false,
    securityMode: opcua.MessageSecurityMode.SignAndEncrypt, securityPolicy: opcua.SecurityPolicy.Basic256Sha256,
    connectionStrategy: { maxRetry: 0, initialDelay: 100, maxDelay: 200 },
  });
  await client.connect(endpoint);
  const session = await client.createSession({ type: opcua.UserTokenType.UserName, userName: OPTIONS.user, password: OPTIONS.password });
  const namespace = (await session.readNamespaceArray()).indexOf(NAMESPACE);
  const id = (path) => `ns=${namespace};s=${path}`;
  const values = {};
  for (const path of OPTIONS.read) values[path] = (await session.read({ nodeId: id(path), attributeId: opcua.AttributeIds.Value })).value.value;
  const subscription = opcua.ClientSubscription.create(session, {
    requestedPublishingInterval: 200, requestedLifetimeCount: 1000, requestedMaxKeepAliveCount: 20, maxNotificationsPerPublish: 100, publishingEnabled: true, priority: 1,
  });
  const changes = [];
  const item = opcua.ClientMonitoredItem.create(subscription, { nodeId: id(OPTIONS.watch), attributeId: opcua.AttributeIds.Value },
    { samplingInterval: 100, discardOldest: true, queueSize: 10 }, opcua.TimestampsToReturn.Both);
  await new Promise((resolve) => item.on("changed", (data) => {
    if (changes.push(data.value.value) === OPTIONS.changes) resolve();
  }));
  await subscription.terminate();
  await session.close();
  await client.disconnect();
  return { values, changes };
}

main().catch((error) => ({ refused: error.message })).then((said) => {
  console.log(JSON.stringify(said, (_, value) => (typeof value === "bigint" ? Number(value) : value)));
  process.exit(0);
});
