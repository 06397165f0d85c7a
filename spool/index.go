package spool

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"millrace/internal/failpoint"
)

// An index file holds the headers of a segment's blocks, so that a start knows
// what the segment holds without opening it. README.md has the layout.
const (
	indexSuffix = ".idx"
	indexMagic  = "MRINDEX1"
	indexHead   = 44 // bytes before the headers
)

// index is what an index file says.
type index struct {
	first, next uint64 // as in segment
	size        int64  // of the segment's file when it was written; it only grows
	headers     []blockHeader
	bytes       int64 // of the index file
}

func indexPath(segment string) string {
	return strings.TrimSuffix(segment, segmentSuffix) + indexSuffix
}

func (x *index) append(to []byte, id uint64, keys [][]byte) []byte {
	start := len(to)
	to = append(to, indexMagic...)
	for _, n := range [...]uint64{id, x.first, x.next, uint64(x.size)} {
		to = binary.BigEndian.AppendUint64(to, n)
	}
	to = binary.BigEndian.AppendUint32(to, uint32(len(keys)))
	for _, k := range keys {
		to = append(to, k...)
	}
	return binary.BigEndian.AppendUint32(to, checksum(to[start:]))
}

// parseIndex reads an index file's bytes. It returns false where they are not
// those of a whole index of segment id.
func parseIndex(b []byte, id uint64) (x index, ok bool) {
	end := len(b) - crcLen
	if end < indexHead || string(b[:len(indexMagic)]) != indexMagic ||
		binary.BigEndian.Uint32(b[end:]) != checksum(b[:end]) || binary.BigEndian.Uint64(b[8:]) != id {
		return x, false
	}
	x.first, x.next = binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	x.size = int64(binary.BigEndian.Uint64(b[32:]))
	n := int(min(binary.BigEndian.Uint32(b[40:]), uint32(end/blockKeyLen)))
	if end != indexHead+n*blockKeyLen || x.first == 0 || x.first > x.next || x.next-x.first < uint64(n) {
		return x, false
	}
	x.headers = make([]blockHeader, 0, n)
	for at := indexHead; at < end; at += blockKeyLen {
		h, ok := readBlockKey(b[at : at+blockKeyLen])
		last := x.first - 1
		if k := len(x.headers); k > 0 {
			last = x.headers[k-1].Number
		}
		if !ok || h.Number <= last || h.Number >= x.next {
			return x, false
		}
		x.headers = append(x.headers, h)
	}
	return x, true
}

// readIndex reads a segment's index. It returns false where there is none, it
// does not read, or the segment has become shorter since it was written. A disk
// that fails below the index is no error either: the segment tells the same.
func readIndex(g *segment) (x index, ok bool, err error) {
	data, _ := os.ReadFile(indexPath(g.path)) // what is not all of it has no checksum
	if x, ok = parseIndex(data, g.id); !ok {
		return x, false, nil
	}
	size, err := fileSize(g.path)
	if err != nil || size < x.size {
		return x, false, err
	}
	x.size, x.bytes = size, int64(len(data))
	return x, true, nil
}

// adopt makes memory follow an index.
func (g *segment) adopt(x *index) {
	g.size, g.indexSize = x.size, x.bytes
	g.first, g.next, g.entries = x.first, x.next, entries{}
	at := x.first
	for i := range x.headers {
		for ; at < x.headers[i].Number; at++ {
			g.entries.add(hole)
		}
		g.entries.add(entryOf(&x.headers[i].Info))
		at++
	}
	for ; at < x.next; at++ {
		g.entries.add(hole)
	}
	g.entries.clip()
}

// writeIndex makes a segment's index durable, but for its name: the caller
// syncs the directory. It returns the file's size.
func (s *Spool) writeIndex(g *segment) (int64, error) {
	x := index{first: g.first, next: g.next}
	var keys [][]byte
	err := g.view(s.now(), func(tx *bolt.Tx) error {
		g.blocks(tx, 0, func(_ *blockHeader, key []byte) bool {
			keys = append(keys, slices.Clone(key))
			return true
		})
		var err error
		x.size, err = fileSize(g.path)
		return err
	})
	if err != nil {
		return 0, err
	}
	return s.storeIndex(g, x.append(nil, g.id, keys))
}

// storeIndex writes an index file under a temporary name and renames it.
func (s *Spool) storeIndex(g *segment, data []byte) (int64, error) {
	path := indexPath(g.path)
	if err := writeDurably(path+tempSuffix, data); err != nil {
		return 0, err
	}
	if err := s.hooks.at("index written"); err != nil {
		return 0, err
	}
	return int64(len(data)), os.Rename(path+tempSuffix, path)
}

// writeDurably writes and syncs a file, or leaves none.
func writeDurably(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if failpoint.On(failpoint.NoSync) {
		return nil
	}
	return f.Sync()
}

// removeIndex removes a segment's index, where there is one.
func removeIndex(segment string) error {
	err := os.Remove(indexPath(segment))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// headers calls fn for each block's header until fn returns false. They come
// from the index where there is one: the segment is not touched then.
func (s *Spool) headers(g *segment, fn func(h *blockHeader) bool) error {
	s.mu.Lock()
	has := g.indexSize > 0 // the tail's, where a rotation failed, is not up to date
	s.mu.Unlock()
	x, ok, err := index{}, false, error(nil)
	if has {
		x, ok, err = readIndex(g)
	}
	if err != nil {
		return err
	}
	if ok {
		for i := range x.headers {
			if !fn(&x.headers[i]) {
				return nil
			}
		}
		return nil
	}
	return g.view(s.now(), func(tx *bolt.Tx) error {
		g.blocks(tx, 0, func(h *blockHeader, _ []byte) bool { return fn(h) })
		return nil
	})
}
