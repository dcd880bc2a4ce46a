#!/usr/bin/env python3
"""What a factory's history says, read from the lake as it is: OEE of a machine, a trend, quality over time.

history.py TABLE AREA/MACHINE [FROM TO]     by DuckDB and pyarrow; the days are whole, in UTC

The machine has three tags below its path, as a sink of `type: lake` writes them:
  state   "running", "stopped", "fault", ..       when it changes
  parts   a counter of good parts                 a lower value is a counter that began again at 0
  scrap   a counter of parts thrown away

OEE = availability x performance x quality:
  availability   the share of the time that is known in which the state was "running"
  performance    parts made, against those that could have been made at one in IDEAL_CYCLE seconds while it ran
  quality        good parts of all parts
A state holds until the next one; a bad or null one ends it, and what is not known counts neither as running nor as stopped.
"""

import json
import pathlib
import sys

import deltalake
import duckdb
import pyarrow.compute as pc
import pyarrow.dataset as ds

IDEAL_CYCLE = 2.0


def files(table, first, last):
    """The table's live files of these days: the log names them, and the folder says the day."""
    uris = deltalake.DeltaTable(table).file_uris()
    day = lambda uri: uri.split("date=")[1][:10]
    return [uri.removeprefix("file://") for uri in uris if first <= day(uri) <= last]


def oee(paths, machine):
    """Durations by state, and the increase of the counters."""
    states = duckdb.execute(
        """
        WITH changes AS (
          SELECT time, value_text AS state, (quality = 'bad' OR value_text IS NULL) AS gap,
                 lead(time) OVER (ORDER BY time, seq) AS until
          FROM read_parquet($files) WHERE tag = $tag AND origin <> 'heartbeat')
        SELECT state, sum(epoch(until) - epoch(time)) FROM changes WHERE NOT gap AND until IS NOT NULL GROUP BY state ORDER BY state
        """,
        {"files": paths, "tag": f"{machine}/state"},
    ).fetchall()
    seconds = dict(states)

    def increase(tag):
        return duckdb.execute(
            """
            WITH counted AS (
              SELECT value_long AS n, lag(value_long) OVER (ORDER BY time, seq) AS before
              FROM read_parquet($files) WHERE tag = $tag AND value_long IS NOT NULL AND origin <> 'heartbeat')
            SELECT coalesce(sum(CASE WHEN before IS NULL THEN 0 WHEN n >= before THEN n - before ELSE n END), 0) FROM counted
            """,
            {"files": paths, "tag": f"{machine}/{tag}"},
        ).fetchone()[0]

    good, scrap = int(increase("parts")), int(increase("scrap"))
    known, running = sum(seconds.values()), seconds.get("running", 0.0)
    availability = running / known if known else None
    performance = (good + scrap) * IDEAL_CYCLE / running if running else None
    quality = good / (good + scrap) if good + scrap else None
    parts = (availability, performance, quality)
    whole = availability * performance * quality if all(part is not None for part in parts) else None
    return {"seconds": seconds, "good": good, "scrap": scrap, "availability": availability, "performance": performance, "quality": quality, "oee": whole}


def trend(paths, tag):
    """Mean, least and greatest value of each hour of good samples, and the slope per hour by least squares."""
    hours = duckdb.execute(
        """
        SELECT date_trunc('hour', time) AS hour, avg(v) AS mean, min(v) AS low, max(v) AS high, count(*) AS n
        FROM (SELECT time, coalesce(value_double, value_long::DOUBLE) AS v FROM read_parquet($files) WHERE tag = $tag AND quality = 'good')
        WHERE v IS NOT NULL GROUP BY hour ORDER BY hour
        """,
        {"files": paths, "tag": tag},
    ).fetchall()
    slope = duckdb.execute(
        """
        SELECT regr_slope(coalesce(value_double, value_long::DOUBLE), epoch(time) / 3600)
        FROM read_parquet($files) WHERE tag = $tag AND quality = 'good'
        """,
        {"files": paths, "tag": tag},
    ).fetchone()[0]
    rows = [{"hour": hour.strftime("%Y-%m-%dT%H:00Z"), "mean": mean, "min": low, "max": high, "count": n} for hour, mean, low, high, n in hours]
    return {"hours": rows, "slope_per_hour": slope}


def quality_over_time(paths, machine):
    """Samples of a machine by day and quality, by pyarrow."""
    table = ds.dataset(paths, format="parquet").to_table(
        columns=["time", "quality"], filter=pc.starts_with(ds.field("tag"), f"{machine}/")
    )
    days = pc.strftime(table["time"], format="%Y-%m-%d")
    counted = table.append_column("day", days).group_by(["day", "quality"]).aggregate([("time", "count")])
    rows = sorted((row["day"], row["quality"], row["time_count"]) for row in counted.to_pylist())
    return [{"day": day, "quality": quality, "samples": count} for day, quality, count in rows]


def main(table, machine, first="0001-01-01", last="9999-12-31"):
    duckdb.execute("SET TimeZone = 'UTC'")
    paths = files(table, first, last)
    if not paths:
        raise SystemExit(f"{pathlib.Path(table)} has no files between {first} and {last}")
    print(json.dumps({"oee": oee(paths, machine), "trend": trend(paths, f"{machine}/temperature"), "quality": quality_over_time(paths, machine)}, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
