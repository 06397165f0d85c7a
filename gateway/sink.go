package gateway

import (
	"context"
	"fmt"

	"millrace/gateway/config"
	"millrace/gateway/health"
	"millrace/sample/block"
	"millrace/spool"
	"millrace/uploader"
)

// sink is one sink with its delivery loop.
type sink struct {
	name   string
	sink   uploader.Sink
	loop   *uploader.Loop
	health *health.Component
	g      *Gateway
}

func (g *Gateway) openSink(cfg *config.Sink) (*sink, error) {
	us, err := cfg.Config.Open(uploader.Settings{
		Name: cfg.Name, Site: g.cfg.Gateway.Site, Gateway: g.cfg.Gateway.ID,
		StateDir: g.o.StateDir, Log: g.log.With("sink", cfg.Name), Clock: g.o.Clock, SampleClock: g.batch, Dial: g.o.Dial,
	})
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", cfg.Name, err)
	}
	h := g.health.Add(health.Sink, cfg.Name, uploader.DefaultTimeout+stuckAfter)
	q := &queue{spool: g.spool, sink: cfg.Name}
	_, beyond := g.o.shutdownTimes()
	loop := uploader.New(us, q, h, uploader.Options{
		Grace: beyond,
		Log:   g.log.With("sink", cfg.Name), Timeout: g.o.SendTimeout, Backoff: g.o.Backoff,
		BacklogShare: cfg.BacklogShare, BytesPerSecond: int(cfg.MaxBandwidth),
	})
	return &sink{name: cfg.Name, sink: us, loop: loop, health: h, g: g}, nil
}

func (s *sink) run(ctx context.Context) {
	defer s.health.Stopped()
	if err := s.loop.Run(ctx); err != nil {
		s.g.log.Error("the delivery loop ended; its data stays in the spool", "sink", s.name, "error", err)
	}
}

// queue is the spool seen from one sink.
type queue struct {
	spool *spool.Spool
	sink  string
}

// Read implements uploader.Queue. A block whose header does not read can never
// be delivered: it goes to the dead letters, where an operator finds it, and
// the reading goes on behind it.
func (q *queue) Read(after uint64, maxBlocks, maxBytes int) ([]uploader.Block, error) {
	for {
		stored, err := q.spool.Read(q.sink, after, maxBlocks, maxBytes)
		if err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
		out := make([]uploader.Block, 0, len(stored))
		for i := range stored {
			b := &stored[i]
			h, err := block.ReadHeader(b.Data)
			if err != nil {
				if err := q.Bury(b.Number, "its header does not read: "+err.Error()); err != nil {
					return nil, err
				}
				continue
			}
			out = append(out, uploader.Block{Number: b.Number, Header: h, Data: b.Data})
		}
		if len(out) > 0 || len(stored) == 0 {
			return out, nil
		}
		after = stored[len(stored)-1].Number
	}
}

// Ack implements uploader.Queue.
func (q *queue) Ack(numbers ...uint64) { q.spool.Ack(q.sink, numbers...) }

// Bury implements uploader.Queue.
func (q *queue) Bury(number uint64, reason string) error {
	if err := q.spool.Bury(q.sink, number, reason); err != nil {
		return fmt.Errorf("spool: dead letter %d: %w", number, err)
	}
	return nil
}

// Next implements uploader.Queue.
func (q *queue) Next() uint64 { return q.spool.Next() }

// Ready implements uploader.Queue.
func (q *queue) Ready() <-chan struct{} { return q.spool.Ready() }
