package sqs

import (
	"os"
	"path/filepath"
	"testing"

	"millrace/uploader"
	"millrace/uploader/sinktest"
)

// A key that ran out and is renewed in its file is taken up by the next try,
// without a restart.
func TestARenewedKeyIsReadFromItsFile(t *testing.T) {
	b := startBench(t, "plant", nil)
	c := b.config(t)
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("run-out\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Credentials.SecretAccessKey.UnmarshalText([]byte("file:" + path)); err != nil {
		t.Fatal(err)
	}
	s, err := c.Open(uploader.Settings{Name: "cloud"})
	if err != nil {
		t.Fatal(err)
	}
	block := sinktest.Opaque(1)
	for range 2 {
		if err := s.Send(t.Context(), []uploader.Block{block})[0]; uploader.Classify(err) != uploader.Hold {
			t.Fatalf("with a wrong key: %v", err)
		}
	}
	if err := os.WriteFile(path, []byte(secretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), []uploader.Block{block})[0]; err != nil {
		t.Errorf("after the key was renewed: %v", err)
	}
}
