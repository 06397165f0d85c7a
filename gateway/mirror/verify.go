package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"millrace/internal/backoff"
	"millrace/protocols"
	"millrace/sample"
)

const (
	firstPause = 10 * time.Millisecond  // between the first two readings back
	longPause  = 250 * time.Millisecond // between the later ones
	// recoverWithin bounds the wait for a device that is away after a restart.
	recoverWithin = time.Minute
)

// verify reads back what was written, or may have been, and settles it. wrote is
// when the device was through with it.
func (t *target) verify(ctx context.Context, o *intent, e *entry, writeErr error, wrote moment) {
	seen, err := t.readBack(context.WithoutCancel(ctx), o, t.cfg.VerifyWithin)
	t.m.step(StepVerified)
	e.change.Attempt = &wrote
	if err == nil {
		if writeErr != nil {
			e.detail = "the write had no clear answer, and it stands there"
		}
		t.settle(ctx, t.written(o, e, wrote)...)
		return
	}
	e.detail = notSeen(o, seen, errors.Join(writeErr, err))
	e.outcome = Unverified
	t.settle(ctx, e)
	t.alarm(o, e.detail)
}

func notSeen(o *intent, seen *sample.Value, err error) string {
	if seen != nil {
		return fmt.Sprintf("written %s, which the device holds as %s, and it reads %s", o.Value, o.Prepared, seen)
	}
	return fmt.Sprintf("written %s, and it could not be read back: %s", o.Value, oneLine(err))
}

// alarm shows that nobody knows what stands at the target.
func (t *target) alarm(o *intent, detail string) {
	t.health.mirrorDown(fmt.Errorf("version %d is unverified: %s; look at the device, and at who else writes there", o.Version, detail))
}

// written makes the records of a value that was written and read back.
func (t *target) written(o *intent, e *entry, wrote moment) []*entry {
	e.outcome = Written
	e.change.Last = &applied{
		Version: o.Version, Value: o.Value, Prepared: o.Prepared, Quality: o.Quality, Computed: o.Computed, Until: o.Until, At: wrote.At,
	}
	t.tries, t.fallTries = 0, 0
	t.setAway(false)
	t.health.mirrorUp()
	if o.Held == nil {
		return []*entry{e}
	}
	e.change.Accepted = t.acceptedNow(wrote, o.Until)
	return append([]*entry{e}, t.fresh()...)
}

// errDiffers says that something else stands at the device.
var errDiffers = errors.New("it reads another value")

// readBack reads until the device shows what was written, or within is over. It
// returns the last usable value seen. It reads at least once.
func (t *target) readBack(ctx context.Context, o *intent, within time.Duration) (seen *sample.Value, err error) {
	end := time.Now().Add(within)
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		r, err := t.read(ctx)
		if err == nil {
			if o.shows(&r) {
				return &r.Value, nil
			}
			seen, err = &r.Value, errDiffers
		}
		if time.Now().Add(pause).After(end) {
			return seen, err
		}
		t.health.Beat()
		t.tell(ctx)
		if !backoff.Sleep(ctx, pause) {
			return seen, err
		}
	}
}

// shows reports whether a reading is of the write: the value, and where the
// device keeps it also the version, since the value before may have been the same.
func (o *intent) shows(r *protocols.Reading) bool {
	return same(o.Prepared.Value, r.Value) && (o.Version == 0 || r.Version == 0 || r.Version == o.Version)
}

// read reads what stands at the device, which has to be usable.
func (t *target) read(ctx context.Context) (protocols.Reading, error) {
	r, err := t.readAny(ctx)
	if err == nil && r.Quality.IsBad() {
		err = fmt.Errorf("it reads %s", r.Quality)
	}
	return r, err
}

// readAny reads what stands at the device, usable or not.
func (t *target) readAny(ctx context.Context) (protocols.Reading, error) {
	ctx, cancel := context.WithTimeout(ctx, max(t.cfg.VerifyWithin, time.Second))
	defer cancel()
	return t.dev.Read(ctx)
}

// recover settles a write that was under way when the gateway stopped. It reads
// and never writes: who was killed in between cannot know whether it was carried
// out, and by now it may be too late for it.
func (t *target) recover(ctx context.Context) {
	t.m.mu.Lock()
	st := t.m.state.of(t.cfg.Name)
	o, old := st.Open, st.lastValue()
	t.m.mu.Unlock()
	if o == nil {
		return
	}
	e := o.entry(outcomeKind(o), t.cfg.Name)
	e.old, e.change.Close = old, true
	seen, stands, err := t.lookAfter(ctx, o)
	if ctx.Err() != nil {
		return
	}
	now := t.m.moment()
	e.change.Attempt = &now
	if stands {
		e.detail = "verified after a restart"
		t.settle(ctx, t.written(o, e, now)...)
		return
	}
	e.outcome, e.detail = Unverified, "the gateway stopped meanwhile: "+notSeen(o, seen, err)
	t.settle(ctx, e)
	t.alarm(o, e.detail)
}

// lookAfter reads after a restart whether what may have been written stands at
// the device, by its value, or by its version where the device keeps that. A
// device that is away is waited for, within recoverWithin.
func (t *target) lookAfter(ctx context.Context, o *intent) (seen *sample.Value, stands bool, err error) {
	end := time.Now().Add(recoverWithin)
	var wait backoff.Policy
	for try := 0; ; try++ {
		r, err := t.readAny(ctx)
		switch {
		case err == nil && o.Version > 0 && r.Version == o.Version:
			return &r.Value, true, nil
		case err == nil:
			// It answers; what is slow to show has its usual time.
			seen, err = t.readBack(ctx, o, t.cfg.VerifyWithin)
			return seen, err == nil, err
		}
		pause := wait.Wait(min(try, 3))
		if ctx.Err() != nil || time.Now().Add(pause).After(end) {
			return seen, false, err
		}
		t.health.Beat()
		backoff.Sleep(ctx, pause)
	}
}

// same reports whether the device holds just the value: as numbers, exactly, so
// that an int64 is never rounded; NaN is never the same.
func same(a, b sample.Value) bool {
	switch {
	case a.Kind() == sample.Float64 && b.Kind() == sample.Float64:
		return a.Float() == b.Float()
	case a.Kind() == sample.Float64 && b.Kind() == sample.Int64:
		return same(b, a)
	case a.Kind() == sample.Int64 && b.Kind() == sample.Float64:
		f := b.Float()
		return f == f && new(big.Float).SetInt64(a.Int()).Cmp(big.NewFloat(f)) == 0
	}
	return a == b && a.Kind() != sample.Null
}
