package mirror_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/gateway/mirror"
	"millrace/gateway/mirror/guard"
	"millrace/protocols"
	"millrace/sample"
)

// twice is a target that writes everything twice.
type twice struct{ *target }

func (t twice) Write(ctx context.Context, c protocols.Command) error {
	if err := t.target.Write(ctx, c); err != nil {
		return err
	}
	return t.target.Write(ctx, c)
}

// relapsing is a target that writes its first value again after each other one.
type relapsing struct {
	*target
	first *protocols.Command
}

func (t *relapsing) Write(ctx context.Context, c protocols.Command) error {
	if t.first == nil {
		t.first = &c
		return t.target.Write(ctx, c)
	}
	if err := t.target.Write(ctx, c); err != nil {
		return err
	}
	return t.target.Write(ctx, *t.first)
}

// altering is a target that writes a little more than it is told.
type altering struct{ *target }

func (t altering) Write(ctx context.Context, c protocols.Command) error {
	if c.Value.Kind() == sample.Float64 {
		c.Value = sample.FloatValue(c.Value.Float() + 0.5)
	}
	return t.target.Write(ctx, c)
}

// TestBatteryNotices breaks a guarantee on purpose, in each way that an engine
// could, and wants the battery to say so.
func TestBatteryNotices(t *testing.T) {
	each := func(change func(*mirror.Target)) func(*trial) {
		return func(x *trial) {
			x.tamper = func(c *mirror.Config) {
				for i := range c.Targets {
					change(&c.Targets[i])
				}
			}
		}
	}
	meddle := func(with func(*target) protocols.Target) func(*trial) { return func(x *trial) { x.meddle = with } }
	for what, c := range map[string]struct {
		spoil func(*trial)
		want  string
	}{
		"an intent that is not synced":      {func(x *trial) { x.w.disk.lies = true }, "no intent was on the disk"},
		"a log that forgets":                {func(x *trial) { x.w.disk.forgets, x.w.disk.noChain = true, true }, "was there before"},
		"a version that is not compared":    {func(x *trial) { x.forget = true }, "was there before"},
		"a message that is deleted at once": {func(x *trial) { x.w.hasty = true }, "was deleted, and what became of it is not on the disk"},
		"a value that is written twice":     {meddle(func(t *target) protocols.Target { return twice{t} }), "was there before"},
		"an older value after a newer one":  {meddle(func(t *target) protocols.Target { return &relapsing{target: t} }), "was there before"},
		"another value":                     {meddle(func(t *target) protocols.Target { return altering{t} }), "no command that had come allows it"},
		"a clock that is late":              {func(x *trial) { x.slow = 40 * time.Second }, "no command that had come allows it"},
		"wider limits":                      {each(func(t *mirror.Target) { t.Class, t.Min, t.Max = mirror.MirrorTag, nil, nil }), "no command that had come allows it"},
		"any step":                          {each(func(t *mirror.Target) { t.Class, t.MaxStep = mirror.MirrorTag, nil }), "is to be refused for [\"step_from_"},
		"no shortest interval":              {each(func(t *mirror.Target) { t.MinInterval = 0 }), "the shortest interval is"},
		"an enable tag that nobody asks":    {each(func(t *mirror.Target) { t.Enable = "" }), "the enable tag was not set"},
		"a target that is armed by itself":  {each(func(t *mirror.Target) { t.Mode = guard.Armed }), "the target was not armed"},
		"another unit":                      {each(func(t *mirror.Target) { t.Unit += "h" }), "is to be refused for [\"wrong_unit\"]"},
		"a key that the site does not know": {func(x *trial) {
			x.tamper = func(c *mirror.Config) { c.Keys[strayKey] = x.g.stray.Public().(ed25519.PublicKey) }
		}, "is to be refused for [\"unknown_key\"]"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			said := ""
			for seed := uint64(1); seed <= 30 && !strings.Contains(said, c.want); seed++ {
				synctest.Test(t, func(t *testing.T) {
					x := newTrial(seed, t.TempDir(), rules())
					c.spoil(x)
					x.fileBytes = 1 << 30 // what is lost is not noticed by the log itself
					if err := errors.Join(x.run(250), x.judge()); err != nil {
						said += err.Error()
					}
				})
			}
			if !strings.Contains(said, c.want) {
				t.Errorf("the battery did not say %q, but: %.1000s", c.want, said)
			}
		})
	}
}
