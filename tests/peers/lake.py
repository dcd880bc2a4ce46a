"""Reads and writes tables by foreign programs: deltalake (Rust), pyarrow (C++), DuckDB.

lake.py; says {"ready": true}; then orders, a line of JSON each:
  {"count": TABLE, "storage": {..}}       rows and distinct identities, by all three; of the files that the log names
  {"folder": PATH}                        rows and distinct identities of a folder, without the log, by pyarrow and DuckDB
  {"rows": TABLE, "tag": TAG}             the rows of a tag, every column that is not null, with its Arrow type
  {"documents": TABLE}                    every row in Kafka's order, with null columns, the Arrow types, and DuckDB's count
  {"range": TABLE, "tag": TAG}            the samples of a tag, by DuckDB on the live files: how many, and how long it took
  {"sums": TABLE}                         per tag: rows, and the sum of the numbers
  {"append": TABLE, "commits": N}         N commits of one row each, by deltalake
  {"make": TABLE, "what": WHAT}           a table that no sink can write to
  {"set": TABLE, "properties": {..}}      table properties
"""

import datetime
import decimal
import json
import sys
import time

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds


def table_of(order, key):
    return deltalake.DeltaTable(order[key], storage_options=order.get("storage"))


def identities(arrow):
    pairs = zip(arrow["source"].to_pylist(), arrow["seq"].to_pylist())
    return len(set(pairs))


def count(order):
    table = table_of(order, "count")
    arrow = pa.table(table.to_pyarrow_table(columns=["source", "seq"]))
    found = {"deltalake": [arrow.num_rows, identities(arrow)], "version": table.version(), "files": len(table.file_uris())}
    if not order.get("storage"):
        files = [uri.removeprefix("file://") for uri in table.file_uris()]
        if files:
            found["pyarrow"] = list(by_pyarrow(files))
            found["duckdb"] = list(by_duckdb(files))
        else:
            found["pyarrow"] = found["duckdb"] = [0, 0]
    return found


def by_pyarrow(files):
    arrow = ds.dataset(files, format="parquet").to_table(columns=["source", "seq"])
    return arrow.num_rows, identities(arrow)


def by_duckdb(files):
    return duckdb.execute("SELECT count(*), count(DISTINCT (source, seq)) FROM read_parquet(?)", [files]).fetchone()


def folder(order):
    arrow = ds.dataset(order["folder"], format="parquet", partitioning="hive").to_table(columns=["source", "seq", "date"])
    files = f"{order['folder']}/date=*/**/*.parquet"
    return {"pyarrow": [arrow.num_rows, identities(arrow)], "duckdb": list(by_duckdb(files))}


def plain(value):
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and value != value:
        return "NaN"
    return value


def rows(order):
    arrow = pa.table(table_of(order, "rows").to_pyarrow_table())
    arrow = arrow.filter(pc.equal(arrow["tag"], order["tag"])).sort_by([("time", "ascending"), ("seq", "ascending")])
    types = {field.name: str(field.type) for field in arrow.schema}
    found = [{name: plain(value) for name, value in row.items() if value is not None} for row in arrow.to_pylist()]
    return {"rows": found, "types": types}


def documents(order):
    table = table_of(order, "documents")
    arrow = pa.table(table.to_pyarrow_table()).sort_by([("kafka_topic", "ascending"), ("kafka_partition", "ascending"), ("kafka_offset", "ascending")])
    types = {field.name: str(field.type) for field in arrow.schema}
    files = [uri.removeprefix("file://") for uri in table.file_uris()]
    counted = [0, 0]
    if files:
        sql = "SELECT count(*), count(DISTINCT (kafka_topic, kafka_partition, kafka_offset)) FROM read_parquet(?, union_by_name = true)"
        counted = list(duckdb.execute(sql, [files]).fetchone())
    return {"rows": [{name: plain(value) for name, value in row.items()} for row in arrow.to_pylist()], "types": types, "duckdb": counted}


def in_range(order):
    files = [uri.removeprefix("file://") for uri in table_of(order, "range").file_uris()]
    began = time.perf_counter()
    sql = "SELECT time, coalesce(value_double, value_long::DOUBLE), status, origin FROM read_parquet(?) WHERE tag = ? ORDER BY time, seq"
    found = duckdb.execute(sql, [files, order["tag"]]).fetchall()
    return {"rows": len(found), "seconds": time.perf_counter() - began}


def sums(order):
    arrow = pa.table(table_of(order, "sums").to_pyarrow_table(columns=["tag", "value_double", "value_long"]))
    found = arrow.group_by("tag").aggregate([("tag", "count"), ("value_double", "sum"), ("value_long", "sum")])
    return {"tags": {row["tag"]: [row["tag_count"], row["value_double_sum"], row["value_long_sum"]] for row in found.to_pylist()}}


def append(order):
    table = table_of(order, "append")
    schema = pa.schema(table.schema().to_arrow() if hasattr(table.schema(), "to_arrow") else table.schema().to_pyarrow())
    for number in range(order["commits"]):
        row = {"tag": "foreign", "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), "source": "foreign", "seq": order.get("from", 0) + number}
        row["date"] = datetime.date(2026, 1, 1)
        for attempt in range(100):
            try:
                deltalake.write_deltalake(table, pa.Table.from_pylist([row], schema=schema), mode="append")
                break
            except deltalake.exceptions.CommitFailedError:
                # The sink commits more often than it retries: again, from the newest version.
                table = table_of(order, "append")
        else:
            raise RuntimeError("the sink always came first")
        table = table_of(order, "append")
    return {"version": table.version()}


def make(order):
    path, what = order["make"], order["what"]
    if what == "schema":
        deltalake.write_deltalake(path, pa.table({"date": [datetime.date(2026, 1, 1)], "tag": [7]}), partition_by=["date"])
    elif what == "unpartitioned":
        deltalake.write_deltalake(path, pa.table({"tag": ["a"]}))
    elif what == "files":
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"a": [1]}), f"{path}/mine.parquet")
    return {}


def change(order):
    table = table_of(order, "set")
    if "constraint" in order:
        table.alter.add_constraint({"some": order["constraint"]})
    if "properties" in order:
        table.alter.set_table_properties(order["properties"], raise_if_not_exists=False)
    return {}


ORDERS = {"count": count, "folder": folder, "rows": rows, "documents": documents, "range": in_range, "sums": sums, "append": append, "make": make, "set": change}
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    kind = next(name for name in ORDERS if name in order)
    try:
        print(json.dumps({"done": kind, **ORDERS[kind](order)}), flush=True)
    except Exception as error:  # the test shows it
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
