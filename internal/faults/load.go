package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// load is a number of producers that keep a gateway busy until its process
// ends or they are told to stop.
type load struct {
	Producers int
	Tags      int // of each producer
	Batch     int // most samples in a message
	// Payload is the length of string values, in bytes, which do not compress:
	// large ones fill segments quickly. Numbers where 0.
	Payload int
	// Pause is the longest wait between two messages of a producer.
	Pause time.Duration
	// Window is how many messages a producer has in doubt at most.
	Window int
}

// run produces until ctx is done or the process has ended. Each producer draws
// from a generator of its own, seeded from rnd before any starts.
func (o load) run(ctx context.Context, k *Child, rnd *rand.Rand) {
	for i := range o.Producers {
		r := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		go o.producer(ctx, k, i, r)
	}
}

func (o load) producer(ctx context.Context, k *Child, id int, rnd *rand.Rand) {
	name := fmt.Sprintf("p%d", id)
	window := make(chan struct{}, max(o.Window, 1))
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.done:
			return
		case window <- struct{}{}:
		}
		batch := make([]wireSample, 1+rnd.IntN(max(o.Batch, 1)))
		for i := range batch {
			batch[i] = wireSample{
				Tag: fmt.Sprintf("plant/in/p%d_%d", id, rnd.IntN(max(o.Tags, 1))), Producer: name, Seq: k.plant.number(name),
				Number: float64(rnd.IntN(1_000_000)) / 8,
			}
			if o.Payload > 0 {
				batch[i].Str = noise(rnd, 1+rnd.IntN(2*o.Payload))
			}
		}
		sent := k.produce(batch, false)
		go func() {
			err := <-sent
			if err != nil && !errors.Is(err, errGone) {
				// It was refused: the producer keeps it for later.
				k.plant.mu.Lock()
				k.plant.doubt = append(k.plant.doubt, batch)
				k.plant.mu.Unlock()
				select {
				case <-time.After(20 * time.Millisecond):
				case <-k.done:
				}
			}
			<-window
		}()
		if o.Pause > 0 {
			select {
			case <-time.After(time.Duration(rnd.Int64N(int64(o.Pause)))):
			case <-ctx.Done():
				return
			}
		}
	}
}

// noise is text that does not compress below six bits a byte.
func noise(rnd *rand.Rand, n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[rnd.IntN(len(alphabet))]
	}
	return string(b)
}
