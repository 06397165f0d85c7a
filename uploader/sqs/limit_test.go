package sqs

import (
	"testing"

	"millrace/internal/sim/awssim"
	"millrace/uploader"
	"millrace/uploader/sinktest"
)

// A queue that throttles from the start is not asked for its limit before each
// try, and no block is buried before the limit is known.
func TestThrottledQueueIsAskedOnceForItsLimit(t *testing.T) {
	b := startBench(t, "plant", map[string]string{"MaximumMessageSize": "4096"})
	s := open(t, b.config(t))
	b.server.SetFaults(awssim.ServiceSQS, awssim.Faults{Throttled: 1})
	before := b.server.Stats(awssim.ServiceSQS).Requests
	for range 5 {
		if err := s.Send(t.Context(), []uploader.Block{sinktest.Opaque(1)})[0]; uploader.Classify(err) != uploader.Throttled {
			t.Fatalf("outcome %v, want it throttled", err)
		}
	}
	if n := b.server.Stats(awssim.ServiceSQS).Requests - before; n != 6 {
		t.Errorf("%d requests for five tries, want one more than the tries", n)
	}
	b.server.SetFaults(awssim.ServiceSQS, awssim.Faults{})
	s.accepted.Store(true)
	large := []uploader.Block{sinktest.OpaqueOf(2, 8000)}
	if err := s.Send(t.Context(), large)[0]; uploader.Classify(err) != uploader.Transient {
		t.Errorf("refused while the limit is not known: %v, want it tried again", err)
	}
	if err := s.Send(t.Context(), large)[0]; uploader.Classify(err) != uploader.Hold {
		t.Errorf("beyond the limit that is known now: %v, want a hold", err)
	}
}
