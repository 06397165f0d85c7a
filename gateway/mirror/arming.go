package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/gateway/mirror/guard"
)

// commandWithin bounds how long a command waits for the audit log.
const commandWithin = 10 * time.Second

// mode is what the target may do now. Callers hold mu.
func (m *Mirror) mode(t *target) guard.Mode {
	if t.cfg.Mode == guard.Off {
		return guard.Off
	}
	if t.disarming {
		return guard.DryRun
	}
	st := m.state.Targets[t.cfg.Name]
	if st == nil || st.Arming == nil {
		return t.cfg.Mode
	}
	switch a := st.Arming; {
	case a.Armed && a.From.Boot == m.boot && m.s.SinceBoot()-a.From.Since < a.For:
		return guard.Armed
	case a.Disarmed:
		return guard.DryRun
	}
	return t.cfg.Mode
}

func (t *target) modeNow() guard.Mode {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	return t.m.mode(t)
}

// ended is what is left of a once its time is over.
func (a *arming) ended() change {
	if a.Disarmed {
		return change{Arming: &arming{Disarmed: true, From: a.From, Who: a.Who}}
	}
	return change{NoArming: true}
}

// Arm raises a target from dry_run to armed for d, at most MaxArming. With
// d = Configured it gives a target that was disarmed by hand its configured
// mode back. who is the caller, for the audit log, which has it first.
func (m *Mirror) Arm(target string, d time.Duration, who string) error {
	t, err := m.commanded(target)
	if err != nil {
		return err
	}
	if !t.command.within(commandWithin) {
		return fmt.Errorf("target %s is not armed: %w", target, errCommandWaits)
	}
	defer t.command.leave()
	m.mu.Lock()
	disarms := t.disarms
	m.mu.Unlock()
	e, err := t.armEntry(d, who)
	if err != nil {
		return err
	}
	if err := t.recordCommand(e); err != nil {
		return fmt.Errorf("target %s is not armed: the audit log takes no record: %w", target, err)
	}
	m.mu.Lock()
	if t.disarms == disarms { // else who disarms it now has the last word
		t.disarming = false
	}
	m.mu.Unlock()
	t.poke()
	return nil
}

// armEntry is the record that arms the target, if it can be armed.
func (t *target) armEntry(d time.Duration, who string) (*entry, error) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	a := t.m.state.of(t.cfg.Name).Arming
	disarmed := t.disarming || (a != nil && a.Disarmed)
	byConfig := t.cfg.Mode == guard.Armed
	e := &entry{kind: kindArm, target: t.cfg.Name, who: who}
	switch {
	case d < 0 || d > MaxArming:
		return nil, fmt.Errorf("target %s can be armed for at most %s; for longer, set mode: armed in the configuration", t.cfg.Name, MaxArming)
	case byConfig && !disarmed:
		return nil, fmt.Errorf("target %s is armed by the configuration already", t.cfg.Name)
	case d == Configured && !byConfig:
		return nil, fmt.Errorf("target %s is not armed by the configuration; say for how long to arm it", t.cfg.Name)
	case d == Configured:
		e.detail, e.change.NoArming = "as the configuration says", true
		return e, nil
	}
	now := t.m.moment()
	e.change.Arming = &arming{Disarmed: byConfig && disarmed, Armed: true, From: now, For: d, Until: now.At.Add(d), Who: who}
	e.detail = fmt.Sprintf("for %s, until %s", d, e.change.Arming.Until.Format(time.RFC3339))
	return e, nil
}

// Disarm takes a target down to dry_run. When it returns, no write is under way
// and none will begin. It holds across restarts, until Arm.
func (m *Mirror) Disarm(target, who string) error {
	t, err := m.commanded(target)
	if err != nil {
		return err
	}
	// In force first, so that a failing log cannot keep a target armed.
	t.stopWriting()
	if !t.command.within(commandWithin) {
		return fmt.Errorf("target %s is disarmed until the gateway stops: %w", target, errCommandWaits)
	}
	defer t.command.leave()
	if !t.gate.within(ioWithin + commandWithin) {
		return fmt.Errorf("target %s is disarmed until the gateway stops, but a write that began before does not end; look at the device", target)
	}
	t.gate.leave()
	e := &entry{kind: kindDisarm, target: target, who: who, change: change{Arming: &arming{Disarmed: true, From: m.moment(), Who: who}}}
	if err := t.recordCommand(e); err != nil {
		return fmt.Errorf("target %s is disarmed until the gateway stops, but the audit log takes no record of it: %w", target, err)
	}
	m.mu.Lock()
	t.disarming = false
	m.mu.Unlock()
	t.poke()
	return nil
}

// stopWriting keeps any write from beginning.
func (t *target) stopWriting() {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.disarming = true
	t.disarms++
}

// errCommandWaits says that a command cannot be recorded since another is not yet.
var errCommandWaits = errors.New("a command before it still waits for the audit log; see its state by millrace mirror status")

// lock is a mutex that can be waited for with a time limit.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) take() { l <- struct{}{} }

func (l lock) leave() { <-l }

// within takes the lock, or gives up after d.
func (l lock) within(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case l <- struct{}{}:
		return true
	case <-t.C:
		return false
	}
}

// commanded is the target of a command, which has to be one that can be armed.
func (m *Mirror) commanded(name string) (*target, error) {
	t := m.byName[name]
	if t == nil {
		return nil, fmt.Errorf("there is no mirror target %q", name)
	}
	if t.dev == nil {
		return nil, fmt.Errorf("target %s is off by the configuration; set mode: dry_run there first", name)
	}
	return t, nil
}

func (t *target) recordCommand(e *entry) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandWithin)
	defer cancel()
	if err := t.m.record(ctx, func() {}, e); err != nil {
		return err
	}
	t.m.settled(e)
	return nil
}

// endArming ends an arming whose time is over. The time runs by the clock that
// is not stepped. After a reboot the wall clock says what is left, once it is
// synchronised; until then the target is not armed.
func (t *target) endArming(ctx context.Context) {
	select {
	case t.command <- struct{}{}:
	default:
		t.within(time.Second) // a command is being recorded
		return
	}
	defer t.command.leave()
	m := t.m
	m.mu.Lock()
	a := m.state.of(t.cfg.Name).Arming
	m.mu.Unlock()
	if a == nil || !a.Armed {
		return
	}
	end := &entry{kind: kindArmedEnd, target: t.cfg.Name, who: a.Who, change: a.ended(), detail: fmt.Sprintf("armed for %s, which are over", a.For)}
	if a.From.Boot == m.boot {
		if left := a.For - (m.s.SinceBoot() - a.From.Since); left > 0 {
			t.within(left)
			return
		}
		_ = t.record(ctx, end)
		return
	}
	if !m.s.Synchronised() {
		t.within(time.Second)
		return
	}
	now := m.moment()
	left := min(a.Until.Sub(now.At), a.For)
	switch {
	case now.At.Before(a.From.At.Add(-guard.ClockSlack)):
		end.detail = "the machine was started anew, and its clock shows a time before the arming"
		fallthrough
	case left <= 0:
		_ = t.record(ctx, end)
	default:
		_ = t.record(ctx, &entry{
			kind: kindArm, target: t.cfg.Name, who: a.Who, detail: fmt.Sprintf("goes on after a reboot, until %s", a.Until.Format(time.RFC3339)),
			change: change{Arming: &arming{Disarmed: a.Disarmed, Armed: true, From: now, For: left, Until: a.Until, Who: a.Who}},
		})
		t.within(0)
	}
}
