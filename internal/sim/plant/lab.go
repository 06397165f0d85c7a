package plant

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"millrace/internal/sim/truth"
)

const labProducer = "lab-1"

// lab posts its tags by HTTP, all in one body, with the producer's sequence.
// A post that is not confirmed is sent again with the same sequence.
type lab struct {
	site, url string
	tags      []*Tag
	log       *truth.Log
	client    http.Client
	seq       uint64
}

type labSample struct {
	Tag   string    `json:"tag"`
	Value float64   `json:"value"`
	Time  time.Time `json:"time"`
	Seq   uint64    `json:"seq"`
}

// run posts every interval until ctx is done; the post under way is finished.
func (l *lab) run(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.post(ctx)
		}
	}
}

func (l *lab) post(ctx context.Context) {
	from := time.Now()
	var samples []labSample
	for _, t := range l.tags {
		l.seq++
		samples = append(samples, labSample{Tag: t.Name, Value: t.next().Float(), Time: from.UTC(), Seq: l.seq})
	}
	body, err := json.Marshal(map[string]any{"producer": labProducer, "samples": samples})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	giveUp := time.Now().Add(20 * time.Second)
	ended := ctx.Done()
	for l.try(body) != nil && time.Now().Before(giveUp) {
		wait := time.NewTimer(200 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ended: // at the end of the run, a few tries more
			giveUp, ended = time.Now().Add(time.Second), nil
		}
		wait.Stop()
	}
	to := time.Now()
	for i, s := range samples {
		l.log.Sent(l.site+"/"+s.Tag, truth.Event{
			Value: l.tags[i].value(l.tags[i].step), From: from, To: to, Key: truth.SeqKey(labProducer, s.Seq),
		})
	}
}

// try sends the body once. An error means that it was not confirmed.
func (l *lab) try(body []byte) error {
	limited, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, http.MethodPost, l.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return nil
}
