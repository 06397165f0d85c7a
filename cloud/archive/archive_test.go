package archive

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"millrace/cloud/objects"
	"millrace/sample"
)

// TestEverySample: what went into blocks comes out of Parquet, bit by bit.
func TestEverySample(t *testing.T) {
	r := newRig(t)
	r.put("north", "gw1", "s0001", 1, every()...)
	r.fill()
	report := r.must()
	if report.Items != filledItems+1 || report.Rows != int64(len(r.once())) || report.Days != filledDays || report.Kept != 0 || report.WrittenFiles != filledDays {
		t.Errorf("%+v", report)
	}
	// Again: nothing is written.
	before := r.contents()
	report = r.must()
	if !report.Unchanged || report.Days != 0 || report.Kept != filledDays || report.WrittenFiles != 0 {
		t.Errorf("again: %+v", report)
	}
	r.same(before)
}

// same fails where the archive is not what it was.
func (r *rig) same(before map[string]string) {
	r.t.Helper()
	now := r.contents()
	for key, data := range now {
		if before[key] != data {
			r.t.Errorf("%s has changed", key)
		}
	}
	if len(now) != len(before) {
		r.t.Errorf("%d files, and %d before", len(now), len(before))
	}
}

// TestBlocksThatReachIntoOtherDays: over midnight, over the week's end, and over
// years.
func TestBlocksThatReachIntoOtherDays(t *testing.T) {
	r := newRig(t)
	r.put("north", "gw1", "s0001", 1, polled(1, 24*time.Hour-30*time.Second, 6)...)
	r.put("north", "gw1", "s0001", 2, polled(1, 7*24*time.Hour-30*time.Second, 6)...)
	r.put("north", "gw1", "s0001", 3, sample.Sample{Tag: "north/m1/old", Time: at(time.Hour), Value: sample.IntValue(1)},
		sample.Sample{Tag: "north/m1/old", Time: at(time.Hour), SourceTime: at(3 * 365 * 24 * time.Hour), Value: sample.IntValue(1)})
	// The next week's table has its own samples of that Monday.
	report := r.must()
	if report.Days != 5 || report.Items != 3 {
		t.Errorf("%+v", report)
	}
	want := []string{"samples/site=north/date=2026-09-28/part-00000.parquet", "samples/site=north/date=2026-09-29/part-00000.parquet", "samples/site=north/date=2026-10-04/part-00000.parquet",
		"samples/site=north/date=2026-10-05/part-02000.parquet", "samples/site=north/date=2029-09-27/part-312000.parquet"}
	for i, key := range r.list("samples/") {
		if i >= len(want) || key != want[i] {
			t.Errorf("file %d is %s", i, key)
		}
	}
}

// TestPlaces: a bucket of S3 and a folder.
func TestPlaces(t *testing.T) {
	backend := s3mem.New()
	fake := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(fake.Close)
	if err := backend.CreateBucket("archive"); err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{"s3://archive/plant", t.TempDir()} {
		r := newRig(t)
		var err error
		r.place, err = objects.Parse(where, func() (*s3.Client, error) {
			return s3.New(s3.Options{Region: "eu-central-1", BaseEndpoint: &fake.URL, UsePathStyle: true,
				Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", "")}), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		r.put("north", "gw1", "s0001", 1, polled(1, time.Hour, 6)...)
		r.put("a/b=c", "gw1", "s0001", 1, polled(1, time.Hour, 6)...)
		r.must()
		r.late("north", "gw1", "s0001", 2, polled(1, 30*time.Hour, 6)...)
		if report := r.must(); report.Days != 1 || report.Kept != 2 {
			t.Errorf("%s: %+v", where, report)
		}
		r.drop()
		r.late("north", "gw1", "s0001", 3, polled(1, 2*time.Hour, 6)...)
		r.must()
	}
}
