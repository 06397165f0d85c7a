package spool

import (
	"encoding/binary"
	"errors"
	"sort"
)

// span is a run of block numbers, both ends included.
type span struct{ from, to uint64 }

// intervals is a set of block numbers as runs, sorted, apart by one or more.
type intervals []span

// at returns the index of the first run that ends at n or after it.
func (v intervals) at(n uint64) int {
	return sort.Search(len(v), func(i int) bool { return v[i].to >= n })
}

func (v intervals) has(n uint64) bool {
	i := v.at(n)
	return i < len(v) && v[i].from <= n
}

// covers reports whether every number from..to is in the set.
func (v intervals) covers(from, to uint64) bool {
	if from > to {
		return true
	}
	i := v.at(from)
	return i < len(v) && v[i].from <= from && v[i].to >= to
}

// meets reports whether any number of from..to is in the set.
func (v intervals) meets(from, to uint64) bool {
	i := v.at(from)
	return from <= to && i < len(v) && v[i].from <= to
}

// free returns the first number from n on that is not in the set.
func (v intervals) free(n uint64) uint64 {
	if i := v.at(n); i < len(v) && v[i].from <= n {
		return v[i].to + 1
	}
	return n
}

// add puts from..to into the set.
func (v intervals) add(from, to uint64) intervals {
	if from > to {
		return v
	}
	// Runs i..j-1 touch the new one.
	i := v.at(max(from, 1) - 1)
	j := i
	for j < len(v) && v[j].from <= to+1 {
		from, to = min(from, v[j].from), max(to, v[j].to)
		j++
	}
	if i == j {
		v = append(v, span{})
		copy(v[i+1:], v[i:])
		v[i] = span{from, to}
		return v
	}
	v[i] = span{from, to}
	return append(v[:i+1], v[j:]...)
}

// append encodes the set: the number of runs, then for each the distance from
// the end of the one before, and its length, all uvarint.
func (v intervals) append(to []byte) []byte {
	to = binary.AppendUvarint(to, uint64(len(v)))
	end := uint64(0)
	for _, s := range v {
		to = binary.AppendUvarint(to, s.from-end)
		to = binary.AppendUvarint(to, s.to-s.from)
		end = s.to
	}
	return to
}

var errIntervals = errors.New("acknowledged numbers do not read")

func readIntervals(b []byte) (intervals, error) {
	next := func() (n uint64, err error) {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return 0, errIntervals
		}
		b = b[size:]
		return n, nil
	}
	n, err := next()
	if err != nil || n > uint64(len(b)) {
		return nil, errIntervals
	}
	v := make(intervals, 0, n)
	end := uint64(0)
	for range n {
		gap, err1 := next()
		length, err2 := next()
		if err1 != nil || err2 != nil {
			return nil, errIntervals
		}
		from := end + gap
		end = from + length
		v = append(v, span{from, end})
	}
	return v, nil
}
