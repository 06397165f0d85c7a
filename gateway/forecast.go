package gateway

import (
	"context"
	"time"

	"millrace/gateway/forecast"
	"millrace/spool"
	"millrace/uploader"
)

// forecastEvery is how often the spool is looked at for the forecast.
const forecastEvery = 10 * time.Second

// forecastLoop follows the spool's filling and says when it is worth a line.
func (g *Gateway) forecastLoop(ctx context.Context) { g.follow(ctx, g.observation) }

// follow makes a forecast of what observe sees, every ten seconds.
func (g *Gateway) follow(ctx context.Context, observe func(time.Time) forecast.Observation) {
	var tracker forecast.Tracker
	var alarm forecast.Alarm
	tick := time.NewTicker(forecastEvery)
	defer tick.Stop()
	for {
		now := time.Now() // the monotonic clock: a step of the wall clock is none of the spool
		tracker.Observe(observe(now))
		f := tracker.Forecast()
		g.foretold.Store(&f)
		if level, line, ok := alarm.Next(f, now); ok {
			args := []any{"in_bytes_per_second", int64(f.In), "out_bytes_per_second", int64(f.Out)}
			switch level {
			case forecast.Info:
				g.log.Info(line, args...)
			case forecast.Warn:
				g.log.Warn(line, args...)
			case forecast.Error:
				g.log.Error(line, args...)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// observation is the spool as the sink sees it that is furthest behind.
func (g *Gateway) observation(now time.Time) forecast.Observation {
	st := g.spool.Stats()
	name, slowest := furthest(st)
	o := forecast.Observation{At: now, Stored: st.StoredDisk, Waiting: slowest.PendingDisk, Room: st.RoomBytes}
	if slowest.PendingBlocks == 0 {
		return o
	}
	o.Stalled = true // a sink that nobody delivers to takes nothing
	for _, s := range g.sinks {
		if s.name == name {
			o.Stalled = stalled(s.loop.Stats().State)
		}
	}
	return o
}

// furthest is the sink for which most waits.
func furthest(st spool.Stats) (name string, out spool.SinkStats) {
	for n, s := range st.Sinks {
		if name == "" || s.PendingDisk > out.PendingDisk || s.PendingDisk == out.PendingDisk && n < name {
			name, out = n, s
		}
	}
	return name, out
}

func stalled(s uploader.State) bool {
	return s == uploader.StateRetry || s == uploader.StateHeld || s == uploader.StateBlocked
}

// foresee returns the last forecast.
func (g *Gateway) foresee() forecast.Forecast {
	if f := g.foretold.Load(); f != nil {
		return *f
	}
	return forecast.Ahead(nil)
}
