"""What DuckDB, pandas and polars make of an exported history, and what they write.

tables.py read FILE…      for each program and file a line: PROGRAM FILE ROWS SHA-256,
                          of the rows as the test in Go writes them
tables.py write FILE DIR  the same history in DIR, as each program writes it
"""

import hashlib
import math
import os
import struct
import sys

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

KEYS = ["time", "job", "component", "instance", "worker"]


def lines(columns, rows):
    """A line for each known value: times in µs, numbers as their bits."""
    for row in rows:
        cells = dict(zip(columns, row))
        at = cells["time"]
        at = at if isinstance(at, int) else at.value // 1000 if hasattr(at, "value") else micros(at)
        instance = cells["instance"]
        missing = instance is None or instance is pd.NA or instance != instance
        head = [str(at), text(cells["job"]), text(cells["component"]), "" if missing else str(int(instance)), text(cells["worker"])]
        if "metric" in cells:
            yield "\t".join(head + [cells["metric"], struct.pack(">d", cells["value"]).hex()])
            continue
        for name in columns:
            value = cells[name]
            if name in KEYS or value is None or value is pd.NA or math.isnan(value):
                continue
            yield "\t".join(head + [name, struct.pack(">d", value).hex()])


def text(value):
    return value if isinstance(value, str) else ""


def micros(at):
    import datetime

    return (at - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)


def with_duckdb(name):
    db = duckdb.connect()
    if name.endswith(".arrow"):
        history = pa.ipc.open_file(name).read_all()
        result = db.execute("SELECT * REPLACE (epoch_us(time) AS time) FROM history")
    else:
        result = db.execute("SELECT * REPLACE (epoch_us(time) AS time) FROM read_parquet(?)", [name])
    columns = [d[0] for d in result.description]
    return columns, result.fetchall()


def with_pandas(name):
    frame = pd.read_feather(name) if name.endswith(".arrow") else pd.read_parquet(name)
    return list(frame.columns), frame.itertuples(index=False, name=None)


def with_polars(name):
    frame = pl.read_ipc(name) if name.endswith(".arrow") else pl.read_parquet(name)
    return frame.columns, frame.iter_rows()


def read(names):
    for program, reader in {"duckdb": with_duckdb, "pandas": with_pandas, "polars": with_polars}.items():
        for name in names:
            found = sorted(lines(*reader(name)))
            digest = hashlib.sha256("".join(line + "\n" for line in found).encode()).hexdigest()
            print(program, name, len(found), digest)


def write(name, folder):
    table = pa.parquet.read_table(name)
    for codec in ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]:
        pa.parquet.write_table(table, f"{folder}/pyarrow-{codec}.parquet", compression=codec, row_group_size=100)
    plain = table.cast(pa.schema([f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]))
    pa.parquet.write_table(plain, f"{folder}/pyarrow-v2.parquet", data_page_version="2.0", use_dictionary=False, data_page_size=1000)
    pa.parquet.write_table(plain, f"{folder}/pyarrow-int96.parquet", use_deprecated_int96_timestamps=True)
    pa.parquet.write_table(plain, f"{folder}/pyarrow-delta.parquet", use_dictionary=False, column_encoding={"time": "DELTA_BINARY_PACKED", "job": "DELTA_BYTE_ARRAY", "component": "DELTA_LENGTH_BYTE_ARRAY"})
    for codec in ["uncompressed", "lz4", "zstd"]:
        pa.feather.write_feather(plain, f"{folder}/pyarrow-{codec}.arrow", compression=codec, chunksize=50)
    for unit in ["ms", "ns"]:
        typed = plain.set_column(0, "time", plain["time"].cast(pa.timestamp(unit)))
        pa.feather.write_feather(typed, f"{folder}/pyarrow-{unit}.arrow")
    with pa.OSFile(f"{folder}/pyarrow-stream.arrow", "wb") as out, pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table, max_chunksize=64)

    frame = plain.to_pandas()  # instance becomes a column of floats
    frame["instance"] = frame["instance"].astype("float64")
    frame.to_parquet(f"{folder}/pandas.parquet")
    frame.to_feather(f"{folder}/pandas.feather")
    frame.index = frame.index + 7  # an index of its own becomes a column
    frame.to_parquet(f"{folder}/pandas-index.parquet")

    frame = pl.from_arrow(plain)
    frame.write_parquet(f"{folder}/polars.parquet")
    frame.write_ipc(f"{folder}/polars.arrow")
    frame.write_ipc(f"{folder}/polars-zstd.arrow", compression="zstd")
    frame.write_ipc_stream(f"{folder}/polars-stream.arrow")
    values = [c for c in frame.columns if c not in KEYS]
    long = frame.unpivot(on=values, index=KEYS, variable_name="metric", value_name="value").drop_nulls("value")
    long.with_columns(pl.col("metric").cast(pl.Categorical)).write_ipc(f"{folder}/polars-long.arrow")
    long.with_columns(pl.col("time").dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ")).write_parquet(f"{folder}/polars-text.parquet", row_group_size=500)
    long.with_columns(pl.col("time").dt.timestamp("ms")).write_parquet(f"{folder}/polars-epoch.parquet")

    db = duckdb.connect()
    db.execute(f"COPY (FROM read_parquet('{name}')) TO '{folder}/duckdb.parquet' (FORMAT parquet)")
    db.execute(f"COPY (FROM read_parquet('{name}')) TO '{folder}/duckdb-zstd.parquet' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048)")
    print(len(os.listdir(folder)))


if __name__ == "__main__":
    {"read": lambda: read(sys.argv[2:]), "write": lambda: write(*sys.argv[2:])}[sys.argv[1]]()
