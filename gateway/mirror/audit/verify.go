package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxFaults bounds the faults that a report lists.
const maxFaults = 100

// Head is the end of a log as somebody else has noted it, such as the cloud
// from the status samples.
type Head struct {
	N    uint64
	Hash string
}

// ParseHead reads N:HASH.
func ParseHead(text string) (Head, error) {
	digits, hash, ok := strings.Cut(text, ":")
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || n == 0 || len(hash) != 64 || strings.Trim(hash, "0123456789abcdef") != "" {
		return Head{}, fmt.Errorf("%q is not NUMBER:HASH, as n and hash of a status sample", text)
	}
	return Head{n, hash}, nil
}

// Report is what a verification found.
type Report struct {
	Files   int      `json:"files"`
	Records uint64   `json:"records"`
	First   uint64   `json:"first"` // numbers of the first and the last record
	Last    uint64   `json:"last"`
	Hash    string   `json:"hash"`   // of the last record
	Faults  []string `json:"faults"` // one line each, the first 100
	More    int      `json:"more_faults,omitempty"`
	// Unfinished is how many bytes at the very end are not complete: an append
	// that is under way, or that a crash interrupted. It is no fault.
	Unfinished int64 `json:"unfinished_bytes,omitempty"`
}

// Whole reports whether nothing is wrong.
func (r *Report) Whole() bool { return len(r.Faults) == 0 }

func (r *Report) fault(format string, args ...any) {
	if len(r.Faults) >= maxFaults {
		r.More++
		return
	}
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

// Verify reads the whole log, beside a running daemon too, and names each
// place where the chain is broken. Each of heads has to be in it. progress, where not nil, is told
// how many bytes of all are done. An error means that the log could not be read.
func Verify(dir string, heads []Head, progress func(done, total int64)) (*Report, error) {
	numbers, err := list(dir)
	var missing *missingError
	rep := &Report{}
	if errors.As(err, &missing) {
		rep.fault("%s", missing)
	} else if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if len(numbers) == 0 {
		return nil, fmt.Errorf("audit log: there is none in %s; name its folder with --dir", dir)
	}
	v := verifier{rep: rep, heads: map[uint64]string{}, progress: progress}
	for _, h := range heads {
		v.heads[h.N] = h.Hash
	}
	for _, n := range numbers {
		info, err := os.Stat(filepath.Join(dir, fileName(n)))
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		v.total += info.Size()
	}
	for i, n := range numbers {
		v.newest, v.tail = i == len(numbers)-1, nil
		if i > 0 && numbers[i-1] != n-1 {
			v.c = chain{} // a file is missing, which is said
		}
		if err := v.file(dir, n); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
	}
	for _, h := range heads {
		if _, left := v.heads[h.N]; !left {
			continue
		}
		if h.N > rep.Last {
			rep.fault("the log ends with record %d, and record %d was there once: its end was cut off", rep.Last, h.N)
		} else {
			rep.fault("record %d, which was noted elsewhere, is not in the log any more", h.N)
		}
	}
	return rep, nil
}

// verifier is one verification.
type verifier struct {
	rep      *Report
	heads    map[uint64]string // not met yet
	progress func(done, total int64)
	total    int64
	done     int64
	newest   bool
	c        chain
	tail     []string // what is wrong at the end, which may be one that is not finished
	tailFrom int64
	torn     uint64 // the number that the first wrong record should have
}

func (v *verifier) file(dir string, number int) error {
	first, before, end := true, v.done, int64(0)
	err := readFile(dir, number, func(p place, r *Record, problem error) error {
		end = p.end
		v.done = before + p.end
		if v.progress != nil {
			v.progress(v.done, v.total)
		}
		if problem != nil {
			if len(v.tail) == 0 {
				v.tailFrom, v.torn = p.offset, v.c.n+1
			}
			v.tail = append(v.tail, fmt.Sprintf("%s: %v", p, problem))
			return nil
		}
		if from, _ := r.batch(); len(v.tail) > 0 && v.newest && v.c.began && from <= v.torn {
			return nil // the end of an append whose beginning is not there
		}
		v.settle() // what is wrong before a later append is no end
		if first && r.Kind != KindCheckpoint {
			v.rep.fault("%s: the file does not begin with a checkpoint; its beginning is missing", p)
		}
		first = false
		v.record(p, r)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) && !v.newest {
		// Retired while we read.
		v.c = chain{}
		return nil
	}
	if v.newest && len(v.tail) > 0 {
		v.rep.Unfinished, v.tail = end-v.tailFrom, nil
	}
	v.settle()
	v.rep.Files++
	return err
}

// settle counts what is wrong as faults.
func (v *verifier) settle() {
	for _, f := range v.tail {
		v.rep.fault("%s", f)
	}
	if len(v.tail) > 0 {
		v.c = chain{} // the next record follows on one that does not read
	}
	v.tail = nil
}

func (v *verifier) record(p place, r *Record) {
	if problem := v.c.problem(r); problem != nil {
		v.rep.fault("%s: %v", p, problem)
	}
	if v.rep.Records == 0 {
		v.rep.First = r.N
		if r.N == 1 && r.Prev != "" {
			v.rep.fault("%s: the first record of all names one before it", p)
		}
	}
	v.c.took(r)
	v.rep.Records++
	v.rep.Last, v.rep.Hash = r.N, r.Hash
	if want, ok := v.heads[r.N]; ok {
		delete(v.heads, r.N)
		if want != r.Hash {
			v.rep.fault("%s: record %d has another hash than was noted elsewhere: the log was made anew from there or before", p, r.N)
		}
	}
}
