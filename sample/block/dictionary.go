package block

import (
	"math/bits"
	"slices"
)

// dictBuilder finds the distinct values of a column.
type dictBuilder struct {
	values []int64
	codes  []int64
	counts []int
	slots  [1024]uint16 // hash to index plus one
}

const maxDict = 256

// build lists the distinct values and each sample's index in them, zigzag
// decoded, unless they are too many for that to take less than cost bits.
func (d *dictBuilder) build(x []int64, cost int) bool {
	clear(d.slots[:])
	d.values, d.codes, d.counts = d.values[:0], d.codes[:0], d.counts[:0]
	most := min(maxDict, len(x)/8)
	for _, v := range x {
		h := uint64(v) * 0x9E3779B97F4A7C15 >> 54
		for d.slots[h] != 0 && d.values[d.slots[h]-1] != v {
			h = (h + 1) % uint64(len(d.slots))
		}
		if d.slots[h] == 0 {
			if len(d.values) == most {
				return false
			}
			d.values, d.counts = append(d.values, v), append(d.counts, 0)
			d.slots[h] = uint16(len(d.values))
		}
		i := d.slots[h] - 1
		d.counts[i]++
		d.codes = append(d.codes, int64(i))
	}
	size := xlogx(uint32(len(x)))
	for i, v := range d.values {
		size += float64(bits.Len64(zigzag(v))) + 8 - xlogx(uint32(d.counts[i]))
	}
	if size >= float64(cost) {
		return false
	}
	d.rank()
	return true
}

// rank numbers the values by falling count, so that small codes are frequent.
func (d *dictBuilder) rank() {
	order := make([]int, len(d.values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return d.counts[b] - d.counts[a] })
	rank := make([]int64, len(order))
	sorted := make([]int64, len(order))
	for r, i := range order {
		rank[i] = unzigzag(uint64(r))
		sorted[r] = d.values[i]
	}
	copy(d.values, sorted)
	for i, c := range d.codes {
		d.codes[i] = rank[c]
	}
}
