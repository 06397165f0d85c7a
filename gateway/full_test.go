package gateway_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/gateway/health"
	"millrace/internal/bytesize"
	"millrace/internal/clock"
	"millrace/internal/sim/mqttsim"
	protocols "millrace/protocols/all"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/uploader"
)

// awaySink is a cloud that is away until it is told to be back, and keeps what
// it gets.
type awaySink struct {
	mu   sync.Mutex
	back bool
	dec  *block.Decoder
	got  map[string]map[string]bool // texts by tag
	seen []block.Header             // of what was taken
}

func (*awaySink) Type() string                 { return "away" }
func (s *awaySink) NewConfig() uploader.Config { return &awayConfig{s} }
func (s *awaySink) Limits() uploader.Limits {
	return uploader.Limits{MaxBlocks: 10, MaxBytes: 4 << 20, Concurrency: 1, Size: func(b *uploader.Block) int { return len(b.Data) }}
}
func (*awaySink) Check(context.Context) error { return nil }
func (*awaySink) Close() error                { return nil }

type awayConfig struct{ sink *awaySink }

func (*awayConfig) Validate() []uploader.Fault                      { return nil }
func (c *awayConfig) Open(uploader.Settings) (uploader.Sink, error) { return c.sink, nil }

func (s *awaySink) Send(_ context.Context, blocks []uploader.Block) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := make([]error, len(blocks))
	for i := range blocks {
		if !s.back {
			errs[i] = io.ErrUnexpectedEOF
			continue
		}
		b, err := s.dec.Decode(blocks[i].Data)
		if err != nil {
			errs[i] = err
			continue
		}
		s.seen = append(s.seen, b.Header)
		for v := range b.All() {
			if s.got[v.Tag] == nil {
				s.got[v.Tag] = map[string]bool{}
			}
			text := v.Value.Str()
			if v.Value.Kind() != sample.String {
				text = v.Value.String()
			}
			s.got[v.Tag][text[:min(len(text), 8)]] = true
		}
	}
	return errs
}

func (s *awaySink) has(tag, text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[tag][text]
}

// noiseText is text that does not pack.
func noiseText(from *rand.ChaCha8, n int) string {
	raw := make([]byte, n*3/4)
	_, _ = from.Read(raw) // it never fails
	return base64.RawStdEncoding.EncodeToString(raw)
}

// freeAddr is an address of this machine that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newAwaySink makes a cloud that is away.
func newAwaySink(t *testing.T) *awaySink {
	t.Helper()
	dec, err := block.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	return &awaySink{dec: dec, got: map[string]map[string]bool{}}
}

// runSmall runs a gateway with a bound of 2 MiB and these sources, given as YAML
// list items, until stop is called.
func runSmall(t *testing.T, sink *awaySink, sources string) (g *gateway.Gateway, stop func()) {
	t.Helper()
	dir := t.TempDir()
	cfg, err := config.Parse("millrace.yaml", fmt.Appendf(nil, `
gateway: {site: plant, id: gw1}
spool: {dir: %s, max_size: 4MiB, commit_interval: 10ms}
control: {socket: %s}
sinks: [{name: cloud, type: away}]
sources:%s
`, filepath.Join(dir, "spool"), filepath.Join(dir, "c.sock"), sources),
		config.Registry{Protocols: protocols.List(), Sinks: []uploader.Kind{sink}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Spool.MaxSize, cfg.Spool.SegmentSize = 2*bytesize.MiB, 256*bytesize.KiB
	g, err = gateway.New(t.Context(), gateway.Options{
		Config: cfg, Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Notify: quiet{make(chan string, 10)}, StateDir: dir,
		SyncInterval: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	return g, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A full spool is felt by the producers of sources that refuse, by no others,
// and is over when the cloud is back; what was accepted arrives.
func TestAFullSpoolHoldsProducersBack(t *testing.T) {
	sink := newAwaySink(t)
	broker, err := mqttsim.Start(mqttsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	keep, drop := freeAddr(t), freeAddr(t)
	g, stop := runSmall(t, sink, fmt.Sprintf(`
  - {name: keep, type: http, when_full: refuse, batch: {max_age: 100ms}, connection: {listen: "%s"}}
  - {name: drop, type: http, batch: {max_age: 100ms}, connection: {listen: "%s"}}
  - {name: bus, type: mqtt, when_full: refuse, batch: {max_age: 100ms}, connection: {url: "%s", topics: [{filter: bus/#}]}}`, keep, drop, broker.URL()))
	defer stop()
	accepted := map[int]bool{}
	patience := time.After(15 * time.Second)
	until := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			select {
			case <-patience:
				sink.mu.Lock()
				defer sink.mu.Unlock()
				for tag, texts := range sink.got {
					t.Logf("%s: %d", tag, len(texts))
				}
				t.Fatalf("%s: never; %d accepted; %+v", what, len(accepted), g.Status().Spool)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	noise := rand.NewChaCha8([32]byte{1})
	post := func(addr, device string, i int) (status int, after string) {
		r, err := http.Post("http://"+addr+"/v1/samples", "application/json", strings.NewReader(fmt.Sprintf(`{"samples":[{"tag":"%s/v","value":"%08d%s"}]}`, device, i, noiseText(noise, 6000))))
		if err != nil {
			return 0, ""
		}
		defer r.Body.Close()
		return r.StatusCode, r.Header.Get("Retry-After")
	}
	n, status, after := 0, 0, ""
	until("the source listens", func() bool { status, _ = post(keep, "keep", 0); return status/100 == 2 })
	accepted[0] = true
	until("a refusal", func() bool {
		n++
		if status, after = post(keep, "keep", n); status/100 == 2 {
			accepted[n] = true
		}
		return status == http.StatusServiceUnavailable
	})
	if after == "" || n < 20 {
		t.Errorf("refused after %d, Retry-After %q", n, after)
	}
	down := func(name string) bool {
		for _, s := range g.Status().Components {
			if s.Name == name && s.Kind == health.Source {
				return s.State == health.Down
			}
		}
		return false
	}
	until("its health says so", func() bool { return down("keep") && !down("drop") })
	// Messages stay unacknowledged at the broker.
	client := ""
	until("the broker is connected", func() bool {
		for _, c := range broker.Clients() {
			if len(broker.Subscriptions(c)) > 0 {
				client = c
			}
		}
		return client != ""
	})
	if err := broker.Publish("bus/x", []byte("7"), 1, false); err != nil {
		t.Fatal(err)
	}
	dropped, waits := 0, 0
	until("a source that drops goes on while another is refused", func() bool {
		// A commit that finds no room at once makes some and tries again; who
		// posts in that moment is asked to come back.
		if status, _ := post(drop, "drop", n+dropped); status/100 == 2 {
			dropped++
		} else {
			waits++
			t.Logf("post %d: %d", dropped, status)
		}
		return dropped == 300 // a good part of the bound
	})
	if waits > dropped/2 {
		t.Errorf("a source that drops was refused %d times and taken %d times", waits, dropped)
	}
	// What the other source gave up may leave room for a moment, which is used.
	taken := 0
	until("it is refused still", func() bool {
		if status, _ = post(keep, "keep", n); status/100 == 2 {
			accepted[n] = true
			taken, n = taken+1, n+1
		}
		return status == http.StatusServiceUnavailable
	})
	if taken > 3 {
		t.Errorf("the refusal ended by itself: %d posts were taken", taken)
	}
	if broker.InFlight(client) != 1 {
		t.Error("a message is acknowledged while the spool is full")
	}
	if st := g.Status().Spool; st.DiskBytes > st.MaxBytes {
		t.Errorf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
	}
	sink.mu.Lock()
	sink.back = true
	sink.mu.Unlock()
	until("it is taken again", func() bool {
		if status, _ = post(keep, "keep", n); status/100 == 2 {
			accepted[n] = true
		}
		return status/100 == 2
	})
	until("its health says so", func() bool { return !down("keep") })
	until("the message is acknowledged", func() bool { return broker.InFlight(client) == 0 })
	until("all that was accepted arrives", func() bool {
		for i := range accepted {
			if !sink.has("plant/keep/v", fmt.Sprintf("%08d", i)) {
				return false
			}
		}
		return sink.has("plant/bus/x", "7")
	})
}
