package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"millrace/internal/failpoint"
)

// makeDir creates dir durably, and each folder above it that is not there: one
// that a power cut takes would take the spool along. It returns what it made,
// also where it fails.
func makeDir(dir string) (made []string, err error) {
	if _, err := os.Stat(dir); err == nil {
		return nil, nil
	}
	above := filepath.Dir(dir)
	if above != dir {
		if made, err = makeDir(above); err != nil {
			return made, err
		}
	}
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		made = append(made, dir)
	case !errors.Is(err, fs.ErrExist):
		return made, err
	}
	return made, syncDir(above)
}

// removeDirs removes empty folders, the last first.
func removeDirs(dirs []string) error {
	var errs []error
	for _, d := range slices.Backward(dirs) {
		errs = append(errs, os.Remove(d))
	}
	return errors.Join(errs...)
}

// tidy removes what interrupted changes left: temporary files, an index of the
// tail, and marks of what is not the tail any more.
func (s *Spool) tidy(ids []uint64) error {
	if s.readOnly {
		return nil
	}
	list, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return err
	}
	tail := ""
	if n := len(ids); n > 0 {
		tail = filepath.Base(segmentPath("", ids[n-1]))
	}
	for _, e := range list {
		name := e.Name()
		stale := strings.HasSuffix(name, tempSuffix)
		if segment, isMark := strings.CutSuffix(name, badSuffix); isMark {
			stale = segment != tail
		}
		if stem, isIndex := strings.CutSuffix(name, indexSuffix); isIndex {
			stale = stem+segmentSuffix == tail
		}
		if !stale {
			continue
		}
		if err := os.Remove(filepath.Join(s.o.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// finishOpening stores what recovery found.
func (s *Spool) finishOpening(op *opening) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	failpoint.At("spool: state read")
	s.measure()
	if op.change {
		err := s.store("open", 0, func() *change {
			c := s.newChange()
			c.damaged = op.tail.damaged
			for _, l := range op.lost {
				c.addLoss(l, CauseCorrupt, s.now())
			}
			for i := range op.deadLost {
				s.addDeadLoss(c, &op.deadLost[i], CauseCorrupt)
			}
			if op.loseDead {
				c.addLoss(Loss{Stream: NoStream, Unknown: true}, CauseCorrupt, s.now())
				c.losses[len(c.losses)-1].Dead = allDead
			}
			return c
		})
		if err != nil {
			return err
		}
	}
	if err := s.removeOrphans(op); err != nil {
		return err
	}
	if err := s.finishDead(op); err != nil {
		return err
	}
	if err := s.removeDeclaredDead(); err != nil {
		return err
	}
	for _, g := range s.segs {
		if err := s.declareLocked(g, g.lost); err != nil {
			return err
		}
		g.lost = nil
	}
	// An eviction that was declared and not finished shows as drained. Nobody
	// has acknowledged anything yet but durably.
	for _, g := range s.segs[:len(s.segs)-1] {
		g.left = s.drained(g)
	}
	if _, err := s.dropDrained(); err != nil {
		return err
	}
	if !s.maintained {
		s.restoreReserve()
	}
	failpoint.At("spool: opened")
	return nil
}
