package block

import "math/bits"

// predictor says how a column's values are predicted from those before.
type predictor struct {
	order uint8
	bias  int64
}

// residuals writes what the predictor leaves of x, first values taken off, to
// buf, which is as long as x.
func (p predictor) residuals(buf, x []int64) []int64 {
	r := buf[:len(x)]
	switch p.order {
	case orderNone:
		for i, v := range x {
			r[i] = v - p.bias
		}
		return r
	case orderDelta:
		prev := x[0]
		for i, v := range x {
			r[i] = v - prev - p.bias
			prev = v
		}
		return r[1:]
	case orderDelta2:
		if len(x) < 3 {
			return r[:0]
		}
		prev, step := x[1], x[1]-x[0]
		for i := 2; i < len(x); i++ {
			d := x[i] - prev
			r[i] = d - step
			prev, step = x[i], d
		}
		return r[2:]
	}
	m := newMean(x[0])
	for i := 1; i < len(x); i++ {
		r[i] = x[i] - m.next()
		m.take(x[i])
	}
	return r[1:]
}

// movingMean is the predictor of orderMean: a mean that moves a quarter of the
// way to each value, kept with four more bits.
type movingMean int64

func newMean(x int64) movingMean   { return movingMean(x << 4) }
func (m movingMean) next() int64   { return int64(m+8) >> 4 }
func (m *movingMean) take(x int64) { *m += (movingMean(x<<4) - *m) >> 2 }

// cost is about what a residual costs, in bits.
func cost(r int64) int { return bits.Len64(zigzag(r)) }

// headCost is about what first values and biases cost.
func headCost(heads ...int64) int {
	sum := 0
	for _, x := range heads {
		sum += 3 + cost(x)
	}
	return sum
}

// scaled is c*n/of, which may pass through more than an int of 32 bits holds.
func scaled(c, n, of int) int { return int(int64(c) * int64(n) / int64(of)) }

const (
	probeBelow = 256 // columns up to this long are looked at whole
	probeLen   = 64
	probes     = 4
)

// predict picks the predictor for x, and estimates its cost in bits.
func predict(x []int64) (predictor, int) {
	n := len(x)
	if n < 2 {
		if n == 0 || x[0] == 0 {
			return predictor{}, 0
		}
		return predictor{order: orderDelta}, 0
	}
	var sum, spread int64
	for _, v := range x {
		sum += v - x[0]
		spread |= v ^ v>>63
	}
	if spread == 0 && sum == 0 && x[0] == 0 {
		return predictor{}, 0
	}
	var c probe
	c.mean = x[0] + sum/int64(n)
	c.slope = (x[n-1] - x[0]) / int64(n-1)
	if n <= probeBelow {
		c.run(x)
	} else {
		for k := range probes {
			at := (n - probeLen) * k / (probes - 1)
			c.run(x[at : at+probeLen])
		}
	}
	best, bits := predictor{order: orderDelta}, headCost(x[0])+scaled(c.delta, n-1, c.n)
	consider := func(p predictor, b int) {
		if b < bits {
			best, bits = p, b
		}
	}
	if c.slope != 0 {
		consider(predictor{orderDelta, c.slope}, headCost(x[0], c.slope)+scaled(c.biased, n-1, c.n))
	}
	consider(predictor{orderNone, c.mean}, headCost(c.mean)+scaled(c.none, n, c.n))
	if n > 2 {
		consider(predictor{order: orderDelta2}, headCost(x[0], x[1]-x[0])+scaled(c.delta2, n-2, c.n2))
		// The mean is kept with four more bits, which must not overflow.
		if spread < 1<<48 {
			consider(predictor{order: orderMean}, headCost(x[0])+scaled(c.moving, n-1, c.n))
		}
	}
	return best, bits
}

// probe sums up what the predictors cost on parts of a column.
type probe struct {
	mean, slope                         int64
	none, delta, biased, delta2, moving int
	n, n2                               int // steps, and changes of step
}

func (c *probe) run(x []int64) {
	m := newMean(x[0])
	prev, step := x[0], int64(0)
	first := 0
	for i := 1; i < len(x); i++ {
		v := x[i]
		d := v - prev
		c.none += cost(v - c.mean)
		c.delta += cost(d)
		c.biased += cost(d - c.slope)
		change := cost(d - step)
		if i == 1 {
			first = change
		}
		c.delta2 += change
		c.moving += cost(v - m.next())
		m.take(v)
		prev, step = v, d
	}
	c.delta2 -= first
	c.n += len(x) - 1
	c.n2 += len(x) - 2
}
