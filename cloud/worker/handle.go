package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/cloud/connect"
	"millrace/internal/backoff"
	"millrace/internal/weekitem"
	"millrace/sample/weektable"
)

// batch is what one receive brought. Every message of it ends in exactly one of
// four ways: deleted, put aside, given back, or left to become visible by itself.
type batch struct {
	w         *Worker
	ours      *lease
	began     time.Time
	throttled bool
	held      bool // a table is missing, or takes nothing at all
	settled   int  // messages whose blocks are where they belong
	// afterwards are late blocks: they wait until all others are in their tables.
	afterwards []*parcel
	back       []aside // what is not to be deleted
	// told are blocks that are where they belong, and whose records are not yet.
	told []*parcel
}

// aside is a message that comes again after a time.
type aside struct {
	handle string
	after  time.Duration
}

// handle brings messages to where they belong, and deletes each only when that
// is acknowledged. It reports whether less is to be asked of the queue.
func (w *Worker) handle(stop, work context.Context, list []types.Message) (slower bool) {
	b := &batch{w: w, began: time.Now(), ours: w.lease(work, list)}
	defer b.ours.end()
	defer b.giveBack()
	now := w.o.Clock.Now()
	var poison []*parcel
	tables := map[string][]*parcel{}
	var order []string
	for i := range list {
		p := &parcel{message: &list[i]}
		if p.reason = p.open(w.sites); p.reason != "" {
			poison = append(poison, p)
			continue
		}
		name := weektable.Place(w.o.Prefix, p.header.First, now, w.o.Retention)
		// What is older than the retention never touches its week's table: the
		// table may be proved against the archive and deleted just now.
		if w.o.Late != nil && name == weektable.Unplaced(w.o.Prefix) && p.header.First >= 0 && time.Unix(0, p.header.First).Before(now) {
			b.afterwards = append(b.afterwards, p)
			continue
		}
		if tables[name] == nil {
			order = append(order, name)
		}
		tables[name] = append(tables[name], p)
	}
	b.bury(work, poison)
	for _, name := range order {
		b.store(stop, work, name, tables[name])
	}
	b.late(stop, work)
	b.takeRecords(stop, work)
	// Blocks that are held must not slow those beside them.
	return b.throttled || b.held && b.settled == 0
}

// call bounds one request.
func call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callTimeout)
}

// again waits before the next try, and reports whether there is to be one: not
// after a stop, and not when the batch has had its time.
func (b *batch) again(stop context.Context, attempt int) bool {
	return time.Since(b.began) < b.w.o.Patience && backoff.Sleep(stop, b.w.o.Backoff.Wait(attempt))
}

// store puts blocks into one table until each is acknowledged, then deletes
// their messages.
func (b *batch) store(stop, work context.Context, table string, list []*parcel) {
	// Equal keys mean equal bytes; twice in one call, the call fails.
	left := map[string][]*parcel{}
	items := map[string]map[string]ddbtypes.AttributeValue{}
	for _, p := range list {
		item, key := weekitem.New(&p.header, p.data)
		left[key], items[key] = append(left[key], p), item
	}
	for attempt := 0; ; attempt++ {
		unprocessed, err := b.put(work, table, left, items)
		if err == nil {
			var done []*parcel
			for key, same := range left {
				if !unprocessed[key] {
					done = append(done, same...)
					b.w.counts.take(same[0])
					delete(left, key)
				}
			}
			b.settle(work, done)
			if len(left) == 0 {
				return
			}
			b.throttled = true
			b.w.counts.throttled.Add(1)
		} else if b.failed(stop, work, table, left, items, err) {
			return
		}
		if stop.Err() == nil && b.holdsUp(table) {
			if b.w.say.now("slow " + table) {
				b.w.o.Log.Warn("held: the table takes too little, and others have to go on; give it more write units", "table", table)
			}
			b.w.counts.held.Add(uint64(len(left)))
			b.held, b.throttled = true, false
			b.putAside(left, b.w.o.Hold)
			return
		}
		if !b.again(stop, attempt) {
			b.putAside(left, 0)
			return
		}
	}
}

// failed sees to a call that failed as a whole. It reports whether that settled
// the blocks; else they are to be tried again.
func (b *batch) failed(stop, work context.Context, table string, left map[string][]*parcel, items map[string]map[string]ddbtypes.AttributeValue, err error) bool {
	w := b.w
	class := connect.ClassOf(err)
	switch class {
	case connect.Missing:
		b.missing(stop, work, table, left)
		return true
	case connect.Refused:
		if len(left) > 1 { // one of them is at fault, or all
			for _, same := range left {
				b.store(stop, work, table, same)
			}
			return true
		}
		if w.hasAccepted(table) {
			for _, same := range left {
				for _, p := range same {
					p.reason = "DynamoDB refuses its item: " + connect.Brief(err)
				}
				b.bury(work, same)
			}
			return true
		}
		// The table's keys are as likely to be at fault; then all would be buried.
		if w.say.now("refused " + table) {
			w.o.Log.Error("held: the table refuses items and has taken none since the start; check that its keys are pk and sk, both of type S",
				"table", table, "error", connect.Brief(err))
		}
		w.counts.held.Add(uint64(len(left)))
		b.held = true
		b.putAside(left, w.o.Hold)
		return true
	case connect.Throttled:
		b.throttled = true
		w.counts.throttled.Add(1)
	case connect.Transient, connect.Held:
	}
	if class != connect.Throttled && work.Err() == nil && w.say.now("write "+table) {
		w.o.Log.Warn("the table cannot be written; trying on", "table", table, "error", connect.Brief(err))
	}
	return false
}

// put makes one call, and returns the keys of what was not processed. 10
// messages are 25 items at most, and 10 items of 400 KiB are under 16 MB.
func (b *batch) put(work context.Context, table string, left map[string][]*parcel, items map[string]map[string]ddbtypes.AttributeValue) (map[string]bool, error) {
	writes := make([]ddbtypes.WriteRequest, 0, len(left))
	for key := range left {
		writes = append(writes, ddbtypes.WriteRequest{PutRequest: &ddbtypes.PutRequest{Item: items[key]}})
	}
	ctx, cancel := call(work)
	defer cancel()
	out, err := b.w.tables.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]ddbtypes.WriteRequest{table: writes}})
	if err != nil {
		return nil, err
	}
	unprocessed := map[string]bool{}
	for name, rest := range out.UnprocessedItems {
		for _, r := range rest {
			key := ""
			if r.PutRequest != nil {
				key = weekitem.KeyOf(r.PutRequest.Item)
			}
			if left[key] == nil || name != table {
				// An answer that names an item we did not send confirms nothing.
				return nil, errors.New("the answer names an unprocessed item that was not sent")
			}
			unprocessed[key] = true
		}
	}
	if len(unprocessed) < len(left) {
		b.w.accept(table)
	}
	return unprocessed, nil
}

func (w *Worker) accept(table string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accepted[table] = time.Now()
}

func (w *Worker) hasAccepted(table string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.accepted[table].IsZero()
}

const (
	// onePatience is for how long a table may keep a batch while others take items.
	onePatience = 10 * time.Second
	// lately is for how long a table is remembered as slow, or as taking items.
	lately = time.Minute
)

// holdsUp reports whether blocks of a table that takes nothing, as after its writes
// were dialled down, are to be put aside since others do take theirs.
func (b *batch) holdsUp(table string) bool {
	w := b.w
	w.mu.Lock()
	defer w.mu.Unlock()
	others := false
	for name, at := range w.accepted {
		others = others || name != table && time.Since(at) < lately
	}
	if at := w.slow[table]; !others || time.Since(b.began) < onePatience && (at.IsZero() || time.Since(at) > lately) {
		return false
	}
	w.slow[table] = time.Now()
	return true
}

// missing sees to blocks whose table is not there: one that was retired has its
// late blocks beside the archive, any other is waited for.
func (b *batch) missing(stop, work context.Context, table string, left map[string][]*parcel) {
	w := b.w
	if w.o.Late != nil && w.o.Retired != nil {
		ctx, cancel := call(work)
		retired, err := w.o.Retired(ctx, table)
		cancel()
		if err != nil && w.say.now("retired") {
			w.o.Log.Warn("whether the week was archived cannot be seen; its blocks are held", "table", table, "error", connect.Brief(err))
		}
		if retired && err == nil {
			for _, same := range left {
				b.afterwards = append(b.afterwards, same...)
			}
			return
		}
	}
	if w.say.now("missing " + table) {
		w.o.Log.Error("held: the table is missing or not ACTIVE yet; run `millrace-cloud tables ensure`, for a week before this one with --behind, or correct --prefix and --region", "table", table)
	}
	w.counts.held.Add(uint64(len(left)))
	b.held = true
	b.putAside(left, w.o.Hold)
}

// lateTries is how often a late block is put before it is held. Nobody waits for
// it, and those that come behind it have to go on.
const lateTries = 3

// late stores blocks as objects, for the next archive run of their week. One that
// is refused is held; where the place does not answer, the rest is with it.
func (b *batch) late(stop, work context.Context) {
	w := b.w
	for i, p := range b.afterwards {
		key := weektable.LateKey(w.o.Prefix, &p.header, weektable.Checksum(p.data))
		err := b.putLate(stop, work, key, p.data)
		if err == nil {
			w.counts.late.Add(1)
			w.counts.samples.Add(uint64(p.header.Count))
			b.settle(work, []*parcel{p})
			continue
		}
		if stop.Err() != nil {
			b.putAside(map[string][]*parcel{"": b.afterwards[i:]}, 0)
			return
		}
		if w.say.now("late") {
			w.o.Log.Warn("held: late blocks cannot be stored", "place", w.o.Late.String(), "error", connect.Brief(fmt.Errorf("put %s: %w", key, err)))
		}
		held := b.afterwards[i : i+1]
		if passes(err) {
			held = b.afterwards[i:]
		}
		w.counts.held.Add(uint64(len(held)))
		b.held = true
		b.putAside(map[string][]*parcel{"": held}, w.o.Hold)
		if passes(err) {
			return
		}
	}
}

// passes says that an error may pass by itself.
func passes(err error) bool {
	class := connect.ClassOf(err)
	return class == connect.Transient || class == connect.Throttled
}

// putLate puts one object, and tries again where the error may pass by itself.
func (b *batch) putLate(stop, work context.Context, key string, data []byte) error {
	for attempt := 0; ; attempt++ {
		ctx, cancel := call(work)
		err := b.w.o.Late.Put(ctx, key, data)
		cancel()
		if err == nil || !passes(err) || attempt == lateTries-1 || !b.again(stop, attempt) {
			return err
		}
	}
}
