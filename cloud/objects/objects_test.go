package objects

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
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
	if err := backend.CreateBucket("archive"); err != nil {
		t.Fatal(err)
	}
	client := func() (*s3.Client, error) {
		return s3.New(s3.Options{Region: "eu-central-1", BaseEndpoint: &fake.URL, UsePathStyle: true,
			Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", "")}), nil
	}
	out := map[string]Place{}
	for _, where := range []string{filepath.Join(t.TempDir(), "deep", "folder"), "s3://archive", "s3://archive/plant/a"} {
		p, err := Parse(where, client)
		if err != nil || p.String() != where {
			t.Fatal(p, err)
		}
		out[where] = p
	}
	return out
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
