package worker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"

	"millrace/cloud/objects"
)

// shut is a place that takes nothing.
type shut struct {
	objects.Place
	err error
}

func (s *shut) Put(context.Context, string, []byte) error { return s.err }
func (s *shut) String() string                            { return "s3://archive" }

// TestLateBlocksDoNotSlowOthers: where the archive takes no late blocks, those
// are held, and all others go on.
func TestLateBlocksDoNotSlowOthers(t *testing.T) {
	for name, err := range map[string]error{"denied": &smithy.GenericAPIError{Code: "AccessDenied"}, "no answer": errors.New("connection reset")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log book
				m := newMemory(t)
				for i, b := range blocks(t, 300) {
					if i%5 == 0 {
						m.add(messageOf(t, blockOf(t, header(uint64(1000+i)), time.Now().AddDate(-3, 0, 0), 1)))
					}
					m.add(messageOf(t, b))
				}
				o := options(&log)
				place := &shut{err: err}
				o.Late = place
				w, stop := start(t, o, m)
				time.Sleep(10 * time.Second)
				if n := m.stored(); n != 300 {
					t.Errorf("%d of 300 blocks are stored after 10 s", n)
				}
				if n := w.Counts(); m.left() != 60 || n.Late != 0 || log.count("held: late blocks cannot be stored") != 1 {
					t.Errorf("%d left, %+v, log %s", m.left(), n, log.text.String())
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
