package result

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// FuzzParse holds what is taken to encoding/json's reading of it, and to its
// way out and in again.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.json", "testdata/bad/*.json"} {
		for _, path := range files(f, pattern) {
			f.Add(read(f, path))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := Parse(body)
		var e *Error
		if err != nil {
			if !errors.As(err, &e) || e.Reason == "" || r != nil {
				t.Fatalf("%q: %+v, %v", body, r, err)
			}
			if e.Reason == NotJSON && e.Field == "" && json.Valid(body) {
				looksForbidden(t, body, e)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("taken, but no JSON: %q", body)
		}
		var plain struct {
			Schema, ID, Site, Target, Unit, Run string
			Version                             json.Number
		}
		if err := json.Unmarshal(body, &plain); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		if plain.ID != r.ID || plain.Site != r.Site || plain.Target != r.Target || plain.Unit != r.Unit || plain.Run != r.Run {
			t.Fatalf("%q is read as %+v", body, r)
		}
		text, err := r.Encode()
		if err != nil {
			if !errors.As(err, &e) || e.Reason != TooLarge {
				t.Fatalf("%q: encoded: %v", body, err)
			}
			return
		}
		if again, err := Parse(text); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%q comes back as %+v, %v, want %+v", body, again, err, r)
		}
	})
}

// looksForbidden fails where a text that encoding/json takes was refused as no
// JSON without one of the reasons for it: it is no object, too deep, has half a
// surrogate pair or is not UTF-8.
func looksForbidden(t *testing.T, body []byte, e *Error) {
	t.Helper()
	outer := bytes.TrimLeft(body, " \t\r\n")
	deep := bytes.Count(body, []byte("[")) + bytes.Count(body, []byte("{"))
	if outer[0] == '{' && deep <= maxDepth && !bytes.Contains(bytes.ToLower(body), []byte(`\ud`)) && bytes.Equal(body, bytes.ToValidUTF8(body, nil)) {
		t.Fatalf("refused though it is JSON: %q: %v", body, e)
	}
}
