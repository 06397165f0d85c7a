package analysis

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"millrace/cloud/analysis/result"
	"millrace/cloud/archive/manifest"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/sample"
)

func day(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }

// engine is a Local that makes of a query a file of what it was shown.
type engine struct {
	t      *testing.T
	seen   []string // steps
	fail   int      // this many computations from now one fails; 0: none
	same   bool     // the output does not depend on the input
	none   bool     // there are no rows
	cancel func()
	next   []Gateway // of the day after the 10th
}

func (e *engine) Compute(ctx context.Context, q Query) (int64, error) {
	name := q.Result.Name + " " + q.Day.Format("01-02")
	var b bytes.Buffer
	fmt.Fprintln(&b, name)
	if !strings.Contains(q.Text, "SELECT") {
		e.t.Errorf("%s: no text", name)
	}
	for _, v := range Views(q.Result.Name) {
		for _, f := range q.Files[v] {
			data, err := os.ReadFile(f.Path)
			if err != nil {
				return 0, err
			}
			switch v {
			case Catalogue:
				data = []byte("catalogue")
			case Samples: // the tag stands for the file
				err = lake.Read(bytes.NewReader(data), int64(len(data)), lake.Filter{}, func(r *lake.Row) error { data = []byte(r.Tag); return nil })
				if err != nil {
					return 0, err
				}
			}
			fmt.Fprintf(&b, "%s %s %d %x\n", v, f.Site, len(data), data[:min(len(data), 40)])
		}
	}
	if e.fail == 1 {
		if e.cancel != nil {
			e.cancel()
			return 0, ctx.Err()
		}
		return 0, errors.New("the disk is full")
	}
	e.fail--
	if q.Day.Equal(day(10)) && q.Result.Name == "availability" {
		e.next = q.NextDay
	}
	e.seen = append(e.seen, name)
	if e.none {
		return 0, nil
	}
	if e.same {
		b.Reset()
		fmt.Fprintln(&b, "the same")
	}
	return 3, os.WriteFile(q.Out, b.Bytes(), 0o600)
}

// took returns what was computed since the last call.
func (e *engine) took() string {
	out := strings.Join(e.seen, ", ")
	e.seen = nil
	return out
}

func put(t *testing.T, p objects.Place, key, text string) {
	t.Helper()
	if err := p.Put(context.Background(), key, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// putSamples puts a file of one sample.
func putSamples(t *testing.T, p objects.Place, key, gateway, tag string) {
	t.Helper()
	var b bytes.Buffer
	w := lake.NewWriter(&b)
	must(t, w.Write(&lake.Row{Gateway: gateway, Stream: "s1", Sample: sample.Sample{Tag: tag}}))
	must(t, w.Close())
	put(t, p, key, b.String())
}

func putCatalogue(t *testing.T, p objects.Place, entries ...lake.Entry) {
	t.Helper()
	var b bytes.Buffer
	must(t, lake.WriteCatalogue(&b, entries))
	put(t, p, lake.CatalogueKey("c", 0), b.String())
}

func get(t *testing.T, p objects.Place, key string) string {
	t.Helper()
	r, err := p.Get(context.Background(), key)
	if errors.Is(err, objects.ErrNone) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// archive is a folder or a bucket with two days of samples.
func archive(t *testing.T, bucket bool) objects.Place {
	t.Helper()
	where := t.TempDir()
	backend := s3mem.New()
	fake := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(fake.Close)
	if bucket {
		where = "s3://archive/plant"
		if err := backend.CreateBucket("archive"); err != nil {
			t.Fatal(err)
		}
	}
	p, err := objects.Parse(where, func() (*s3.Client, error) {
		return s3.New(s3.Options{Region: "eu-central-1", BaseEndpoint: &fake.URL, UsePathStyle: true,
			Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", "")}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	putSamples(t, p, lake.SamplesKey("a/b", day(10), 0), "gw1", "samples of the 10th")
	putSamples(t, p, lake.SamplesKey("c", day(10), 0), "gw1", "samples of the 10th, of another site")
	putSamples(t, p, lake.SamplesKey("c", day(11), 0), "gw1", "samples of the 11th")
	put(t, p, lake.GapsKey("c", day(10), 0), "gaps")
	putCatalogue(t, p, lake.Entry{Tag: "c/d/n", Counter: true})
	put(t, p, "samples/site=c/date=2026-11-10/.part-12345", "half a file")
	return p
}

func options(t *testing.T, p objects.Place, e *engine) Options {
	t.Helper()
	m := &Machine{Place: p, Local: e, Dir: t.TempDir()}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return Options{Place: p, Engine: m, Log: slog.New(slog.DiscardHandler)}
}

func analyse(t *testing.T, o Options) *Report {
	t.Helper()
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const all = "hourly 11-10, energy 11-10, availability 11-10, kpi 11-10, anomaly 11-10, " +
	"hourly 11-11, energy 11-11, availability 11-11, kpi 11-11, anomaly 11-11"

// TestOnlyWhatChanged: a day is computed when one of its inputs is another than
// the last time, and else kept.
func TestOnlyWhatChanged(t *testing.T) {
	for _, bucket := range []bool{false, true} {
		p, e := archive(t, bucket), &engine{t: t}
		o := options(t, p, e)
		r := analyse(t, o)
		if got := e.took(); got != all {
			t.Errorf("%s", got)
		}
		if !r.First.Equal(day(10)) || !r.Last.Equal(day(11)) || len(r.Counts) != 5 || r.Counts[1] != (Count{"energy", 2, 0, 6}) {
			t.Errorf("%+v", r)
		}
		got := get(t, p, result.Key("energy", day(11), 0))
		want := "energy 11-11\n" + fmt.Sprintf("samples a/b 19 %x\nsamples c 36 %x\nsamples c 19 %x\ncatalogue c 9 %x\n",
			"samples of the 10th", "samples of the 10th, of another site", "samples of the 11th", "catalogue")
		if got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}

		r = analyse(t, o)
		if got := e.took(); got != "" || r.Counts[0] != (Count{"hourly", 0, 2, 0}) {
			t.Errorf("nothing changed: %s, %+v", got, r)
		}

		putSamples(t, p, lake.SamplesKey("c", day(11), 1), "gw1", "late samples")
		analyse(t, o)
		if got := e.took(); got != "hourly 11-11, energy 11-11, availability 11-11, kpi 11-11, anomaly 11-11" {
			t.Errorf("late samples of the 11th: %s", got)
		}

		put(t, p, lake.GapsKey("c", day(1), 0), "a gap that was declared late")
		e.same = true
		analyse(t, o)
		if got := e.took(); got != "availability 11-10, kpi 11-10, availability 11-11, kpi 11-11" {
			t.Errorf("a gap: %s", got)
		}
		put(t, p, lake.GapsKey("c", day(2), 0), "another, which changes nothing")
		analyse(t, o)
		if got := e.took(); got != "availability 11-10, availability 11-11" {
			t.Errorf("a gap that changes nothing: %s", got)
		}
	}
}

// TestLostFile: where a file that a manifest names is gone, results that are right
// are not replaced by those of a day without it.
func TestLostFile(t *testing.T) {
	p, e := archive(t, false), &engine{t: t}
	o := options(t, p, e)
	analyse(t, o)
	e.took()
	before := get(t, p, result.Key("hourly", day(11), 0))
	key := lake.SamplesKey("c", day(11), 0)
	m := manifest.New("plant-samples-2026-w46", day(20), manifest.NewSum(), []manifest.File{{Key: key, SHA256: "abc"}}, nil)
	if err := errors.Join(manifest.Write(t.Context(), p, m), p.Delete(t.Context(), key)); err != nil {
		t.Fatal(err)
	}
	o.To = day(12)
	putSamples(t, p, lake.SamplesKey("c", day(11), 1), "gw1", "late samples")
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "run `millrace-cloud archive 2026-w46`") || !strings.Contains(err.Error(), key) {
		t.Errorf("%v", err)
	}
	if got := e.took(); got != "" || get(t, p, result.Key("hourly", day(11), 0)) != before {
		t.Errorf("it computed %s", got)
	}
	// The days before it can be computed.
	o.To = day(11)
	if _, err := Run(t.Context(), o); err != nil {
		t.Error(err)
	}
}

// TestNextDay: a day's availability is due again when a gateway has begun to
// deliver on the day after, and not when that day grows. Each file is opened for
// it once.
func TestNextDay(t *testing.T) {
	p, e := archive(t, false), &engine{t: t, same: true}
	o := options(t, p, e)
	o.Results = []string{"availability"}
	analyse(t, o)
	e.took()
	if want := []Gateway{{"c", "gw1"}}; !slices.Equal(e.next, want) {
		t.Errorf("of the 10th: %v, want %v", e.next, want)
	}
	for _, c := range []struct {
		what, site string
		day, part  int
		gateway    string
		computed   string
		nextOf10th []Gateway
	}{
		{"the day after grows", "c", 11, 1, "gw1", "availability 11-11", nil},
		{"another gateway", "c", 11, 2, "gw0", "availability 11-10, availability 11-11", []Gateway{{"c", "gw0"}, {"c", "gw1"}}},
		{"another site", "a/b", 11, 0, "gw1", "availability 11-10, availability 11-11", []Gateway{{"a/b", "gw1"}, {"c", "gw0"}, {"c", "gw1"}}},
		{"the next day begins", "c", 12, 0, "gw1", "availability 11-11, availability 11-12", nil},
		{"the next day grows", "c", 12, 1, "gw1", "availability 11-12", nil},
	} {
		e.next = nil
		putSamples(t, p, lake.SamplesKey(c.site, day(c.day), c.part), c.gateway, c.what)
		analyse(t, o)
		if got := e.took(); got != c.computed || !slices.Equal(e.next, c.nextOf10th) {
			t.Errorf("%s: %s, %v", c.what, got, e.next)
		}
	}
	state := deliveriesKey(day(11))
	was := get(t, p, state)
	for what, text := range map[string]string{"none": "", "damaged": "{", "of others": `{"version": 99, "days": {}}`} {
		if text == "" {
			must(t, p.Delete(context.Background(), state))
		} else {
			put(t, p, state, text)
		}
		analyse(t, o)
		if got := e.took(); got != "" || get(t, p, state) != was {
			t.Errorf("%s: %s, %s", what, got, get(t, p, state))
		}
	}
	// What is known of a file is not read again.
	put(t, p, state, strings.ReplaceAll(was, `"gw0"`, `"gw7"`))
	analyse(t, o)
	if got := e.took(); got != "availability 11-10" {
		t.Error(got)
	}
	must(t, p.Delete(context.Background(), state))
	key := lake.SamplesKey("c", day(11), 1)
	put(t, p, key, "no Parquet")
	if _, err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "read who delivered "+key+" of ") {
		t.Error(err)
	}
}

// TestSameSize: a file that is replaced by one of the same size is told by the
// hash in the manifest.
func TestSameSize(t *testing.T) {
	p, e := archive(t, false), &engine{t: t}
	o := options(t, p, e)
	o.Results = []string{"hourly"}
	write := func(sum string) {
		t.Helper()
		m := &manifest.Manifest{Version: manifest.Version, Table: "p-samples-2026-w46", Week: "2026-w46", Written: day(20)}
		m.Hash = fmt.Sprintf("%x", sha256.Sum256(nil))
		m.Files = []manifest.File{{Key: lake.SamplesKey("c", day(11), 0), Bytes: 19, Rows: 1, SHA256: strings.Repeat(sum, 64)}}
		if err := manifest.Write(context.Background(), p, m); err != nil {
			t.Fatal(err)
		}
	}
	write("0")
	analyse(t, o)
	if got := e.took(); got != "hourly 11-10, hourly 11-11" {
		t.Error(got)
	}
	write("1")
	analyse(t, o)
	if got := e.took(); got != "hourly 11-11" {
		t.Error(got)
	}
}

// TestCatalogue: of the catalogue, what a result reads of it counts.
func TestCatalogue(t *testing.T) {
	p, e := archive(t, false), &engine{t: t, same: true}
	o := options(t, p, e)
	analyse(t, o)
	e.took()
	counter := lake.Entry{Tag: "c/d/n", Counter: true, Gateway: "gw1", Stream: "s1"}
	const days = "%[1]s 11-10, %[2]s 11-10, %[1]s 11-11, %[2]s 11-11"
	for _, c := range []struct {
		what    string
		entries []lake.Entry
		want    string
	}{
		{"another gateway", []lake.Entry{counter}, "availability 11-10, availability 11-11"},
		{"a description", []lake.Entry{{Tag: "c/d/n", Counter: true, Gateway: "gw1", Stream: "s1", Description: "x", Since: day(3)}}, ""},
		{"a new thermometer", []lake.Entry{counter, {Tag: "c/d/t"}}, "availability 11-10, availability 11-11"},
		{"a counter's end", []lake.Entry{{Tag: "c/d/n", Counter: true, Gateway: "gw1", Stream: "s1", CounterMax: 65535}, {Tag: "c/d/t"}}, "energy 11-10, energy 11-11"},
		{"no counter any more", []lake.Entry{{Tag: "c/d/n", Gateway: "gw1", Stream: "s1"}, {Tag: "c/d/t"}}, fmt.Sprintf(days, "energy", "anomaly")},
	} {
		putCatalogue(t, p, c.entries...)
		analyse(t, o)
		if got := e.took(); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	// Without gaps nobody is concerned.
	must(t, p.Delete(context.Background(), lake.GapsKey("c", day(10), 0)))
	analyse(t, o)
	e.took()
	putCatalogue(t, p, counter)
	analyse(t, o)
	if got := e.took(); strings.Contains(got, "availability") {
		t.Error(got)
	}
	put(t, p, lake.CatalogueKey("c", 0), "no Parquet")
	if _, err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "read catalogue/site=c/part-00000.parquet of ") {
		t.Error(err)
	}
}

// TestGoesOn: a run that fails or is interrupted at any step leaves what is done,
// and the next one does the rest.
func TestGoesOn(t *testing.T) {
	for _, interrupted := range []bool{false, true} {
		for _, at := range []int{1, 2, 6, 10} {
			p := archive(t, false)
			ctx, cancel := context.WithCancel(context.Background())
			e := &engine{t: t, fail: at}
			if interrupted {
				e.cancel = cancel
			}
			o := options(t, p, e)
			_, err := Run(ctx, o)
			if interrupted != errors.Is(err, ErrInterrupted) || !interrupted && (err == nil || !strings.Contains(err.Error(), "the disk is full")) {
				t.Errorf("at %d: %v", at, err)
			}
			cancel()
			before := len(e.seen)
			e.fail = 0
			analyse(t, o)
			if got := e.took(); got != all || before != at-1 {
				t.Errorf("at %d: %d before, %s", at, before, got)
			}
		}
	}
}

// TestStateIsWrittenLast: an output without its state is made again, and a state
// whose output is gone, or is another, too.
func TestStateIsWrittenLast(t *testing.T) {
	p, e := archive(t, false), &engine{t: t}
	o := options(t, p, e)
	o.Results = []string{"hourly"}
	analyse(t, o)
	e.took()
	key := result.Key("hourly", day(10), 0)
	for what, change := range map[string]func(){
		"no state":          func() { must(t, p.Delete(context.Background(), stateKey("hourly", day(10)))) },
		"a damaged state":   func() { put(t, p, stateKey("hourly", day(10)), "{") },
		"a state of others": func() { put(t, p, stateKey("hourly", day(10)), `{"version": 99, "days": {}}`) },
	} {
		change()
		analyse(t, o)
		if got := e.took(); got != "hourly 11-10, hourly 11-11" {
			t.Errorf("%s: %s", what, got)
		}
	}
	for what, change := range map[string]func(){
		"no output":      func() { must(t, p.Delete(context.Background(), key)) },
		"another output": func() { put(t, p, key, "half") },
	} {
		change()
		analyse(t, o)
		if got := e.took(); got != "hourly 11-10" {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// TestWhatItIsMadeOf: a result brings those up to date that it is made of, also
// of days before the range.
func TestWhatItIsMadeOf(t *testing.T) {
	p, e := archive(t, false), &engine{t: t}
	o := options(t, p, e)
	o.Results, o.From, o.To = []string{"anomaly"}, day(11), day(12)
	r := analyse(t, o)
	if got := e.took(); got != "hourly 11-10, energy 11-10, hourly 11-11, energy 11-11, anomaly 11-11" {
		t.Error(got)
	}
	if !r.First.Equal(day(11)) {
		t.Error(r.First)
	}
	o.Results, o.From, o.To = nil, day(10), day(11)
	analyse(t, o)
	if got := e.took(); got != "availability 11-10, kpi 11-10, anomaly 11-10" {
		t.Error(got)
	}
}

// TestNoRows: a day without rows has no file, and is not computed again. A file
// that was there before goes.
func TestNoRows(t *testing.T) {
	p, e := archive(t, false), &engine{t: t}
	o := options(t, p, e)
	o.Results = []string{"hourly"}
	analyse(t, o)
	e.took()
	e.none = true
	putSamples(t, p, lake.SamplesKey("c", day(11), 1), "gw1", "more")
	r := analyse(t, o)
	if got := e.took(); got != "hourly 11-11" || get(t, p, result.Key("hourly", day(11), 0)) != "" {
		t.Error(got)
	}
	if r.Counts[0] != (Count{"hourly", 1, 1, 0}) {
		t.Errorf("%+v", r.Counts)
	}
	analyse(t, o)
	if got := e.took(); got != "" {
		t.Error(got)
	}
}

func TestNothingThere(t *testing.T) {
	e := &engine{t: t}
	p, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, p, e)
	if r := analyse(t, o); !r.First.IsZero() || len(r.Counts) != 0 {
		t.Errorf("%+v", r)
	}
	o = options(t, archive(t, false), e)
	o.From = day(12)
	if r := analyse(t, o); !r.First.IsZero() {
		t.Errorf("%+v", r)
	}
	o.Results = []string{"hurly"}
	if _, err := Run(context.Background(), o); err == nil {
		t.Error("no error")
	}
}

// TestFetched: files of a bucket are on this machine while they are needed, and
// not longer.
func TestFetched(t *testing.T) {
	p, e := archive(t, true), &engine{t: t}
	o := options(t, p, e)
	o.Results = []string{"availability"}
	analyse(t, o)
	m, ok := o.Engine.(*Machine)
	if !ok {
		t.Fatal("no machine")
	}
	list, err := filepath.Glob(filepath.Join(m.Dir, "fetched", "*"))
	if err != nil || len(list) != 5 {
		t.Errorf("%d files: %v", len(list), err)
	}
	must(t, m.Close())
	if list, _ := filepath.Glob(filepath.Join(m.Dir, "fetched", "*")); len(list) != 0 {
		t.Error(list)
	}
	in := Input{View: Samples, Key: lake.SamplesKey("c", day(11), 0), Size: 18}
	must(t, os.MkdirAll(filepath.Join(m.Dir, "fetched"), 0o750))
	if _, err := m.path(context.Background(), in); err == nil || !strings.Contains(err.Error(), "replaced meanwhile") {
		t.Error(err)
	}
	if list, _ := filepath.Glob(filepath.Join(m.Dir, "fetched", "*")); len(list) != 0 {
		t.Error(list)
	}
}

// meter records what it is told.
type meter struct {
	total, done int64
	ended       bool
}

func (m *meter) Add(n int64) { m.done += n }
func (m *meter) Done()       { m.ended = true }

func TestProgress(t *testing.T) {
	p, e := archive(t, false), &engine{t: t}
	o := options(t, p, e)
	var m meter
	o.Progress = func(total int64) Progress { m.total = total; return &m }
	analyse(t, o)
	if m.total == 0 || m.done != m.total || !m.ended {
		t.Errorf("%+v", m)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestTexts: each result has a text, which names its views and no other, begins
// with what it is and says where its formula is from.
func TestTexts(t *testing.T) {
	var names []string
	for _, r := range result.All() {
		names = append(names, r.Name+".sql")
		text, err := Text(r.Name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(text, "-- "+r.Name+": ") {
			t.Errorf("%s begins with %.40q", r.Name, text)
		}
		for _, word := range []string{"-- Source: ", "-- Views: ", "quality", "gaps"} {
			if !strings.Contains(text, word) && !strings.Contains(strings.ToLower(text), word) {
				t.Errorf("%s does not say %q", r.Name, word)
			}
		}
	}
	files, err := texts.ReadDir(".")
	must(t, err)
	for _, f := range files {
		if !slices.Contains(names, f.Name()) {
			t.Errorf("%s is no result's", f.Name())
		}
	}
	if _, err := Text("hurly"); err == nil {
		t.Error("no error")
	}
}
