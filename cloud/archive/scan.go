package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/connect"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/internal/backoff"
	"millrace/internal/weekitem"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

const (
	pageTries   = 20                    // of one page that is throttled
	pageMaxWait = 20 * time.Second      // between two of them
	maxNamed    = 20                    // unreadable items that are named in the log
	maxLate     = 4 << 20               // bytes of a late block; the queue takes no more than 1 MiB
	shortSpan   = int64(24 * time.Hour) // from a block's first sample to its last
)

// bad counts what could not be read. An archive with any of it has no manifest.
type bad struct {
	mu    sync.Mutex
	count int
	first string
}

// add notes one, and names the first ones in the log.
func (b *bad) add(r *run, what string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	text := fmt.Sprintf("%s: %s", what, oneLine(err))
	if errors.Is(err, block.ErrVersion) {
		text += "; a newer millrace-cloud reads it"
	}
	if b.first == "" {
		b.first = text
	}
	if b.count <= maxNamed {
		r.o.Log.Error("unreadable; the week is not archived", "table", r.table, "object", what, "error", oneLine(err))
	}
}

// err is one line about all of them, nil where there are none.
func (b *bad) err() error {
	if b.count == 0 {
		return nil
	}
	return &UnreadableError{Count: b.count, First: b.first}
}

// UnreadableError says that blocks of the week cannot be read, so that its
// archive cannot hold them, and no manifest was written.
type UnreadableError struct {
	Count int
	First string // one of them, and why
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("unreadable blocks: %d, such as %s. The week was not archived, since its archive would not hold them; the log names them. "+
		"Update millrace-cloud, or take the items out of the table once they were looked at, and archive it again", e.Count, e.First)
}

// scan brings the table's blocks into the store.
func (r *run) scan(ctx context.Context, size int64) error {
	r.o.Progress.Phase("read", "", size)
	if r.store.resumed() {
		r.o.Log.Info("going on with an interrupted run", "table", r.table, "started", r.store.state.Started.Format(time.RFC3339))
	}
	bad := &bad{}
	err := parallel(ctx, len(r.store.state.Segments), func(ctx context.Context, i int) error { return r.segment(ctx, i, bad) })
	if err != nil {
		return errors.Join(err, r.store.note())
	}
	if err := bad.err(); err != nil {
		// What is mended or taken away has to be seen by the next run.
		return errors.Join(err, r.store.remove())
	}
	return nil
}

// segment scans one part of the table to its end.
func (r *run) segment(ctx context.Context, i int, bad *bad) error {
	dec, err := block.NewDecoder()
	if err != nil {
		return err
	}
	state := r.store.state.Segments[i]
	in := &dynamodb.ScanInput{TableName: &r.table, ConsistentRead: aws.Bool(true),
		Segment: aws.Int32(int32(i)), TotalSegments: aws.Int32(int32(len(r.store.state.Segments)))}
	for !state.Done {
		if in.ExclusiveStartKey = nil; len(state.After) == 2 {
			in.ExclusiveStartKey = map[string]types.AttributeValue{
				weektable.AttrPartition: &types.AttributeValueMemberS{Value: state.After[0]}, weektable.AttrSort: &types.AttributeValueMemberS{Value: state.After[1]}}
		}
		page, err := r.page(ctx, in)
		if err != nil {
			return fmt.Errorf("read the table: %s", connect.Brief(err))
		}
		entries := make([]entry, 0, len(page.Items))
		size := int64(0)
		for _, item := range page.Items {
			e, what, err := r.check(item, dec)
			if err != nil {
				bad.add(r, what, err)
				continue
			}
			size += int64(len(e.data))
			entries = append(entries, e)
		}
		state = segment{Done: page.LastEvaluatedKey == nil}
		if !state.Done {
			state.After = []string{weekitem.Text(page.LastEvaluatedKey, weektable.AttrPartition), weekitem.Text(page.LastEvaluatedKey, weektable.AttrSort)}
		}
		if err := r.store.add(entries, i, state.After, state.Done); err != nil {
			return fmt.Errorf("store what was read in %s: %w", r.store.dir, err)
		}
		r.o.Progress.Add(size)
	}
	return nil
}

// page reads one page of a scan. A table that was dialled down throttles its
// readers, too.
func (r *run) page(ctx context.Context, in *dynamodb.ScanInput) (*dynamodb.ScanOutput, error) {
	for attempt := 0; ; attempt++ {
		page, err := r.o.DB.Scan(ctx, in)
		class := connect.ClassOf(err)
		if err == nil || class != connect.Throttled && class != connect.Transient || attempt == pageTries-1 {
			return page, err
		}
		if !r.o.Sleep(ctx, backoff.Policy{Max: pageMaxWait}.Wait(attempt)) {
			return nil, context.Cause(ctx)
		}
	}
}

// check takes the block out of an item, if it is the one that the item's keys
// say. what names the item.
func (r *run) check(item map[string]types.AttributeValue, dec *block.Decoder) (_ entry, what string, err error) {
	pk, sk := weekitem.Text(item, weektable.AttrPartition), weekitem.Text(item, weektable.AttrSort)
	what = "item " + strings.ReplaceAll(weekitem.KeyOf(item), "\x00", " ")
	data, ok := weekitem.Block(item)
	if !ok || pk == "" || sk == "" {
		return entry{}, what, errors.New("it is no block")
	}
	e, h, err := makeEntry(data, dec)
	if err != nil {
		return entry{}, what, err
	}
	if p, k := weektable.Keys(h, weektable.Checksum(data)); p != pk || k != sk {
		return entry{}, what, errors.New("its keys are not those of its block")
	}
	return e, what, nil
}

// makeEntry finds out which days a block has samples of. A block that spans no
// more than two is not decoded for it.
func makeEntry(data []byte, dec *block.Decoder) (entry, *block.Header, error) {
	h, err := block.ReadHeader(data)
	if err != nil {
		return entry{}, nil, err
	}
	crc := weektable.Checksum(data)
	pk, sk := weektable.Keys(&h, crc)
	e := entry{site: h.Site, digest: manifest.Digest(pk, sk, crc), data: data}
	first, last := lake.Day(h.First).UnixNano(), lake.Day(h.Last).UnixNano()
	if last-first >= 0 && last-first <= shortSpan {
		e.days = []int64{first}
		if last != first {
			e.days = append(e.days, last)
		}
		return e, &h, nil
	}
	b, err := dec.Decode(data)
	if err != nil {
		return entry{}, nil, err
	}
	for s := range b.All() {
		if at := lake.Day(s.PrimaryTime()).UnixNano(); !slices.Contains(e.days, at) {
			e.days = append(e.days, at)
		}
	}
	return e, &h, nil
}

// addLate brings the week's late blocks into the store, but those of the keys
// in done, and returns the keys of all there are.
func (r *run) addLate(ctx context.Context, done map[string]bool) ([]string, error) {
	dec, err := block.NewDecoder()
	if err != nil {
		return nil, err
	}
	keys := []string{}
	bad := &bad{}
	err = r.o.Place.List(ctx, weektable.LatePrefix(r.table), func(key string, size int64) error {
		keys = append(keys, key)
		if done[key] {
			return nil
		}
		if size > maxLate {
			bad.add(r, key, fmt.Errorf("it has %d bytes, and a block has at most %d", size, maxLate))
			return nil
		}
		data, err := objects.Read(ctx, r.o.Place, key, 0)
		if err != nil {
			return fmt.Errorf("read late block %s: %w", key, err)
		}
		e, h, err := makeEntry(data, dec)
		if err == nil {
			if want := weektable.LateKey(r.o.Prefix, h, weektable.Checksum(data)); want != key {
				err = fmt.Errorf("its key is not that of its block, %s", want)
			}
		}
		if err != nil {
			bad.add(r, key, err)
			return nil
		}
		e.late = true
		return r.store.add([]entry{e}, -1, nil, false)
	})
	return keys, errors.Join(err, bad.err())
}

// parallel calls fn for 0 to n-1 at once, and returns the first error that is no
// consequence of another.
func parallel(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := fn(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}
