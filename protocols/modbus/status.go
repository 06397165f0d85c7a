package modbus

import "fmt"

// status is what Health was told last.
type status uint8

const (
	statusUnknown status = iota
	statusUp
	statusPartly // some tags fail
	statusDown   // all tags fail
)

// scanned is what one scan learnt of each slave.
type scanned struct {
	away     [256]error // why the rest of the scan does not try the slave
	answered [256]bool
}

// leaves calls f for each request that rd is made of.
func (rd *read) leaves(f func(*read)) {
	if rd.halves == nil {
		f(rd)
		return
	}
	for _, half := range rd.halves {
		half.leaves(f)
	}
}

// note records how a request ended. An answer that is no value is logged when
// it begins and when it ends, so that each such address is named.
func (s *source) note(rd *read, err error) {
	rd.tried, rd.err = true, err
	switch {
	case err == nil:
		if rd.said {
			rd.said = false
			s.log.Info("the device answers this read again", "read", rd.String())
		}
	case isAway(err):
	case !rd.said:
		rd.said = true
		s.log.Warn("a read fails", "error", explain(s.conn.link.name, rd.object(), err))
	}
}

// object names what is read, with the tag where there is one only.
func (rd *read) object() string {
	if len(rd.points) == 1 {
		return fmt.Sprintf("tag %s: read %s", rd.points[0].tag, rd.String())
	}
	return "read " + rd.String()
}

// report tells Health how the source fares after a scan, when that changed.
// What the scan learnt of a slave holds for its requests at other scan rates
// too.
func (s *source) report(sc *scanned) {
	var (
		failed, total int
		first         *read
	)
	count := func(rd *read) {
		if err := sc.away[rd.slave]; err != nil {
			rd.tried, rd.err = true, err
		} else if rd.err != nil && sc.answered[rd.slave] && isAway(rd.err) {
			rd.err = nil
		}
		if !rd.tried {
			return
		}
		total += len(rd.points)
		if rd.err != nil {
			failed += len(rd.points)
			if first == nil || isAway(rd.err) && !isAway(first.err) {
				first = rd
			}
		}
	}
	for _, r := range s.rates {
		for _, rd := range r.reads {
			rd.leaves(count)
		}
	}
	now := statusUp
	switch {
	case failed == total && failed > 0:
		now = statusDown
	case failed > 0:
		now = statusPartly
	}
	s.away = first != nil && isAway(first.err)
	if now == s.status {
		return
	}
	s.status = now
	if first == nil {
		s.health.Up()
		return
	}
	err := explain(s.conn.link.name, first.object(), first.err)
	if now == statusPartly {
		err = fmt.Errorf("partly: %d of %d tags fail: %w", failed, total, err)
	}
	s.health.Down(err)
}
