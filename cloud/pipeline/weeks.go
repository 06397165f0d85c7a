package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/objects"
	"millrace/cloud/tables"
	"millrace/sample/weektable"
)

const week = 7 * 24 * time.Hour

// Weeks lists the weeks, as in 2026-w48, that are to be archived, the oldest
// first: the recent ones, this one among them; older ones that were never
// archived, that DynamoDB counts other items of than their manifest has, or that
// late blocks wait for. rows are the tables that there are. DynamoDB's count is
// free to ask and up to six hours old, so what it misses today is seen tomorrow.
func Weeks(ctx context.Context, rows []tables.Row, archive objects.Place, prefix string, recent int, now time.Time) ([]string, error) {
	late, err := lateBlocks(ctx, archive, prefix)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for table := range late {
		names[table] = true
	}
	items := map[string]int64{}
	for _, r := range rows {
		names[r.Table], items[r.Table] = true, r.Items
	}
	var due []string
	for table := range names {
		p, start, ok := weektable.ParseTable(table)
		if !ok || p != prefix || start.After(now) {
			continue // the one of unplaced blocks, or a week that has not begun
		}
		count, exists := items[table]
		if exists && start.Add(time.Duration(recent)*week).After(now) {
			due = append(due, table)
			continue
		}
		if changed(ctx, archive, table, exists, count, late[table]) {
			due = append(due, table)
		}
	}
	slices.Sort(due)
	for i := range due {
		due[i] = strings.TrimPrefix(due[i], prefix+"-samples-")
	}
	return due, nil
}

// lateBlocks lists the keys of late blocks by the table that they are of.
func lateBlocks(ctx context.Context, archive objects.Place, prefix string) (map[string][]string, error) {
	late := map[string][]string{}
	err := archive.List(ctx, "late/"+prefix+"-samples-", func(key string, _ int64) error {
		table, _, _ := strings.Cut(strings.TrimPrefix(key, "late/"), "/")
		late[table] = append(late[table], key)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list late blocks in %s: %w", archive, err)
	}
	return late, nil
}

// changed reports whether the archive of a table is not that of what there is. A
// manifest that does not read is for the archive to tell of.
func changed(ctx context.Context, archive objects.Place, table string, exists bool, items int64, late []string) bool {
	m, err := manifest.Read(ctx, archive, table)
	if err != nil {
		return exists || len(late) > 0
	}
	return exists && m.Items != items || slices.ContainsFunc(late, func(key string) bool { return !slices.Contains(m.Late, key) })
}

// Retirable lists the weeks whose tables are older than the retention and a day,
// the oldest first.
func Retirable(rows []tables.Row, prefix string, retention time.Duration, now time.Time) (weeks []string) {
	for _, r := range rows {
		p, start, ok := weektable.ParseTable(r.Table)
		if ok && p == prefix && !now.Before(start.Add(week+retention+24*time.Hour)) {
			weeks = append(weeks, strings.TrimPrefix(r.Table, prefix+"-samples-"))
		}
	}
	slices.Sort(weeks)
	return weeks
}
