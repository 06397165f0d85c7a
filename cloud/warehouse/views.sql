-- Views for BI tools. The same text on Redshift and on PostgreSQL; run it again
-- after an update. Times are UTC. "tag" is a reserved word of Redshift: write it
-- in quotes there, as BI tools do.

-- One row for each tag: its newest entry in the catalogue. A tag may have moved
-- from one stream or gateway to another.
CREATE OR REPLACE VIEW millrace.tags AS
SELECT "tag", "site", "device", "name", "unit", "description", "type", "counter", "counter_max", "gateway", "stream", "source", "since"
FROM (
  SELECT "tag", "site",
    SPLIT_PART("tag", '/', 2) AS "device",
    SUBSTRING("tag", LENGTH(SPLIT_PART("tag", '/', 1)) + LENGTH(SPLIT_PART("tag", '/', 2)) + 3, 256) AS "name",
    "unit", "description", "type", "counter", "counter_max", "gateway", "stream", "source", "since",
    ROW_NUMBER() OVER (PARTITION BY "tag" ORDER BY COALESCE("since", CAST('1970-01-01' AS TIMESTAMP)) DESC, "gateway", "stream") AS "newest"
  FROM millrace.catalogue
) AS "entries"
WHERE "newest" = 1;

-- Each hour of each tag.
CREATE OR REPLACE VIEW millrace.hourly_values AS
SELECT h."site", h."tag", t."device", t."name", t."unit", t."description", h."hour", h."samples", h."good", h."uncertain", h."bad",
  h."minimum", h."maximum", h."mean", h."first", h."last", h."standard_deviation"
FROM millrace.hourly AS h
LEFT JOIN millrace.tags AS t ON t."tag" = h."tag";

-- The hours in which every sample was good.
CREATE OR REPLACE VIEW millrace.good_hourly_values AS
SELECT "site", "tag", "device", "name", "unit", "description", "hour", "samples",
  "minimum", "maximum", "mean", "first", "last", "standard_deviation"
FROM millrace.hourly_values
WHERE "good" > 0 AND "uncertain" = 0 AND "bad" = 0;

-- The last good value of the newest hour that has one, for each tag. Without
-- samples in the warehouse there is nothing newer.
CREATE OR REPLACE VIEW millrace.latest_values AS
SELECT "site", "tag", "device", "name", "unit", "description", "hour", "value"
FROM (
  SELECT "site", "tag", "device", "name", "unit", "description", "hour", "last" AS "value",
    ROW_NUMBER() OVER (PARTITION BY "tag" ORDER BY "hour" DESC) AS "newest"
  FROM millrace.hourly_values
  WHERE "last" IS NOT NULL
) AS "hours"
WHERE "newest" = 1;

-- What a tag used in each hour, and in each day.
CREATE OR REPLACE VIEW millrace.hourly_energy AS
SELECT e."site", e."tag", t."device", t."name", COALESCE(e."unit", t."unit") AS "unit", t."description", e."hour", e."used",
  e."readings", e."rollovers", e."resets"
FROM millrace.energy AS e
LEFT JOIN millrace.tags AS t ON t."tag" = e."tag";

CREATE OR REPLACE VIEW millrace.daily_energy AS
SELECT "site", "tag", "device", "name", "unit", "description", CAST("hour" AS DATE) AS "day",
  SUM("used") AS "used", SUM("readings") AS "readings", SUM("rollovers") AS "rollovers", SUM("resets") AS "resets",
  COUNT(*) AS "hours"
FROM millrace.hourly_energy
GROUP BY "site", "tag", "device", "name", "unit", "description", CAST("hour" AS DATE);

-- Availability from 0 to 1: of each hour, and of each month by its seconds.
CREATE OR REPLACE VIEW millrace.hourly_availability AS
SELECT a."site", a."tag", t."device", t."name", t."unit", t."description", a."hour", a."good_seconds", a."bad_seconds", a."gap_seconds",
  a."availability"
FROM millrace.availability AS a
LEFT JOIN millrace.tags AS t ON t."tag" = a."tag";

CREATE OR REPLACE VIEW millrace.monthly_availability AS
SELECT "site", "tag", "device", "name", "unit", "description", CAST(DATE_TRUNC('month', "hour") AS DATE) AS "month",
  SUM("good_seconds") AS "good_seconds", SUM("bad_seconds") AS "bad_seconds", SUM("gap_seconds") AS "gap_seconds",
  SUM("good_seconds") / NULLIF(SUM("good_seconds") + SUM("bad_seconds") + SUM("gap_seconds"), 0) AS "availability"
FROM millrace.hourly_availability
GROUP BY "site", "tag", "device", "name", "unit", "description", CAST(DATE_TRUNC('month', "hour") AS DATE);

-- The key figures of each device and day.
CREATE OR REPLACE VIEW millrace.daily_kpi AS
SELECT "site", "device", SPLIT_PART("device", '/', 2) AS "name", CAST("day" AS DATE) AS "day",
  "availability", "performance", "quality", "oee"
FROM millrace.kpi;

-- Hours against what the four weeks before lead one to expect.
CREATE OR REPLACE VIEW millrace.anomalies AS
SELECT a."site", a."tag", t."device", t."name", t."unit", t."description", a."hour", a."value", a."expected", a."spread", a."score"
FROM millrace.anomaly AS a
LEFT JOIN millrace.tags AS t ON t."tag" = a."tag";

-- Samples as they were taken, where they are loaded (--history). The gateways'
-- own records, as site/gateway/$gap, are not among them. Quality is an OPC UA
-- status code: good below 0x40000000, bad from 0x80000000.
CREATE OR REPLACE VIEW millrace.history AS
SELECT s."site", s."tag", t."device", t."name", t."unit", t."description", s."date", s."time", s."value", s."integer", s."text",
  CASE WHEN s."quality" < 1073741824 THEN 'good' WHEN s."quality" < 2147483648 THEN 'uncertain' ELSE 'bad' END AS "quality",
  s."quality" AS "status_code", s."time_nanos", s."gateway_time", s."gateway", s."stream"
FROM millrace.samples AS s
LEFT JOIN millrace.tags AS t ON t."tag" = s."tag"
WHERE s."tag" NOT LIKE '%/$%';

CREATE OR REPLACE VIEW millrace.good_history AS
SELECT "site", "tag", "device", "name", "unit", "description", "date", "time", "value", "integer", "text", "gateway", "stream"
FROM millrace.history
WHERE "status_code" < 1073741824;

CREATE OR REPLACE VIEW millrace.latest_history AS
SELECT "site", "tag", "device", "name", "unit", "description", "time", "value", "integer", "text", "quality"
FROM (
  SELECT "site", "tag", "device", "name", "unit", "description", "time", "value", "integer", "text", "quality",
    ROW_NUMBER() OVER (PARTITION BY "tag" ORDER BY "time" DESC, "time_nanos" DESC) AS "newest"
  FROM millrace.history
) AS "samples"
WHERE "newest" = 1;

-- What was lost, and for how long. Where "sinks" names some, the others have it.
CREATE OR REPLACE VIEW millrace.gap_list AS
SELECT "site", "gateway", "cause", "source", "tag", "from_time", "to_time",
  CAST(EXTRACT(EPOCH FROM "to_time") - EXTRACT(EPOCH FROM "from_time") AS BIGINT) AS "seconds", "count", "declared_at", "sinks"
FROM millrace.gaps;
