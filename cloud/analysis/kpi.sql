-- kpi: a figure like OEE (overall equipment effectiveness) for each device and day (UTC).
--
-- One row for each device of which the day knows anything. All columns are 0 to 1:
--   availability  share of the known time in which the device delivered anything, Good or not: the rest are declared gaps
--   performance   how fast its counters ran, against the fastest hours of the four weeks up to and with this day; null where the
--                 device has no counter that ran
--   quality       share of the delivered time in which its tags were Good
--   oee           availability x performance x quality; null where performance is
--
-- Formula, with seconds summed over all tags of the device:
--   availability = (good + bad) / (good + bad + gap)
--   quality      = good / (good + bad)
--   performance  = mean over its counters of min(1, used in the day / (hours with readings x best)), where best is the 95th
--                  percentile of the counter's hours, so that a single wild hour does not set the bar
-- It is like OEE and is not OEE: a gateway knows neither planned stops nor scrap. ISO 22400-2 takes planned busy time, planned run
-- time per item and good quantity; here known time, the best hours shown and Good time stand in their places.
--
-- Quality and gaps count as in the result availability, of which this is made. Uncertain is not Good.
--
-- Source: ISO 22400-2:2014, KPIs "Availability", "Effectiveness", "Quality ratio" and "Overall equipment effectiveness index";
-- S. Nakajima, Introduction to TPM (1988).
-- Views: availability (the day), energy (the day and 27 before), hours, period.

WITH seen AS (
    SELECT a.site, split_part(a.tag, '/', 1) || '/' || split_part(a.tag, '/', 2) AS device,
           sum(a.good_seconds) AS good, sum(a.bad_seconds) AS bad, sum(a.gap_seconds) AS gap
    FROM availability a
    GROUP BY a.site, split_part(a.tag, '/', 1) || '/' || split_part(a.tag, '/', 2)
),
best AS (
    SELECT site, tag, percentile_cont(0.95) WITHIN GROUP (ORDER BY used) AS used
    FROM energy
    GROUP BY site, tag
),
ran AS (
    SELECT e.site, e.tag, sum(e.used) AS used, count(*) AS hours
    FROM energy e
    JOIN hours h ON h.hour = e.hour
    GROUP BY e.site, e.tag
),
pace AS (
    SELECT r.site, split_part(r.tag, '/', 1) || '/' || split_part(r.tag, '/', 2) AS device,
           avg(least(CAST(1 AS DOUBLE), r.used / (r.hours * b.used))) AS performance
    FROM ran r
    JOIN best b ON b.site = r.site AND b.tag = r.tag
    WHERE b.used > 0
    GROUP BY r.site, split_part(r.tag, '/', 1) || '/' || split_part(r.tag, '/', 2)
)
SELECT s.site, s.device, p.day,
       (s.good + s.bad) / (s.good + s.bad + s.gap) AS availability,
       w.performance,
       s.good / nullif(s.good + s.bad, 0) AS quality,
       (s.good + s.bad) / (s.good + s.bad + s.gap) * w.performance * (s.good / nullif(s.good + s.bad, 0)) AS oee
FROM seen s
CROSS JOIN period p
LEFT JOIN pace w ON w.site = s.site AND w.device = s.device
