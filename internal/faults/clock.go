package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"time"

	"millrace/gateway/batch"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/spool"
)

func clockRow() Row {
	return Row{
		Name: "clock", What: "wall clock stepped by up to ten years, backwards, before NTP, across crashes and boots: nothing is lost or reordered, times are right",
		Short: 25, Medium: 500, Full: 10_000,
		Run: func(ctx context.Context, t *Trial) (int, error) { return runClock(ctx, t, clockSound) },
	}
}

const (
	clockDecade = 10 * 365 * 24 * time.Hour
	// clockSlack is how far a reading of the monotonic clock that is got back
	// from a sample may be off: see ledger.Correction.
	clockSlack = 2 * time.Millisecond
	clockTags  = 3
)

// clockBroken is what a test breaks, to see that the row notices.
type clockBroken int

const (
	clockSound  clockBroken = iota
	clockByWall             // sources stamp samples by the wall clock
	clockDeaf               // the reader knows no correction records
)

// runClock is one gateway's life of some fifty events: samples, steps of the
// wall clock, synchronisations gained and lost, waits, crashes, stops, boots.
// Its clocks are injected; its spool and its batches are the real ones.
func runClock(ctx context.Context, t *Trial, broken clockBroken) (int, error) {
	w, err := newClockWorld(t)
	if err != nil {
		return 1, err
	}
	w.broken = broken
	if err := w.start(ctx); err != nil {
		return 1, err
	}
	for range 30 + t.Rand.IntN(40) {
		if err := w.event(ctx); err != nil {
			return 1, errors.Join(err, w.stop())
		}
	}
	if err := w.end(ctx); err != nil {
		return 1, err
	}
	return 1, w.check()
}

// clockWorld is a gateway on a machine whose clocks the trial turns.
type clockWorld struct {
	t      *Trial
	rnd    *rand.Rand
	clock  *clock.Fake
	mode   batch.ClockMode
	ledger *Ledger
	// elapsed is the time since the trial began, which no clock of the machine
	// shows; the right wall clock is begin plus it.
	elapsed time.Duration
	begin   time.Time
	synced  map[[16]byte]bool
	taken   map[uint64]*clockTaken
	seq     uint64
	log     bytes.Buffer
	broken  clockBroken

	spool *cutStore
	times *clock.Timeline
	port  *batch.Port
	halt  context.CancelFunc
	ran   chan error
}

// clockTaken is what the trial knows of a sample.
type clockTaken struct {
	boot  [16]byte
	mono  time.Duration
	right time.Time
}

// cutStore is a spool that a crash cuts off its gateway: before a transaction or
// after it.
type cutStore struct {
	*spool.Spool
	cut atomic.Int32
}

const (
	cutBefore = 1
	cutAfter  = 2
)

var errCut = errors.New("the gateway has crashed")

// Commit implements batch.Store.
func (s *cutStore) Commit(c *spool.Commit) error {
	cut := s.cut.Load()
	if cut == cutBefore {
		return errCut
	}
	if err := s.Spool.Commit(c); err != nil {
		return err
	}
	if cut == cutAfter {
		s.cut.Store(cutBefore)
		return errCut
	}
	return nil
}

func newClockWorld(t *Trial) (*clockWorld, error) {
	l, err := NewLedger("cloud")
	if err != nil {
		return nil, err
	}
	l.Doubtful = true
	w := &clockWorld{
		t: t, rnd: t.Rand, ledger: l, begin: time.Date(2026, 5, 4, 23, 50, 0, 0, time.UTC),
		synced: map[[16]byte]bool{}, taken: map[uint64]*clockTaken{},
		mode: []batch.ClockMode{batch.ClockRequire, batch.ClockRequire, batch.ClockRequire, batch.ClockAuto, batch.ClockIgnore}[t.Rand.IntN(5)],
	}
	first := w.begin
	if t.Rand.IntN(2) == 0 {
		first = time.Unix(t.Rand.Int64N(1e6), 0)
	}
	w.clock = clock.NewFake(first)
	w.clock.SetSync(clock.Unsynchronised)
	if first.Equal(w.begin) && t.Rand.IntN(2) == 0 {
		w.clock.SetSync(clock.Synchronised)
	}
	return w, nil
}

func (w *clockWorld) advance(d time.Duration) {
	w.clock.Advance(d)
	w.elapsed += d
}

func (w *clockWorld) start(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(&w.log, nil))
	sp, st, err := spool.Open(ctx, spool.Options{
		Dir: filepath.Join(w.t.Dir, "spool"), MaxBytes: 64 << 20, SegmentBytes: spool.MinSegmentBytes,
		Sinks: []string{"cloud"}, Log: log, Clock: clock.System{},
	})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	w.spool = &cutStore{Spool: sp}
	w.times = clock.NewTimeline(w.clock)
	b, err := batch.New(batch.Options{
		Site: "plant", Gateway: "gw1", CommitInterval: time.Hour, Log: log, Clock: w.clock, Timeline: w.times,
		ClockMode: w.mode, Health: noHealth{}, MaxOpenBytes: 256 << 10, MaxCommitBytes: 32 << 10,
	}, w.spool, st)
	if err != nil {
		return errors.Join(fmt.Errorf("batches: %w", err), sp.Close())
	}
	w.port, err = b.Open(batch.SourceInfo{
		Name: "in", MaxTags: 100, Beat: func() {}, Class: batch.Class{ScanRate: time.Second, MaxAge: time.Minute, MaxBytes: 180 << 10},
	})
	if err != nil {
		return errors.Join(err, sp.Close())
	}
	run, halt := context.WithCancel(context.WithoutCancel(ctx))
	w.halt, w.ran = halt, make(chan error, 1)
	go func() { w.ran <- b.Run(run) }()
	w.known()
	return nil
}

// stop ends the gateway in good order; one that has crashed, just so.
func (w *clockWorld) stop() error {
	w.halt()
	err := <-w.ran
	if errors.Is(err, errCut) {
		err = nil
	}
	return errors.Join(err, w.spool.Close())
}

// take emits some samples and waits until they are durable, or the crash comes.
func (w *clockWorld) take(ctx context.Context) error {
	batch := make([]sample.Sample, 1+w.rnd.IntN(6))
	for i := range batch {
		w.advance(time.Duration(w.rnd.Int64N(int64(2 * time.Second))))
		w.seq++
		v := sample.FloatValue(float64(w.rnd.IntN(1e6)) / 8)
		if w.rnd.IntN(8) == 0 {
			v = sample.StringValue(noise(w.rnd, 1+w.rnd.IntN(8000)))
		}
		batch[i] = sample.Sample{
			Tag: fmt.Sprintf("plant/in/t%d", w.rnd.IntN(clockTags)), Value: v, Producer: "p", Seq: w.seq,
			Quality: []sample.Quality{sample.Good, sample.Good, sample.BadTimeout, sample.UncertainEngineeringUnits}[w.rnd.IntN(4)],
			Time:    w.times.Now().UnixNano(),
		}
		if w.broken == clockByWall {
			batch[i].Time = w.clock.Now().UnixNano()
		}
		w.taken[w.seq] = &clockTaken{boot: w.clock.Boot(), mono: w.clock.SinceBoot(), right: w.begin.Add(w.elapsed)}
		w.ledger.Issue(&batch[i])
	}
	done := make(chan error, 1)
	if err := w.port.Emit(ctx, batch, func(err error) { done <- err }); err != nil {
		return fmt.Errorf("emit: %w", err)
	}
	select {
	case err := <-done:
		if err != nil {
			if w.spool.cut.Load() != 0 {
				return nil
			}
			return fmt.Errorf("not stored: %w", err)
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for i := range batch {
		w.ledger.Ack(&batch[i])
	}
	w.known()
	return nil
}

// known notes that a commit has seen the clock synchronised, so that the gateway
// knows the time in this boot from here on.
func (w *clockWorld) known() {
	if w.clock.Sync() == clock.Synchronised {
		w.synced[w.clock.Boot()] = true
	}
}

// event does one thing to the gateway or to its machine.
func (w *clockWorld) event(ctx context.Context) error {
	switch n := w.rnd.IntN(100); {
	case n < 55:
		return w.take(ctx)
	case n < 65:
		w.advance(time.Duration(w.rnd.Int64N(int64(5 * time.Minute))))
	case n < 78: // somebody, or a broken battery, sets the wall clock
		step := time.Duration(w.rnd.Int64N(int64(2*clockDecade))) - clockDecade
		w.t.Logf("%s: step of %s", w.elapsed, step)
		w.clock.SetSync(clock.Unsynchronised)
		w.clock.Step(step)
		if w.rnd.IntN(8) == 0 {
			w.clock.Set([]time.Time{time.Unix(-1e9, 0), time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC)}[w.rnd.IntN(2)])
		}
	case n < 86: // the time server answers
		w.t.Logf("%s: synchronised", w.elapsed)
		w.clock.Set(w.begin.Add(w.elapsed))
		w.clock.SetSync(clock.Synchronised)
		return w.take(ctx)
	case n < 90: // and is away
		w.clock.SetSync(clock.Unsynchronised)
	case n < 93:
		if err := w.stop(); err != nil {
			return err
		}
		return w.start(ctx)
	default:
		return w.crash(ctx, n >= 97)
	}
	return nil
}

// crash cuts the gateway off its spool within a commit, and starts it again, on
// a machine that was started again where boot is set.
func (w *clockWorld) crash(ctx context.Context, boot bool) error {
	w.t.Logf("%s: crash, boot %v", w.elapsed, boot)
	w.spool.cut.Store([]int32{cutBefore, cutAfter}[w.rnd.IntN(2)])
	if err := w.take(ctx); err != nil {
		return err
	}
	if err := w.stop(); err != nil {
		return err
	}
	if boot {
		w.clock.Reboot()
		w.clock.SetSync(clock.Unsynchronised)
		w.advance(time.Duration(w.rnd.Int64N(int64(time.Minute))))
	}
	return w.start(ctx)
}

// end brings the fault to its end: the clock is synchronised, or never will be
// and the ten minutes pass; a fresh sample flows, and the gateway stops.
func (w *clockWorld) end(ctx context.Context) error {
	if w.rnd.IntN(3) > 0 {
		w.clock.Set(w.begin.Add(w.elapsed))
		w.clock.SetSync(clock.Synchronised)
	} else {
		w.advance(11 * time.Minute)
	}
	if err := w.take(ctx); err != nil {
		return errors.Join(err, w.stop())
	}
	if err := w.stop(); err != nil {
		return err
	}
	sp, _, err := spool.Open(ctx, spool.Options{
		Dir: filepath.Join(w.t.Dir, "spool"), MaxBytes: 64 << 20, SegmentBytes: spool.MinSegmentBytes,
		Sinks: []string{"cloud"}, Log: slog.New(slog.DiscardHandler), Clock: clock.System{},
	})
	if err != nil {
		return fmt.Errorf("open what is left: %w", err)
	}
	w.spool = &cutStore{Spool: sp}
	return nil
}

// check holds all blocks against what the trial knows.
func (w *clockWorld) check() (err error) {
	defer func() { err = errors.Join(err, w.spool.Close()) }()
	dec, err := block.NewDecoder()
	if err != nil {
		return err
	}
	var arrived []clockArrival
	var records []*ledger.Correction
	for after := uint64(0); ; {
		blocks, err := w.spool.Read("cloud", after, 64, 8<<20)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if len(blocks) == 0 {
			break
		}
		for _, raw := range blocks {
			after = raw.Number
			w.ledger.Arrive("cloud", raw.Data)
			b, err := dec.Decode(raw.Data)
			if err != nil {
				return err
			}
			for v := range b.All() {
				switch {
				case v.Tag == ledger.ClockTag("plant", "gw1") && w.broken == clockDeaf:
				case v.Tag == ledger.ClockTag("plant", "gw1"):
					c, err := ledger.ParseCorrection(&v)
					if err != nil {
						return err
					}
					records = append(records, c)
				case !system(v.Tag):
					arrived = append(arrived, clockArrival{b.Header, v})
				}
			}
		}
	}
	if err := w.ledger.Check(NoLoss); err != nil {
		return err
	}
	last := map[string]uint64{}
	for i := range arrived {
		a := &arrived[i]
		// The order of a tag is that of its blocks, and within one of its rows.
		if a.v.Seq <= last[a.v.Tag] {
			return fmt.Errorf("%s: sample %d came after %d", a.v.Tag, a.v.Seq, last[a.v.Tag])
		}
		last[a.v.Tag] = a.v.Seq
		if err := w.checkTime(a, records); err != nil {
			return err
		}
	}
	return nil
}

type clockArrival struct {
	h block.Header
	v sample.Sample
}

// checkTime sees that a sample carries its reading of the monotonic clock and
// its boot, and that its time is right, corrected or marked.
func (w *clockWorld) checkTime(a *clockArrival, records []*ledger.Correction) error {
	is := w.taken[a.v.Seq]
	if a.h.Boot != is.boot {
		return fmt.Errorf("sample %d says another boot than the one it was taken in", a.v.Seq)
	}
	if m := time.Duration(a.v.Time - a.h.Mono); (m - is.mono).Abs() > clockSlack {
		return fmt.Errorf("sample %d was taken at %s of the monotonic clock and says %s", a.v.Seq, is.mono, m)
	}
	if first, end := a.h.First/int64(24*time.Hour), a.h.Last/int64(24*time.Hour); first != end {
		return fmt.Errorf("block %s is of two days", a.h.Identity())
	}
	if w.mode == batch.ClockIgnore {
		return nil // its times are the wall clock's, whatever that says
	}
	right := a.v.Time
	var id uint64
	for _, c := range records {
		if at, ok := c.Correct(a.h.Boot, a.h.Mono, a.v.Time); ok && c.ID > id {
			right, id = at, c.ID
		}
	}
	off := time.Duration(right - is.right.UnixNano())
	doubted := !a.v.Quality.IsGood() || w.mode == batch.ClockAuto
	if off.Abs() <= 10*time.Millisecond || a.h.Clock == block.ClockFree && doubted && !w.synced[is.boot] {
		return nil
	}
	return fmt.Errorf("sample %d (%s, clock %s, corrected %v) is %s off; the log: %s", a.v.Seq, a.v.Quality, a.h.Clock, id > 0, off, w.log.String())
}
