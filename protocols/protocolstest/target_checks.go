package protocolstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

func checkTargetDefaults(t *testing.T, h TargetHarness) error {
	w, ok := h.Protocol.NewConfig().(protocols.Writable)
	if !ok {
		return fmt.Errorf("%T is no protocols.Writable", h.Protocol.NewConfig())
	}
	a, b := w.NewTarget(), w.NewTarget()
	if a == nil || a == b {
		return errors.New("NewTarget must return new settings at each call")
	}
	if !hasYAML(a) {
		return fmt.Errorf("%T is no pointer to a struct whose fields have yaml tags", a)
	}
	for _, p := range h.Start(t).Places {
		if fmt.Sprintf("%T", p.Config) != fmt.Sprintf("%T", a) {
			return fmt.Errorf("the harness has settings of type %T, NewTarget makes %T", p.Config, a)
		}
	}
	return nil
}

func checkTargetValidate(t *testing.T, h TargetHarness) error {
	for _, p := range h.Start(t).Places {
		if faults := p.Config.Validate(p.Kind); len(faults) != 0 {
			return fmt.Errorf("Validate finds fault with good settings: %+v", faults)
		}
	}
	cfg, kind, paths := h.Faulty()
	if len(paths) < 2 {
		return errors.New("Faulty must supply two faults or more")
	}
	faults := cfg.Validate(kind)
	var errs []error
	for _, path := range paths {
		found := false
		for _, f := range faults {
			found = found || f.Path == path
		}
		if !found {
			errs = append(errs, fmt.Errorf("no fault is reported at %s; got %+v", path, faults))
		}
	}
	for _, f := range faults {
		if f.Path == "" || f.Problem == "" || f.Hint == "" {
			errs = append(errs, fmt.Errorf("fault %+v lacks path, problem or hint", f))
		}
	}
	return errors.Join(errs...)
}

func checkTargetPlaces(t *testing.T, h TargetHarness) error {
	seen := map[string]bool{}
	for i, p := range h.Start(t).Places {
		places := p.Config.Places()
		if len(places) == 0 {
			return fmt.Errorf("place %d has no name", i)
		}
		for _, name := range places {
			if name == "" || seen[name] {
				return fmt.Errorf("place %d: the name %q is empty or another one's too", i, name)
			}
			seen[name] = true
		}
	}
	return nil
}

func checkTargetWrites(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		for i, o := range r.targets {
			for _, v := range o.Good {
				if err := o.checkWrite(v); err != nil {
					return fmt.Errorf("place %d: %s %s: %w", i, v.Kind(), v, err)
				}
			}
		}
		if !r.health.IsUp() {
			return fmt.Errorf("Health.Up was not called; changes: %v", r.health.Changes())
		}
		return nil
	})
}

func (o *opened) checkWrite(v sample.Value) error {
	ctx, cancel := o.r.context()
	defer cancel()
	before, err := o.Held()
	if err != nil {
		return fmt.Errorf("the device does not tell what it holds: %w", err)
	}
	n := o.r.dev.Writes()
	p, err := o.Prepare(ctx, v)
	if err != nil {
		return fmt.Errorf("Prepare: %w", err)
	}
	if again, err := o.Prepare(ctx, p); err != nil || again != p {
		return fmt.Errorf("Prepare makes %s %s of what it returned itself, %s %s (%w)", again.Kind(), again, p.Kind(), p, orNone(err))
	}
	if held, err := o.Held(); err != nil || held != before || o.r.dev.Writes() != n {
		return fmt.Errorf("Prepare has written: %s was there, %s is (%w)", before, held, orNone(err))
	}
	c := o.command(p)
	if err := o.Write(ctx, c); err != nil {
		return fmt.Errorf("Write: %w", err)
	}
	if err := o.holds(p); err != nil {
		return err
	}
	if o.r.dev.Writes() == n {
		return errors.New("the harness does not count writes")
	}
	if err := o.reads(p); err != nil {
		return err
	}
	if got, err := o.Read(ctx); err != nil || got.Version != 0 && got.Version != c.Version {
		return fmt.Errorf("Read returns version %d (%w), want %d or none", got.Version, orNone(err), c.Version)
	}
	return nil
}

func checkTargetUnsuited(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		ctx, cancel := r.context()
		defer cancel()
		for i, o := range r.targets {
			p, err := o.write(ctx, o.Good[0])
			if err == nil {
				err = o.holds(p)
			}
			if err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
			n := r.dev.Writes()
			for _, v := range o.Unsuited {
				if _, err := o.Prepare(ctx, v); err != nil {
					if err := failed(err, protocols.Unsuited); err != nil {
						return fmt.Errorf("place %d: Prepare %s %s: %w", i, v.Kind(), v, err)
					}
				} else {
					return fmt.Errorf("place %d: Prepare takes %s %s", i, v.Kind(), v)
				}
				// Nobody has to have asked before.
				if err := failed(o.Write(ctx, o.command(v)), protocols.Unsuited); err != nil {
					return fmt.Errorf("place %d: Write %s %s: %w", i, v.Kind(), v, err)
				}
			}
			if err := r.undisturbed(n); err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
			if err := o.holds(p); err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
		}
		return nil
	})
}

func checkTargetAwayAtStart(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		if r.dev.Stop == nil {
			return nil
		}
		o := r.targets[0]
		n := r.dev.Writes()
		r.dev.Stop()
		if err := o.awayIsUnsent(); err != nil {
			return err
		}
		if !r.health.IsDown() {
			return fmt.Errorf("Health.Down was not called; changes: %v", r.health.Changes())
		}
		r.dev.Resume()
		if err := r.undisturbed(n); err != nil {
			return fmt.Errorf("after the device came back: %w", err)
		}
		return o.comesBack(o.Good[0])
	})
}

// awayIsUnsent checks how a device that nothing can be sent to is told of.
func (o *opened) awayIsUnsent() error {
	ctx, cancel := o.r.context()
	defer cancel()
	// Where the device has to be asked for the type, preparing fails as well.
	if _, err := o.Prepare(ctx, o.Good[1]); err != nil {
		if err := failed(err, protocols.Unsent); err != nil {
			return fmt.Errorf("Prepare while the device is away: %w", err)
		}
	}
	if err := failed(o.Write(ctx, o.command(o.Good[1])), protocols.Unsent); err != nil {
		return fmt.Errorf("Write while the device is away: %w", err)
	}
	_, err := o.Read(ctx)
	if err == nil {
		return errors.New("Read succeeds while the device is away")
	}
	return oneLine(err)
}

// comesBack writes until the device, which is back, has taken the value.
func (o *opened) comesBack(v sample.Value) error {
	var last error
	if !eventually(o.r.h.patience(), func() bool {
		ctx, cancel := o.r.context()
		defer cancel()
		var p sample.Value
		if p, last = o.write(ctx, v); last != nil {
			return false
		}
		last = errors.Join(o.holds(p), o.reads(p))
		return last == nil
	}) {
		return fmt.Errorf("after the device came back: %w", last)
	}
	if !eventually(o.r.h.patience(), o.r.health.IsUp) {
		return fmt.Errorf("Health.Up was not called after the device came back; changes: %v", o.r.health.Changes())
	}
	return nil
}

func checkTargetGone(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		if r.dev.Stop == nil {
			return nil
		}
		ctx, cancel := r.context()
		defer cancel()
		o := r.targets[0]
		p, err := o.write(ctx, o.Good[0])
		if err != nil {
			return err
		}
		if err := o.holds(p); err != nil {
			return err
		}
		other, err := o.Prepare(ctx, o.Good[1])
		if err != nil {
			return err
		}
		n := r.dev.Writes()
		r.dev.Stop()
		// The first write may meet a connection whose end is not known yet.
		var outcome protocols.WriteOutcome
		var wrong error
		if !eventually(h.patience(), func() bool {
			err := o.Write(ctx, o.command(other))
			wrong = failed(err, protocols.Unsent, protocols.Unknown)
			outcome = protocols.OutcomeOf(err)
			return wrong != nil || outcome == protocols.Unsent
		}) {
			return fmt.Errorf("a write stays %s while the device is away", outcome)
		}
		if wrong != nil {
			return wrong
		}
		if !r.health.IsDown() {
			return fmt.Errorf("Health.Down was not called; changes: %v", r.health.Changes())
		}
		// What was not sent is not sent later.
		r.dev.Resume()
		if err := r.undisturbed(n); err != nil {
			return fmt.Errorf("after the device came back: %w", err)
		}
		if err := o.holds(p); err != nil {
			return fmt.Errorf("after the device came back: %w", err)
		}
		return o.comesBack(o.Good[1])
	})
}

func checkTargetLost(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		if r.dev.LoseAnswers == nil {
			return nil
		}
		ctx, cancel := r.context()
		defer cancel()
		for i, o := range r.targets {
			n := r.dev.Writes()
			if _, err := o.write(ctx, o.Good[0]); err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
			each := r.dev.Writes() - n
			p, err := o.Prepare(ctx, o.Good[1])
			if err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
			n = r.dev.Writes()
			r.dev.LoseAnswers(true)
			limited, stop := context.WithTimeout(ctx, h.limit())
			err = failed(o.Write(limited, o.command(p)), protocols.Unknown)
			stop()
			r.dev.LoseAnswers(false)
			if err != nil {
				return fmt.Errorf("place %d: a write whose answer is lost: %w", i, err)
			}
			if err := o.holds(p); err != nil {
				return fmt.Errorf("place %d: after a lost answer: %w", i, err)
			}
			if err := o.reads(p); err != nil {
				return fmt.Errorf("place %d: after a lost answer: %w", i, err)
			}
			if err := r.undisturbed(n + each); err != nil {
				return fmt.Errorf("place %d: a write whose answer was lost is repeated: %w", i, err)
			}
			if err := o.comesBack(o.Good[0]); err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
		}
		return nil
	})
}

func checkTargetRejected(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		if r.dev.Reject == nil {
			return nil
		}
		ctx, cancel := r.context()
		defer cancel()
		for i, o := range r.targets {
			p, err := o.write(ctx, o.Good[0])
			if err == nil {
				err = o.holds(p)
			}
			if err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
			other, err := o.Prepare(ctx, o.Good[1])
			if err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
			r.dev.Reject(true)
			err = failed(o.Write(ctx, o.command(other)), protocols.Rejected)
			r.dev.Reject(false)
			if err == nil {
				err = o.holds(p)
			}
			if err != nil {
				return fmt.Errorf("place %d: a write that the device rejects: %w", i, err)
			}
			if err := o.comesBack(o.Good[1]); err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
		}
		return nil
	})
}

func checkTargetTell(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		ctx, cancel := r.context()
		defer cancel()
		for i, o := range r.targets {
			for n, v := range o.Good[:2] {
				p, err := o.write(ctx, v)
				if err != nil {
					return fmt.Errorf("place %d: %w", i, err)
				}
				if err := o.holds(p); err != nil {
					return fmt.Errorf("place %d: %w", i, err)
				}
				for _, s := range []protocols.State{{Valid: true, Heartbeat: uint16(n)}, {Valid: true, Heartbeat: 65535}, {Valid: false, Heartbeat: 0}, {Valid: false, Heartbeat: 1}} {
					if err := o.checkTell(ctx, p, s); err != nil {
						return fmt.Errorf("place %d: after Tell %+v: %w", i, s, err)
					}
				}
			}
		}
		return nil
	})
}

func (o *opened) checkTell(ctx context.Context, p sample.Value, s protocols.State) error {
	if err := o.Tell(ctx, s); err != nil {
		return errors.Join(err, oneLine(err))
	}
	if o.Valid != nil {
		var got bool
		var err error
		if !eventually(o.r.h.patience(), func() bool { got, err = o.Valid(); return err == nil && got == s.Valid }) {
			return fmt.Errorf("the device shows valid %t (%w)", got, orNone(err))
		}
	}
	if o.Heartbeat != nil {
		var got uint16
		var err error
		if !eventually(o.r.h.patience(), func() bool { got, err = o.Heartbeat(); return err == nil && got == s.Heartbeat }) {
			return fmt.Errorf("the device shows heartbeat %d (%w)", got, orNone(err))
		}
	}
	if o.Emptied && !s.Valid {
		return o.holds(sample.Value{})
	}
	return o.holds(p)
}

func checkTargetClose(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		ctx, cancel := r.context()
		defer cancel()
		o := r.targets[0]
		other, err := r.open(o.TargetPlace)
		if err != nil {
			return err
		}
		if _, err := o.write(ctx, o.Good[0]); err != nil {
			return err
		}
		n := r.dev.Writes()
		if err := o.Close(); err != nil {
			return fmt.Errorf("Close: %w", err)
		}
		if err := o.Close(); err != nil {
			return fmt.Errorf("the second Close: %w", err)
		}
		if err := failed(o.Write(ctx, o.command(o.Good[1])), protocols.Unsent); err != nil {
			return fmt.Errorf("Write after Close: %w", err)
		}
		if err := r.undisturbed(n); err != nil {
			return fmt.Errorf("after Close: %w", err)
		}
		p, err := other.write(ctx, o.Good[1])
		if err != nil {
			return fmt.Errorf("another target of the connection, after Close of the one: %w", err)
		}
		return other.holds(p)
	})
}

// rounds is how often values are written at the same time.
const rounds = 10

func checkTargetTogether(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		ctx, cancel := r.context()
		defer cancel()
		var out Collector
		ended := make(chan error, 1)
		running, stop := context.WithCancel(ctx)
		defer stop()
		if r.dev.Source == nil {
			ended <- nil
		} else {
			if faults := r.dev.Config.Validate(r.dev.Source); len(faults) > 0 {
				return fmt.Errorf("Validate finds fault with the source: %+v", faults)
			}
			var health HealthRecorder
			src, err := r.conn.OpenSource(r.dev.Source, &health)
			if err != nil {
				return fmt.Errorf("OpenSource: %w", err)
			}
			go func() { ended <- src.Run(running, out.Emit) }()
			if !eventually(h.patience(), health.IsUp) {
				return fmt.Errorf("the source does not come up: %v", health.Changes())
			}
		}
		last := make([]sample.Value, len(r.targets))
		errs := make([]error, len(r.targets))
		var all sync.WaitGroup
		for i, o := range r.targets {
			all.Go(func() {
				for n := range rounds {
					if last[i], errs[i] = o.write(ctx, o.Good[n%2]); errs[i] != nil {
						return
					}
					if _, errs[i] = o.Read(ctx); errs[i] != nil {
						return
					}
				}
			})
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for i, o := range r.targets {
			if err := errors.Join(o.holds(last[i]), o.reads(last[i])); err != nil {
				return fmt.Errorf("place %d: %w", i, err)
			}
		}
		if r.dev.Source != nil && !out.Wait(h.patience(), func(list []sample.Sample) bool {
			return len(list) > 0 && list[len(list)-1].Value == last[0]
		}) {
			return fmt.Errorf("the source on the same connection does not read %s; it has emitted %d samples", last[0], len(out.Samples()))
		}
		stop()
		return <-ended
	})
}

func checkTargetCancelled(t *testing.T, h TargetHarness) error {
	return onTarget(t, h, func(r *targetRig) error {
		ctx, cancel := r.context()
		defer cancel()
		o := r.targets[0]
		p, err := o.write(ctx, o.Good[0])
		if err != nil {
			return err
		}
		other, err := o.Prepare(ctx, o.Good[1])
		if err != nil {
			return err
		}
		n := r.dev.Writes()
		done, end := context.WithCancel(ctx)
		end()
		if err := failed(o.Write(done, o.command(other)), protocols.Unsent); err != nil {
			return fmt.Errorf("Write with a context that is done: %w", err)
		}
		if err := r.undisturbed(n); err != nil {
			return fmt.Errorf("after a Write with a context that is done: %w", err)
		}
		if err := o.holds(p); err != nil {
			return err
		}
		return o.comesBack(o.Good[1])
	})
}

func checkTargetGoroutines(t *testing.T, h TargetHarness) error {
	before := len(stacks(h.IgnoreGoroutines))
	var err error
	t.Run("run", func(t *testing.T) { err = checkTargetTogether(t, h) })
	if err != nil {
		return err
	}
	t.Run("away", func(t *testing.T) { err = checkTargetGone(t, h) })
	if err != nil {
		return err
	}
	var now []string
	if eventually(5*time.Second, func() bool {
		now = stacks(h.IgnoreGoroutines)
		return len(now) <= before
	}) {
		return nil
	}
	return fmt.Errorf("%d goroutines before, %d after:\n%s", before, len(now), strings.Join(now, "\n\n"))
}
