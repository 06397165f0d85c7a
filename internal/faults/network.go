package faults

import (
	"context"
	"fmt"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/sim/netsim"
)

func networkRow() Row {
	return Row{
		Name: "network", What: "resets, delays, silence, half-open, half-closed, refused and unresolved connections, to the cloud and from producers",
		Short: 6, Medium: 200, Full: 5000, Parallel: 12, Run: runNetwork,
	}
}

// runNetwork runs one site through one or two storms.
func runNetwork(ctx context.Context, t *Trial) (n int, err error) {
	sinks := [][]string{{queueSink}, {tableSink}, {queueSink, tableSink}, {fifoSink, tableSink}}[t.Rand.IntN(4)]
	s, err := t.newSite(siteOptions{Sinks: sinks, Broker: t.Rand.IntN(4) == 0})
	if err != nil {
		return 1, err
	}
	defer func() {
		if e := s.close(); err == nil {
			err = e
		}
	}()
	if err := s.start(); err != nil {
		return 1, err
	}
	s.produce(2)
	if err := s.fresh(ctx); err != nil {
		return 1, fmt.Errorf("before the fault: %w", err)
	}
	storms := 1 + t.Rand.IntN(2)
	for i := 0; i < storms || s.struck() == 0 && i < 20; i++ {
		if err := s.storm(ctx); err != nil {
			return 1, err
		}
		if err := s.fresh(ctx); err != nil {
			return 1, fmt.Errorf("after storm %d: %w", i+1, err)
		}
	}
	t.Logf("%d connections were struck", s.struck())
	return 1, s.settle(ctx)
}

// storm makes bad weather on some legs for a while.
func (s *site) storm(ctx context.Context) error {
	r := s.t.Rand
	for _, leg := range []string{legSQS, legDDB, legHTTP, legMQTT} {
		p := s.proxies[leg]
		if p == nil || r.IntN(5) < 2 {
			continue
		}
		w := netsim.Weather{Share: 0.3 + 0.7*r.Float64(), Live: r.IntN(2) == 0, Refuse: r.IntN(8) == 0}
		all := netsim.Kinds()
		for range 1 + r.IntN(3) {
			w.Kinds = append(w.Kinds, all[r.IntN(len(all))])
		}
		s.t.Logf("%s: %v of %.2f, live %v, refused %v", leg, w.Kinds, w.Share, w.Live, w.Refuse)
		if err := p.Set(w); err != nil {
			return err
		}
	}
	if r.IntN(3) == 0 {
		a := []netsim.Answer{netsim.ServFail, netsim.NoName, netsim.Silent}[r.IntN(3)]
		s.t.Logf("names: %d", a)
		s.names.Set(a)
		for _, leg := range []string{legSQS, legDDB} { // or nobody would ask for a name
			if err := s.proxies[leg].Set(netsim.Weather{Kinds: []netsim.Kind{netsim.Cut}, Share: 1, Live: true}); err != nil {
				return err
			}
		}
	}
	backoff.Sleep(ctx, time.Duration(50+r.IntN(400))*time.Millisecond)
	s.names.Set(netsim.Resolves)
	for _, p := range s.proxies {
		if err := p.Set(netsim.Weather{}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// struck counts the connections that a fault has hit.
func (s *site) struck() int {
	n := 0
	for _, p := range s.proxies {
		for _, k := range p.Struck() {
			n += k
		}
	}
	return n
}
