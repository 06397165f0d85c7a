package clouddemo

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"millrace/cloud/catalogue"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/sample"
	"millrace/sample/ledger"
)

// readArchive reads all samples of the archive, tag by tag in the order of time.
func (w *world) readArchive(ctx context.Context) (rows []lake.Row, files int, err error) {
	err = w.archive.List(ctx, string(lake.Samples)+"/", func(key string, _ int64) error {
		files++
		data, err := objects.Read(ctx, w.archive, key, 0)
		if err != nil {
			return err
		}
		err = lake.Read(bytes.NewReader(data), int64(len(data)), lake.Filter{}, func(r *lake.Row) error {
			rows = append(rows, *r)
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	})
	return rows, files, err
}

// archiveAccount holds the archive against the tables, record by record, and
// against the plant.
func (w *world) archiveAccount(ctx context.Context) error {
	rows, files, err := w.readArchive(ctx)
	if err != nil {
		return err
	}
	tables, err := w.readTables(ctx)
	if err != nil {
		return err
	}
	list := make([]sample.Sample, len(rows))
	for i := range rows {
		list[i] = rows[i].Sample
	}
	const name = "archive"
	w.report.samples("in the archive", len(rows), w.against(name, list), fmt.Sprintf("%d Parquet files", files))
	want, got := map[string]int{}, map[string]int{}
	for i := range tables.blocks {
		b := &tables.blocks[i]
		for k := range b.samples {
			count(want, b.stream, &b.samples[k])
		}
	}
	for i := range rows {
		count(got, rows[i].Stream, &rows[i].Sample)
	}
	var faults []string
	for key, n := range want {
		if got[key] != n {
			faults = append(faults, fmt.Sprintf("%d times in the tables, %d times here: %s", n, got[key], key))
		}
	}
	for key, n := range got {
		if want[key] == 0 {
			faults = append(faults, fmt.Sprintf("in no table, %d times here: %s", n, key))
		}
	}
	w.report.find(name, faults...)
	return nil
}

// count counts a sample under all that it says. Of one that its producer sent
// again the archive keeps either, so their stream and the gateway's time are not
// among it, and it counts once.
func count(into map[string]int, stream string, s *sample.Sample) {
	if id := lake.Identity(nil, s); id != nil {
		into[fmt.Sprintf("%s %s %s, identity %x", s.Tag, s.Value, s.Quality, id)] = 1
		return
	}
	into[fmt.Sprintf("%s %s %s at %d, stream %s", s.Tag, s.Value, s.Quality, s.Time, stream)]++
}

// catalogueAccount sees that each tag of the plant is in the catalogue that the
// workers filled, and the counter as one.
func (w *world) catalogueAccount(ctx context.Context) error {
	rows, _, err := w.readArchive(ctx)
	if err != nil {
		return err
	}
	known := map[string]ledger.CatalogueEntry{}
	store := &catalogue.Store{DB: w.db, Prefix: prefix}
	err = store.Entries(ctx, Site, func(e *catalogue.Entry) error {
		known[e.Tag] = e.CatalogueEntry
		return nil
	})
	if err != nil {
		return err
	}
	const name = "catalogue"
	var faults []string
	seen := map[string]bool{}
	for i := range rows {
		tag := rows[i].Tag
		if _, there := known[tag]; !there && !seen[tag] && !strings.Contains(tag, "/$") {
			faults = append(faults, tag+" is missing")
		}
		seen[tag] = true
	}
	if e := known[energyTag]; !e.Counter || e.CounterMax != counterMax || e.Unit != "kWh" {
		faults = append(faults, fmt.Sprintf("%s is %+v, it should be a counter of kWh to %d", energyTag, e, counterMax))
	}
	w.report.find(name, faults...)
	w.report.Stages = append(w.report.Stages, Stage{Name: "tags in the catalogue", Count: len(known), Plant: -1})
	return nil
}
