package faults

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"millrace/gateway/batch"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/spool"
)

// verifyWithin is how long an opening may take before it counts as hung.
const verifyWithin = 30 * time.Second

// found is what the verifier found in a spool directory.
type found struct {
	Err     string   // why it does not work; empty where it does
	Blocks  [][]byte // all that the sink lacks, the fresh sample's included
	Dead    [][]byte
	Losses  []spool.Loss
	Created bool // the epoch is new
	Took    time.Duration
	Log     string
}

// freshSample is what every verification adds.
func freshSample() wireSample {
	return wireSample{Tag: "plant/in/fresh", Producer: "verify", Seq: 1, Number: 1}
}

// runJob does something to a spool without a gateway.
func runJob(c *childConfig) error {
	switch c.Job {
	case "verify":
		return serveVerify(c, os.Stdin, os.Stdout)
	case "dead":
		return deadJob(c)
	case "forget":
		return forgetJob(c)
	}
	return fmt.Errorf("there is no job %q", c.Job)
}

// serveVerify opens one directory after the other, as they are asked for.
func serveVerify(c *childConfig, in io.Reader, out io.Writer) error {
	probe := c.probe
	if !c.ChildProbe {
		probe = nil
	}
	dec, enc := gob.NewDecoder(in), gob.NewEncoder(out)
	for {
		var dir string
		if err := dec.Decode(&dir); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var log bytes.Buffer
		o := spool.Options{
			Dir: dir, MaxBytes: c.MaxBytes, SegmentBytes: c.SegmentBytes, Sinks: c.Sinks, Clock: clock.System{},
			Probe: probe,
			Log:   slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
		}
		f, err := verify(o)
		if err != nil {
			f.Err = err.Error()
		}
		f.Log = log.String()
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
}

// verify opens a spool as the gateway does, makes a fresh sample durable, and
// reads all that is pending.
func verify(o spool.Options) (f *found, err error) {
	f = &found{}
	began := time.Now()
	sp, st, err := spool.Open(context.Background(), o)
	if err != nil {
		return f, fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, sp.Close()) }()
	f.Took = time.Since(began)
	f.Created = st.Created
	b, err := batch.New(batch.Options{
		Site: "plant", Gateway: "gw1", CommitInterval: time.Hour, Log: o.Log, Clock: o.Clock, Health: noHealth{},
	}, sp, st)
	if err != nil {
		return f, fmt.Errorf("batches: %w", err)
	}
	if err := addFresh(b); err != nil {
		return f, err
	}
	for after := uint64(0); ; {
		blocks, err := sp.Read(o.Sinks[0], after, 64, 8<<20)
		if err != nil {
			return f, fmt.Errorf("read: %w", err)
		}
		if len(blocks) == 0 {
			break
		}
		for _, b := range blocks {
			after = b.Number
			f.Blocks = append(f.Blocks, b.Data)
		}
	}
	dead, err := sp.Dead()
	if err != nil {
		return f, fmt.Errorf("dead letters: %w", err)
	}
	for _, d := range dead {
		b, err := sp.PeekDead(d.ID)
		if err != nil {
			return f, fmt.Errorf("dead letter %d: %w", d.ID, err)
		}
		f.Dead = append(f.Dead, b.Data)
	}
	f.Losses = append(st.Losses, sp.Losses()...)
	return f, nil
}

// addFresh emits the fresh sample, waits until it is durable, and seals it.
func addFresh(b *batch.Batcher) error {
	port, err := b.Open(batch.SourceInfo{
		Name: "in", MaxTags: 100, Beat: func() {}, Class: batch.Class{ScanRate: time.Second, MaxAge: time.Minute, MaxBytes: 180 << 10},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- b.Run(ctx) }()
	done := make(chan error, 1)
	fresh := freshSample()
	if err := port.Emit(ctx, []sample.Sample{fresh.sample(time.Now())}, func(err error) { done <- err }); err != nil {
		cancel()
		return errors.Join(err, <-ran)
	}
	err = <-done
	cancel()
	if err = errors.Join(err, <-ran); err != nil {
		return fmt.Errorf("a fresh sample is not taken: %w", err)
	}
	return nil
}

// command is a program as a child without a socket, and its log.
func command(program string, c *childConfig, env []string) (*exec.Cmd, *bytes.Buffer, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, nil, err
	}
	logs := new(bytes.Buffer)
	cmd := exec.Command(program)
	cmd.Env = append(append(os.Environ(), childEnv+"="+string(text)), env...)
	cmd.Stderr = logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, logs, nil
}

func stderrLog() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

// noHealth is nobody who listens.
type noHealth struct{}

func (noHealth) Beat()      {}
func (noHealth) Up()        {}
func (noHealth) Down(error) {}

var _ protocols.Health = noHealth{}

// verifier is the process that opens what a fault left: whatever that does to
// it, the battery goes on.
type verifier struct {
	program string
	config  childConfig
	env     []string

	cmd  *exec.Cmd
	in   io.WriteCloser
	enc  *gob.Encoder
	dec  *gob.Decoder
	logs *bytes.Buffer
}

// newVerifier makes one; its process starts with the first directory.
func newVerifier(program string, c childConfig, env ...string) *verifier {
	c.Job = "verify"
	return &verifier{program: program, config: c, env: env}
}

func (v *verifier) start() error {
	var err error
	if v.cmd, v.logs, err = command(v.program, &v.config, v.env); err != nil {
		return err
	}
	in, err := v.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	v.in, v.enc, v.dec = in, gob.NewEncoder(in), gob.NewDecoder(out)
	return v.cmd.Start()
}

// look opens a directory. An error means that the process crashed or hung.
func (v *verifier) look(dir string) (*found, error) {
	if v.cmd == nil {
		if err := v.start(); err != nil {
			return nil, err
		}
	}
	hung := time.AfterFunc(verifyWithin, func() { _ = v.cmd.Process.Kill() })
	f := new(found)
	err := v.enc.Encode(dir)
	if err == nil {
		err = v.dec.Decode(f)
	}
	if !hung.Stop() {
		_ = v.end()
		return nil, fmt.Errorf("opening the spool hangs: no answer after %s", verifyWithin)
	}
	if err != nil {
		ended := v.end()
		return nil, fmt.Errorf("opening the spool ended the process: %w", errors.Join(ended, errors.New(crashLine(v.logs.String()))))
	}
	return f, nil
}

// end lets the process go.
func (v *verifier) end() error {
	if v.cmd == nil {
		return nil
	}
	_ = v.in.Close() // it may have crashed
	err := v.cmd.Wait()
	v.cmd = nil
	return err
}
