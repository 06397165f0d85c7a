// Package manifest is the contract between who archives a week table and who
// may delete it then. A manifest says what was archived, by counts and hashes,
// and where. It is written last: where there is one, its files are whole.
//
// It is an object beside the archive's files, at the key that Key returns. A
// table is archived when Verify says that what the table holds and what the
// manifest says are the same, and CheckFiles that the files are there.
package manifest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"millrace/cloud/objects"
	"millrace/sample/weektable"
)

// Version is the version of the form. A reader refuses any other.
const Version = 1

// ErrVersion says that a manifest is of a newer form than this program reads.
var ErrVersion = errors.New("a newer version")

// maxBytes bounds a manifest that is read.
const maxBytes = 256 << 20

// Manifest says what was archived of one week table.
type Manifest struct {
	Version int       `json:"version"` // Version
	Table   string    `json:"table"`   // as in plant-samples-2026-w48
	Week    string    `json:"week"`    // as in 2026-w48
	Written time.Time `json:"written"`
	// Items and Samples are sums over Streams.
	Items   int64 `json:"items"`
	Samples int64 `json:"samples"` // in the blocks' headers, before any is taken for a duplicate
	// Hash is over all streams; see Sum.
	Hash    string   `json:"hash"`
	Streams []Stream `json:"streams"` // by Partition
	// Late are the keys of late blocks (weektable.LateKey) that are archived too.
	// They are not among Items.
	Late []string `json:"late,omitempty"`
	// Files are the archive's own, which hold all of it.
	Files []File `json:"files"`
	// Days say of each site's days of UTC what their files were made of, so that
	// another run leaves alone what has not changed. In order of site and date.
	Days []Day `json:"days,omitempty"`
}

// Day is what was archived of one site's samples of one day of UTC.
type Day struct {
	Site       string `json:"site"`
	Date       string `json:"date"` // as in 2026-11-28
	Blocks     int64  `json:"blocks"`
	Rows       int64  `json:"rows"`
	Duplicates int64  `json:"duplicates"` // samples left out, since they are among the rows already
	// Hash is over the digests (Digest) of the blocks that have samples of the day,
	// in ascending order.
	Hash string `json:"hash"`
}

// Stream is what was archived of one partition of the table.
type Stream struct {
	Partition string `json:"partition"` // site#gateway#stream
	Items     int64  `json:"items"`
	Samples   int64  `json:"samples"`
	Hash      string `json:"hash"` // see Sum
}

// File is one file of the archive.
type File struct {
	Key    string `json:"key"` // beside the manifest's, in the same place
	Bytes  int64  `json:"bytes"`
	Rows   int64  `json:"rows"`
	SHA256 string `json:"sha256"` // of its bytes, in hexadecimal
}

// Key returns the key of a table's manifest in the archive.
func Key(table string) string { return "manifests/" + table + ".json" }

// Write stores m, which has to be whole: every file of it is in place already.
func Write(ctx context.Context, place objects.Place, m *Manifest) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("BUG: manifest of %s: %w", m.Table, err)
	}
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return place.Put(ctx, Key(m.Table), append(text, '\n'))
}

// Read reads a table's manifest. The error wraps objects.ErrNone where there is
// none.
func Read(ctx context.Context, place objects.Place, table string) (*Manifest, error) {
	text, err := objects.Read(ctx, place, Key(table), maxBytes)
	if err != nil {
		return nil, err
	}
	m := &Manifest{}
	// A newer form may have fields that this one has not.
	if err := json.Unmarshal(text, &struct {
		Version *int `json:"version"`
	}{&m.Version}); err == nil && m.Version > Version {
		return nil, fmt.Errorf("%w: its version is %d, and this program reads %d", ErrVersion, m.Version, Version)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("it is no manifest: %w", err)
	}
	if m.Table != table {
		return nil, fmt.Errorf("it is that of table %q", m.Table)
	}
	return m, m.check()
}

// check says what in a manifest contradicts itself.
func (m *Manifest) check() error {
	if m.Version != Version {
		return fmt.Errorf("its version is %d, and this program reads %d", m.Version, Version)
	}
	prefix, _, ok := weektable.ParseTable(m.Table)
	if !ok || m.Week != strings.TrimPrefix(m.Table, prefix+"-samples-") {
		return fmt.Errorf("table %q and week %q are not those of one week", m.Table, m.Week)
	}
	var items, samples int64
	for i, s := range m.Streams {
		if i > 0 && m.Streams[i-1].Partition >= s.Partition {
			return fmt.Errorf("stream %q is not in its order", s.Partition)
		}
		if s.Items < 1 || s.Samples < 0 {
			return fmt.Errorf("stream %q has %d items and %d samples", s.Partition, s.Items, s.Samples)
		}
		items, samples = items+s.Items, samples+s.Samples
	}
	if items != m.Items || samples != m.Samples {
		return fmt.Errorf("its streams add up to %d items and %d samples, and it says %d and %d", items, samples, m.Items, m.Samples)
	}
	if hash := hashOf(m.Streams); hash != m.Hash {
		return fmt.Errorf("its streams' hash is %s, and it says %s", hash, m.Hash)
	}
	if m.Items > 0 && len(m.Files) == 0 {
		return errors.New("it names no file")
	}
	return nil
}

// Sum adds up the items of a table, in any order. It takes 32 bytes of memory
// for each.
//
// The hash of a stream is the SHA-256 over its items' digests in ascending order;
// an item's digest is the SHA-256 of its partition key, a zero byte, its sort
// key, a zero byte and the CRC-32C of its block's bytes without the last four
// (weektable.Checksum), in 8 hexadecimal digits. The hash of all is the SHA-256
// over "partition\x00items\x00samples\x00hash\n" of each stream in order.
type Sum struct{ streams map[string]*streamSum }

type streamSum struct {
	samples int64
	digests [][sha256.Size]byte
}

// NewSum returns the sum of nothing.
func NewSum() *Sum { return &Sum{streams: map[string]*streamSum{}} }

// Add adds an item: its keys, the checksum of the block that it really holds,
// and how many samples the block's header counts.
func (s *Sum) Add(pk, sk string, checksum uint32, samples int) {
	one := s.streams[pk]
	if one == nil {
		one = &streamSum{}
		s.streams[pk] = one
	}
	one.samples += int64(samples)
	one.digests = append(one.digests, Digest(pk, sk, checksum))
}

// Digest is an item's digest: see Sum.
func Digest(pk, sk string, checksum uint32) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%08x", pk, sk, checksum))
}

// Streams returns the streams by name.
func (s *Sum) Streams() []Stream {
	out := []Stream{}
	for pk, one := range s.streams {
		slices.SortFunc(one.digests, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
		h := sha256.New()
		for i := range one.digests {
			h.Write(one.digests[i][:])
		}
		out = append(out, Stream{Partition: pk, Items: int64(len(one.digests)), Samples: one.samples, Hash: hex.EncodeToString(h.Sum(nil))})
	}
	slices.SortFunc(out, func(a, b Stream) int { return strings.Compare(a.Partition, b.Partition) })
	return out
}

func hashOf(streams []Stream) string {
	h := sha256.New()
	for _, s := range streams {
		fmt.Fprintf(h, "%s\x00%d\x00%d\x00%s\n", s.Partition, s.Items, s.Samples, s.Hash)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// New returns the manifest of what a sum holds, with these files.
func New(table string, written time.Time, s *Sum, files []File, late []string) *Manifest {
	m := &Manifest{Version: Version, Table: table, Written: written.UTC(), Streams: s.Streams(), Files: files, Late: late}
	if prefix, _, ok := weektable.ParseTable(table); ok {
		m.Week = strings.TrimPrefix(table, prefix+"-samples-")
	}
	for _, one := range m.Streams {
		m.Items, m.Samples = m.Items+one.Items, m.Samples+one.Samples
	}
	m.Hash = hashOf(m.Streams)
	return m
}

// Verify says in what a table's sum differs from the manifest: the first stream
// that does. nil means that all that the table holds was archived, and nothing
// else.
func (m *Manifest) Verify(s *Sum) error {
	have := s.Streams()
	if hashOf(have) == m.Hash && slices.Equal(have, m.Streams) {
		return nil
	}
	archived := map[string]Stream{}
	for _, one := range m.Streams {
		archived[one.Partition] = one
	}
	for _, one := range have {
		was, ok := archived[one.Partition]
		delete(archived, one.Partition)
		switch {
		case !ok:
			return fmt.Errorf("stream %s, of %d items, is not in the archive", one.Partition, one.Items)
		case was.Items != one.Items || was.Samples != one.Samples:
			return fmt.Errorf("stream %s has %d items and %d samples, and %d and %d are archived", one.Partition, one.Items, one.Samples, was.Items, was.Samples)
		case was.Hash != one.Hash:
			return fmt.Errorf("stream %s has as many items as are archived, and other ones", one.Partition)
		}
	}
	for partition := range archived {
		return fmt.Errorf("stream %s is archived, and the table does not have it", partition)
	}
	return errors.New("its hash differs")
}

// CheckFiles reads every file that the manifest names, and says which is not
// there or was altered. read is told of bytes as they come; may be nil.
func (m *Manifest) CheckFiles(ctx context.Context, place objects.Place, read func(int64)) error {
	for _, f := range m.Files {
		if err := checkFile(ctx, place, f); err != nil {
			return fmt.Errorf("file %s of the archive: %w", f.Key, err)
		}
		if read != nil {
			read(f.Bytes)
		}
	}
	return nil
}

func checkFile(ctx context.Context, place objects.Place, f File) error {
	r, err := place.Get(ctx, f.Key)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); n != f.Bytes || sum != f.SHA256 {
		return fmt.Errorf("it has %d bytes of SHA-256 %s, and the manifest says %d of %s", n, sum, f.Bytes, f.SHA256)
	}
	return nil
}
