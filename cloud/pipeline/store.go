package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/cloud/state"
)

// Store is the table of runs and their lock.
type Store struct {
	state.Table
	// Now is the wall clock, for people to read. Nothing but a new run's id is
	// taken from it.
	Now func() time.Time
}

// NewStore returns the table of runs of a prefix.
func NewStore(db state.DB, prefix string, now func() time.Time, sleep func(context.Context, time.Duration) bool) *Store {
	return &Store{Table: state.Table{DB: db, Name: Table(prefix), Sleep: sleep}, Now: now}
}

// Table is the name of the table of runs.
func Table(prefix string) string { return prefix + "-pipeline" }

// The items: the lock is one, and each run is one, by its id. Both have a
// fence, the number of the lock's holder.
const (
	pkLock    = "lock"
	pkRun     = "run"
	attrRun   = "run"   // S: the Record as JSON
	attrFence = "fence" // N: rises with each holder
)

// Last returns the newest runs, the newest first. No table is no runs.
func (s *Store) Last(ctx context.Context, n int) ([]Record, error) {
	items, err := s.Table.Last(ctx, pkRun, n)
	if errors.Is(err, state.ErrNoTable) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var runs []Record
	for _, item := range items {
		r, err := s.record(item)
		if err != nil {
			return nil, err
		}
		runs = append(runs, *r)
	}
	return runs, nil
}

// get returns the run of an id, nil where there is none.
func (s *Store) get(ctx context.Context, id string) (*Record, error) {
	item, err := s.Get(ctx, pkRun, id)
	if err != nil || item == nil {
		return nil, err
	}
	return s.record(item)
}

func (s *Store) record(item state.Item) (*Record, error) {
	r := &Record{}
	if err := json.Unmarshal([]byte(item.Text(attrRun)), r); err != nil {
		return nil, fmt.Errorf("table %s, run %s: what it holds does not read: %w; delete the item", s.Name, item.Text("sk"), err)
	}
	return r, nil
}

// put stores a run. Its error wraps ErrLost where a later holder of the lock has
// written it: the condition is on the fence, so that who was away for longer
// than its lease changes nothing.
func (s *Store) put(ctx context.Context, r *Record, fence uint64) error {
	data, err := json.Marshal(r)
	if err != nil {
		panic("BUG: a run does not encode: " + err.Error())
	}
	item := state.Item{"pk": state.Text(pkRun), "sk": state.Text(r.ID), attrRun: state.Text(string(data)), attrFence: state.Number(fence)}
	err = s.Put(ctx, item, "attribute_not_exists(pk) OR fence <= :fence", state.Item{":fence": state.Number(fence)})
	if errors.Is(err, state.ErrCondition) {
		return fmt.Errorf("run %s: %w: another run has written to it; nothing more is done here", r.ID, ErrLost)
	}
	return err
}

// Through is up to when the data of the last analysis is whole: the beginning of
// the archive stage before it. Zero where no run has come that far.
func (s *Store) Through(ctx context.Context, archive, analyze string) (time.Time, error) {
	runs, err := s.Last(ctx, lookBack)
	if err != nil {
		return time.Time{}, err
	}
	for i := range runs {
		a, b := runs[i].stage(archive), runs[i].stage(analyze)
		if a != nil && b != nil && a.State == Done && b.State == Done {
			return a.Started, nil
		}
	}
	return time.Time{}, nil
}

// lookBack is how many runs are looked through for one that came far enough.
const lookBack = 50
