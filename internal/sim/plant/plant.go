package plant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"millrace/internal/sim/mqttsim"
	"millrace/internal/sim/truth"
	"millrace/sample"
)

// How often the parts of the plant that are not polled speak.
const (
	lineInterval   = 500 * time.Millisecond
	sensorInterval = time.Second
	labInterval    = time.Second
)

// Plant is a running plant.
type Plant struct {
	site    string
	tags    []*Tag
	log     *truth.Log
	meters  *meters
	broker  *mqttsim.Broker
	line    *line
	labAddr string
}

// Start starts the plant's servers on free ports of the loopback. Every value
// that goes out on the wire is told to log.
func Start(site string, log *truth.Log) (*Plant, error) {
	p := &Plant{site: site, tags: tags(), log: log}
	if err := p.start(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Plant) start() (err error) {
	if p.meters, err = startMeters(p.site, p.of(SourceModbus), p.log); err != nil {
		return err
	}
	if p.line, err = startLine(p.site, p.of(SourceOPCUA), p.log); err != nil {
		return err
	}
	if p.broker, err = mqttsim.Start(mqttsim.Options{OnSent: p.published}); err != nil {
		return fmt.Errorf("simulated broker: %w", err)
	}
	// The gateway listens here. A port that was free a moment ago is the best
	// that can be had, since its configuration names it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.labAddr = l.Addr().String()
	return l.Close()
}

// of lists the tags of one source.
func (p *Plant) of(source string) (out []*Tag) {
	for _, t := range p.tags {
		if t.Source == source {
			out = append(out, t)
		}
	}
	return out
}

// Run moves what is not polled until ctx is done: sensors publish, the line's
// values change, the lab posts.
func (p *Plant) Run(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { every(ctx, lineInterval, p.line.step) })
	parts.Go(func() { every(ctx, sensorInterval, p.publish) })
	parts.Go(func() {
		l := &lab{site: p.site, url: "http://" + p.labAddr + "/v1/samples", tags: p.of(SourceHTTP), log: p.log,
			client: http.Client{Transport: &http.Transport{}}}
		l.run(ctx, labInterval)
		l.client.CloseIdleConnections()
	})
	parts.Wait()
}

func every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

type sensorMessage struct {
	Value float64   `json:"value"`
	Time  time.Time `json:"time"`
}

// publish has every sensor publish once.
func (p *Plant) publish() {
	for _, t := range p.of(SourceMQTT) {
		text, err := json.Marshal(sensorMessage{t.next().Float(), p.log.Now().UTC().Truncate(time.Millisecond)})
		if err != nil {
			panic("BUG: " + err.Error())
		}
		// What the broker does not take is not on the wire either.
		_ = p.broker.Publish(t.Address, text, 1, false)
	}
}

// published logs a message as the broker sends it to the gateway.
func (p *Plant) published(m mqttsim.Sent) {
	var v sensorMessage
	if err := json.Unmarshal(m.Payload, &v); err != nil {
		panic("BUG: simulated sensor message: " + err.Error())
	}
	p.log.Sent(p.site+"/"+strings.TrimPrefix(m.Topic, "plant/"), truth.Event{
		// The broker reports a message once it has been written; the gateway may
		// have it before.
		Value: sample.FloatValue(v.Value), From: v.Time, To: m.At, Key: truth.SourceKey(v.Time.UnixNano()),
	})
}

// StopMeters cuts the Modbus devices off; ResumeMeters brings them back.
func (p *Plant) StopMeters() { p.meters.Stop() }

// ResumeMeters brings the Modbus devices back on the same port.
func (p *Plant) ResumeMeters() error { return p.meters.Resume() }

// Close stops all servers.
func (p *Plant) Close() error {
	var errs []error
	if p.meters != nil {
		errs = append(errs, p.meters.Close())
	}
	if p.line != nil {
		errs = append(errs, p.line.Close())
	}
	if p.broker != nil {
		errs = append(errs, p.broker.Close())
	}
	return errors.Join(errs...)
}
