package sinktest

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"millrace/uploader"
)

// Queue is an uploader.Queue in memory. It keeps account of what a loop does.
type Queue struct {
	mu     sync.Mutex
	blocks map[uint64]uploader.Block
	order  []uint64
	acked  []uint64
	buried map[uint64]string
	ready  chan struct{}
	fault  error
	faulty map[string]bool
}

// NewQueue returns an empty queue.
func NewQueue() *Queue {
	return &Queue{blocks: map[uint64]uploader.Block{}, buried: map[uint64]string{}, ready: make(chan struct{}), faulty: map[string]bool{}}
}

// Add appends blocks; their numbers must rise.
func (q *Queue) Add(blocks ...uploader.Block) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, b := range blocks {
		if n := len(q.order); n > 0 && q.order[n-1] >= b.Number {
			panic(fmt.Sprintf("BUG: block %d comes after %d", b.Number, q.order[n-1]))
		}
		q.blocks[b.Number] = b
		q.order = append(q.order, b.Number)
	}
	close(q.ready)
	q.ready = make(chan struct{})
}

// Fail makes Read or Bury ("read", "bury") return err until err is nil.
func (q *Queue) Fail(call string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fault = err
	q.faulty[call] = err != nil
}

// Read implements uploader.Queue.
func (q *Queue) Read(after uint64, maxBlocks, maxBytes int) ([]uploader.Block, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.faulty["read"] {
		return nil, q.fault
	}
	var out []uploader.Block
	size := 0
	from, _ := slices.BinarySearch(q.order, after+1)
	for _, n := range q.order[from:] {
		b, there := q.blocks[n]
		if !there {
			continue
		}
		if len(out) == maxBlocks || len(out) > 0 && size+len(b.Data) > maxBytes {
			break
		}
		b.Data = slices.Clone(b.Data)
		out = append(out, b)
		size += len(b.Data)
	}
	return out, nil
}

// Ack implements uploader.Queue.
func (q *Queue) Ack(numbers ...uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range numbers {
		delete(q.blocks, n)
		q.acked = append(q.acked, n)
	}
}

// Bury implements uploader.Queue.
func (q *Queue) Bury(number uint64, reason string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.faulty["bury"] {
		return q.fault
	}
	delete(q.blocks, number)
	q.buried[number] = reason
	return nil
}

// Ready implements uploader.Queue.
func (q *Queue) Ready() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ready
}

// Next implements uploader.Queue.
func (q *Queue) Next() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return 1
	}
	return q.order[len(q.order)-1] + 1
}

// Evict removes a block as a full spool would.
func (q *Queue) Evict(number uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.blocks, number)
}

// Acked returns the numbers acknowledged, in the order of the calls.
func (q *Queue) Acked() []uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.acked)
}

// Buried returns the reasons of the blocks that were buried.
func (q *Queue) Buried() map[uint64]string {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := map[uint64]string{}
	for n, r := range q.buried {
		out[n] = r
	}
	return out
}

// Numbers returns the numbers that are neither acknowledged nor buried.
func (q *Queue) Numbers() []uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Sorted(maps.Keys(q.blocks))
}

// Left returns how many blocks are neither acknowledged nor buried.
func (q *Queue) Left() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.blocks)
}
