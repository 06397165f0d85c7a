package mqtt

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// testNow is 2023-11-14T22:13:20Z.
const testNow = int64(1700000000e9)

func testRouter(t testing.TB, change func(*Config), src *protocols.SourceConfig) *router {
	t.Helper()
	c := testConfig("tcp://broker")
	if change != nil {
		change(c)
	}
	if src.Name == "" {
		src.Name = "src"
	}
	for _, f := range c.Validate(src) {
		t.Fatalf("%+v", f)
	}
	r, err := newRouter(c, "plant", src, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// show prints samples as short lines.
func show(samples []sample.Sample) string {
	var b strings.Builder
	for _, s := range samples {
		fmt.Fprintf(&b, "%s=%s:%s %s", strings.TrimPrefix(s.Tag, "plant/"), s.Value.Kind(), s.Value, s.Quality)
		if s.SourceTime != 0 {
			fmt.Fprintf(&b, " t%+d", s.SourceTime-testNow)
		}
		if s.Producer != "" {
			fmt.Fprintf(&b, " %s#%d", s.Producer, s.Seq)
		}
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func TestPayloads(t *testing.T) {
	const bad = "d/a=null:null BadTypeMismatch"
	for _, c := range []struct{ typ, payload, want string }{
		// One value.
		{"", "21.5", "d/a=float64:21.5 Good"},
		{"", " 21.5\r\n", "d/a=float64:21.5 Good"},
		{"", "42", "d/a=int64:42 Good"},
		{"", "9007199254740993", "d/a=int64:9007199254740993 Good"},
		{"", "9223372036854775808", "d/a=null:null BadOutOfRange"},
		{"", "1e999", "d/a=null:null BadOutOfRange"},
		{"", "-1e-3", "d/a=float64:-0.001 Good"},
		{"", "true", "d/a=bool:true Good"},
		{"", "on", bad}, {"", "TRUE", bad}, {"", "", bad}, {"", "NaN", bad}, {"", "1,5", bad}, {"", "0x10", bad}, {"", "+1", bad}, {"", "007", bad}, {"", "1 2", bad},
		{"float", "42", "d/a=float64:42 Good"}, {"float", "true", bad},
		{"int", "42", "d/a=int64:42 Good"}, {"int", "42.0", "d/a=int64:42 Good"}, {"int", "4.2e1", "d/a=int64:42 Good"}, {"int", "42.5", bad}, {"int", "1e300", bad},
		{"bool", "false", "d/a=bool:false Good"}, {"bool", "1", "d/a=bool:true Good"}, {"bool", "0", "d/a=bool:false Good"}, {"bool", "2", bad},
		{"string", " on ", `d/a=string:" on " Good`}, {"string", "", `d/a=string:"" Good`}, {"string", "42", `d/a=string:"42" Good`}, {"string", "\xff", bad},
		{"string", `{"value":1}`, `d/a=string:"{\"value\":1}" Good`},
		// An object with value, time and the rest.
		{"", `{"value":21.5}`, "d/a=float64:21.5 Good"},
		{"", `{"value":true,"time":"2023-11-14T22:13:20.5Z"}`, "d/a=bool:true Good t+500000000"},
		{"", `{"ts":"2023-11-14T23:13:20+01:00","value":"text"}`, `d/a=string:"text" Good t+0`},
		{"", `{"value":1,"quality":"Uncertain"}`, "d/a=int64:1 Uncertain"},
		{"", `{"value":1,"quality":"BadDeviceFailure"}`, "d/a=null:null BadDeviceFailure"},
		{"", `{"quality":2147483648}`, "d/a=null:null Bad"},
		{"", `{"value":null}`, "d/a=null:null Bad"},
		{"", `{"value":1,"seq":7,"producer":"dev-1"}`, "d/a=int64:1 Good dev-1#7"},
		{"", `{"value":1,"seq":7}`, "d/a=int64:1 Good"},
		{"", `{"value":1,"other":[{"value":2}]}`, "d/a=int64:1 Good"},
		{"float", `{"value":"21.5"}`, "d/a=float64:21.5 Good"},
		{"", `{"val":1}`, bad}, {"", `{"value":1,"value":2}`, bad}, {"", `{"value":1,"time":1700000000}`, bad}, {"", `{"value":1,"time":"now"}`, bad},
		{"", `{"value":1,"ts":"2023-11-14T22:13:20Z","time":"2023-11-14T22:13:20Z"}`, bad}, {"", `{"value":[1]}`, bad}, {"", `{"value":1`, bad},
		{"", `{"value":1} x`, bad}, {"", `{"value":1,"quality":"fine"}`, bad}, {"", `{"value":1,"seq":-1}`, bad}, {"int", `{"value":"on"}`, bad},
		{"bool", `{"value":1}`, "d/a=bool:true Good"},
	} {
		r := testRouter(t, nil, &protocols.SourceConfig{Tags: []protocols.Tag{{Name: "plant/d/a", Address: "x/a", Type: c.typ}}})
		if got := show(r.decode("x/a", []byte(c.payload), false, testNow, nil)); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.typ, c.payload, got, c.want)
		}
	}
}

func TestPayloadSettings(t *testing.T) {
	for _, c := range []struct {
		change        func(*Config)
		payload, want string
	}{
		{func(c *Config) { c.Payload = payloadValue }, `{"value":1}`, "d/a=null:null BadTypeMismatch"},
		{func(c *Config) { c.Payload = payloadJSON }, `1`, "d/a=null:null BadTypeMismatch"},
		{func(c *Config) { c.TimeFormat = "s" }, `{"value":1,"time":1700000000.25}`, "d/a=int64:1 Good t+250000000"},
		{func(c *Config) { c.TimeFormat = "ms" }, `{"value":1,"ts":1700000000001}`, "d/a=int64:1 Good t+1000000"},
		{func(c *Config) { c.TimeFormat = "us" }, `{"value":1,"ts":1700000000000001}`, "d/a=int64:1 Good t+1000"},
		{func(c *Config) { c.TimeFormat = "ns" }, `{"value":1,"ts":1700000000000000001}`, "d/a=int64:1 Good t+1"},
		{func(c *Config) { c.TimeFormat = "s" }, `{"value":1,"ts":1700000000001}`, "d/a=null:null BadTypeMismatch"},
	} {
		r := testRouter(t, c.change, &protocols.SourceConfig{Tags: []protocols.Tag{{Name: "plant/d/a", Address: "x/a"}}})
		if got := show(r.decode("x/a", []byte(c.payload), false, testNow, nil)); got != c.want {
			t.Errorf("%q: %s, want %s", c.payload, got, c.want)
		}
	}
}

func TestPaths(t *testing.T) {
	src := &protocols.SourceConfig{Tags: []protocols.Tag{
		{Name: "plant/d/t", Address: "x#data.t"}, {Name: "plant/d/l", Address: "x#data.l.1", Type: "int"},
		{Name: "plant/d/p", Address: "x#/data/a.b", Type: "string"}, {Name: "plant/d/same", Address: "x#data.t", Type: "float"},
	}}
	fields := func(c *Config) {
		c.TimePath, c.QualityPath, c.SeqPath, c.ProducerPath, c.TimeFormat = "meta.at", "meta.q", "meta.n", "dev", "ms"
	}
	skip := func(c *Config) { fields(c); c.Missing = missingSkip }
	const bad = "=null:null BadTypeMismatch"
	for _, c := range []struct {
		change        func(*Config)
		payload, want string
	}{
		{nil, `{"time":"soon","data":{"t":7,"l":[1,2,3],"a.b":"on"}}`, "d/t=int64:7 Good\nd/l=int64:2 Good\nd/p=string:\"on\" Good\nd/same=float64:7 Good"},
		{fields, `{"data":{"t":7,"l":[1,2],"a.b":"on"},"dev":"d1","meta":{"at":1700000000001,"q":"Uncertain","n":3}}`,
			"d/t=int64:7 Uncertain t+1000000 d1#3\nd/l=int64:2 Uncertain t+1000000 d1#3\nd/p=string:\"on\" Uncertain t+1000000 d1#3\nd/same=float64:7 Uncertain t+1000000 d1#3"},
		{nil, `{"data":{"t":7}}`, "d/t=int64:7 Good\nd/l" + bad + "\nd/p" + bad + "\nd/same=float64:7 Good"},
		{skip, `{"data":{"t":7,"l":[1]}}`, "d/t=int64:7 Good\nd/same=float64:7 Good"},
		{nil, `{"data":{"t":[7],"l":[1,"2"],"a.b":5}}`, "d/t" + bad + "\nd/l=int64:2 Good\nd/p" + bad + "\nd/same" + bad},
		{nil, `{"data":{"t":7,"t":8,"l":[1,2],"a.b":"x"}}`, "d/t" + bad + "\nd/l=int64:2 Good\nd/p=string:\"x\" Good\nd/same" + bad},
		{nil, `no JSON`, "d/t" + bad + "\nd/l" + bad + "\nd/p" + bad + "\nd/same" + bad},
		{nil, `[1]`, "d/t" + bad + "\nd/l" + bad + "\nd/p" + bad + "\nd/same" + bad},
	} {
		r := testRouter(t, c.change, src)
		if got := show(r.decode("x", []byte(c.payload), false, testNow, nil)); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.payload, got, c.want)
		}
	}
	nested := testRouter(t, nil, &protocols.SourceConfig{Tags: []protocols.Tag{{Name: "plant/d/a", Address: "x#a"}, {Name: "plant/d/b", Address: "x#a.b"}}})
	if got, want := show(nested.decode("x", []byte(`{"a":{"b":1}}`), false, testNow, nil)), "d/a"+bad+"\nd/b=int64:1 Good"; got != want {
		t.Errorf("a path within another: %s, want %s", got, want)
	}
}

func TestDynamicTags(t *testing.T) {
	r := testRouter(t, func(c *Config) {
		c.Topics = []Topic{{Filter: "s/+/temp", Path: "v.0", Type: "float"}, {Filter: "t/#", Tag: "{2}/{3}"}, {Filter: "$share/g/u/#"}}
	}, &protocols.SourceConfig{MaxTags: 10, Tags: []protocols.Tag{{Name: "plant/own/x", Address: "t/x/y"}}})
	for _, c := range []struct{ topic, payload, want string }{
		{"s/b1/temp", `{"v":[7]}`, "b1/temp=float64:7 Good"},
		{"t/x/y", "1", "own/x=int64:1 Good"}, // a configured tag goes first
		{"t/dev/n/more", "1", "dev/n=int64:1 Good"},
		{"t/dev", "1", ""}, // no third level
		{"t/dev", "2", ""},
		{"u/dev/n2", "no value", ""}, // makes no tag
		{"u/dev/n2", "3", "dev/n2=int64:3 Good"},
		{"u/dev/n2", "no value", "dev/n2=null:null BadTypeMismatch"},
		{"other", "1", ""},
	} {
		if got := show(r.decode(c.topic, []byte(c.payload), false, testNow, nil)); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.topic, c.payload, got, c.want)
		}
	}
	// The routes are bounded.
	for i := range 2 * r.most {
		r.decode(fmt.Sprintf("u/d/%d", i), []byte("1"), false, testNow, nil)
	}
	if len(r.routes) > r.most+1 || !r.overflow {
		t.Errorf("%d routes are held, the most is %d", len(r.routes), r.most)
	}
	if got := show(r.decode("s/b1/temp", []byte(`{"v":[8]}`), false, testNow, nil)); got != "b1/temp=float64:8 Good" {
		t.Errorf("a topic that was there before: %s", got)
	}
}

func TestRetained(t *testing.T) {
	src := &protocols.SourceConfig{Tags: []protocols.Tag{{Name: "plant/d/a", Address: "x"}}}
	r := testRouter(t, nil, src)
	for payload, want := range map[string]string{
		"1": "d/a=int64:1 UncertainLastUsableValue",
		`{"value":1,"time":"2023-11-14T22:13:21Z"}`: "d/a=int64:1 Good t+1000000000",
		"x": "d/a=null:null BadTypeMismatch",
	} {
		if got := show(r.decode("x", []byte(payload), true, testNow, nil)); got != want {
			t.Errorf("%s: %s, want %s", payload, got, want)
		}
	}
	ignoring := testRouter(t, func(c *Config) { c.Retained = retainedIgnore }, src)
	if got := show(ignoring.decode("x", []byte("1"), true, testNow, nil)); got != "" {
		t.Errorf("ignored: %s", got)
	}
	if got := show(ignoring.decode("x", []byte("1"), false, testNow, nil)); got != "d/a=int64:1 Good" {
		t.Errorf("not retained: %s", got)
	}
}

func TestRefusedTopicsArePaused(t *testing.T) {
	r := testRouter(t, func(c *Config) { c.Topics = []Topic{{Filter: "#"}} }, &protocols.SourceConfig{MaxTags: 1})
	r.decode("a/b", []byte("1"), false, testNow, nil)
	r.refuse("a/b", testNow, &protocols.RefusedError{Reason: "too many tags"})
	for after, want := range map[time.Duration]string{time.Second: "", refuseFor + 1: "a/b=int64:1 Good"} {
		if got := show(r.decode("a/b", []byte("1"), false, testNow+int64(after), nil)); got != want {
			t.Errorf("after %s: %s, want %s", after, got, want)
		}
	}
}

// TestUnreadableIsSaidOnce counts the lines of the log.
func TestUnreadableIsSaidOnce(t *testing.T) {
	var lines countingHandler
	r := testRouter(t, nil, &protocols.SourceConfig{Tags: []protocols.Tag{{Name: "plant/d/a", Address: "x"}}})
	r.log = slog.New(&lines)
	for _, payload := range []string{"1", "x", "y", "z", "2", "3", "x"} {
		r.decode("x", []byte(payload), false, testNow, nil)
	}
	want := []string{"a message cannot be read; its tags are Bad until one can", "messages can be read again", "a message cannot be read; its tags are Bad until one can"}
	if strings.Join(lines.said, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log says %q", lines.said)
	}
}

func TestDecodingDoesNotAllocate(t *testing.T) {
	r := testRouter(t, func(c *Config) { c.Topics = []Topic{{Filter: "d/#"}} }, &protocols.SourceConfig{MaxTags: 10, Tags: []protocols.Tag{
		{Name: "plant/d/a", Address: "x"}, {Name: "plant/d/b", Address: "y#a.b"}, {Name: "plant/d/c", Address: "y#a.c"}}})
	var out []sample.Sample
	plain, path := []byte("21.5"), []byte(`{"a":{"b":1,"c":2.5,"d":[1,2,3]}}`)
	object := []byte(`{"value":21.5,"time":"2023-11-14T22:13:20.5Z","quality":"Good","seq":1,"producer":"p"}`)
	decode := func() {
		out = r.decode("x", plain, false, testNow, out[:0])
		out = r.decode("x", object, false, testNow, out)
		out = r.decode("y", path, false, testNow, out)
		out = r.decode("d/e/f", plain, false, testNow, out)
	}
	decode()
	if n := testing.AllocsPerRun(100, decode); n > 0 {
		t.Errorf("four messages allocate %v times", n)
	}
}

func FuzzPayload(f *testing.F) {
	for _, s := range []string{"21.5", "true", `{"value":1,"time":"2023-11-14T22:13:20Z","seq":1,"producer":"p","quality":"Bad"}`, `{"a":{"b":[1,{"c":"x"}]}}`} {
		f.Add([]byte(s))
	}
	r := testRouter(f, func(c *Config) { c.TimeFormat, c.TimePath = "ms", "ts" }, &protocols.SourceConfig{Tags: []protocols.Tag{
		{Name: "plant/d/a", Address: "x"}, {Name: "plant/d/b", Address: "x", Type: "string"}, {Name: "plant/d/c", Address: "x#a.b.1.c"},
		{Name: "plant/d/d", Address: "x#a", Type: "int"}}})
	r.log = slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, payload []byte) {
		out := r.decode("x", payload, false, testNow, nil)
		if len(out) != 4 {
			t.Fatalf("%q gives %d samples of 4 tags", payload, len(out))
		}
		for _, s := range out {
			if v := s.Value.Float(); s.Quality.IsBad() != (s.Value.Kind() == sample.Null) || v-v != 0 {
				t.Errorf("%q: %+v", payload, s)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	r := testRouter(b, func(c *Config) { c.Topics = []Topic{{Filter: "load/#"}} }, &protocols.SourceConfig{MaxTags: 100})
	for name, payload := range map[string]string{"value": "1234.5", "object": `{"value":1234.5,"time":"2023-11-14T22:13:20.123Z"}`} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var out []sample.Sample
			text := []byte(payload)
			for b.Loop() {
				out = r.decode("load/c1/v", text, false, testNow, out[:0])
			}
		})
	}
}
