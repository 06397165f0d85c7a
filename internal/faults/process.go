package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"millrace/gateway"
	"millrace/sample"
)

// freshWithin is how soon after a fault's end a fresh sample must arrive.
const freshWithin = 60 * time.Second

// Plant is the world around one gateway under test: its producers, its cloud
// and the ledger, which outlive the gateway's processes.
type Plant struct {
	Ledger *Ledger
	// Cloud says what the endpoint answers for a block; all are accepted where
	// nil. It is called from several goroutines.
	Cloud func(sink string, data []byte) (store bool, answer outcome)
	// OnAck and OnArrive, where set, are called after the ledger's own note.
	OnAck    func(batch []sample.Sample)
	OnArrive func(data []byte)

	mu      sync.Mutex
	doubt   [][]wireSample // sent and neither acknowledged nor refused when a process ended
	nextSeq map[string]uint64
}

// NewPlant makes a plant whose gateway has the named sinks.
func NewPlant(sinks ...string) (*Plant, error) {
	l, err := NewLedger(sinks...)
	if err != nil {
		return nil, err
	}
	return &Plant{Ledger: l, nextSeq: map[string]uint64{}}, nil
}

// number gives each of a producer's samples its sequence.
func (p *Plant) number(producer string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nextSeq[producer]++
	return p.nextSeq[producer]
}

// Child is one run of the gateway in a child process.
type Child struct {
	plant *Plant
	cmd   *exec.Cmd
	link  *link
	logs  bytes.Buffer
	ready chan struct{}
	done  chan struct{} // closed when the process and its socket have ended
	err   error         // of Wait; valid after done

	mu      sync.Mutex
	last    uint64
	batches map[uint64]*sentBatch
	status  map[uint64]chan string
	ended   bool
}

type sentBatch struct {
	wire    []wireSample
	samples []sample.Sample
	done    chan error
}

// start runs the child program. env adds to its environment.
func (p *Plant) start(program string, c *childConfig, env ...string) (*Child, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err = errors.Join(err, ours.Close()); err != nil {
		return nil, err
	}
	k := &Child{
		plant: p, ready: make(chan struct{}), done: make(chan struct{}),
		batches: map[uint64]*sentBatch{}, status: map[uint64]chan string{}, link: newLink(conn),
	}
	k.cmd = exec.Command(program)
	k.cmd.Env = append(append(os.Environ(), childEnv+"="+string(text)), env...)
	k.cmd.ExtraFiles = []*os.File{theirs}
	k.cmd.Stdout, k.cmd.Stderr = &k.logs, &k.logs
	// The child must not outlive a battery that was killed.
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go k.serve()
	return k, nil
}

// serve reads what the child says until its end. What it wrote before it was
// killed is read still: the socket keeps it.
func (k *Child) serve() {
	var answering sync.WaitGroup
	for {
		m, err := k.link.receive()
		if err != nil {
			break
		}
		switch m.Kind {
		case msgReady:
			close(k.ready)
		case msgAcked:
			k.acked(m)
		case msgStatus:
			k.mu.Lock()
			c := k.status[m.ID]
			delete(k.status, m.ID)
			k.mu.Unlock()
			if c != nil {
				c <- m.Text
			}
		case msgBlocks:
			answering.Go(func() { k.answer(m) })
		}
	}
	answering.Wait()
	k.err = k.cmd.Wait()
	_ = k.link.conn.Close()
	k.mu.Lock()
	k.ended = true
	left := k.batches
	k.batches = nil
	k.mu.Unlock()
	// In their order, as a producer keeps them.
	ids := make([]uint64, 0, len(left))
	for id := range left {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	k.plant.mu.Lock()
	for _, id := range ids {
		k.plant.doubt = append(k.plant.doubt, left[id].wire)
	}
	k.plant.mu.Unlock()
	for _, b := range left {
		b.done <- errGone
	}
	close(k.done)
}

var errGone = errors.New("the gateway's process has ended")

func (k *Child) acked(m *message) {
	k.mu.Lock()
	b := k.batches[m.ID]
	delete(k.batches, m.ID)
	k.mu.Unlock()
	if b == nil {
		return
	}
	if m.Text != "" {
		b.done <- errors.New(m.Text)
		return
	}
	for i := range b.samples {
		k.plant.Ledger.Ack(&b.samples[i])
	}
	if f := k.plant.OnAck; f != nil {
		f(b.samples)
	}
	b.done <- nil
}

// answer is the cloud. What it stores is noted before its sender hears of it.
func (k *Child) answer(m *message) {
	a := &message{Kind: msgOutcome, ID: m.ID}
	for _, data := range m.Blocks {
		store, o := true, accepted
		if f := k.plant.Cloud; f != nil {
			store, o = f(m.Sink, data)
		}
		if store {
			k.plant.Ledger.Arrive(m.Sink, data)
			if f := k.plant.OnArrive; f != nil {
				f(data)
			}
		}
		a.Outcomes = append(a.Outcomes, o)
	}
	_ = k.link.send(a) // a child that is gone asks again in its next life
}

// produce sends a batch and returns a channel that tells what became of it.
// The ledger has it before it is sent. What is polled counts as acknowledged
// once the gateway took it.
func (k *Child) produce(batch []wireSample, polled bool) <-chan error {
	b := &sentBatch{wire: batch, done: make(chan error, 1)}
	now := time.Now()
	for i := range batch {
		s := batch[i].sample(now)
		k.plant.Ledger.Issue(&s)
		b.samples = append(b.samples, s)
	}
	k.mu.Lock()
	if k.ended {
		k.mu.Unlock()
		b.done <- errGone
		k.plant.mu.Lock()
		k.plant.doubt = append(k.plant.doubt, batch)
		k.plant.mu.Unlock()
		return b.done
	}
	k.last++
	id := k.last
	k.batches[id] = b
	k.mu.Unlock()
	_ = k.link.send(&message{Kind: msgProduce, ID: id, Samples: batch, Polled: polled})
	return b.done // a failed send shows as the end of the process
}

// waitReady waits until the gateway runs.
func (k *Child) waitReady(ctx context.Context) error {
	select {
	case <-k.ready:
		return nil
	case <-k.done:
		return fmt.Errorf("the gateway ended before it ran: %s", k.ending())
	case <-ctx.Done():
		return fmt.Errorf("the gateway does not start: %w: %s", context.Cause(ctx), k.tail())
	}
}

// tail is the end of the child's log; only to be called when it ended or is
// hopeless.
func (k *Child) tail() string {
	select {
	case <-k.done:
	default:
		k.kill()
	}
	return crashLine(k.logs.String())
}

// ending says how a child ended.
func (k *Child) ending() string { return fmt.Sprintf("%v: %s", k.err, k.tail()) }

// crashLine is what matters of a process's log: how it crashed, or its end.
func crashLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "panic:") || strings.HasPrefix(l, "fatal error:") || strings.Contains(l, "SIGBUS") {
			return strings.Join(lines[i:min(i+12, len(lines))], " / ")
		}
	}
	return strings.Join(lines[max(len(lines)-3, 0):], " / ")
}

// kill ends the process with SIGKILL and waits until all that it said is read.
func (k *Child) kill() {
	_ = k.cmd.Process.Kill() // it may have ended
	<-k.done
}

// killed reports whether the process ended by SIGKILL.
func (k *Child) killed() bool {
	st, ok := k.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && st.Signaled() && st.Signal() == syscall.SIGKILL
}

// stop asks the gateway to stop and waits for its end.
func (k *Child) stop(ctx context.Context) error {
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-k.done:
	case <-ctx.Done():
		return fmt.Errorf("the gateway does not stop: %s", k.tail())
	}
	if k.err != nil {
		return fmt.Errorf("the gateway ended with %w: %s", k.err, k.tail())
	}
	return nil
}

// state asks the gateway for its status.
func (k *Child) state(ctx context.Context) (*gateway.Status, error) {
	c := make(chan string, 1)
	k.mu.Lock()
	k.last++
	id := k.last
	k.status[id] = c
	k.mu.Unlock()
	if err := k.link.send(&message{Kind: msgStatus, ID: id}); err != nil {
		return nil, err
	}
	select {
	case text := <-c:
		st := new(gateway.Status)
		return st, json.Unmarshal([]byte(text), st)
	case <-k.done:
		return nil, errGone
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// fresh sends one sample, again while it is refused, and waits until it is
// acknowledged and has arrived.
func (k *Child) fresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, fmt.Errorf("no fresh sample flows within %s of the fault's end", freshWithin))
	defer cancel()
	batch := []wireSample{{Tag: "plant/in/fresh", Producer: "fresh", Seq: k.plant.number("fresh"), Number: 1}}
	s := batch[0].sample(time.Now())
	for {
		var err error
		select {
		case err = <-k.produce(batch, false):
		case <-ctx.Done():
			return fmt.Errorf("%w: it was not acknowledged: %s", context.Cause(ctx), k.tail())
		}
		if err == nil {
			break
		}
		if errors.Is(err, errGone) {
			return fmt.Errorf("%w: %s", err, k.ending())
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: it is refused: %w", context.Cause(ctx), err)
		}
	}
	for {
		ok, changed := k.plant.Ledger.Arrived(&s)
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-k.done:
			return fmt.Errorf("%w: %s", errGone, k.ending())
		case <-ctx.Done():
			return fmt.Errorf("%w: it did not arrive: %s", context.Cause(ctx), k.tail())
		}
	}
}

// resend sends what was in doubt when a process ended, under the same
// sequences, as a producer does, and waits for the acknowledgements.
func (k *Child) resend(ctx context.Context) error {
	k.plant.mu.Lock()
	doubt := k.plant.doubt
	k.plant.doubt = nil
	k.plant.mu.Unlock()
	var waits []<-chan error
	for _, batch := range doubt {
		waits = append(waits, k.produce(batch, false))
	}
	for _, w := range waits {
		select {
		case err := <-w:
			if errors.Is(err, errGone) {
				return fmt.Errorf("%w: %s", err, k.ending())
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// drained waits until the spool holds nothing that some sink lacks.
func (k *Child) drained(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, errors.New("the backlog does not drain"))
	defer cancel()
	for {
		st, err := k.state(ctx)
		if err != nil {
			return fmt.Errorf("%w: %s", err, k.tail())
		}
		left := int(st.Spool.OpenSamples)
		for _, s := range st.Spool.Sinks {
			if s.Configured { // what waits for others stays
				left += s.PendingBlocks
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %d samples and blocks are left: %s", context.Cause(ctx), left, k.tail())
		}
	}
}

// settle is how a trial ends: the fault is over, what was in doubt is sent
// again, a fresh sample flows, everything drains, and the gateway stops.
func (k *Child) settle(ctx context.Context) error {
	if err := k.waitReady(ctx); err != nil {
		return err
	}
	if err := k.fresh(ctx); err != nil {
		return err
	}
	if err := k.resend(ctx); err != nil {
		return err
	}
	if err := k.drained(ctx); err != nil {
		return err
	}
	return k.stop(ctx)
}
