package clouddemo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/export"
	"millrace/cloud/format"
	"millrace/cloud/objects"
	"millrace/cloud/query"
	"millrace/sample"
)

// results lists those that are computed.
func (w *world) results() (list []result.Result) {
	for _, r := range result.All() {
		if len(w.o.Results) == 0 || slices.Contains(w.o.Results, r.Name) {
			list = append(list, r)
		}
	}
	return list
}

// export writes samples and results as JSON Lines.
func (w *world) export(ctx context.Context) error {
	what := []string{export.Samples}
	for _, r := range w.results() {
		what = append(what, r.Name)
	}
	r, err := export.Run(ctx, export.Options{
		Store: query.Store{Archive: w.archive, Prefix: prefix}, To: w.exports, Prefix: export.Prefix, What: what, Format: format.JSON,
		From: w.logger.readings[0].at.Truncate(24 * time.Hour), Until: w.truth.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 1), Dir: w.dir,
		Problem: func(line string) { w.report.find("export", line) },
	})
	if err != nil {
		return err
	}
	w.say("export %s: %d files written, %d kept, %d rows", strings.Join(what, " "), r.Written, r.Kept, r.Rows)
	return nil
}

// exportAccount holds the exported lines against the plant and against the
// results' own files.
func (w *world) exportAccount(ctx context.Context) error {
	var list []sample.Sample
	err := w.lines(ctx, export.Samples, func(line []byte) error {
		s, err := parseLine(line)
		list = append(list, s)
		return err
	})
	if err != nil {
		return err
	}
	w.report.samples("exported as JSON Lines", len(list), w.against("export", list), "")
	total := 0
	for _, res := range w.results() {
		var got []row
		err := w.lines(ctx, res.Name, func(line []byte) error {
			r, err := parseRow(line, res)
			got = append(got, r)
			return err
		})
		if err != nil {
			return err
		}
		want, err := w.readResults(ctx, res)
		if err != nil {
			return err
		}
		total += len(got)
		w.report.find("export, "+res.Name, unlikeRows(got, want, res)...)
	}
	w.report.Stages = append(w.report.Stages, Stage{Name: "rows of results, exported", Count: total, Plant: -1})
	return nil
}

// lines calls fn with each line of what was exported.
func (w *world) lines(ctx context.Context, what string, fn func(line []byte) error) error {
	return w.exports.List(ctx, export.Prefix+what+"/", func(key string, _ int64) error {
		if strings.HasSuffix(key, filepath.Base(export.IndexKey("", what))) {
			return nil
		}
		data, err := objects.Read(ctx, w.exports, key, 0)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(data) {
			if err := fn(line); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
		return nil
	})
}

// parseLine reads a sample without what an export adds to it.
func parseLine(line []byte) (sample.Sample, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return sample.Sample{}, err
	}
	for _, name := range []string{"unit", "gateway", "stream"} {
		delete(fields, name)
	}
	bare, err := json.Marshal(fields)
	if err != nil {
		return sample.Sample{}, err
	}
	return sample.ParseJSONLine(bare)
}

// parseRow reads a row of a result.
func parseRow(line []byte, res result.Result) (row, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, err
	}
	out := row{}
	for _, c := range res.Columns {
		text, there := fields[c.Name]
		if !there || string(text) == "null" {
			continue
		}
		var err error
		switch c.Type {
		case result.Timestamp:
			var v time.Time
			err = json.Unmarshal(text, &v)
			out[c.Name] = v
		case result.Double:
			var v float64
			err = json.Unmarshal(text, &v)
			out[c.Name] = v
		case result.Integer:
			var v int64
			err = json.Unmarshal(text, &v)
			out[c.Name] = v
		default:
			var v string
			err = json.Unmarshal(text, &v)
			out[c.Name] = v
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return out, nil
}

// unlikeRows compares rows one by one; both come in the order of their key.
func unlikeRows(got, want []row, res result.Result) (out []string) {
	if len(got) != len(want) {
		return []string{fmt.Sprintf("%d rows, and the result has %d", len(got), len(want))}
	}
	for i := range got {
		for _, text := range unlike(got[i], want[i], res) {
			out = append(out, fmt.Sprintf("%v at %v: %s", want[i][res.Key[0]], want[i][res.Key[1]], text))
		}
	}
	return out
}
