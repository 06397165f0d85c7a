package codec

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"millrace/sample"
)

// table is values by tick and tag.
type table struct {
	tags   []string
	times  []int64     // ns
	values [][]float64 // by tag, then tick
}

// row is a sample and the index of its tag.
type row struct {
	tag int
	s   sample.Sample
}

// rows lists the table tick by tick.
func (t *table) rows() []row {
	out := make([]row, 0, len(t.times)*len(t.tags))
	for k, at := range t.times {
		for i, tag := range t.tags {
			out = append(out, row{i, sample.Sample{Tag: tag, Time: at, Value: sample.FloatValue(t.values[i][k])}})
		}
	}
	return out
}

// longestSilence is after how many ticks an unchanged value is sent all the same.
const longestSilence = 600

// deadband keeps what differs from the last one kept by more than 1 % of its
// tag's span, as an OPC UA percent deadband does, and the first after a silence.
func deadband(t *table) []row {
	band, last, since := make([]float64, len(t.tags)), make([]float64, len(t.tags)), make([]int, len(t.tags))
	for i, col := range t.values {
		low, high := math.Inf(1), math.Inf(-1)
		for _, v := range col {
			low, high = min(low, v), max(high, v)
		}
		band[i] = (high - low) / 100
		last[i] = math.Inf(1)
	}
	var out []row
	for _, r := range t.rows() {
		v := r.s.Value.Float()
		since[r.tag]++
		if math.Abs(v-last[r.tag]) > band[r.tag] || since[r.tag] >= longestSilence {
			last[r.tag], since[r.tag] = v, 0
			out = append(out, r)
		}
	}
	return out
}

// generate makes a plant of ten meters: of 20 registers each, nine drift slowly
// and rest for seconds, five are voltages with noise, three count, three rest.
// All are short decimals, read once a second.
func generate(ticks int) *table {
	r := rand.New(rand.NewPCG(1, 2))
	t := &table{}
	for meter := range 10 {
		for reg := range 20 {
			t.tags = append(t.tags, fmt.Sprintf("plant1/meter%02d/reg%02d", meter, reg))
			t.values = append(t.values, register(r, reg, ticks))
		}
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for k := range ticks {
		t.times = append(t.times, start.Add(time.Duration(k)*time.Second).UnixNano())
	}
	return t
}

// Plant returns the samples of a generated plant of 200 tags that is read once a
// second, tick by tick.
func Plant(ticks int) (tags []string, samples [][]sample.Sample) {
	t := generate(ticks)
	rows := t.rows()
	for k := range ticks {
		tick := make([]sample.Sample, len(t.tags))
		for i := range tick {
			tick[i] = rows[k*len(t.tags)+i].s
		}
		samples = append(samples, tick)
	}
	return t.tags, samples
}

// Ticks calls fn with the samples of each tick of the plant that Plant makes,
// which are overwritten by the next.
func Ticks(ticks int, fn func(tags []string, tick []sample.Sample) error) error {
	t := generate(ticks)
	tick := make([]sample.Sample, len(t.tags))
	for k, at := range t.times {
		for i, tag := range t.tags {
			tick[i] = sample.Sample{Tag: tag, Time: at, Value: sample.FloatValue(t.values[i][k])}
		}
		if err := fn(t.tags, tick); err != nil {
			return err
		}
	}
	return nil
}

func register(r *rand.Rand, reg, ticks int) []float64 {
	col := make([]float64, ticks)
	switch {
	case reg < 9:
		x := 20 + 200*r.Float64()
		for k := range col {
			if r.IntN(5) == 0 {
				x += float64(r.IntN(5)-2) / 10
			}
			col[k] = math.Round(x*10) / 10
		}
	case reg < 14:
		base := 231 + 18*r.Float64()
		for k := range col {
			base += 0.05 * r.NormFloat64()
			base = min(max(base, 230), 250)
			col[k] = math.Round((base+0.35*r.NormFloat64())*10) / 10
		}
	case reg < 17:
		n, rate := float64(r.IntN(1e8)), 2+29*r.Float64()
		for k := range col {
			rate = max(rate+0.1*r.NormFloat64(), 0)
			n += math.Round(rate + 0.5*r.NormFloat64())
			col[k] = n
		}
	}
	return col
}

// load reads a file of one line a tick: a time (epoch ms, or date and time),
// then a value for each tag. A file that is not there gives nil.
func load(path string, comma rune) (*table, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	t, err := parse(in, string(comma))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

func parse(in io.Reader, comma string) (*table, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 1<<20), 1<<20)
	lines.Scan()
	t := &table{tags: strings.Split(lines.Text(), comma)[1:]}
	t.values = make([][]float64, len(t.tags))
	for n := 2; lines.Scan(); n++ {
		fields := strings.Split(lines.Text(), comma)
		if len(fields) != len(t.tags)+1 {
			return nil, fmt.Errorf("line %d: %d fields, want %d", n, len(fields), len(t.tags)+1)
		}
		at, err := instant(fields[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		t.times = append(t.times, at)
		for i, text := range fields[1:] {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			t.values[i] = append(t.values[i], v)
		}
	}
	return t, lines.Err()
}

func instant(text string) (int64, error) {
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		return ms * int64(time.Millisecond), nil
	}
	at, err := time.Parse(time.DateTime, text)
	return at.UnixNano(), err
}
