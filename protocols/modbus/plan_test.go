package modbus

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/protocols"
)

// pointsOf builds points from "address type[length]" lines.
func pointsOf(t testing.TB, c *Config, lines ...string) []point {
	t.Helper()
	var points []point
	for i, line := range lines {
		var tag protocols.Tag
		fields := strings.Fields(line)
		tag.Name, tag.Address = fmt.Sprintf("plant/dev/t%d", i), fields[0]
		for _, f := range fields[1:] {
			if d, err := time.ParseDuration(f); err == nil {
				tag.ScanRate = d
			} else if _, err := fmt.Sscanf(f, "string%d", &tag.Length); err == nil {
				tag.Type = "string"
			} else {
				tag.Type = f
			}
		}
		p, faults := makePoint(tag, i, c, time.Second)
		if len(faults) > 0 {
			t.Fatalf("%s: %+v", line, faults)
		}
		points = append(points, p)
	}
	return points
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name string
		lim  limits
		tags []string
		want []string
	}{
		{"neighbours share a request", limits{125, 2000, 0},
			[]string{"holding:2 float32", "holding:0 float32", "holding:4"},
			[]string{"slave 1 holding 0..4"}},
		{"a gap up to the limit is read in vain", limits{125, 2000, 3},
			[]string{"holding:0", "holding:4", "holding:9"},
			[]string{"slave 1 holding 0..4", "slave 1 holding 9"}},
		{"slave, table and scan rate divide", limits{125, 2000, 10},
			[]string{"holding:0", "2/holding:1", "input:1", "holding:1 5s", "coil:0", "discrete:0"},
			[]string{"slave 1 holding 0", "slave 1 input 1", "slave 1 coil 0", "slave 1 discrete 0", "slave 2 holding 1", "slave 1 holding 1"}},
		{"a value is not split", limits{4, 2000, 0},
			[]string{"holding:0", "holding:1 float64", "holding:5", "holding:6 float32"},
			[]string{"slave 1 holding 0", "slave 1 holding 1..4", "slave 1 holding 5..7"}},
		{"bits of a register are one register", limits{125, 2000, 0},
			[]string{"holding:7.3", "holding:7.0", "holding:7"},
			[]string{"slave 1 holding 7"}},
		{"values that overlap", limits{125, 2000, 0},
			[]string{"holding:0 float64", "holding:1", "holding:3 int32"},
			[]string{"slave 1 holding 0..4"}},
		{"the limit of registers", limits{125, 2000, 0},
			[]string{"holding:0 string250", "holding:125"},
			[]string{"slave 1 holding 0..124", "slave 1 holding 125"}},
		{"bits have a gap sixteen times as wide", limits{125, 2000, 1},
			[]string{"coil:0", "coil:17", "coil:35"},
			[]string{"slave 1 coil 0..17", "slave 1 coil 35"}},
		{"the limit of bits", limits{125, 8, 125},
			[]string{"coil:0", "coil:7", "coil:8"},
			[]string{"slave 1 coil 0..7", "slave 1 coil 8"}},
		{"the end of the table", limits{125, 2000, 0},
			[]string{"holding:65534 float32", "holding:65535"},
			[]string{"slave 1 holding 65534..65535"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			points := pointsOf(t, Protocol{}.NewConfig().(*Config), c.tags...)
			var got []string
			for _, g := range plan(points, c.lim) {
				got = append(got, g.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestPlanProperties: every tag is covered once and whole, no request is over
// the limits or reads a longer gap in vain, and the order of the tags does not
// matter.
func TestPlanProperties(t *testing.T) {
	cfg := Protocol{}.NewConfig().(*Config)
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 7))
		lim := limits{registers: 4 + rng.IntN(122), bits: 1 + rng.IntN(2000), gap: rng.IntN(20)}
		cfg.MaxRegisters = lim.registers
		spread := 1 + rng.IntN(2000)
		var tags []string
		for range 1 + rng.IntN(150) {
			slave, offset, every := 1+rng.IntN(2), rng.IntN(spread), []string{"1s", "5s"}[rng.IntN(2)]
			switch rng.IntN(6) {
			case 0:
				tags = append(tags, fmt.Sprintf("%d/coil:%d %s", slave, offset, every))
			case 1:
				tags = append(tags, fmt.Sprintf("%d/holding:%d string%d %s", slave, offset, 1+rng.IntN(2*lim.registers), every))
			case 2:
				tags = append(tags, fmt.Sprintf("%d/input:%d.%d %s", slave, offset, rng.IntN(16), every))
			default:
				typ := typeNames[1+rng.IntN(int(typeFloat64))]
				tags = append(tags, fmt.Sprintf("%d/holding:%d %s %s", slave, offset, typ, every))
			}
		}
		points := pointsOf(t, cfg, tags...)
		groups := plan(points, lim)
		seen := map[int]int{}
		for _, g := range groups {
			most, gap := lim.of(g.table)
			if g.count < 1 || g.count > most {
				t.Fatalf("seed %d: %s asks for %d of %d", seed, g.String(), g.count, most)
			}
			end := int(g.start)
			for i := range g.points {
				p := &g.points[i]
				seen[p.index]++
				if p.slave != g.slave || p.table != g.table || p.rate != g.rate {
					t.Fatalf("seed %d: %s holds a stranger: %+v", seed, g.String(), p)
				}
				if p.offset < g.start || p.end() > int(g.start)+g.count {
					t.Fatalf("seed %d: %s does not cover %s", seed, g.String(), p.address)
				}
				if int(p.offset)-end > gap {
					t.Fatalf("seed %d: %s reads a gap of %d", seed, g.String(), int(p.offset)-end)
				}
				end = max(end, p.end())
			}
			if end != int(g.start)+g.count {
				t.Fatalf("seed %d: %s reads beyond its last tag", seed, g.String())
			}
		}
		for i := range points {
			if seen[i] != 1 {
				t.Fatalf("seed %d: tag %d is read %d times", seed, i, seen[i])
			}
		}
		shuffled := slices.Clone(points)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if !reflect.DeepEqual(groups, plan(shuffled, lim)) {
			t.Fatalf("seed %d: the plan depends on the order of the tags", seed)
		}
	}
}

// TestPlanIsMinimal compares with the fewest requests that an exhaustive
// search finds.
func TestPlanIsMinimal(t *testing.T) {
	cfg := Protocol{}.NewConfig().(*Config)
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 11))
		lim := limits{registers: 4 + rng.IntN(6), bits: 8, gap: rng.IntN(4)}
		var tags []string
		for range 1 + rng.IntN(7) {
			tags = append(tags, fmt.Sprintf("holding:%d %s", rng.IntN(20), []string{"uint16", "float32", "float64"}[rng.IntN(3)]))
		}
		points := pointsOf(t, cfg, tags...)
		if got, want := len(plan(points, lim)), fewest(points, lim, nil); got != want {
			t.Errorf("seed %d: %d requests, %d would do: %v %+v", seed, got, want, tags, lim)
		}
	}
}

// fewest tries every way to put the points into requests.
func fewest(points []point, lim limits, sets [][]point) int {
	if len(points) == 0 {
		for _, set := range sets {
			set = slices.Clone(set)
			slices.SortFunc(set, func(a, b point) int { return int(a.offset) - int(b.offset) })
			end := int(set[0].offset)
			for _, p := range set {
				if int(p.offset)-end > lim.gap {
					return 1 << 30
				}
				end = max(end, p.end())
			}
			if end-int(set[0].offset) > lim.registers {
				return 1 << 30
			}
		}
		return len(sets)
	}
	best := fewest(points[1:], lim, append(slices.Clone(sets), []point{points[0]}))
	for i := range sets {
		next := slices.Clone(sets)
		next[i] = append(slices.Clone(sets[i]), points[0])
		best = min(best, fewest(points[1:], lim, next))
	}
	return best
}
