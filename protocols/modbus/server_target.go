package modbus

import (
	"context"
	"fmt"
	"time"

	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
)

// shown is a mirror target that clients of the server read. What stands in it
// is guarded by the map's lock.
type shown struct {
	layout
	server *server
	items  []*item
	open   int // handles

	written bool
	valid   bool // the last word of a write or of Tell
	value   words
	last    protocols.Command
	at      time.Time // when it was written
	until   time.Time // its end on the clock that is never stepped
	beat    uint16
}

// serverTarget is a handle on what is shown. Several may stand for one block,
// as one is closed after the next was opened.
type serverTarget struct {
	*shown
	health protocols.Health
	closed bool
}

// OpenTarget implements protocols.TargetOpener.
func (s *server) OpenTarget(cfg protocols.TargetConfig, h protocols.Health) (protocols.Target, error) {
	t, ok := cfg.(*ServerTargetConfig)
	if !ok {
		panic(fmt.Sprintf("BUG: a target of the Modbus server is configured by a %T", cfg))
	}
	name := "a target"
	if t.name != "" {
		name = "target " + t.name
	}
	if faults := t.Validate(t.kind); len(faults) > 0 {
		return nil, fmt.Errorf("open %s at %s: %s: %s; %s", name, t.Address, faults[0].Path, faults[0].Problem, faults[0].Hint)
	}
	l, _ := t.layout(s.cfg.addressing(), t.kind, t.StatusAddress)
	s.regs.mu.Lock()
	defer s.regs.mu.Unlock()
	if x := s.targets[l]; x != nil {
		x.open++
		return &serverTarget{shown: x, health: h}, nil
	}
	x := &shown{layout: l, server: s, open: 1}
	x.items = x.makeItems(name)
	if err := s.regs.put(x.items); err != nil {
		return nil, fmt.Errorf("open %s at %s: %w; give each value registers of its own", name, t.Address, err)
	}
	s.targets[l] = x
	return &serverTarget{shown: x, health: h}, nil
}

func (x *shown) makeItems(name string) []*item {
	items := []*item{{point: x.points[roleValue], name: name, show: x.show}}
	add := func(r role, what string, show func(moment, words) condition) {
		if x.has(r) {
			items = append(items, &item{point: x.points[r], name: what + " of " + name, show: show})
		}
	}
	add(roleVersion, "the version", x.showVersion)
	add(roleValidity, "the validity", number16(&x.points[roleValidity], func(m moment) uint16 {
		if x.condition(m).readable() {
			return 1
		}
		return 0
	}))
	add(roleHeartbeat, "the heartbeat", number16(&x.points[roleHeartbeat], func(moment) uint16 { return x.beat }))
	add(roleStatus, "the status", number16(&x.points[roleStatus], func(m moment) uint16 { return uint16(x.condition(m)) }))
	return items
}

// condition says whether the value can be read. Its validity ends by the wall
// clock, and by the clock that is never stepped too: setting the wall clock
// back gives no value a longer life.
func (x *shown) condition(m moment) condition {
	switch {
	case !x.written:
		return conditionUnwritten
	case !x.last.ValidUntil.IsZero() && (!m.wall.Before(x.last.ValidUntil) || !m.mono.Before(x.until)):
		return conditionExpired
	case !x.valid:
		return conditionMarked
	case x.last.Quality.IsBad():
		return conditionBad
	}
	return doubt(x.last.Quality)
}

func (x *shown) show(m moment, w words) condition {
	c := x.condition(m)
	if c.readable() {
		copy(w, x.value)
	}
	return c
}

func (x *shown) showVersion(_ moment, w words) condition {
	x.points[roleVersion].order.put(w, x.last.Version)
	return conditionGood
}

func (x *shown) unsuited(v sample.Value, err error) error {
	p := &x.points[roleValue]
	return protocols.Unsuitedf("%s: show %s at %s as %s: %w", x.server.name, v, p.address, p.typ, err)
}

// Prepare implements protocols.Target.
func (x *shown) Prepare(_ context.Context, v sample.Value) (sample.Value, error) {
	held, err := x.prepare(v)
	if err != nil {
		return sample.Value{}, x.unsuited(v, err)
	}
	return held, nil
}

// Write implements protocols.Target. Clients find the new command whole from
// the next request on.
func (x *serverTarget) Write(ctx context.Context, c protocols.Command) error {
	value, err := x.encodeValue(c.Value)
	if err == nil && x.has(roleVersion) {
		_, err = x.encodeVersion(c.Version)
	}
	if err != nil {
		return x.unsuited(c.Value, err)
	}
	mono, wall := x.server.clock.Now(), clock.WallOf(x.server.clock)
	x.server.regs.mu.Lock()
	defer x.server.regs.mu.Unlock()
	if err := x.unsent(ctx); err != nil {
		return err
	}
	x.written, x.valid = true, true
	x.value, x.last, x.at = value, c, mono
	x.until = mono.Add(c.ValidUntil.Sub(wall))
	x.health.Up()
	return nil
}

// unsent says why nothing is written. The map is locked.
func (x *serverTarget) unsent(ctx context.Context) error {
	err := ctx.Err()
	if x.closed {
		err = errTargetClosed
	}
	if err != nil {
		return &protocols.WriteError{Outcome: protocols.Unsent, Err: fmt.Errorf("%s: write to %s: %w", x.server.name, x.points[roleValue].address, err)}
	}
	return nil
}

// Restore implements protocols.Restorer. What does not fit the registers any
// more, after a change of the configuration, stays unwritten.
func (x *serverTarget) Restore(c protocols.Command) { _ = x.Write(context.Background(), c) }

// Read implements protocols.Target: what a client would find now. The quality
// is Bad where it would find an exception.
func (x *serverTarget) Read(context.Context) (protocols.Reading, error) {
	regs := x.server.regs
	regs.mu.Lock()
	defer regs.mu.Unlock()
	c := x.condition(regs.now(x.server.clock))
	r := protocols.Reading{Quality: x.last.Quality, Time: x.at, SourceTime: x.last.Time, Version: x.last.Version}
	if !c.readable() && !r.Quality.IsBad() {
		r.Quality = sample.Bad
	}
	if x.written {
		r.Value, _ = x.decodeValue(x.value)
	}
	return r, nil
}

// Tell implements protocols.Target. A value that is past its validity is not
// given again, whatever it says.
func (x *serverTarget) Tell(ctx context.Context, s protocols.State) error {
	x.server.regs.mu.Lock()
	defer x.server.regs.mu.Unlock()
	if err := x.unsent(ctx); err != nil {
		return err
	}
	x.valid = s.Valid
	x.beat, x.server.beat = s.Heartbeat, s.Heartbeat
	x.health.Up()
	return nil
}

// Close implements protocols.Target. With the last handle the registers go:
// what nobody writes any more is not shown.
func (x *serverTarget) Close() error {
	regs := x.server.regs
	regs.mu.Lock()
	defer regs.mu.Unlock()
	if x.closed {
		return nil
	}
	x.closed = true
	if x.open--; x.open == 0 {
		regs.remove(x.items)
		delete(x.server.targets, x.layout)
	}
	return nil
}
