package file

import "errors"

// chunk is how much is gathered before it is written.
const chunk = 256 << 10

// writeFault is why a block was not written: the block itself, or the disk.
type writeFault struct {
	err     error
	refused bool
}

// encoder
type encoder struct{}

// write puts one block into the current file.
func (s *sink) write(data []byte) *writeFault {
	if s.conf.Format == FormatBlock {
		s.buf = appendRecord(s.buf[:0], data)
		return s.flush()
	}
	return &writeFault{errors.New("pending"), true}
}

func (s *sink) flush() *writeFault {
	err := s.cur.write(s.buf)
	s.buf = s.buf[:0]
	if cap(s.buf) > 2*chunk {
		s.buf = nil
	}
	if err != nil {
		return &writeFault{err: err}
	}
	return nil
}
