"""What stands in for SQL Server, which cannot be had here: other people's server and other people's encoders of its wire.

PyPI's `pysqlbridge` answers TDS with TLS and logins, and runs T-SQL over tables (its authors compare it with SQL Server 2025, statement by statement).
PyPI's `python-tds` encodes the types it does not have: decimal, datetime2, datetimeoffset, date, time, xml. Ours is what is between them:
- the table `t` is a file of JSON lines, read at each statement: `{"id": 1, "at": "2026-01-01T00:00:00.003", "rv": 2001, "name": "a"}`; `bound` beside it
  holds what MIN_ACTIVE_ROWVERSION() says;
- rowversions are hexadecimal texts to the engine, which has no binary: our statements' conversions of them are taken out of the text. So what is
  proven of them is which rows are read, not what a SQL Server makes of the statement;
- sys.dm_exec_describe_first_result_set is answered from the tables' declarations;
- the table `types` is not run through the engine: one row, as python-tds encodes it.
"""

import argparse
import datetime
import decimal
import json
import pathlib
import re
import struct
import uuid

import pytds.tds_types as foreign
from pysqlbridge.catalog import Catalog
from pysqlbridge.certificate import load
from pysqlbridge.logins import Login, LoginStore
from pysqlbridge.server import BridgeServer
from pysqlbridge.source import Table
from pysqlbridge.tds import result as tds

RV_TEXT = re.compile(r"CONVERT\(nvarchar\(18\), CAST\((q\.\[rv\]) AS binary\(8\)\), 1\)")
RV_BINARY = re.compile(r"CAST\((q\.\[rv\]) AS binary\(8\)\)")
RV_PARAMETER = re.compile(r"CONVERT\(binary\(8\), (@P\d+), 1\)")
TYPES = {"id": "int", "at": "datetime", "name": "nvarchar(40)", "rv": "timestamp"}


class Writer:
    """The few things that python-tds writes with."""

    class session:
        use_tz = None

    def __init__(self):
        self.bytes = b""

    def write(self, some):
        self.bytes += bytes(some)

    def pack(self, form, *values):
        self.write(form.pack(*values))

    def write_ucs2(self, text):
        self.write(text.encode("utf-16-le"))

    def put_collation(self, collation):
        self.write(collation.pack())


for name, form in {"byte": "B", "smallint": "<h", "usmallint": "<H", "int": "<i", "uint": "<I", "int8": "<q", "uint8": "<Q"}.items():
    setattr(Writer, f"put_{name}", lambda self, value, form=struct.Struct(form): self.pack(form, value))


class Foreign(tds.ColumnType):
    """A column as python-tds encodes it."""

    def __init__(self, serializer):
        self.serializer = serializer

    def type_info(self):
        writer = Writer()
        writer.put_byte(self.serializer.type)
        self.serializer.write_info(writer)
        return writer.bytes

    def encode(self, value):
        writer = Writer()
        self.serializer.write(writer, value)
        return writer.bytes


def offset(minutes):
    return datetime.timezone(datetime.timedelta(minutes=minutes))


AT = datetime.datetime(2026, 3, 29, 2, 30, 0, 250000)
# name, type as SQL Server names it, how it is encoded, two values
EXACT = [
    ("id", "int", tds.Integer(4), 1, 2),
    ("tiny", "tinyint", tds.Integer(1), 255, None),
    ("small", "smallint", tds.Integer(2), -32768, None),
    ("big", "bigint", tds.Integer(8), 2**63 - 1, -(2**63)),
    ("flag", "bit", tds.Bit(), True, False),
    ("dec", "decimal(38,10)", Foreign(foreign.MsDecimalSerializer(38, 10)), decimal.Decimal("1234567890123456789012345678.0123456789"), decimal.Decimal("-0.0000000001")),
    ("cash", "money", Foreign(foreign.MsDecimalSerializer(19, 4)), decimal.Decimal("922337203685477.5807"), None),
    ("real4", "real", Foreign(foreign.FloatNSerializer(4)), 0.5, None),
    ("float8", "float", Foreign(foreign.FloatNSerializer(8)), 1e300, None),
    ("text", "nvarchar(40)", tds.NVarChar(40), 'Größe "1"', ""),
    ("long", "nvarchar(max)", tds.NVarChar(None), "ü" * 5000, None),
    ("doc", "xml", Foreign(foreign.XmlSerializer()), "<a>ß</a>", None),
    ("uid", "uniqueidentifier", tds.UniqueIdentifier(), uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), None),
    ("bytes", "varbinary(20)", tds.VarBinary(20), b"\xff\x00", b""),
    ("dt", "datetime", Foreign(foreign.DateTimeNSerializer(8)), AT.replace(microsecond=3333), None),
    ("sdt", "smalldatetime", Foreign(foreign.DateTimeNSerializer(4)), AT.replace(second=0, microsecond=0), None),
    ("dt2", "datetime2(7)", Foreign(foreign.DateTime2Serializer(foreign.DateTime2Type(7))), AT, None),
    ("dto", "datetimeoffset(3)", Foreign(foreign.DateTimeOffsetSerializer(foreign.DateTimeOffsetType(3))), AT.replace(tzinfo=offset(120)), AT.replace(tzinfo=offset(-210))),
    ("day", "date", Foreign(foreign.MsDateSerializer(foreign.DateType())), datetime.date(9999, 12, 31), datetime.date(1, 1, 1)),
    ("clock", "time(6)", Foreign(foreign.MsTimeSerializer(foreign.TimeType(6))), datetime.time(13, 20, 0, 1), None),
    ("rv", "timestamp", tds.Binary(8), struct.pack(">Q", 2**64 - 1), struct.pack(">Q", 2001)),
]


class Plant:
    def __init__(self, folder):
        self.folder = folder

    def table(self):
        lines = (self.folder / "t").read_text().splitlines() if (self.folder / "t").exists() else None
        if lines is None:
            return None
        names = ["id", "at", "name", "rv"]
        rows = []
        for row in map(json.loads, lines):
            at = row.get("at")
            rows.append([row["id"], at and datetime.datetime.fromisoformat(at), row.get("name"), f"0x{row.get('rv', 0):016X}"])
        columns = [tds.Column("id", tds.Integer(4)), tds.Column("at", tds.DateTime()), tds.Column("name", tds.NVarChar(40)), tds.Column("rv", tds.NVarChar(18))]
        return Table("t", [column for column, _ in zip(columns, names)], rows)

    def catalog(self):
        catalog, table = Catalog(), self.table()
        if table is not None:
            catalog.add(table)
        return catalog

    def answer(self, query):
        sql = query.sql
        if "dm_exec_describe_first_result_set" in sql:
            return self.describe(query.parameters["@P1"])
        if "MIN_ACTIVE_ROWVERSION()" in sql and "FROM" not in sql:
            bound = int((self.folder / "bound").read_text())
            return tds.QueryResult([tds.Column("", tds.NVarChar(18))], [[f"0x{bound:016X}"]])
        if "FROM [types]" in sql:
            return self.exact(query)
        sql = RV_PARAMETER.sub(r"\1", RV_TEXT.sub(r"\1", sql))
        sql = RV_BINARY.sub(r"\1", sql)
        answer = self.catalog().answer(tds.Query(sql=sql, parameters=query.parameters, session=query.session))
        if answer.error is None and any(column.name == "rv" for column in answer.columns):
            at = [column.name for column in answer.columns].index("rv")
            answer.columns[at] = tds.Column("rv", tds.Binary(8))
            for row in answer.rows:
                row[at] = bytes.fromhex(row[at][2:])
        return answer

    def describe(self, statement):
        texts = [tds.NVarChar(256), tds.NVarChar(256), tds.Integer(4), tds.NVarChar(4000)]
        columns = [tds.Column(name, of) for name, of in zip(["name", "system_type_name", "error_number", "error_message"], texts)]
        if "[types]" in statement:
            return tds.QueryResult(columns, [[name, of, None, None] for name, of, *_ in EXACT])
        try:
            found = self.catalog().answer(tds.Query(sql=statement)).columns
        except tds.QueryError as error:
            return tds.QueryResult(columns, [[None, None, error.number, str(error)]])
        return tds.QueryResult(columns, [[column.name, TYPES[column.name], None, None] for column in found])

    def exact(self, query):
        if "MAX(" in query.sql:
            return tds.QueryResult([tds.Column("", tds.NVarChar(40))], [["2"]])
        columns = [tds.Column(name, encoded) for name, _, encoded, *_ in EXACT]
        columns += [tds.Column("millrace_w", tds.NVarChar(40)), tds.Column("millrace_r", tds.Integer(4))]
        # The first page has all.
        is_first = "q.[id] >" not in query.sql.split("WHERE")[-1].replace(">=", "")
        rows = [[row[3 + n] for row in EXACT] + [str(n + 1), 0] for n in range(2)]
        return tds.QueryResult(columns, rows if is_first else [])


parser = argparse.ArgumentParser()
for option in ("port", "cert", "key", "folder"):
    parser.add_argument(f"--{option}", required=True)
options = parser.parse_args()
plant = Plant(pathlib.Path(options.folder))
logins = LoginStore([Login("millrace", "secret", False)])
server = BridgeServer("127.0.0.1", int(options.port), load(options.cert, options.key), plant.answer, "plant", logins)
print("ready", flush=True)
server.serve_forever()
