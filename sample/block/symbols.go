package block

import (
	"encoding/binary"
)

// symbols decodes integer columns: the counterpart of tokens.
type symbols struct {
	slots [maxClasses][]uint32 // by class: tableSize entries, or none
	words []byte               // what is left of the coded symbols
	x, y  uint32               // the states; x gives the next symbol
	bits  bitReader
	err   error
}

// An entry of slots holds the symbol in bits 0-7, the slot's distance from the
// symbol's first in bits 8-17 and the frequency in bits 18-28.
const (
	offsetShift = 8
	freqShift   = 18
)

// readTables reads the frequency tables.
func (s *symbols) readTables(r *reader) {
	n := int(r.byte())
	if n >= maxClasses {
		r.fail("%d frequency tables", n)
		return
	}
	nib := nibbleReader{r: r}
	for c := range s.slots {
		s.slots[c] = s.slots[c][:0]
	}
	for c := headClass; c <= n; c++ {
		var f [256]uint32
		last := int(nib.next()) | int(nib.next())<<4
		for i := 0; i <= last; i++ {
			f[i] = uint32(nib.next())
			if f[i] == 0 {
				i += int(nib.next())
			}
		}
		if r.err != nil {
			return
		}
		if !frequencies(&f) {
			continue
		}
		slots := grow(s.slots[c], tableSize)
		s.slots[c] = slots
		at := 0
		for sym, n := range f {
			for k := range n {
				slots[at] = uint32(sym) | k<<offsetShift | n<<freqShift
				at++
			}
		}
	}
}

// start takes the coded symbols and the extra bits.
func (s *symbols) start(r *reader) {
	n := r.count(len(r.b)/2, "words of symbols")
	s.x, s.y = r.uint32(), r.uint32()
	s.words = r.take(2 * n)
	s.bits = bitReader{b: r.b}
	s.err = r.err
}

// finish checks that all was used, and nothing beyond.
func (s *symbols) finish() error {
	r := reader{err: s.err}
	switch {
	case s.err != nil:
	case len(s.words) > 0 || s.x != stateLow || s.y != stateLow:
		r.fail("the symbols do not end where they should")
	case !s.bits.atEnd():
		r.fail("the extra bits do not end where they should")
	}
	return r.err
}

func (s *symbols) fail(why string) {
	if s.err == nil {
		r := reader{}
		r.fail("%s", why)
		s.err = r.err
	}
}

// head decodes one integer of headClass.
func (s *symbols) head() int64 {
	var one [1]int64
	s.residuals(one[:], headClass)
	return one[0]
}

// length decodes one integer of headClass that counts something.
func (s *symbols) length(least, most int, what string) int {
	n := s.head()
	if n < int64(least) || n > int64(most) {
		s.fail("a bad number of " + what)
		return least
	}
	return int(n)
}

// residuals decodes a run of symbols of one class.
func (s *symbols) residuals(dst []int64, class byte) {
	slots := s.slots[class&(maxClasses-1)]
	if len(slots) < tableSize || s.err != nil {
		clear(dst)
		s.fail("symbols of a class without a table")
		return
	}
	slots = slots[:tableSize]
	x, y, words := s.x, s.y, s.words
	for i := range dst {
		e := slots[x&(tableSize-1)]
		x = (e>>freqShift)*(x>>tableBits) + e>>offsetShift&(tableSize-1)
		if x < stateLow {
			if len(words) < 2 {
				clear(dst[i:])
				s.fail("cut off among the symbols")
				return
			}
			x = x<<16 | uint32(binary.LittleEndian.Uint16(words))
			words = words[2:]
		}
		x, y = y, x
		z := uint64(e & 255)
		if z >= exactBelow {
			k := uint(z - exactBelow)
			n := k/4 + 2
			z = (2|uint64(k>>1&1))<<(n+1) | s.bits.get(n)<<1 | uint64(k&1)
		}
		dst[i] = int64(z>>1) ^ -int64(z&1)
	}
	s.x, s.y, s.words = x, y, words
}

// ints decodes an integer column into dst.
func (s *symbols) ints(dst []int64, desc byte) {
	if len(dst) == 0 {
		return
	}
	class, order := desc&(maxClasses-1), desc>>5&3
	var bias int64
	if desc>>7 != 0 {
		bias = s.head()
	}
	var start, step int64
	skip := 0
	if order != orderNone {
		start = s.head()
		skip = 1
	}
	if order == orderDelta2 && len(dst) > 1 {
		step = s.head()
		skip = 2
	}
	rest := dst[skip:]
	if class == zeroClass {
		clear(rest)
	} else {
		s.residuals(rest, class)
	}
	switch order {
	case orderNone:
		if bias != 0 {
			for i := range dst {
				dst[i] += bias
			}
		}
	case orderDelta:
		dst[0] = start
		if class == zeroClass && bias == 0 {
			for i := range rest {
				rest[i] = start
			}
			return
		}
		for i, r := range rest {
			start += r + bias
			rest[i] = start
		}
	case orderDelta2:
		dst[0] = start
		if len(dst) == 1 {
			return
		}
		start += step
		dst[1] = start
		for i, r := range rest {
			step += r + bias
			start += step
			rest[i] = start
		}
	case orderMean:
		dst[0] = start
		m := newMean(start)
		for i, r := range rest {
			v := m.next() + r + bias
			rest[i] = v
			m.take(v)
		}
	}
}
