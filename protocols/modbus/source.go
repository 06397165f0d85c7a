package modbus

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

const (
	// rejoinAfter is how long a request that was halved stays so before it is
	// tried whole again; it doubles up to rejoinMost.
	rejoinAfter = 10 * time.Minute
	rejoinMost  = 6 * time.Hour
	// longestWait bounds a wait for a tick, so that the watchdog hears of it.
	longestWait = 20 * time.Second
	// firstScanWithin bounds the wait for the first scan at long scan rates.
	firstScanWithin = 5 * time.Second
	// tickGrid is what the offset of the ticks is a multiple of. Waking an idle
	// processor costs more than a request, so sources wake it together: ten at
	// 100 Hz take a third of the time that they take when each wakes it alone.
	tickGrid = 50 * time.Millisecond
	// lateScans is how many scans in a row must be too slow to be reported.
	lateScans = 3
)

// source polls the tags of one SourceConfig.
type source struct {
	conn   *connection
	name   string
	log    *slog.Logger
	health protocols.Health
	rates  []*rate
	total  int // tags

	batch   []sample.Sample
	buf     [maxADU]byte
	texts   map[int]text // last value of string tags, by index
	rejoin  time.Duration
	refused bool // the last Emit was refused
	status  status
	away    bool // some tags fail since their device does not answer
}

// text remembers a string tag's bytes, so that only a change allocates.
type text struct {
	raw   string
	value sample.Value
}

// rate is everything that is read at one scan rate.
type rate struct {
	every   time.Duration
	offset  time.Duration // of the ticks inside the interval
	first   bool
	tick    time.Time // the tick that is due, or was handled last
	reads   []*read
	slow    bool // was reported
	skipped int  // ticks that passed during scans, since the last report
	late    int  // scans in a row during which ticks passed
	onTime  int  // scans in a row during which none did
}

// read is one planned request. Where the device refused it whole, it is done
// by its halves, which may have halves themselves.
type read struct {
	group
	halves []*read
	since  time.Time     // when it was halved
	rejoin time.Duration // how long it stays halved
	tried  bool          // err says something
	err    error         // how the last try ended
	said   bool          // err was logged
}

func newSource(c *connection, src *protocols.SourceConfig, points []point, h protocols.Health) *source {
	s := &source{conn: c, name: src.Name, log: c.log, health: h,
		total: len(points), texts: map[int]text{}, rejoin: rejoinAfter}
	for _, g := range plan(points, c.cfg.limits()) {
		n := len(s.rates)
		if n == 0 || s.rates[n-1].every != g.rate {
			s.rates = append(s.rates, &rate{every: g.rate, offset: spread(src.Name, g.rate), first: true})
			n++
		}
		s.rates[n-1].reads = append(s.rates[n-1].reads, &read{group: g})
	}
	return s
}

// spread returns where inside the interval the source's ticks lie: on one of
// the places of the tick grid. It depends on the name only, so that sources do
// not all ask at once and a restart changes nothing.
func spread(name string, every time.Duration) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(name)) // never fails
	return time.Duration(h.Sum64() % uint64(every)).Truncate(tickGrid)
}

// after returns the first tick later than now.
func (r *rate) after(now time.Time) time.Time {
	if r.first && r.every > firstScanWithin {
		return now.Add(r.offset % firstScanWithin)
	}
	past := (now.UnixNano() - int64(r.offset)) % int64(r.every)
	if past < 0 {
		past += int64(r.every)
	}
	next := now.Add(r.every - time.Duration(past))
	// A clock that is slewed back a little shows the last tick again.
	if d := next.Round(0).Sub(r.tick.Round(0)); d < r.every/2 && d > -r.every/2 {
		next = next.Add(r.every)
	}
	return next
}

// Run implements protocols.Source.
func (s *source) Run(ctx context.Context, emit protocols.Emit) error {
	if len(s.rates) == 0 {
		<-ctx.Done()
		return nil
	}
	now := s.conn.clock.Now()
	for _, r := range s.rates {
		r.tick = r.after(now)
		r.first = false
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due := s.rates[0]
		for _, r := range s.rates[1:] {
			if r.tick.Before(due.tick) {
				due = r
			}
		}
		s.health.Beat()
		// The gateway's clock is never stepped, so a tick made from it is on time.
		wait := due.tick.Sub(s.conn.clock.Now())
		timer.Reset(min(max(wait, 0), longestWait))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if wait > longestWait {
			continue
		}
		if err := s.scan(ctx, due, emit); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		s.advance(due)
	}
}

// advance sets the next tick of r. Ticks that have passed are not made up for.
func (s *source) advance(r *rate) {
	now := s.conn.clock.Now()
	late := now.Sub(r.tick)
	r.tick = r.after(now)
	missed := int(late / r.every)
	if missed <= 0 {
		r.late = 0
		if r.onTime++; r.slow && time.Duration(r.onTime)*r.every >= time.Minute {
			s.log.Info("scans keep up with the scan rate again", "scan_rate", r.every, "skipped_scans", r.skipped)
			r.slow, r.skipped = false, 0
		}
		return
	}
	r.onTime = 0
	r.late++
	r.skipped += missed
	if !r.slow && !s.away && r.late >= lateScans {
		r.slow = true
		s.log.Warn("a scan takes longer than the scan rate; scans are skipped: raise scan_rate, or lower connection.pause",
			"scan_rate", r.every, "scan", late.Round(time.Millisecond), "requests", len(r.reads))
	}
}

// scan reads everything that is due at r and emits a batch per request.
func (s *source) scan(ctx context.Context, r *rate, emit protocols.Emit) error {
	var sc scanned
	for _, rd := range r.reads {
		if err := s.readOne(ctx, rd, &sc, emit); err != nil || ctx.Err() != nil {
			return err
		}
	}
	s.report(&sc)
	return nil
}

// readOne reads rd, by its halves where it has them. It returns only errors
// that end the source.
func (s *source) readOne(ctx context.Context, rd *read, sc *scanned, emit protocols.Emit) error {
	if rd.halves != nil {
		if time.Since(rd.since) < rd.rejoin || sc.away[rd.slave] != nil {
			return s.readHalves(ctx, rd, sc, emit)
		}
	}
	var (
		data []byte
		now  time.Time
		err  = sc.away[rd.slave]
	)
	if err == nil {
		data, now, err = s.conn.link.read(ctx, rd.slave, rd.table, rd.start, rd.count, s.buf[:])
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil
		}
		s.health.Beat()
	} else {
		now = s.conn.clock.Now()
	}
	sc.answered[rd.slave] = sc.answered[rd.slave] || err == nil || !isAway(err)
	switch {
	case err == nil:
		if rd.halves != nil {
			s.log.Info("the device takes a joined read again", "read", rd.String())
			rd.halves, rd.rejoin = nil, 0
		}
	case isAway(err):
		sc.away[rd.slave] = err
	case splits(err) && len(rd.points) > 1:
		s.halve(rd, err)
		return s.readHalves(ctx, rd, sc, emit)
	}
	if rd.halves != nil {
		// Away while it was to be tried whole: the halves keep their places.
		return s.readHalves(ctx, rd, sc, emit)
	}
	s.note(rd, err)
	return s.emit(ctx, rd, data, now, emit)
}

func (s *source) readHalves(ctx context.Context, rd *read, sc *scanned, emit protocols.Emit) error {
	for _, half := range rd.halves {
		if err := s.readOne(ctx, half, sc, emit); err != nil || ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// halve remembers that the device refuses rd whole.
func (s *source) halve(rd *read, err error) {
	rd.since = time.Now()
	rd.rejoin = min(max(2*rd.rejoin, s.rejoin), rejoinMost)
	if rd.halves == nil {
		left, right := halve(&rd.group)
		rd.halves = []*read{{group: left}, {group: right}}
		s.log.Info("the device refuses a joined read; it is done in halves", "read", rd.String(), "tags", len(rd.points), "error", err)
	}
	rd.tried, rd.err = false, nil
}

// emit hands over one batch with every tag of rd: values, or Bad where rd
// failed.
func (s *source) emit(ctx context.Context, rd *read, data []byte, now time.Time, emit protocols.Emit) error {
	at := now.UnixNano()
	s.batch = s.batch[:0]
	if rd.err != nil {
		q := qualityOf(rd.err)
		for i := range rd.points {
			s.batch = append(s.batch, sample.Sample{Tag: rd.points[i].tag, Quality: q, Time: at})
		}
	} else {
		for i := range rd.points {
			p := &rd.points[i]
			v, q := s.value(&rd.group, p, data)
			s.batch = append(s.batch, sample.Sample{Tag: p.tag, Value: v, Quality: q, Time: at})
		}
	}
	err := emit(ctx, s.batch, nil)
	var refused *protocols.RefusedError
	switch {
	case err == nil:
		s.refused = false
	case ctx.Err() != nil:
		// The gateway stops; Run ends with its context.
	case errors.As(err, &refused):
		if !s.refused {
			s.refused = true
			s.log.Warn("the gateway does not take this source's samples", "error", err)
		}
	default:
		return fmt.Errorf("hand over samples of source %s: %w", s.name, err)
	}
	return nil
}

// value decodes one point of a reply.
func (s *source) value(g *group, p *point, data []byte) (sample.Value, sample.Quality) {
	switch {
	case p.table.isBits():
		return sample.BoolValue(g.bitOf(p, data)), sample.Good
	case p.bit != noBit:
		return decodeBit(g.bytesOf(p, data), p.bit, p.order), sample.Good
	case p.typ != typeString:
		return decode(g.bytesOf(p, data), p.typ, p.order)
	}
	raw := g.bytesOf(p, data)
	if last, ok := s.texts[p.index]; ok && last.raw == string(raw) {
		return last.value, sample.Good
	}
	v, q := decode(raw, p.typ, p.order)
	s.texts[p.index] = text{raw: string(raw), value: v}
	return v, q
}
