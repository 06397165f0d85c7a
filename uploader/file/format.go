package file

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// The block file: the magic, then records. docs/file-sink.md specifies it.
const (
	magic        = "MLRBLK1\n"
	recordHeader = 8       // length and CRC-32C of the data, each 32 bits little endian
	maxRecord    = 1 << 28 // bytes of data; a larger length is no length
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord appends one record.
func appendRecord(b, data []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(data, castagnoli))
	return append(b, data...)
}

// TornError says that a block file ends within a record, or that a record does
// not match its checksum. What stands before At is whole.
type TornError struct {
	Path   string
	At     int64 // offset of the first byte that is not part of a whole record
	Reason string
}

// Error implements error.
func (e *TornError) Error() string {
	return fmt.Sprintf("read %s: at byte %d: %s; what stands before is whole", e.Path, e.At, e.Reason)
}

// ReadFile calls fn with the bytes of each block of a block file, in the order
// in which they were delivered. The slice is overwritten by the next call. An
// error of fn ends the reading and is returned. A file that does not end with a
// whole record returns a *TornError after the whole ones; one that is still
// being written (.part) can.
func ReadFile(path string, fn func(data []byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = readRecords(f, path, fn)
	return err
}

// readRecords returns the offset behind the last whole record.
func readRecords(f io.Reader, path string, fn func(data []byte) error) (int64, error) {
	r := bufio.NewReaderSize(f, 64<<10)
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != magic {
		if err != nil && !isEnd(err) {
			return 0, err
		}
		return 0, &TornError{path, 0, "it does not begin as a block file"}
	}
	at := int64(len(magic))
	var data []byte
	for {
		var h [recordHeader]byte
		if _, err := io.ReadFull(r, h[:]); err == io.EOF {
			return at, nil
		} else if err != nil {
			return at, ended(err, path, at, "the header of a record is cut off")
		}
		n, sum := binary.LittleEndian.Uint32(h[:]), binary.LittleEndian.Uint32(h[4:])
		if n > maxRecord {
			return at, &TornError{path, at, fmt.Sprintf("a record of %d bytes", n)}
		}
		var err error
		if data, err = readData(r, data, int(n)); err != nil {
			return at, ended(err, path, at, "a record is cut off")
		}
		if crc32.Checksum(data, castagnoli) != sum {
			return at, &TornError{path, at, "a record does not match its checksum"}
		}
		if err := fn(data); err != nil {
			return at, err
		}
		at += recordHeader + int64(n)
	}
}

// readData reads n bytes, in steps: memory grows with what is there and not
// with what a torn length claims.
func readData(r io.Reader, buf []byte, n int) ([]byte, error) {
	buf = buf[:0]
	for len(buf) < n {
		step := min(n-len(buf), 1<<20)
		start := len(buf)
		buf = append(buf, make([]byte, step)...)
		if _, err := io.ReadFull(r, buf[start:]); err != nil {
			return buf[:0], err
		}
	}
	return buf, nil
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func ended(err error, path string, at int64, reason string) error {
	if isEnd(err) {
		return &TornError{path, at, reason}
	}
	return err
}

// wholeLines returns the offset behind the last line end.
func wholeLines(f io.Reader) (int64, error) {
	r := bufio.NewReaderSize(f, 64<<10)
	whole, at := int64(0), int64(0)
	for {
		part, err := r.ReadSlice('\n')
		at += int64(len(part))
		switch {
		case err == nil:
			whole = at
		case err == io.EOF:
			return whole, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return whole, err
		}
	}
}
