CREATE SCHEMA IF NOT EXISTS millrace;
CREATE TABLE IF NOT EXISTS millrace.hourly (
  "site" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "hour" TIMESTAMP NOT NULL,
  "samples" BIGINT,
  "good" BIGINT,
  "uncertain" BIGINT,
  "bad" BIGINT,
  "minimum" DOUBLE PRECISION,
  "maximum" DOUBLE PRECISION,
  "mean" DOUBLE PRECISION,
  "first" DOUBLE PRECISION,
  "last" DOUBLE PRECISION,
  "standard_deviation" DOUBLE PRECISION,
  PRIMARY KEY ("tag", "hour")
)
DISTSTYLE KEY DISTKEY ("tag")
COMPOUND SORTKEY ("hour", "tag") ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.staging_hourly (
  "site" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "hour" TIMESTAMP NOT NULL,
  "samples" BIGINT,
  "good" BIGINT,
  "uncertain" BIGINT,
  "bad" BIGINT,
  "minimum" DOUBLE PRECISION,
  "maximum" DOUBLE PRECISION,
  "mean" DOUBLE PRECISION,
  "first" DOUBLE PRECISION,
  "last" DOUBLE PRECISION,
  "standard_deviation" DOUBLE PRECISION
)
DISTSTYLE EVEN ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.energy (
  "site" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "hour" TIMESTAMP NOT NULL,
  "unit" VARCHAR(256),
  "used" DOUBLE PRECISION,
  "readings" BIGINT,
  "rollovers" BIGINT,
  "resets" BIGINT,
  PRIMARY KEY ("tag", "hour")
)
DISTSTYLE KEY DISTKEY ("tag")
COMPOUND SORTKEY ("hour", "tag") ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.staging_energy (
  "site" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "hour" TIMESTAMP NOT NULL,
  "unit" VARCHAR(256),
  "used" DOUBLE PRECISION,
  "readings" BIGINT,
  "rollovers" BIGINT,
  "resets" BIGINT
)
DISTSTYLE EVEN ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.availability (
  "site" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "hour" TIMESTAMP NOT NULL,
  "good_seconds" DOUBLE PRECISION,
  "bad_seconds" DOUBLE PRECISION,
  "gap_seconds" DOUBLE PRECISION,
  "availability" DOUBLE PRECISION,
  PRIMARY KEY ("tag", "hour")
)
DISTSTYLE KEY DISTKEY ("tag")
COMPOUND SORTKEY ("hour", "tag") ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.staging_availability (
  "site" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "hour" TIMESTAMP NOT NULL,
  "good_seconds" DOUBLE PRECISION,
  "bad_seconds" DOUBLE PRECISION,
  "gap_seconds" DOUBLE PRECISION,
  "availability" DOUBLE PRECISION
)
DISTSTYLE EVEN ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.kpi (
  "site" VARCHAR(256) NOT NULL,
  "device" VARCHAR(256) NOT NULL,
  "day" TIMESTAMP NOT NULL,
  "availability" DOUBLE PRECISION,
  "performance" DOUBLE PRECISION,
  "quality" DOUBLE PRECISION,
  "oee" DOUBLE PRECISION,
  PRIMARY KEY ("device", "day")
)
DISTSTYLE KEY DISTKEY ("device")
COMPOUND SORTKEY ("day", "device") ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.staging_kpi (
  "site" VARCHAR(256) NOT NULL,
  "device" VARCHAR(256) NOT NULL,
  "day" TIMESTAMP NOT NULL,
  "availability" DOUBLE PRECISION,
  "performance" DOUBLE PRECISION,
  "quality" DOUBLE PRECISION,
  "oee" DOUBLE PRECISION
)
DISTSTYLE EVEN ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.anomaly (
  "site" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "hour" TIMESTAMP NOT NULL,
  "value" DOUBLE PRECISION,
  "expected" DOUBLE PRECISION,
  "spread" DOUBLE PRECISION,
  "score" DOUBLE PRECISION,
  PRIMARY KEY ("tag", "hour")
)
DISTSTYLE KEY DISTKEY ("tag")
COMPOUND SORTKEY ("hour", "tag") ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.staging_anomaly (
  "site" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "hour" TIMESTAMP NOT NULL,
  "value" DOUBLE PRECISION,
  "expected" DOUBLE PRECISION,
  "spread" DOUBLE PRECISION,
  "score" DOUBLE PRECISION
)
DISTSTYLE EVEN ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.samples (
  "site" VARCHAR(256) NOT NULL,
  "date" DATE NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "time" TIMESTAMP NOT NULL,
  "time_nanos" INTEGER NOT NULL,
  "gateway_time" TIMESTAMP,
  "gateway_nanos" INTEGER,
  "kind" INTEGER NOT NULL,
  "value" DOUBLE PRECISION,
  "integer" BIGINT,
  "text" VARCHAR(65535),
  "quality" BIGINT NOT NULL,
  "gateway" VARCHAR(256) NOT NULL,
  "stream" VARCHAR(256) NOT NULL,
  "producer" VARCHAR(1024),
  "seq" BIGINT
)
DISTSTYLE KEY DISTKEY ("tag")
COMPOUND SORTKEY ("date", "site", "tag", "time") ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.staging_samples (
  "tag" VARCHAR(256) NOT NULL,
  "time" TIMESTAMP NOT NULL,
  "time_nanos" INTEGER NOT NULL,
  "gateway_time" TIMESTAMP,
  "gateway_nanos" INTEGER,
  "kind" INTEGER NOT NULL,
  "value" DOUBLE PRECISION,
  "integer" BIGINT,
  "text" VARCHAR(65535),
  "quality" BIGINT NOT NULL,
  "gateway" VARCHAR(256) NOT NULL,
  "stream" VARCHAR(256) NOT NULL,
  "producer" VARCHAR(1024),
  "seq" BIGINT
)
DISTSTYLE EVEN ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.gaps (
  "site" VARCHAR(256) NOT NULL,
  "date" DATE NOT NULL,
  "gateway" VARCHAR(256) NOT NULL,
  "id" VARCHAR(1024) NOT NULL,
  "cause" VARCHAR(256) NOT NULL,
  "source" VARCHAR(1024) NOT NULL,
  "sources" VARCHAR(65535),
  "tag" VARCHAR(256),
  "stream" VARCHAR(256),
  "from_seq" BIGINT,
  "to_seq" BIGINT,
  "from_time" TIMESTAMP,
  "to_time" TIMESTAMP,
  "count" BIGINT,
  "declared_at" TIMESTAMP,
  "sinks" VARCHAR(65535)
)
DISTSTYLE ALL
COMPOUND SORTKEY ("date", "site") ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.staging_gaps (
  "gateway" VARCHAR(256) NOT NULL,
  "id" VARCHAR(1024) NOT NULL,
  "cause" VARCHAR(256) NOT NULL,
  "source" VARCHAR(1024) NOT NULL,
  "sources" VARCHAR(65535),
  "tag" VARCHAR(256),
  "stream" VARCHAR(256),
  "from_seq" BIGINT,
  "to_seq" BIGINT,
  "from_time" TIMESTAMP,
  "to_time" TIMESTAMP,
  "count" BIGINT,
  "declared_at" TIMESTAMP,
  "sinks" VARCHAR(65535)
)
DISTSTYLE EVEN ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.catalogue (
  "site" VARCHAR(256) NOT NULL,
  "gateway" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "stream" VARCHAR(256) NOT NULL,
  "source" VARCHAR(1024) NOT NULL,
  "type" VARCHAR(256),
  "unit" VARCHAR(256),
  "description" VARCHAR(4096),
  "counter" BOOLEAN NOT NULL,
  "counter_max" DOUBLE PRECISION,
  "since" TIMESTAMP
)
DISTSTYLE ALL
COMPOUND SORTKEY ("tag") ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.staging_catalogue (
  "gateway" VARCHAR(256) NOT NULL,
  "tag" VARCHAR(256) NOT NULL,
  "stream" VARCHAR(256) NOT NULL,
  "source" VARCHAR(1024) NOT NULL,
  "type" VARCHAR(256),
  "unit" VARCHAR(256),
  "description" VARCHAR(4096),
  "counter" BOOLEAN NOT NULL,
  "counter_max" DOUBLE PRECISION,
  "since" TIMESTAMP
)
DISTSTYLE EVEN ENCODE AUTO
;
CREATE TABLE IF NOT EXISTS millrace.loads (
  "target" VARCHAR(64) NOT NULL,
  "folder" VARCHAR(1024) NOT NULL,
  "version" BIGINT NOT NULL,
  "file" VARCHAR(1024) NOT NULL,
  "sha256" VARCHAR(64) NOT NULL,
  "bytes" BIGINT NOT NULL,
  "rows" BIGINT NOT NULL,
  "folder_rows" BIGINT NOT NULL,
  "loaded_at" TIMESTAMP NOT NULL DEFAULT SYSDATE,
  PRIMARY KEY ("file")
)
DISTSTYLE ALL COMPOUND SORTKEY ("target", "folder") ENCODE AUTO
;
