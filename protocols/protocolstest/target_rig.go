package protocolstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// quiet is how long nothing may reach a device where nothing should.
const quiet = 50 * time.Millisecond

// targetRig is one device with a connection to it.
type targetRig struct {
	h       TargetHarness
	dev     *TargetDevice
	conn    protocols.Connection
	health  *HealthRecorder
	targets []*opened
}

// opened is one target of a rig.
type opened struct {
	*TargetPlace
	protocols.Target
	r       *targetRig
	version uint64
}

// onTarget opens the device's connection and all its places, and closes them
// after check. Faults of closing are reported too.
func onTarget(t *testing.T, h TargetHarness, check func(r *targetRig) error) (err error) {
	r := &targetRig{h: h, dev: h.Start(t), health: &HealthRecorder{}}
	if r.conn, err = r.dev.Config.Open(Settings()); err != nil {
		return fmt.Errorf("Open: %w", err)
	}
	defer func() {
		for _, o := range r.targets {
			err = errors.Join(err, o.Close())
		}
		err = errors.Join(err, r.conn.Close())
	}()
	for i := range r.dev.Places {
		if _, err := r.open(&r.dev.Places[i]); err != nil {
			return err
		}
	}
	return check(r)
}

func (r *targetRig) open(p *TargetPlace) (*opened, error) {
	opener, ok := r.conn.(protocols.TargetOpener)
	if !ok {
		return nil, fmt.Errorf("%T is no protocols.TargetOpener", r.conn)
	}
	target, err := opener.OpenTarget(p.Config, r.health)
	if err != nil {
		return nil, fmt.Errorf("OpenTarget: %w", err)
	}
	o := &opened{TargetPlace: p, Target: target, r: r}
	r.targets = append(r.targets, o)
	return o, nil
}

// command makes the next command for a value.
func (o *opened) command(v sample.Value) protocols.Command {
	o.version++
	now := time.Now().Truncate(time.Millisecond)
	return protocols.Command{Value: v, Time: now, Version: o.version, ValidUntil: now.Add(time.Hour)}
}

// write prepares and writes a value and returns it as prepared.
func (o *opened) write(ctx context.Context, v sample.Value) (sample.Value, error) {
	p, err := o.Prepare(ctx, v)
	if err != nil {
		return p, fmt.Errorf("Prepare %s: %w", v, errors.Join(err, oneLine(err)))
	}
	if err := o.Write(ctx, o.command(p)); err != nil {
		return p, fmt.Errorf("Write %s: %w", p, errors.Join(err, oneLine(err)))
	}
	return p, nil
}

// holds waits until the device holds v.
func (o *opened) holds(v sample.Value) error {
	var got sample.Value
	var err error
	if eventually(o.r.h.patience(), func() bool {
		got, err = o.Held()
		return err == nil && got == v
	}) {
		return nil
	}
	return fmt.Errorf("the device holds %s %s (%w), want %s %s", got.Kind(), got, orNone(err), v.Kind(), v)
}

// reads waits until Read returns v as usable.
func (o *opened) reads(v sample.Value) error {
	var got protocols.Reading
	var err error
	if eventually(o.r.h.patience(), func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), o.r.h.patience())
		defer cancel()
		got, err = o.Read(ctx)
		return err == nil && got.Value == v && !got.Quality.IsBad()
	}) {
		if got.Time.IsZero() {
			return errors.New("Read returns no time")
		}
		return nil
	}
	return fmt.Errorf("Read returns %s %s, %s (%w), want %s %s", got.Value.Kind(), got.Value, got.Quality, orNone(err), v.Kind(), v)
}

var errNone = errors.New("no error")

func orNone(err error) error {
	if err == nil {
		return errNone
	}
	return err
}

// oneLine says what is wrong with an error's text.
func oneLine(err error) error {
	if text := err.Error(); text == "" || strings.ContainsAny(text, "\n\r") {
		return fmt.Errorf("an error must be one line: %q", text)
	}
	return nil
}

// failed says what is wrong with a write that had to fail with one of some
// outcomes.
func failed(err error, want ...protocols.WriteOutcome) error {
	var names []string
	for _, w := range want {
		names = append(names, w.String())
	}
	wanted := strings.Join(names, " or ")
	if err == nil {
		return fmt.Errorf("it succeeds, want %s", wanted)
	}
	outcome := protocols.OutcomeOf(err)
	for _, w := range want {
		if outcome == w {
			return oneLine(err)
		}
	}
	return fmt.Errorf("it is %s, want %s: %w", outcome, wanted, err)
}

// undisturbed checks that nothing more reaches the device than n writes.
func (r *targetRig) undisturbed(n int) error {
	time.Sleep(quiet)
	if got := r.dev.Writes(); got > n {
		return fmt.Errorf("%d writes have reached the device, want %d", got, n)
	}
	return nil
}

// context is for calls that are not to be broken off by it.
func (r *targetRig) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 4*r.h.patience())
}
