package mirror

import (
	"context"
	"fmt"
	"time"

	"millrace/gateway/mirror/guard"
	"millrace/internal/backoff"
	"millrace/protocols"
	"millrace/sample"
)

// checkStale notes when results have stopped.
func (t *target) checkStale(ctx context.Context) {
	t.m.mu.Lock()
	st := t.m.state.of(t.cfg.Name)
	why := t.staleBy(st)
	was := st.Stale
	t.m.mu.Unlock()
	if why == "" || was {
		return
	}
	yes := true
	_ = t.record(ctx, &entry{kind: kindStale, target: t.cfg.Name, detail: why + "; " + t.staleDoes(), change: change{Stale: &yes}})
}

// staleBy says why results have stopped, or "", and has the worker turn again
// when that may change. Callers hold mu.
func (t *target) staleBy(st *targetState) string {
	last := &t.began
	if st.Accepted != nil {
		last = &st.Accepted.moment
	}
	if after := t.cfg.StaleAfter; after > 0 {
		silent := t.m.since(last)
		if silent >= after {
			return fmt.Sprintf("no result came through for %s", after)
		}
		t.within(after - silent)
	}
	if st.Accepted == nil {
		return ""
	}
	left, known := t.left(st.Accepted)
	if known && left <= 0 {
		return "the last result was valid until " + st.Accepted.Until.UTC().Format(time.RFC3339)
	}
	if known {
		t.within(left)
	}
	return ""
}

// left is how long a result stays valid, by the clock that is not stepped and by
// the wall clock, whichever says less, and whether that can be known now.
func (t *target) left(a *accepted) (left time.Duration, known bool) {
	if a.Boot == t.m.boot {
		left, known = a.Left-(t.m.s.SinceBoot()-a.Since), true
	}
	if t.m.s.Synchronised() {
		wall := a.Until.Sub(t.m.s.Clock.Now())
		if !known || wall < left {
			left, known = wall, true
		}
	}
	return left, known
}

// staleDoes says in words what when_stale does.
func (t *target) staleDoes() string {
	switch t.cfg.WhenStale {
	case HoldValue:
		return "the value stays as it is"
	case WriteFallback:
		return fmt.Sprintf("the fallback value %s is written where the mode and the enable tag allow it", t.cfg.Fallback)
	case Mark:
	}
	return "the target is marked as not valid"
}

// fresh is the record that results have come back, if they had stopped.
func (t *target) fresh() []*entry {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if !t.m.state.of(t.cfg.Name).Stale {
		return nil
	}
	t.fallSaid, t.fallTries = "", 0
	no := false
	return []*entry{{kind: kindFresh, target: t.cfg.Name, detail: "results come through again", change: change{Stale: &no}}}
}

// outcomeKind is the kind of the record that settles o.
func outcomeKind(o *intent) string {
	if o.Held == nil {
		return kindFallback
	}
	return kindOutcome
}

// fallbackInput is what the guards decide on for the fallback value. Callers hold mu.
func (m *Mirror) fallbackInput(t *target) guard.Input {
	return guard.Input{
		Fallback: true, Result: guard.Result{Target: t.cfg.Name, Value: *t.cfg.Fallback}, Target: &t.rules, Mode: m.mode(t),
		Enable: m.enable(t.cfg.Enable), Since: -1,
	}
}

// fallBack writes the fallback value, once for each time that results stop.
func (t *target) fallBack(ctx context.Context) {
	if t.cfg.WhenStale != WriteFallback {
		return
	}
	t.m.mu.Lock()
	st := t.m.state.of(t.cfg.Name)
	due := st.Stale && !st.FellBack && st.Pending == nil
	v := guard.Decide(t.m.fallbackInput(t))
	old := st.lastValue()
	t.m.mu.Unlock()
	if !due || ctx.Err() != nil {
		return
	}
	e := &entry{kind: kindFallback, target: t.cfg.Name, new: t.cfg.Fallback, old: old}
	switch v.Action {
	case guard.Refuse, guard.Hold:
		t.within(time.Second) // the enable tag may come
		e.outcome, e.reason, e.detail = Refused, string(v.Reason), v.Detail
		t.sayFallback(ctx, e, e.reason)
		return
	case guard.Log:
		e.outcome, e.detail = DryRun, "the fallback value was not written"
		t.sayFallback(ctx, e, string(DryRun))
		return
	case guard.Write:
	}
	if wait := time.Until(t.fallAt); wait > 0 {
		t.within(wait)
		return
	}
	prepared, present, err := t.prepare(ctx, v.Value, t.fallTries > 0)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		e.outcome, e.detail = Unsent, err.Error()
		switch protocols.OutcomeOf(err) {
		case protocols.Unsuited:
			e.outcome = Unsuited
		case protocols.Rejected:
			e.outcome = Rejected
		case protocols.Unsent, protocols.Unknown:
		}
		t.putOffFallback()
		t.sayFallback(ctx, e, string(e.outcome))
		return
	}
	t.commitFallback(ctx, v.Value, prepared, present, old)
}

// sayFallback records what became of the fallback value, unless that is what
// was recorded last.
func (t *target) sayFallback(ctx context.Context, e *entry, what string) {
	if t.fallSaid != what && t.record(ctx, e) == nil {
		t.fallSaid = what
	}
}

func (t *target) putOffFallback() {
	wait := backoff.Policy{Max: 30 * time.Second}.Wait(t.fallTries)
	t.fallTries++
	t.fallAt = time.Now().Add(wait)
	t.within(wait)
}

// commitFallback records the intent and writes, unless a result came meanwhile.
func (t *target) commitFallback(ctx context.Context, v, prepared sample.Value, present, old *sample.Value) {
	if present != nil {
		old = present
	}
	now := t.m.s.Clock.Now().UTC()
	o := &intent{
		Value: value{v}, Prepared: value{prepared}, Quality: uint32(sample.Uncertain), Computed: now,
		Until: now.AddDate(100, 0, 0), // it stays until a result comes
	}
	e := o.entry(kindIntent, t.cfg.Name)
	e.old, e.detail, e.change.Intent = old, "the fallback value", o
	t.within(0)
	if t.intendFallback(ctx, e) {
		t.m.step(StepIntended)
		t.write(ctx, o, nil, old)
	}
}

// intendFallback records the intent, unless a result came meanwhile.
func (t *target) intendFallback(ctx context.Context, e *entry) bool {
	t.m.enter(t.health.Beat)
	defer t.m.leave()
	return t.waits(nil) && t.record(ctx, e) == nil
}

// valid reports whether the SCADA side may use what stands at the target.
// Callers hold mu.
func (t *target) valid(st *targetState) bool {
	switch {
	case st.Last == nil:
		return false
	case t.cfg.WhenStale == HoldValue || t.cfg.WhenStale == WriteFallback:
		return true
	case st.Stale || st.Accepted == nil:
		return false
	case t.m.s.Synchronised():
		return t.m.s.Clock.Now().Before(st.Last.Until)
	}
	return st.Accepted.Boot == t.m.boot
}

// tell tells the device whether its value may be used, when that changes, and
// the heartbeat. It does so only while the target is armed.
func (t *target) tell(ctx context.Context) {
	t.m.mu.Lock()
	armed := t.m.mode(t) == guard.Armed
	valid := t.valid(t.m.state.of(t.cfg.Name))
	fails := t.m.auditErr != nil
	t.m.mu.Unlock()
	now := time.Now()
	if !armed || fails {
		t.told = nil
		return
	}
	changed := t.told == nil || *t.told != valid
	beat := t.cfg.Heartbeat > 0 && !now.Before(t.beatAt)
	if now.Before(t.tellAt) && (beat || changed) {
		t.within(t.tellAt.Sub(now))
		return
	}
	if t.cfg.Heartbeat > 0 && !beat {
		t.within(t.beatAt.Sub(now))
	}
	if !beat && !changed {
		return
	}
	if beat {
		t.beats++
		t.beatAt = now.Add(t.cfg.Heartbeat)
		t.within(t.cfg.Heartbeat)
	}
	sent, err := t.sendState(ctx, protocols.State{Valid: valid, Heartbeat: t.beats})
	switch {
	case !sent:
	case err != nil:
		t.told, t.tellAt = nil, time.Now().Add(max(t.cfg.Heartbeat, time.Second))
	default:
		t.told = &valid
	}
}

// sendState tells the device its state, unless the target was disarmed meanwhile.
func (t *target) sendState(ctx context.Context, s protocols.State) (sent bool, _ error) {
	t.gate.take()
	defer t.gate.leave()
	if t.modeNow() != guard.Armed {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, ioWithin)
	defer cancel()
	return true, t.dev.Tell(ctx, s)
}

// restore has a target that lives in the gateway show again what was last
// written, as long as that is valid.
func (t *target) restore() {
	r, ok := t.dev.(protocols.Restorer)
	if t.restored || !ok || !t.m.s.Synchronised() {
		return
	}
	t.gate.take()
	defer t.gate.leave()
	t.m.mu.Lock()
	last, valid := t.m.state.of(t.cfg.Name).Last, t.valid(t.m.state.of(t.cfg.Name))
	armed := t.m.mode(t) == guard.Armed
	t.m.mu.Unlock()
	if !armed {
		return
	}
	t.restored = true
	if last != nil && valid && t.m.s.Clock.Now().Before(last.Until) {
		r.Restore(protocols.Command{
			Value: last.Value.Value, Quality: sample.Quality(last.Quality), Time: last.Computed, Version: last.Version, ValidUntil: last.Until,
		})
	}
}
