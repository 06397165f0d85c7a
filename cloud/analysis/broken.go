package analysis

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"millrace/cloud/analysis/result"
	"millrace/cloud/lake"
)

// BrokenError says that a file is not whole, and so cannot be computed from.
type BrokenError struct {
	Place, Key string
	Cause      error // what the engine said
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("%s of %s is no whole Parquet file: %s (%v)", e.Key, e.Place, remedy(e.Key), e.Cause)
}

func (e *BrokenError) Unwrap() error { return e.Cause }

// remedy is what brings a file back.
func remedy(key string) string {
	if k, ok := lake.ParseKey(key); ok && !k.Day.IsZero() {
		year, week := k.Day.ISOWeek()
		return fmt.Sprintf("archive the week again (`millrace-cloud archive %d-w%02d`) while its table is there, or restore the file", year, week)
	}
	if _, _, _, ok := result.ParseKey(key); ok {
		return "delete it and run the analysis again, which makes it anew"
	}
	return "restore it, or delete it and archive a week again (`millrace-cloud archive WEEK`)"
}

// wholeParquet looks at a file's two ends: "PAR1" at both, and a footer that has
// room between them (Apache Parquet format, "File format"). A file that cannot be
// looked at is taken for whole, since then it is not its contents that are at fault.
func wholeParquet(path string) bool {
	const magic = "PAR1"
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return true
	}
	const least = 3 * len(magic) // two of them and the footer's length
	if info.Size() < int64(least) {
		return false
	}
	var head [4]byte
	var tail [8]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return true
	}
	if _, err := f.ReadAt(tail[:], info.Size()-int64(len(tail))); err != nil {
		return true
	}
	footer := int64(binary.LittleEndian.Uint32(tail[:4]))
	return string(head[:]) == magic && string(tail[4:]) == magic && footer <= info.Size()-int64(least)
}
