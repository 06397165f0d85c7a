package block

import (
	"math"
	"slices"
)

// cluster merges groups of like spread while that saves more on tables than it
// costs in bits, and gives each of those left a class and a table.
func (t *tokens) cluster() {
	order, gains := t.order[:0], t.gains[:0]
	for i := range t.groups {
		t.groups[i].close()
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int { return t.groups[a].cost - t.groups[b].cost })
	for i := range len(order) - 1 {
		gains = append(gains, t.saved(order[i], order[i+1]))
	}
	for len(gains) > 0 {
		at := 0
		for i, g := range gains {
			if g > gains[at] {
				at = i
			}
		}
		if gains[at] <= 0 && len(order) <= maxClasses-frontClass-1 {
			break
		}
		t.merge(order[at], order[at+1])
		order = slices.Delete(order, at+1, at+2)
		gains = slices.Delete(gains, at, at+1)
		if at > 0 {
			gains[at-1] = t.saved(order[at-1], order[at])
		}
		if at < len(gains) {
			gains[at] = t.saved(order[at], order[at+1])
		}
	}
	t.order, t.gains = order, gains
	t.tables = grow(t.tables, frontClass+1+len(order))
	for i, g := range order {
		t.groups[g].class = frontClass + 1 + i
		t.tables[frontClass+1+i].build(&t.groups[g].hist)
	}
	for i := range t.groups {
		g := &t.groups[i]
		root := i
		for t.groups[root].next >= 0 {
			root = t.groups[root].next
		}
		g.class = t.groups[root].class
	}
}

// close works out what a group that gets no more symbols costs.
func (g *group) close() {
	g.top = len(g.hist)
	for g.top > 0 && g.hist[g.top-1] == 0 {
		g.top--
	}
	g.bits = codedBits(g.hist[:g.top], g.total)
}

// saved is how many bits a merger of two groups saves.
func (t *tokens) saved(a, b int) float64 {
	ga, gb := &t.groups[a], &t.groups[b]
	var h [256]uint32
	top := max(ga.top, gb.top)
	for i := range top {
		h[i] = ga.hist[i] + gb.hist[i]
	}
	return ga.bits + gb.bits - codedBits(h[:top], ga.total+gb.total)
}

func (t *tokens) merge(a, b int) {
	ga, gb := &t.groups[a], &t.groups[b]
	for i, c := range gb.hist {
		ga.hist[i] += c
	}
	ga.total += gb.total
	ga.close()
	gb.next = a
}

// codedBits is what symbols of these counts cost, table included.
func codedBits(hist []uint32, total uint32) float64 {
	cost := 10.0
	for _, c := range hist {
		if c != 0 {
			cost += 6 - xlogx(c)
		}
	}
	return cost + xlogx(total)
}

func xlogx(c uint32) float64 {
	if c < uint32(len(logs)) {
		return float64(c) * logs[c]
	}
	return float64(c) * math.Log2(float64(c))
}

// logs holds the base-2 logarithms of small counts.
var logs = func() (l [1024]float64) {
	for i := 1; i < len(l); i++ {
		l[i] = math.Log2(float64(i))
	}
	return l
}()

// build quantises a histogram to the nibbles that the block carries, and
// derives the frequencies from those as a decoder does.
func (t *table) build(hist *[256]uint32) {
	largest := slices.Max(hist[:])
	clear(t.freq[:])
	for i, c := range hist {
		t.nibbles[i] = 0
		if c == 0 {
			continue
		}
		w := float64(c) * float64(weights[15]) / float64(largest)
		q := uint8(15)
		for q > 1 && float64(weights[q])*0.79 > w {
			q--
		}
		t.nibbles[i] = q
		t.freq[i] = uint32(q)
	}
	frequencies(&t.freq)
	at := uint32(0)
	for i, f := range t.freq {
		t.start[i] = at
		at += f
	}
}
