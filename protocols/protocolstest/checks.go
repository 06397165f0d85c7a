package protocolstest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// rig is one source that runs against one device.
type rig struct {
	h      Harness
	dev    *Device
	conn   protocols.Connection
	out    *Collector
	health *HealthRecorder
	cancel context.CancelFunc
	ended  chan error
	start  time.Time
}

// startRig opens the device's source and runs it.
func startRig(h Harness, dev *Device, prepare func(*Collector)) (*rig, error) {
	conn, err := dev.Config.Open(Settings())
	if err != nil {
		return nil, fmt.Errorf("Open: %w", err)
	}
	r := &rig{h: h, dev: dev, conn: conn, out: &Collector{}, health: &HealthRecorder{},
		ended: make(chan error, 1), start: time.Now()}
	src, err := conn.OpenSource(dev.Source, r.health)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("OpenSource: %w", err), conn.Close())
	}
	if dev.Opened != nil {
		dev.Opened(conn)
	}
	if prepare != nil {
		prepare(r.out)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.ended <- src.Run(ctx, r.out.Emit) }()
	return r, nil
}

// stop cancels Run, checks that it returns nil in time, and closes.
func (r *rig) stop() error {
	r.cancel()
	var err error
	select {
	case e := <-r.ended:
		if e != nil {
			err = fmt.Errorf("Run returned %w after its context was done, want nil", e)
		}
	case <-time.After(r.h.stopWithin()):
		err = fmt.Errorf("Run had not returned %s after its context was done", r.h.stopWithin())
		r.out.Release()
		<-r.ended
	}
	r.out.wg.Wait()
	if e := r.conn.Close(); e != nil {
		err = errors.Join(err, fmt.Errorf("Close: %w", e))
	}
	return errors.Join(err, r.out.err(), r.checkSamples())
}

// checkSamples holds for everything that a source ever emits.
func (r *rig) checkSamples() error {
	now := time.Now().UnixNano()
	last := map[string]int64{}
	for _, s := range r.out.everything() {
		if err := sample.CheckTag(s.Tag); err != nil {
			return fmt.Errorf("emitted: %w", err)
		}
		if _, ok := r.dev.Want[s.Tag]; !ok {
			return fmt.Errorf("emitted tag %q, which the device does not have", s.Tag)
		}
		if s.Quality.IsBad() && s.Value.Kind() != sample.Null {
			return fmt.Errorf("tag %s is %s with value %s, want null", s.Tag, s.Quality, s.Value)
		}
		if s.Time < r.start.Add(-time.Second).UnixNano() || s.Time > now {
			return fmt.Errorf("tag %s has time %d, outside of the run", s.Tag, s.Time)
		}
		if s.Time < last[s.Tag] {
			return fmt.Errorf("tag %s went back in time by %s", s.Tag, time.Duration(last[s.Tag]-s.Time))
		}
		last[s.Tag] = s.Time
	}
	return nil
}

// awaitUp waits until the source reports that the device answers.
func (r *rig) awaitUp() error {
	if !eventually(r.h.patience(), r.health.IsUp) {
		return fmt.Errorf("Health.Up was not called within %s; changes so far: %v", r.h.patience(), r.health.Changes())
	}
	return nil
}

// awaitValues publishes where that is needed and waits for every wanted value.
func (r *rig) awaitValues() error {
	if r.dev.Publish != nil {
		ctx, cancel := context.WithTimeout(context.Background(), r.h.patience())
		defer cancel()
		if err := r.dev.Publish(ctx); err != nil {
			return fmt.Errorf("the device could not publish: %w", err)
		}
	}
	var missing string
	found := r.out.Wait(r.h.patience(), func(all []sample.Sample) bool {
		got := map[string]sample.Value{}
		for _, s := range all {
			if s.Quality.IsGood() {
				got[s.Tag] = s.Value
			}
		}
		for tag, want := range r.dev.Want {
			if v, ok := got[tag]; !ok || v != want {
				missing = fmt.Sprintf("tag %s: got %s (Good seen: %t), want %s %s", tag, v, ok, want.Kind(), want)
				return false
			}
		}
		return true
	})
	if !found {
		return errors.New(missing)
	}
	return nil
}

func checkDefaults(_ *testing.T, h Harness) error {
	if h.Protocol.Type() == "" {
		return errors.New("Type is empty")
	}
	a, b := h.Protocol.NewConfig(), h.Protocol.NewConfig()
	if a == nil || a == b {
		return errors.New("NewConfig must return a new config at each call")
	}
	return nil
}

func checkValidate(t *testing.T, h Harness) error {
	dev := h.Start(t)
	if dev.Config.LinkKey() == "" {
		return errors.New("LinkKey is empty")
	}
	if faults := dev.Config.Validate(dev.Source); len(faults) != 0 {
		return fmt.Errorf("Validate finds fault with the good configuration: %+v", faults)
	}
	cfg, src, paths := h.Faulty()
	if len(paths) < 2 {
		return errors.New("Faulty must supply two faults or more")
	}
	faults := cfg.Validate(src)
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

func checkValues(t *testing.T, h Harness) error {
	r, err := startRig(h, h.Start(t), nil)
	if err != nil {
		return err
	}
	err = r.awaitUp()
	if err == nil {
		err = r.awaitValues()
	}
	return errors.Join(err, r.stop())
}

func checkAway(t *testing.T, h Harness) error {
	dev := h.Start(t)
	if dev.Stop == nil {
		return nil
	}
	r, err := startRig(h, dev, nil)
	if err != nil {
		return err
	}
	err = func() error {
		if err := r.awaitUp(); err != nil {
			return err
		}
		if err := r.awaitValues(); err != nil {
			return err
		}
		r.out.Reset()
		dev.Stop()
		if err := r.awaitDown(); err != nil {
			return err
		}
		r.out.Reset()
		dev.Resume()
		if err := r.awaitBack(); err != nil {
			return err
		}
		if n := len(r.health.Changes()); n != 3 {
			return fmt.Errorf("one outage made %d changes of state, want Up, Down, Up: %v", n, r.health.Changes())
		}
		return nil
	}()
	return errors.Join(err, r.stop())
}

func checkAwayAtStart(t *testing.T, h Harness) error {
	dev := h.Start(t)
	if dev.Stop == nil {
		return nil
	}
	dev.Stop()
	r, err := startRig(h, dev, nil)
	if err != nil {
		return err
	}
	err = r.awaitDown()
	if err == nil {
		r.out.Reset()
		dev.Resume()
		err = r.awaitBack()
	}
	return errors.Join(err, r.stop())
}

// awaitDown checks what a source does while its device is away.
func (r *rig) awaitDown() error {
	if !eventually(r.h.patience(), r.health.IsDown) {
		return errors.New("Health.Down was not called although the device is away")
	}
	changes := r.health.Changes()
	down := changes[len(changes)-1].Error()
	if down == "" || strings.ContainsAny(down, "\r\n") {
		return fmt.Errorf("the message of Down must be one line: %q", down)
	}
	// A subscribed source says Bad once, a polled one at each scan.
	need := map[Mode]int{Polled: 2, Subscribed: 1, Acknowledged: 0}[r.h.Mode]
	missing := ""
	if !r.out.Wait(r.h.patience(), func(all []sample.Sample) bool {
		bad := map[string]int{}
		for _, s := range all {
			if s.Quality.IsBad() {
				bad[s.Tag]++
			}
		}
		for tag := range r.dev.Want {
			if bad[tag] < need {
				missing = tag
				return false
			}
		}
		return true
	}) {
		return fmt.Errorf("the device is away and tag %s was not emitted as Bad %d times", missing, need)
	}
	beats := r.health.Beats()
	if !eventually(r.h.patience(), func() bool { return r.health.Beats() >= beats+2 }) {
		return errors.New("Health.Beat is not called while the device is away")
	}
	return nil
}

// awaitBack checks that the source recovers by itself.
func (r *rig) awaitBack() error {
	if err := r.awaitUp(); err != nil {
		return fmt.Errorf("after the device came back: %w", err)
	}
	if err := r.awaitValues(); err != nil {
		return fmt.Errorf("after the device came back: %w", err)
	}
	return nil
}

func checkEnd(t *testing.T, h Harness) error {
	for _, away := range []bool{false, true} {
		dev := h.Start(t)
		if away && dev.Stop == nil {
			continue
		}
		if away {
			dev.Stop()
		}
		r, err := startRig(h, dev, nil)
		if err != nil {
			return err
		}
		ok := eventually(h.patience(), func() bool {
			return away && r.health.IsDown() || !away && r.health.IsUp()
		})
		if !ok {
			err = fmt.Errorf("device away %t: state changes are %v", away, r.health.Changes())
		}
		if err := errors.Join(err, r.stop()); err != nil {
			return fmt.Errorf("device away %t: %w", away, err)
		}
	}
	return nil
}

func checkOrder(t *testing.T, h Harness) error {
	const last = 8
	dev := h.Start(t)
	if dev.Send == nil {
		return nil
	}
	r, err := startRig(h, dev, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.patience())
	defer cancel()
	sent := make(chan error, 1)
	err = func() error {
		if err := r.awaitUp(); err != nil {
			return err
		}
		if err := r.awaitValues(); err != nil {
			return err
		}
		r.out.Block()
		r.out.Reset()
		go func() {
			for n := int64(1); n <= last; n++ {
				if err := dev.Send(ctx, n); err != nil {
					sent <- fmt.Errorf("the device could not send %d: %w", n, err)
					return
				}
			}
			sent <- nil
		}()
		if !eventually(h.patience(), func() bool { return r.out.Inside() > 0 }) {
			return errors.New("Emit was not called")
		}
		// Longer than several scans: a source that queues or overwrites would
		// do it now.
		time.Sleep(200 * time.Millisecond)
		r.out.Release()
		if err := <-sent; err != nil {
			return err
		}
		if !r.out.Wait(h.patience(), func(all []sample.Sample) bool {
			c := counts(all, dev.Counter)
			return len(c) > 0 && c[len(c)-1] == last
		}) {
			return fmt.Errorf("the last value %d did not arrive; got %v", last, counts(r.out.Samples(), dev.Counter))
		}
		return r.checkCounts(last)
	}()
	r.out.Release()
	return errors.Join(err, r.stop())
}

// checkCounts reports values that are out of order and, where the device
// sends by itself, values that are missing.
func (r *rig) checkCounts(last int64) error {
	got := counts(r.out.Samples(), r.dev.Counter)
	seen := map[int64]bool{}
	var before int64
	for _, n := range got {
		if n < 1 || n > last {
			continue // what stood there before the first Send
		}
		if n < before {
			return fmt.Errorf("values arrived out of order: %v", got)
		}
		before = n
		seen[n] = true
	}
	if r.h.Mode == Polled {
		return nil
	}
	for n := int64(1); n <= last; n++ {
		if !seen[n] {
			return fmt.Errorf("value %d was lost: %v", n, got)
		}
	}
	return nil
}

// counts returns the Good values of tag in the order of arrival.
func counts(all []sample.Sample, tag string) []int64 {
	var out []int64
	for _, s := range all {
		if s.Tag != tag || !s.Quality.IsGood() {
			continue
		}
		if n, ok := s.Value.Number(); ok {
			out = append(out, int64(n))
		}
	}
	return out
}

func checkBlockedEnd(t *testing.T, h Harness) error {
	dev := h.Start(t)
	r, err := startRig(h, dev, (*Collector).Block)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	published := make(chan struct{})
	go func() {
		defer close(published)
		if dev.Publish == nil || !eventually(h.patience(), r.health.IsUp) {
			return
		}
		// It cannot succeed for an acknowledged source: Emit never returns.
		_ = dev.Publish(ctx)
	}()
	if !eventually(h.patience(), func() bool { return r.out.Inside() > 0 }) {
		err = errors.New("Emit was not called")
	}
	err = errors.Join(err, r.stop())
	cancel()
	<-published
	return err
}

func checkRefused(t *testing.T, h Harness) error {
	if h.Mode != Acknowledged {
		return nil
	}
	for _, late := range []bool{false, true} {
		dev := h.Start(t)
		refuse := func(c *Collector) {
			c.Refuse(&protocols.RefusedError{Reason: "the spool is full", RetryAfter: 50 * time.Millisecond}, late)
		}
		r, err := startRig(h, dev, refuse)
		if err != nil {
			return err
		}
		err = func() error {
			if err := r.awaitUp(); err != nil {
				return err
			}
			if err := publishFor(dev, time.Second); err == nil {
				return errors.New("the device got its acknowledgement although the samples were refused")
			}
			r.out.Refuse(nil, false)
			return r.awaitValues()
		}()
		if err := errors.Join(err, r.stop()); err != nil {
			return fmt.Errorf("refused in done %t: %w", late, err)
		}
	}
	return nil
}

func checkLateDone(t *testing.T, h Harness) error {
	if h.Mode != Acknowledged {
		return nil
	}
	dev := h.Start(t)
	r, err := startRig(h, dev, (*Collector).Hold)
	if err != nil {
		return err
	}
	err = func() error {
		if err := r.awaitUp(); err != nil {
			return err
		}
		if err := publishFor(dev, 500*time.Millisecond); err == nil {
			return errors.New("the device got its acknowledgement before the samples were durable")
		}
		r.out.Confirm()
		return r.awaitValues()
	}()
	r.out.Confirm()
	return errors.Join(err, r.stop())
}

func publishFor(dev *Device, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return dev.Publish(ctx)
}

func checkGoroutines(t *testing.T, h Harness) error {
	before := len(stacks(h.IgnoreGoroutines))
	var err error
	t.Run("run", func(t *testing.T) { err = checkValues(t, h) })
	if err != nil {
		return err
	}
	t.Run("away", func(t *testing.T) { err = checkAway(t, h) })
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

// stacks returns the stack of each goroutine that holds none of ignore.
func stacks(ignore []string) []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var out []string
next:
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		for _, piece := range ignore {
			if strings.Contains(g, piece) {
				continue next
			}
		}
		out = append(out, g)
	}
	return out
}
