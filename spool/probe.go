package spool

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// role says what a probed file is for.
type role string

const (
	roleTail    role = "tail"    // its state counts
	roleSegment role = "segment" // its blocks count
	roleDead    role = "dead"    // dead letters
)

// probeJob is what the child is to do. It travels as arguments.
type probeJob struct {
	Path string
	Role role
	// Index is where a segment's index is to be written; nowhere where empty.
	Index string
	// Salvage is where what can be read of a bad file is to be written; where
	// empty, the file is only looked at.
	Salvage string
	ID      uint64 // the segment's number

	sync func(*os.File) error // in place of Sync, in tests
}

// stored syncs what a rebuilt file has so far, and says that the child gets on:
// on a slow disk all of it at the end would take longer than a child that
// stalls is waited for.
func (j *probeJob) stored(p *pageFile, h *handle) error {
	sync := (*os.File).Sync
	if j.sync != nil {
		sync = j.sync
	}
	if err := sync(h.file); err != nil {
		return err
	}
	p.progress(progressEvery)
	return nil
}

func (j *probeJob) args() []string {
	return []string{
		"-role", string(j.Role), "-id", fmt.Sprint(j.ID), "-index", j.Index, "-salvage", j.Salvage, j.Path,
	}
}

// verdict is what the child says of a file.
type verdict string

const (
	verdictGood    verdict = "good"
	verdictCorrupt verdict = "corrupt"
	verdictNewer   verdict = "newer" // a later version of millrace wrote it
	verdictFull    verdict = "full"  // no space for what is to be written
	verdictFailed  verdict = "failed"
)

// probeReport is the child's answer, one line of JSON.
type probeReport struct {
	Verdict verdict `json:"verdict"`
	Why     string  `json:"why,omitempty"`
	// Of a salvage:
	Kept       bool         `json:"kept,omitempty"`      // the tail's state is whole
	Blocks     int          `json:"blocks,omitempty"`    // rescued
	Lost       []uint64     `json:"lost,omitempty"`      // numbers of blocks known by their headers alone
	Records    int          `json:"records,omitempty"`   // of the open tier, rescued
	Unknown    bool         `json:"unknown,omitempty"`   // more is lost than can be told
	Letters    int          `json:"letters,omitempty"`   // dead letters rescued
	LostDead   []DeadLetter `json:"lost_dead,omitempty"` // those without their bytes
	IndexBytes int64        `json:"index_bytes,omitempty"`
}

const (
	// progressByte is written now and then, before the report, by a child that
	// gets on.
	progressByte  = '.'
	progressEvery = 1 << 20 // bytes
)

// ProbeMain is the main function of the process that looks at files before the
// daemon maps them: it may crash or hang on what it finds. Args are those that
// Options.Probe was given. It writes its report to out and returns the exit
// code.
func ProbeMain(args []string, out io.Writer) int {
	var j probeJob
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar((*string)(&j.Role), "role", "", "")
	flags.Uint64Var(&j.ID, "id", 0, "")
	flags.StringVar(&j.Index, "index", "", "")
	flags.StringVar(&j.Salvage, "salvage", "", "")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		return 2
	}
	j.Path = flags.Arg(0)
	left := progressEvery
	report := j.run(func(n int) {
		if left -= n; left <= 0 {
			left = progressEvery
			// A parent that is gone does not matter any more.
			_, _ = out.Write([]byte{progressByte})
		}
	})
	if err := json.NewEncoder(out).Encode(report); err != nil {
		return 1
	}
	return 0
}

// run does the job. Progress is called with the bytes read, or written of a
// rebuilt file, since the last call.
func (j *probeJob) run(progress func(bytes int)) (r probeReport) {
	err := guard(j.Path, func() error {
		var err error
		r, err = j.look(progress)
		return err
	})
	var corrupt *corruptError
	switch {
	case err == nil:
		return r
	case errors.As(err, &corrupt):
		return probeReport{Verdict: verdictCorrupt, Why: corrupt.why}
	case outOfSpace(err):
		return probeReport{Verdict: verdictFull, Why: err.Error()}
	}
	return probeReport{Verdict: verdictFailed, Why: err.Error()}
}

func (j *probeJob) look(progress func(int)) (r probeReport, err error) {
	p, err := openPages(j.Path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	p.tick = func(bytes int64) { progress(int(bytes)) }
	if j.Role == roleDead {
		return j.lookDead(p)
	}
	v := newInventory(p)
	newest, other := p.newest()
	if newest.ok {
		v.take(newest)
	}
	if n, ok := v.format(); ok && n > format {
		return probeReport{Verdict: verdictNewer, Why: fmt.Sprint(n)}, nil
	}
	if j.Salvage != "" {
		return j.salvage(v, other)
	}
	if err := j.check(p, v.fault()); err != nil {
		return r, err
	}
	r = probeReport{Verdict: verdictGood}
	if j.Index != "" {
		r.IndexBytes, err = v.writeIndex(j)
	}
	return r, err
}

// format is the version of the layout, where it reads.
func (v *inventory) format() (n uint32, ok bool) {
	stored, ok := v.small[string(bucketState)][string(keyFormat)]
	b, ok2 := unsealed(keyFormat, stored)
	if !ok || !ok2 || len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// check fails with *corruptError where a file is not whole: its meta pages, its
// length, what was found in its pages, and what bbolt says of them. The pages
// come first: bbolt would follow circles for ever.
func (j *probeJob) check(p *pageFile, found error) error {
	bad := func(why string) error { return &corruptError{path: j.Path, why: why} }
	newest, other := p.newest()
	switch {
	case p.size == 0:
		return bad("it is empty")
	case !newest.ok:
		return bad("neither of its meta pages reads")
	case !other.ok:
		return bad("a meta page does not read, so that its last transaction may be gone")
	case int64(newest.high)*p.page > p.size:
		return bad(fmt.Sprintf("%d bytes are left of %d", p.size, int64(newest.high)*p.page))
	case found != nil:
		return bad(found.Error())
	}
	h, err := openFile(j.Path, &bolt.Options{ReadOnly: true, PreLoadFreelist: true, NoStatistics: true})
	if err != nil {
		return err
	}
	err = guard(j.Path, func() error {
		return h.View(func(tx *bolt.Tx) error {
			var first error
			for err := range tx.Check() {
				if first == nil {
					first = bad(err.Error())
				}
			}
			return first
		})
	})
	return errors.Join(err, h.Close())
}

// writeIndex writes the index of the blocks found.
func (v *inventory) writeIndex(j *probeJob) (int64, error) {
	numbers := v.numbers()
	x := index{first: 1, next: 1, size: v.p.size}
	if c, ok := v.counters(); ok { // of the last commit to the segment
		x.first, x.next = c.next, c.next
	}
	keys := make([][]byte, len(numbers))
	for i, n := range numbers {
		keys[i] = v.blocks[n].key
	}
	if len(numbers) > 0 {
		x.first, x.next = numbers[0], max(x.next, numbers[len(numbers)-1]+1)
	}
	data := x.append(nil, j.ID, keys)
	return int64(len(data)), writeDurably(j.Index, data)
}

// numbers lists the blocks whose headers were found.
func (v *inventory) numbers() []uint64 {
	numbers := make([]uint64, 0, len(v.blocks))
	for n := range v.blocks {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

func (v *inventory) counters() (counters, bool) {
	stored, ok := v.small[string(bucketState)][string(keyCounters)]
	b, ok2 := unsealed(keyCounters, stored)
	if !ok || !ok2 {
		return counters{}, false
	}
	return readCounters(b)
}

// oldIndex reads the index that a bad segment has, where it has one.
func (j *probeJob) oldIndex() (x index, keys [][]byte, ok bool) {
	data, err := os.ReadFile(indexPath(j.Path))
	if err != nil || j.Role != roleSegment {
		return x, nil, false
	}
	if x, ok = parseIndex(data, j.ID); !ok {
		return x, nil, false
	}
	for i := range x.headers {
		at := indexHead + i*blockKeyLen
		keys = append(keys, data[at:at+blockKeyLen])
	}
	return x, keys, true
}
