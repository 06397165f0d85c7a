package spool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"
)

const (
	// probeStall is how long a child that looks at a file may read nothing
	// before it is taken to hang: it follows pages that run in circles, or the
	// disk does not answer. A start waits for it, and has five seconds.
	probeStall = 2500 * time.Millisecond
	// salvageStall is the same for a child that writes: a sync may take long.
	salvageStall = 60 * time.Second
	// salvageRetry is how long a damaged segment waits for space.
	salvageRetry = time.Minute
	// childWait is how long a child's output is waited for after its end.
	childWait = time.Second
)

// errUnprobed says that nobody has looked at a segment yet: it must not be
// mapped.
var errUnprobed = errors.New("the segment has not been probed")

// runProbe runs a job in a child, or where Options name none in this process.
// A child that crashes or hangs says by that that the file is corrupt. An
// error says nothing of the file.
func (s *Spool) runProbe(ctx context.Context, j *probeJob) (probeReport, error) {
	if s.hooks.probe != nil {
		s.hooks.probe(j)
	}
	r, err := s.runChild(ctx, j)
	if err != nil {
		return r, err
	}
	if r.Verdict == verdictFailed {
		return r, fmt.Errorf("look at %s: %s", j.Path, r.Why)
	}
	return r, nil
}

func (s *Spool) runChild(ctx context.Context, j *probeJob) (r probeReport, err error) {
	if s.o.Probe == nil {
		return j.run(func(int) {}), ctx.Err()
	}
	limit := s.hooks.stall
	if limit == 0 {
		limit = probeStall
	}
	if j.Salvage != "" {
		limit = max(limit, salvageStall)
	}
	running, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	cmd := s.o.Probe(running, j.args()...)
	cmd.WaitDelay = childWait
	errStalled := fmt.Errorf("the process that looks at it did not get on for %v", limit)
	timer := time.AfterFunc(limit, func() { kill(errStalled) })
	defer timer.Stop()
	out := &childOutput{onByte: func() { timer.Reset(limit) }}
	crash := &firstLine{}
	cmd.Stdout, cmd.Stderr = out, crash
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case context.Cause(running) != nil:
		return probeReport{Verdict: verdictCorrupt, Why: context.Cause(running).Error()}, nil
	case errors.As(err, &exit):
		return probeReport{Verdict: verdictCorrupt, Why: fmt.Sprintf("the process that looks at it crashed: %v %s", exit, crash.line)}, nil
	case err != nil:
		s.log.Warn("no process could be started to look at a file of the spool; it is looked at by the gateway itself", "file", j.Path, "error", err)
		return j.run(func(int) {}), ctx.Err()
	}
	if err := json.Unmarshal(out.report.Bytes(), &r); err != nil {
		return probeReport{Verdict: verdictCorrupt, Why: "the process that looks at it said nothing that reads"}, nil
	}
	return r, nil
}

// childOutput takes a child's progress and report apart.
type childOutput struct {
	onByte func()
	report bytes.Buffer
}

func (o *childOutput) Write(b []byte) (int, error) {
	n := len(b)
	o.onByte()
	if o.report.Len() == 0 {
		b = bytes.TrimLeft(b, string(progressByte))
	}
	o.report.Write(b)
	return n, nil
}

// firstLine keeps the beginning of what a crash says.
type firstLine struct{ line []byte }

func (l *firstLine) Write(b []byte) (int, error) {
	const most = 200
	if room := most - len(l.line); room > 0 && !bytes.ContainsRune(l.line, ';') {
		line, _, more := bytes.Cut(b, []byte("\n"))
		l.line = append(l.line, line[:min(len(line), room)]...)
		if more {
			l.line = append(l.line, ';')
		}
	}
	return len(b), nil
}

// prober looks at older segments before they are mapped: those that are asked
// for, and after each the one that is read next.
type prober struct {
	requests chan probeRequest
	stop     context.CancelFunc
	ctx      context.Context
	done     sync.WaitGroup
}

type probeRequest struct {
	g     *segment
	again bool // it failed since it was looked at
	reply chan error
}

// startProber is the last step of an opening.
func (s *Spool) startProber() {
	ctx, stop := context.WithCancel(context.Background())
	p := &prober{requests: make(chan probeRequest), ctx: ctx, stop: stop}
	s.prober = p
	p.done.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case r := <-p.requests:
				r.reply <- s.probeOlder(ctx, r.g, r.again)
				s.probeAhead(ctx, r.g)
			}
		}
	})
}

// stopProber ends a probe that runs, and waits for it.
func (s *Spool) stopProber() {
	if s.prober == nil {
		return
	}
	s.prober.stop()
	s.prober.done.Wait()
}

// ensure returns after a segment has been looked at. Callers hold no lock.
func (s *Spool) ensure(g *segment, again bool) error {
	if g.probed.Load() && !again {
		return nil
	}
	if s.readOnly {
		return s.probeReadOnly(g)
	}
	r := probeRequest{g: g, again: again, reply: make(chan error, 1)}
	select {
	case s.prober.requests <- r:
	case <-s.prober.ctx.Done():
		return errClosed
	}
	select {
	case err := <-r.reply:
		return err
	case <-s.prober.ctx.Done():
		return errClosed
	}
}

// probeAhead looks at the segment after one that is read.
func (s *Spool) probeAhead(ctx context.Context, g *segment) {
	s.mu.Lock()
	var next *segment
	for _, x := range s.segs[:len(s.segs)-1] {
		if x.id > g.id {
			next = x
			break
		}
	}
	s.mu.Unlock()
	if next == nil {
		return
	}
	if err := s.probeOlder(ctx, next, false); err != nil && ctx.Err() == nil {
		s.log.Debug("a segment could not be looked at ahead of its reader", "file", next.path, "error", err)
	}
}

// probeOlder looks at an older segment, and salvages it where it is bad. It
// returns nil where the reader can go on, with or without the segment.
func (s *Spool) probeOlder(ctx context.Context, g *segment, again bool) error {
	if g.probed.Load() && !again {
		return nil
	}
	if g.waits != nil && s.now().Sub(g.waitsFrom) < salvageRetry {
		return g.waits
	}
	g.waits = nil
	j := probeJob{Path: g.path, Role: roleSegment, ID: g.id}
	r, err := s.runProbe(ctx, &j)
	if err == nil && r.Verdict == verdictNewer {
		err = s.newer(g.path, r.Why)
	}
	if err == nil && r.Verdict == verdictGood {
		g.probed.Store(true)
		return nil
	}
	var x rescued
	if err == nil {
		x, err = s.salvage(ctx, &j, r.Why)
	}
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if g.isGone() {
		return x.drop() // it was evicted or drained meanwhile
	}
	if err == nil {
		err = s.usable()
	}
	if err == nil {
		err = s.install(g, &x)
	}
	var corrupt *corruptError
	switch {
	case errors.Is(err, errReplaced):
		return nil // whoever reads there asks again
	case errors.As(err, &corrupt) && corrupt.full:
		// What can be rescued is not given up for want of space.
		g.waits = &FullError{Dir: s.o.Dir, Err: corrupt}
		g.waitsFrom = s.now()
		g.probed.Store(false) // who reads there hears of it, and does not try again
		return g.waits
	case errors.As(err, &corrupt):
		return s.giveUp(g, corrupt)
	case err != nil:
		return err
	}
	g.probed.Store(true)
	if err := s.declareLocked(g, x.report.Lost); err != nil {
		return err
	}
	// The bad file that is kept counts towards the bound too.
	if err := s.makeRoom(0, withReserve); err != nil {
		var full *FullError
		if !errors.As(err, &full) {
			return err
		}
	}
	return nil
}

// probeReadOnly looks at a segment in this process, and changes nothing.
func (s *Spool) probeReadOnly(g *segment) error {
	j := probeJob{Path: g.path, Role: roleSegment, ID: g.id}
	r := j.run(func(int) {})
	if r.Verdict != verdictGood {
		return &corruptError{path: g.path, why: r.Why + "; the gateway salvages it when it reads there"}
	}
	g.probed.Store(true)
	return nil
}
