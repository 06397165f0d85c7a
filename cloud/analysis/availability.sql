-- availability: for how long each tag was Good, not Good, or lost in a declared gap, in each hour (UTC).
--
-- One row for each tag and hour of which anything is known. Columns:
--   good_seconds   time in which the tag's last sample was Good
--   bad_seconds    time in which it was Uncertain or Bad
--   gap_seconds    time that a gap record declares lost; gaps that overlap count once
--   availability   good_seconds / (good_seconds + bad_seconds + gap_seconds), 0 to 1
-- The seconds add up to less than 3600 where nothing is known of the rest.
--
-- Formula: a sample's quality holds from its time to the tag's next sample, and without one until the last sample of any kind
-- (heartbeats too) that its gateway delivered, for 24 hours at most; until midnight where the gateway has delivered anything of the
-- next day. A gateway declares every loss, so silence between two samples means that nothing changed. What a gap record covers is gap and neither good nor bad.
-- Two samples of one instant: the worse one holds.
--
-- Gaps: a record concerns the tag that it names; else the tags of its stream; else those of its source or sources; else all of
-- its gateway. One that began more than 35 days before the day is not seen. A record that names sinks is of a loss that
-- only these have had (a folder beside the queue, say); which of them leads here is not known. It counts where no sample of its
-- stream, of the day or the one before, lies between its first and its last sample; one that names no stream counts.
-- Quality: Uncertain counts as bad, which is OPC UA's default (TreatUncertainAsBad).
--
-- Source: OPC 10000-13 (Aggregates), DurationGood, DurationBad and PercentGood, on stepped data (Stepped = true).
-- Views: samples (the day and the one before), gaps, catalogue, next_day, hours, period.

WITH carried AS (
    SELECT site, gateway, tag, stream, max(ns) AS newest
    FROM samples
    GROUP BY site, gateway, tag, stream
),
delivered AS (
    SELECT site, gateway, newest
    FROM carried
    UNION ALL
    SELECT n.site, n.gateway, p.finish AS newest
    FROM next_day n
    CROSS JOIN period p
),
delivering AS (
    SELECT site, gateway, max(newest) AS newest
    FROM delivered
    GROUP BY site, gateway
),
horizon AS (
    SELECT c.site, c.tag, max(d.newest) AS ns
    FROM carried c
    JOIN delivering d ON d.site = c.site AND d.gateway = c.gateway
    GROUP BY c.site, c.tag
),
states AS (
    SELECT site, tag, ns, CASE WHEN quality < 1073741824 THEN 1 ELSE 0 END AS good
    FROM samples
    WHERE tag NOT LIKE '%/$%'
),
considered AS (
    SELECT s.site, s.tag, s.ns, s.good
    FROM states s
    JOIN period p ON s.ns >= p.start
    UNION ALL
    SELECT s.site, s.tag, max(s.ns) AS ns, max_by(s.good, (s.ns, 1 - s.good)) AS good
    FROM states s
    JOIN period p ON s.ns < p.start
    GROUP BY s.site, s.tag
),
ordered AS (
    SELECT site, tag, ns, good,
           lag(ns) OVER (PARTITION BY site, tag ORDER BY ns, good DESC) AS before,
           lag(good) OVER (PARTITION BY site, tag ORDER BY ns, good DESC) AS was
    FROM considered
),
-- A run is of samples of one state that follow each other within 24 hours.
begins AS (
    SELECT site, tag, ns, good, before
    FROM ordered
    WHERE was IS NULL OR was <> good OR ns - before > 86400000000000
),
latest AS (
    SELECT site, tag, max(ns) AS ns
    FROM considered
    GROUP BY site, tag
),
bounded AS (
    SELECT b.site, b.tag, b.good, b.ns AS start,
           lead(b.ns) OVER (PARTITION BY b.site, b.tag ORDER BY b.ns, b.good DESC) AS following,
           coalesce(lead(b.before) OVER (PARTITION BY b.site, b.tag ORDER BY b.ns, b.good DESC), l.ns) AS newest,
           h.ns AS horizon
    FROM begins b
    JOIN latest l ON l.site = b.site AND l.tag = b.tag
    JOIN horizon h ON h.site = b.site AND h.tag = b.tag
),
runs AS (
    SELECT site, tag, good, start, least(coalesce(following, horizon), newest + 86400000000000) AS finish
    FROM bounded
),
pieces AS (
    SELECT r.site, r.tag, r.good, h.hour,
           greatest(r.start, h.start) AS start, least(r.finish, h.finish) AS finish
    FROM runs r
    JOIN hours h ON r.start < h.finish AND r.finish > h.start
),
carriers AS (
    SELECT site, gateway, tag, stream, source
    FROM catalogue
    UNION
    SELECT site, gateway, tag, stream, CAST(NULL AS STRING) AS source
    FROM carried
    WHERE tag NOT LIKE '%/$%'
),
partial AS (
    SELECT DISTINCT site, gateway, stream, from_ns, to_ns
    FROM gaps
    WHERE sinks IS NOT NULL AND stream IS NOT NULL
),
marks AS (
    SELECT site, gateway, stream, from_ns AS ns, to_ns, CAST(NULL AS BIGINT) AS sampled, 1 AS loss
    FROM partial
    UNION ALL
    SELECT DISTINCT s.site, s.gateway, s.stream, s.ns, CAST(NULL AS BIGINT) AS to_ns, s.ns AS sampled, 0 AS loss
    FROM samples s
    JOIN (SELECT DISTINCT site, gateway, stream FROM partial) p
        ON p.site = s.site AND p.gateway = s.gateway AND p.stream = s.stream
),
-- Time runs backwards here: Spark's window to the end is slow.
nearest AS (
    SELECT site, gateway, stream, ns AS from_ns, to_ns, loss,
           min(sampled) OVER (PARTITION BY site, gateway, stream ORDER BY ns DESC, loss DESC
                              ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS later
    FROM marks
),
delivered_here AS (
    SELECT site, gateway, stream, from_ns, to_ns
    FROM nearest
    WHERE loss = 1 AND later < to_ns
),
concerned AS (
    SELECT DISTINCT c.site, c.tag,
           greatest(g.from_ns, p.start) AS start, least(g.to_ns, p.finish) AS finish
    FROM gaps g
    JOIN period p ON g.from_ns < p.finish AND g.to_ns > p.start
    JOIN carriers c ON c.site = g.site AND c.gateway = g.gateway
    LEFT JOIN delivered_here d
        ON g.sinks IS NOT NULL AND d.site = g.site AND d.gateway = g.gateway AND d.stream = g.stream AND d.from_ns = g.from_ns AND d.to_ns = g.to_ns
    WHERE d.site IS NULL
      AND CASE WHEN g.tag IS NOT NULL THEN g.tag = c.tag
               WHEN g.stream IS NOT NULL THEN g.stream = c.stream
               WHEN g.sources IS NOT NULL THEN instr(',' || g.sources || ',', ',' || c.source || ',') > 0
               WHEN g.source <> '' THEN g.source = c.source
               ELSE c.tag IS NOT NULL END
),
reached AS (
    SELECT site, tag, start, finish,
           max(finish) OVER (PARTITION BY site, tag ORDER BY start, finish
                             ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered
    FROM concerned
),
numbered AS (
    SELECT site, tag, start, finish,
           sum(CASE WHEN covered >= start THEN 0 ELSE 1 END)
               OVER (PARTITION BY site, tag ORDER BY start, finish
                     ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS island
    FROM reached
),
lost AS (
    SELECT site, tag, min(start) AS start, max(finish) AS finish
    FROM numbered
    GROUP BY site, tag, island
),
parts AS (
    SELECT site, tag, hour, (finish - start) * good AS good, (finish - start) * (1 - good) AS bad, CAST(0 AS BIGINT) AS gap
    FROM pieces
    UNION ALL
    SELECT p.site, p.tag, p.hour,
           (least(p.finish, l.finish) - greatest(p.start, l.start)) * -p.good AS good,
           (least(p.finish, l.finish) - greatest(p.start, l.start)) * (p.good - 1) AS bad,
           CAST(0 AS BIGINT) AS gap
    FROM pieces p
    JOIN lost l ON l.site = p.site AND l.tag = p.tag AND l.start < p.finish AND l.finish > p.start
    UNION ALL
    SELECT l.site, l.tag, h.hour, CAST(0 AS BIGINT) AS good, CAST(0 AS BIGINT) AS bad,
           least(l.finish, h.finish) - greatest(l.start, h.start) AS gap
    FROM lost l
    JOIN hours h ON l.start < h.finish AND l.finish > h.start
),
totals AS (
    SELECT site, tag, hour,
           CAST(sum(good) AS DOUBLE) AS good, CAST(sum(bad) AS DOUBLE) AS bad, CAST(sum(gap) AS DOUBLE) AS gap
    FROM parts
    GROUP BY site, tag, hour
)
SELECT site, tag, hour,
       good / 1e9 AS good_seconds,
       bad / 1e9 AS bad_seconds,
       gap / 1e9 AS gap_seconds,
       good / (good + bad + gap) AS availability
FROM totals
WHERE good + bad + gap > 0
