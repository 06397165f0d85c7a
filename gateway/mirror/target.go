package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"millrace/gateway/mirror/guard"
	"millrace/internal/backoff"
	"millrace/protocols"
	"millrace/sample"
)

// ioWithin bounds one call to a device that has no time limit of its own.
const ioWithin = 15 * time.Second

// presentFor is how long a reading of the device says what stands there now.
const presentFor = time.Second

// target is one target with its worker.
type target struct {
	m      *Mirror
	cfg    *Target
	rules  guard.Rules
	log    *slog.Logger
	said   *sayer
	dev    protocols.Target // nil where the mode is off
	health *targetHealth
	wake   chan struct{}
	began  moment

	// gate is held while anything is written to the device, so that who disarms
	// the target can wait for the end of it.
	gate lock
	// command is held while a command, or the end of one, is carried out.
	command lock

	// Guarded by m.mu.
	disarming bool // no write may begin, though that is not recorded yet
	disarms   uint64
	away      bool // the device is
	outcome   *LastOutcome
	// unverified is set from a write that did not read back to one that did.
	unverified bool
	logged     Outcome // the last that made a line
	outcomes   map[string]uint64
	refused    map[string]uint64

	// The worker's own.
	next     time.Duration // when to turn again
	tries    int           // since the device went away
	retryAt  time.Time
	unsent   uint64 // the version of which it is recorded that it could not be sent
	told     *bool  // the validity that the device was told last
	beatAt   time.Time
	beats    uint16
	restored bool
	tellAt   time.Time // after a failed Tell

	// The same for the fallback value.
	fallTries int
	fallAt    time.Time
	fallSaid  string // what was recorded last: a reason or an outcome
}

// run keeps the worker going until ctx is done. A panic of the target's code is
// this target's fault and no other's; what it was writing is then read back.
func (t *target) run(ctx context.Context) {
	var wait backoff.Policy
	for failed := 0; ctx.Err() == nil; failed++ {
		if err := guarded(t.log, func() { t.work(ctx) }); err != nil {
			t.health.mirrorDown(err)
			backoff.Sleep(ctx, wait.Wait(failed))
		}
	}
}

// guarded turns a panic of f into an error.
func guarded(log *slog.Logger, f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("BUG: panic: %v; it is started again by itself", p)
			log.Error("a part of the mirror panicked; please report this", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	f()
	return nil
}

// work is the worker: it turns until ctx is done.
func (t *target) work(ctx context.Context) {
	t.recover(ctx)
	for ctx.Err() == nil {
		t.turn(ctx)
		timer := time.NewTimer(t.next)
		select {
		case <-t.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// poke wakes the worker.
func (t *target) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// within says that the worker has to turn again after d.
func (t *target) within(d time.Duration) { t.next = min(t.next, max(d, 0)) }

// turn does what is due.
func (t *target) turn(ctx context.Context) {
	t.health.Beat()
	t.said.flush()
	t.next = BeatEvery
	t.endArming(ctx)
	t.restore()
	t.attempt(ctx)
	t.checkStale(ctx)
	t.fallBack(ctx)
	t.tell(ctx)
}

// decide asks the guards about the pending result now. present is what was read
// from the device, if anything was.
func (t *target) decide(p *held, present *sample.Value) guard.Verdict {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	st := t.m.state.of(t.cfg.Name)
	in := t.m.input(t, p.r, p.sign)
	in.LastVersion, in.Present = st.Version, t.present(st, present)
	return guard.Decide(in)
}

// present is what a step is measured from: what was read, or where the device
// still holds what was written last, that value before the device rounded it.
// Callers hold mu.
func (t *target) present(st *targetState, read *sample.Value) *sample.Value {
	if read != nil && st.Last != nil && same(st.Last.Prepared.Value, *read) {
		return st.lastValue()
	}
	return read
}

// attempt brings the pending result to the device when it is due.
func (t *target) attempt(ctx context.Context) {
	t.m.mu.Lock()
	p := t.m.pending(t)
	t.m.mu.Unlock()
	if p == nil {
		t.tries, t.retryAt = 0, time.Time{}
		t.setAway(false)
		return
	}
	v := t.decide(p, nil)
	switch {
	case v.Action == guard.Refuse:
		t.drop(ctx, p, refusedHeld(v))
		return
	case v.Action == guard.Hold:
		t.within(min(v.Wait, t.untilExpired(p)))
		return
	case time.Now().Before(t.retryAt):
		t.within(min(time.Until(t.retryAt), t.untilExpired(p)))
		return
	}
	// A device that was away is asked before an intent is recorded again.
	prepared, present, err := t.prepare(ctx, v.Value, t.tries > 0)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		t.notPrepared(ctx, p, err)
		return
	}
	t.m.step(StepPrepared)
	t.commit(ctx, p, prepared, present)
}

// untilExpired is how long p stays valid.
func (t *target) untilExpired(p *held) time.Duration {
	return p.r.ValidUntil.Sub(t.m.s.Clock.Now())
}

// prepare asks the device whether it takes the value, and as what, and where a
// step is bounded, or with probe, also what stands there now.
func (t *target) prepare(ctx context.Context, v sample.Value, probe bool) (prepared sample.Value, present *sample.Value, err error) {
	ctx, cancel := context.WithTimeout(ctx, ioWithin)
	defer cancel()
	if prepared, err = t.dev.Prepare(ctx, v); err != nil {
		return prepared, nil, err
	}
	if t.cfg.MaxStep == nil && !probe {
		return prepared, nil, nil
	}
	present, err = t.stands(ctx)
	return prepared, present, err
}

// stands reads what stands at the device; nil where that is nothing usable.
func (t *target) stands(ctx context.Context) (*sample.Value, error) {
	ctx, cancel := context.WithTimeout(ctx, ioWithin)
	defer cancel()
	r, err := t.dev.Read(ctx)
	switch {
	case err != nil:
		return nil, &protocols.WriteError{Outcome: protocols.Unsent, Err: err}
	case r.Quality.IsBad() || r.Value.Kind() == sample.Null:
		return nil, nil
	}
	return &r.Value, nil
}

// notPrepared settles or puts off a result that the device could not be asked
// about, or does not take. Nothing was written.
func (t *target) notPrepared(ctx context.Context, p *held, err error) {
	switch protocols.OutcomeOf(err) {
	case protocols.Unsuited:
		t.drop(ctx, p, &entry{outcome: Unsuited, detail: err.Error()})
	case protocols.Rejected:
		t.drop(ctx, p, &entry{outcome: Rejected, detail: err.Error()})
	case protocols.Unsent, protocols.Unknown:
		t.putOff()
		t.m.enter(t.health.Beat)
		defer t.m.leave()
		if t.unsent == p.r.Version || !t.waits(p) {
			return
		}
		e := p.entry(kindOutcome, t.cfg.Name)
		e.outcome, e.detail = Unsent, err.Error()
		if t.record(ctx, e) == nil {
			t.unsent = p.r.Version
		}
	}
}

// putOff spaces the tries while the device is away.
func (t *target) putOff() {
	wait := backoff.Policy{Max: 30 * time.Second}.Wait(t.tries)
	t.tries++
	t.retryAt = time.Now().Add(wait)
	t.within(wait)
	t.setAway(true)
}

func (t *target) setAway(away bool) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.away = away
}

// refusedHeld is what becomes of a result that was accepted and is refused when
// its turn comes.
func refusedHeld(v guard.Verdict) *entry {
	e := &entry{outcome: Refused, reason: string(v.Reason), detail: v.Detail}
	if v.Reason == guard.Expired || v.Reason == guard.TooOld {
		e.outcome = ExpiredHeld
	}
	return e
}

// record makes records durable and tells of them.
func (t *target) record(ctx context.Context, entries ...*entry) error {
	if err := t.m.record(ctx, t.health.Beat, entries...); err != nil {
		return err
	}
	t.m.settled(entries...)
	return nil
}

// drop settles p, if it is still the one that waits, with an outcome that ends it.
func (t *target) drop(ctx context.Context, p *held, as *entry) {
	t.m.enter(t.health.Beat)
	defer t.m.leave()
	if t.waits(p) {
		t.dropHeld(ctx, p, as)
	}
}

// dropHeld is drop for who holds intake and knows that p waits.
func (t *target) dropHeld(ctx context.Context, p *held, as *entry, more ...*entry) {
	e := p.entry(kindOutcome, t.cfg.Name)
	e.outcome, e.reason, e.detail, e.change = as.outcome, as.reason, as.detail, as.change
	e.change.Drop = true
	t.m.mu.Lock()
	e.old = t.m.state.of(t.cfg.Name).lastValue()
	t.m.mu.Unlock()
	_ = t.record(ctx, append([]*entry{e}, more...)...) // told to stop: it waits in the log, and is decided again
	t.within(0)
}

// waits reports whether p is still the pending result. The caller holds intake.
func (t *target) waits(p *held) bool {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	return t.m.pending(t) == p
}

// commit decides for the last time before the intent, records it, and writes.
func (t *target) commit(ctx context.Context, p *held, prepared sample.Value, present *sample.Value) {
	defer t.within(0)
	asked := time.Now()
	o, old := t.intend(ctx, p, prepared, present)
	if o == nil {
		return
	}
	t.m.step(StepIntended)
	if t.cfg.MaxStep != nil && time.Since(asked) > presentFor {
		// The log took its time, and the plant may have moved on.
		var err error
		if present, err = t.stands(context.WithoutCancel(ctx)); err != nil {
			e := o.entry(kindOutcome, t.cfg.Name)
			e.old, e.change.Close = old, true
			t.notSent(ctx, o, e, err)
			return
		}
	}
	t.write(ctx, o, present, old)
}

// intend records the intent to write p. It returns nil where p is not to be
// written now; that is recorded then, or is to come.
func (t *target) intend(ctx context.Context, p *held, prepared sample.Value, present *sample.Value) (_ *intent, old *sample.Value) {
	t.m.enter(t.health.Beat)
	defer t.m.leave()
	if !t.waits(p) {
		return nil, nil // a newer one came, and that is recorded
	}
	v := t.decide(p, present)
	switch v.Action {
	case guard.Refuse:
		t.dropHeld(ctx, p, refusedHeld(v))
		return nil, nil
	case guard.Hold:
		return nil, nil
	case guard.Log:
		t.logOnly(ctx, p, v)
		return nil, nil
	case guard.Write:
	}
	o := &intent{
		ID: p.r.ID, Version: p.r.Version, Value: value{v.Value}, Prepared: value{prepared}, Quality: uint32(p.r.Quality),
		Computed: p.r.ComputedAt, Until: p.r.ValidUntil, Held: p,
	}
	e := p.entry(kindIntent, t.cfg.Name)
	e.new, e.old, e.detail, e.change.Intent = &v.Value, present, v.Detail, o
	t.m.mu.Lock()
	st := t.m.state.of(t.cfg.Name)
	o.Before = st.Version
	if e.old == nil {
		e.old = st.lastValue()
	}
	t.m.mu.Unlock()
	if t.record(ctx, e) != nil {
		return nil, nil // told to stop; it waits in the log
	}
	return o, e.old
}

// logOnly is a dry run's write. The caller holds intake.
func (t *target) logOnly(ctx context.Context, p *held, v guard.Verdict) {
	now := t.m.moment()
	as := &entry{outcome: DryRun, detail: v.Detail}
	as.change = change{Version: p.r.Version, Attempt: &now, Accepted: t.acceptedNow(now, p.r.ValidUntil)}
	t.tries = 0
	t.setAway(false)
	t.dropHeld(ctx, p, as, t.fresh()...)
}

func (t *target) acceptedNow(now moment, until time.Time) *accepted {
	return &accepted{moment: now, Until: until, Left: until.Sub(now.At)}
}

// write brings an intent to the device and settles it. Whatever was asked of
// the guards before the intent became durable is asked once more. It is not
// interrupted: a write that is under way is read back and recorded.
func (t *target) write(ctx context.Context, o *intent, present, old *sample.Value) {
	e := o.entry(outcomeKind(o), t.cfg.Name)
	e.old, e.change.Close = old, true
	v, err := t.send(ctx, o, present)
	t.m.step(StepWritten)
	now := t.m.moment()
	switch {
	case v.Action == guard.Write:
	case v.Action == guard.Refuse:
		as := refusedHeld(v)
		e.outcome, e.reason, e.detail, e.change.Unuse = as.outcome, as.reason, as.detail, true
		t.settle(ctx, e)
		return
	default:
		e.outcome, e.detail, e.change.Unuse, e.change.Version = DryRun, "the target was disarmed before the write", true, o.Version
		t.settle(ctx, e)
		return
	}
	// A value may bring its own validity to the device: what that was told before
	// holds no longer, unless it says the same.
	defer func() {
		if e.outcome != Written || t.told != nil && !*t.told {
			t.told = nil
		}
	}()
	switch {
	case err == nil || protocols.OutcomeOf(err) == protocols.Unknown:
		t.verify(ctx, o, e, err, now)
		return
	case protocols.OutcomeOf(err) == protocols.Unsent:
		t.notSent(ctx, o, e, err)
		return
	case protocols.OutcomeOf(err) == protocols.Unsuited:
		e.outcome, e.detail = Unsuited, err.Error()
	default:
		e.outcome, e.detail, e.change.Attempt = Rejected, err.Error(), &now
	}
	t.settle(ctx, e)
}

// send writes, if the guards still have nothing against it.
func (t *target) send(ctx context.Context, o *intent, present *sample.Value) (guard.Verdict, error) {
	t.gate.take()
	defer t.gate.leave()
	v := t.recheck(o, present)
	if v.Action != guard.Write {
		return v, nil
	}
	// A device may keep a write waiting, for a connection or for its turn on the
	// line. What expires meanwhile must not be sent any more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(ioWithin, o.Until.Sub(t.m.s.Clock.Now())))
	defer cancel()
	t.restored = true
	return v, t.dev.Write(ctx, protocols.Command{
		Value: o.Value.Value, Quality: sample.Quality(o.Quality), Time: o.Computed, Version: o.Version, ValidUntil: o.Until,
	})
}

// recheck asks the guards about an intent. Its version is used up by itself.
func (t *target) recheck(o *intent, present *sample.Value) guard.Verdict {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	st := t.m.state.of(t.cfg.Name)
	var in guard.Input
	if o.Held == nil {
		in = t.m.fallbackInput(t)
	} else {
		in = t.m.input(t, o.Held.r, o.Held.sign)
		in.LastVersion, in.Present = o.Before, t.present(st, present)
	}
	return guard.Decide(in)
}

// notSent puts the result back, or gives it up where a newer one waits.
func (t *target) notSent(ctx context.Context, o *intent, e *entry, err error) {
	e.change.Unuse = true
	e.outcome, e.detail = Unsent, err.Error()
	if o.Held == nil {
		t.putOffFallback()
		t.settle(ctx, e)
		return
	}
	t.putOff()
	t.unsent = o.Version
	t.m.enter(t.health.Beat)
	defer t.m.leave()
	t.m.mu.Lock()
	p := t.m.pending(t)
	t.m.mu.Unlock()
	if p != nil {
		e.outcome, e.detail = Superseded, fmt.Sprintf("the device was away, and version %d came meanwhile", p.r.Version)
	} else {
		e.change.Held = o.Held
	}
	t.settle(ctx, e)
}

// settle records the outcome of an intent. Where that fails since the mirror is
// told to stop, it is found in the log and read back after the restart.
func (t *target) settle(ctx context.Context, entries ...*entry) {
	if t.record(ctx, entries...) == nil {
		t.m.step(StepSettled)
	}
}
