"""Reads and writes tables by foreign programs: deltalake (Rust), pyarrow (C++), DuckDB.

lake.py; says {"ready": true}; then orders, a line of JSON each:
  {"count": TABLE, "storage": {..}}       rows and distinct identities, by all three; of the files that the log names
  {"folder": PATH}                        rows and distinct identities of a folder, without the log, by pyarrow and DuckDB
  {"rows": TABLE, "tag": TAG}             the rows of a tag, every column that is not null, with its Arrow type
  {"documents": TABLE}                    every row in Kafka's order, with null columns, the Arrow types, and DuckDB's count
  {"range": TABLE, "tag": TAG}            the samples of a tag, by DuckDB on the live files, as an Arrow table: how many, and how long it took
  {"sums": TABLE}                         per tag: rows, and the sum of the numbers
  {"append": TABLE, "commits": N}         N commits of one row each, by deltalake
  {"make": TABLE, "what": WHAT}           a table that no sink can write to
  {"set": TABLE, "properties": {..}}      table properties
"""

import datetime
import json
import sys
import time

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from plain import by_duckdb, identities, of_documents, of_tag

KEY = ["source", "seq"]


def table_of(order, key):
    return deltalake.DeltaTable(order[key], storage_options=order.get("storage"))


def local(table):
    return [uri.removeprefix("file://") for uri in table.file_uris()]


def count(order):
    table = table_of(order, "count")
    arrow = pa.table(table.to_pyarrow_table(columns=KEY))
    found = {"deltalake": [arrow.num_rows, identities(arrow, KEY)], "version": table.version(), "files": len(table.file_uris())}
    if not order.get("storage"):
        files = local(table)
        found["pyarrow"] = list(by_pyarrow(files)) if files else [0, 0]
        found["duckdb"] = by_duckdb(duckdb, files, KEY)
    return found


def by_pyarrow(files):
    arrow = ds.dataset(files, format="parquet").to_table(columns=KEY)
    return arrow.num_rows, identities(arrow, KEY)


def folder(order):
    arrow = ds.dataset(order["folder"], format="parquet", partitioning="hive").to_table(columns=[*KEY, "date"])
    files = f"{order['folder']}/date=*/**/*.parquet"
    return {"pyarrow": [arrow.num_rows, identities(arrow, KEY)], "duckdb": by_duckdb(duckdb, files, KEY)}


def rows(order):
    arrow = pa.table(table_of(order, "rows").to_pyarrow_table())
    types = {field.name: str(field.type) for field in arrow.schema}
    return {"rows": of_tag(arrow.filter(pc.equal(arrow["tag"], order["tag"]))), "types": types}


def documents(order):
    table = table_of(order, "documents")
    arrow = pa.table(table.to_pyarrow_table())
    types = {field.name: str(field.type) for field in arrow.schema}
    counted = by_duckdb(duckdb, local(table), ["kafka_topic", "kafka_partition", "kafka_offset"])
    return {"rows": of_documents(arrow), "types": types, "duckdb": counted}


def in_range(order):
    files = local(table_of(order, "range"))
    began = time.perf_counter()
    sql = "SELECT time, coalesce(value_double, value_long::DOUBLE), status, origin FROM read_parquet(?) WHERE tag = ? ORDER BY time, seq"
    # As columns: as rows of Python, most of the time would be Python's.
    found = duckdb.sql(sql, params=[files, order["tag"]]).to_arrow_table()
    return {"rows": found.num_rows, "seconds": time.perf_counter() - began}


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
