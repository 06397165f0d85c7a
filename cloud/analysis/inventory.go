package analysis

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/archive/manifest"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
)

// inventory is what the archive holds.
type inventory struct {
	// samples and gaps are by day, the catalogue under the zero time. Each list is
	// sorted by site and key.
	files map[View]map[time.Time][]Input
	// digests are those of each catalogue file, by its key and the result.
	digests     map[string]map[string]string
	first, last time.Time        // days with samples; zero where there are none
	outputs     map[string]int64 // sizes of the results that are there, by key
	lost        []lake.Key       // files of samples that a manifest names and that are not there, by day
}

// look lists the archive.
func look(ctx context.Context, place objects.Place) (*inventory, error) {
	v := &inventory{files: map[View]map[time.Time][]Input{Samples: {}, Gaps: {}, Catalogue: {}}, outputs: map[string]int64{},
		digests: map[string]map[string]string{}}
	hashes, err := fileHashes(ctx, place)
	if err != nil {
		return nil, err
	}
	for _, view := range []View{Samples, Gaps, Catalogue} {
		err := place.List(ctx, string(view)+"/", func(key string, size int64) error {
			k, ok := lake.ParseKey(key)
			if !ok {
				return nil
			}
			v.files[view][k.Day] = append(v.files[view][k.Day], Input{View: view, Site: k.Site, Key: key, Size: size, Hash: hashes[key]})
			if view == Samples && (v.first.IsZero() || k.Day.Before(v.first)) {
				v.first = k.Day
			}
			if view == Samples && k.Day.After(v.last) {
				v.last = k.Day
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list %s/ of %s: %w", view, place, err)
		}
		for _, list := range v.files[view] {
			sortInputs(list)
		}
	}
	v.lost = v.missing(hashes)
	for _, in := range v.files[Catalogue][time.Time{}] {
		if v.digests[in.Key], err = digests(ctx, place, in.Key); err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", in.Key, place, err)
		}
	}
	err = place.List(ctx, result.Prefix, func(key string, size int64) error {
		if _, _, _, ok := result.ParseKey(key); ok {
			v.outputs[key] = size
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", result.Prefix, place, err)
	}
	return v, nil
}

// missing are the files of samples that the manifests name and that are not there.
func (v *inventory) missing(hashes map[string]string) (out []lake.Key) {
	for key := range hashes {
		k, ok := lake.ParseKey(key)
		if ok && k.Kind == lake.Samples && !slices.ContainsFunc(v.files[Samples][k.Day], func(in Input) bool { return in.Key == key }) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b lake.Key) int { return cmp.Or(a.Day.Compare(b.Day), cmp.Compare(a.String(), b.String())) })
	return out
}

// whole fails where samples of a day from from to before to are lost: computing the
// day without them would replace results that are right.
func (v *inventory) whole(place objects.Place, from, to time.Time) error {
	for _, k := range v.lost {
		if !k.Day.Before(from) && k.Day.Before(to) {
			year, week := k.Day.ISOWeek()
			return fmt.Errorf("%s of %s is not there, and a manifest names it: run `millrace-cloud archive %d-w%02d` while the week's table is there, or restore the file; results stay as they are", k, place, year, week)
		}
	}
	return nil
}

// fileHashes are the hashes of the archive's files, as its manifests say. A file
// that is replaced by one of the same size is told from it by them.
func fileHashes(ctx context.Context, place objects.Place) (map[string]string, error) {
	const prefix, suffix = "manifests/", ".json"
	hashes := map[string]string{}
	err := place.List(ctx, prefix, func(key string, _ int64) error {
		table, ok := strings.CutSuffix(strings.TrimPrefix(key, prefix), suffix)
		if !ok || strings.Contains(table, "/") {
			return nil
		}
		m, err := manifest.Read(ctx, place, table)
		if err != nil {
			return err
		}
		for _, f := range m.Files {
			hashes[f.Key] += f.SHA256
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the manifests of %s: %w", place, err)
	}
	return hashes, nil
}

func sortInputs(list []Input) {
	slices.SortFunc(list, func(a, b Input) int {
		return cmp.Or(cmp.Compare(a.View, b.View), cmp.Compare(a.Site, b.Site), cmp.Compare(a.Key, b.Key))
	})
}

// inputs are the files that a step reads. Of results these are what st knows,
// and where awaited says that one is being made, its key without a size.
func (v *inventory) inputs(ctx context.Context, st *state, r result.Result, day time.Time, awaited func(name string, day time.Time) bool) ([]Input, error) {
	var out []Input
	for _, need := range needs(r.Name) {
		if need.view == Catalogue {
			for _, in := range v.files[Catalogue][time.Time{}] {
				in.Hash = v.digests[in.Key][r.Name]
				out = append(out, in)
			}
			continue
		}
		for d := day.AddDate(0, 0, -need.days); !d.After(day); d = d.AddDate(0, 0, 1) {
			if !isResult(need.view) {
				out = append(out, v.files[need.view][d]...)
				continue
			}
			name := string(need.view)
			if awaited(name, d) {
				out = append(out, Input{View: need.view, Key: result.Key(name, d, 0)})
				continue
			}
			m, ok, err := st.of(ctx, name, d)
			if err != nil {
				return nil, err
			}
			if ok && m.Rows > 0 {
				out = append(out, Input{View: need.view, Key: result.Key(name, d, 0), Size: m.Bytes, Hash: m.SHA256})
			}
		}
	}
	// availability reads the catalogue to know whom a gap concerns.
	if r.Name == "availability" && !slices.ContainsFunc(out, func(in Input) bool { return in.View == Gaps }) {
		out = slices.DeleteFunc(out, func(in Input) bool { return in.View == Catalogue })
	}
	sortInputs(out)
	return out, nil
}
