"""Rows of a table as JSON has them, for the readers of the lake."""

import datetime
import decimal


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


def of_tag(arrow):
    """In the order of time, without what is null."""
    arrow = arrow.sort_by([("time", "ascending"), ("seq", "ascending")])
    return [{name: plain(value) for name, value in row.items() if value is not None} for row in arrow.to_pylist()]


def of_documents(arrow):
    """In Kafka's order, with what is null."""
    arrow = arrow.sort_by([("kafka_topic", "ascending"), ("kafka_partition", "ascending"), ("kafka_offset", "ascending")])
    return [{name: plain(value) for name, value in row.items()} for row in arrow.to_pylist()]


def identities(arrow, key):
    """How many different ones there are."""
    return len(set(zip(*(arrow[name].to_pylist() for name in key))))


def by_duckdb(duckdb, files, key):
    """Rows and different keys in files."""
    if not files:
        return [0, 0]
    sql = f"SELECT count(*), count(DISTINCT ({', '.join(key)})) FROM read_parquet(?, union_by_name = true)"
    return list(duckdb.execute(sql, [files]).fetchone())
