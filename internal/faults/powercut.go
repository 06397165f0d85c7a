package faults

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"millrace/internal/faults/faultfs"
	"millrace/sample"
	"millrace/sample/block"
)

// statesPerRecording is how many power cuts one recorded run is used for.
const statesPerRecording = 1000

func powerCutRow() Row {
	return Row{
		Name: "powercut", What: "power cut at any moment, unsynced writes dropped, kept, reordered or torn at 512 B, entries lost",
		Short: 100, Medium: 3000, Full: 100_000, Needs: []Need{needRoot(), needFUSE()},
		Run: func(ctx context.Context, t *Trial) (int, error) { return t.powerCut(ctx, t.self) },
	}
}

// history is what was known outside of the gateway, and since which moment of
// the recording.
type history struct {
	mu     sync.Mutex
	record *faultfs.FS
	dec    *block.Decoder
	acks   []ackEvent
	blocks []blockEvent
}

type ackEvent struct {
	at   int
	keys []Key
}

type blockEvent struct {
	at   int
	id   string
	sum  uint64
	keys []Key
}

// moment is 0 where nothing is recorded.
func (h *history) moment() int {
	if h.record == nil {
		return 0
	}
	return h.record.Moment()
}

func (h *history) acked(batch []sample.Sample) {
	e := ackEvent{at: h.moment()}
	for i := range batch {
		e.keys = append(e.keys, keyOf(&batch[i]))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acks = append(h.acks, e)
}

func (h *history) arrived(data []byte) {
	at := h.moment()
	h.mu.Lock()
	defer h.mu.Unlock()
	b, err := h.dec.Decode(data)
	if err != nil {
		return // the ledger says so
	}
	h.blocks = append(h.blocks, blockEvent{at: at, id: b.Header.Identity(), sum: sumOf(data), keys: keysOf(b)})
}

func keysOf(b *block.Block) (keys []Key) {
	for s := range b.All() {
		if !system(s.Tag) {
			keys = append(keys, keyOf(&s))
		}
	}
	return keys
}

func sumOf(data []byte) uint64 {
	h := fnv.New64a()
	h.Write(data)
	return h.Sum64()
}

// powerCut records one busy run and cuts its power many times.
func (t *Trial) powerCut(ctx context.Context, program string, env ...string) (states int, err error) {
	f, err := faultfs.Mount(filepath.Join(t.Dir, "mnt"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	p, err := NewPlant("cloud")
	if err != nil {
		return 0, err
	}
	dec, err := block.NewDecoder()
	if err != nil {
		return 0, err
	}
	h := &history{record: f, dec: dec}
	p.OnAck, p.OnArrive = h.acked, h.arrived
	c := t.childConfig()
	// Neither directory is there yet: making them durable is the spool's part.
	c.Spool = filepath.Join(t.Dir, "mnt", "var", "spool")
	if err := t.record(ctx, p, program, c, env); err != nil {
		return 0, err
	}
	return t.cuts(ctx, p, f.Record(), h, newVerifier(program, *c, env...))
}

// record runs the gateway twice on the recorded file system: from nothing, and
// on what a kill left.
func (t *Trial) record(ctx context.Context, p *Plant, program string, c *childConfig, env []string) error {
	cloud := newCloud(t.Rand)
	p.Cloud = cloud.answer
	l := load{Producers: 2, Tags: 3, Batch: 4, Window: 2, Payload: 200 + t.Rand.IntN(2000), Pause: 4 * time.Millisecond}
	for run := range 2 {
		cloud.become(cloudMode(t.Rand.IntN(3)))
		k, err := p.start(program, c, env...)
		if err != nil {
			return err
		}
		if err := k.waitReady(ctx); err != nil {
			return err
		}
		loading, stop := context.WithCancel(ctx)
		l.run(loading, k, t.Rand)
		select {
		case <-time.After(time.Duration(200+t.Rand.IntN(500)) * time.Millisecond):
		case <-k.done:
			stop()
			return fmt.Errorf("the gateway ended while it was recorded: %s", k.ending())
		}
		if run == 1 {
			cloud.become(cloudWell)
			time.Sleep(50 * time.Millisecond)
		}
		stop()
		k.kill()
	}
	return nil
}

// cuts rebuilds states and opens each.
func (t *Trial) cuts(ctx context.Context, p *Plant, r *faultfs.Record, h *history, v *verifier) (states int, err error) {
	defer func() { _ = v.end() }()
	states = min(statesPerRecording, t.Left)
	t.Logf("%d changes recorded, %d acknowledgements, %d blocks delivered", r.Len(), len(h.acks), len(h.blocks))
	for i := range states {
		if t.over(ctx) {
			return i, ctx.Err()
		}
		rnd := rand.New(rand.NewPCG(t.Seed, uint64(i)+100))
		at := rnd.IntN(r.Len() + 1)
		dir := filepath.Join(t.Dir, "state")
		mode, err := r.Cut(rnd, at, []string{"var", "spool"}, dir)
		if err != nil {
			return i, err
		}
		got, err := v.look(dir)
		if err == nil {
			err = h.hold(p.Ledger, at, got, NoLoss)
		}
		if err != nil {
			return i + 1, fmt.Errorf("state %d, cut at %d of %d, %s: %w", i, at, r.Len(), mode, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return i, err
		}
	}
	return states, nil
}

// hold holds what a spool kept, and what was delivered before the cut, against
// what was acknowledged before it.
func (h *history) hold(l *Ledger, at int, got *found, may Loss) error {
	if got.Err != "" {
		return fmt.Errorf("the spool does not work: %s", got.Err)
	}
	if may == NoLoss && len(got.Losses) > 0 {
		return fmt.Errorf("a loss is declared: %+v: %s", got.Losses[0], got.Log)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	copies := map[Key]int{}
	sums := map[string]uint64{}
	for _, b := range h.blocks {
		if b.at > at {
			continue
		}
		if _, again := sums[b.id]; again {
			continue
		}
		sums[b.id] = b.sum
		for _, k := range b.keys {
			copies[k]++
		}
	}
	fresh := freshSample()
	freshKey := Key{Tag: fresh.Tag, Producer: fresh.Producer, Seq: fresh.Seq}
	for _, data := range got.Blocks {
		b, err := h.dec.Decode(data)
		if err != nil {
			return fmt.Errorf("a block of the spool does not decode: %w", err)
		}
		id := b.Header.Identity()
		if sum, ok := sums[id]; ok {
			if sum != sumOf(data) {
				return fmt.Errorf("block %s was delivered, and the spool has other bytes of it", id)
			}
			continue
		}
		sums[id] = sumOf(data)
		for s := range b.All() {
			if system(s.Tag) {
				continue
			}
			k := keyOf(&s)
			copies[k]++
			if k == freshKey {
				continue
			}
			e := l.issued[k]
			switch {
			case e == nil:
				return fmt.Errorf("%s is in the spool and was never issued", k)
			case e.hash != hashOf(&s):
				return fmt.Errorf("%s is in the spool with another payload", k)
			case copies[k] > e.sent:
				return fmt.Errorf("%s is there in %d blocks and was sent %d times", k, copies[k], e.sent)
			}
		}
	}
	if copies[freshKey] != 1 {
		return fmt.Errorf("the fresh sample is there %d times", copies[freshKey])
	}
	declared, unknown := uint64(0), false
	for _, l := range got.Losses {
		declared += l.Count
		unknown = unknown || l.Unknown
	}
	missing := uint64(0)
	for _, e := range h.acks {
		if e.at > at {
			continue
		}
		for _, k := range e.keys {
			if copies[k] > 0 {
				continue
			}
			if missing++; !unknown && missing > declared {
				return fmt.Errorf("%s was acknowledged at %d and is gone, %d are declared lost; new epoch %v; %s", k, e.at, declared, got.Created, got.Log)
			}
		}
	}
	return nil
}
