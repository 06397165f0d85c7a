package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"millrace/sample"
)

func TestListIsInTheOrderOfDelivery(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{
		"20261123T112600.000Z-000000000010.mrb":        "123",
		"20261123T112500.000Z-000000000011.jsonl":      "12", // the clock was set back
		"20261123T112700.000Z-000000000012.jsonl.part": "1",
		"20261123T112400.000Z-000000000009.mrb":        "",
		".lock":                                        "", "notes.txt": "x", "20261123T112400.000Z-9.mrb": "x",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		got = append(got, fmt.Sprint(s.Number, s.Format, s.Bytes, s.Unfinished))
	}
	if want := "[9block0 false 10block3 false 11jsonl2 false 12jsonl1 true]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := List(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestReadLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.jsonl")
	var text []byte
	long := make([]byte, 100<<10) // longer than the reader's buffer
	for i := range long {
		long[i] = 'x'
	}
	values := []sample.Value{sample.IntValue(1), sample.StringValue(string(long)), sample.FloatValue(2.5)}
	for i, v := range values {
		text = append(sample.AppendJSONLine(text, &sample.Sample{Tag: "a/b/c", Value: v, Time: int64(i)}), '\n')
	}
	read := func(data []byte) (n int, err error) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		err = ReadLines(path, func(s *sample.Sample) error {
			if s.Value != values[n] || s.Time != int64(n) {
				t.Errorf("line %d is %v", n, s.Time)
			}
			n++
			return nil
		})
		return n, err
	}
	if n, err := read(text); n != 3 || err != nil {
		t.Errorf("%d lines, %v", n, err)
	}
	var torn *TornError
	if n, err := read(text[:len(text)-3]); n != 2 || !errors.As(err, &torn) {
		t.Errorf("cut off: %d lines, %v", n, err)
	}
	if n, err := read(append(text[:len(text):len(text)], "nonsense\n"...)); n != 3 || err == nil {
		t.Errorf("nonsense: %d lines, %v", n, err)
	}
	stop := errors.New("stop")
	if err := ReadLines(path, func(*sample.Sample) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the caller: %v", err)
	}
}
