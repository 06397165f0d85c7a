package block

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"millrace/sample"
)

var update = flag.Bool("update", false, "write the test vectors anew; only for a new version of the format")

const vectorDir = "testdata/vectors"

// vector is a block that every decoder must read, now and later.
type vector struct {
	name string
	tags []string
	rows []row
	h    Header
}

// each makes rows of n ticks, one a second, of every tag.
func each(tags []string, n int, value func(r *rand.Rand, tag, tick int) sample.Sample) []row {
	r := rand.New(rand.NewPCG(7, 7))
	var out []row
	for k := range n {
		for i := range tags {
			s := value(r, i, k)
			s.Time += 1767225600e9 + int64(k)*1e9
			out = append(out, row{i, s})
		}
	}
	return out
}

func float(f float64) sample.Sample { return sample.Sample{Value: sample.FloatValue(f)} }

func vectors() []vector {
	h := Header{
		Site: "plant1", Gateway: "gw1", Stream: "s0001", Epoch: 0x0123456789ABCDEF, Seq: 42, Produced: 1000, Lost: 7,
		Boot: [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, Mono: 1767225000123456789, Clock: ClockSynced,
	}
	one := []string{"plant1/meter07/voltage"}
	some := []string{"plant1/meter07/u1", "plant1/meter07/u2", "plant1/meter08/u1", "plant1/pump/running"}
	out := []vector{
		{"empty", one, nil, h},
		{"one", one, []row{{0, sample.Sample{Value: sample.FloatValue(230.7), Time: 1767225600e9}}}, h},
		{"extremes", one, each(one, 6, func(_ *rand.Rand, _, k int) sample.Sample {
			return sample.Sample{Value: sample.IntValue([]int64{math.MinInt64, math.MaxInt64, 0, -1, 1 << 53, 1<<53 + 1}[k])}
		}), Header{Seq: math.MaxUint64, Epoch: math.MaxUint64, Produced: math.MaxUint64, Mono: math.MinInt64, Clock: ClockFree}},
		{"odd-floats", one, each(one, len(oddFloats), func(_ *rand.Rand, _, k int) sample.Sample { return float(math.Float64frombits(oddFloats[k])) }), h},
		{"drift", some, each(some, 40, func(_ *rand.Rand, i, k int) sample.Sample { return float(math.Round(float64(k*k*(i+1)))/100 - 3) }), h},
		{"noise", some, each(some, 60, func(r *rand.Rand, i, k int) sample.Sample {
			return float(math.Round((200+float64(k)/3+3*r.NormFloat64())*1e4) / 1e4)
		}), h},
		{"floats", some, each(some, 40, func(r *rand.Rand, i, k int) sample.Sample {
			x := 100 * r.NormFloat64()
			return float([]float64{x, float64(float32(x)), float64(float32(math.Round(x*10) / 10)), math.Round(x*10) * 0.1}[i])
		}), h},
		{"dictionary", some, each(some, 60, func(r *rand.Rand, _, _ int) sample.Sample {
			return float([]float64{0.382638, -0.273216, 0.054711, 142857.142857}[r.IntN(4)])
		}), h},
		{"quality", some, each(some, 20, func(_ *rand.Rand, i, k int) sample.Sample {
			s := float(float64(k))
			if k > 10 && i < 2 {
				s = sample.Sample{Quality: sample.BadTimeout}
			}
			if k == 3 {
				s.Quality = sample.UncertainLastUsableValue
			}
			return s
		}), h},
		{"kinds", some, each(some, 20, func(r *rand.Rand, i, k int) sample.Sample {
			return sample.Sample{Value: []sample.Value{
				{}, sample.FloatValue(1.5), sample.IntValue(int64(k)), sample.BoolValue(k%2 == 0), sample.StringValue("läuft"),
				sample.StringValue("\xff"), sample.FloatValue(r.Float64()),
			}[r.IntN(7)]}
		}), h},
		{"switches", some, each(some, 30, func(r *rand.Rand, i, k int) sample.Sample {
			if i < 2 {
				return sample.Sample{Value: sample.BoolValue(k/(i+4)%2 == 0)}
			}
			return sample.Sample{Value: sample.StringValue([]string{"stopped", "starting", "running"}[min(k/10+i-2, 2)])}
		}), h},
		{"producers", some, each(some, 10, func(r *rand.Rand, i, k int) sample.Sample {
			s := float(float64(i))
			if i != 1 {
				s.Producer, s.Seq = fmt.Sprint("sensor", i), uint64(k)
			}
			if i == 3 {
				s.Seq += math.MaxUint64 - 4
			}
			return s
		}), h},
		{"source-times", some, each(some, 20, func(r *rand.Rand, i, k int) sample.Sample {
			s := float(float64(k))
			base := 1767225600e9 + int64(k)*1e9
			switch i {
			case 0:
				s.SourceTime = base - 3e6 + r.Int64N(100)*1e4
			case 1, 2:
				s.SourceTime = base - 5e6
			case 3:
				if k > 5 {
					s.SourceTime = base
				}
			}
			s.Time = r.Int64N(50) * 1e6 // the gateway's clock jitters, the device's does not
			return s
		}), h},
		{"backwards", one, each(one, 9, func(_ *rand.Rand, _, k int) sample.Sample {
			return sample.Sample{Value: sample.IntValue(5), Time: []int64{0, 0, -5e9, 1, 9e9, -7, 0, 0, -1800000000e9}[k]}
		}), h},
	}
	thinned, counted := h, h
	thinned.Thinned, thinned.ReplacesFrom, thinned.ReplacesTo = 4444, 3, 41
	counted.Thinned = 300
	out = append(out,
		vector{"thinned", some, each(some, 12, func(_ *rand.Rand, i, k int) sample.Sample { return float(float64(10*k + i)) }), thinned},
		vector{"thinned-before", one, each(one, 3, func(_ *rand.Rand, _, k int) sample.Sample { return float(float64(k)) }), counted})
	for _, seed := range []uint64{11, 12, 13, 14, 15, 16} {
		g := newGenerator(seed, 12)
		out = append(out, vector{fmt.Sprint("events-", seed), g.tags, g.rows(150), h})
	}
	return out
}

// TestVectors reads blocks that were packed when version 1 was fixed. Where it
// fails, the format has changed, and what is stored can no longer be read.
func TestVectors(t *testing.T) {
	e, d := newCodec(t)
	for _, v := range vectors() {
		path := filepath.Join(vectorDir, v.name)
		fresh := pack(t, e, v.tags, v.rows, v.h)
		if *update {
			b, err := d.Decode(fresh)
			if err != nil {
				t.Fatalf("%s: %v", v.name, err)
			}
			compare(t, v.name, b, byTag(v.tags, v.rows))
			write(t, path+".block", fresh)
			write(t, path+".json", append(AppendJSON(nil, b), '\n'))
		}
		want := read(t, path+".json")
		for what, data := range map[string][]byte{"stored": read(t, path+".block"), "packed anew": fresh} {
			b, err := d.Decode(data)
			if err != nil {
				t.Fatalf("%s, %s: %v", v.name, what, err)
			}
			if got := string(AppendJSON(nil, b)) + "\n"; got != string(want) {
				t.Errorf("%s, %s: reads\n%s, want\n%s", v.name, what, got, want)
			}
		}
		b, err := ParseJSON(want)
		if err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		compare(t, v.name+" from JSON", b, byTag(v.tags, v.rows))
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
