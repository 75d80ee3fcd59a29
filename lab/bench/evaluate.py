"""Statistics of every series in the windows before a time, by DuckDB or polars, with two threads.

usage: evaluate.py duckdb|polars FILE AT_MS LENGTH_MS WINDOWS METRIC,… RESULT

FILE is a Parquet file with a row per (component, instance, time) and a column per metric. Prints {"seconds": …}: from the
file to a table in memory, imports not counted. RESULT gets the numbers as float64, by component, instance, window, metric, then
count, mean, standard deviation, slope, p50, p95.
"""

import json
import sys
import time

import numpy as np

engine, path, at, length, windows, names, result = sys.argv[1:]
at, length, windows, names = int(at), int(length), int(windows), names.split(",")
start = at - windows * length

if engine == "duckdb":
    import duckdb

    began = time.perf_counter()
    db = duckdb.connect(config={"threads": 2})
    # Windows are (start, end]: a time on the edge belongs to the window that ends there. Slopes are taken over seconds
    # since the window's start, so that they keep their digits.
    stats = ", ".join(
        f"count({m}) c{i}, avg({m}) m{i}, stddev_samp({m}) s{i}, regr_slope({m}, x) k{i}, quantile_cont({m}, [0.5, 0.95]) q{i}"
        for i, m in enumerate(names)
    )
    table = db.sql(
        f"""
        WITH cut AS (
            SELECT component, instance, (t - {start} - 1) // {length} AS w, ((t - {start} - 1) % {length} + 1) / 1000.0 AS x, {", ".join(names)}
            FROM (SELECT epoch_ms(time) AS t, * FROM read_parquet('{path}'))
            WHERE t > {start} AND t <= {at}
        )
        SELECT component, instance, w, {stats} FROM cut GROUP BY ALL ORDER BY ALL
        """
    ).to_arrow_table()
    seconds = time.perf_counter() - began
    import polars as pl

    frame = pl.from_arrow(table).sort(pl.col("component").cast(pl.String), "instance", "w")
    columns = []
    for i in range(len(names)):
        columns += [frame[f"{c}{i}"].to_numpy() for c in "cmsk"]
        columns += [frame[f"q{i}"].list.get(0).to_numpy(), frame[f"q{i}"].list.get(1).to_numpy()]
else:
    import polars as pl

    began = time.perf_counter()
    assert pl.thread_pool_size() == 2
    x = pl.col("x")
    stats = []
    for i, m in enumerate(names):
        v = pl.col(m)
        stats += [
            v.count().alias(f"c{i}"),
            v.mean().alias(f"m{i}"),
            v.std().alias(f"s{i}"),
            (((x - x.mean()) * (v - v.mean())).sum() / ((x - x.mean()) ** 2).sum()).alias(f"k{i}"),
            v.quantile(0.5, "linear").alias(f"p{i}"),
            v.quantile(0.95, "linear").alias(f"q{i}"),
        ]
    t = pl.col("time").dt.epoch("ms")
    frame = (
        pl.scan_parquet(path)
        .filter((t > start) & (t <= at))
        .with_columns(((t - start - 1) // length).alias("w"), (((t - start - 1) % length + 1) / 1000.0).alias("x"))
        .group_by("component", "instance", "w")
        .agg(stats)
        .sort("component", "instance", "w")
        .collect()
    )
    seconds = time.perf_counter() - began
    frame = frame.sort(pl.col("component").cast(pl.String), "instance", "w")
    columns = [frame[f"{c}{i}"].to_numpy() for i in range(len(names)) for c in "cmskpq"]

np.column_stack([c.astype("<f8") for c in columns]).tofile(result)
print(json.dumps({"seconds": seconds}))
