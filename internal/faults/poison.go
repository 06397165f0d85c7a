package faults

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/internal/sim/awssim"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/weektable"
	"millrace/spool"
)

// runPoison has some blocks refused for good while others pass: by the sender's
// fault (SQS), by a ValidationException of the whole call (DynamoDB), or by
// their size. They end in the dead letters, and nothing else does; samples flow
// all the while. Once the cloud takes them, they are retried and arrive.
func runPoison(ctx context.Context, t *Trial, s *site) (int, error) {
	if err := s.fresh(ctx); err != nil {
		return 1, err
	}
	refused := map[string]bool{} // sink and identity
	share := 0.1 + 0.4*t.Rand.Float64()
	refuse := func(a awssim.Accepted) bool {
		sink, data, err := blockOf(a)
		if err != nil {
			return false
		}
		h, err := block.ReadHeader(data)
		if err != nil {
			return false
		}
		// A block is poison for good, whenever it is sent.
		sum := fnv.New32a()
		sum.Write([]byte(h.Identity()))
		if float64(sum.Sum32()%1000) >= 1000*share {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		refused[sink+" "+h.Identity()] = true
		return true
	}
	s.setFaults(awssim.Faults{Refuse: refuse})
	large := t.Rand.IntN(3) == 0
	for try := 1; ; try++ {
		err := s.bury(ctx, refused, large)
		// Where a commit came in between, what was to make one large block is in two.
		if errors.Is(err, errNoneLarge) && try < 5 {
			err = s.start()
			if err == nil {
				continue
			}
		}
		if err != nil {
			return 1, err
		}
		break
	}
	// The operator has the cause mended and retries them.
	s.setFaults(awssim.Faults{})
	if large {
		return 1, nil // what is too large stays so
	}
	if err := s.retryDead(ctx); err != nil {
		return 1, err
	}
	if err := s.start(); err != nil {
		return 1, err
	}
	return 1, s.settle(ctx)
}

var (
	errBuried    = errors.New("the sample's block is poison")
	errNoneLarge = errors.New("no block was too large for the table, so nothing was tested")
)

// bury produces until the cloud has taken what it does not refuse, and checks
// what the stopped gateway has among its dead letters.
func (s *site) bury(ctx context.Context, refused map[string]bool, large bool) error {
	if large {
		if err := s.produceLarge(ctx); err != nil {
			return err
		}
	}
	backoff.Sleep(ctx, time.Duration(200+s.t.Rand.IntN(400))*time.Millisecond)
	for i := 0; ; i++ {
		// The fresh sample's own block may be poison: another will not be.
		err := s.freshOrBuried(ctx)
		if err == nil {
			break
		}
		if i == 20 || !errors.Is(err, errBuried) {
			return fmt.Errorf("beside poison: %w: %s", err, s.logs.tail())
		}
	}
	s.quiet()
	if err := s.drained(ctx); err != nil {
		return err
	}
	if err := s.stop(); err != nil {
		return err
	}
	return s.checkBuried(refused, large)
}

// freshOrBuried is fresh, or errBuried where a block was buried meanwhile and
// the sample did not arrive within two seconds.
func (s *site) freshOrBuried(ctx context.Context) error {
	before := s.gateway.Status().Spool.DeadLetters
	client := s.client()
	defer client.CloseIdleConnections()
	batch := s.batch("fresh", 1)
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, errors.New("the gateway takes no sample"))
	defer cancel()
	if err := s.deliver(ctx, client, batch); err != nil {
		return err
	}
	short, stop := context.WithTimeoutCause(ctx, 2*time.Second, errors.New("two seconds have gone by"))
	defer stop()
	err := s.arrived(short, &batch[0])
	if err != nil && s.gateway.Status().Spool.DeadLetters > before {
		return errBuried
	}
	if err != nil {
		return s.arrived(ctx, &batch[0])
	}
	return nil
}

// produceLarge posts strings that make a block larger than an item may be.
func (s *site) produceLarge(ctx context.Context) error {
	client := s.client()
	client.Timeout = 10 * time.Second
	defer client.CloseIdleConnections()
	batch := s.batch("large", 22)
	for i := range batch {
		batch[i].Value = sample.StringValue(noise(s.t.Rand, 60<<10))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, errors.New("the gateway does not take large samples"))
	defer cancel()
	return s.deliver(ctx, client, batch)
}

// checkBuried holds the dead letters against what was refused: each once, and
// nothing else but what is too large. The ledger counts them as kept, sink by
// sink.
func (s *site) checkBuried(refused map[string]bool, large bool) error {
	dead, err := s.dead()
	if err != nil {
		return err
	}
	kept := map[string][][]byte{}
	oversize := map[string]bool{}
	found := map[string]bool{}
	for i := range dead {
		l := &dead[i]
		h, err := block.ReadHeader(l.data)
		if err != nil {
			return err
		}
		key := l.Sink + " " + h.Identity()
		if found[key] {
			return fmt.Errorf("%s is twice among the dead letters", key)
		}
		found[key] = true
		tooLarge := large && len(l.data) > 300<<10
		if !refused[key] && !tooLarge {
			return fmt.Errorf("%s was buried and never refused: %s", key, l.Reason)
		}
		oversize[l.Sink] = oversize[l.Sink] || tooLarge
		kept[l.Sink] = append(kept[l.Sink], l.data)
	}
	for _, sink := range s.o.Sinks {
		if large && sink == tableSink && !oversize[sink] { // no block outgrows a message of 1 MiB
			return errNoneLarge
		}
	}
	for key := range refused {
		sink, _, _ := strings.Cut(key, " ")
		if !found[key] && !s.deliveredLater(sink, key) {
			return fmt.Errorf("%s was refused and is not among the dead letters", key)
		}
	}
	s.t.Logf("%d samples acknowledged, %d blocks refused, %d buried", s.ledger.Acked(), len(refused), len(dead))
	return s.ledger.checkKept(NoLoss, kept)
}

// deliveredLater reports whether a block arrived that was refused before.
func (s *site) deliveredLater(sink, key string) bool {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	_, ok := s.ledger.sinks[sink].blocks[strings.TrimPrefix(key, sink+" ")]
	return ok
}

// retryDead puts every dead letter back, as `millrace spool dead retry` does.
func (s *site) retryDead(ctx context.Context) error {
	sp, _, err := spool.Open(ctx, spool.Options{Dir: filepath.Join(s.t.Dir, "spool"), MaxBytes: 64 << 20, Sinks: s.o.Sinks, Log: s.log(), Clock: clock.System{}})
	if err != nil {
		return err
	}
	list, err := sp.Dead()
	for i := 0; err == nil && i < len(list); i++ {
		err = sp.RetryDead(list[i].ID)
	}
	return errors.Join(err, sp.Close())
}

func (s *site) dropTables(ctx context.Context) error { return dropTables(ctx, s.ddb) }

func dropTables(ctx context.Context, client *awsddb.Client) error {
	list, err := client.ListTables(ctx, &awsddb.ListTablesInput{})
	if err != nil {
		return err
	}
	for _, name := range list.TableNames {
		if _, err := client.DeleteTable(ctx, &awsddb.DeleteTableInput{TableName: &name}); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) createTables(ctx context.Context) error {
	return createTables(ctx, s.ddb, time.Now(), 2)
}

// createTables makes the tables of so many weeks, the first that of from, as an
// operator.
func createTables(ctx context.Context, client *awsddb.Client, from time.Time, weeks int) error {
	for i := range weeks {
		name := weektable.Table(tablePrefix, from.Add(time.Duration(i)*7*24*time.Hour))
		_, err := client.CreateTable(ctx, &awsddb.CreateTableInput{TableName: &name, BillingMode: types.BillingModePayPerRequest,
			KeySchema: []types.KeySchemaElement{
				{AttributeName: aws.String(weektable.AttrPartition), KeyType: types.KeyTypeHash},
				{AttributeName: aws.String(weektable.AttrSort), KeyType: types.KeyTypeRange},
			},
			AttributeDefinitions: []types.AttributeDefinition{
				{AttributeName: aws.String(weektable.AttrPartition), AttributeType: types.ScalarAttributeTypeS},
				{AttributeName: aws.String(weektable.AttrSort), AttributeType: types.ScalarAttributeTypeS},
			}})
		var exists *types.ResourceInUseException
		if err != nil && !errors.As(err, &exists) {
			return err
		}
	}
	return nil
}
