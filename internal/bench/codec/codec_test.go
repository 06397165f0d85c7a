package codec

import (
	"math"
	"strings"
	"testing"
)

// Sizes do not depend on the machine, so their bars are a test too.
func TestSizesHoldTheirBars(t *testing.T) {
	generated := generate(600)
	rows := generated.rows()
	sparse := deadband(generated)
	peers, err := compareWith("", generated.tags, sparse, largeBlock)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		rows []row
		n    int
		bar  float64
	}{
		{"large blocks", rows, largeBlock, barLarge}, {"small blocks", rows, smallBlock, barSmall}, {"deadband", sparse, largeBlock, peers.parquet},
	} {
		m, err := measure(generated.tags, c.rows, c.n)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if m.bytes > c.bar || m.bytes <= 0 {
			t.Errorf("%s take %.3f B a sample, the bar is %.3f", c.name, m.bytes, c.bar)
		}
	}
}

func TestDeadband(t *testing.T) {
	col := make([]float64, 2*longestSilence+1)
	col[1], col[2], col[3] = 100, 100.9, 102
	got := deadband(&table{tags: []string{"a"}, times: make([]int64, len(col)), values: [][]float64{col}})
	// The span is 102, so the band is 1.02: 100.9 is within it, and the long
	// rest at 0 is broken once.
	want := []float64{0, 100, 102, 0, 0}
	if len(got) != len(want) {
		t.Fatalf("%d samples kept, want %d", len(got), len(want))
	}
	for i, v := range want {
		if got[i].s.Value.Float() != v {
			t.Errorf("sample %d is %g, want %g", i, got[i].s.Value.Float(), v)
		}
	}
}

func TestFiles(t *testing.T) {
	for text, at := range map[string]int64{
		"t_ms,a,b\n1767225600000,1.5,2\n":           1767225600000000000,
		"datetime,a,b\n2026-01-01 00:00:00,1.5,2\n": 1767225600000000000,
	} {
		got, err := parse(strings.NewReader(text), ",")
		if err != nil {
			t.Fatal(err)
		}
		if got.times[0] != at || got.values[0][0] != 1.5 || got.values[1][0] != 2 {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
	for _, text := range []string{"t,a\n1\n", "t,a\n1,x\n", "t,a\nnoon,1\n"} {
		if got, err := parse(strings.NewReader(text), ","); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
	if got, err := load("no such file", ','); got != nil || err != nil {
		t.Errorf("a file that is not there gives %v, %v", got, err)
	}
}

func TestAWrongSampleIsSeen(t *testing.T) {
	rows := generate(3).rows()
	if _, err := measure(generate(3).tags, rows, largeBlock); err != nil {
		t.Fatal(err)
	}
	rows[7].s.Tag = "plant1/meter09/reg19"
	if _, err := measure(generate(3).tags, rows, largeBlock); err == nil {
		t.Error("a sample under a wrong tag is not seen")
	}
	if math.IsNaN(rows[0].s.Value.Float()) {
		t.Error("the generator makes NaN")
	}
}
