package uploader_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"millrace/uploader"
)

// Two tables that are missing take turns in the errors: that is one thing to
// say a minute, not two.
func TestReasonsThatTakeTurnsAreToldOnceAMinute(t *testing.T) {
	for _, class := range []uploader.Class{uploader.Hold, uploader.Transient} {
		bubble(t, func(t *testing.T) {
			s := newScript(func(_ context.Context, call int, b []uploader.Block) []error {
				err := fault(class)
				err.Object = fmt.Sprintf("table-%d", call%2)
				return fail(b, err)
			})
			r := newRig(t, s, uploader.Options{}, 20)
			r.start()
			after(time.Hour)
			r.stop(t)
			told, logged := len(r.health.seen()), bytes.Count(r.log.Bytes(), []byte("\n"))
			if told+logged > 62 || told+logged < 2 {
				t.Errorf("%s: in an hour Health was told %d times and %d lines were logged", class, told, logged)
			}
		})
	}
}
