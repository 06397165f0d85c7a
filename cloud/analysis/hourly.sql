-- hourly: what each tag did in each hour (UTC).
--
-- One row for each tag and hour with at least one sample. Columns, in the tag's own unit where it is no count:
--   samples              all samples of the hour, as the archive holds them
--   good, uncertain, bad how many of these have that quality (severity of the OPC UA status code)
--   minimum, maximum     of the Good numbers
--   mean                 arithmetic mean of the Good numbers, each counted once. Where a deadband thins samples out,
--                        quiet times weigh less than they last
--   first, last          the earliest and the latest Good number
--   standard_deviation   of the Good numbers as a sample, with n - 1; null where there are fewer than two
--
-- Quality: Uncertain and Bad samples are counted and give no number. A tag that has only text, or had no Good number in the
-- hour, has counts and nulls. true counts as 1 and false as 0. A number beyond 1e100 is none.
-- Gaps: a gap record changes nothing here; availability tells how much of the hour was seen.
-- Duplicates: the archive has taken out those with an identity; two samples without one are two.
-- The gateway's own records ($gap, $heartbeat, $clock, $catalogue) are left out.
--
-- Source: OPC 10000-13 (Aggregates), Count, Minimum, Maximum, Average, Start, End, StandardDeviationSample, on raw values, with
-- the default TreatUncertainAsBad = true.
-- Views: samples (the day), hours (the day's 24).

WITH numbers AS (
    SELECT site, tag, ns, quality,
           ns - ns % 3600000000000 AS start,
           CASE WHEN quality < 1073741824 THEN value END AS number
    FROM samples
    WHERE tag NOT LIKE '%/$%'
)
SELECT n.site, n.tag, h.hour,
       count(*) AS samples,
       count(CASE WHEN n.quality < 1073741824 THEN 1 END) AS good,
       count(CASE WHEN n.quality >= 1073741824 AND n.quality < 2147483648 THEN 1 END) AS uncertain,
       count(CASE WHEN n.quality >= 2147483648 THEN 1 END) AS bad,
       min(n.number) AS minimum,
       max(n.number) AS maximum,
       avg(n.number) AS mean,
       min_by(n.number, (n.ns, n.number)) FILTER (WHERE n.number IS NOT NULL) AS first,
       max_by(n.number, (n.ns, n.number)) FILTER (WHERE n.number IS NOT NULL) AS last,
       stddev_samp(n.number) AS standard_deviation
FROM numbers n
JOIN hours h ON h.start = n.start
GROUP BY n.site, n.tag, h.hour
