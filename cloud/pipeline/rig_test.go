package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/smithy-go"

	"millrace/cloud/state"
	"millrace/internal/backoff"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/netsim"
)

// names are the stages of the tests.
var names = []string{"tables", "archive", "analyze", "results"}

// rig is a simulated DynamoDB on a network in memory, within a bubble of fake
// time.
type rig struct {
	t      *testing.T
	server *awssim.Server
	net    *netsim.Memory
	http   *http.Transport
	log    *bytes.Buffer
	slog   *slog.Logger

	mu  sync.Mutex
	ran []string // stages, in the order in which they began
}

// bubble runs a test in fake time.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, log: &bytes.Buffer{}}
		r.slog = slog.New(slog.NewTextHandler(&lockedWriter{w: r.log}, nil))
		nets := map[string]*netsim.Memory{awssim.ServiceSQS: netsim.NewMemory(), awssim.ServiceDynamoDB: netsim.NewMemory()}
		r.net = nets[awssim.ServiceDynamoDB]
		var err error
		r.server, err = awssim.Start(awssim.Options{TableDelay: 5 * time.Second, Listen: func(service string) (net.Listener, error) { return nets[service], nil }})
		if err != nil {
			t.Fatal(err)
		}
		r.http = &http.Transport{DialContext: r.net.Dial}
		defer func() {
			r.http.CloseIdleConnections()
			if err := r.server.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(t, r)
	})
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (r *rig) client() *dynamodb.Client {
	return dynamodb.New(dynamodb.Options{Region: "eu-central-1", BaseEndpoint: aws.String("http://memory"), Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", ""), HTTPClient: &http.Client{Transport: r.http}})
}

// store is one machine's, whose clock is off by skew.
func (r *rig) store(skew time.Duration) *Store {
	return NewStore(r.client(), "plant", func() time.Time { return time.Now().Add(skew) }, backoff.Sleep)
}

// stages are four that take a minute each. act, where set, does a stage's work in
// their place.
func (r *rig) stages(act map[string]func(context.Context) (string, error)) (out []Stage) {
	for _, name := range names {
		out = append(out, Stage{Name: name, Run: func(ctx context.Context) (string, error) {
			r.mu.Lock()
			r.ran = append(r.ran, name)
			r.mu.Unlock()
			if f := act[name]; f != nil {
				return f(ctx)
			}
			if !backoff.Sleep(ctx, time.Minute) {
				return "", ctx.Err()
			}
			return "did " + name, nil
		}})
	}
	return out
}

func (r *rig) options(owner string) Options {
	return Options{Store: r.store(0), Stages: r.stages(nil), Resume: 20 * time.Hour, Owner: owner, Lease: DefaultLease, Log: r.slog}
}

// began takes the list of stages begun so far.
func (r *rig) began() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.ran
	r.ran = nil
	return out
}

func (r *rig) run(o Options) (*Record, error) { return Run(r.t.Context(), o) }

// states is a run in one line.
func states(rec *Record) string {
	text := string(rec.State)
	for _, s := range rec.Stages {
		text += " " + s.Name + "=" + string(s.State)
	}
	return text
}

func (r *rig) expect(rec *Record, err error, want string) {
	r.t.Helper()
	if err != nil || rec == nil || states(rec) != want {
		r.t.Fatalf("got %v, %+v; want %s", err, rec, want)
	}
	kept, err := r.store(0).get(r.t.Context(), rec.ID)
	if err != nil || kept == nil || states(kept) != want {
		r.t.Fatalf("the table has %+v, %v; want %s", kept, err, want)
	}
}

const allDone = "done tables=done archive=done analyze=done results=done"

// mortal is a table's client in a process that dies at its n-th request: the
// request is carried out or not, nothing comes back, and nothing goes out after.
type mortal struct {
	state.DB
	mu      sync.Mutex
	left    int
	applied bool // whether the fatal request is carried out
	dead    chan struct{}
}

var errDead = &smithy.GenericAPIError{Code: "Crash", Message: "the process is gone"}

func newMortal(db state.DB, n int, applied bool) *mortal {
	return &mortal{DB: db, left: n, applied: applied, dead: make(chan struct{})}
}

// die reports whether the process is dead, and whether it died now.
func (m *mortal) die() (dead, now bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left < 0 {
		return true, false
	}
	m.left--
	if m.left < 0 {
		close(m.dead)
	}
	return m.left < 0, m.left < 0
}

func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left >= 0 {
		m.left = -1
		close(m.dead)
	}
}

func call[In, Out any](ctx context.Context, m *mortal, f func(context.Context, *In, ...func(*dynamodb.Options)) (*Out, error), in *In) (*Out, error) {
	dead, now := m.die()
	if !dead || now && m.applied {
		out, err := f(ctx, in)
		if !dead {
			return out, err
		}
	}
	return nil, errDead
}

func (m *mortal) CreateTable(ctx context.Context, in *dynamodb.CreateTableInput, _ ...func(*dynamodb.Options)) (*dynamodb.CreateTableOutput, error) {
	return call(ctx, m, m.DB.CreateTable, in)
}
func (m *mortal) DescribeTable(ctx context.Context, in *dynamodb.DescribeTableInput, _ ...func(*dynamodb.Options)) (*dynamodb.DescribeTableOutput, error) {
	return call(ctx, m, m.DB.DescribeTable, in)
}
func (m *mortal) GetItem(ctx context.Context, in *dynamodb.GetItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error) {
	return call(ctx, m, m.DB.GetItem, in)
}
func (m *mortal) PutItem(ctx context.Context, in *dynamodb.PutItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	return call(ctx, m, m.DB.PutItem, in)
}
func (m *mortal) Query(ctx context.Context, in *dynamodb.QueryInput, _ ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	return call(ctx, m, m.DB.Query, in)
}

// crash runs until m dies. A stage that is under way then ends with it.
func (r *rig) crash(o Options, m *mortal) (finished bool) {
	o.Store.DB = m
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := Run(ctx, o)
		ended <- err
	}()
	select {
	case <-m.dead:
		cancel()
		<-ended
		return false
	case err := <-ended:
		if err != nil {
			r.t.Errorf("the run ended before its crash: %v", err)
		}
		return true
	}
}

// counts says how often each stage began.
func counts(began []string) string {
	n := map[string]int{}
	for _, s := range began {
		n[s]++
	}
	text := ""
	for _, s := range names {
		text += fmt.Sprint(n[s])
	}
	return text
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
