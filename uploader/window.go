package uploader

import (
	"cmp"
	"slices"
	"time"
)

// maxParked bounds how many failed blocks wait aside. Their data is not kept
// in memory; each is read again when it falls due.
const maxParked = 4096

// item is one block on its way.
type item struct {
	block   Block
	size    int       // as the sink counts
	tries   int       // failed so far
	failed  time.Time // of the first failure
	last    time.Time // of the last failure
	alone   bool      // to be sent in a request of its own
	due     time.Time // parked: when it is read again
	held    bool      // parked for a reason that an operator has to mend
	refused string    // parked: why it is to be buried
	// revived is set on a parked block whose endpoint answers again: it goes
	// before what was not read yet, in its old order.
	revived bool
}

// request is what one Send gets.
type request struct {
	items []*item
	size  int // sum of the items' sizes
	lane  *lane
}

// window is the part of a lane that the loop has at hand: read ahead, under
// way, or parked after a failure of its own.
type window struct {
	after  uint64  // the highest number read
	upTo   uint64  // the highest number of the lane, unless it is endless
	ready  []*item // in memory, to be sent in this order
	parked []*item // without data
	flying int     // blocks under way
	bytes  int     // data of ready and flying
	dry    bool    // the last read found nothing more
	// endless says that whatever comes belongs to this lane.
	endless bool
	// taken holds the numbers that are at hand in any lane, which no lane reads
	// again.
	taken map[uint64]struct{}
}

// held returns how many blocks are at hand.
func (w *window) held() int { return len(w.ready) + len(w.parked) + w.flying }

// fill reads ahead, and takes up parked blocks that are due. Each kind leaves
// half of the room to the other, so that neither starves the other; those that
// an outage left parked go first. Data in memory stays below Concurrency ×
// MaxBytes, or one block beyond.
func (w *window) fill(q Queue, l Limits, now time.Time) error {
	requests := max(l.Concurrency, 1)
	maxBlocks, maxBytes := requests*max(l.MaxBlocks, 1), requests*l.MaxBytes
	due, revived := w.due(now)
	if revived > 0 {
		w.dry = false
		return w.unpark(q, l, now, maxBlocks, maxBytes)
	}
	share := maxBlocks
	if due > 0 {
		share = (len(w.ready) + w.flying + maxBlocks + 1) / 2
	}
	if err := w.readAhead(q, l, share, maxBytes); err != nil {
		return err
	}
	return w.unpark(q, l, now, maxBlocks, maxBytes)
}

func (w *window) readAhead(q Queue, l Limits, maxBlocks, maxBytes int) error {
	for {
		w.dry = !w.endless && w.after >= w.upTo
		room := maxBlocks - len(w.ready) - w.flying
		if w.dry || room <= 0 || w.bytes >= maxBytes || len(w.parked) >= maxParked {
			return nil
		}
		blocks, err := q.Read(w.after, room, maxBytes-w.bytes)
		if err != nil {
			return err
		}
		if len(blocks) == 0 {
			w.dry = true
			if !w.endless {
				w.after = w.upTo
			}
			return nil
		}
		for _, b := range blocks {
			if !w.endless && b.Number > w.upTo {
				w.after = w.upTo
				break
			}
			w.after = max(w.after, b.Number)
			if _, has := w.taken[b.Number]; !has {
				w.taken[b.Number] = struct{}{}
				w.add(&item{block: b}, l)
			}
		}
	}
}

// due counts the parked blocks that wait to be sent again now, and those of
// them that were revived.
func (w *window) due(now time.Time) (due, revived int) {
	for _, it := range w.parked {
		if it.refused == "" && !now.Before(it.due) {
			due++
			if it.revived {
				revived++
			}
		}
	}
	return due, revived
}

func (w *window) add(it *item, l Limits) {
	it.size = l.Size(&it.block)
	w.bytes += len(it.block.Data)
	w.ready = append(w.ready, it)
}

// unpark reads again the parked blocks that are due. One that the queue no
// longer has was evicted meanwhile, and is let go.
func (w *window) unpark(q Queue, l Limits, now time.Time, maxBlocks, maxBytes int) error {
	keep := w.parked[:0]
	var fault error
	again := 0 // blocks in ready that have failed before
	for _, it := range w.ready {
		if it.tries > 0 && !it.revived {
			again++
		}
	}
	before := len(w.ready)
	for _, it := range w.parked {
		room := (it.revived || again < max(maxBlocks/2, 1)) && len(w.ready)+w.flying < maxBlocks && w.bytes < maxBytes
		if fault != nil || it.refused != "" || now.Before(it.due) || !room {
			keep = append(keep, it)
			continue
		}
		blocks, err := q.Read(it.block.Number-1, 1, 0)
		if err != nil {
			fault = err
			keep = append(keep, it)
			continue
		}
		if len(blocks) == 0 || blocks[0].Number != it.block.Number {
			delete(w.taken, it.block.Number)
			continue
		}
		it.block, it.held = blocks[0], false
		w.add(it, l)
		if !it.revived {
			again++
		}
	}
	clear(w.parked[len(keep):])
	w.parked = keep
	if len(w.ready) > before && w.ready[len(w.ready)-1].revived {
		slices.SortStableFunc(w.ready, byNumber)
	}
	return fault
}

func byNumber(a, b *item) int { return cmp.Compare(a.block.Number, b.block.Number) }

// revive lets what failed since an outage began go at once and in its old
// order: the endpoint answers again.
func (w *window) revive(since, now time.Time) {
	for _, it := range w.parked {
		if it.refused == "" && !it.last.Before(since) {
			it.due, it.revived = now, true
		}
	}
	for _, it := range w.ready {
		it.revived = it.tries > 0 && !it.last.Before(since)
	}
	slices.SortStableFunc(w.parked, byNumber)
	slices.SortStableFunc(w.ready, byNumber)
}

// release gives up the blocks in memory that were not tried yet, to be read
// again, and hands out the others.
func (w *window) release() (tried []*item) {
	for _, it := range w.ready {
		w.bytes -= len(it.block.Data)
		if it.tries > 0 {
			it.block.Data = nil
			tried = append(tried, it)
			continue
		}
		delete(w.taken, it.block.Number)
	}
	w.ready = nil
	tried = append(tried, w.parked...)
	w.parked = nil
	return tried
}

// park puts a failed block aside until due.
func (w *window) park(it *item, due time.Time) {
	it.block.Data, it.due, it.revived = nil, due, false
	w.parked = append(w.parked, it)
}

// bury tries again to bury the refused blocks that could not be buried at once.
func (w *window) bury(q Queue, now time.Time, g *gate) {
	w.parked = slices.DeleteFunc(w.parked, func(it *item) bool {
		if it.refused == "" || now.Before(it.due) {
			return false
		}
		if err := q.Bury(it.block.Number, it.refused); err != nil {
			it.tries++
			it.due = now.Add(g.policy.Wait(it.tries))
			return false
		}
		delete(w.taken, it.block.Number)
		return true
	})
}

// pack takes the next request from what is ready: as many blocks in order as
// fit, and always one. MaxBytes of l may be lower than the sink's.
func (w *window) pack(l Limits) *request {
	if len(w.ready) == 0 {
		return nil
	}
	req := &request{}
	for _, it := range w.ready {
		n := len(req.items)
		if n > 0 && (n >= l.MaxBlocks || req.size+it.size > l.MaxBytes || it.alone || req.items[0].alone) {
			break
		}
		req.items = append(req.items, it)
		req.size += it.size
	}
	w.ready = slices.Delete(w.ready, 0, len(req.items))
	w.flying += len(req.items)
	return req
}

// landed takes a request's blocks off the count of those under way.
func (w *window) landed(req *request) {
	w.flying -= len(req.items)
	for _, it := range req.items {
		w.bytes -= len(it.block.Data)
	}
}

// again puts blocks back to be sent, before or after the others that are ready.
func (w *window) again(items []*item, first bool) {
	for _, it := range items {
		w.bytes += len(it.block.Data)
	}
	if first {
		w.ready = slices.Insert(w.ready, 0, items...)
		return
	}
	w.ready = append(w.ready, items...)
}

// holding returns how many parked blocks wait for an operator.
func (w *window) holding() int {
	n := 0
	for _, it := range w.parked {
		if it.held {
			n++
		}
	}
	return n
}
