package block

import (
	"errors"
	"hash/crc32"
	"math/bits"
)

// The errors that a reader of blocks tells apart.
var (
	// ErrCorrupt: the bytes are not a block, or not all of one, or were altered.
	ErrCorrupt = errors.New("corrupt block")
	// ErrVersion: the bytes are a block of a format version that this program
	// does not know.
	ErrVersion = errors.New("unknown block format version")
	// ErrTooLarge: the samples do not fit in one block.
	ErrTooLarge = errors.New("too many samples for one block")
)

// Limits of a block. A decoder's memory is bounded by them: about 70 bytes a
// sample and maxMeta, whatever the input says.
const (
	// MaxSamples is the most samples of one block.
	MaxSamples = 1 << 18
	// maxMeta bounds the tag names, strings and column shapes, unpacked.
	maxMeta = 32 << 20
	// maxMetaRatio and metaSlack bound the unpacked size by the packed one.
	maxMetaRatio = 1024
	metaSlack    = 64 << 10
)

const (
	magic0, magic1 = 'M', 'R'
	version        = 1
	// versionThinned is that of blocks whose header speaks of thinning. All
	// others stay at version 1, byte for byte.
	versionThinned = 2
	crcSize        = 4
)

// Classes of symbols. Every class from headClass on has a frequency table.
const (
	zeroClass  = 0 // all residuals are zero and take no symbols
	headClass  = 1 // first values, biases, lengths
	frontClass = 2 // the columns over tags: shape, time column, source column
	maxClasses = 32
)

// Slots of a value column, in the order in which they are stored; the first is
// for null. The last holds floats that are no short decimals.
const (
	slotNull = iota
	slotDecimal
	slotInt
	slotBool
	slotString
	slotRaw
	slotCount
)

// Flags of a shape.
const (
	shapeQuality = 1 << iota
	shapeProducer
	shapeKnown = shapeQuality | shapeProducer
)

// How a decimal column turns its integers into floats.
const (
	scaleDivide   = 0 // m / 10^d
	scaleMultiply = 1 // m * 10^-d
	scaleFloat32  = 2 // m / 10^d, rounded to float32
	scaleDict     = 1 << 7
	maxDecimals   = 15
)

// Predictors of an integer column.
const (
	orderNone   = 0 // the value less the bias
	orderDelta  = 1 // the step less the bias
	orderDelta2 = 2 // the step's change
	orderMean   = 3 // the value less a moving mean
)

const (
	tableBits  = 10
	tableSize  = 1 << tableBits
	stateLow   = 1 << 16 // a state is in [stateLow, 2^32)
	exactBelow = 16
)

// weights are the relative frequencies that a table's nibbles stand for: 0,
// then powers of 10^0.2, rounded.
var weights = [16]uint32{0, 1, 2, 3, 4, 6, 10, 16, 25, 40, 64, 102, 161, 256, 406, 645}

var pow10 = [maxDecimals + 1]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

var inversePow10 = [maxDecimals + 1]float64{1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15}

// units are the powers of ten by which time columns are divided, in ns.
var units = [10]int64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func zigzag(x int64) uint64   { return uint64(x<<1) ^ uint64(x>>63) }
func unzigzag(z uint64) int64 { return int64(z>>1) ^ -int64(z&1) }

// symbolOf returns the symbol of a zigzag value and the number of low bits of
// z>>1 that follow it in the bit stream. Values below exactBelow are their own
// symbol. Others give length, second highest bit and sign.
func symbolOf(z uint64) (sym uint8, extra uint) {
	if z < exactBelow {
		return uint8(z), 0
	}
	m := z >> 1
	n := uint(bits.Len64(m))
	return uint8(exactBelow + (n-4)*4 + uint(m>>(n-2)&1)*2 + uint(z&1)), n - 2
}

// frequencies turns a table's nibbles into frequencies that add up to
// tableSize, in place, and returns false where there is no symbol: each symbol
// present gets one, and of the rest its share by weight, rounded down; what
// that leaves goes to the first of those with the largest weight.
func frequencies(f *[256]uint32) bool {
	var sum, n, largest uint32
	best := 0
	for i, q := range f {
		if q == 0 {
			continue
		}
		n++
		sum += weights[q]
		if q > largest {
			largest, best = q, i
		}
	}
	if n == 0 {
		return false
	}
	left := uint32(tableSize)
	for i, q := range f {
		if q != 0 {
			f[i] = 1 + weights[q]*(tableSize-n)/sum
			left -= f[i]
		}
	}
	f[best] += left
	return true
}
