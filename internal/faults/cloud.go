package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/internal/backoff"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/netsim"
	"millrace/uploader"
)

// cloudRows are the faults of the network and of the cloud.
func cloudRows() []Row {
	row := func(name, what string, full int, run func(context.Context, *Trial, *site) (int, error)) Row {
		return Row{Name: name, What: what, Short: 2, Medium: 60, Full: full, Parallel: 8, Run: onSite(name == "missing", run)}
	}
	lost := row("answer-lost", "the answer is lost after the cloud accepted; one batch a trial: no duplicates after keying", 10_000, runAnswerLost)
	lost.Short, lost.Medium = 20, 600
	return []Row{
		networkRow(),
		outageRow(),
		sigtermRow(),
		lost,
		row("partial", "entries of a batch fail, or are not processed", 1000, runPartial),
		row("throttle", "too many requests, with and without a delay asked for, which is kept", 1000, runThrottle),
		row("expired", "the session token has expired: held, drains by itself once renewed", 1000, runHeld(func(s *site) (func() error, error) {
			return s.faulty(awssim.Faults{Expired: true})
		})),
		row("denied", "the action is denied: held, drains by itself once allowed", 1000, runHeld(func(s *site) (func() error, error) {
			return s.faulty(awssim.Faults{Denied: true})
		})),
		row("missing", "queue and table are missing: held, drains by itself once they are made", 1000, runHeld((*site).removePlaces)),
		row("skew", "the clock is off, answered with 403 or 400: held where the SDK cannot mend it, drains by itself", 1000, runSkew),
		row("portal", "a proxy's or a login page's 4xx in place of AWS: held, nothing is buried", 1000, runHeld((*site).throughPortal)),
		row("poison", "a block that the cloud refuses for good, or too large: in the dead letters, holds up nothing", 1000, runPoison),
	}
}

// onSite gives a trial its site, with sinks of the seed's choice. tables says
// that somebody else makes the tables.
func onSite(tables bool, run func(context.Context, *Trial, *site) (int, error)) func(context.Context, *Trial) (int, error) {
	return func(ctx context.Context, t *Trial) (n int, err error) {
		sinks := [][]string{{queueSink}, {tableSink}, {queueSink, tableSink}, {fifoSink, tableSink}}[t.Rand.IntN(4)]
		s, err := t.newSite(siteOptions{Sinks: sinks, Tables: tables, MaxBytes: 2 << 20})
		if err != nil {
			return 1, err
		}
		defer func() {
			if e := s.close(); err == nil {
				err = e
			}
		}()
		if err := s.start(); err != nil {
			return 1, err
		}
		s.produce(2)
		return run(ctx, t, s)
	}
}

func (s *site) setFaults(f awssim.Faults) {
	s.aws.SetFaults(awssim.ServiceSQS, f)
	s.aws.SetFaults(awssim.ServiceDynamoDB, f)
}

// requests counts what the cloud was asked.
func (s *site) requests() uint64 {
	return s.aws.Stats(awssim.ServiceSQS).Requests + s.aws.Stats(awssim.ServiceDynamoDB).Requests
}

func (s *site) lost() int {
	return int(s.aws.Stats(awssim.ServiceSQS).Lost + s.aws.Stats(awssim.ServiceDynamoDB).Lost)
}

// runAnswerLost has the cloud store a batch and cut the connection. Each such
// batch is a trial.
func runAnswerLost(ctx context.Context, t *Trial, s *site) (int, error) {
	want := min(t.Left, 40)
	ctx, cancel := context.WithTimeoutCause(ctx, 2*freshWithin, errors.New("too few answers were lost"))
	defer cancel()
	s.setFaults(awssim.Faults{AnswerLost: 0.2 + 0.7*t.Rand.Float64()})
	for s.lost() < want {
		if !backoff.Sleep(ctx, 5*time.Millisecond) {
			return 1, fmt.Errorf("%w: %d of %d: %s", context.Cause(ctx), s.lost(), want, s.logs.tail())
		}
	}
	s.setFaults(awssim.Faults{})
	n := min(s.lost(), want)
	if err := s.settle(ctx); err != nil {
		return n, err
	}
	return n, s.checkStored(ctx)
}

// checkStored compares what the cloud holds, by its own API, with the distinct
// blocks that the ledger saw: a table and a FIFO queue hold each once, and a
// standard queue at least once.
func (s *site) checkStored(ctx context.Context) error {
	for _, sink := range s.o.Sinks {
		distinct := len(s.ledger.sinks[sink].blocks)
		stored, err := s.stored(ctx, sink)
		if err != nil {
			return err
		}
		if stored < distinct || stored > distinct && sink != queueSink {
			return fmt.Errorf("%s holds %d blocks, of which %d are distinct", sink, stored, distinct)
		}
		s.t.Logf("%s holds %d blocks, %d distinct", sink, stored, distinct)
	}
	return nil
}

// stored counts what a sink's places hold.
func (s *site) stored(ctx context.Context, sink string) (int, error) {
	if sink != tableSink {
		name := map[string]string{queueSink: queueSink, fifoSink: fifoName}[sink]
		out, err := s.sqs.GetQueueAttributes(ctx, &awssqs.GetQueueAttributesInput{QueueUrl: aws.String(s.aws.QueueURL(name)),
			AttributeNames: []sqstypes.QueueAttributeName{sqstypes.QueueAttributeNameApproximateNumberOfMessages}})
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(out.Attributes[string(sqstypes.QueueAttributeNameApproximateNumberOfMessages)])
	}
	n := 0
	tables, err := s.ddb.ListTables(ctx, &awsddb.ListTablesInput{})
	if err != nil {
		return 0, err
	}
	for _, name := range tables.TableNames {
		pages := awsddb.NewScanPaginator(s.ddb, &awsddb.ScanInput{TableName: &name})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return 0, err
			}
			n += len(page.Items)
		}
	}
	return n, nil
}

func runPartial(ctx context.Context, t *Trial, s *site) (int, error) {
	s.setFaults(awssim.Faults{Partial: 0.1 + 0.8*t.Rand.Float64()})
	backoff.Sleep(ctx, time.Duration(100+t.Rand.IntN(400))*time.Millisecond)
	if t.Rand.IntN(2) == 0 { // a part that passes is enough
		if err := s.fresh(ctx); err != nil {
			return 1, fmt.Errorf("during the fault: %w", err)
		}
	}
	s.setFaults(awssim.Faults{})
	return 1, s.settle(ctx)
}

// runThrottle refuses requests for a while. While all are refused, no more may
// come than the delay that is asked for allows.
func runThrottle(ctx context.Context, t *Trial, s *site) (int, error) {
	if err := s.fresh(ctx); err != nil { // the queue's limits are asked for and known
		return 1, err
	}
	f := awssim.Faults{Throttled: 1}
	switch t.Rand.IntN(4) {
	case 0: // no delay is named: a back-off
	case 1:
		f = awssim.Faults{Unavailable: 1, RetryAfter: time.Second} // Retry-After has no fractions
	case 2:
		f.Throttled = 0.2 + 0.6*t.Rand.Float64()
		f.RetryAfter = time.Duration(1+t.Rand.IntN(100)) * time.Millisecond
	default:
		f.RetryAfter = time.Duration(100+t.Rand.IntN(400)) * time.Millisecond
	}
	whole := f.Throttled == 1 || f.Unavailable == 1
	s.setFaults(f)
	began, before := time.Now(), s.requests()
	backoff.Sleep(ctx, time.Duration(300+t.Rand.IntN(700))*time.Millisecond)
	took, asked := time.Since(began), int(s.requests()-before)
	s.setFaults(awssim.Faults{})
	if whole && f.RetryAfter > 0 {
		// Of each sink two requests may be under way when the first is refused.
		most := len(s.o.Sinks) * (2 + int(took/f.RetryAfter) + 1)
		if asked > most {
			return 1, fmt.Errorf("%d requests in %s with a delay of %s asked for, at most %d were due: %s", asked, took, f.RetryAfter, most, s.logs.tail())
		}
	}
	t.Logf("%d requests in %s, delay %s", asked, took, f.RetryAfter)
	return 1, s.settle(ctx)
}

// runHeld is a fault that an operator has to mend: everything is held, nothing
// is deleted or buried, the status says so with a hint, and it drains by itself
// once mended.
func runHeld(fault func(s *site) (mend func() error, err error)) func(context.Context, *Trial, *site) (int, error) {
	return func(ctx context.Context, t *Trial, s *site) (int, error) {
		if t.Rand.IntN(4) > 0 { // else it is there from the beginning
			if err := s.fresh(ctx); err != nil {
				return 1, err
			}
		}
		mend, err := fault(s)
		if err != nil {
			return 1, err
		}
		if err := s.held(ctx); err != nil {
			return 1, err
		}
		backoff.Sleep(ctx, time.Duration(t.Rand.IntN(400))*time.Millisecond)
		st := s.gateway.Status()
		if st.Spool.DeadLetters > 0 {
			return 1, fmt.Errorf("%d blocks were buried while they should be held: %s", st.Spool.DeadLetters, s.logs.tail())
		}
		if err := mend(); err != nil {
			return 1, err
		}
		return 1, s.settle(ctx)
	}
}

// held waits until every sink is, and sees that the reason comes with a hint.
func (s *site) held(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, errors.New("a sink is not held"))
	defer cancel()
	for {
		st := s.gateway.Status()
		n := 0
		for name, k := range st.Sinks {
			if k.State != uploader.StateHeld {
				continue
			}
			n++
			if !strings.Contains(k.LastError, "; ") {
				return fmt.Errorf("sink %s is held without a hint: %s", name, k.LastError)
			}
		}
		if n == len(s.o.Sinks) {
			return nil
		}
		if !backoff.Sleep(ctx, 5*time.Millisecond) {
			return fmt.Errorf("%w: %s", context.Cause(ctx), s.logs.tail())
		}
	}
}

func (s *site) faulty(f awssim.Faults) (func() error, error) {
	s.setFaults(f)
	return func() error { s.setFaults(awssim.Faults{}); return nil }, nil
}

// removePlaces deletes queues and tables. The tables are of the kind that the
// sink must not make.
func (s *site) removePlaces() (func() error, error) {
	ctx := context.Background()
	for _, sink := range s.o.Sinks {
		if sink == tableSink {
			continue
		}
		name := map[string]string{queueSink: queueSink, fifoSink: fifoName}[sink]
		if _, err := s.sqs.DeleteQueue(ctx, &awssqs.DeleteQueueInput{QueueUrl: aws.String(s.aws.QueueURL(name))}); err != nil {
			return nil, err
		}
	}
	if err := s.dropTables(ctx); err != nil {
		return nil, err
	}
	return func() error {
		if err := s.createQueues(ctx); err != nil {
			return err
		}
		return s.createTables(ctx)
	}, nil
}

// throughPortal leads the sinks to a page of a proxy's.
func (s *site) throughPortal() (func() error, error) {
	status := []int{400, 401, 403, 404, 405, 407, 411, 413, 451}[s.t.Rand.IntN(9)]
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<html><title>Please log in</title></html>", status)
	}))
	s.t.Logf("the portal answers %d", status)
	turn := func(to string) error {
		s.mu.Lock()
		s.portal = to
		s.mu.Unlock()
		for _, leg := range []string{legSQS, legDDB} { // connections lead there from now on
			if err := s.proxies[leg].Set(netsim.Weather{Kinds: []netsim.Kind{netsim.Cut}, Share: 1, Live: true}); err != nil {
				return err
			}
			if to == "" {
				if err := s.proxies[leg].Set(netsim.Weather{}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return func() error {
		err := turn("")
		page.CloseClientConnections()
		page.Close()
		return err
	}, turn(strings.TrimPrefix(page.URL, "http://"))
}

// runSkew lets the cloud find our signatures too old. Where only the clocks
// differ, the SDK mends it by the date of the answer.
func runSkew(ctx context.Context, t *Trial, s *site) (int, error) {
	if t.Rand.IntN(2) == 0 {
		return runHeld(func(s *site) (func() error, error) { return s.faulty(awssim.Faults{Skewed: true}) })(ctx, t, s)
	}
	off := time.Duration(16+t.Rand.IntN(600)) * time.Minute
	if t.Rand.IntN(2) == 0 {
		off = -off
	}
	s.setFaults(awssim.Faults{Clock: off})
	if err := s.fresh(ctx); err != nil {
		return 1, fmt.Errorf("with clocks %s apart: %w", off, err)
	}
	s.setFaults(awssim.Faults{})
	return 1, s.settle(ctx)
}
