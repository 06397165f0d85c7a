package metrics

import (
	"bytes"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"millrace/gateway/batch"
	"millrace/gateway/forecast"
	"millrace/gateway/health"
	"millrace/gateway/mirror"
	"millrace/gateway/mirror/guard"
	"millrace/internal/histogram"
	"millrace/spool"
	"millrace/uploader"
)

// full is a snapshot in which there is one of everything.
func full() Snapshot {
	h := histogram.New(time.Second, 5*time.Second)
	now, answered := time.Now(), time.Unix(1_700_000_002, 0)
	h.Observe(now, 2*time.Second)
	h.Observe(now, time.Minute)
	lane := uploader.LaneStats{Blocks: 7, Samples: 700, Bytes: 7000, Latency: h.Snapshot(), Recent: h.Recent(now)}
	return Snapshot{
		Version: "1.2", Site: "north", Gateway: `g"w\1`, Uptime: 90 * time.Second,
		Components: []health.Status{{Kind: health.Sink, Name: "cloud", State: health.Up}, {Kind: health.Source, Name: "m1", State: health.Down}},
		Sources:    map[string]batch.Counters{"m1": {Tags: 3, In: 1 << 60, Kept: 2, Suppressed: 1, Bad: 4, OutOfRange: 5, Refused: 6, BadTime: 7}, "m0": {}},
		Gaps:       map[string]batch.GapCount{"evicted": {Records: 2, Samples: 500}},
		Clock:      batch.ClockStatus{Kernel: "synchronised", Off: -time.Second / 2, Steps: 1},
		Sinks: map[string]uploader.Stats{"cloud": {State: uploader.StateHeld, Requests: 9, LastDelivery: time.Unix(1_700_000_000, 0),
			Lanes: map[uploader.Lane]uploader.LaneStats{uploader.LaneLive: lane, uploader.LaneBacklog: {}}}},
		Spool:    spool.Stats{DiskBytes: 1 << 20, Commits: 5, Sinks: map[string]spool.SinkStats{"cloud": {PendingBlocks: 3, Configured: true}, "old": {}}},
		Commits:  h.Snapshot(),
		Forecast: forecast.Forecast{State: forecast.Filling, In: 100, Out: 20, Left: 41 * time.Hour},
		Mirror: &mirror.Status{
			Audit: mirror.AuditStatus{Records: 12, Error: "no space left"},
			Feeds: []mirror.FeedStatus{{Name: "results", Received: 9, Malformed: 2, Strange: 1, Errors: 3, LastReceive: &answered}},
			Targets: []mirror.TargetStatus{{
				Name: "sp1", Mode: guard.Armed, Stale: true, Last: &mirror.LastApplied{Time: time.Unix(1_700_000_001, 0)}, Pending: &mirror.Pending{},
				Outcome: &mirror.LastOutcome{Outcome: mirror.Refused}, Unverified: true,
				Outcomes: map[string]uint64{"written": 5, "refused": 2}, Refused: map[string]uint64{"expired": 2},
			}, {Name: "sp2", Mode: guard.Off}},
		},
		LostStatus: 4,
	}
}

func written(t *testing.T, s Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := New(func() Snapshot { return s }).Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// families reads the text as Prometheus does.
func families(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	var p expfmt.TextParser
	all, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return all
}

// value returns the value of the series with these labels, name and value in turn.
func value(t *testing.T, f *dto.MetricFamily, l ...string) float64 {
	t.Helper()
	for _, m := range f.GetMetric() {
		got := map[string]string{}
		for _, p := range m.GetLabel() {
			got[p.GetName()] = p.GetValue()
		}
		same := len(got) == len(l)/2
		for i := 0; i < len(l); i += 2 {
			same = same && got[l[i]] == l[i+1]
		}
		switch {
		case !same:
		case m.Gauge != nil:
			return m.Gauge.GetValue()
		case m.Counter != nil:
			return m.Counter.GetValue()
		case m.Histogram != nil:
			return float64(m.Histogram.GetSampleCount())
		}
	}
	if len(l) > 0 || len(f.GetMetric()) != 1 {
		t.Errorf("%s has no series with %v", f.GetName(), l)
	}
	return math.NaN()
}

func TestWhatPrometheusReads(t *testing.T) {
	text := written(t, full())
	all := families(t, text)
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"build_info", []string{"version", "1.2", "site", "north", "gateway", `g"w\1`}, 1},
		{"uptime_seconds", nil, 90},
		{"component_up", []string{"kind", "source", "name", "m1"}, 0},
		{"component_up", []string{"kind", "sink", "name", "cloud"}, 1},
		{"source_samples_total", []string{"source", "m1"}, 1 << 60},
		{"lost_samples_total", []string{"cause", "evicted"}, 500},
		{"sink_state", []string{"sink", "cloud", "state", "held"}, 1},
		{"sink_state", []string{"sink", "cloud", "state", "up"}, 0},
		{"sink_delivered_blocks_total", []string{"sink", "cloud", "lane", "live"}, 7},
		{"sink_latency_seconds", []string{"sink", "cloud", "lane", "live"}, 2},
		{"sink_recent_latency_max_seconds", []string{"sink", "cloud", "lane", "live"}, 60},
		{"sink_last_delivery_timestamp_seconds", []string{"sink", "cloud"}, 1_700_000_000},
		{"sink_pending_blocks", []string{"sink", "cloud"}, 3},
		{"sink_configured", []string{"sink", "old"}, 0},
		{"spool_commits_total", nil, 5},
		{"spool_commit_duration_seconds", nil, 2},
		{"spool_full_in_seconds", nil, 41 * 3600},
		{"spool_drained_in_seconds", nil, math.Inf(1)},
		{"clock_offset_seconds", nil, -0.5},
		{"mirror_mode", []string{"target", "sp1", "mode", "armed"}, 1},
		{"mirror_mode", []string{"target", "sp1", "mode", "off"}, 0},
		{"mirror_mode", []string{"target", "sp2", "mode", "off"}, 1},
		{"mirror_outcomes_total", []string{"target", "sp1", "outcome", "written"}, 5},
		{"mirror_outcomes_total", []string{"target", "sp2", "outcome", "written"}, 0},
		{"mirror_refused_total", []string{"target", "sp1", "reason", "expired"}, 2},
		{"mirror_last_applied_timestamp_seconds", []string{"target", "sp1"}, 1_700_000_001},
		{"mirror_last_applied_timestamp_seconds", []string{"target", "sp2"}, 0},
		{"mirror_pending", []string{"target", "sp1"}, 1},
		{"mirror_stale", []string{"target", "sp1"}, 1},
		{"mirror_unverified", []string{"target", "sp1"}, 1},
		{"mirror_feed_messages_total", []string{"feed", "results"}, 9},
		{"mirror_feed_malformed_total", []string{"feed", "results"}, 2},
		{"mirror_feed_strange_total", []string{"feed", "results"}, 1},
		{"mirror_feed_errors_total", []string{"feed", "results"}, 3},
		{"mirror_feed_last_answer_timestamp_seconds", []string{"feed", "results"}, 1_700_000_002},
		{"mirror_audit_records", nil, 12},
		{"mirror_audit_broken", nil, 1},
		{"mirror_lost_status_samples_total", nil, 4},
	} {
		f := all["millrace_"+c.name]
		if f == nil {
			t.Errorf("there is no millrace_%s", c.name)
			continue
		}
		if got := value(t, f, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	for _, m := range all["millrace_sink_latency_seconds"].GetMetric() {
		if b := m.GetHistogram().GetBucket(); m.GetHistogram().GetSampleCount() > 0 && (len(b) != 3 || b[0].GetCumulativeCount() != 0 || b[1].GetCumulativeCount() != 1) {
			t.Errorf("the buckets of the latency are %v", b)
		}
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes"} {
		if all[name] == nil {
			t.Errorf("there is no %s", name)
		}
	}
	if again := written(t, full()); !bytes.Equal(own(again), own(text)) {
		t.Error("the order changes from scrape to scrape")
	}
}

// own is the part of the text that is the gateway's.
func own(text []byte) []byte {
	var out []byte
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(prefix)) {
			out = append(out, line...)
		}
	}
	return out
}

func TestNamesFollowTheConventions(t *testing.T) {
	problems, err := promlint.New(bytes.NewReader(own(written(t, full())))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestForecastStates(t *testing.T) {
	inf := math.Inf(1)
	for state, want := range map[forecast.State][2]float64{
		forecast.Unknown: {inf, inf}, forecast.Steady: {inf, 0}, forecast.Filling: {3600, inf}, forecast.Draining: {inf, 3600}, forecast.Full: {0, inf},
	} {
		s := full()
		s.Forecast = forecast.Forecast{State: state, Left: time.Hour}
		all := families(t, written(t, s))
		if got := [2]float64{value(t, all["millrace_spool_full_in_seconds"]), value(t, all["millrace_spool_drained_in_seconds"])}; got != want {
			t.Errorf("%s: full and drained in %v, want %v", state, got, want)
		}
	}
}

// TestTheListIsComplete holds docs/metrics.md to what is written, in both
// directions: name, type and labels.
func TestTheListIsComplete(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	row := regexp.MustCompile("(?m)^\\| `(millrace_[a-z_]+)` \\| (\\w+) \\| ([^|]*) \\| [^|]+ \\|$")
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		documented[m[1]] = m[2] + " " + strings.Join(regexp.MustCompile("[a-z]+").FindAllString(m[3], -1), ",")
	}
	all := families(t, written(t, full()))
	for name, f := range all {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		var names []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			names = append(names, l.GetName())
		}
		is := strings.ToLower(f.GetType().String()) + " " + strings.Join(names, ",")
		if documented[name] != is {
			t.Errorf("%s is a %q, and docs/metrics.md says %q", name, is, documented[name])
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/metrics.md lists %s, which is not written", name)
	}
}

func TestServe(t *testing.T) {
	set := New(full)
	s, err := set.Serve("127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	get := func(method, path string) (int, []byte) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}
	code, body := get(http.MethodGet, "/metrics")
	if all := families(t, body); code != http.StatusOK || all["millrace_build_info"] == nil {
		t.Errorf("answer %d with %d families", code, len(all))
	}
	for _, c := range [][2]string{{http.MethodPost, "/metrics"}, {http.MethodGet, "/"}, {http.MethodGet, "/v1/status"}} {
		if code, _ := get(c[0], c[1]); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
			t.Errorf("%s %s is answered with %d", c[0], c[1], code)
		}
	}
	for range maxScrapes {
		set.slots <- struct{}{}
	}
	if code, _ := get(http.MethodGet, "/metrics"); code != http.StatusServiceUnavailable {
		t.Errorf("one scrape too many is answered with %d", code)
	}
	if _, err := set.Serve(s.Addr().String(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an address was taken twice")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
