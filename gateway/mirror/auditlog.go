package mirror

import (
	"encoding/json"
	"fmt"

	"millrace/gateway/mirror/audit"
	"millrace/sample"
)

// auditLog is the journal on the audit log.
type auditLog struct{ *audit.Log }

func openJournal(cfg Config, s Settings) (journal, error) {
	l, err := audit.Open(audit.Options{Dir: s.Dir, Keep: cfg.AuditKeep, Log: s.Log, Clock: s.Clock})
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	return auditLog{l}, nil
}

// Append implements journal.
func (l auditLog) Append(entries []*entry) error {
	records := make([]*audit.Record, len(entries))
	for i, e := range entries {
		records[i] = &audit.Record{
			At: e.at, Kind: e.kind, Target: e.target, Feed: e.feed, Message: e.message, Cursor: e.cursor, ID: e.id, Version: e.version,
			Outcome: string(e.outcome), Reason: e.reason, Detail: e.detail, Old: valueOf(e.old), New: valueOf(e.new), Who: e.who,
		}
		if e.change.empty() {
			continue
		}
		var err error
		if records[i].State, err = json.Marshal(&e.change); err != nil {
			return fmt.Errorf("BUG: a change cannot be JSON: %w", err)
		}
	}
	if err := l.Log.Append(records...); err != nil {
		return err
	}
	for i, e := range entries {
		e.n, e.hash = records[i].N, records[i].Hash
	}
	return nil
}

func valueOf(v *sample.Value) *audit.Value {
	if v == nil {
		return nil
	}
	return audit.ValueOf(*v)
}

// Replay implements journal.
func (l auditLog) Replay(checkpoint func(json.RawMessage) error, record func(*entry) error) error {
	return l.Log.Replay(func(r *audit.Record) error {
		if r.Kind == audit.KindCheckpoint {
			return checkpoint(r.State)
		}
		e := &entry{kind: r.Kind, target: r.Target, feed: r.Feed, cursor: r.Cursor, n: r.N}
		if len(r.State) > 0 {
			if err := json.Unmarshal(r.State, &e.change); err != nil {
				return fmt.Errorf("audit record %d: its change of the state: %w", r.N, err)
			}
		}
		return record(e)
	})
}
