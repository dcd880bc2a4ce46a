"""Apache's REST catalog for Iceberg behind a proxy that hurts, and readers of its tables: pyiceberg, DuckDB on the live files.

iceberg.py CLASSPATH FOLDER; says {"ready": true, "uri": URL, "direct": URL}; then orders, a line of JSON each:
  {"faults": {"seed": 1, "error": 0.1, "lost": 0.1, "slow": 0.1}}   shares of requests; {} ends them
  {"count": TABLE}                          rows and distinct identities, by both; snapshots, files, manifests
  {"rows": TABLE, "tag": TAG}               the rows of a tag, every column that is not null, with its Iceberg type
  {"documents": TABLE}                      every row in Kafka's order, with null columns, and the types
  {"layout": TABLE}                         partition spec, sort order, files with their partitions, null counts and bounds, the newest summary
  {"append": TABLE, "commits": N}           N commits of one row each, by pyiceberg
  {"make": TABLE, "what": WHAT}             a table that no sink can write to
  {"digest": TABLE, "at": NAME}             a digest of all rows, of those at a tag, and whether each file is in order of tag and time
  {"label": TABLE, "name": NAME}            tags the newest snapshot
"""

import datetime
import hashlib
import json
import subprocess
import sys

import duckdb
import hurting
import pyarrow as pa
import pyarrow.parquet as pq
from plain import by_duckdb, identities, of_documents, of_tag, plain
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField, StringType

java = subprocess.Popen(["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", sys.argv[1], "Catalog", sys.argv[2]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
PORT = int(java.stdout.readline())
DIRECT = f"http://127.0.0.1:{PORT}"
uri = hurting.before(PORT, ("application/json", b'{"error": {"message": "not now", "type": "ServiceFailureException", "code": 500}}'))
catalog = load_catalog("plant", type="rest", uri=DIRECT)


def say(**fields):
    print(json.dumps(fields), flush=True)


def local(location):
    return location.removeprefix("file://").removeprefix("file:")


def count(order):
    if not catalog.table_exists(order["count"]):
        return {"rows": None}
    table = catalog.load_table(order["count"])
    tasks = list(table.scan().plan_files())
    key = order.get("key", ["source", "seq"])
    arrow = table.scan(selected_fields=tuple(key)).to_arrow()
    files = [local(task.file.file_path) for task in tasks]
    snapshot = table.current_snapshot()
    manifests = len(snapshot.manifests(table.io)) if snapshot else 0
    said = int(snapshot.summary["total-records"]) if snapshot else 0
    return {
        "pyiceberg": [arrow.num_rows, identities(arrow, key)], "duckdb": by_duckdb(duckdb, files, key), "counted": sum(task.file.record_count for task in tasks), "said": said,
        "files": len(files), "snapshots": len(table.snapshots()), "manifests": manifests,
    }


def types(table):
    return {field.name: str(field.field_type) for field in table.schema().fields}


def rows(order):
    table = catalog.load_table(order["rows"])
    return {"rows": of_tag(table.scan(row_filter=f"tag == '{order['tag']}'").to_arrow()), "types": types(table)}


def documents(order):
    if not catalog.table_exists(order["documents"]):
        return {"rows": []}
    table = catalog.load_table(order["documents"])
    return {"rows": of_documents(table.scan().to_arrow()), "types": types(table)}


def layout(order):
    table = catalog.load_table(order["layout"])
    files = table.inspect.files().to_pylist()
    read = [
        {"partition": {name: plain(value) for name, value in (row.get("partition") or {}).items()}, "rows": row["record_count"],
         "metrics": {name: {key: plain(value) for key, value in (one or {}).items()} for name, one in row["readable_metrics"].items()}}
        for row in files
    ]
    spec = [f"{field.transform}({table.schema().find_column_name(field.source_id)})" for field in table.spec().fields]
    sort = [table.schema().find_column_name(field.source_id) for field in table.sort_order().fields]
    summary = {key: value for key, value in table.current_snapshot().summary.additional_properties.items()}
    return {"spec": spec, "sort": sort, "files": read, "summary": summary, "properties": dict(table.properties)}


def append(order):
    for number in range(order["commits"]):
        for _ in range(100):
            table = catalog.load_table(order["append"])
            row = {"tag": "foreign", "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), "source": "foreign", "seq": order.get("from", 0) + number}
            try:
                table.append(pa.Table.from_pylist([row], schema=table.schema().as_arrow()))
                break
            except CommitFailedException:
                pass
        else:
            raise RuntimeError("the sink always came first")
    return {}


def make(order):
    catalog.create_namespace_if_not_exists(order["make"].split(".")[0])
    if order["what"] == "schema":
        schema = Schema(NestedField(1, "tag", LongType(), required=False), NestedField(2, "time", LongType(), required=False))
    else:
        schema = Schema(NestedField(1, "tag", StringType(), required=False))
    catalog.create_table(order["make"], schema, partition_spec=PartitionSpec())
    return {}


def digest(order):
    table = catalog.load_table(order["digest"])
    scan = table.scan(snapshot_id=table.snapshot_by_name(order["at"]).snapshot_id) if "at" in order else table.scan()
    rows = [json.dumps({name: plain(value) for name, value in row.items()}, sort_keys=True) for row in scan.to_arrow().to_pylist()]
    is_sorted = True
    for task in scan.plan_files():
        read = pq.read_table(local(task.file.file_path), columns=["tag", "time"])
        keys = list(zip(read["tag"].to_pylist(), read["time"].to_pylist()))
        is_sorted &= keys == sorted(keys)
    return {"rows": len(rows), "digest": hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest(), "sorted": is_sorted}


def label(order):
    table = catalog.load_table(order["label"])
    table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, order["name"]).commit()
    return {}


ORDERS = {"digest": digest, "label": label, "count": count, "rows": rows, "documents": documents, "layout": layout, "append": append, "make": make}
say(ready=True, uri=uri, direct=DIRECT)
for line in sys.stdin:
    order = json.loads(line)
    hurting.order(order)
    found = {}
    for name, run in ORDERS.items():
        if name in order:
            found = run(order)
    say(done="yes", hurt=hurting.STATE["hurt"], **found)
java.stdin.close()
