package warehouse

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// String is a line for people.
func (t TargetReport) String() string {
	text := fmt.Sprintf("%s: loaded %d rows of %d files in %d folders; %d folders are as they were", t.Name, t.Rows, t.Files, t.Folders, t.Kept)
	if t.Gone > 0 {
		text += fmt.Sprintf("; %d that are loaded are not in the archive any more", t.Gone)
	}
	return text
}

// State is what is loaded into one table, and what the archive has beyond it.
type State struct {
	Name     string
	Folders  int
	Rows     int64
	Newest   time.Time // the last day that is loaded; zero for none, and for the catalogue
	LoadedAt string    // UTC, of the last load
	// Pending are folders that are not loaded, or whose files have another size or
	// hash now. A file of the same size that no manifest names is taken for the
	// same: only loading reads it.
	Pending int
	Gone    int // as in TargetReport
}

// Status compares the ledger with the archive. It reads no file.
func Status(ctx context.Context, o Options) ([]State, error) {
	l, ts, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	var out []State
	for _, t := range ts {
		p, err := l.plan(ctx, t)
		if err != nil {
			return nil, err
		}
		s := State{Name: t.name, Gone: p.gone}
		for key, entry := range p.ledger {
			if entry.empty() {
				continue
			}
			s.Folders++
			for _, f := range entry.files {
				s.Rows += f.Rows
				s.LoadedAt = max(s.LoadedAt, f.loadedAt)
			}
			if f, ok := t.folderOf(key + firstFile); ok && f.day.After(s.Newest) {
				s.Newest = f.day
			}
		}
		s.LoadedAt, _, _ = strings.Cut(s.LoadedAt, ".")
		for _, f := range p.folders {
			if same, known := p.ledger[f.key].likely(f, l.hashes); known && !same {
				s.Pending++
			}
		}
		out = append(out, s)
	}
	return out, nil
}
