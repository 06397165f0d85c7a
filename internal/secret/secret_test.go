package secret

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func ref(t *testing.T, text string) Ref {
	t.Helper()
	var r Ref
	if err := r.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "broker"), []byte("s3cret \r\nsecond line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	t.Setenv("MILLRACE_TEST_SECRET", "from env")
	for text, want := range map[string]string{
		"credential:broker":                    "s3cret",
		"file:" + filepath.Join(dir, "broker"): "s3cret",
		"env:MILLRACE_TEST_SECRET":             "from env",
	} {
		if got, err := ref(t, text).Read(); err != nil || got != want {
			t.Errorf("%s reads %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"credential:none", "file:/no/such/file", "env:MILLRACE_NO_SUCH"} {
		if _, err := ref(t, text).Read(); err == nil {
			t.Errorf("%s reads without an error", text)
		}
	}
}

func TestLiteralIsRefusedAndNotRepeated(t *testing.T) {
	for _, text := range []string{"hunter2", "pass:hunter2", "credential:../hunter2"} {
		var r Ref
		err := r.UnmarshalText([]byte(text))
		if err == nil {
			t.Fatalf("%q was taken", text)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
}
