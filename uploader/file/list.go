package file

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"millrace/sample"
)

// Stored is one file of a file sink.
type Stored struct {
	Path   string
	Format string // FormatBlock or FormatJSONL
	Number uint64 // rises in the order of delivery
	Bytes  int64
	// Unfinished is set where it is being written, or was when a crash came: it
	// may end within a record.
	Unfinished bool
}

// List returns the files of a file sink's directory in the order of delivery.
// Other files are left out.
func List(dir string) ([]Stored, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []Stored
	for _, e := range entries {
		m := fileName.FindStringSubmatch(e.Name())
		if m == nil || e.IsDir() {
			continue
		}
		n, err := strconv.ParseUint(m[2], 10, 64)
		if err != nil {
			continue // no name of ours
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // finished or removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		s := Stored{Path: filepath.Join(dir, e.Name()), Format: FormatBlock, Number: n, Bytes: info.Size(), Unfinished: m[4] != ""}
		if m[3] == extJSONL {
			s.Format = FormatJSONL
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Stored) int {
		switch {
		case a.Number < b.Number:
			return -1
		case a.Number > b.Number:
			return 1
		}
		return 0
	})
	return out, nil
}

// maxLine bounds a line of a JSON Lines file, in bytes: a string value of
// 64 KiB with every byte escaped, and more.
const maxLine = 4 << 20

// ReadLines calls fn with each sample of a JSON Lines file. A last line without
// its end returns a *TornError after the whole ones.
func ReadLines(path string, fn func(s *sample.Sample) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	at := int64(0)
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(line) < maxLine:
			continue
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return &TornError{path, at, "a line is cut off"}
		case err != nil:
			return fmt.Errorf("read %s: at byte %d: %w", path, at, err)
		}
		s, err := sample.ParseJSONLine(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			return fmt.Errorf("read %s: at byte %d: %w", path, at, err)
		}
		if err := fn(&s); err != nil {
			return err
		}
		at += int64(len(line))
		line = line[:0]
	}
}
