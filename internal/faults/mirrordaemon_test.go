package faults

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"millrace/gateway/mirror/audit"
	"millrace/internal/clock"
)

// The row that kills the daemon notices what must not be, one thing at a time.
func TestNoticesWhatTheDeviceWasTold(t *testing.T) {
	for name, c := range map[string]struct {
		change func(d *mirrorDaemon, records []*audit.Record)
		want   string
	}{
		"all is well":             {func(*mirrorDaemon, []*audit.Record) {}, ""},
		"another value":           {func(d *mirrorDaemon, _ []*audit.Record) { d.writes[0].value = 8 }, "was not allowed"},
		"what is refused":         {func(d *mirrorDaemon, _ []*audit.Record) { d.writes[1] = plcWrite{2000, 2} }, "was not allowed"},
		"twice":                   {func(d *mirrorDaemon, _ []*audit.Record) { d.writes = append(d.writes, d.writes[1]) }, "after version 3"},
		"an older one":            {func(d *mirrorDaemon, _ []*audit.Record) { d.writes[0], d.writes[1] = d.writes[1], d.writes[0] }, "version 1 was written after version 3"},
		"no intent":               {func(_ *mirrorDaemon, r []*audit.Record) { r[0].Kind = "stale" }, "without an intent"},
		"no end":                  {func(_ *mirrorDaemon, r []*audit.Record) { r[1].Kind = "stale" }, "the log has no end of it"},
		"refused for another why": {func(_ *mirrorDaemon, r []*audit.Record) { r[2].Reason = "expired" }, "is to be refused for above_max"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &mirrorDaemon{
				t: &Trial{log: t.Logf}, dir: t.TempDir(), writes: []plcWrite{{7, 1}, {9, 3}},
				sent: map[string]sentResult{"m1": {1, 7, ""}, "m2": {2, 2000, "above_max"}, "m3": {3, 9, ""}},
			}
			records := []*audit.Record{
				{Kind: "intent", Version: 1, Message: "m1"}, {Kind: "outcome", Version: 1, Message: "m1", Outcome: "written"},
				{Kind: "outcome", Version: 2, Message: "m2", Outcome: "refused", Reason: "above_max"},
				{Kind: "intent", Version: 3, Message: "m3"}, {Kind: "outcome", Version: 3, Message: "m3", Outcome: "written"},
			}
			c.change(d, records)
			l, err := audit.Open(audit.Options{Dir: d.dir, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Clock: clock.System{}})
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Append(records...); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			err = d.check()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says %v, want %q", err, c.want)
			}
		})
	}
}
