package faults

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/internal/backoff"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/netsim"
	"millrace/spool"
)

func sigtermRow() Row {
	return Row{
		Name: "sigterm", What: "SIGTERM to the real program while it drains and the cloud is down, half of them twice: in time, exit 0, nothing deleted, everything arrives after the restart",
		Short: 2, Medium: 40, Full: 1000, Parallel: 6, Run: runSigterm,
	}
}

const (
	stopGrace    = 500 * time.Millisecond
	stopDeadline = time.Second // the least that a configuration may say
	// stopSlack is for the source's last request, the seals, the files, and a
	// busy machine.
	stopSlack = 15 * time.Second
	// hurriedSlack is the same after a second signal.
	hurriedSlack = 8 * time.Second
)

// mainRun is one run of the real program.
type mainRun struct {
	cmd  *exec.Cmd
	logs syncBuffer
	done chan struct{}
	err  error // of Wait; valid after done
}

// runSigterm stops a gateway that cannot deliver, one to three times, and
// starts it again in the end with the cloud there.
func runSigterm(ctx context.Context, t *Trial) (n int, err error) {
	program, err := t.daemon()
	if err != nil {
		return 1, err
	}
	sinks := [][]string{{queueSink}, {tableSink}, {queueSink, tableSink}}[t.Rand.IntN(3)]
	s, err := t.newSite(siteOptions{Sinks: sinks})
	if err != nil {
		return 1, err
	}
	defer func() {
		if e := s.close(); err == nil {
			err = e
		}
	}()
	if err := os.WriteFile(filepath.Join(t.Dir, "millrace.yaml"), []byte(s.daemonYAML()), 0o600); err != nil {
		return 1, err
	}
	s.produce(2)
	for range 1 + t.Rand.IntN(3) {
		n++
		if err := s.stopWhileDown(ctx, program); err != nil {
			return n, err
		}
	}
	if err := s.cloudBack(); err != nil {
		return n, err
	}
	d, err := s.run(ctx, program)
	if err != nil {
		return n, err
	}
	defer d.kill()
	if err := s.fresh(ctx); err != nil {
		return n, fmt.Errorf("%w: %s", err, d.logs.tail())
	}
	s.quiet()
	if err := d.drained(ctx, s); err != nil {
		return n, err
	}
	if err := d.term(0, stopDeadline+stopSlack); err != nil {
		return n, err
	}
	t.Logf("%d samples acknowledged", s.ledger.Acked())
	return n, s.ledger.Check(NoLoss)
}

// daemonYAML is the site's configuration as the real program reads it.
func (s *site) daemonYAML() string {
	text := s.yaml()
	for _, leg := range []string{legSQS, legDDB} {
		text = strings.ReplaceAll(text, "http://"+leg+".cloud.test:", "http://127.0.0.1:")
	}
	text = strings.Replace(text, "max_size: 64MiB}", "max_size: 64MiB, commit_interval: 20ms}", 1)
	text = strings.Replace(text, "{name: in, type: http, ", "{name: in, type: http, batch: {max_age: 50ms}, ", 1)
	return text + fmt.Sprintf("shutdown: {grace: %s, deadline: %s}\n", stopGrace, stopDeadline)
}

// stopWhileDown runs the program, takes the cloud away, stops it, and looks at
// what it left.
func (s *site) stopWhileDown(ctx context.Context, program string) error {
	r := s.t.Rand
	if err := s.cloudBack(); err != nil {
		return err
	}
	d, err := s.run(ctx, program)
	if err != nil {
		return err
	}
	defer d.kill()
	if r.IntN(2) == 0 { // else it has never delivered anything
		if err := s.fresh(ctx); err != nil {
			return fmt.Errorf("%w: %s", err, d.logs.tail())
		}
	}
	how, err := s.cloudAway()
	if err != nil {
		return err
	}
	backoff.Sleep(ctx, time.Duration(20+r.IntN(500))*time.Millisecond)
	again := time.Duration(0)
	if r.IntN(2) == 0 {
		again = time.Duration(1 + r.IntN(int(stopDeadline)))
	}
	s.t.Logf("the cloud is away: %s; second signal after %s", how, again)
	within := stopDeadline + stopSlack
	if again > 0 {
		within = again + hurriedSlack
	}
	if err := d.term(again, within); err != nil {
		return err
	}
	return s.checkLeft()
}

// cloudAway makes the cloud go in one of the ways it does.
func (s *site) cloudAway() (how string, err error) {
	how = []string{"reset", "frozen", "refused", "failing", "expired", "throttled", "slow"}[s.t.Rand.IntN(7)]
	w := netsim.Weather{Share: 1, Live: true}
	switch how {
	case "reset":
		w.Kinds = []netsim.Kind{netsim.Reset}
	case "frozen":
		w.Kinds = []netsim.Kind{netsim.Frozen}
	case "refused":
		w.Kinds, w.Refuse = []netsim.Kind{netsim.Cut}, true
	case "failing":
		s.setFaults(awssim.Faults{Failing: 1})
	case "expired":
		s.setFaults(awssim.Faults{Expired: true})
	case "throttled":
		s.setFaults(awssim.Faults{Throttled: 1, RetryAfter: time.Minute})
	case "slow":
		s.setFaults(awssim.Faults{Slow: time.Minute})
	}
	for _, leg := range []string{legSQS, legDDB} {
		if len(w.Kinds) > 0 {
			err = errors.Join(err, s.proxies[leg].Set(w))
		}
	}
	return how, err
}

func (s *site) cloudBack() error {
	s.setFaults(awssim.Faults{})
	return errors.Join(s.proxies[legSQS].Set(netsim.Weather{}), s.proxies[legDDB].Set(netsim.Weather{}))
}

// checkLeft holds the spool of the stopped program against the ledger: what was
// acknowledged and did not arrive is there, and nothing was buried or declared
// lost.
func (s *site) checkLeft() error {
	r, err := spool.OpenReadOnly(filepath.Join(s.t.Dir, "spool"))
	if err != nil {
		return err
	}
	defer r.Close()
	st := r.Stats()
	if st.DeadLetters > 0 || len(r.Losses()) > 0 || st.CorruptFiles > 0 {
		return fmt.Errorf("the stop left %d dead letters, %d losses and %d corrupt files", st.DeadLetters, len(r.Losses()), st.CorruptFiles)
	}
	if st.OpenSamples > 0 {
		return fmt.Errorf("the stop left %d samples without a block", st.OpenSamples)
	}
	list, err := r.List(1 << 20)
	if err != nil {
		return err
	}
	kept := map[string][][]byte{}
	for _, i := range list {
		b, err := r.Peek(i.Number)
		if err != nil {
			return err
		}
		for _, sink := range i.Waiting {
			kept[sink] = append(kept[sink], b.Data)
		}
	}
	s.t.Logf("%d blocks are left", len(list))
	return s.ledger.checkKept(NoLoss, kept)
}

// run starts the program and waits until it takes samples.
func (s *site) run(ctx context.Context, program string) (*mainRun, error) {
	d := &mainRun{cmd: exec.Command(program, "run", "--config", filepath.Join(s.t.Dir, "millrace.yaml")), done: make(chan struct{})}
	d.cmd.Stderr = &d.logs
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.err = d.cmd.Wait(); close(d.done) }()
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, errors.New("the program does not start"))
	defer cancel()
	for {
		var st gateway.Status
		if control.Call(ctx, filepath.Join(s.t.Dir, "c.sock"), "/v1/status", url.Values{}, &st) == nil {
			return d, nil
		}
		select {
		case <-d.done:
			return nil, fmt.Errorf("the program ended at its start: %w: %s", d.err, d.logs.tail())
		default:
		}
		if !backoff.Sleep(ctx, 5*time.Millisecond) {
			d.kill()
			return nil, fmt.Errorf("%w: %s", context.Cause(ctx), d.logs.tail())
		}
	}
}

// drained waits until nothing is left to deliver.
func (d *mainRun) drained(ctx context.Context, s *site) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, errors.New("the backlog does not drain"))
	defer cancel()
	for {
		var st gateway.Status
		left := 1
		if err := control.Call(ctx, filepath.Join(s.t.Dir, "c.sock"), "/v1/status", url.Values{}, &st); err == nil {
			left = int(st.Spool.OpenSamples)
			for _, k := range st.Spool.Sinks {
				left += k.PendingBlocks
			}
		}
		if left == 0 {
			return nil
		}
		if !backoff.Sleep(ctx, 10*time.Millisecond) {
			return fmt.Errorf("%w: %d samples and blocks are left: %s", context.Cause(ctx), left, d.logs.tail())
		}
	}
}

// term sends SIGTERM, and again after a while where that is set, and waits for
// the end.
func (d *mainRun) term(again, within time.Duration) error {
	began := time.Now()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	limit := time.NewTimer(within)
	defer limit.Stop()
	if again > 0 {
		second := time.NewTimer(again)
		defer second.Stop()
		select {
		case <-d.done:
		case <-second.C:
			_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended just now
		}
	}
	select {
	case <-d.done:
	case <-limit.C:
		return fmt.Errorf("it runs %s after SIGTERM still: %s", time.Since(began).Round(time.Millisecond), d.logs.tail())
	}
	if d.err != nil {
		return fmt.Errorf("it ended with %w, %s after SIGTERM: %s", d.err, time.Since(began).Round(time.Millisecond), d.logs.tail())
	}
	return nil
}

func (d *mainRun) kill() {
	_ = d.cmd.Process.Kill() // it has ended already, as a rule
	<-d.done
}
