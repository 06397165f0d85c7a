package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"millrace/gateway/batch"
	"millrace/gateway/pipeline"
	"millrace/internal/bench/codec"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/spool"
)

const (
	appendSources = 25
	appendPolls   = 60 // of 200 tags: a block of 12,000 samples
	appendRounds  = 40
	// plantPolls is after how many polls the plant's values start again.
	plantPolls = 2 * appendPolls
)

// quiet is a health that nobody looks at.
type quiet struct{}

func (quiet) Beat()      {}
func (quiet) Up()        {}
func (quiet) Down(error) {}

// counted is a spool whose commits are looked at.
type counted struct {
	*spool.Spool
	committed func(c *spool.Commit, pages uint64)
}

func (c *counted) Commit(commit *spool.Commit) error {
	before := c.Stats().BytesWritten
	err := c.Spool.Commit(commit)
	if err == nil {
		c.committed(commit, c.Stats().BytesWritten-before)
	}
	return err
}

// line is the gateway from Emit to sealed blocks in the spool, in this process.
type line struct {
	store *counted
	batch *batch.Batcher
	ports []*batch.Port
	polls [][][]sample.Sample // by source and tick, to be emitted as they are
	stop  context.CancelFunc
	ended chan error
}

// newLine opens a spool in dir. Each source has the 200 tags of a plant.
func newLine(ctx context.Context, dir string, sources int, interval time.Duration, class batch.Class, committed func(*spool.Commit, uint64)) (*line, error) {
	log := slog.New(slog.DiscardHandler)
	s, state, err := spool.Open(ctx, spool.Options{Dir: dir, MaxBytes: 4 << 30, Sinks: []string{"out"}, Log: log, Clock: clock.System{}})
	if err != nil {
		return nil, err
	}
	l := &line{store: &counted{s, committed}, ended: make(chan error, 1)}
	l.batch, err = batch.New(batch.Options{
		Site: "bench", Gateway: "gw1", CommitInterval: interval, MaxCommitBytes: 8 << 20, Log: log, Clock: clock.System{}, Health: quiet{},
	}, l.store, state)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	_, ticks := codec.Plant(plantPolls)
	for i := range sources {
		// Sources of different classes do not share a stream.
		class.ScanRate = time.Second + time.Duration(i)
		if err := l.addSource(i, class, ticks); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	run, stop := context.WithCancel(ctx)
	l.stop = stop
	go func() { l.ended <- l.batch.Run(run) }()
	return l, nil
}

func (l *line) addSource(i int, class batch.Class, ticks [][]sample.Sample) error {
	info := batch.SourceInfo{Name: fmt.Sprintf("m%02d", i), Class: class, MaxTags: 256, Beat: func() {}}
	polls := make([][]sample.Sample, len(ticks))
	for k, tick := range ticks {
		polls[k] = append([]sample.Sample(nil), tick...)
	}
	for n := range ticks[0] {
		name := fmt.Sprintf("bench/meter%02d/reg%03d", i, n)
		for k := range polls {
			polls[k][n].Tag = name
		}
		info.Tags = append(info.Tags, batch.TagInfo{Name: name, Type: "float32", Rule: pipeline.Rule{Scale: 1}})
	}
	p, err := l.batch.Open(info)
	l.ports = append(l.ports, p)
	l.polls = append(l.polls, polls)
	return err
}

// emit hands in poll k of every source, one second after the one before. Where
// durable is set, it returns once they are.
func (l *line) emit(ctx context.Context, k int, durable bool) error {
	at := plantStart + int64(k)*int64(time.Second)
	done := make(chan error, 1)
	for i, p := range l.ports {
		poll := l.polls[i][k%len(l.polls[i])]
		for n := range poll {
			poll[n].Time = at
		}
		var tell func(error)
		if durable && i == len(l.ports)-1 {
			tell = func(err error) { done <- err }
		}
		if err := p.Emit(ctx, poll, tell); err != nil {
			return err
		}
	}
	if !durable {
		return nil
	}
	return <-done
}

// plantStart is the time of the first poll, ns: 2026-01-01.
const plantStart = 1767225600e9

// finish seals what is open, and closes the spool.
func (l *line) finish() error {
	l.stop()
	return errors.Join(<-l.ended, l.store.Close())
}

// appendSealed measures how fast samples become sealed blocks in the spool, on
// one core. A batch is sealed by every commit, and a commit is made when every
// source has been polled for a minute.
func (b *bench) appendSealed() ([]figure, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	blocks, samples, bytes := 0, 0, 0
	class := batch.Class{MaxAge: 1, MaxBytes: 1 << 20}
	l, err := newLine(b.ctx, filepath.Join(b.dir, "append"), appendSources, time.Hour, class, func(c *spool.Commit, _ uint64) {
		for i := range c.Blocks {
			if c.Blocks[i].Stream != 0 {
				blocks++
				samples += int(c.Blocks[i].Count)
				bytes += len(c.Blocks[i].Data)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	before, began := rusage(), time.Now()
	for k := range appendRounds * appendPolls {
		if err := l.emit(b.ctx, k, k%appendPolls == appendPolls-1); err != nil {
			return nil, errors.Join(err, l.finish())
		}
	}
	took, cpu := time.Since(began), rusage()-before
	if err := l.finish(); err != nil {
		return nil, err
	}
	if want := appendRounds * appendPolls * appendSources * len(l.polls[0][0]); samples != want {
		return nil, fmt.Errorf("%d samples are in blocks, %d were emitted", samples, want)
	}
	return []figure{
		{name: "append to sealed, one core", measured: float64(samples) / took.Seconds(), unit: "samples/s", bar: 2e6, atLeast: true,
			note: fmt.Sprintf("emitted, in blocks of %d samples and %d bytes on average, durable", samples/blocks, bytes/blocks)},
		{name: "  CPU", measured: float64(cpu.Nanoseconds()) / float64(samples), unit: "ns/sample"},
	}, nil
}
