"""Runs the texts of the analysis on Spark, a step after the other.

spark-submit analyze.py --place PLACE --plan KEY --done KEY

PLACE is where the archive is: s3://bucket/prefix or a folder. The plan is a JSON
file in it, which `millrace-cloud analyze --engine spark` writes: the SQL texts,
the columns of the results, and for each step its day and the files of each view.
The output of a step gets its name only when it is whole; a step without rows has
none, and one that was there is removed. After each step a file is written under
the key of --done that says how many rows there are.

The views are those of DuckDB in cloud/analysis/duckdb, column by column.
"""

import argparse
import json
import sys

from pyspark.sql import SparkSession
from pyspark.sql import types as t

LONG, DOUBLE, TEXT, TIME, INT, BOOL = (
    t.LongType(), t.DoubleType(), t.StringType(), t.TimestampType(), t.IntegerType(), t.BooleanType())

# The columns of the archive's files that the views read. A schema that is given
# is not read from each file.
FILES = {
    "samples": [
        ("tag", TEXT), ("time", TIME), ("time_nanos", INT), ("kind", INT), ("value", DOUBLE), ("text", TEXT),
        ("quality", LONG), ("gateway", TEXT), ("stream", TEXT)],
    "gaps": [
        ("gateway", TEXT), ("cause", TEXT), ("source", TEXT), ("sources", TEXT), ("tag", TEXT), ("stream", TEXT),
        ("from_time", TIME), ("to_time", TIME), ("count", LONG), ("sinks", TEXT)],
    "catalogue": [
        ("gateway", TEXT), ("tag", TEXT), ("stream", TEXT), ("source", TEXT), ("unit", TEXT), ("counter", BOOL),
        ("counter_max", DOUBLE), ("since", TIME)],
}

COLUMNS = {
    "samples": [
        "site", "tag", "gateway", "stream", "unix_micros(time) * 1000 + time_nanos AS ns", "kind",
        "CASE WHEN abs(value) <= 1e100 THEN value END AS value", "text", "quality"],
    "gaps": [
        "site", "gateway", "cause", "source", "sources", "tag", "stream", "unix_micros(from_time) * 1000 AS from_ns",
        "unix_micros(to_time) * 1000 AS to_ns", "`count`", "sinks"],
    "catalogue": ["site", "gateway", "tag", "stream", "source", "unit", "counter", "counter_max", "since"],
}

TYPES = {"text": TEXT, "timestamp": TIME, "double": DOUBLE, "integer": LONG}
NAMES = {"text": "STRING", "timestamp": "TIMESTAMP", "double": "DOUBLE", "integer": "BIGINT"}

DAY = 86_400_000_000_000  # ns
HOUR = 3_600_000_000_000


class Place:
    """The archive, by Hadoop's file system."""

    def __init__(self, spark, where):
        self.where = where.rstrip("/")
        self._path = spark._jvm.org.apache.hadoop.fs.Path
        self._fs = self._path(self.where).getFileSystem(spark._jsc.hadoopConfiguration())

    def path(self, key):
        return self.where + "/" + key

    def exists(self, key):
        return self._fs.exists(self._path(self.path(key)))

    def put(self, key, text):
        out = self._fs.create(self._path(self.path(key)), True)
        out.write(bytearray(text.encode()))
        out.close()

    def delete(self, key):
        self._fs.delete(self._path(self.path(key)), True)

    def publish(self, folder, key):
        """Gives the one Parquet file in a folder its name, and removes the folder."""
        parts = [s.getPath() for s in self._fs.listStatus(self._path(self.path(folder)))
                 if s.getPath().getName().endswith(".parquet")]
        if len(parts) != 1:
            raise RuntimeError(f"{folder} has {len(parts)} Parquet files, not 1")
        target = self._path(self.path(key))
        self._fs.mkdirs(target.getParent())
        self._fs.delete(target, False)
        if not self._fs.rename(parts[0], target):
            raise RuntimeError(f"{parts[0]} cannot be renamed to {key}")
        self.delete(folder)


def define(spark, place, name, files, results):
    """Makes a view of files, one part for each site."""
    if name in FILES:
        schema = t.StructType([t.StructField(n, kind) for n, kind in FILES[name]])
        columns = COLUMNS[name]
    else:
        columns = [c["name"] for c in results[name]]
        schema = t.StructType([t.StructField(c["name"], TYPES[c["type"]]) for c in results[name]])
        columns = ["`" + c + "`" for c in columns]
    by_site = {}
    for f in files:
        # Of a result that an earlier step of this plan made there may be no rows.
        if f.get("size") or place.exists(f["key"]):
            by_site.setdefault(f.get("site", ""), []).append(place.path(f["key"]))
    whole = None
    for site, paths in by_site.items():
        part = read(spark, schema, paths, site).selectExpr(*columns)
        whole = part if whole is None else whole.unionAll(part)
    if whole is None:
        whole = with_site(spark.createDataFrame([], schema), "").selectExpr(*columns)
    whole.createOrReplaceTempView(name)


def read(spark, schema, paths, site):
    # The site stands in the path as Hive has it; it comes from the plan, so that
    # Spark does not take "007" for a number.
    return with_site(spark.read.schema(schema).parquet(*paths), site)


def with_site(frame, site):
    from pyspark.sql.functions import lit
    return frame if "site" in frame.columns else frame.withColumn("site", lit(site))


def compute(spark, place, step, plan):
    results = plan["results"]
    start = step["start"]
    spark.sql(f"SELECT timestamp_micros({start // 1000}) AS day, {start}L AS start, {start + DAY}L AS finish") \
        .createOrReplaceTempView("period")
    spark.sql(
        f"SELECT timestamp_micros({start // 1000} + id * {HOUR // 1000}) AS hour, {start} + id * {HOUR} AS start, "
        f"{start} + (id + 1) * {HOUR} AS finish FROM range(24)").createOrReplaceTempView("hours")
    spark.createDataFrame(
        [(g["site"], g["gateway"]) for g in step.get("next_day", [])],
        t.StructType([t.StructField("site", TEXT), t.StructField("gateway", TEXT)])).createOrReplaceTempView("next_day")
    for name, files in step["views"].items():
        define(spark, place, name, files or [], results)
    columns = ", ".join(f"CAST(`{c['name']}` AS {NAMES[c['type']]}) AS `{c['name']}`" for c in results[step["result"]])
    rows = spark.sql(f"SELECT {columns} FROM (\n{plan['texts'][step['result']]}\n)")
    # One file for a day: all rows go through one task at the end. Results are small.
    # The folder is beside the results and under none of their prefixes.
    folder = f"results/state/spark/{step['result']}-{start}.rows"
    rows.repartition(1).sortWithinPartitions(*step["key"]).write.mode("overwrite").parquet(place.path(folder))
    count = spark.read.schema(rows.schema).parquet(place.path(folder)).count()
    if count:
        place.publish(folder, step["output"])
    else:
        place.delete(folder)
        place.delete(step["output"])
    return count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--place", required=True)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--done", required=True)
    parser.add_argument("--master", help="as in local[2]; left out where spark-submit says it")
    args = parser.parse_args()
    builder = SparkSession.builder.appName("millrace analyze")
    if args.master:
        # On one machine a shuffle into Spark's 200 parts is mostly overhead.
        builder = builder.master(args.master) \
            .config("spark.sql.shuffle.partitions", "2").config("spark.ui.enabled", "false")
    for name, value in {
        "spark.sql.session.timeZone": "UTC",
        # As DuckDB writes them, and as Redshift reads them. Spark's own is INT96.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.parquet.compression.codec": "zstd",
        # Spark 4 has it on; one setting for all versions.
        "spark.sql.ansi.enabled": "false",
    }.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    place = Place(spark, args.place)
    (_, text), = spark.sparkContext.wholeTextFiles(place.path(args.plan)).collect()
    plan = json.loads(text)
    for i, step in enumerate(plan["steps"]):
        rows = compute(spark, place, step, plan)
        place.put(f"{args.done}{i:05d}.json", json.dumps({"rows": rows}))
        print(f"{step['result']} {step['day']}: {rows} rows", flush=True)
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
