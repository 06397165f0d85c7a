package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"millrace/sample"
)

// resolved is a record with the base values taken in. RFC 8428, 4.6.
type resolved struct {
	name, unit string
	time       float64
	value      any
}

var senmlName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:./_-]*$`)

// The units of the IANA registry "SenML Units" that a pack may have, without those
// that new implementations should not produce.
var registry = strings.Fields("m kg s A K cd mol Hz rad sr N Pa J W C V F Ohm S Wb T H Cel lm lx Bq Gy Sv kat m2 m3 m/s m/s2 m3/s W/m2 cd/m2 bit bit/s lat lon pH dB dBW count / %RH %EL EL 1/s S/m B VA VAs var vars J/m kg/m3 deg NTU")

// readSenML holds a pack against the rules of RFC 8428 and resolves it.
func readSenML(data []byte) (out []resolved, err error) {
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	var bn string
	var bt float64
	for i, r := range list {
		var v resolved
		values := 0
		get := func(label string, into any) bool {
			raw, there := r[label]
			if !there {
				return false
			}
			if e := json.Unmarshal(raw, into); e != nil && err == nil {
				err = fmt.Errorf("record %d: %s: %w", i, label, e)
			}
			return true
		}
		get("bn", &bn)
		get("bt", &bt)
		var n string
		get("n", &n)
		v.name = bn + n
		if !senmlName.MatchString(v.name) {
			return nil, fmt.Errorf("record %d: name %q (4.5.1)", i, v.name)
		}
		var t float64
		get("t", &t)
		v.time = bt + t
		if v.time < 1<<28 {
			return nil, fmt.Errorf("record %d: time %v counts from now (4.5.3)", i, v.time)
		}
		if get("u", &v.unit) && !strings.Contains(" "+strings.Join(registry, " ")+" ", " "+v.unit+" ") {
			return nil, fmt.Errorf("record %d: unit %q is not in the registry (4.3)", i, v.unit)
		}
		var f float64
		var s string
		var b bool
		if get("v", &f) {
			values, v.value = values+1, f
		}
		if get("vs", &s) {
			values, v.value = values+1, s
		}
		if get("vb", &b) {
			values, v.value = values+1, b
		}
		if get("vd", &s) {
			if strings.ContainsAny(s, "+/=") {
				return nil, fmt.Errorf("record %d: vd %q has the wrong alphabet or padding (5)", i, s)
			}
			values, v.value = values+1, []byte(s)
		}
		if values != 1 {
			return nil, fmt.Errorf("record %d has %d values (4.2)", i, values)
		}
		for label := range r {
			if !strings.Contains(" bn bt n t u v vs vb vd ", " "+label+" ") {
				return nil, fmt.Errorf("record %d: label %q", i, label)
			}
		}
		out = append(out, v)
	}
	return out, err
}

func TestSenML(t *testing.T) {
	var notes []string
	list := rows()
	odd := list[0]
	odd.Unit = "furlong"
	early := list[0]
	early.Time = time.Date(1978, 7, 4, 21, 24, 15, 0, time.UTC).UnixNano()
	data := write(t, SenML, Options{Note: func(line string) { notes = append(notes, line) }}, append(list, odd, early))
	got, err := readSenML(data)
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	const tag, status = "north/boiler/power", "north/boiler/power:quality"
	sec := float64(at) / 1e9
	want := []resolved{
		{tag, "W", sec, 12300.0},
		{tag, "W", sec + 1, -7000.0},
		{status, "", sec + 1, "UncertainLastUsableValue"},
		{status, "", sec + 2, "BadTimeout"},
		{tag, "", sec + 3, true},
		{tag, "", sec + 4, "a \"b\", c\r\nd"},
		{tag, "", sec + 5, "=HYPERLINK(\"http://x\")"},
		{tag, "", sec + 6, ""},
		{status, "", sec + 7, "BadOutOfRange"},
		{tag, "W", sec + 8, float64(math.MaxInt64) * 1000},
		{tag, "", sec + 9, []byte("_wA")},
		{tag, "W", sec + 10.5, 70.0},
		{tag, "", sec, 12.3},
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d:\n%s", len(got), len(want), data)
	}
	for i := range want {
		if fmt.Sprint(got[i].value) != fmt.Sprint(want[i].value) || got[i].name != want[i].name || got[i].unit != want[i].unit || math.Abs(got[i].time-want[i].time) > 1e-6 {
			t.Errorf("record %d is %+v, want %+v", i, got[i], want[i])
		}
	}
	if len(notes) != 2 || !strings.Contains(notes[0], "1 samples are left out") || !strings.Contains(notes[1], "furlong") {
		t.Errorf("notes %q", notes)
	}
	if empty, err := readSenML(write(t, SenML, Options{}, nil)); err != nil || len(empty) != 0 {
		t.Errorf("nothing: %v, %v", empty, err)
	}
}

// A bad sample that has a value must not read as one.
func TestSenMLHidesBadValues(t *testing.T) {
	r := rows()[0]
	r.Quality = sample.BadDeviceFailure
	got, err := readSenML(write(t, SenML, Options{}, []Row{r}))
	if err != nil || len(got) != 1 || got[0].value != "BadDeviceFailure" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Times to the nanosecond stand in the digits, whatever a float64 makes of them.
func TestSenMLTimes(t *testing.T) {
	list := rows()[:1]
	for _, d := range []int64{1, 1_500_000_000, -1, -1_250_000_000, 86_400_000_000_000} {
		r := list[0]
		r.Time += d
		list = append(list, r)
	}
	data := string(write(t, SenML, Options{}, list))
	for _, want := range []string{`"bt":1795852800`, `"t":0.000000001`, `"t":1.5,`, `"t":-0.000000001`, `"t":-1.25,`, `"t":86400,`} {
		if !strings.Contains(data, want) {
			t.Errorf("no %s in\n%s", want, data)
		}
	}
	if strings.Count(data, `"bn"`) != 1 || strings.Count(data, `"bt"`) != 1 {
		t.Errorf("bases more than once:\n%s", data)
	}
}

func TestSenMLNames(t *testing.T) {
	seen := map[string]string{}
	for _, tag := range []string{"north/boiler/power", "north/boiler 1/power", "north/boiler:201/power", "north/boiler:20/power", "_x/y/z", "0:_x/y/z", "ä/b/c", "a/b/$gap", "a/b/c:quality"} {
		name := SenMLName(tag)
		if !senmlName.MatchString(name) {
			t.Errorf("%q gets %q, which is no name (RFC 8428, 4.5.1)", tag, name)
		}
		if other, there := seen[name]; there {
			t.Errorf("%q and %q get one name, %q", tag, other, name)
		}
		seen[name] = tag
	}
	if SenMLName("north/boiler_1/power-2.x") != "north/boiler_1/power-2.x" {
		t.Error("a name that is one is altered")
	}
	if seen[SenMLName("a/b/c")+":quality"] != "" {
		t.Error("a tag has the name of another's quality")
	}
}

// TestUnits: every unit is one of the registry, and a power of ten adds no noise.
func TestUnits(t *testing.T) {
	for unit, u := range senmlUnits {
		if !strings.Contains(" "+strings.Join(registry, " ")+" ", " "+u.name+" ") {
			t.Errorf("%s is mapped to %q, which is not in the registry", unit, u.name)
		}
		if u.scale == 0 && u.ten == 0 {
			t.Errorf("%s is multiplied by nothing", unit)
		}
	}
	for _, c := range []struct {
		unit string
		in   float64
		want float64
	}{
		{"kW", 0.07, 70}, {"kW", 12.3, 12300}, {"%", 55.1, 0.551}, {"mA", 4.2, 0.0042}, {"bar", 1.01325, 101325}, {"kWh", 1, 3.6e6}, {"°C", 21.5, 21.5}, {"kW", 0, 0}, {"MW", math.MaxFloat64, math.Inf(1)},
		{"min", 1.5, 90},
	} {
		if got := senmlUnits[c.unit].convert(c.in); got != c.want {
			t.Errorf("%v %s is %v, want %v", c.in, c.unit, got, c.want)
		}
	}
	// What cannot be multiplied is as good as not a number.
	r := rows()[0]
	r.Unit, r.Value = "MW", sample.FloatValue(math.MaxFloat64)
	if got, err := readSenML(write(t, SenML, Options{}, []Row{r})); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if !bytes.Contains(write(t, SenML, Options{}, rows()), []byte(`"u":"W","v":12300`)) {
		t.Error("kW is not in W")
	}
}
