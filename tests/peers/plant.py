"""An OPC UA server on PyPI's asyncua, told what to do by lines of JSON on its standard input and answering each with a line.

Its one argument is JSON: {"port", "home", "dir", "load", "namespaces", "user": [name, password], "cert", "key", "limit", "strict", "subscriptions", "items", "old_certificate"}.
What it serves is what plant.js and Plant.java serve: the same names, types and values; and some that a client must be protected from.
"""

import asyncio
import json
import sys
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

from asyncua import Server, ua
from asyncua.common.callback import CallbackType
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field
from asyncua.common.type_dictionary_builder import DataTypeDictionaryBuilder
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

URI = "http://millrace.test/plant"
OPTIONS = json.loads(sys.argv[1])
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone.utc)


def say(**what):
    print(json.dumps(what), flush=True)


# What clients wrote and called, and how often they asked for history.
COUNTS = {"writes": 0, "calls": 0, "histories": 0}


def counted(name, what):
    original = getattr(InternalSession, name)

    async def count(session, *args, **more):
        COUNTS[what] += session.external
        return await original(session, *args, **more)

    setattr(InternalSession, name, count)


counted("write", "writes")
counted("call", "calls")
counted("history_read", "histories")


class Users(UserManager):
    def get_user(self, iserver, username=None, password=None, certificate=None):
        wanted = OPTIONS.get("user")
        if not wanted or [username, password] == wanted or username is None and certificate is not None:
            return User(role=UserRole.Admin)
        return None


def matrix(rows, kind):
    value = ua.Variant([cell for row in rows for cell in row], kind)
    value.Dimensions, value.is_array = [len(rows), len(rows[0])], True
    return value


def scalars():
    v = ua.VariantType
    return {
        "Bool": (True, v.Boolean), "SByte": (-12, v.SByte), "Byte": (250, v.Byte), "Int16": (-1234, v.Int16), "UInt16": (65000, v.UInt16),
        "Int32": (-123456, v.Int32), "UInt32": (4294967284, v.UInt32), "Int64": (-9007199254740993, v.Int64),
        "UInt64": (18446744073709551615, v.UInt64), "Float": (0.1, v.Float), "Double": (0.1, v.Double), "NaN": (float("nan"), v.Double),
        "Infinity": (float("-inf"), v.Double), "String": ('Größe "7"', v.String), "EmptyString": ("", v.String), "DateTime": (WHEN, v.DateTime),
        "Guid": (uuid.UUID("4a6ff8ba-ed32-4bd5-8e1d-9c2e8c9d4f2a"), v.Guid), "Bytes": (b"\x00\xff\x10", v.ByteString),
        "NodeId": (ua.NodeId("Types.Bool", 2), v.NodeId), "Status": (ua.StatusCode(0x80AB0000), v.StatusCode),
        "QualifiedName": (ua.QualifiedName("Name", 2), v.QualifiedName), "LocalizedText": (ua.LocalizedText("heiß", "de"), v.LocalizedText),
        "Doubles": ([1.5, -2.5, 3.0], v.Double), "Bools": ([True, False, True], v.Boolean), "Int64s": ([-1, 9007199254740993], v.Int64),
        "Strings": (["a", "", "ß"], v.String), "NoDoubles": ([], v.Double),
    }  # fmt: skip


def old_certificate(cert, key):
    """As devices have them: 1,024 bits, expired, without a URI, for another host."""
    private = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old press")])
    when = datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number(), when, when + timedelta(days=365))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("old.press")]), False)
    signed = builder.sign(private, hashes.SHA256())
    cert.write_bytes(signed.public_bytes(serialization.Encoding.DER))
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


class Plant:
    async def open(self):
        self.server = server = Server(user_manager=Users())
        await server.init()
        server.set_endpoint(f"opc.tcp://127.0.0.1:{OPTIONS['port']}/plant")
        await server.set_application_uri("urn:millrace:test:asyncua")
        policies = [ua.SecurityPolicyType.NoSecurity]
        if OPTIONS.get("dir"):
            await self.certificate()
            kinds = ["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"]
            policies += [ua.SecurityPolicyType[f"{kind}_{mode}"] for kind in kinds for mode in ("Sign", "SignAndEncrypt")]
        server.set_security_policy(policies)
        tokens = [ua.UserNameIdentityToken] if OPTIONS.get("user") else [ua.AnonymousIdentityToken, ua.UserNameIdentityToken]
        server.set_identity_tokens(tokens + ([ua.X509IdentityToken] if OPTIONS.get("dir") else []))
        for uri in OPTIONS.get("namespaces", []):
            await server.register_namespace(uri)
        self.ns = await server.register_namespace(URI)
        await self.furnish()
        await server.start()
        await self.historize()

    async def certificate(self):
        folder = Path(OPTIONS["dir"])
        cert, key = Path(OPTIONS.get("cert") or folder / "cert.der"), Path(OPTIONS.get("key") or folder / "key.pem")
        if OPTIONS.get("old_certificate"):
            old_certificate(cert, key)
        elif not OPTIONS.get("cert"):
            names = {"commonName": "asyncua", "organizationName": "millrace tests"}
            await setup_self_signed_certificate(
                key, cert, "urn:millrace:test:asyncua", "127.0.0.1", [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH], names
            )
        await self.server.load_certificate(cert)
        await self.server.load_private_key(key)

    async def furnish(self):
        server, ns = self.server, self.ns
        state = await new_enum(server, ns, "PressState", ["Stopped", "Running", "SetUp", "Fault"])
        die, _ = await new_struct(
            server, ns, "DieInfo", [new_struct_field("Id", ua.VariantType.UInt16), new_struct_field("Temperature", ua.VariantType.Double)]
        )
        fields = [
            new_struct_field("Serial", ua.VariantType.String),
            new_struct_field("Peak", ua.VariantType.Float),
            new_struct_field("Good", ua.VariantType.Boolean),
            new_struct_field("State", state),
            new_struct_field("Die", die),
            new_struct_field("Zones", ua.VariantType.Double, array=True),
        ]
        part, _ = await new_struct(server, ns, "PartResult", fields)
        await server.load_data_type_definitions()
        objects = server.nodes.objects
        types = await objects.add_object(ua.NodeId("Types", ns), ua.QualifiedName("Types", ns))
        for name, (value, kind) in scalars().items():
            await self.variable(types, f"Types.{name}", ua.Variant(value, kind))
        await self.variable(types, "Types.Matrix", matrix([[1, 2, 3], [4, 5, 6]], ua.VariantType.Int32))
        await self.variable(types, "Types.Null", ua.Variant(None, ua.VariantType.Null), datatype=ua.NodeId(ua.ObjectIds.Double))
        await self.variable(types, "Types.Enum", ua.Variant(1, ua.VariantType.Int32), datatype=state.nodeid)
        result = ua.PartResult(
            Serial="P-7", Peak=123.5, Good=True, State=ua.PressState.Running, Die=ua.DieInfo(Id=9, Temperature=200.25), Zones=[1.0, 2.5]
        )
        await self.variable(types, "Types.Struct", ua.Variant(result, ua.VariantType.ExtensionObject), datatype=part.nodeid)
        await self.old_structures(types)
        self.live = await objects.add_object(ua.NodeId("Live", ns), ua.QualifiedName("Live", ns))
        self.counter = await self.variable(self.live, "Live.Counter", ua.Variant(0, ua.VariantType.Int64))
        await self.variable(self.live, "Live.Temp", ua.Variant(20.0, ua.VariantType.Double))
        setpoint = await self.variable(self.live, "Live.Setpoint", ua.Variant(20.0, ua.VariantType.Float))
        await setpoint.set_writable()
        # Takes what is written, and keeps what it had.
        stuck = await self.variable(self.live, "Live.Stuck", ua.Variant(1, ua.VariantType.Int32))
        await stuck.set_writable()
        server.iserver.callback_service.addListener(CallbackType.PostWrite, self.keep_stuck)
        self.called = []
        arguments = [argument("Recipe", ua.ObjectIds.String), argument("Amount", ua.ObjectIds.UInt16)]
        await self.live.add_method(ua.NodeId("Live.Load", ns), ua.QualifiedName("Load", ns), self.load, arguments, [])
        await self.live.add_method(ua.NodeId("Live.Reset", ns), ua.QualifiedName("Reset", ns), self.reset, [], [])
        self.loads = []
        if OPTIONS.get("load"):
            load = await objects.add_object(ua.NodeId("Load", ns), ua.QualifiedName("Load", ns))
            for number in range(OPTIONS["load"]):
                self.loads.append(await self.variable(load, f"Load.N{number:06}", ua.Variant(0.0, ua.VariantType.Double)))
        self.events = await server.get_event_generator(emitting_node=server.nodes.server)
        self.notifiers = {}
        self.changes = await server.get_event_generator(ua.ObjectIds.GeneralModelChangeEventType, emitting_node=server.nodes.server)
        if OPTIONS.get("limit"):
            for name in ("MaxNodesPerRead", "MaxMonitoredItemsPerCall", "MaxNodesPerBrowse"):
                limit = server.get_node(getattr(ua.ObjectIds, f"Server_ServerCapabilities_OperationLimits_{name}"))
                await limit.write_value(ua.Variant(OPTIONS["limit"], ua.VariantType.UInt32))

    async def keep_stuck(self, event, _):
        if any(one.NodeId == ua.NodeId("Live.Stuck", self.ns) for one in event.request_params.NodesToWrite):
            await self.write(self.node("Live.Stuck"), 1)

    async def load(self, _parent, recipe, amount):
        self.called.append([recipe.Value, amount.Value])
        return ua.StatusCode(ua.StatusCodes.BadInvalidState) if recipe.Value == "none" else []

    async def reset(self, _parent):
        self.called.append([])
        return []

    async def old_structures(self, types):
        # Described by a type dictionary alone, as servers did before DataTypeDefinition.
        dictionary = DataTypeDictionaryBuilder(self.server, self.ns, URI, "Old")
        await dictionary.init()
        die = await dictionary.create_data_type("OldDie")
        die.add_field("Id", ua.VariantType.UInt16)
        die.add_field("Temperature", ua.VariantType.Double)
        part = await dictionary.create_data_type("OldPart")
        part.add_field("Serial", ua.VariantType.String)
        part.add_field("Zones", ua.VariantType.Double, is_array=True)
        part.add_field("Die", die)
        await dictionary.set_dict_byte_string()
        await self.server.load_type_definitions()
        value = ua.OldPart()
        value.Serial, value.Zones, value.Die = "P-1", [1.0, 2.5], ua.OldDie()
        value.Die.Id, value.Die.Temperature = 9, 200.25
        await self.variable(types, "Types.Old", ua.Variant(value, ua.VariantType.ExtensionObject), datatype=part.data_type)

    async def variable(self, parent, name, value, datatype=None):
        node_id, browse_name = ua.NodeId(name, self.ns), ua.QualifiedName(name.rsplit(".")[-1], self.ns)
        if datatype is None:
            datatype = ua.NodeId(value.VariantType.value)
        node = await parent.add_variable(node_id, browse_name, value, datatype=datatype)
        if value.Dimensions:
            await node.write_value_rank(ua.ValueRank(len(value.Dimensions)))
            await node.write_array_dimensions(value.Dimensions)
        data = ua.DataValue(value, ua.StatusCode(0), SourceTimestamp=datetime.now(timezone.utc))
        await self.server.write_attribute_value(node.nodeid, data)
        return node

    async def historize(self):
        await self.server.historize_node_data_change(self.counter, period=None, count=100_000)

    def node(self, name):
        return self.server.get_node(ua.NodeId(name, self.ns))

    async def write(self, node, value, status=0, time=None):
        kind = (await node.read_data_value(raise_on_bad_status=False)).Value
        kind = kind.VariantType if kind and kind.Value is not None else ua.VariantType.Double
        if isinstance(value, list):
            kind = ua.VariantType[value[0]]
            value = value[1]
        stamp = datetime.fromtimestamp(time, timezone.utc) if time is not None else datetime.now(timezone.utc)
        variant = None if value is None else ua.Variant(value, kind)
        data = ua.DataValue(variant, ua.StatusCode(status), SourceTimestamp=stamp)
        await self.server.write_attribute_value(node.nodeid, data)

    async def order(self, order):
        what = order["do"]
        if what == "set":
            await self.write(self.node(order["node"]), order.get("value"), order.get("status", 0), order.get("time"))
        elif what == "ramp":
            node, pause = self.node(order["node"]), order.get("pause_ms", 0) / 1000
            for value in range(order["from"], order["to"] + 1):
                await self.write(node, value)
                if pause:
                    await asyncio.sleep(pause)
        elif what == "load":
            for node in self.loads:
                await self.write(node, float(order["value"]))
        elif what == "add":
            await self.variable(self.live, order["node"], ua.Variant(order["value"], ua.VariantType[order.get("type", "Double")]))
            await self.changes.trigger(message="a node came")
        elif what == "remove":
            await self.server.delete_nodes([self.node(order["node"])])
        elif what == "notifier":
            cell = await self.live.add_object(ua.NodeId(order["node"], self.ns), ua.QualifiedName(order["node"].rsplit(".")[-1], self.ns))
            self.notifiers[order["node"]] = await self.server.get_event_generator(emitting_node=cell)
        elif what == "event" and "from" in order:
            await self.notifiers[order["from"]].trigger(message=order["message"])
        elif what == "event":
            self.events.event.Severity, self.events.event.SourceName = order.get("severity", 500), order.get("source", "Plant")
            await self.events.trigger(message=order["message"])
        elif what == "wrong_text":
            # A byte that is no UTF-8, in a value or in a name.
            text = order["text"].replace("?", "\udcfc")
            node = ua.NodeId(order["node"], self.ns)
            folder = await self.server.nodes.objects.add_object(ua.NodeId("Wrong." + order["node"], self.ns), ua.QualifiedName("Wrong", self.ns))
            variable = await folder.add_variable(node, ua.QualifiedName(text if order["in"] == "name" else "Text", self.ns), text if order["in"] == "value" else 1)
            data = ua.DataValue(await variable.get_value() and (await variable.read_data_value()).Value, ua.StatusCode(0), SourceTimestamp=datetime.now(timezone.utc))
            await self.server.write_attribute_value(node, data)
        elif what == "endless_history":
            # Nothing, and more of it.
            async def endless(*_):
                return [], b"again"

            self.server.iserver.history_manager._read_datavalue_history = endless
        elif what == "counts":
            return COUNTS
        elif what == "called":
            return {"called": self.called}
        elif what == "sessions":
            return {"sessions": len(self.sessions())}
        elif what == "drop_sessions":
            for session in self.sessions():
                await session.close_session(True)
        else:
            raise ValueError(f"no such order: {what}")
        return {}

    def sessions(self):
        return list(self.server.iserver._external_sessions.values())


def argument(name, kind):
    return ua.Argument(Name=name, DataType=ua.NodeId(kind), ValueRank=-1)


async def main():
    plant = Plant()
    await plant.open()
    say(ready=True)
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        try:
            say(done=order["do"], **await plant.order(order))
        except Exception as error:  # the test reads it
            say(failed=order["do"], error=repr(error))


asyncio.run(main())
