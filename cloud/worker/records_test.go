package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"millrace/cloud/catalogue"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

// shelf is the catalogue's tables in memory: what is written, and who looks on.
type shelf struct {
	catalogue.API // nothing else is asked of it
	fail          func(n int, table string) error

	mu     sync.Mutex
	writes int
	items  map[string]string // table and keys → version
}

func (s *shelf) note(table string, item map[string]types.AttributeValue) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.fail != nil {
		if err := s.fail(s.writes, table); err != nil {
			return err
		}
	}
	version := ""
	if v, ok := item["version"].(*types.AttributeValueMemberS); ok {
		version = v.Value
	}
	if s.items == nil {
		s.items = map[string]string{}
	}
	key := table + "\x00" + weekitem.KeyOf(item)
	if old, ok := s.items[key]; ok && version != "" && old >= version {
		return &types.ConditionalCheckFailedException{}
	}
	s.items[key] = version
	return nil
}

func (s *shelf) PutItem(_ context.Context, in *dynamodb.PutItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	return &dynamodb.PutItemOutput{}, s.note(*in.TableName, in.Item)
}

func (s *shelf) BatchWriteItem(_ context.Context, in *dynamodb.BatchWriteItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.BatchWriteItemOutput, error) {
	for table, list := range in.RequestItems {
		for _, w := range list {
			if err := s.note(table, w.PutRequest.Item); err != nil {
				return nil, err
			}
		}
	}
	return &dynamodb.BatchWriteItemOutput{}, nil
}

func (s *shelf) count() (items, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.items), s.writes
}

// sysBlock is the seq-th block of a system stream, with a catalogue record and a
// gap record.
func sysBlock(t testing.TB, seq uint64, at time.Time) []byte {
	t.Helper()
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	gap, err := (&ledger.Gap{ID: seq, Epoch: "0000000000000007", Source: "meters", Cause: ledger.GatewayDown, At: at}).Sample(ledger.GapTag("north", "gw1"), at)
	if err != nil {
		t.Fatal(err)
	}
	enc.Reset([]string{ledger.CatalogueTag("north", "gw1"), gap.Tag})
	enc.Add(0, &sample.Sample{Tag: ledger.CatalogueTag("north", "gw1"), Value: sample.StringValue(fmt.Sprintf(`{"tag":"north/meter/%d","stream":"s0001","source":"meters"}`, seq)), Time: at.UnixNano()})
	enc.Add(1, &gap)
	h := header(seq)
	h.Stream = ledger.SystemStream
	data, err := enc.Encode(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// withRecords is a worker that takes records into the shelf.
func withRecords(t testing.TB, log *book, m *memory, s *shelf, latest ...string) (*Worker, func() error) {
	o := options(log)
	o.Records = &catalogue.Store{DB: s, Prefix: "plant", LatestOf: latest}
	return start(t, o, m)
}

// Records are in their tables before the message is deleted, whatever fails.
func TestRecordsBeforeTheMessageGoes(t *testing.T) {
	for name, c := range map[string]struct {
		fault  error
		faults int // writes that fail
		says   string
		held   bool
	}{
		"in order":  {},
		"throttled": {fault: &types.ProvisionedThroughputExceededException{}, faults: 3},
		"denied":    {fault: &smithy.GenericAPIError{Code: "AccessDeniedException"}, faults: 2, says: "the table of records cannot be written"},
		"no answer": {fault: errors.New("connection reset"), faults: 1, says: "the table of records cannot be written"},
		"missing":   {fault: &types.ResourceNotFoundException{}, faults: 1, says: "run `millrace-cloud tables ensure`", held: true},
		"keys":      {fault: &smithy.GenericAPIError{Code: "ValidationException"}, faults: 2, says: "its keys are not pk and sk", held: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, s := &book{}, &shelf{}
				now := time.Now()
				m := newMemory(t, sysBlock(t, 1, now), blockOf(t, header(1), now, 10), sysBlock(t, 2, now))
				early := 0
				s.fail = func(n int, _ string) error {
					if n <= c.faults {
						early = max(early, 3-m.left())
						return c.fault
					}
					return nil
				}
				w, stop := withRecords(t, log, m, s)
				time.Sleep(3 * time.Minute)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				// Two records of each kind, and the gateway's name among the gaps.
				if items, _ := s.count(); items != 5 || m.left() != 0 || m.stored() != 3 || w.Counts().Records < 5 {
					t.Errorf("%d items, %d messages left, %d stored, %+v", items, m.left(), m.stored(), w.Counts())
				}
				if early > 1 {
					t.Errorf("%d messages were deleted before their records were written", early)
				}
				if held := w.Counts().Held > 0; held != c.held || c.says != "" && log.count(c.says) == 0 {
					t.Errorf("held %v, log %s", held, log.text.String())
				}
			})
		})
	}
}

// A stop while the records cannot be written gives the messages back.
func TestRecordsAtAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{fail: func(int, string) error { return errors.New("no answer") }}
		m := newMemory(t, sysBlock(t, 1, time.Now()))
		w, stop := withRecords(t, &book{}, m, s)
		time.Sleep(5 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if c := w.Counts(); m.left() != 1 || c.Returned != 1 || c.Stored != 1 {
			t.Errorf("%d left, %+v", m.left(), c)
		}
	})
}

// A batch costs one write for each tag, and none where a newer one is known.
func TestLatestIsCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, now := &shelf{}, time.Now()
		var list [][]byte
		for i := range 10 {
			list = append(list, blockOf(t, header(uint64(10-i)), now.Add(time.Duration(-i)*time.Minute), 60))
		}
		m := newMemory(t, list...)
		o := options(&book{})
		o.Records, o.Concurrency = &catalogue.Store{DB: s, Prefix: "plant", LatestOf: []string{"*"}}, 1
		w, stop := start(t, o, m)
		time.Sleep(time.Minute)
		m.add(messageOf(t, list[3])) // again
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		items, writes := s.count()
		// The first receive asks for one message, since the sizes are not known yet.
		if items != 1 || writes > 2 || m.left() != 0 || w.Counts().Stored != 11 {
			t.Errorf("%d items by %d writes, %d left, %+v", items, writes, m.left(), w.Counts())
		}
	})
}

// What a system stream says that nobody can read holds nothing up.
func TestUnreadableRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, s, now := &book{}, &shelf{}, time.Now()
		h := header(1)
		h.Stream = ledger.SystemStream
		enc, err := block.NewEncoder()
		if err != nil {
			t.Fatal(err)
		}
		enc.Reset([]string{ledger.CatalogueTag("north", "gw1")})
		enc.Add(0, &sample.Sample{Tag: ledger.CatalogueTag("north", "gw1"), Value: sample.StringValue("{"), Time: now.UnixNano()})
		data, err := enc.Encode(nil, h)
		if err != nil {
			t.Fatal(err)
		}
		m := newMemory(t, data, sysBlock(t, 2, now))
		_, stop := withRecords(t, log, m, s)
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if items, _ := s.count(); items != 3 || m.left() != 0 || log.count("cannot be taken into the catalogue") != 1 {
			t.Errorf("%d items, %d left, %s", items, m.left(), log.text.String())
		}
	})
}
