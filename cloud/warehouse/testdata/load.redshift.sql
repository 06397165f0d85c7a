-- load hourly of 2026-11-28 to 2026-11-29

LOCK TABLE millrace.staging_hourly;
DELETE FROM millrace.staging_hourly;
COPY millrace.staging_hourly ("site", "tag", "hour", "samples", "good", "uncertain", "bad", "minimum", "maximum", "mean", "first", "last", "standard_deviation")
FROM 's3://plant-archive/results/hourly/date=2026-11-28/part-'
IAM_ROLE 'arn:aws:iam::123456789012:role/copy'
FORMAT AS PARQUET;
COPY millrace.staging_hourly ("site", "tag", "hour", "samples", "good", "uncertain", "bad", "minimum", "maximum", "mean", "first", "last", "standard_deviation")
FROM 's3://plant-archive/results/hourly/date=2026-11-29/part-'
IAM_ROLE 'arn:aws:iam::123456789012:role/copy'
FORMAT AS PARQUET;
DELETE FROM millrace.hourly
WHERE ("hour" >= '2026-11-28' AND "hour" < '2026-11-29' OR "hour" >= '2026-11-29' AND "hour" < '2026-11-30')
AND NOT EXISTS (SELECT 1 FROM millrace.staging_hourly AS incoming WHERE incoming."tag" = millrace.hourly."tag" AND incoming."hour" = millrace.hourly."hour");
MERGE INTO millrace.hourly
USING millrace.staging_hourly AS incoming
ON (millrace.hourly."tag" = incoming."tag" AND millrace.hourly."hour" = incoming."hour")
WHEN MATCHED THEN UPDATE SET "site" = incoming."site", "samples" = incoming."samples", "good" = incoming."good", "uncertain" = incoming."uncertain", "bad" = incoming."bad", "minimum" = incoming."minimum", "maximum" = incoming."maximum", "mean" = incoming."mean", "first" = incoming."first", "last" = incoming."last", "standard_deviation" = incoming."standard_deviation"
WHEN NOT MATCHED THEN INSERT ("site", "tag", "hour", "samples", "good", "uncertain", "bad", "minimum", "maximum", "mean", "first", "last", "standard_deviation") VALUES (incoming."site", incoming."tag", incoming."hour", incoming."samples", incoming."good", incoming."uncertain", incoming."bad", incoming."minimum", incoming."maximum", incoming."mean", incoming."first", incoming."last", incoming."standard_deviation");
DELETE FROM millrace.loads
WHERE "target" = 'hourly' AND "folder" IN ('results/hourly/date=2026-11-28/', 'results/hourly/date=2026-11-29/');
INSERT INTO millrace.loads ("target", "folder", "version", "file", "sha256", "bytes", "rows", "folder_rows")
SELECT CAST('hourly' AS VARCHAR(1024)), CAST('results/hourly/date=2026-11-28/' AS VARCHAR(1024)), 1, CAST('results/hourly/date=2026-11-28/part-00000.parquet' AS VARCHAR(1024)), CAST('aa' AS VARCHAR(1024)), 1000, 24, CASE WHEN loaded."n" = 24 AND distinct_keys."n" = 24 THEN loaded."n" END
FROM (SELECT COUNT(*) AS "n" FROM millrace.hourly WHERE "hour" >= '2026-11-28' AND "hour" < '2026-11-29') AS loaded
CROSS JOIN (SELECT COUNT(*) AS "n" FROM (SELECT DISTINCT "tag", "hour" FROM millrace.staging_hourly WHERE "hour" >= '2026-11-28' AND "hour" < '2026-11-29') AS incoming) AS distinct_keys
UNION ALL
SELECT CAST('hourly' AS VARCHAR(1024)), CAST('results/hourly/date=2026-11-29/' AS VARCHAR(1024)), 3, CAST('results/hourly/date=2026-11-29/part-00000.parquet' AS VARCHAR(1024)), CAST('bb' AS VARCHAR(1024)), 900, 23, CASE WHEN loaded."n" = 23 AND distinct_keys."n" = 23 THEN loaded."n" END
FROM (SELECT COUNT(*) AS "n" FROM millrace.hourly WHERE "hour" >= '2026-11-29' AND "hour" < '2026-11-30') AS loaded
CROSS JOIN (SELECT COUNT(*) AS "n" FROM (SELECT DISTINCT "tag", "hour" FROM millrace.staging_hourly WHERE "hour" >= '2026-11-29' AND "hour" < '2026-11-30') AS incoming) AS distinct_keys;
DELETE FROM millrace.staging_hourly;

-- load samples of site o'north\1, 2026-11-28

LOCK TABLE millrace.staging_samples;
DELETE FROM millrace.staging_samples;
COPY millrace.staging_samples ("tag", "time", "time_nanos", "gateway_time", "gateway_nanos", "kind", "value", "integer", "text", "quality", "gateway", "stream", "producer", "seq")
FROM 's3://plant-archive/samples/site=o%27north/date=2026-11-28/part-'
IAM_ROLE 'arn:aws:iam::123456789012:role/copy'
FORMAT AS PARQUET;
DELETE FROM millrace.samples
WHERE "site" = ('o''north' || CHR(92) || '1') AND "date" = '2026-11-28';
INSERT INTO millrace.samples ("site", "date", "tag", "time", "time_nanos", "gateway_time", "gateway_nanos", "kind", "value", "integer", "text", "quality", "gateway", "stream", "producer", "seq")
SELECT CAST(('o''north' || CHR(92) || '1') AS VARCHAR(1024)), CAST('2026-11-28' AS DATE), "tag", "time", "time_nanos", "gateway_time", "gateway_nanos", "kind", "value", "integer", "text", "quality", "gateway", "stream", "producer", "seq"
FROM millrace.staging_samples;
DELETE FROM millrace.loads
WHERE "target" = 'samples' AND "folder" IN ('samples/site=o%27north/date=2026-11-28/');
INSERT INTO millrace.loads ("target", "folder", "version", "file", "sha256", "bytes", "rows", "folder_rows")
SELECT CAST('samples' AS VARCHAR(1024)), CAST('samples/site=o%27north/date=2026-11-28/' AS VARCHAR(1024)), 1, CAST('samples/site=o%27north/date=2026-11-28/part-00000.parquet' AS VARCHAR(1024)), CAST('cc' AS VARCHAR(1024)), 1000, 500, CASE WHEN COUNT(*) = 900 THEN COUNT(*) END
FROM millrace.samples WHERE "site" = ('o''north' || CHR(92) || '1') AND "date" = '2026-11-28'
UNION ALL
SELECT CAST('samples' AS VARCHAR(1024)), CAST('samples/site=o%27north/date=2026-11-28/' AS VARCHAR(1024)), 1, CAST('samples/site=o%27north/date=2026-11-28/part-00001.parquet' AS VARCHAR(1024)), CAST('dd' AS VARCHAR(1024)), 800, 400, CASE WHEN COUNT(*) = 900 THEN COUNT(*) END
FROM millrace.samples WHERE "site" = ('o''north' || CHR(92) || '1') AND "date" = '2026-11-28';
DELETE FROM millrace.staging_samples;

-- load catalogue of site north

LOCK TABLE millrace.staging_catalogue;
DELETE FROM millrace.staging_catalogue;
COPY millrace.staging_catalogue ("gateway", "tag", "stream", "source", "type", "unit", "description", "counter", "counter_max", "since")
FROM 's3://plant-archive/catalogue/site=north/part-'
IAM_ROLE 'arn:aws:iam::123456789012:role/copy'
FORMAT AS PARQUET;
DELETE FROM millrace.catalogue
WHERE "site" = 'north';
INSERT INTO millrace.catalogue ("site", "gateway", "tag", "stream", "source", "type", "unit", "description", "counter", "counter_max", "since")
SELECT CAST('north' AS VARCHAR(1024)), "gateway", "tag", "stream", "source", "type", "unit", "description", "counter", "counter_max", "since"
FROM millrace.staging_catalogue;
DELETE FROM millrace.loads
WHERE "target" = 'catalogue' AND "folder" IN ('catalogue/site=north/');
INSERT INTO millrace.loads ("target", "folder", "version", "file", "sha256", "bytes", "rows", "folder_rows")
SELECT CAST('catalogue' AS VARCHAR(1024)), CAST('catalogue/site=north/' AS VARCHAR(1024)), 2, CAST('catalogue/site=north/part-00000.parquet' AS VARCHAR(1024)), CAST('ee' AS VARCHAR(1024)), 100, 5, CASE WHEN COUNT(*) = 5 THEN COUNT(*) END
FROM millrace.catalogue WHERE "site" = 'north';
DELETE FROM millrace.staging_catalogue;

