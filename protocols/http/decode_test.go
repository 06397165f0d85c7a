package http

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// testNow is 2023-11-14T22:13:20Z.
const testNow = int64(1700000000e9)

func testDecoder(tags ...protocols.Tag) *decoder {
	c := testConfig()
	c.Accept = acceptAny
	return newDecoder(newNames(c, "plant", &protocols.SourceConfig{Name: "lab", Tags: tags}), 5)
}

func TestJSONBodies(t *testing.T) {
	want := func(tag string, v sample.Value) sample.Sample {
		return sample.Sample{Tag: tag, Value: v, Time: testNow}
	}
	with := func(s sample.Sample, change func(*sample.Sample)) sample.Sample { change(&s); return s }
	one := want("plant/lab/a", sample.IntValue(1))
	for body, expected := range map[string][]sample.Sample{
		`{"samples":[{"tag":"a","value":1}]}`:                             {one},
		` {"producer":"p","samples":[{"value":1,"tag":"a"}]} `:            {one},
		`{"samples":[{"tag":"a","value":1.0}]}`:                           {want("plant/lab/a", sample.FloatValue(1))},
		`{"samples":[{"tag":"a","value":9223372036854775807}]}`:           {want("plant/lab/a", sample.IntValue(math.MaxInt64))},
		`{"samples":[{"tag":"a","value":9007199254740993}]}`:              {want("plant/lab/a", sample.IntValue(9007199254740993))},
		`{"samples":[{"tag":"a","value":true}]}`:                          {want("plant/lab/a", sample.BoolValue(true))},
		`{"samples":[{"tag":"a","value":"\u00b0C"}]}`:                     {want("plant/lab/a", sample.StringValue("°C"))},
		`{"samples":[{"tag":"a","value":null}]}`:                          {with(want("plant/lab/a", sample.Value{}), func(s *sample.Sample) { s.Quality = sample.Bad })},
		`{"samples":[{"tag":"a","quality":"BadTimeout"}]}`:                {with(want("plant/lab/a", sample.Value{}), func(s *sample.Sample) { s.Quality = sample.BadTimeout })},
		`{"samples":[{"tag":"a","value":3,"quality":"Bad"}]}`:             {with(want("plant/lab/a", sample.Value{}), func(s *sample.Sample) { s.Quality = sample.Bad })},
		`{"samples":[{"tag":"a","value":1,"quality":1083179008}]}`:        {with(one, func(s *sample.Sample) { s.Quality = sample.UncertainLastUsableValue })},
		`{"samples":[{"tag":"a","value":1,"time":1700000000123.5}]}`:      {with(one, func(s *sample.Sample) { s.SourceTime = 1700000000123500000 })},
		`{"samples":[{"tag":"a","value":1,"time":null}]}`:                 {one},
		`{"samples":[{"tag":"a","value":1,"seq":0}],"producer":"p"}`:      {with(one, func(s *sample.Sample) { s.Producer = "p" })},
		`{"producer":"p","samples":[{"tag":"pump/a","value":1,"seq":7}]}`: {with(want("plant/pump/a", sample.IntValue(1)), func(s *sample.Sample) { s.Producer, s.Seq = "p", 7 })},
		`{"samples":[{"tag":"plant/pump/a","value":1},{"tag":"x","value":1},{"tag":"plant/b","value":1}]}`: {
			want("plant/pump/a", sample.IntValue(1)), want("plant/cell/y", sample.IntValue(1)), want("plant/plant/b", sample.IntValue(1))},
		`{"samples":[{"tag":"a","value":1,"time":"2023-11-14T23:13:20.25+01:00"}]}`: {with(one, func(s *sample.Sample) { s.SourceTime = testNow + int64(250*time.Millisecond) })},
	} {
		d := testDecoder(protocols.Tag{Name: "plant/cell/y", Address: "x"})
		got, faults := d.json([]byte(body), testNow)
		if faults != nil || !reflect.DeepEqual(got, expected) {
			t.Errorf("%s\n got %+v %+v\nwant %+v", body, got, faults, expected)
		}
	}
}

// line prints faults as one line each.
func line(faults []Fault) string {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&b, "%d %s: %s\n", f.Index, f.Field, f.Problem)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func TestFaultyJSONBodies(t *testing.T) {
	for body, want := range map[string]string{
		``:                                      "-1 : not JSON: byte 0: nothing where an object is expected",
		`[]`:                                    "-1 : not JSON: byte 0: an array where an object is expected",
		`{}`:                                    "-1 samples: it is missing",
		`{"samples":[]}`:                        "-1 : there are no samples",
		`{"samples":{}}`:                        "-1 samples: it is an object, not an array",
		`{"samples":[1]}`:                       "0 : it is a number, not an object",
		`{"samples":[{}]}`:                      "0 tag: it is missing\n0 value: it is missing, and the quality is not Bad",
		`{"samples":[{"tag":"a","value":1}]} x`: "-1 : not JSON: byte 36: more after the end of the value",
		`{"samples":[{"tag":"a","value":1}`:     "0 : not JSON: byte 33: the text ends within an array or object",
		`{"samples":[{"tag":"a","value":NaN}]}`: "0 value: it is nothing, not a number, a boolean, a string or null\n0 : not JSON: byte 31: a value is expected",
		`{"samples":[{"tag":"a","value":1,"value":2}]}`:                                          "0 value: it stands twice",
		`{"samples":[{"tag":"a","value":1}],"samples":[{"tag":"a","value":1}]}`:                  "-1 samples: it stands twice",
		`{"samples":[{"tag":"a","value":1,"unit":"V"}]}`:                                         "0 unit: it is not known: a sample has tag, value, time, seq and quality",
		`{"sample":[{"tag":"a","value":1}]}`:                                                     "-1 sample: it is not known: a body has producer and samples\n-1 samples: it is missing",
		`{"samples":[{"tag":"a","value":9223372036854775808}]}`:                                  "0 value: 9223372036854775808: the number is too large for an int64 or a float64",
		`{"samples":[{"tag":"a","value":1e999}]}`:                                                "0 value: 1e999: the number is too large for an int64 or a float64",
		`{"samples":[{"tag":"a","value":[1]}]}`:                                                  "0 value: it is an array, not a number, a boolean, a string or null",
		`{"samples":[{"tag":"a","value":null,"quality":"Good"}]}`:                                "0 value: it is null, and the quality is not Bad",
		`{"samples":[{"tag":"a","value":1,"quality":"fine"}]}`:                                   "0 quality: \"fine\" is not a quality: write Good, Uncertain, Bad, another name of OPC UA's, or a status code",
		`{"samples":[{"tag":"a","value":1,"time":"yesterday"}]}`:                                 "0 time: \"yesterday\" is not an RFC 3339 time such as 2026-01-31T12:00:00.5Z",
		`{"samples":[{"tag":"a","value":1,"time":1e30}]}`:                                        "0 time: 1e30 is no time between the years 1678 and 2262",
		`{"samples":[{"tag":"a","value":1,"seq":1}]}`:                                            "0 seq: a seq counts within a producer, and the body has no producer",
		`{"producer":"p","samples":[{"tag":"a","value":1,"seq":-1}]}`:                            "0 seq: -1 is not an integer from 0 to 18446744073709551615",
		`{"producer":7,"samples":[{"tag":"a","value":1}]}`:                                       "-1 producer: it is a number, not a string",
		`{"samples":[{"tag":"a//b","value":1}]}`:                                                 "0 tag: tag \"plant/a//b\": a part of the name is empty",
		`{"samples":[{"tag":"a#b","value":1},{"tag":7,"value":1}]}`:                              "0 tag: tag \"plant/lab/a#b\": the name \"a#b\" holds '/' or '#'\n1 tag: it is a number, not a string",
		`{"samples":[` + strings.Repeat(`{"tag":"a","value":1},`, 5) + `{"tag":"a","value":1}]}`: "5 : too many samples in one body: the most is 5",
	} {
		got, faults := testDecoder().json([]byte(body), testNow)
		if got != nil || line(faults) != want {
			t.Errorf("%s\n got %v\n%s\nwant\n%s", body, got, line(faults), want)
		}
	}
}

func TestConfiguredTagsOnly(t *testing.T) {
	c := testConfig()
	src := &protocols.SourceConfig{Name: "lab", Tags: []protocols.Tag{{Name: "plant/cell/y", Address: "x"}}}
	d := newDecoder(newNames(c, "plant", src), 5)
	if got, faults := d.json([]byte(`{"samples":[{"tag":"x","value":1}]}`), testNow); faults != nil || got[0].Tag != "plant/cell/y" {
		t.Errorf("the configured tag: %v %v", got, faults)
	}
	_, faults := d.json([]byte(`{"samples":[{"tag":"z","value":1}]}`), testNow)
	if line(faults) != `0 tag: tag "z" is not configured` {
		t.Errorf("another tag: %s", line(faults))
	}
}

func TestManyFaultsAreBounded(t *testing.T) {
	d := testDecoder()
	d.most = 1000
	_, faults := d.json([]byte(`{"samples":[`+strings.Repeat(`{},`, 900)+`{}]}`), testNow)
	if len(faults) != maxFaults {
		t.Errorf("%d faults are told, want %d", len(faults), maxFaults)
	}
}

// TestSenML reads packs like those of RFC 8428, section 5.1.
func TestSenML(t *testing.T) {
	at := func(tag string, v sample.Value, source int64) sample.Sample {
		return sample.Sample{Tag: tag, Value: v, Time: testNow, SourceTime: source}
	}
	for body, want := range map[string][]sample.Sample{
		`[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]`: {at("plant/lab/urn:dev:ow:10e2073a01080063", sample.FloatValue(23.1), 0)},
		`[{"bn":"urn:dev:mac:0024befffe804ff1/","n":"voltage","u":"V","v":120.1},{"n":"current","u":"A","v":1.2}]`: {
			at("plant/urn:dev:mac:0024befffe804ff1/voltage", sample.FloatValue(120.1), 0), at("plant/urn:dev:mac:0024befffe804ff1/current", sample.FloatValue(1.2), 0)},
		`[{"bn":"d:","bt":1276020076.25,"bu":"A","bver":5,"n":"x","v":1},{"n":"x","t":-5,"v":2}]`: nil, // version
		`[{"bn":"d:","bt":1276020076.25,"bver":10,"n":"x","v":1},{"n":"x","t":-5,"v":2}]`: {
			at("plant/lab/d:x", sample.IntValue(1), 1276020076250000000), at("plant/lab/d:x", sample.IntValue(2), 1276020071250000000)},
		`[{"n":"a","v":1,"t":-2.5},{"n":"a","v":1,"t":268435455},{"n":"a","v":1,"t":268435456}]`: {
			// From now, on the gateway's own clock, which may be set later.
			{Tag: "plant/lab/a", Value: sample.IntValue(1), Time: testNow - 2500000000},
			{Tag: "plant/lab/a", Value: sample.IntValue(1), Time: testNow + 268435455e9},
			at("plant/lab/a", sample.IntValue(1), 268435456e9)},
		`[{"bn":"a/"},{"n":"b","vb":true},{"n":"c","vs":"on"},{"bv":100,"n":"d","v":2},{"n":"e","v":0.5}]`: {
			at("plant/a/b", sample.BoolValue(true), 0), at("plant/a/c", sample.StringValue("on"), 0), at("plant/a/d", sample.IntValue(102), 0),
			at("plant/a/e", sample.FloatValue(100.5), 0)},
		`[{"bn":"a","v":1,"label":{"x":[1]}}]`: {at("plant/lab/a", sample.IntValue(1), 0)},
	} {
		got, faults := testDecoder().senml([]byte(body), testNow)
		if want == nil {
			if line(faults) != "0 bver: version 5 is not known, only 10" {
				t.Errorf("%s: %s", body, line(faults))
			}
			continue
		}
		if faults != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\n got %+v %s\nwant %+v", body, got, line(faults), want)
		}
	}
}

func TestFaultySenML(t *testing.T) {
	for body, want := range map[string]string{
		`{}`:                          "-1 : not JSON: byte 0: an object where an array is expected",
		`[]`:                          "-1 : there are no samples",
		`[{"bn":"a"}]`:                "-1 : there are no samples",
		`[{"n":"a"}]`:                 "0 : a record has one of v, vs and vb; this one has 0",
		`[{"n":"a","v":1,"vs":"x"}]`:  "0 : a record has one of v, vs and vb; this one has 2",
		`[{"n":"a","vd":"aGk"}]`:      "0 vd: data and sums are not taken: send v, vs or vb",
		`[{"n":"a","s":1}]`:           "0 s: data and sums are not taken: send v, vs or vb",
		`[{"n":"a","v":"1"}]`:         "0 v: it is a string, not a number",
		`[{"n":"a","vb":1}]`:          "0 vb: it is a number, not a boolean",
		`[{"v":1}]`:                   "0 n: name \"\" is not one of SenML: letters, digits and -:./_, of which the first is a letter or digit",
		`[{"n":"-a","v":1}]`:          "0 n: name \"-a\" is not one of SenML: letters, digits and -:./_, of which the first is a letter or digit",
		`[{"n":"a b","v":1}]`:         "0 n: name \"a b\" is not one of SenML: letters, digits and -:./_, of which the first is a letter or digit",
		`[{"n":"a","n":"b","v":1}]`:   "0 n: it stands twice",
		`[{"n":"a","v":1,"must_":1}]`: "0 must_: it is not known: a label that ends with _ must be understood",
		`[{"n":"a","v":1,"t":"now"}]`: "0 t: it is a string, not a number",
		`[{"bv":9223372036854775807,"n":"a","v":1}]`: "0 v: bv and v together are too large",
		`[{"bt":9e9,"n":"a","v":1,"t":9e9}]`:         "0 t: bt and t together are out of range",
	} {
		got, faults := testDecoder().senml([]byte(body), testNow)
		if got != nil || line(faults) != want {
			t.Errorf("%s\n got %v\n%s\nwant\n%s", body, got, line(faults), want)
		}
	}
}

func checkDecoded(t *testing.T, body []byte, got []sample.Sample, faults []Fault) {
	if (len(got) > 0) == (len(faults) > 0) {
		t.Fatalf("%q: %d samples and %d faults", body, len(got), len(faults))
	}
	for i := range got {
		s := &got[i]
		if err := sample.CheckTag(s.Tag); err != nil {
			t.Errorf("%q: %v", body, err)
		}
		if s.Time != testNow && s.SourceTime != 0 || (s.Quality.IsBad() != (s.Value.Kind() == sample.Null)) {
			t.Errorf("%q: %+v", body, *s)
		}
		if f := s.Value.Float(); f-f != 0 {
			t.Errorf("%q: value %s", body, s.Value)
		}
	}
	if len(got) > 0 && !json.Valid(body) {
		t.Errorf("%q is taken and is not JSON", body)
	}
	for _, f := range faults {
		if f.Problem == "" {
			t.Errorf("%q: a fault without a problem", body)
		}
	}
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"producer":"p","samples":[{"tag":"a/b","value":1.5,"time":"2026-01-31T12:00:00Z","seq":1,"quality":"Good"}]}`))
	f.Add([]byte(`{"samples":[{"tag":"a","value":null,"time":1700000000000,"quality":2147483648}]}`))
	d := testDecoder()
	f.Fuzz(func(t *testing.T, body []byte) {
		got, faults := d.json(body, testNow)
		checkDecoded(t, body, got, faults)
	})
}

func FuzzSenML(f *testing.F) {
	f.Add([]byte(`[{"bn":"a/","bt":1.7e9,"bv":1,"bver":10,"n":"b","v":2,"t":-1},{"n":"c","vs":"x"},{"n":"d","vb":true}]`))
	d := testDecoder()
	f.Fuzz(func(t *testing.T, body []byte) {
		got, faults := d.senml(body, testNow)
		checkDecoded(t, body, got, faults)
	})
}

func TestDecodingDoesNotAllocate(t *testing.T) {
	d := testDecoder()
	body := []byte(`{"samples":[{"tag":"a","value":1.5,"quality":"Good"},{"tag":"b","value":7},{"tag":"c","value":true}]}`)
	if _, faults := d.json(body, testNow); faults != nil {
		t.Fatal(line(faults))
	}
	if n := testing.AllocsPerRun(100, func() { d.json(body, testNow) }); n > 0 {
		t.Errorf("a body of three samples allocates %v times", n)
	}
}

func BenchmarkJSON(b *testing.B) {
	var body strings.Builder
	body.WriteString(`{"producer":"lab-1","samples":[`)
	const n = 100
	for i := range n {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"tag":"bench/t%d","value":%d.5,"time":"2026-01-31T12:00:00.5Z","seq":%d}`, i, i, i)
	}
	body.WriteString(`]}`)
	d := testDecoder()
	d.most = n
	text := []byte(body.String())
	b.ReportAllocs()
	for b.Loop() {
		if _, faults := d.json(text, testNow); faults != nil {
			b.Fatal(line(faults))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/sample")
}
