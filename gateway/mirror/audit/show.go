package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Filter chooses records. What is zero chooses all.
type Filter struct {
	Target  string
	Outcome string
	Reason  string
	ID      string
	Since   time.Time
	// Last is how many are shown, the newest; 0 is all.
	Last int
}

func (f *Filter) wants(r *Record) bool {
	switch {
	case r.Kind == KindCheckpoint:
		return false // no decision
	case f.Target != "" && r.Target != f.Target,
		f.Outcome != "" && r.Outcome != f.Outcome,
		f.Reason != "" && r.Reason != f.Reason,
		f.ID != "" && r.ID != f.ID,
		r.At.Before(f.Since):
		return false
	}
	return true
}

// Show hands over the records that the filter chooses, oldest first. It works
// beside a running daemon, and passes over lines that do not read: Verify is
// what names those.
func Show(dir string, f Filter, fn func(*Record) error) error {
	numbers, err := list(dir)
	var missing *missingError
	if err != nil && !errors.As(err, &missing) {
		return fmt.Errorf("audit log: %w", err)
	}
	if len(numbers) == 0 {
		return fmt.Errorf("audit log: there is none in %s; name its folder with --dir", dir)
	}
	var newest []*Record // a ring of f.Last
	met := 0
	for _, n := range numbers {
		err := readFile(dir, n, func(_ place, r *Record, problem error) error {
			if problem != nil || !f.wants(r) {
				return nil
			}
			if f.Last == 0 {
				return fn(r)
			}
			if len(newest) < f.Last {
				newest = append(newest, r)
			} else {
				newest[met%f.Last] = r
			}
			met++
			return nil
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue // retired while we read
		}
		if err != nil {
			return err
		}
	}
	for i := range newest {
		if err := fn(newest[(met+i)%len(newest)]); err != nil {
			return err
		}
	}
	return nil
}
