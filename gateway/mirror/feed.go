package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"millrace/feeds"
	"millrace/gateway/mirror/guard"
	"millrace/internal/backoff"
	"millrace/protocols"
	"millrace/sample/result"
	"millrace/uploader"
)

const (
	// doneWithin bounds telling a feed what is durable.
	doneWithin = 20 * time.Second
	// doneAtStop bounds it once the mirror is told to stop, within what the
	// gateway grants for that.
	doneAtStop = 2 * time.Second
	// mostRepeated is the longest pause after messages that only came again.
	mostRepeated = 10 * time.Second
	// leastPoll is how long a poll that brought nothing takes at least, so that
	// a feed that does not wait does not spin.
	leastPoll = 100 * time.Millisecond
)

// feed is one feed with its loop.
type feed struct {
	feeds.Feed
	m      *Mirror
	name   string
	log    *slog.Logger
	health protocols.Health
	// undone is why the feed could not be told last; the loop's own.
	undone error

	status FeedStatus // guarded by m.mu
}

// run keeps the loop going until ctx is done. What a panic of the feed's code
// kept from being recorded comes again.
func (f *feed) run(ctx context.Context) {
	var wait backoff.Policy
	for failed := 0; ctx.Err() == nil; failed++ {
		if err := guarded(f.log, func() { f.loop(ctx) }); err != nil {
			f.failed(err)
			f.sleep(ctx, wait.Wait(failed))
		}
	}
}

// loop receives until ctx is done.
func (f *feed) loop(ctx context.Context) {
	var wait backoff.Policy
	failed, repeated := 0, 0
	for ctx.Err() == nil {
		f.health.Beat()
		began := time.Now()
		messages, err := f.Receive(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			f.failed(err)
			f.sleep(ctx, max(wait.Wait(failed), retryAfter(err)))
			failed++
			continue
		}
		failed = 0
		f.answered(len(messages))
		if len(messages) == 0 {
			backoff.Sleep(ctx, leastPoll-time.Since(began))
			continue
		}
		f.m.step(StepReceived)
		news, err := f.take(ctx, messages)
		if err != nil {
			return // told to stop while nothing could be recorded; they come again
		}
		f.m.step(StepTaken)
		f.done(ctx, messages)
		f.m.step(StepDone)
		if f.undone == nil || news {
			repeated = 0
			continue
		}
		// They come again for as long as it cannot be told, and each time into the
		// audit log.
		f.sleep(ctx, max(backoff.Policy{Max: mostRepeated}.Wait(repeated), retryAfter(f.undone)))
		repeated++
	}
}

func (f *feed) failed(err error) {
	f.health.Down(err)
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.status.Errors++
	f.status.Error = err.Error()
}

func (f *feed) answered(messages int) {
	if f.undone == nil {
		f.health.Up()
	}
	now := f.m.s.Clock.Now().UTC()
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.status.LastReceive = &now
	if f.undone == nil {
		f.status.Error = ""
	}
	if messages > 0 {
		f.status.Received += uint64(messages)
		f.status.LastMessage = &now
	}
}

// sleep waits for d or until ctx is done, and beats meanwhile.
func (f *feed) sleep(ctx context.Context, d time.Duration) {
	for ; d > 0 && backoff.Sleep(ctx, min(d, BeatEvery)); d -= BeatEvery {
		f.health.Beat()
	}
}

// done tells the feed that the outcomes are durable, also while stopping. What
// it does not hear of comes again and is known by its version.
func (f *feed) done(ctx context.Context, messages []feeds.Message) {
	stopping := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), doneWithin)
	defer cancel()
	defer context.AfterFunc(stopping, func() { time.AfterFunc(doneAtStop, cancel) })()
	if f.undone = f.Done(ctx, messages); f.undone != nil {
		f.failed(f.undone)
	}
}

// retryAfter is how long the endpoint asked us to wait, at most ten minutes.
func retryAfter(err error) time.Duration {
	var se *uploader.SendError
	if errors.As(err, &se) {
		return min(se.RetryAfter, 10*time.Minute)
	}
	return 0
}

// taken is one message with what was found of it.
type taken struct {
	*feeds.Message
	r    *result.Result
	sign guard.Signature
	bad  *result.Error // it is no result
}

// take decides on messages and makes that durable: each is refused with its
// reason, superseded by a later one of the same batch, or held. It reports
// whether any is held.
func (f *feed) take(ctx context.Context, messages []feeds.Message) (news bool, _ error) {
	m := f.m
	all := make([]taken, len(messages))
	for i := range messages {
		all[i] = m.look(&messages[i])
	}
	m.enter(f.health.Beat)
	defer m.leave()
	entries := f.decide(all)
	if err := m.record(ctx, f.health.Beat, entries...); err != nil {
		return false, err
	}
	m.settled(entries...)
	for _, e := range entries {
		if t := m.byName[e.target]; t != nil && e.kind == kindHeld {
			news = true
			t.poke()
		}
	}
	return news, nil
}

// look parses a message and checks its signature.
func (m *Mirror) look(msg *feeds.Message) taken {
	t := taken{Message: msg}
	r, err := result.Parse(msg.Body)
	if err != nil {
		if !errors.As(err, &t.bad) {
			t.bad = &result.Error{Reason: result.NotJSON, Problem: err.Error()}
		}
		return t
	}
	t.r, t.sign = r, m.signature(r, msg.Local)
	return t
}

func (m *Mirror) signature(r *result.Result, local bool) guard.Signature {
	if local {
		return guard.Local
	}
	switch err := r.Verify(m.cfg.Keys); {
	case err == nil:
		return guard.Valid
	case errors.Is(err, result.ErrUnsigned):
		return guard.None
	case errors.Is(err, result.ErrUnknownKey):
		return guard.Unknown
	}
	return guard.Invalid
}

// decide makes the records of a batch, one for each message and one for each
// result that had waited and does no more. The caller holds intake.
func (f *feed) decide(all []taken) []*entry {
	m := f.m
	m.mu.Lock()
	defer m.mu.Unlock()
	entries := make([]*entry, 0, len(all)+2)
	newest := map[*target]*entry{} // accepted in this batch
	for i := range all {
		msg := &all[i]
		e := &entry{kind: kindOutcome, feed: f.name, message: shorten(msg.Key, 256), cursor: msg.Cursor}
		entries = append(entries, e)
		if msg.bad != nil {
			f.status.Malformed++
			e.outcome, e.reason, e.detail = Malformed, msg.bad.Reason, shorten(msg.bad.What(), 300)
			e.target, e.id, e.version = msg.bad.Target, msg.bad.ID, msg.bad.Version
			continue
		}
		e.target = msg.r.Target
		e.about(msg.r, msg.sign)
		t := m.byName[e.target]
		if t != nil && !slices.Contains(t.cfg.Feeds, f.name) {
			e.outcome, e.reason = Refused, string(guard.UnknownTarget)
			e.detail = fmt.Sprintf("target %s does not take results from feed %s", e.target, f.name)
			f.status.Strange++
			continue
		}
		if t == nil {
			f.status.Strange++
		}
		in := m.input(t, msg.r, msg.sign)
		if before := newest[t]; before != nil {
			in.LastVersion = max(in.LastVersion, before.version)
		}
		v := guard.Decide(in)
		e.old = in.Last
		if v.Action == guard.Refuse {
			e.outcome, e.reason, e.detail = Refused, string(v.Reason), v.Detail
			continue
		}
		if before := newest[t]; before != nil {
			before.supersede(msg.r.Version)
		} else if p := m.pending(t); p != nil {
			old := p.entry(kindOutcome, e.target)
			old.supersede(msg.r.Version)
			entries = append(entries[:len(entries)-1], old, e)
		}
		e.kind, e.detail = kindHeld, v.Detail
		e.change.Held = &held{
			Feed: f.name, Message: e.message, Local: msg.Local, Body: string(msg.Body), At: m.s.Clock.Now().UTC(), r: msg.r, sign: msg.sign,
		}
		newest[t] = e
	}
	return entries
}

// supersede turns a record into one that says that a newer result came.
func (e *entry) supersede(by uint64) {
	e.kind, e.outcome, e.detail = kindOutcome, Superseded, fmt.Sprintf("version %d came before its turn", by)
	e.change = change{}
}

func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:most]
}

// input is what the guards decide on, but for what is read from the device. t
// is nil for an unknown target. Callers hold mu.
func (m *Mirror) input(t *target, r *result.Result, sign guard.Signature) guard.Input {
	in := guard.Input{
		Result: guard.Result{
			Site: r.Site, Target: r.Target, Version: r.Version, Value: r.Value, Unit: r.Unit, Quality: r.Quality,
			ComputedAt: r.ComputedAt, ValidFrom: r.ValidFrom, ValidUntil: r.ValidUntil, Signature: sign, Key: r.Signature.Key,
		},
		Site: m.s.Site, Now: m.s.Clock.Now(), Synchronised: m.s.Synchronised(), Since: -1,
	}
	if t == nil {
		return in
	}
	in.Target, in.Mode, in.Enable = &t.rules, m.mode(t), m.enable(t.cfg.Enable)
	st := m.state.Targets[t.cfg.Name]
	if st == nil {
		return in
	}
	in.LastVersion, in.Last = st.Version, st.lastValue()
	if p := m.pending(t); p != nil {
		in.LastVersion = max(in.LastVersion, p.r.Version)
	}
	if st.Attempt != nil {
		in.Since = m.since(st.Attempt)
	}
	return in
}

// pending is the result that waits for its turn, or nil. Callers hold mu.
func (m *Mirror) pending(t *target) *held {
	if t == nil || m.state.Targets[t.cfg.Name] == nil {
		return nil
	}
	return m.state.Targets[t.cfg.Name].Pending
}

// enable asks the enable tag.
func (m *Mirror) enable(tag string) guard.Enable {
	if tag == "" {
		return guard.NotAsked
	}
	r, ok := m.s.Latest(tag)
	if !ok || !r.Quality.IsGood() {
		return guard.Unreadable
	}
	n, ok := r.Value.Number()
	switch {
	case !ok || math.IsNaN(n):
		return guard.Unreadable
	case n == 0:
		return guard.Disabled
	}
	return guard.Enabled
}
