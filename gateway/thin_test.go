package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A source that asks for it has its backlog thinned while the cloud is away,
// loses nothing that way, and its account balances once the cloud is back.
func TestAFullSpoolThinsABacklog(t *testing.T) {
	sink, addr := newAwaySink(t), freeAddr(t)
	g, stop := runSmall(t, sink, fmt.Sprintf(`
  - {name: s, type: http, when_full: thin_oldest, batch: {max_age: 100ms, max_bytes: 16KiB}, connection: {listen: "%s"}}`, addr))
	deadline := time.Now().Add(time.Minute)
	until := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: never; %+v", what, g.Status().Spool)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	issued := 0
	post := func() bool {
		const n = 1000
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `%c{"tag":"s/v","value":%v}`, "[,"[min(i, 1)], random.NormFloat64())
		}
		r, err := http.Post("http://"+addr+"/v1/samples", "application/json", strings.NewReader(`{"samples":`+b.String()+`]}`))
		if err != nil {
			return false
		}
		defer r.Body.Close()
		if r.StatusCode/100 == 2 {
			issued += n
		}
		return r.StatusCode/100 == 2
	}
	until("the source listens", post)
	until("the backlog is thinned", func() bool { post(); return g.Status().Spool.Replaced > 0 })
	sink.mu.Lock()
	sink.back = true
	sink.mu.Unlock()
	// What comes now carries the counts that stand after the outage.
	until("what came last arrives", func() bool {
		post()
		sink.mu.Lock()
		defer sink.mu.Unlock()
		return g.Status().Spool.Sinks["cloud"].PendingBlocks == 0 && len(sink.seen) > 0
	})
	stop()
	var counted, produced, lost, thinned uint64
	stands := false
	for _, h := range sink.seen {
		if h.Stream == "sys" {
			continue
		}
		counted += uint64(h.Count)
		produced, lost, thinned = max(produced, h.Produced), max(lost, h.Lost), max(thinned, h.Thinned)
		stands = stands || h.ReplacesFrom > 0
	}
	if produced != uint64(issued) || thinned == 0 || lost != 0 || !stands || produced != counted+thinned {
		t.Errorf("%d samples were taken; by the headers %d were produced, %d are in blocks, %d lost, %d thinned out; one block stands for others: %v",
			issued, produced, counted, lost, thinned, stands)
	}
}
