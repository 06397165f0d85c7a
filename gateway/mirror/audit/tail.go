package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// place is where a line stands.
type place struct {
	file   string
	line   int   // from 1
	offset int64 // of its first byte
	end    int64 // behind it
}

// String names the place for people.
func (p place) String() string { return fmt.Sprintf("%s line %d", p.file, p.line) }

// errStop ends a reading without an error.
var errStop = errors.New("enough")

// readFile reads a file line by line. fn gets each record, or what is wrong
// with the line.
func readFile(dir string, number int, fn func(p place, r *Record, problem error) error) error {
	f, err := os.Open(filepath.Join(dir, fileName(number)))
	if err != nil {
		return err
	}
	defer f.Close()
	in := newLines(f)
	for at := 1; ; at++ {
		line, whole, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", fileName(number), err)
		}
		p := place{fileName(number), at, in.offset, in.end}
		r, problem := (*Record)(nil), errors.New("it is not complete")
		if whole {
			r, problem = parse(line)
		}
		if err := fn(p, r, problem); errors.Is(err, errStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// tail is what is whole of the newest file.
type tail struct {
	before string // Prev of its first record
	size   int64  // of what is whole
	cut    int64  // bytes behind that
	n      uint64 // of the last whole record
	hash   string
}

// chain follows the numbers and hashes from record to record.
type chain struct {
	began bool
	n     uint64
	hash  string
}

// problem says what is wrong with r as the next record, or nil.
func (c *chain) problem(r *Record) error {
	switch {
	case !c.began:
		return nil
	case r.N != c.n+1:
		return fmt.Errorf("record %d follows on record %d", r.N, c.n)
	case r.Prev != c.hash:
		return fmt.Errorf("record %d does not follow on record %d as it stands here: one of them was changed or exchanged", r.N, c.n)
	}
	return nil
}

func (c *chain) took(r *Record) { c.began, c.n, c.hash = true, r.N, r.Hash }

// readTail reads the newest file and finds its end.
//
// What was appended together counts as a whole or not at all. A crash leaves
// the last append in any shape: missing in part, with zeros, with its end
// there and its beginning not. It was never acknowledged, so it is cut off.
// But an append begins only once the one before is durable. So a line that is
// wrong, with a record of a later append behind it, was durable once: that is
// damage, and no crash.
func readTail(dir string, number int) (*tail, error) {
	var (
		t       tail
		c       chain
		whole   chain  // at the end of the last whole append
		first   error  // what is wrong first, with its place
		behind  uint64 // the number that the wrong record should have
		damaged bool
	)
	err := readFile(dir, number, func(p place, r *Record, problem error) error {
		if first != nil {
			if problem == nil {
				from, _ := r.batch()
				damaged = damaged || from > behind
			}
			return nil
		}
		if problem == nil {
			// No crash makes a record whose own hash fits and that stands wrong.
			problem = c.problem(r)
			damaged = problem != nil
		}
		if problem == nil && !c.began && r.Kind != KindCheckpoint {
			problem = errors.New("the file does not begin with a checkpoint")
		}
		if problem != nil {
			first, behind = fmt.Errorf("%s: %w", p, problem), c.n+1
			return nil
		}
		if !c.began {
			t.before = r.Prev
		}
		c.took(r)
		if _, last := r.batch(); last == r.N {
			whole, t.size = c, p.end
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(filepath.Join(dir, fileName(number)))
	if err != nil {
		return nil, err
	}
	if damaged || !whole.began {
		if first == nil {
			first = fmt.Errorf("%s: it holds no record", fileName(number))
		}
		return nil, damage(dir, first)
	}
	t.cut, t.n, t.hash = info.Size()-t.size, whole.n, whole.hash
	return &t, nil
}

// damage says what an operator does about a log that was whole once.
func damage(dir string, err error) error {
	return fmt.Errorf("%w; see `millrace mirror audit verify --dir %s`, and bring the file back from a copy; or move the folder away "+
		"to begin anew: then a result that was applied before may be applied once more", err, dir)
}

// followsFile checks that the file before ends with the record that the newest
// follows on.
func followsFile(dir string, number int, want string) error {
	var last *Record
	err := readFile(dir, number, func(_ place, r *Record, problem error) error {
		last = r
		if problem != nil {
			last = nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	if last == nil || last.Hash != want {
		return damage(dir, fmt.Errorf("%s does not follow on the end of %s: one of them was changed, exchanged or cut off", fileName(number+1), fileName(number)))
	}
	return nil
}
