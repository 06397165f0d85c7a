-- energy: what each counter counted in each hour (UTC), with rollovers put right and resets left out.
--
-- One row for each counter of the catalogue and hour with at least one reading. Columns:
--   unit       of the counter, as in the catalogue
--   used       sum of the steps between consecutive readings, in that unit. A step belongs to the hour of its later reading, so
--              that the hours add up to the whole; after an outage the first hour carries what ran meanwhile
--   readings   Good numbers from 0 to counter_max
--   rollovers  steps down that were taken for the counter's wrap to 0
--   resets     steps down that were not: the counter was set back or exchanged. Such a step adds nothing, since nobody knows
--              what ran between
--
-- Formula, for readings p, v that follow each other after dt:
--   v >= p                    v - p
--   v <  p and a rollover     m - p + v, with m = counter_max + 1 (a counter of 16 bits wraps from 65535 to 0, so m is 65536).
--                             Where counter_max has a fraction the counter is scaled, and m = counter_max, which is short by
--                             less than one of its own steps for each rollover
--   v <  p and a reset        0
-- A step down is a rollover where counter_max is known, m - p + v is less than half of m, and either
-- it is at most 4 times what the counter's fastest step of the day would make in dt, or at most one hundredth of m.
-- Else it is a reset. More than one wrap between two readings cannot be seen.
--
-- Quality: only Good readings count. Uncertain and Bad ones are passed over, and the next Good one takes up the count.
-- Gaps: the step over a gap belongs to the hour in which readings come again. The reading before the day is looked for in the
-- seven days before it; after a longer silence the count begins anew.
-- Duplicates: a reading that comes twice makes a step of 0.
--
-- Source: half the range as in RFC 1982, 3.2 (serial number arithmetic); the bound on the rate as RRDtool's COUNTER with max does;
-- a reset adds nothing where Prometheus' increase() adds v, because an exchanged meter does not begin at 0.
-- Views: samples (the day and seven before), catalogue, hours, period (the day).

WITH newest AS (
    SELECT site, tag, unit, counter, counter_max,
           row_number() OVER (PARTITION BY site, tag ORDER BY since DESC, gateway, stream) AS place
    FROM catalogue
),
counters AS (
    SELECT site, tag, unit, counter_max,
           CASE WHEN counter_max = floor(counter_max) THEN counter_max + 1 ELSE counter_max END AS modulus
    FROM newest
    WHERE place = 1 AND counter
),
readings AS (
    SELECT s.site, s.tag, s.ns, s.value
    FROM samples s
    JOIN counters c ON c.site = s.site AND c.tag = s.tag
    WHERE s.quality < 1073741824 AND s.value >= 0 AND (c.counter_max IS NULL OR s.value <= c.counter_max)
),
considered AS (
    SELECT r.site, r.tag, r.ns, r.value
    FROM readings r
    JOIN period p ON r.ns >= p.start
    UNION ALL
    SELECT r.site, r.tag, max(r.ns) AS ns, max_by(r.value, (r.ns, r.value)) AS value
    FROM readings r
    JOIN period p ON r.ns < p.start
    GROUP BY r.site, r.tag
),
steps AS (
    SELECT site, tag, ns, value,
           lag(value) OVER (PARTITION BY site, tag ORDER BY ns, value) AS previous,
           ns - lag(ns) OVER (PARTITION BY site, tag ORDER BY ns, value) AS elapsed
    FROM considered
),
fastest AS (
    SELECT site, tag, max((value - previous) / elapsed) AS rate
    FROM steps
    WHERE value >= previous AND elapsed > 0
    GROUP BY site, tag
),
judged AS (
    SELECT s.site, s.tag, s.ns, s.value, s.previous, c.unit,
           c.modulus - s.previous + s.value AS wrapped,
           CASE WHEN s.value < s.previous AND c.modulus IS NOT NULL
                 AND (c.modulus - s.previous + s.value) * 2 < c.modulus
                 AND ((c.modulus - s.previous + s.value) <= 4 * f.rate * s.elapsed
                      OR (c.modulus - s.previous + s.value) * 100 <= c.modulus)
                THEN 1 ELSE 0 END AS rollover
    FROM steps s
    JOIN counters c ON c.site = s.site AND c.tag = s.tag
    LEFT JOIN fastest f ON f.site = s.site AND f.tag = s.tag
)
SELECT j.site, j.tag, h.hour,
       max(j.unit) AS unit,
       sum(CASE WHEN j.value >= j.previous THEN j.value - j.previous
                WHEN j.rollover = 1 THEN j.wrapped
                ELSE CAST(0 AS DOUBLE) END) AS used,
       count(*) AS readings,
       sum(j.rollover) AS rollovers,
       count(CASE WHEN j.value < j.previous AND j.rollover = 0 THEN 1 END) AS resets
FROM judged j
JOIN hours h ON h.start = j.ns - j.ns % 3600000000000
GROUP BY j.site, j.tag, h.hour
