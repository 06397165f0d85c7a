-- anomaly: how unusual each tag's hour (UTC) was, against its four weeks before the day.
--
-- One row for each tag and hour with a value. Columns, in the tag's own unit but the score:
--   value     the hour's mean of the Good numbers; for a counter what it counted in the hour
--   expected  median of the values to compare with
--   spread    how far these lie from it, as a standard deviation: 1.4826 x MAD, the median of |x - expected|; where more
--             than half are equal, so that this is 0, 1.2533 x the mean of |x - expected|
--   score     (value - expected) / spread, from -100 to 100. Beyond 3.5 either way is worth a look
--
-- What is compared with: the same hour of the day in the 28 days before, where there are at least 7 such values; else all hours
-- of these days, where there are at least 24; else nothing, and expected, spread and score are null. The day itself is not
-- among them, so that a fault does not hide itself.
-- Where spread is 0 the score is 0 for a value as expected, and 100 or -100 for any other. What differs by less than 1e-9 of itself
-- is equal: that is rounding.
--
-- Quality: only Good numbers make a value, as in hourly and energy. Gaps: an hour without Good numbers has no row.
--
-- Source: B. Iglewicz and D. Hoaglin, How to Detect and Handle Outliers (ASQC, 1993), modified z-score with 3.5 as its bound; also
-- NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.17. 1.4826 is 1/0.6745, and 1.2533 the root of pi/2: both make the spread of a
-- normal distribution its standard deviation.
-- Views: hourly and energy (the day and 28 before), catalogue, period.

WITH counters AS (
    SELECT DISTINCT site, tag
    FROM catalogue
    WHERE counter
),
points AS (
    SELECT m.site, m.tag, m.hour, extract(HOUR FROM m.hour) AS clock, m.mean AS value
    FROM hourly m
    LEFT JOIN counters c ON c.site = m.site AND c.tag = m.tag
    WHERE c.tag IS NULL AND m.mean IS NOT NULL
    UNION ALL
    SELECT e.site, e.tag, e.hour, extract(HOUR FROM e.hour) AS clock, e.used AS value
    FROM energy e
),
earlier AS (
    SELECT x.site, x.tag, x.clock, x.value
    FROM points x
    JOIN period p ON x.hour < p.day
),
alike AS (
    SELECT site, tag, clock, count(*) AS points, median(value) AS middle
    FROM earlier
    GROUP BY site, tag, clock
),
whole AS (
    SELECT site, tag, count(*) AS points, median(value) AS middle
    FROM earlier
    GROUP BY site, tag
),
alike_spread AS (
    SELECT e.site, e.tag, e.clock, median(abs(e.value - a.middle)) AS mad, avg(abs(e.value - a.middle)) AS mean
    FROM earlier e
    JOIN alike a ON a.site = e.site AND a.tag = e.tag AND a.clock = e.clock
    GROUP BY e.site, e.tag, e.clock
),
whole_spread AS (
    SELECT e.site, e.tag, median(abs(e.value - w.middle)) AS mad, avg(abs(e.value - w.middle)) AS mean
    FROM earlier e
    JOIN whole w ON w.site = e.site AND w.tag = e.tag
    GROUP BY e.site, e.tag
),
compared AS (
    SELECT x.site, x.tag, x.hour, x.value,
           CASE WHEN a.points >= 7 THEN a.middle WHEN w.points >= 24 THEN w.middle END AS expected,
           CASE WHEN a.points >= 7 THEN s.mad WHEN w.points >= 24 THEN t.mad END AS mad,
           CASE WHEN a.points >= 7 THEN s.mean WHEN w.points >= 24 THEN t.mean END AS mean
    FROM points x
    JOIN period p ON x.hour >= p.day
    LEFT JOIN alike a ON a.site = x.site AND a.tag = x.tag AND a.clock = x.clock
    LEFT JOIN alike_spread s ON s.site = x.site AND s.tag = x.tag AND s.clock = x.clock
    LEFT JOIN whole w ON w.site = x.site AND w.tag = x.tag
    LEFT JOIN whole_spread t ON t.site = x.site AND t.tag = x.tag
),
spreads AS (
    SELECT site, tag, hour, value, expected,
           CASE WHEN mad > abs(expected) * 1e-9 THEN mad * 1.4826e0
                WHEN mean > abs(expected) * 1e-9 THEN mean * 1.2533e0
                WHEN expected IS NOT NULL THEN 0e0 END AS spread
    FROM compared
)
SELECT site, tag, hour, value, expected, spread,
       CASE WHEN spread IS NULL THEN NULL
            WHEN abs(value - expected) <= greatest(abs(value), abs(expected)) * 1e-9 THEN 0e0
            WHEN spread = 0 AND value > expected THEN 100e0
            WHEN spread = 0 THEN -100e0
            ELSE greatest(-100e0, least(100e0, (value - expected) / spread)) END AS score
FROM spreads
