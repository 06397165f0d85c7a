package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/sim/mqttsim"
	"millrace/sample"
)

// produce starts producers that post until quiet is called.
func (s *site) produce(n int) {
	ctx, quit := context.WithCancel(context.Background())
	s.quit = quit
	for i := range n {
		name := fmt.Sprintf("p%d", i)
		pause := time.Duration(1+s.t.Rand.IntN(10)) * time.Millisecond
		s.producing.Go(func() {
			client := s.client()
			defer client.CloseIdleConnections()
			for i := 0; ctx.Err() == nil; i++ {
				_ = s.deliver(ctx, client, s.batch(name, 1+i%5)) // told to stop: nobody was promised anything
				backoff.Sleep(ctx, pause)
			}
		})
	}
	if s.broker != nil {
		s.producing.Go(func() {
			for ctx.Err() == nil {
				s.publish("x")
				backoff.Sleep(ctx, 5*time.Millisecond)
			}
		})
	}
}

// quiet stops the producers.
func (s *site) quiet() {
	if s.quit != nil {
		s.quit()
	}
	s.producing.Wait()
}

func (s *site) client() *http.Client {
	return &http.Client{Timeout: 600 * time.Millisecond, Transport: &http.Transport{}}
}

// batch makes a producer's next samples.
func (s *site) batch(producer string, n int) []sample.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]sample.Sample, n)
	for i := range out {
		s.next[producer]++
		seq := s.next[producer]
		out[i] = sample.Sample{Tag: "plant/" + producer + "/v", Value: sample.FloatValue(float64(seq%1000) + 0.5), Producer: producer, Seq: seq}
	}
	return out
}

// deliver posts a batch until it is acknowledged or ctx ends.
func (s *site) deliver(ctx context.Context, client *http.Client, batch []sample.Sample) error {
	type entry struct {
		Tag   string `json:"tag"`
		Value any    `json:"value"`
		Seq   uint64 `json:"seq"`
	}
	body := struct {
		Producer string  `json:"producer"`
		Samples  []entry `json:"samples"`
	}{Producer: batch[0].Producer}
	for i := range batch {
		e := entry{Tag: strings.TrimPrefix(batch[i].Tag, "plant/"), Seq: batch[i].Seq}
		if n, ok := batch[i].Value.Number(); ok {
			e.Value = n
		} else {
			e.Value = batch[i].Value.Str()
		}
		body.Samples = append(body.Samples, e)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	var last error
	for {
		for i := range batch {
			s.ledger.Issue(&batch[i])
		}
		if last = s.post(ctx, client, text); last == nil {
			for i := range batch {
				s.ledger.Ack(&batch[i])
			}
			return nil
		}
		if !backoff.Sleep(ctx, 5*time.Millisecond) {
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), last)
		}
	}
}

func (s *site) post(ctx context.Context, client *http.Client, text []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.proxies[legHTTP].Addr()+"/v1/samples", bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	// The head of the answer is the acknowledgement; the rest may be cut off.
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the gateway answers %s", resp.Status)
	}
	return nil
}

// reading is a message of the MQTT sensor, which its time keys.
type reading struct {
	Value float64   `json:"value"`
	Time  time.Time `json:"time"`
}

func (r *reading) sample(topic string) sample.Sample {
	return sample.Sample{Tag: "plant/" + topic, Value: sample.FloatValue(r.Value), SourceTime: r.Time.UnixNano()}
}

// publish has the sensor send a message by QoS 1, and returns its sample.
func (s *site) publish(name string) sample.Sample {
	s.mu.Lock()
	s.published++
	n := s.published
	s.mu.Unlock()
	r := reading{Value: float64(n) + 0.25, Time: time.Now().UTC().Truncate(time.Millisecond).Add(time.Duration(n) * time.Microsecond)}
	text, err := json.Marshal(r)
	if err != nil {
		panic("BUG: a reading does not encode: " + err.Error())
	}
	out := r.sample("mq/" + name)
	s.ledger.Issue(&out)
	_ = s.broker.Publish("mq/"+name, text, 1, false) // what the broker refuses nobody acknowledges
	return out
}

// sent notes each time that a message goes out.
func (s *site) sent(m mqttsim.Sent) {
	var r reading
	if json.Unmarshal(m.Payload, &r) != nil {
		return
	}
	out := r.sample(m.Topic)
	s.ledger.Issue(&out)
	s.mu.Lock()
	s.inFlight[m.ID] = append([]byte(m.Topic+"\x00"), m.Payload...)
	s.mu.Unlock()
}

// confirmed notes an acknowledgement. One that the broker reads before it told
// of the message is not counted.
func (s *site) confirmed(a mqttsim.Ack) {
	s.mu.Lock()
	topic, payload, ok := bytes.Cut(s.inFlight[a.ID], []byte{0})
	delete(s.inFlight, a.ID)
	s.mu.Unlock()
	var r reading
	if !ok || json.Unmarshal(payload, &r) != nil {
		return
	}
	out := r.sample(string(topic))
	s.ledger.Ack(&out)
}
