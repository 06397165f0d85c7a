package clouddemo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/sim/truth"
	"millrace/sample"
)

// The data logger's tags. Results are of whole hours, and no hour passes in a
// demo: the logger was off the network for the last hour, and delivers what it
// recorded, with its own times.
const (
	powerTag  = Site + "/logger/power"  // kW
	energyTag = Site + "/logger/energy" // kWh, a counter that starts again once in the hour

	loggerName  = "logger-1" // as the producer of its samples
	loggerEvery = 10 * time.Second
	loggerLead  = 10 * time.Minute // before the hour
	loggerBatch = 200              // readings in one post
	loggerGiven = 20 * time.Second // to find the gateway
	counterMax  = 99999            // kWh, the highest that the counter shows
	counterFrom = 99467            // kWh, so that it starts again in the middle of the hour
	meanPower   = 800              // kW
	swing       = 40               // kW, either way
	swingPeriod = 20 * time.Minute
)

// logger is a device that recorded two tags and delivers them late.
type logger struct {
	address  string
	hour     time.Time // the last whole one
	until    time.Time // when it ceased to record
	readings []reading
}

// reading is one of one tag. total is the energy without the counter's turns.
type reading struct {
	tag   string
	at    time.Time
	value float64
	total float64
}

// newLogger records from before the last whole hour until now.
func newLogger(now time.Time) (*logger, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	// The gateway listens here. A port that was free a moment ago is the best that
	// can be had, since its configuration names it.
	g := &logger{address: l.Addr().String(), hour: now.UTC().Truncate(time.Hour).Add(-time.Hour), until: now}
	start := g.hour.Add(-loggerLead)
	energy := float64(counterFrom)
	for at := start; at.Before(now); at = at.Add(loggerEvery) {
		phase := 2 * math.Pi * float64(at.Sub(start)) / float64(swingPeriod)
		power := math.Round(10*(meanPower+swing*math.Sin(phase)))/10 + 0.05 // never a whole number, which JSON does not tell from an integer
		energy += power * loggerEvery.Hours()
		total := math.Floor(energy)
		g.readings = append(g.readings, reading{powerTag, at, power, 0}, reading{energyTag, at, math.Mod(total, counterMax+1), total})
	}
	return g, l.Close()
}

// yaml is the logger as one of the gateway's sources.
func (g *logger) yaml() string {
	return fmt.Sprintf(`  - name: logger
    type: http
    batch: {max_age: 2s}
    connection: {listen: %q}
    tags:
      - {name: logger/power, address: power, unit: kW}
      - {name: logger/energy, address: energy, unit: kWh, counter: true, counter_max: %d}
`, g.address, counterMax)
}

// mean is that of the hour's power, in kW.
func (g *logger) mean() float64 {
	sum, n := 0.0, 0
	for _, r := range g.readings {
		if r.tag == powerTag && r.at.Truncate(time.Hour).Equal(g.hour) {
			sum, n = sum+r.value, n+1
		}
	}
	return sum / float64(n)
}

// used is the energy of the hour, in kWh.
func (g *logger) used() float64 {
	before, last := 0.0, 0.0
	for _, r := range g.readings {
		switch {
		case r.tag != energyTag:
		case r.at.Before(g.hour):
			before = r.total
		case r.at.Before(g.hour.Add(time.Hour)):
			last = r.total
		}
	}
	return last - before
}

// deliver posts all readings to the gateway. A post that is not confirmed is
// sent again with the same sequences.
func (g *logger) deliver(ctx context.Context, log *truth.Log) error {
	type posted struct {
		Tag   string    `json:"tag"`
		Value float64   `json:"value"`
		Time  time.Time `json:"time"`
		Seq   int       `json:"seq"`
	}
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	for from := 0; from < len(g.readings); from += loggerBatch {
		batch := g.readings[from:min(from+loggerBatch, len(g.readings))]
		var samples []posted
		for i, r := range batch {
			samples = append(samples, posted{r.tag[len(Site+"/logger/"):], r.value, r.at, from + i + 1})
		}
		body, err := json.Marshal(map[string]any{"producer": loggerName, "samples": samples})
		if err != nil {
			panic("BUG: the logger's readings do not encode: " + err.Error())
		}
		begin := time.Now()
		for err = g.post(ctx, client, body); err != nil; err = g.post(ctx, client, body) {
			if ctx.Err() != nil || time.Since(begin) > loggerGiven {
				return fmt.Errorf("the logger cannot deliver to the gateway: %w", err)
			}
			backoff.Sleep(ctx, 100*time.Millisecond)
		}
		end := time.Now()
		for i, r := range batch {
			value := sample.FloatValue(r.value)
			if r.tag == energyTag {
				value = sample.IntValue(int64(r.value))
			}
			log.Sent(r.tag, truth.Event{Value: value, From: begin, To: end, Key: truth.SeqKey(loggerName, uint64(from+i+1))})
		}
	}
	return nil
}

func (g *logger) post(ctx context.Context, client *http.Client, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.address+"/v1/samples", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status + ": " + string(answer))
	}
	return err
}
