package batch

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"millrace/internal/clock"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/spool"
)

// ClockMode says what is done while the wall clock is not synchronised.
type ClockMode uint8

// The modes of the clock.
const (
	// ClockIgnore takes the wall clock as it is.
	ClockIgnore ClockMode = iota
	// ClockRequire holds samples back until the wall clock is synchronised, at
	// most Options.ClockHold; later ones go up as Uncertain.
	ClockRequire
	// ClockAuto is ClockRequire where a synchronisation can be expected, else
	// ClockIgnore: see keeper.expects.
	ClockAuto
)

const (
	// stepLeast is from where on a change of the wall clock against the
	// monotonic one is told of, in the log and by a record.
	stepLeast = time.Second
	// beforeMillrace is a time at which no gateway ran this program, so that a
	// clock that shows less was never set.
	beforeMillrace = int64(946_684_800) * int64(time.Second) // 2000-01-01
)

// keeper decides which time samples get. Sources stamp them on a timeline that
// is never stepped; the keeper says what is to be added to that for the time of
// the wall clock, and how far that can be trusted. It follows the wall clock
// while that is synchronised or nobody can say, and goes on by the monotonic
// clock where the synchronisation is lost: a step of a wall clock that nobody
// disciplines says nothing. Its fields belong to the goroutine that commits, and
// are written with Batcher.mu held.
type keeper struct {
	tl   *clock.Timeline
	log  *slog.Logger
	mode ClockMode
	hold time.Duration
	// expect says that a time service runs on this machine.
	expect bool

	boot   [16]byte
	offset int64 // in force: what is added to the monotonic clock, ns
	shift  int64 // offset less the timeline's base, ns
	state  block.ClockState
	sync   clock.Sync
	// uncertain says that what is sealed now goes up as Uncertain, and holding
	// that it is not sealed yet, if that can be helped.
	uncertain bool
	holding   bool
	read      int64 // monotonic clock at the last reading, ns
	since     int64 // monotonic clock when the holdover began, ns
	steps     uint64
	// ignored is the wall clock's offset that was last told to be ignored.
	ignored int64
	told    bool // that the wall clock says nothing, or the kernel does not say

	saved savedClock
	dirty bool // saved is to be stored
	// before is what was saved of the boot before, while parts of it are still
	// to be sealed.
	before *savedClock
}

// savedClock is what the spool keeps of the clock. Boot to WaitFrom are of the
// boot that it names.
type savedClock struct {
	Boot string `json:"boot"`
	// Mono is the offset in force while the clock was synchronised last.
	Mono   int64 `json:"mono,omitempty"`
	Synced bool  `json:"synced,omitempty"`
	// FreeFrom is the monotonic clock of the first sample that went up with a
	// clock that ran free; 0 where there is none that is not put right.
	FreeFrom int64 `json:"free_from,omitempty"`
	// Wandered says that a clock which was not synchronised was set since the last
	// synchronisation, and was followed.
	Wandered bool `json:"wandered,omitempty"`
	// WaitFrom is the monotonic clock when waiting for a synchronisation began.
	WaitFrom int64 `json:"wait_from,omitempty"`
	// Records counts the correction records of this boot.
	Records uint64 `json:"records,omitempty"`
	// Seen says that the wall clock was synchronised once, in whichever boot.
	Seen bool `json:"seen,omitempty"`
}

// clockKey is where the spool keeps savedClock.
const clockKey = "clock"

func (k *keeper) restore(value []byte) error {
	if err := json.Unmarshal(value, &k.saved); err != nil {
		return fmt.Errorf("spool state %s: %w", clockKey, err)
	}
	return nil
}

func (c *savedClock) meta() spool.KV {
	text, err := json.Marshal(c)
	if err != nil {
		panic("BUG: the state of the clock does not encode: " + err.Error())
	}
	return spool.KV{Key: clockKey, Value: text}
}

// start takes up what the spool keeps, and reads the clock for the first time.
func (k *keeper) start() {
	k.boot = k.tl.Boot()
	k.offset = k.tl.Base()
	if id := hex.EncodeToString(k.boot[:]); k.saved.Boot != id {
		// Nothing relates the monotonic clock to that of another boot, so what
		// went up with a free clock in it stays as it is.
		if before := k.saved; before.Boot != "" {
			k.before = &before
		}
		k.saved = savedClock{Boot: id, Seen: k.saved.Seen}
		k.dirty = true
	}
	if k.saved.Synced {
		k.offset = clock.Follow(k.offset, k.saved.Mono)
	}
	k.read = int64(k.tl.SinceBoot())
	k.since = k.read
	k.ignored = k.offset
}

// expects reports whether a synchronisation can be expected: one was seen here
// before, a time service runs, or the wall clock was never set.
func (k *keeper) expects(wall int64) bool {
	return k.saved.Seen || k.expect || wall < beforeMillrace
}

// requires reports whether the time of a clock that runs free is not good enough.
func (k *keeper) requires(wall int64) bool {
	return k.mode == ClockRequire || k.mode == ClockAuto && k.expects(wall)
}

// now is the time of a sample that is taken now, in ns.
func (k *keeper) now() int64 { return int64(k.tl.SinceBoot()) + k.offset }

// partClock is the clock by which samples are stamped now.
func (k *keeper) partClock() block.PartClock {
	return block.PartClock{Boot: k.boot, Mono: k.offset, Clock: k.state, Stated: true}
}

// update reads the clock, once a commit, and returns the correction record that
// is due, if any. Callers hold Batcher.mu.
func (k *keeper) update() *ledger.Correction {
	mono := int64(k.tl.SinceBoot())
	measured, ok := k.tl.Offset()
	sync := k.tl.Sync()
	if !ok && sync == clock.Synchronised {
		sync = clock.Unsynchronised // whatever the kernel says
	}
	defer func() { k.read, k.sync = mono, sync }()
	was, before, held := k.state, k.offset, k.holding
	k.holding, k.uncertain = false, false
	if ok && k.follows(sync) {
		k.offset = clock.Follow(k.offset, measured)
		k.ignored = k.offset
	} else {
		k.ignore(measured, ok)
	}
	k.shift = k.offset - k.tl.Base()
	moved := time.Duration(k.offset - before)
	if moved.Abs() >= stepLeast {
		k.steps++
		if sync != clock.Synchronised && !k.saved.Wandered {
			k.saved.Wandered, k.dirty = true, true
		}
	}
	switch {
	case sync == clock.Synchronised:
		return k.synchronised(was, held, mono, moved)
	case sync == clock.SyncUnknown:
		k.state = block.ClockUnknown
		if !k.told {
			k.told = true
			k.log.Info("the kernel does not say whether the clock is synchronised (adjtimex is denied, or the wall clock cannot be read): the time is taken as it is")
		}
	case k.saved.Synced && k.mode != ClockIgnore:
		k.holdOver(was, mono)
	default:
		k.free(was, held, mono)
	}
	return k.stepped(mono, moved, k.read)
}

// follows reports whether the offset in force is to be the wall clock's.
func (k *keeper) follows(sync clock.Sync) bool {
	return sync != clock.Unsynchronised || k.mode == ClockIgnore || !k.saved.Synced
}

// ignore tells, once a step, that the wall clock says something else than what
// samples get.
func (k *keeper) ignore(measured int64, ok bool) {
	if !ok {
		if !k.told {
			k.told = true
			k.log.Warn("the wall clock is before 1970 or after 2261, which is not followed: set this machine's clock")
		}
		return
	}
	k.told = false
	if d := time.Duration(measured - k.ignored); d.Abs() < stepLeast {
		return
	}
	k.ignored = measured
	if off := time.Duration(measured - k.offset); off.Abs() >= stepLeast {
		k.log.Warn("the wall clock was set while it is not synchronised: samples keep the time of the last synchronisation until the next; see to this machine's time service",
			"off", off.Round(time.Millisecond))
	}
}

// synchronised follows a reading of a clock that is.
func (k *keeper) synchronised(was block.ClockState, held bool, mono int64, moved time.Duration) *ledger.Correction {
	if k.sync != clock.Synchronised && (held || was == block.ClockFree) {
		k.log.Info("the clock is synchronised; samples that were held get their time", "moved", moved.Round(time.Millisecond))
	}
	from := k.read // the last reading of the offset before
	if was == block.ClockHoldover {
		from = k.since
	}
	free := k.saved.FreeFrom
	if off := time.Duration(k.offset - k.saved.Mono); k.saved.Synced && !k.saved.Wandered && off.Abs() < stepLeast {
		free = 0 // the clock was not synchronised for a while, and right all the time
	}
	k.state = block.ClockSynced
	if !k.saved.Synced || !k.saved.Seen || k.saved.Mono != k.offset || k.saved.FreeFrom != 0 || k.saved.WaitFrom != 0 || k.saved.Wandered {
		k.saved.Synced, k.saved.Seen, k.saved.Mono = true, true, k.offset
		k.saved.FreeFrom, k.saved.WaitFrom, k.saved.Wandered = 0, 0, false
		k.dirty = true
	}
	switch {
	case free != 0:
		return k.record(ledger.ClockSynchronised, free, mono, moved)
	case was == block.ClockFree:
		return nil // nothing went up before
	}
	return k.stepped(mono, moved, from)
}

// stepped tells of a step that is followed.
func (k *keeper) stepped(mono int64, moved time.Duration, from int64) *ledger.Correction {
	if moved.Abs() < stepLeast {
		return nil
	}
	k.log.Warn("the wall clock was stepped; samples follow it, and none is lost", "step", moved.Round(time.Millisecond), "clock", k.state.String())
	if k.state == block.ClockFree && k.mode != ClockIgnore {
		return nil // nobody can say that it is better now
	}
	return k.record(ledger.ClockStepped, from, mono, moved)
}

// holdOver follows a reading of a clock that was synchronised earlier.
func (k *keeper) holdOver(was block.ClockState, mono int64) {
	k.state = block.ClockHoldover
	if was != block.ClockHoldover {
		k.since = k.read
		k.log.Warn("the clock is no longer synchronised; the monotonic clock carries the time on, a few seconds a day off at most: see to this machine's time service")
	}
}

// free follows a reading of a clock that is not synchronised.
func (k *keeper) free(was block.ClockState, held bool, mono int64) {
	first := was != block.ClockFree
	k.state = block.ClockFree
	if !k.requires(mono + k.offset) {
		if first {
			k.log.Info("the clock is not synchronised, and nothing here says that it will be: the time is taken as it is; give this machine a time server, or set clock.sync: require to hold samples until it has one")
		}
		return
	}
	k.uncertain = true
	if k.saved.WaitFrom == 0 {
		k.saved.WaitFrom = max(mono, 1)
		k.dirty = true
	}
	left := k.hold - time.Duration(mono-k.saved.WaitFrom)
	k.holding = left > 0
	switch {
	case k.holding && !held:
		k.log.Warn(fmt.Sprintf("the clock is not synchronised: samples are held until it is, at most %s; where this machine has no time server, set clock.sync: ignore",
			left.Round(time.Second)))
	case !k.holding && (held || first):
		k.log.Warn("the clock is still not synchronised: samples go up as Uncertain, and a record that corrects their time follows once it is; see to this machine's time service, or set clock.sync: ignore")
	}
}

// record makes the correction record for readings of the monotonic clock from
// until to.
func (k *keeper) record(cause ledger.ClockCause, from, to int64, moved time.Duration) *ledger.Correction {
	k.saved.Records++
	k.dirty = true
	return &ledger.Correction{
		ID: k.saved.Records, Boot: k.boot, Cause: cause, Offset: k.offset, From: from, To: to, Step: int64(moved),
	}
}

// Now implements clock.Clock: the time that a sample gets which is taken now.
func (b *Batcher) Now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keep.time()
}

// ClockStatus is the state of the clock, for people.
type ClockStatus struct {
	State string `json:"state"` // synchronised, free, holdover, unknown
	// Kernel is what the kernel says of the wall clock: synchronised,
	// unsynchronised, unknown.
	Kernel string `json:"kernel"`
	// Holding says that samples are held until the clock is synchronised, for
	// HoldLeft at most.
	Holding  bool          `json:"holding"`
	HoldLeft time.Duration `json:"hold_left_ns,omitempty"`
	// Off is the wall clock less the time that samples get.
	Off time.Duration `json:"off_ns"`
	// Steps counts steps of a second or more that were followed since the start.
	Steps uint64 `json:"steps"`
	// Uncorrected says that samples went up with a clock that ran free, and that
	// the record which corrects them is to follow.
	Uncorrected bool   `json:"uncorrected"`
	Boot        string `json:"boot"`
}

// Clock returns the state of the clock.
func (b *Batcher) Clock() ClockStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := &b.keep
	s := ClockStatus{
		State: k.state.String(), Kernel: k.sync.String(), Holding: k.holding, Steps: k.steps,
		Uncorrected: k.saved.FreeFrom != 0, Boot: hex.EncodeToString(k.boot[:]),
	}
	if k.holding {
		s.HoldLeft = max(0, k.hold-(k.tl.SinceBoot()-time.Duration(k.saved.WaitFrom)))
	}
	if measured, ok := k.tl.Offset(); ok {
		s.Off = time.Duration(measured - k.offset)
	}
	return s
}
