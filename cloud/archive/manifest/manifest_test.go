package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"millrace/cloud/objects"
)

const table = "plant-samples-2026-w40"

func folder(t *testing.T) objects.Place {
	place, err := objects.Parse(t.TempDir(), func() (*s3.Client, error) { return nil, errors.New("no S3") })
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// sum is that of three items of two streams, in the order given.
func sum(order ...int) *Sum {
	s := NewSum()
	for _, i := range order {
		switch i {
		case 1:
			s.Add("north#gw1#s0001", "2026-09-28T08:00:00Z#1", 0xabc, 100)
		case 2:
			s.Add("north#gw1#s0001", "2026-09-28T08:01:00Z#2", 0xdef, 50)
		case 3:
			s.Add("north#gw2#s0001", "2026-09-28T08:00:00Z#1", 0xabc, 7)
		}
	}
	return s
}

func TestWrittenAndRead(t *testing.T) {
	ctx := context.Background()
	place := folder(t)
	data := []byte("rows")
	hash := sha256.Sum256(data)
	file := File{Key: "samples/site=north/date=2026-09-28/part-0.parquet", Bytes: 4, Rows: 157, SHA256: hex.EncodeToString(hash[:])}
	if _, err := Read(ctx, place, table); !errors.Is(err, objects.ErrNone) {
		t.Fatalf("no manifest: %v", err)
	}
	m := New(table, time.Date(2026, 10, 6, 1, 0, 0, 0, time.UTC), sum(1, 2, 3), []File{file}, []string{"late/x"})
	if m.Items != 3 || m.Samples != 157 || m.Week != "2026-w40" || len(m.Streams) != 2 {
		t.Fatalf("%+v", m)
	}
	if err := Write(ctx, place, m); err != nil {
		t.Fatal(err)
	}
	got, err := Read(ctx, place, table)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Verify(sum(3, 2, 1)); err != nil {
		t.Errorf("another order: %v", err)
	}
	if err := got.CheckFiles(ctx, place, nil); !errors.Is(err, objects.ErrNone) {
		t.Errorf("the file is not there: %v", err)
	}
	for _, text := range []string{"rowz", "rows and more", ""} {
		if err := place.Put(ctx, file.Key, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := got.CheckFiles(ctx, place, nil); err == nil {
			t.Errorf("the file is %q: no error", text)
		}
	}
	if err := place.Put(ctx, file.Key, data); err != nil {
		t.Fatal(err)
	}
	read := int64(0)
	if err := got.CheckFiles(ctx, place, func(n int64) { read += n }); err != nil || read != 4 {
		t.Errorf("%v, %d bytes", err, read)
	}
}

func TestVerifyNamesTheDifference(t *testing.T) {
	m := New(table, time.Now(), sum(1, 2, 3), []File{{}}, nil)
	other := sum(1, 3)
	other.Add("north#gw1#s0001", "2026-09-28T08:01:00Z#2", 0xdee, 50)
	fewer := sum(1, 3)
	fewer.Add("north#gw1#s0001", "2026-09-28T08:01:00Z#2", 0xdef, 49)
	more := sum(1, 2, 3)
	more.Add("south#gw1#s0001", "x", 1, 1)
	for name, c := range map[string]struct {
		have *Sum
		want string
	}{
		"one is not there":   {sum(1, 3), "stream north#gw1#s0001 has 1 items and 100 samples, and 2 and 150 are archived"},
		"another block":      {other, "as many items as are archived, and other ones"},
		"another count":      {fewer, "2 items and 149 samples"},
		"one stream more":    {more, "stream south#gw1#s0001, of 1 items, is not in the archive"},
		"one stream less":    {sum(1, 2), "stream north#gw2#s0001 is archived, and the table does not have it"},
		"nothing":            {NewSum(), "is archived, and the table does not have it"},
		"twice the same":     {sum(1, 2, 2, 3), "3 items and 200 samples"},
		"the same, in order": {sum(2, 1, 3), ""},
	} {
		err := m.Verify(c.have)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamagedManifests: one that contradicts itself, or is of another form, or
// was cut, proves nothing.
func TestDamagedManifests(t *testing.T) {
	ctx := context.Background()
	place := folder(t)
	if err := Write(ctx, place, New(table, time.Now(), sum(1, 2, 3), []File{{Key: "a"}}, nil)); err != nil {
		t.Fatal(err)
	}
	r, err := place.Get(ctx, Key(table))
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 1<<16)
	n, _ := r.Read(text)
	good := string(text[:n])
	for name, bad := range map[string]string{
		"cut":             good[:len(good)/2],
		"empty":           "",
		"another version": strings.Replace(good, `"version": 1`, `"version": 2`, 1),
		"another table":   strings.Replace(good, "plant-samples", "other-samples", 1),
		"another week":    strings.Replace(good, `"week": "2026-w40"`, `"week": "2026-w41"`, 1),
		"a count":         strings.Replace(good, `"samples": 157`, `"samples": 158`, 1),
		"a stream":        strings.Replace(good, `"items": 2`, `"items": 3`, 1),
		"a hash":          strings.Replace(good, `"hash": "`, `"hash": "0`, 1),
		"no file":         strings.Replace(good, `"files": [`, `"late": [`, 1),
		"unknown":         strings.Replace(good, `"version": 1`, `"version": 1, "verzion": 1`, 1),
	} {
		if bad == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		if err := place.Put(ctx, Key(table), []byte(bad)); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(ctx, place, table); err == nil {
			t.Errorf("%s: it is believed", name)
		}
	}
}

// TestNewerManifest: it is told from a damaged one, also where it has fields
// that this version does not know.
func TestNewerManifest(t *testing.T) {
	place := folder(t)
	for text, newer := range map[string]bool{`{"version": 2, "verzion": 1}`: true, `{"version": 2`: false, `{"version": 0}`: false, `{}`: false} {
		if err := place.Put(t.Context(), Key(table), []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(t.Context(), place, table); err == nil || errors.Is(err, ErrVersion) != newer {
			t.Errorf("%s: %v", text, err)
		}
	}
}
