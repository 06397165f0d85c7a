package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/objects"
	"millrace/cloud/tables"
	"millrace/sample/weektable"
)

// Due returns the weeks that have something to be archived, oldest first: those
// that are over and have a table without a manifest, or with another count of
// items than it; and those with late blocks that no manifest names. DynamoDB
// brings its count up to date about every six hours, so what came since is due
// then.
func Due(ctx context.Context, m *tables.Manager, place objects.Place) ([]string, error) {
	rows, err := m.List(ctx)
	if err != nil {
		return nil, err
	}
	items := map[string]int64{}
	for _, r := range rows {
		if _, _, ok := weektable.ParseTable(r.Table); ok && r.Age >= 0 {
			items[r.Table] = r.Items
		}
	}
	late := map[string][]string{}
	begin := "late/" + m.Prefix + "-samples-"
	err = place.List(ctx, begin, func(key string, _ int64) error {
		table, _, _ := strings.Cut(strings.TrimPrefix(key, "late/"), "/")
		if prefix, _, ok := weektable.ParseTable(table); ok && prefix == m.Prefix {
			late[table] = append(late[table], key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s in %s: %w", begin, place, err)
	}
	names := map[string]bool{}
	for table := range items {
		names[table] = true
	}
	for table := range late {
		names[table] = true
	}
	var weeks []string
	for _, table := range sorted(names) {
		have, there := items[table]
		due, err := isDue(ctx, place, table, have, there, late[table])
		if err != nil {
			return nil, err
		}
		if due {
			weeks = append(weeks, strings.TrimPrefix(table, m.Prefix+"-samples-"))
		}
	}
	return weeks, nil
}

func isDue(ctx context.Context, place objects.Place, table string, items int64, there bool, late []string) (bool, error) {
	man, err := manifest.Read(ctx, place, table)
	switch {
	case errors.Is(err, objects.ErrNone):
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil:
		return true, nil //nolint:nilerr // its run says what is wrong with it
	case there && items != man.Items:
		return true, nil
	}
	return slices.ContainsFunc(late, func(key string) bool { return !slices.Contains(man.Late, key) }), nil
}
