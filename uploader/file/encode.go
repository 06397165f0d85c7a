package file

import (
	"millrace/sample"
	"millrace/sample/block"
)

// chunk is how much is gathered before it is written: a block makes hundreds
// of thousands of lines.
const chunk = 256 << 10

// writeFault is why a block was not written: the block itself, or the disk.
type writeFault struct {
	err     error
	refused bool // the block does not decode
}

// write puts one block into the current file. A block that is refused leaves
// nothing there.
func (s *sink) write(data []byte) *writeFault {
	if s.conf.Format == FormatBlock {
		s.buf = appendRecord(s.buf[:0], data)
		return s.flush()
	}
	b, err := s.decode(data)
	if err != nil {
		return &writeFault{err, true}
	}
	for one := range b.All() {
		s.buf = append(sample.AppendJSONLine(s.buf, &one), '\n')
		if len(s.buf) < chunk {
			continue
		}
		if fault := s.flush(); fault != nil {
			return fault
		}
	}
	return s.flush()
}

func (s *sink) decode(data []byte) (*block.Block, error) {
	if s.decoder == nil {
		d, err := block.NewDecoder()
		if err != nil {
			return nil, err
		}
		s.decoder = d
	}
	return s.decoder.Decode(data)
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
