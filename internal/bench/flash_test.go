package main

import (
	"errors"
	"testing"
	"time"

	"millrace/gateway/batch"
	"millrace/spool"
)

// What a commit writes does not depend on the machine, so it is a test too: the
// kernel's 130 bytes a sample leave room for five pages a commit and no more.
func TestPagesOfACommit(t *testing.T) {
	const polls, page = 150, 4096
	var commits, pages, samples float64
	class := batch.Class{MaxAge: time.Hour, MaxBytes: blockBytes}
	var l *line
	l, err := newLine(t.Context(), t.TempDir(), 1, time.Hour, class, func(c *spool.Commit, written uint64) {
		if l == nil {
			return // what the opening stores
		}
		commits++
		pages += float64(written) / page
		for i := range c.Blocks {
			l.store.Ack("out", c.Blocks[i].Number)
			samples += float64(c.Blocks[i].Count)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	opening := float64(l.store.Stats().Commits)
	for k := range polls {
		if err := l.emit(t.Context(), k, true); err != nil {
			t.Fatal(errors.Join(err, l.finish()))
		}
		if err := l.store.Tend(); err != nil {
			t.Error(err)
		}
	}
	took, transactions := commits, float64(l.store.Stats().Commits)-opening
	perSample := pages * page / (polls * float64(len(l.polls[0][0])))
	if err := l.finish(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f bytes a sample in pages, %.2f pages a commit", perSample, pages/took)
	if samples == 0 {
		t.Error("nothing was sealed")
	}
	if perSample > 115 {
		t.Errorf("%.1f bytes a sample in pages, at most 115 are wanted: %.2f pages a commit", perSample, pages/took)
	}
	if transactions > took {
		t.Errorf("%.0f transactions for %.0f commits: something has one of its own", transactions, took)
	}
}
