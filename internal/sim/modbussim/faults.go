package modbussim

import "time"

// Faults are what goes wrong. The zero Faults is a device in order. Counted
// faults go down with each reply they spoil; a negative count has no end.
type Faults struct {
	// Delay is waited before each reply.
	Delay time.Duration
	// Drop is how many requests get no reply.
	Drop int
	// WrongTransaction is how many replies carry another transaction id. The
	// right reply does not follow.
	WrongTransaction int
	// Late is how many replies are held back until the next request on the
	// connection, and sent just before the answer to that.
	Late int
	// Truncate is how many replies are cut in the middle; the connection is
	// closed behind them.
	Truncate int
	// Split sends each reply in pieces of a few bytes, in a segment of its own.
	Split bool
	// Exceptions are answered to requests that touch their range.
	Exceptions []ExceptionRange
	// Functions are answered with an exception whatever the address.
	Functions map[byte]Exception
	// Silent slaves answer nothing.
	Silent map[uint8]bool
}

// ExceptionRange answers Code to requests that touch From to To, inclusive.
type ExceptionRange struct {
	Slave    uint8 // 0 is any
	Table    Table
	From, To uint16
	Code     Exception
	// Joined restricts it to requests of more than so many registers or bits;
	// 0 is all.
	Joined int
}

// SetFaults replaces the faults.
func (s *Server) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// verdict is what the faults do to one request.
type verdict struct {
	delay     time.Duration
	drop      bool
	wrongID   bool
	late      bool
	truncate  bool
	split     bool
	exception Exception
}

func (s *Server) judge(r *Reply, count int) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	f := &s.faults
	v := verdict{delay: f.Delay, split: f.Split, exception: f.Functions[r.Function]}
	for _, e := range f.Exceptions {
		if (e.Slave == 0 || e.Slave == r.Slave) && e.Table == r.Table && count > e.Joined &&
			int(r.Address) <= int(e.To) && int(r.Address)+count > int(e.From) {
			v.exception = e.Code
			break
		}
	}
	switch {
	case f.Silent[r.Slave]:
		v.drop = true
	case take(&f.Drop):
		v.drop = true
	case take(&f.WrongTransaction):
		v.wrongID = true
	case take(&f.Late):
		v.late = true
	case take(&f.Truncate):
		v.truncate = true
	}
	return v
}

// take uses up one of n.
func take(n *int) bool {
	if *n > 0 {
		*n--
		return true
	}
	return *n < 0
}
