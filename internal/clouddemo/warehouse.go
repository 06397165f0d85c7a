package clouddemo

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"millrace/cloud/warehouse"
)

// Schema is where the demo has its tables in the warehouse. It is made anew, and
// stays.
const Schema = "millrace_demo"

// load brings results and samples into the warehouse, where there is one.
func (w *world) load(ctx context.Context) error {
	db := w.o.Warehouse
	if db == nil {
		return nil
	}
	for _, text := range []string{"DROP SCHEMA IF EXISTS " + Schema + " CASCADE;\n", warehouse.Script(db.Dialect(), Schema), warehouse.Views(db.Dialect(), Schema)} {
		if err := warehouse.Apply(ctx, db, "the demo's tables", text); err != nil {
			return err
		}
	}
	r, err := warehouse.Load(ctx, warehouse.Options{Archive: w.archive, DB: db, Schema: Schema, Results: w.o.Results, History: true,
		Dir: filepath.Join(w.dir, "work"), Log: w.log})
	if err != nil {
		return err
	}
	w.say("warehouse load: %d rows into schema %s", r.Rows(), Schema)
	return nil
}

// warehouseAccount holds the warehouse's tables against the archive.
func (w *world) warehouseAccount(ctx context.Context) error {
	if w.o.Warehouse == nil {
		return nil
	}
	rows, _, err := w.readArchive(ctx)
	if err != nil {
		return err
	}
	want := map[string]int{"samples": len(rows)}
	order := []string{"samples"}
	for _, res := range w.results() {
		list, err := w.readResults(ctx, res)
		if err != nil {
			return err
		}
		want[res.Name], order = len(list), append(order, res.Name)
	}
	const name = "warehouse"
	total := 0
	for _, table := range order {
		text, err := w.single(ctx, "SELECT count(*) FROM "+Schema+"."+table)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(text)
		if err != nil || n != want[table] {
			w.report.find(name, fmt.Sprintf("%s has %s rows, the archive has %d", table, text, want[table]))
		}
		if table != "samples" {
			total += n
			continue
		}
		w.report.Stages = append(w.report.Stages, Stage{Name: "samples in the warehouse", Count: n, Plant: -1})
	}
	w.report.Stages = append(w.report.Stages, Stage{Name: "rows of results in the warehouse", Count: total, Plant: -1})
	text, err := w.single(ctx, fmt.Sprintf("SELECT mean FROM %s.hourly WHERE tag = '%s' AND hour = '%s'", Schema, powerTag, w.logger.hour.Format("2006-01-02 15:04:05")))
	if err != nil {
		return err
	}
	if mean, err := strconv.ParseFloat(text, 64); err != nil || !same(mean, w.logger.mean(), 0) {
		w.report.find(name, fmt.Sprintf("the mean of %s is %q, the logger recorded %v", powerTag, text, w.logger.mean()))
	}
	return nil
}

// single asks the warehouse for one value; "" where there is no row.
func (w *world) single(ctx context.Context, sql string) (string, error) {
	rows, err := w.o.Warehouse.Query(ctx, sql)
	if err != nil {
		return "", fmt.Errorf("ask the warehouse: %w", err)
	}
	if len(rows) == 0 {
		return "", nil
	}
	return rows[0][0], nil
}
