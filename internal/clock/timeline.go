package clock

import (
	"math"
	"time"
)

const (
	// Resolution is what the offset in force is a multiple of, beside the
	// offset at the start: samples have times of whole milliseconds.
	Resolution = time.Millisecond
	// follow is how far the wall clock moves against the monotonic clock before
	// the timeline follows it. The two drift apart by steps only, since a clock
	// that is slewed takes the monotonic clock along (clock_gettime(2)); what is
	// less is the noise of reading both.
	follow = 5 * time.Millisecond
	// maxBracket is how long reading the wall clock may take to be believed.
	maxBracket = time.Millisecond
	// firstWall and lastWall bound what is believed of a wall clock, in seconds:
	// 1970, and a year before an int64 of ns ends in 2262.
	firstWall = 0
	lastWall  = math.MaxInt64/int64(time.Second) - 366*24*3600
)

// Timeline is a clock that is never stepped: the monotonic clock on top of what
// the wall clock said when the timeline began. Sources stamp samples by it. What
// is to be added for the wall clock's time, which may be stepped at any moment,
// is decided in one place and can be decided again, until a sample is sealed.
//
// Now, Wall and SinceBoot may be used by many goroutines at once.
type Timeline struct {
	src  Source
	base int64 // wall less monotonic clock at the beginning, ns
}

// NewTimeline begins a timeline. A wall clock that is before 1970 or beyond what
// int64 ns can say is taken to be at 1970 plus the time since boot.
func NewTimeline(src Source) *Timeline {
	t := &Timeline{src: src}
	t.base, _ = t.Offset()
	return t
}

// Now implements Clock: the time on the timeline. It is monotonic, and carries
// no reading of Go's own monotonic clock.
func (t *Timeline) Now() time.Time { return time.Unix(0, t.base+int64(t.src.SinceBoot())) }

// Wall returns the wall clock, for what has to do with the world outside:
// certificates, names of files.
func (t *Timeline) Wall() time.Time { return t.src.Now() }

// SinceBoot returns the monotonic clock.
func (t *Timeline) SinceBoot() time.Duration { return t.src.SinceBoot() }

// Boot identifies the run of the monotonic clock.
func (t *Timeline) Boot() [16]byte { return t.src.Boot() }

// Sync asks whether the wall clock is synchronised now.
func (t *Timeline) Sync() Sync { return t.src.Sync() }

// Base is what Now adds to the monotonic clock, in ns.
func (t *Timeline) Base() int64 { return t.base }

// Offset measures the wall clock less the monotonic clock, in ns, and reports
// whether the wall clock says anything that can be a sample's time: from 1970 on,
// and within int64 ns.
func (t *Timeline) Offset() (offset int64, ok bool) {
	best := time.Duration(math.MaxInt64)
	// A goroutine that is put aside between the readings measures its own pause.
	for range 5 {
		before := t.src.SinceBoot()
		wall := t.src.Now()
		took := t.src.SinceBoot() - before
		if s := wall.Unix(); s < firstWall || s > lastWall {
			return 0, false
		}
		if took < best {
			best = took
			offset = wall.UnixNano() - int64(before+took/2)
		}
		if best <= maxBracket {
			break
		}
	}
	return offset, true
}

// Follow returns the offset that is in force after the wall clock was measured
// at offset: inForce as long as the two are all but the same, else inForce moved
// by a multiple of Resolution.
func Follow(inForce, measured int64) int64 {
	d := measured - inForce
	if d > -int64(follow) && d < int64(follow) {
		return inForce
	}
	half := int64(Resolution) / 2
	if d < 0 {
		half = -half
	}
	return inForce + (d+half)/int64(Resolution)*int64(Resolution)
}

// WallOf returns the wall clock beside a clock that may be a Timeline.
func WallOf(c Clock) time.Time {
	if t, ok := c.(*Timeline); ok {
		return t.Wall()
	}
	return c.Now()
}
