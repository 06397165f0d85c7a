package mqtt

import (
	"testing"
	"testing/synctest"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// taken says when a batch was taken from a queue, and of how many items.
type taken struct {
	at time.Duration
	n  int
}

// takeAll takes as the delivery does; each batch takes as long as commit.
func takeAll(q *queue, commit time.Duration) (<-chan taken, time.Time) {
	out := make(chan taken, 1000)
	began := time.Now()
	go func() {
		defer close(out)
		for {
			items := q.take(nil)
			if items == nil {
				return
			}
			out <- taken{time.Since(began), len(items)}
			time.Sleep(commit)
			q.settle(items)
		}
	}()
	return out, began
}

func deadSession() *session { return &session{client: paho.NewClient(paho.NewClientOptions())} }

func TestGathering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1000, false)
		from := deadSession()
		put := func(n int) {
			for range n {
				q.put(item{msg: &message{topic: "t"}, from: from})
			}
		}
		got, began := takeAll(q, time.Millisecond)
		put(1) // alone: at once
		synctest.Wait()
		if g := <-got; g.n != 1 || g.at != 0 {
			t.Errorf("a message alone: %+v", g)
		}
		time.Sleep(100 * time.Millisecond)
		put(20) // a full window, at once
		synctest.Wait()
		if g := <-got; g.n != 20 || g.at != 100*time.Millisecond {
			t.Errorf("a full window: %+v", g)
		}
		time.Sleep(2 * time.Millisecond) // the commit is over
		put(9)                           // less than half a window
		synctest.Wait()
		if len(got) != 0 {
			t.Error("a few messages under load do not wait for others")
		}
		time.Sleep(time.Millisecond)
		put(1) // half a window: at once
		synctest.Wait()
		if g := <-got; g.n != 10 || g.at != 103*time.Millisecond {
			t.Errorf("half a window: %+v", g)
		}
		time.Sleep(time.Millisecond)
		put(3)
		time.Sleep(time.Second)
		if g := <-got; g.n != 3 || g.at != 104*time.Millisecond+gatherMost {
			t.Errorf("no more to come: %+v", g)
		}
		put(2)
		q.close()
		if g, last := <-got, time.Since(began); g.n != 2 || g.at != last {
			t.Errorf("at the end: %+v after %s", g, last)
		}
		if _, more := <-got; more {
			t.Error("a closed and empty queue gives more")
		}
	})
}

// TestAWindowIsNeverStarved runs a broker that sends 20 messages and then
// waits for their acknowledgements.
func TestAWindowIsNeverStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1000, false)
		from := deadSession()
		window, sent := make(chan struct{}, 20), 0
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				items := q.take(nil)
				if items == nil {
					return
				}
				time.Sleep(time.Millisecond) // the commit
				q.settle(items)
				for range items {
					<-window
				}
			}
		}()
		began := time.Now()
		for ; sent < 2000; sent++ {
			window <- struct{}{}
			q.put(item{msg: &message{topic: "t"}, from: from})
		}
		q.close()
		<-ended
		// Two batches of ten for each window of twenty, of 1 ms each; with a wait
		// of 2 ms in each it would take three times as long.
		if d := time.Since(began); d > 250*time.Millisecond {
			t.Errorf("2000 messages took %s", d)
		}
	})
}
