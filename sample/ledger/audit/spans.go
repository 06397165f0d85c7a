package audit

import (
	"slices"
	"sort"

	"millrace/sample/ledger"
)

// span is a range of sequences, both ends included.
type span struct{ from, to uint64 }

// spans is a set of sequences, as ranges that rise and do not touch.
type spans []span

// at is the index of the first range that ends at n or behind it.
func (s spans) at(n uint64) int { return sort.Search(len(s), func(i int) bool { return s[i].to >= n }) }

func (s spans) has(n uint64) bool {
	i := s.at(n)
	return i < len(s) && s[i].from <= n
}

func (s *spans) add(from, to uint64) {
	list := *s
	i := 0
	if from > 0 {
		i = list.at(from - 1)
	}
	j := i
	for j < len(list) && (to == ^uint64(0) || list[j].from <= to+1) {
		from, to = min(from, list[j].from), max(to, list[j].to)
		j++
	}
	*s = slices.Replace(list, i, j, span{from, to})
}

// without lists what of p is not in the set.
func (s spans) without(p span) (out []span) {
	n := p.from
	for i := s.at(p.from); i < len(s) && s[i].from <= p.to; i++ {
		if s[i].from > n {
			out = append(out, span{n, s[i].from - 1})
		}
		n = s[i].to + 1
	}
	if n <= p.to {
		out = append(out, span{n, p.to})
	}
	return out
}

// gap is a declared loss of blocks.
type gap struct {
	span
	count uint64
	known bool // count is
	cause ledger.Cause
}

// gaps are declared losses by sequence, rising, not overlapping.
type gaps []gap

func (g *gaps) add(n gap) {
	list := *g
	i := sort.Search(len(list), func(i int) bool { return list[i].to >= n.from })
	j := i
	for ; j < len(list) && list[j].from <= n.to; j++ {
		// The same blocks were lost to one sink and to another: how many samples
		// both are is not known where one record does not say what the other does.
		o := &list[j]
		n.known = n.known && o.known && n.span == o.span && n.count == o.count
		n.from, n.to = min(n.from, o.from), max(n.to, o.to)
	}
	if i == j { // records of blocks in a row are one
		if i > 0 && joins(&list[i-1], &n) {
			i--
			n.from, n.count = list[i].from, n.count+list[i].count
		}
		if j < len(list) && joins(&n, &list[j]) {
			n.to, n.count = list[j].to, n.count+list[j].count
			j++
		}
	}
	*g = slices.Replace(list, i, j, n)
}

func joins(a, b *gap) bool { return a.to+1 == b.from && a.known && b.known && a.cause == b.cause }

// within lists those that touch p.
func (g gaps) within(p span) gaps {
	i := sort.Search(len(g), func(i int) bool { return g[i].to >= p.from })
	j := i
	for j < len(g) && g[j].from <= p.to {
		j++
	}
	return g[i:j]
}
