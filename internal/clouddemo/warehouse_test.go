package clouddemo

import (
	"context"
	"strings"
	"testing"

	"millrace/cloud/warehouse"
)

// table is a warehouse that answers every count and every mean alike.
type table struct{ count, mean string }

func (table) Dialect() warehouse.Dialect                 { return warehouse.PostgreSQL }
func (table) Run(context.Context, warehouse.Batch) error { return nil }
func (d table) Query(_ context.Context, sql string) ([][]string, error) {
	if strings.Contains(sql, "count(*)") {
		return [][]string{{d.count}}, nil
	}
	if d.mean == "" {
		return nil, nil
	}
	return [][]string{{d.mean}}, nil
}

// testWarehouse sees that a warehouse with other figures is told from the
// archive.
func testWarehouse(t *testing.T, w *world) {
	defer func() { w.o.Warehouse = nil }()
	w.o.Warehouse = table{"3", "1.5"}
	said := strings.Join(w.again(t, w.warehouseAccount), "\n")
	for _, want := range []string{"samples has 3 rows, the archive has ", "hourly has 3 rows, the archive has ", `is "1.5", the logger recorded`} {
		if !strings.Contains(said, want) {
			t.Errorf("the account says %q, not %q", said, want)
		}
	}
	w.o.Warehouse = table{"", ""}
	if said := strings.Join(w.again(t, w.warehouseAccount), "\n"); !strings.Contains(said, `is "", the logger recorded`) {
		t.Errorf("an empty warehouse: %q", said)
	}
}
