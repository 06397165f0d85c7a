package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"millrace/cloud/archive"
	"millrace/cloud/archive/manifest"
	"millrace/cloud/catalogue"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/cloud/tables"
	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

// truth is what was issued: blocks of blockOf, and texts of the gateway's own.
type truth struct {
	blocks map[string][]issued // by tag
	texts  map[string]bool     // tag and text → seen
	seen   int
}

// issued is a block: sample i has the time first + i ms and the value i.
type issued struct {
	first int64
	seen  []bool
}

func newTruth() *truth { return &truth{blocks: map[string][]issued{}, texts: map[string]bool{}} }

func (tr *truth) issue(tag string, at time.Time, n int) {
	tr.blocks[tag] = append(tr.blocks[tag], issued{at.UnixNano(), make([]bool, n)})
}

// expect issues the texts of a system stream's block.
func (tr *truth) expect(t testing.TB, data []byte) {
	t.Helper()
	dec, err := block.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	b, err := dec.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	for s := range b.All() {
		tr.texts[s.Tag+" "+s.Value.Str()] = false
	}
}

// again forgets what was seen.
func (tr *truth) again() {
	tr.seen = 0
	for _, list := range tr.blocks {
		sort.Slice(list, func(i, j int) bool { return list[i].first < list[j].first })
		for _, b := range list {
			clear(b.seen)
		}
	}
	for text := range tr.texts {
		tr.texts[text] = false
	}
}

// see reports what is wrong with a sample: it was not issued so, or comes twice.
func (tr *truth) see(s *sample.Sample) error {
	if strings.Contains(s.Tag, "/$") {
		text := s.Tag + " " + s.Value.Str()
		if seen, ok := tr.texts[text]; seen || !ok {
			return fmt.Errorf("%s: issued %v, seen before %v", text, ok, seen)
		}
		tr.texts[text] = true
		tr.seen++
		return nil
	}
	list := tr.blocks[s.Tag]
	at, found := slices.BinarySearchFunc(list, s.Time, func(b issued, t int64) int {
		switch {
		case t < b.first:
			return 1
		case t >= b.first+int64(len(b.seen))*int64(time.Millisecond):
			return -1
		}
		return 0
	})
	if !found {
		return fmt.Errorf("%s at %d was not issued", s.Tag, s.Time)
	}
	i := (s.Time - list[at].first) / int64(time.Millisecond)
	if s.Value != sample.IntValue(i) || s.Quality != sample.Good || list[at].seen[i] {
		return fmt.Errorf("%s at %d is %v %v, want %d, or comes twice (%v)", s.Tag, s.Time, s.Value, s.Quality, i, list[at].seen[i])
	}
	list[at].seen[i] = true
	tr.seen++
	return nil
}

// archived archives every week of the ledger and holds the archive against the
// tables, by counts and hashes as `retire` does, and against what was issued.
func (c *cloud) archived(t *testing.T, store *catalogue.Store, tr *truth, total, gaps int) {
	t.Helper()
	began := time.Now()
	place, err := objects.Parse(t.TempDir(), func() (*s3.Client, error) { return nil, errors.New("no S3") })
	if err != nil {
		t.Fatal(err)
	}
	m := &tables.Manager{DB: c.db, Prefix: "plant", Now: time.Now().AddDate(3, 0, 0), Sleep: backoff.Sleep}
	rows, err := m.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tr.again()
	var items, samples, written, bytes int64
	lost := map[string]bool{}
	for _, row := range rows {
		if _, _, ok := weektable.ParseTable(row.Table); !ok {
			continue
		}
		week := strings.TrimPrefix(row.Table, "plant-samples-")
		o := archive.Options{DB: c.db, Place: place, Catalogue: store, Prefix: "plant", Week: week, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Sleep: backoff.Sleep}
		report, err := archive.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := m.Retire(t.Context(), place, week, 53*7*24*time.Hour, true, nil)
		if err != nil || proof.Items != report.Items || proof.Samples != report.Samples {
			t.Errorf("the archive of %s does not hold its table: %+v, %+v, %v", week, proof, report, err)
		}
		items, samples, written, bytes = items+report.Items, samples+report.Samples, written+report.Rows, bytes+report.Bytes
		man, err := manifest.Read(t.Context(), place, row.Table)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range man.Files {
			c.readArchived(t, place, f.Key, tr, lost)
		}
	}
	if samples != int64(total) || written != samples || tr.seen != total || len(lost) != gaps {
		t.Errorf("%d samples of %d archived, as %d rows, %d of them as issued; %d gap records of %d", samples, total, written, tr.seen, len(lost), gaps)
	}
	t.Logf("the archive of %d items: %d rows, each as issued and none twice, %d bytes; counts and hashes equal; archived and read again in %v",
		items, written, bytes, time.Since(began).Round(time.Millisecond))
}

func (c *cloud) readArchived(t *testing.T, place objects.Place, key string, tr *truth, lost map[string]bool) {
	t.Helper()
	k, ok := lake.ParseKey(key)
	if !ok || k.Kind == lake.Catalogue {
		return
	}
	o, err := objects.Open(context.WithoutCancel(t.Context()), place, key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if k.Kind == lake.Gaps {
		err = lake.ReadGaps(o, o.Size, func(g *lake.Gap) error { lost[g.ID] = true; return nil })
	} else {
		err = lake.Read(o, o.Size, lake.Filter{}, func(r *lake.Row) error {
			if day := time.Unix(0, r.Time).UTC().Format(time.DateOnly); day != k.Day.Format(time.DateOnly) {
				return fmt.Errorf("a row of %s", day)
			}
			return tr.see(&r.Sample)
		})
	}
	if err != nil {
		t.Errorf("%s: %v", key, err)
	}
}
