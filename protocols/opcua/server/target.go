package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/sample"
)

const (
	// folderPrefix begins the node ids of folders, which no tag has.
	folderPrefix = "folder:"
	mirrorFolder = "mirror"
	// maxText bounds a text value, in bytes.
	maxText = 4096
)

// mirrorVariable holds what the mirror has last written to one node.
type mirrorVariable struct {
	node string
	info protocols.TargetInfo

	mu      sync.Mutex
	written bool
	command protocols.Command
	// deadline is ValidUntil by the monotonic clock, so that a wall clock that is
	// set back makes no value live longer. Zero where it has no end.
	deadline  time.Time
	stale     bool
	staleAt   time.Time
	beaten    bool
	heartbeat uint16
}

// reading is what clients get at a time.
func (v *mirrorVariable) reading(now time.Time) reading {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r, bad := v.unusable(now); bad {
		return r
	}
	return shown(v.command.Value, v.command.Quality, 0, v.command.Time)
}

// unusable returns what is shown in place of a value that must not be used.
// Callers hold v.mu.
func (v *mirrorVariable) unusable(now time.Time) (reading, bool) {
	switch {
	case !v.written:
		return reading{status: codeWaiting}, true
	case v.stale:
		return reading{status: codeStale, source: v.staleAt}, true
	case v.expired(now):
		return reading{status: codeExpired, source: v.command.ValidUntil}, true
	}
	return reading{}, false
}

func (v *mirrorVariable) expired(now time.Time) bool {
	if v.command.ValidUntil.IsZero() {
		return false
	}
	return !now.Before(v.command.ValidUntil) || !time.Now().Before(v.deadline)
}

// property returns one of what belongs to the command, which stays when the
// value's validity is over: it tells which value that was.
func (v *mirrorVariable) property(of func(protocols.Command) any) func(time.Time) reading {
	return func(time.Time) reading {
		v.mu.Lock()
		defer v.mu.Unlock()
		if !v.written {
			return reading{status: codeWaiting}
		}
		return reading{value: variant(of(v.command)), source: v.command.Time}
	}
}

func (v *mirrorVariable) beat(now time.Time) reading {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.beaten {
		return reading{status: codeWaiting}
	}
	return reading{value: variant(v.heartbeat), source: now}
}

// write shows a command from now on.
func (v *mirrorVariable) write(c protocols.Command, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.written, v.stale, v.command = true, false, c
	v.deadline = time.Now().Add(c.ValidUntil.Sub(now))
}

// addMirror adds the variable of a target and its properties.
func (s *Server) addMirror(v *mirrorVariable) error {
	info := v.info
	name := info.Name
	if name == "" {
		name = v.node
	}
	key := ownKey(v.node)
	n := &node{
		key: key, class: ua.NodeClassVariable, browse: name, browseNS: nsGateway, display: name, rank: -1,
		description: "result of the mirror for target " + name,
		dataType:    func() uint32 { return kindType(info.Kind) }, read: v.reading,
	}
	definition := uint32(63)
	if info.Unit != "" {
		definition = analogUnitType
	}
	if err := s.space.add(n, ownKey(folderPrefix+mirrorFolder), id.HasComponent, definition); err != nil {
		return err
	}
	err := errors.Join(
		s.addProperty(key, "Version", uint32(ua.TypeIDUint64), v.property(func(c protocols.Command) any { return c.Version })),
		s.addProperty(key, "ComputedAt", 294, v.property(func(c protocols.Command) any { return c.Time })),
		s.addProperty(key, "ValidUntil", 294, v.property(func(c protocols.Command) any { return c.ValidUntil })),
		s.addProperty(key, "Heartbeat", uint32(ua.TypeIDUint16), v.beat),
	)
	return errors.Join(err, s.addUnit(key, info.Unit))
}

// addProperty adds a property that changes.
func (s *Server) addProperty(of nodeKey, name string, dataType uint32, read func(time.Time) reading) error {
	n := &node{key: ownKey(of.text + "." + name), class: ua.NodeClassVariable, browse: name, browseNS: nsGateway, display: name, rank: -1, dataType: func() uint32 { return dataType }, read: read}
	return s.space.add(n, of, id.HasProperty, 68)
}

// addUnit adds the unit, where it is known. Its browse name is OPC UA's own, as
// OPC 10000-8, 5.3.2.4 has it.
func (s *Server) addUnit(of nodeKey, unit string) error {
	if unit == "" {
		return nil
	}
	fixed := reading{value: variant(ua.NewExtensionObject(unitInfo(unit))), source: s.started}
	n := &node{
		key: ownKey(of.text + ".EngineeringUnits"), class: ua.NodeClassVariable, browse: "EngineeringUnits", display: "EngineeringUnits", rank: -1,
		constant: true, dataType: func() uint32 { return 887 }, read: func(time.Time) reading { return fixed },
	}
	return s.space.add(n, of, id.HasProperty, 68)
}

// target is one handle to a variable.
type target struct {
	srv    *Server
	v      *mirrorVariable
	health protocols.Health
	closed bool
}

var errClosed = errors.New("the target is closed: open it again")

// OpenTarget implements protocols.TargetOpener.
func (s *Server) OpenTarget(t protocols.TargetConfig, h protocols.Health) (protocols.Target, error) {
	cfg, ok := t.(*TargetConfig)
	if !ok {
		return nil, fmt.Errorf("BUG: settings of type %T for a target of the OPC UA server", t)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.build(); err != nil {
		return nil, err
	}
	v := s.mirrors[cfg.node()]
	if v == nil {
		v = &mirrorVariable{node: cfg.node(), info: cfg.info}
		if err := s.addMirror(v); err != nil {
			return nil, fmt.Errorf("target %s: %w", cfg.info.Name, err)
		}
		s.mirrors[v.node] = v
	}
	return &target{srv: s, v: v, health: h}, nil
}

// Prepare implements protocols.Target.
func (t *target) Prepare(_ context.Context, v sample.Value) (sample.Value, error) {
	if want := t.v.info.Kind; v.Kind() == sample.Null || want != sample.Null && v.Kind() != want {
		return sample.Value{}, protocols.Unsuitedf("node %s shows %s, and the value is %s: correct the target's type", t.v.node, want, v.Kind())
	}
	if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
		return sample.Value{}, protocols.Unsuitedf("node %s: %s is not a number that a client can use", t.v.node, v)
	}
	if s := v.Str(); len(s) > maxText || !utf8.ValidString(s) {
		return sample.Value{}, protocols.Unsuitedf("node %s: the text has more than %d bytes, or is not UTF-8", t.v.node, maxText)
	}
	return v, nil
}

// Write implements protocols.Target.
func (t *target) Write(ctx context.Context, c protocols.Command) error {
	if err := t.ready(ctx); err != nil {
		return &protocols.WriteError{Outcome: protocols.Unsent, Err: err}
	}
	if _, err := t.Prepare(ctx, c.Value); err != nil {
		return err
	}
	t.v.write(c, t.srv.now())
	t.health.Up()
	return nil
}

func (t *target) ready(ctx context.Context) error {
	if t.closed {
		return fmt.Errorf("node %s: %w", t.v.node, errClosed)
	}
	return context.Cause(ctx)
}

// Read implements protocols.Target.
func (t *target) Read(ctx context.Context) (protocols.Reading, error) {
	if err := t.ready(ctx); err != nil {
		return protocols.Reading{}, err
	}
	now := t.srv.now()
	t.v.mu.Lock()
	defer t.v.mu.Unlock()
	if r, bad := t.v.unusable(now); bad {
		return protocols.Reading{Quality: sample.Quality(r.status), Time: now, SourceTime: r.source, Version: t.v.command.Version}, nil
	}
	c := t.v.command
	return protocols.Reading{Value: c.Value, Quality: c.Quality, Time: now, SourceTime: c.Time, Version: c.Version}, nil
}

// Tell implements protocols.Target.
func (t *target) Tell(ctx context.Context, s protocols.State) error {
	if err := t.ready(ctx); err != nil {
		return &protocols.WriteError{Outcome: protocols.Unsent, Err: err}
	}
	t.v.mu.Lock()
	if !s.Valid && !t.v.stale {
		t.v.staleAt = t.srv.now()
	}
	t.v.stale, t.v.heartbeat, t.v.beaten = !s.Valid, s.Heartbeat, true
	t.v.mu.Unlock()
	t.srv.beat()
	return nil
}

// Restore implements protocols.Restorer.
func (t *target) Restore(c protocols.Command) {
	now := t.srv.now()
	if !c.ValidUntil.IsZero() && !now.Before(c.ValidUntil) {
		return
	}
	t.v.write(c, now)
}

// Close implements protocols.Target. What was shown stays as long as it is valid.
func (t *target) Close() error {
	t.closed = true
	return nil
}
