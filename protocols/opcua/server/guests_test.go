package server

import (
	"errors"
	"testing"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
)

// Whoever reaches the port can open connections and say nothing. They take no
// place from clients.
func TestStrangersGiveWay(t *testing.T) {
	cfg := plain(t)
	cfg.MaxSessions = 2
	r := start(t, cfg, nil)
	in := r.client()
	var idle []*raw
	for range cfg.MaxSessions*connectionsPerSession + 30 {
		c := r.raw()
		if len(idle)%2 == 0 {
			c.openNone()
		}
		idle = append(idle, c)
	}
	if v := value(t, r.client(), "ns=1;s=north/meter1/state"); v.Status != ua.StatusOK {
		t.Errorf("a client that comes after: %v", v.Status)
	}
	if v := value(t, in, "ns=1;s=north/meter1/state"); v.Status != ua.StatusOK {
		t.Errorf("a client that was there before: %v", v.Status)
	}
	if _, _, ok := idle[0].answer(); ok {
		t.Error("the first stranger is still there")
	}
	if _, err := r.dial(opcua.SecurityMode(ua.MessageSecurityModeNone)); !errors.Is(err, ua.StatusBadTooManySessions) {
		t.Errorf("a third client: %v", err)
	}
}
