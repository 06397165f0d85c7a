package query

import (
	"context"
	"crypto/sha256"
	"strings"

	"millrace/cloud/format"
	"millrace/cloud/lake"
	"millrace/sample"
)

// cursor is a sequence of rows in the order of less.
type cursor interface {
	// next returns the next row, nil at the end. It is valid until the next call.
	next(ctx context.Context) (*format.Row, error)
}

// less orders rows by time, tag, gateway and stream.
func less(a, b *format.Row) bool {
	if x, y := a.PrimaryTime(), b.PrimaryTime(); x != y {
		return x < y
	}
	if c := strings.Compare(a.Tag, b.Tag); c != 0 {
		return c < 0
	}
	if c := strings.Compare(a.Gateway, b.Gateway); c != 0 {
		return c < 0
	}
	return a.Stream < b.Stream
}

// pile is a heap of rows: the least is on top, and of equal ones the first that
// came.
type pile struct {
	rows []piled
	n    uint64
}

type piled struct {
	row format.Row
	n   uint64
}

func (p *pile) less(i, j int) bool {
	a, b := &p.rows[i], &p.rows[j]
	if less(&a.row, &b.row) {
		return true
	}
	return !less(&b.row, &a.row) && a.n < b.n
}

func (p *pile) push(r *format.Row) {
	p.n++
	p.rows = append(p.rows, piled{*r, p.n})
	for i := len(p.rows) - 1; i > 0; {
		up := (i - 1) / 2
		if !p.less(i, up) {
			return
		}
		p.rows[i], p.rows[up] = p.rows[up], p.rows[i]
		i = up
	}
}

func (p *pile) pop() format.Row {
	top := p.rows[0].row
	last := len(p.rows) - 1
	p.rows[0], p.rows[last] = p.rows[last], piled{}
	p.rows = p.rows[:last]
	for i := 0; ; {
		least := i
		for _, k := range [...]int{2*i + 1, 2*i + 2} {
			if k < last && p.less(k, least) {
				least = k
			}
		}
		if least == i {
			return top
		}
		p.rows[i], p.rows[least] = p.rows[least], p.rows[i]
		i = least
	}
}

// merge hands over the rows of all cursors in the order of less.
func (r *run) merge(ctx context.Context, cursors []cursor, fn func(*format.Row) error) error {
	type head struct {
		row *format.Row
		cursor
	}
	heads := make([]head, 0, len(cursors))
	down := func(i int) {
		for {
			least := i
			for _, k := range [...]int{2*i + 1, 2*i + 2} {
				if k < len(heads) && less(heads[k].row, heads[least].row) {
					least = k
				}
			}
			if least == i {
				return
			}
			heads[i], heads[least] = heads[least], heads[i]
			i = least
		}
	}
	for _, c := range cursors {
		row, err := c.next(ctx)
		if err != nil {
			return err
		}
		if row != nil {
			heads = append(heads, head{row, c})
		}
	}
	for i := len(heads) - 1; i >= 0; i-- {
		down(i)
	}
	for len(heads) > 0 {
		if err := fn(heads[0].row); err != nil {
			return err
		}
		row, err := heads[0].next(ctx)
		if err != nil {
			return err
		}
		if row == nil {
			last := len(heads) - 1
			heads[0] = heads[last]
			heads = heads[:last]
		} else {
			heads[0].row = row
		}
		down(0)
	}
	return nil
}

// batch is what a reader hands to its cursor at once.
const batchRows = 256

// channel is a cursor over what a goroutine of its own reads. fill calls its
// argument with each row in order.
type channel struct {
	rows chan []format.Row
	err  error // set before rows is closed
	now  []format.Row
	at   int
}

// newChannel starts the goroutine. It ends with ctx, and r.started waits for it.
func (r *run) newChannel(ctx context.Context, fill func(emit func(*format.Row) error) error) *channel {
	c := &channel{rows: make(chan []format.Row, 2)}
	r.started.Go(func() {
		defer close(c.rows)
		batch := make([]format.Row, 0, batchRows)
		send := func() error {
			select {
			case c.rows <- batch:
				batch = make([]format.Row, 0, batchRows)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		c.err = fill(func(r *format.Row) error {
			batch = append(batch, *r)
			if len(batch) < batchRows {
				return nil
			}
			return send()
		})
		if c.err == nil && len(batch) > 0 {
			c.err = send()
		}
	})
	return c
}

// next implements cursor.
func (c *channel) next(ctx context.Context) (*format.Row, error) {
	for c.at == len(c.now) {
		batch, more := <-c.rows
		if !more {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, c.err
		}
		c.now, c.at = batch, 0
	}
	c.at++
	return &c.now[c.at-1], nil
}

// slice is a cursor over those rows that are wanted; they are in order.
type slice struct {
	rows []format.Row
	want func(tag string) bool
}

// next implements cursor.
func (s *slice) next(context.Context) (*format.Row, error) {
	for len(s.rows) > 0 {
		row := &s.rows[0]
		s.rows = s.rows[1:]
		if s.want(row.Tag) {
			return row, nil
		}
	}
	return nil, nil
}

// maxProducers bounds the identities by producer that are remembered: two times
// as many, of 16 bytes and the map's own.
const maxProducers = 1 << 20

// seen finds samples that came before. Those that are told apart by their source
// time come one behind the other, since that is what they are sorted by. Those of a
// producer may come with another time, so their identities are remembered: the
// newest two million.
type seen struct {
	at     int64
	same   map[string]struct{} // identities of the rows at the time at
	young  map[[16]byte]struct{}
	old    map[[16]byte]struct{}
	key    []byte
	hashed [16]byte
}

// before reports whether the sample was there already, and remembers it.
func (s *seen) before(v *sample.Sample) bool {
	s.key = lake.Identity(s.key[:0], v)
	if len(s.key) == 0 {
		return false
	}
	if v.Producer == "" {
		if at := v.PrimaryTime(); at != s.at || s.same == nil {
			s.at = at
			clear(s.same)
			if s.same == nil {
				s.same = map[string]struct{}{}
			}
		}
		if _, there := s.same[string(s.key)]; there {
			return true
		}
		s.same[string(s.key)] = struct{}{}
		return false
	}
	sum := sha256.Sum256(s.key)
	copy(s.hashed[:], sum[:])
	if _, there := s.young[s.hashed]; there {
		return true
	}
	_, there := s.old[s.hashed]
	if s.young == nil {
		s.young = map[[16]byte]struct{}{}
	}
	s.young[s.hashed] = struct{}{}
	if len(s.young) >= maxProducers {
		s.old, s.young = s.young, nil
	}
	return there
}
