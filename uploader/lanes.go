package uploader

import (
	"slices"
	"time"
)

// After an outage a sink has two lanes. The live lane has what was sealed since
// the sink answers again, the backlog lane what waited until then; each is sent
// in the order of the blocks' numbers. So the newest values arrive within
// seconds while the backlog drains beside them at its share. Where the live
// lane itself falls behind, what it has not sent joins the backlog's end, and
// it starts anew at the newest. With one lane empty the other has everything,
// and a sink that keeps up has its live lane alone.

const (
	// liveAge is how old the live lane's next block may be, with more than one
	// request waiting, before the lane starts anew at the newest: well below the
	// 5 s that live blocks are to take from the seal to the acknowledgement.
	liveAge = 3 * time.Second
	// fresh is how old a block may be to stay in the lane when that starts anew.
	fresh = time.Second
	// requestCost is what a request counts beside its bytes when the lanes
	// share a sink: many small requests take time too.
	requestCost = 16 << 10
	// quick is how long a backlog request may take while the backlog may still
	// have every request at once. Beyond it one is left to the live lane.
	quick = time.Second
	// slow is how long a backlog's request may take, unless a smaller one would
	// take as long: it holds up the live lane on the same link.
	slow = 2 * time.Second
	// firstRequest bounds the backlog's first request, in bytes, before it is
	// known how long they take.
	firstRequest = 64 << 10
	// cappedRequest bounds a backlog's request under a cap on bandwidth, by the
	// time for which it takes the whole of it.
	cappedRequest = 2 * time.Second
	// defaultShare is the backlog's.
	defaultShare = 0.5
)

// Lane names one of a sink's two lanes.
type Lane string

// The lanes.
const (
	LaneLive    Lane = "live"
	LaneBacklog Lane = "backlog"
)

// lane is one of the two, with what it has used of the sink.
type lane struct {
	window
	name   Lane
	weight float64 // its share of the sink while both have something
	// used is what the lane was given, by its weight. The one with less is next.
	used float64
	idle bool // it had nothing to send when the other was last asked for
	size sizer
	took time.Duration // how long its requests take, smoothed
}

// lanes shares a sink between the live lane and the backlog.
type lanes struct {
	live, backlog *lane
}

// newLanes starts with everything up to boundary in the backlog.
func newLanes(boundary uint64, share float64) *lanes {
	taken := map[uint64]struct{}{}
	ls := &lanes{
		live:    &lane{name: LaneLive, weight: 1 - share, idle: true},
		backlog: &lane{name: LaneBacklog, weight: share, idle: true},
	}
	ls.live.window = window{after: boundary, endless: true, taken: taken}
	ls.backlog.window = window{upTo: boundary, taken: taken}
	ls.backlog.size.limit = firstRequest
	return ls
}

func (ls *lanes) each(fn func(*lane)) {
	fn(ls.live)
	fn(ls.backlog)
}

// held returns how many blocks are at hand.
func (ls *lanes) held() int { return ls.live.held() + ls.backlog.held() }

// dry reports whether both lanes were read to their ends.
func (ls *lanes) dry() bool { return ls.live.dry && ls.backlog.dry }

// holding returns how many parked blocks wait for an operator.
func (ls *lanes) holding() int { return ls.live.holding() + ls.backlog.holding() }

// fill reads ahead in both lanes.
func (ls *lanes) fill(q Queue, l Limits, now time.Time) error {
	if err := ls.live.fill(q, l, now); err != nil {
		return err
	}
	return ls.backlog.fill(q, l, now)
}

// late reports whether the live lane has fallen behind: more than a request
// waits, and the oldest block for too long.
func (ls *lanes) late(next uint64, l Limits, seals *seals, now time.Time) bool {
	w := &ls.live.window
	unread := uint64(0)
	if next > w.after {
		unread = next - 1 - w.after
	}
	if uint64(len(w.ready))+unread <= uint64(max(l.MaxBlocks, 1)) {
		return false
	}
	oldest := w.after + 1
	if len(w.ready) > 0 {
		oldest = w.ready[0].block.Number
	}
	at, ok := seals.at(oldest)
	return ok && now.Sub(at) >= liveAge
}

// restart begins the live lane anew at the newest, of which it keeps a
// request's worth where that is fresh. All else that it has not sent joins the
// backlog. It returns the last number of the backlog.
func (ls *lanes) restart(next uint64, l Limits, seals *seals, now time.Time) uint64 {
	boundary := seals.since(now.Add(-fresh), next) - 1
	if keep := uint64(max(l.MaxBlocks, 1)); next > keep {
		boundary = max(boundary, next-1-keep)
	}
	live, backlog := &ls.live.window, &ls.backlog.window
	oldest := live.after + 1
	for _, it := range live.ready {
		oldest = min(oldest, it.block.Number)
	}
	for _, it := range live.release() {
		if it.due.IsZero() {
			it.due = now
		}
		backlog.parked = append(backlog.parked, it)
	}
	slices.SortStableFunc(backlog.parked, byNumber)
	if backlog.after >= backlog.upTo { // it was read to its end
		backlog.after = oldest - 1
	}
	backlog.upTo, backlog.dry = boundary, false
	live.after, live.dry = boundary, false
	return boundary
}

// next returns the lane whose turn it is, or nil where none can send. backlog
// says whether the backlog may.
func (ls *lanes) next(backlogMay bool) *lane {
	live, backlog := ls.live, ls.backlog
	may := func(l *lane) bool { return len(l.ready) > 0 && (l == live || backlogMay) }
	catchUp := func(l, other *lane) {
		if l.idle {
			// Who had nothing to send has saved nothing up.
			l.used, l.idle = max(l.used, other.used), false
		}
	}
	switch {
	case may(live) && may(backlog):
		catchUp(live, backlog)
		catchUp(backlog, live)
		if live.used <= backlog.used {
			return live
		}
		return backlog
	case may(live):
		catchUp(live, backlog)
		backlog.idle = len(backlog.ready) == 0
		return live
	case may(backlog):
		catchUp(backlog, live)
		live.idle = true
		return backlog
	}
	return nil
}

// charge books a request on its lane.
func (l *lane) charge(size int) { l.used += float64(size+requestCost) / l.weight }

// backlogMay reports whether the backlog may start one more request beside
// flying others of its own: while its requests take long, the last place is
// left to the live lane.
func (ls *lanes) backlogMay(flying, concurrency int) bool {
	places := max(concurrency, 1)
	if ls.backlog.took > quick && places > 1 {
		places--
	}
	return flying < places
}

// sizer makes a lane's requests smaller where they take too long. The zero
// sizer does not bound them.
type sizer struct {
	limit int // bytes; 0 is the sink's own limit
	// The last request, and what of its time does not depend on its size.
	bytes int
	took  time.Duration
	fixed time.Duration
	known bool // two sizes were tried, so fixed is more than a guess
}

// bound applies the limit to the sink's.
func (s *sizer) bound(l Limits) Limits {
	if s.limit > 0 {
		l.MaxBytes = min(l.MaxBytes, s.limit)
	}
	return l
}

// learn notes how long a request of so many bytes took. Two of different sizes
// tell the part of the time that a smaller request would take as well.
func (s *sizer) learn(bytes int, took time.Duration) {
	if d := bytes - s.bytes; s.bytes > 0 && 4*max(d, -d) > s.bytes {
		perByte := max(float64(took-s.took)/float64(d), 0)
		fixed := took - time.Duration(perByte*float64(bytes))
		fixed = min(max(fixed, 0), took)
		if s.known {
			fixed = (s.fixed + fixed) / 2
		}
		s.fixed, s.known = fixed, true
	}
	s.bytes, s.took = bytes, took
}

// adapt halves the next request where the transfer of this one took too long,
// and doubles it where there is room.
func (s *sizer) adapt(items, most int) {
	transfer := s.took - min(s.fixed, s.took)
	switch {
	case s.took > slow && transfer > s.took/2:
		if items > 1 {
			s.smaller()
		}
	case (transfer < quick/2 || !s.known && s.took <= slow) && s.limit > 0 && s.bytes >= s.limit/2:
		if s.limit *= 2; s.limit >= most {
			s.limit = 0
		}
	}
}

func (s *sizer) smaller() { s.limit = max(s.bytes/2, 1) }

// answered learns from a request that took so long. One that ran out of time
// was too large for the link, whatever the lane.
func (ls *lanes) answered(req *request, l Limits, took time.Duration, timedOut bool) {
	lane := req.lane
	lane.took = (lane.took + took) / 2
	lane.size.learn(req.size, took)
	switch {
	case timedOut && len(req.items) > 1:
		lane.size.smaller()
	case lane == ls.backlog || lane.size.limit > 0:
		lane.size.adapt(len(req.items), l.MaxBytes)
	}
}

// capped bounds a backlog's request under a cap of so many bytes a second.
func (l *lane) capped(limits Limits, perSecond int) Limits {
	limits = l.size.bound(limits)
	if l.name == LaneBacklog && perSecond > 0 {
		limits.MaxBytes = min(limits.MaxBytes, max(int(cappedRequest.Seconds()*float64(perSecond)), 1))
	}
	return limits
}
