package catalogue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

const (
	ahead       = 24 * time.Hour   // as weektable.Place has it: a clock beyond is not to be believed
	maxRecord   = 300 << 10        // bytes of a record, well below an item's 400 KiB
	maxText     = 4 << 10          // bytes of a newest reading's text
	maxNewest   = 100_000          // tags whose version is remembered
	atOnce      = 8                // conditional puts under way
	callTimeout = 30 * time.Second // of one request
	maxSkipped  = 5                // records that are named
)

// UnreadableError says what of a block could not be taken: for good, since its
// bytes never change. All else of the block was taken.
type UnreadableError struct {
	Block string   // its identity
	What  []string // the first of them, each in words
	Count int
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("block %s: %d records cannot be read: %s", e.Block, e.Count, strings.Join(e.What, "; "))
}

func (e *UnreadableError) note(err error) {
	e.Count++
	if len(e.What) < maxSkipped {
		e.What = append(e.What, err.Error())
	}
}

// WriteError is a table that could not be written.
type WriteError struct {
	Table string
	Err   error
}

func (e *WriteError) Error() string { return fmt.Sprintf("write table %s: %v", e.Table, e.Err) }
func (e *WriteError) Unwrap() error { return e.Err }

// Take brings a block's records into the tables: those of a system stream into
// the catalogue and the gaps, the readings of any other into the newest ones as
// Store.LatestOf says. It may be repeated, and of any two blocks either may come
// first. An *UnreadableError is for good; any other error asks to try again.
func (s *Store) Take(ctx context.Context, data []byte) error {
	h, err := block.ReadHeader(data)
	if err != nil {
		return &UnreadableError{Block: "?", What: []string{err.Error()}, Count: 1}
	}
	if !s.Wants(&h) {
		return nil
	}
	b := s.NewBatch()
	unreadable := b.Add(&h, data)
	if err := b.Write(ctx); err != nil {
		return err
	}
	return unreadable
}

// Wants reports whether anything of a block belongs into the tables. It looks at
// the header alone.
func (s *Store) Wants(h *block.Header) bool {
	return h.Stream == ledger.SystemStream || len(s.LatestOf) > 0 && s.believable(h.First)
}

func (s *Store) believable(at int64) bool {
	return at >= 0 && at < s.now().Add(ahead).UnixNano()
}

// put is an item that is to be written, if it is newer than the one there.
type put struct {
	table, tag string // tag of a newest reading
	version    string // empty: a pure put
	item       map[string]types.AttributeValue
}

// Batch is what several blocks say, each thing once. It is for one goroutine.
type Batch struct {
	s       *Store
	pending map[string]*put // by table and keys
}

// NewBatch returns an empty batch.
func (s *Store) NewBatch() *Batch { return &Batch{s: s, pending: map[string]*put{}} }

// Len is how many items are to be written.
func (b *Batch) Len() int { return len(b.pending) }

// add takes an item, unless a newer one is here.
func (b *Batch) add(p *put) {
	key := p.table + "\x00" + weekitem.KeyOf(p.item)
	if have := b.pending[key]; have == nil || have.version < p.version {
		b.pending[key] = p
	}
}

// Add takes in what a block says; h is its header. An error is an
// *UnreadableError.
func (b *Batch) Add(h *block.Header, data []byte) error {
	dec, err := b.s.decoder()
	if err != nil {
		return &UnreadableError{Block: h.Identity(), What: []string{err.Error()}, Count: 1}
	}
	defer b.s.release(dec)
	decoded, err := dec.Decode(data)
	if err != nil {
		return &UnreadableError{Block: h.Identity(), What: []string{err.Error()}, Count: 1}
	}
	if h.Stream != ledger.SystemStream {
		b.latest(decoded)
		return nil
	}
	bad := &UnreadableError{Block: h.Identity()}
	catalogue, gap := ledger.CatalogueTag(h.Site, h.Gateway), ledger.GapTag(h.Site, h.Gateway)
	row := 0
	for v := range decoded.All() {
		row++
		switch v.Tag {
		case catalogue:
			err = b.entry(h, &v, row)
		case gap:
			err = b.gap(h, &v)
		default:
			continue
		}
		if err != nil {
			bad.note(err)
		}
	}
	if bad.Count > 0 {
		return bad
	}
	return nil
}

func (b *Batch) entry(h *block.Header, v *sample.Sample, row int) error {
	e, err := ledger.ParseCatalogue(v)
	if err != nil {
		return err
	}
	record := v.Value.Str()
	err = errors.Join(sample.CheckTag(e.Tag), sample.CheckName(e.Stream), sample.CheckName(h.Site), sample.CheckName(h.Gateway))
	switch {
	case err != nil:
		return fmt.Errorf("catalogue record: %w", err)
	case SiteOf(e.Tag) != h.Site:
		return fmt.Errorf("catalogue record of tag %q comes from site %q", e.Tag, h.Site)
	case len(e.Stream) > sample.MaxTagBytes:
		return fmt.Errorf("catalogue record of tag %q: its stream's name has %d bytes; the most is %d", e.Tag, len(e.Stream), sample.MaxTagBytes)
	case len(record) > maxRecord:
		return fmt.Errorf("catalogue record of tag %q has %d bytes; the most is %d", e.Tag, len(record), maxRecord)
	}
	at := v.PrimaryTime()
	if !b.s.believable(at) {
		at = 0 // it yields to every other
	}
	item := keys(entryKey(&Entry{Site: h.Site, Gateway: h.Gateway, CatalogueEntry: *e}))
	item[attrGateway], item[attrRecord], item[attrSince], item[attrVersion] = text(h.Gateway), text(record), number(at), text(version(h, at, row))
	b.add(&put{table: Table(b.s.Prefix), version: version(h, at, row), item: item})
	return nil
}

func (b *Batch) gap(h *block.Header, v *sample.Sample) error {
	read, err := ledger.ParseGap(v)
	if err != nil {
		return err
	}
	g := Gap{Site: h.Site, Gateway: h.Gateway, Gap: *read}
	record := v.Value.Str()
	err = errors.Join(sample.CheckName(h.Site), sample.CheckName(h.Gateway), sample.CheckName(g.Epoch))
	if err == nil && g.Origin != ledger.FromSpool {
		err = sample.CheckName(string(g.Origin))
	}
	switch {
	case err != nil:
		return fmt.Errorf("gap record %d: %w", g.ID, err)
	case len(record) > maxRecord || len(g.Epoch)+len(g.Origin) > sample.MaxTagBytes:
		return fmt.Errorf("gap record %d has %d bytes; the most is %d", g.ID, len(record), maxRecord)
	}
	table := GapsTable(b.s.Prefix)
	item := keys(gapKey(&g))
	item[attrRecord], item[attrEnd] = text(record), number(nanos(g.End()))
	b.add(&put{table: table, item: item})
	b.add(&put{table: table, item: keys(g.Site, g.Gateway)})
	return nil
}

// latest takes each tag's newest reading of a block.
func (b *Batch) latest(d *block.Block) {
	for i := range d.Columns {
		col := &d.Columns[i]
		if strings.Contains(col.Tag, "/$") || SiteOf(col.Tag) != d.Site || !slices.ContainsFunc(b.s.LatestOf, func(p string) bool { return Match(p, col.Tag) }) {
			continue
		}
		newest, row, at := sample.Sample{}, -1, int64(0)
		for n := range col.N {
			v := col.Sample(n)
			if t := v.PrimaryTime(); (row < 0 || t >= at) && b.s.believable(t) {
				newest, row, at = v, n, t
			}
		}
		if row < 0 {
			continue
		}
		v := version(&d.Header, at, row)
		if b.s.knows(col.Tag, v) {
			continue
		}
		item := keys(d.Site, col.Tag)
		item[attrGateway], item[attrStream], item[attrVersion] = text(d.Gateway), text(d.Stream), text(v)
		item[attrTime], item[attrAt] = number(at), text(time.Unix(0, at).UTC().Format(time.RFC3339Nano))
		if newest.SourceTime != 0 {
			item[attrGatewayTime] = number(newest.Time)
		}
		item[attrKind], item[attrValue] = text(newest.Value.Kind().String()), valueOf(newest.Value)
		item[attrQuality] = number(int64(newest.Quality))
		b.add(&put{table: LatestTable(b.s.Prefix), tag: col.Tag, version: v, item: item})
	}
}

// valueOf is a value as DynamoDB has it. A number has a size from 1E-130 to
// 9.99E+125 there; any other is text. Developer Guide, "Data types".
func valueOf(v sample.Value) types.AttributeValue {
	switch v.Kind() {
	case sample.Float64:
		f := v.Float()
		digits := strconv.FormatFloat(f, 'g', -1, 64)
		if size := math.Abs(f); size != 0 && !(size >= 1e-130 && size < 9.9e125) {
			return text(digits)
		}
		return &types.AttributeValueMemberN{Value: digits}
	case sample.Int64:
		return number(v.Int())
	case sample.Bool:
		return &types.AttributeValueMemberBOOL{Value: v.Bool()}
	case sample.String:
		s := v.Str()
		if len(s) > maxText {
			s = strings.ToValidUTF8(s[:maxText], "")
		}
		return text(s)
	case sample.Null:
	}
	return &types.AttributeValueMemberNULL{Value: true}
}

// Write writes what was added, and leaves in the batch what could not be
// written: after an error it may be called again.
func (b *Batch) Write(ctx context.Context) error {
	var pure, conditional []string
	for key, p := range b.pending {
		if p.version == "" {
			pure = append(pure, key)
		} else {
			conditional = append(conditional, key)
		}
	}
	slices.Sort(pure)
	slices.Sort(conditional)
	for group := range slices.Chunk(pure, weekitem.MaxItems) {
		if err := b.writeGroup(ctx, group); err != nil {
			return err
		}
	}
	return b.writeNewer(ctx, conditional)
}

// writeGroup puts items by one request.
func (b *Batch) writeGroup(ctx context.Context, group []string) error {
	in := map[string][]types.WriteRequest{}
	first := b.pending[group[0]].table
	for _, key := range group {
		p := b.pending[key]
		in[p.table] = append(in[p.table], types.WriteRequest{PutRequest: &types.PutRequest{Item: p.item}})
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := b.s.DB.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: in})
	if err != nil {
		return &WriteError{first, err}
	}
	left := map[string]bool{}
	for table, list := range out.UnprocessedItems {
		for _, r := range list {
			if r.PutRequest != nil {
				left[table+"\x00"+weekitem.KeyOf(r.PutRequest.Item)] = true
			}
		}
	}
	for _, key := range group {
		if !left[key] {
			delete(b.pending, key)
		}
	}
	if len(left) > 0 {
		return &WriteError{first, &types.ProvisionedThroughputExceededException{Message: new(fmt.Sprintf("%d items were not processed", len(left)))}}
	}
	return nil
}

// writeNewer puts items that are newer than those there, some at once.
func (b *Batch) writeNewer(ctx context.Context, list []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var failed error
	next := 0
	one := func() bool {
		mu.Lock()
		if failed != nil || next == len(list) {
			mu.Unlock()
			return false
		}
		key := list[next]
		p := b.pending[key]
		next++
		mu.Unlock()
		err := b.s.putNewer(ctx, p)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			delete(b.pending, key)
		} else if failed == nil {
			failed = err
			cancel()
		}
		return err == nil
	}
	var wait sync.WaitGroup
	for range min(atOnce, len(list)) {
		wait.Go(func() {
			for one() {
			}
		})
	}
	wait.Wait()
	return failed
}

// putNewer puts an item unless one is there that is as new.
func (s *Store) putNewer(ctx context.Context, p *put) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	condition := "attribute_not_exists(#v) OR #v < :v"
	_, err := s.DB.PutItem(ctx, &dynamodb.PutItemInput{TableName: &p.table, Item: p.item, ConditionExpression: &condition,
		ExpressionAttributeNames:            map[string]string{"#v": attrVersion},
		ExpressionAttributeValues:           map[string]types.AttributeValue{":v": text(p.version)},
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld})
	there := p.version
	var newer *types.ConditionalCheckFailedException
	if errors.As(err, &newer) {
		there, err = max(there, weekitem.Text(newer.Item, attrVersion)), nil
	}
	if err != nil {
		return &WriteError{p.table, err}
	}
	if p.tag != "" {
		s.learn(p.tag, there)
	}
	return nil
}

// knows reports that a reading at least as new is in the table, so that a
// backlog costs no writes that change nothing.
func (s *Store) knows(tag, version string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest[tag] >= version
}

func (s *Store) learn(tag, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil || len(s.newest) >= maxNewest {
		s.newest = map[string]string{}
	}
	s.newest[tag] = max(s.newest[tag], version)
}

// decoder returns one that nobody else uses until release.
func (s *Store) decoder() (*block.Decoder, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.decoders); n > 0 {
		d := s.decoders[n-1]
		s.decoders = s.decoders[:n-1]
		return d, nil
	}
	return block.NewDecoder()
}

func (s *Store) release(d *block.Decoder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decoders = append(s.decoders, d)
}

// recordOf reads a record's JSON from an item.
func recordOf(item map[string]types.AttributeValue, into any) error {
	if err := json.Unmarshal([]byte(weekitem.Text(item, attrRecord)), into); err != nil {
		return fmt.Errorf("item %q %q: %w", weekitem.Text(item, weektable.AttrPartition), weekitem.Text(item, weektable.AttrSort), err)
	}
	return nil
}
