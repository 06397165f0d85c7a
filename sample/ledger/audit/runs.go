package audit

import (
	"fmt"
	"slices"
	"sort"
)

// run is a row of blocks without a hole.
type run struct {
	span
	// base is how many samples were produced before the first block, end how
	// many with the last; known where their headers were read.
	base, end           uint64
	baseKnown, endKnown bool
	first, last         int64 // time of the first block's first sample and of the last block's last, ns
}

// runs are the blocks seen, rising.
type runs struct {
	list []run
	// unsealed counts samples that the headers say were produced between two
	// blocks in a row, and that neither holds: they were lost before a block was
	// made of them. places are the sequences before them, the first few.
	unsealed uint64
	places   []uint64
}

const maxPlaces = 8

func (r *runs) has(n uint64) bool {
	i := r.at(n)
	return i < len(r.list) && r.list[i].from <= n
}

// at is the index of the first run that ends at n or behind it.
func (r *runs) at(n uint64) int {
	return sort.Search(len(r.list), func(i int) bool { return r.list[i].to >= n })
}

// add takes a block that is not there yet.
func (r *runs) add(b *Block, f *faults) {
	n := run{
		span: span{b.Seq, b.Seq}, base: b.Produced - b.own(), end: b.Produced,
		baseKnown: !b.KeysOnly, endKnown: !b.KeysOnly, first: b.First, last: b.Last,
	}
	i := r.at(b.Seq)
	j := i
	if i > 0 && r.list[i-1].to+1 == n.from {
		i--
		n = r.join(&r.list[i], &n, f)
	}
	if j < len(r.list) && n.to+1 == r.list[j].from {
		n = r.join(&n, &r.list[j], f)
		j++
	}
	r.list = slices.Replace(r.list, i, j, n)
}

// join makes one run of two in a row.
func (r *runs) join(a, b *run, f *faults) run {
	if a.endKnown && b.baseKnown {
		switch {
		case b.base < a.end:
			f.add(fmt.Sprintf("block %d says that %d samples were produced before it, block %d before it says %d", b.from, b.base, a.to, a.end))
		case b.base > a.end:
			r.unsealed += b.base - a.end
			if len(r.places) < maxPlaces {
				r.places = append(r.places, a.to)
			}
		}
	}
	return run{
		span: span{a.from, b.to}, base: a.base, baseKnown: a.baseKnown, end: b.end, endKnown: b.endKnown, first: a.first, last: b.last,
	}
}
