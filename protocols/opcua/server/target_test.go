package server

import (
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/sample"
)

// A client sees each state of a mirrored value by its status, and never a value
// that must not be used.
func TestMirrorVariable(t *testing.T) {
	var target protocols.Target
	r := start(t, plain(t), func(r *rig) { target = r.mirror("sp1", sample.Float64, "kW") })
	c := r.client()
	node := "ns=1;s=mirror/sp1"
	bad := func(when string, want ua.StatusCode) {
		t.Helper()
		if v := value(t, c, node); v.Status != want || v.Value.Value() != nil {
			t.Errorf("%s: %v %v, want %v and null", when, v.Status, v.Value.Value(), want)
		}
	}
	good := func(when string, want float64) {
		t.Helper()
		if v := value(t, c, node); v.Status != ua.StatusOK || v.Value.Value() != want {
			t.Errorf("%s: %v %v, want %v", when, v.Status, v.Value.Value(), want)
		}
	}
	tell := func(valid bool) {
		t.Helper()
		if err := target.Tell(ctxOf(t), protocols.State{Valid: valid, Heartbeat: 7}); err != nil {
			t.Fatal(err)
		}
	}
	write := func(f float64, version uint64, valid time.Duration) {
		t.Helper()
		now := r.clock.Now()
		err := target.Write(ctxOf(t), protocols.Command{Value: sample.FloatValue(f), Time: now.Add(-time.Second), Version: version, ValidUntil: now.Add(valid)})
		if err != nil {
			t.Fatal(err)
		}
	}
	bad("before the first value", ua.StatusBadWaitingForInitialData)
	if v := value(t, c, node+".Version"); v.Status != ua.StatusBadWaitingForInitialData {
		t.Errorf("version: %v", v.Status)
	}
	tell(false)
	bad("marked before the first value", ua.StatusBadWaitingForInitialData)
	write(41.5, 17, time.Minute)
	good("written", 41.5)
	if v := value(t, c, node+".Version"); v.Value.Value() != uint64(17) {
		t.Errorf("version %v", v.Value.Value())
	}
	if v := value(t, c, node+".Heartbeat"); v.Value.Value() != uint16(7) {
		t.Errorf("heartbeat %v", v.Value.Value())
	}
	tell(false)
	bad("marked as stale", ua.StatusBadOutOfService)
	tell(true)
	good("no longer stale", 41.5)
	r.clock.Advance(time.Minute)
	bad("past its validity", ua.StatusBadNoCommunication)
	write(0, 18, time.Minute)
	good("written again", 0)
	r.clock.Advance(59 * time.Second)
	good("a second before its end", 0)
	r.clock.Advance(2 * time.Second)
	bad("a second after its end", ua.StatusBadNoCommunication)
	if got, err := target.Read(ctxOf(t)); err != nil || got.Value != (sample.Value{}) || !got.Quality.IsBad() || got.Version != 18 {
		t.Errorf("Read: %+v, %v", got, err)
	}
}
