package block

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"millrace/sample"
)

// row is a sample and the index of its tag.
type row struct {
	tag int
	s   sample.Sample
}

// oddFloats are those that a codec gets wrong first.
var oddFloats = []uint64{
	0, 1 << 63, 1, 1<<63 | 1, math.Float64bits(math.Inf(1)), math.Float64bits(math.Inf(-1)), 0x7FF8000000000001, 0xFFF8000000000000,
	0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF, 0x7FEFFFFFFFFFFFFF, 0x000FFFFFFFFFFFFF, math.Float64bits(0.1), math.Float64bits(203.7),
	math.Float64bits(1 << 53), math.Float64bits(1<<53 + 2), math.Float64bits(-(1 << 53)), math.Float64bits(1e15), math.Float64bits(1e-15),
	math.Float64bits(1e300), math.Float64bits(0.30000000000000004), math.Float64bits(float64(float32(230.7))), math.Float64bits(9007199254740993),
}

// generator makes rows of every kind. Each tag has a habit, so that every way
// of coding a column comes up.
type generator struct {
	r     *rand.Rand
	tags  []string
	habit []int
	last  []float64
}

const habits = 16

func newGenerator(seed uint64, tags int) *generator {
	g := &generator{r: rand.New(rand.NewPCG(seed, 1)), last: make([]float64, tags)}
	for i := range tags {
		g.tags = append(g.tags, fmt.Sprintf("site/dev%02d/reg%02d", i/7, i))
		g.habit = append(g.habit, g.r.IntN(habits))
	}
	return g
}

func (g *generator) value(tag int) sample.Value {
	g.last[tag] += g.r.NormFloat64()
	x := g.last[tag]
	switch g.habit[tag] {
	case 0:
		return sample.FloatValue(math.Round(x*10) / 10)
	case 1:
		return sample.FloatValue(math.Round(x*1e6) / 1e6)
	case 2:
		return sample.FloatValue(x)
	case 3:
		return sample.FloatValue(float64(float32(x)))
	case 4:
		return sample.FloatValue(float64(float32(math.Round(x*100) / 100)))
	case 5:
		return sample.FloatValue(math.Round(x*10) * 0.1)
	case 6:
		return sample.IntValue(int64(x * 100))
	case 7:
		return sample.IntValue(int64(g.r.Uint64()) >> g.r.IntN(64))
	case 8:
		return sample.BoolValue(x > 0)
	case 9:
		return sample.StringValue([]string{"", "on", "off", "\x00\xff", "läuft"}[g.r.IntN(5)])
	case 10:
		return sample.Value{}
	case 11:
		return sample.FloatValue(math.Float64frombits(oddFloats[g.r.IntN(len(oddFloats))]))
	case 12:
		return sample.FloatValue(math.Float64frombits(g.r.Uint64()))
	case 13:
		return sample.IntValue([]int64{math.MinInt64, math.MaxInt64, 0, -1, 1 << 53, 1<<53 + 1}[g.r.IntN(6)])
	case 14:
		return sample.FloatValue([]float64{0.382638, -0.273216, 0.054711, 1e9 / 7}[g.r.IntN(4)])
	}
	saved := g.habit[tag]
	g.habit[tag] = g.r.IntN(habits - 1)
	v := g.value(tag)
	g.habit[tag] = saved
	return v
}

// rows makes about n rows.
func (g *generator) rows(n int) []row {
	quality := g.r.IntN(3) == 0
	source := g.r.IntN(3)
	producer := g.r.IntN(4) == 0
	step := []int64{1e9, 1e6, 1, 37, 0, -1e9}[g.r.IntN(6)]
	together := g.r.IntN(2) == 0
	keep := g.r.Float64()
	now := int64(1767225600e9)
	if g.r.IntN(8) == 0 {
		now = []int64{0, -5, math.MinInt64, math.MaxInt64}[g.r.IntN(4)]
	}
	var out []row
	for len(out) < n {
		now += step
		if g.r.IntN(10) == 0 {
			now += g.r.Int64N(1e9) - 5e8
		}
		for tag := range g.tags {
			if !together && g.r.Float64() > keep*keep {
				continue
			}
			if !together {
				now += g.r.Int64N(1e8)
			}
			s := sample.Sample{Value: g.value(tag), Time: now}
			if quality && g.r.IntN(5) == 0 {
				s.Quality = []sample.Quality{sample.Bad, sample.BadTimeout, sample.Uncertain, sample.Quality(g.r.Uint32())}[g.r.IntN(4)]
			}
			if source == 1 || source == 2 && g.r.IntN(2) == 0 {
				s.SourceTime = now - g.r.Int64N(1e7)
			}
			if producer && tag%2 == 0 {
				s.Producer, s.Seq = fmt.Sprint("p", g.r.IntN(3)), g.r.Uint64()>>g.r.IntN(64)
			}
			out = append(out, row{tag, s})
		}
		keep += 0.05
	}
	return out[:n]
}

func pack(t testing.TB, e *Encoder, tags []string, rows []row, h Header) []byte {
	t.Helper()
	e.Reset(tags)
	for i := range rows {
		e.Add(rows[i].tag, &rows[i].s)
	}
	data, err := e.Encode(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newCodec(t testing.TB) (*Encoder, *Decoder) {
	t.Helper()
	e, err := NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	return e, d
}

// byTag is what a decoder must give back: the rows tag by tag.
func byTag(tags []string, rows []row) []sample.Sample {
	cols := make([][]sample.Sample, len(tags))
	for _, r := range rows {
		r.s.Tag = tags[r.tag]
		cols[r.tag] = append(cols[r.tag], r.s)
	}
	var out []sample.Sample
	for _, c := range cols {
		out = append(out, c...)
	}
	return out
}

func compare(t testing.TB, what string, b *Block, want []sample.Sample) {
	t.Helper()
	i := 0
	for got := range b.All() {
		if i < len(want) && got != want[i] {
			t.Fatalf("%s: sample %d is %+v, want %+v", what, i, got, want[i])
		}
		i++
	}
	if i != len(want) {
		t.Fatalf("%s: %d samples, want %d", what, i, len(want))
	}
}

func testHeader(r *rand.Rand) Header {
	h := Header{
		Site: "plant1", Gateway: "gw1", Stream: "s0001", Epoch: r.Uint64(), Seq: r.Uint64(), Produced: r.Uint64(), Lost: r.Uint64N(9),
		Mono: int64(r.Uint64()), Clock: ClockState(r.IntN(3)),
	}
	if r.IntN(3) == 0 {
		h.Thinned = r.Uint64()
	}
	if r.IntN(3) == 0 && h.Seq > 1 {
		h.ReplacesFrom = 1 + r.Uint64N(h.Seq-1)
		h.ReplacesTo = h.ReplacesFrom + r.Uint64N(h.Seq-h.ReplacesFrom)
	}
	for i := range h.Boot {
		h.Boot[i] = byte(r.Uint32())
	}
	return h
}

func TestBlocksComeBackBitForBit(t *testing.T) {
	e, d := newCodec(t)
	base := rand.Uint64()
	for k := range uint64(600) {
		seed := base + k
		r := rand.New(rand.NewPCG(seed, 2))
		g := newGenerator(seed, 1+r.IntN(30))
		rows := g.rows([]int{0, 1, 2, 3, 10, 100, 1000, 3000}[r.IntN(8)])
		h := testHeader(r)
		data := pack(t, e, g.tags, rows, h)
		b, err := d.Decode(data)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		h.Count = len(rows)
		for i := range rows {
			p := rows[i].s.PrimaryTime()
			if i == 0 {
				h.First, h.Last = p, p
			}
			h.First, h.Last = min(h.First, p), max(h.Last, p)
		}
		if b.Header != h {
			t.Fatalf("seed %d: header %+v, want %+v", seed, b.Header, h)
		}
		compare(t, fmt.Sprint("seed ", seed), b, byTag(g.tags, rows))
		again := pack(t, e, g.tags, rows, h)
		if !bytes.Equal(data, again) {
			t.Fatalf("seed %d: the same samples gave other bytes", seed)
		}
	}
}

func TestPartsComeBackBitForBit(t *testing.T) {
	var w PartWriter
	base := rand.Uint64()
	for k := range uint64(200) {
		seed := base + k
		r := rand.New(rand.NewPCG(seed, 2))
		g := newGenerator(seed, 1+r.IntN(30))
		rows := g.rows(r.IntN(300))
		w.Reset(w.Bytes())
		first, last := int64(math.MaxInt64), int64(math.MinInt64)
		for i := range rows {
			w.Add(rows[i].tag, &rows[i].s)
			first, last = min(first, rows[i].s.PrimaryTime()), max(last, rows[i].s.PrimaryTime())
		}
		if w.Count() != len(rows) || len(rows) > 0 && (w.First() != first || w.Last() != last) {
			t.Fatalf("seed %d: %d rows of %d to %d, want %d of %d to %d", seed, w.Count(), w.First(), w.Last(), len(rows), first, last)
		}
		i := 0
		err := ReadPart(w.Bytes(), func(tag int, s *sample.Sample) error {
			if tag != rows[i].tag || *s != rows[i].s {
				t.Fatalf("seed %d: row %d is %d %+v, want %+v", seed, i, tag, *s, rows[i])
			}
			i++
			return nil
		})
		if err != nil || i != len(rows) {
			t.Fatalf("seed %d: %d rows of %d, %v", seed, i, len(rows), err)
		}
	}
}

func TestJSONComesBackBitForBit(t *testing.T) {
	e, d := newCodec(t)
	base := rand.Uint64()
	for k := range uint64(150) {
		seed := base + k
		r := rand.New(rand.NewPCG(seed, 2))
		g := newGenerator(seed, 1+r.IntN(20))
		rows := g.rows([]int{0, 1, 10, 300}[r.IntN(4)])
		h := testHeader(r)
		h.Site = []string{"plant", "W\"erk", "\xff"}[r.IntN(3)]
		b, err := d.Decode(pack(t, e, g.tags, rows, h))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		text := AppendJSON(nil, b)
		back, err := ParseJSON(text)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		if back.Header != b.Header {
			t.Fatalf("seed %d: header %+v, want %+v", seed, back.Header, b.Header)
		}
		compare(t, fmt.Sprint("seed ", seed), back, byTag(g.tags, rows))
	}
}
