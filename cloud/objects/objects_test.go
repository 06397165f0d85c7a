package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// places are a folder and a bucket.
func places(t *testing.T) map[string]Place {
	t.Helper()
	backend := s3mem.New()
	fake := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(fake.Close)
	for _, bucket := range []string{"archive", "shared"} {
		if err := backend.CreateBucket(bucket); err != nil {
			t.Fatal(err)
		}
	}
	client := func() (*s3.Client, error) {
		return s3.New(s3.Options{Region: "eu-central-1", BaseEndpoint: &fake.URL, UsePathStyle: true,
			Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", "")}), nil
	}
	out := map[string]Place{}
	for _, where := range []string{filepath.Join(t.TempDir(), "deep", "folder"), "s3://archive", "s3://shared/plant/a"} {
		p, err := Parse(where, client)
		if err != nil || p.String() != where {
			t.Fatal(p, err)
		}
		out[where] = p
	}
	return out
}

func TestExists(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for where, want := range map[string]string{dir: "", filepath.Join(dir, "no"): "there is no folder " + filepath.Join(dir, "no") + ": correct the path", file: file + " is no folder: correct the path", "s3://plant": ""} {
		p, err := Parse(where, func() (*s3.Client, error) { return nil, nil })
		if err != nil {
			t.Fatal(err)
		}
		if err := Exists(p); err == nil && want != "" || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %q", where, err, want)
		}
	}
}

func TestPlaces(t *testing.T) {
	ctx := context.Background()
	for name, p := range places(t) {
		if _, err := p.Get(ctx, "a/b c/x%2F#.block"); !errors.Is(err, ErrNone) {
			t.Errorf("%s: nothing is there: %v", name, err)
		}
		for _, text := range []string{"first", "second, longer", ""} {
			if err := p.Put(ctx, "a/b c/x%2F#.block", []byte(text)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			r, err := p.Get(ctx, "a/b c/x%2F#.block")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, err := io.ReadAll(r)
			if err = errors.Join(err, r.Close()); err != nil || string(got) != text {
				t.Errorf("%s: %q, %v, want %q", name, got, err, text)
			}
		}
		if f, ok := p.(folder); ok {
			if list, err := os.ReadDir(filepath.Join(string(f), "a", "b c")); err != nil || len(list) != 1 {
				t.Errorf("%s: %v, %v", name, list, err)
			}
		}
	}
}

// TestFiles: of a part's size and beyond, where S3 takes it in parts.
func TestFiles(t *testing.T) {
	ctx := context.Background()
	name := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{0, 1000, partBytes, 2*partBytes + 7} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for where, p := range places(t) {
			if err := p.PutFile(ctx, "samples/a.parquet", name); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			r, err := p.Get(ctx, "samples/a.parquet")
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			got, err := io.ReadAll(r)
			if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v, want %d", where, len(got), err, size)
			}
			if err := p.PutFile(ctx, "samples/b.parquet", name+" of nobody"); err == nil {
				t.Errorf("%s: a file that is not there is stored", where)
			}
		}
	}
}

func TestListAndDelete(t *testing.T) {
	ctx := context.Background()
	for where, p := range places(t) {
		list := func(prefix string) (out []string) {
			t.Helper()
			if err := p.List(ctx, prefix, func(key string, size int64) error { out = append(out, fmt.Sprintf("%s %d", key, size)); return nil }); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			return out
		}
		if got := list("late/"); got != nil {
			t.Errorf("%s: nothing is there: %q", where, got)
		}
		for i, key := range []string{"late/a/2", "late/a-b", "late/a/1", "later", "late/b%2F c/x", "other/a"} {
			if err := p.Put(ctx, key, make([]byte, i)); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
		}
		for prefix, want := range map[string][]string{
			"late/": {"late/a-b 1", "late/a/1 2", "late/a/2 0", "late/b%2F c/x 4"}, "late/a/": {"late/a/1 2", "late/a/2 0"}, "late/a": {"late/a-b 1", "late/a/1 2", "late/a/2 0"},
			"lat": {"late/a-b 1", "late/a/1 2", "late/a/2 0", "late/b%2F c/x 4", "later 3"}, "none": nil,
		} {
			if got := list(prefix); !slices.Equal(got, want) {
				t.Errorf("%s: %q lists %q, want %q", where, prefix, got, want)
			}
		}
		if got := list(""); len(got) != 6 {
			t.Errorf("%s: all are %q", where, got)
		}
		stop := errors.New("stop")
		if err := p.List(ctx, "", func(string, int64) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("%s: the caller's error comes back as %v", where, err)
		}
		for range 2 {
			if err := p.Delete(ctx, "late/a/1"); err != nil {
				t.Errorf("%s: delete: %v", where, err)
			}
		}
		if got := list("late/a/"); len(got) != 1 {
			t.Errorf("%s: after it was deleted there are %q", where, got)
		}
	}
}

// TestListPages: S3 lists a thousand at once.
func TestListPages(t *testing.T) {
	p := places(t)["s3://shared/plant/a"]
	for i := range 1005 {
		if err := p.Put(t.Context(), fmt.Sprintf("late/%04d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	if err := p.List(t.Context(), "late/", func(string, int64) error { n++; return nil }); err != nil || n != 1005 {
		t.Errorf("%d keys, %v", n, err)
	}
}

func TestNoPlace(t *testing.T) {
	client := func() (*s3.Client, error) { return s3.New(s3.Options{}), nil }
	for _, where := range []string{"", "s3://", "s3:///prefix", "https://archive", "gs://bucket"} {
		if p, err := Parse(where, client); err == nil {
			t.Errorf("%q is %v", where, p)
		}
	}
	if _, err := Parse("s3://archive", func() (*s3.Client, error) { return nil, errors.New("no region") }); err == nil {
		t.Error("no client, no error")
	}
}

// TestNoBucket: a bucket that is missing is not an object that is missing.
func TestNoBucket(t *testing.T) {
	fake := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	defer fake.Close()
	p, err := Parse("s3://none", func() (*s3.Client, error) {
		return s3.New(s3.Options{Region: "eu-central-1", BaseEndpoint: aws.String(fake.URL), UsePathStyle: true,
			Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", "")}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Put(t.Context(), "a", nil); err == nil {
		t.Error("put: no error")
	}
	if _, err := p.Get(t.Context(), "a"); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("get: %v", err)
	}
}
