package mirror

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/gateway/mirror/audit"
	"millrace/gateway/mirror/guard"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/sample/result"
)

func TestValuesComeBackBitByBit(t *testing.T) {
	for _, v := range []sample.Value{
		sample.FloatValue(41.5), sample.FloatValue(math.Copysign(0, -1)), sample.FloatValue(5e-324), sample.FloatValue(math.MaxFloat64),
		sample.IntValue(math.MinInt64), sample.IntValue(1<<53 + 1), sample.BoolValue(true), sample.BoolValue(false),
		sample.StringValue(""), sample.StringValue(`a"\<&>ü`), {},
	} {
		raw, err := json.Marshal(value{v})
		if err != nil {
			t.Fatal(err)
		}
		var back value
		if err := json.Unmarshal(raw, &back); err != nil || back.Value != v {
			t.Errorf("%s comes back as %s, %v", raw, back, err)
		}
	}
	for _, text := range []string{`{"float64":"x"}`, `{"int64":"1.5"}`, `5`, `{"bool":"yes"}`} {
		var v value
		if json.Unmarshal([]byte(text), &v) == nil {
			t.Errorf("%s is taken for %s", text, v)
		}
	}
}

func TestSame(t *testing.T) {
	f, i := sample.FloatValue, sample.IntValue
	for _, c := range []struct {
		a, b sample.Value
		want bool
	}{
		{f(1.5), f(1.5), true}, {f(1.5), f(math.Nextafter(1.5, 2)), false}, {f(0), f(math.Copysign(0, -1)), true}, {f(math.NaN()), f(math.NaN()), false},
		{i(5), f(5), true}, {f(5), i(5), true}, {i(1<<53 + 1), f(1 << 53), false}, {i(1 << 62), f(1 << 62), true}, {i(5), f(math.NaN()), false},
		{i(5), f(math.Inf(1)), false}, {i(1), sample.BoolValue(true), false}, {sample.BoolValue(true), sample.BoolValue(true), true},
		{sample.StringValue("a"), sample.StringValue("a"), true}, {sample.StringValue("a"), sample.StringValue("b"), false}, {sample.Value{}, sample.Value{}, false},
	} {
		if same(c.a, c.b) != c.want {
			t.Errorf("%s and %s are the same: %t", c.a, c.b, !c.want)
		}
	}
}

// On the real log, with files so small that nearly each record begins a new one,
// a restart finds the same state as the records added up to.
func TestTheStateIsThatOfTheLog(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		sp := sp1()
		sp.MinInterval, sp.Mode = 5*time.Second, guard.DryRun
		r := newRig(t, []Target{sp})
		open := func() {
			l, err := audit.Open(audit.Options{Dir: dir, MaxFileBytes: 2000, Log: r.settings().Log, Clock: r.clock})
			if err != nil {
				t.Fatal(err)
			}
			if r.m, err = newMirror(r.cfg, r.settings(), auditLog{l}); err != nil {
				t.Fatal(err)
			}
			r.run()
		}
		open()
		r.arm(time.Hour)
		for v := uint64(1); v <= 40; v++ {
			r.send(r.result(v, float64(v)))
			r.pass(700 * time.Millisecond)
			if v%7 == 0 {
				before := asJSON(t, r.m.state)
				r.stop()
				again, err := audit.Open(audit.Options{Dir: dir, Log: r.settings().Log, Clock: r.clock})
				if err != nil {
					t.Fatal(err)
				}
				m := &Mirror{state: newState(), journal: auditLog{again}}
				if err := m.replay(); err != nil {
					t.Fatal(err)
				}
				if after := asJSON(t, m.state); !reflect.DeepEqual(after, before) {
					t.Errorf("the state before\n%s\nand after\n%s", before, after)
				}
				again.Close()
				open()
			}
		}
		r.stop()
		report, err := audit.Verify(dir, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !report.Whole() {
			t.Error(report.Faults)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		if len(files) < 5 {
			t.Errorf("%d files", len(files))
		}
		if n := len(r.devices["sp1"].wrote()); n < 4 || n > 7 {
			t.Errorf("%d writes in 28 s at 5 s", n)
		}
	})
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// After a reboot the shortest interval goes by the wall clock, and where that
// cannot be trusted begins anew.
func TestTheIntervalAfterAReboot(t *testing.T) {
	for _, c := range []struct {
		sync clock.Sync
		step time.Duration
		want time.Duration
	}{{clock.Synchronised, 0, 20 * time.Second}, {clock.Synchronised, -time.Hour, 0}, {clock.Unsynchronised, 0, 0}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, []Target{sp1()})
			r.start()
			at := r.m.moment()
			r.pass(20 * time.Second)
			r.stop()
			r.clock.Reboot()
			r.clock.Step(c.step)
			r.clock.SetSync(c.sync)
			r.start()
			if got := r.m.since(&at); got != c.want {
				t.Errorf("clock %s, stepped by %s: %s ago, want %s", c.sync, c.step, got, c.want)
			}
			r.stop()
		})
	}
}

func TestSettingsThatAreNotSafe(t *testing.T) {
	for want, change := range map[string]func(*Target){
		"there is no mode":         func(t *Target) { t.Mode = "on" },
		"cannot be of type null":   func(t *Target) { t.Type = sample.Null },
		"min is above max":         func(t *Target) { t.Min = ptr(501.0) },
		"finite":                   func(t *Target) { t.Max = ptr(math.NaN()) },
		"max_step is negative":     func(t *Target) { t.MaxStep = ptr(-1.0) },
		"min, max and max_step":    func(t *Target) { t.Class = Setpoint },
		"needs max_age":            func(t *Target) { t.Class, t.MaxStep = Setpoint, ptr(1.0) },
		"a fallback value of type": func(t *Target) { t.WhenStale, t.Fallback = WriteFallback, ptr(sample.IntValue(1)) },
		"there is no feed":         func(t *Target) { t.Feeds = []string{"x"} },
		"empty or there twice":     func(t *Target) { t.Name = "" },
	} {
		synctest.Test(t, func(t *testing.T) {
			sp := sp1()
			change(&sp)
			r := newRig(t, []Target{sp})
			if _, err := New(r.cfg, r.settings()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			if r.opened != 0 {
				t.Error("something was opened")
			}
		})
	}
}

func TestATargetThatCannotBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Target{sp1()})
		s := r.settings()
		s.Dir = t.TempDir()
		open := r.cfg.Targets[0].Open
		r.cfg.Targets[0].Open = func(protocols.Health) (protocols.Target, error) { return nil, errors.New("no such node") }
		if _, err := New(r.cfg, s); err == nil || !strings.Contains(err.Error(), "sp1: no such node") {
			t.Errorf("New: %v", err)
		}
		r.cfg.Targets[0].Open = open
		m, err := New(r.cfg, s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(r.cfg, s); err == nil {
			t.Error("two mirrors in one folder")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The same refusal again and again makes one line a minute, with the count.
func TestLinesAreBounded(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		for v := range uint64(300) {
			bad := r.result(v+1, 501)
			if v%2 == 0 {
				bad.Unit = "A"
			}
			r.send(bad)
			r.pass(time.Second)
		}
		text := r.logged()
		if n := strings.Count(text, "above_max"); n < 5 || n > 6 {
			t.Errorf("%d lines in five minutes:\n%s", n, text)
		}
		if !strings.Contains(text, "times=30") {
			t.Errorf("no count in\n%s", text)
		}
	})
}

// The documents name each outcome and each reason.
func TestTheOutcomesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/mirror-reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	section := func(title string) (words []string) {
		_, table, _ := strings.Cut(string(text), "## "+title+"\n")
		table, _, _ = strings.Cut(table, "\n## ")
		for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(table, -1) {
			words = append(words, m[1])
		}
		return words
	}
	var outcomes []string
	for _, o := range Outcomes() {
		outcomes = append(outcomes, string(o))
	}
	if got := section("Outcomes"); !slices.Equal(got, outcomes) {
		t.Errorf("the document lists the outcomes\n%v, the code has\n%v", got, outcomes)
	}
	malformed := []string{
		result.TooLarge, result.NotJSON, result.UnknownSchema, result.MissingField, result.UnknownField, result.DuplicateField,
		result.WrongType, result.NotANumber, result.BadTime, result.BadName,
	}
	if got := section("What is no result"); !slices.Equal(got, malformed) {
		t.Errorf("the document lists\n%v, the code has\n%v", got, malformed)
	}
	kinds := []string{
		audit.KindCheckpoint, audit.KindRecovered, kindStart, kindStop, kindHeld, kindIntent, kindOutcome, kindFallback, kindArm, kindDisarm,
		kindArmedEnd, kindStale, kindFresh,
	}
	if got := section("Kinds of records"); !slices.Equal(got, kinds) {
		t.Errorf("the document lists the kinds\n%v, the code has\n%v", got, kinds)
	}
}

func TestStatusSamplesOfOtherValues(t *testing.T) {
	m := &Mirror{s: Settings{Site: "north"}}
	long := strings.Repeat("ü", maxStatusText)
	for want, v := range map[string]sample.Value{
		`9007199254740992`:   sample.IntValue(1 << 53),
		`"9007199254740993"`: sample.IntValue(1<<53 + 1),
		`true`:               sample.BoolValue(true),
		`0.1`:                sample.FloatValue(0.1),
		`"eco"`:              sample.StringValue("eco"),
		`"` + strings.Repeat("ü", maxStatusText/2) + `"`: sample.StringValue(long),
	} {
		s := m.statusSample(&entry{target: "sp1", outcome: Unverified, new: &v, at: time.Unix(5, 0)})
		if want := `{"outcome":"unverified","value":` + want + `,"n":0,"hash":""}`; s.Value.Str() != want || !s.Quality.IsUncertain() || s.Time != 5e9 {
			t.Errorf("%+v, want %s", s, want)
		}
	}
}
