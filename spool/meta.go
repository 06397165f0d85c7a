package spool

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"os"
)

// Of a bbolt meta page: its offset within the page, its length, and the
// checksum's offset within it, in bytes (internal/common/meta.go of bbolt).
const (
	metaOffset   = 16
	metaLen      = 64
	metaSumStart = 56
)

// wholeMetas reports whether both meta pages of a file pass their checksums.
// bbolt is content with one, and takes the file as it was a transaction ago
// where the newer does not read: what that transaction stored is gone without
// a word, and sequences would be given twice. A meta page fits a sector, so
// that a power cut does not tear it.
func wholeMetas(path string, page int) (ok bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var meta [metaLen]byte
	for i := range 2 {
		if _, err := f.ReadAt(meta[:], int64(i*page+metaOffset)); errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		sum := fnv.New64a()
		sum.Write(meta[:metaSumStart])
		if sum.Sum64() != binary.NativeEndian.Uint64(meta[metaSumStart:]) {
			return false, nil
		}
	}
	return true, nil
}
