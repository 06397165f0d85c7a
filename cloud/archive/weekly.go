package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/catalogue"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
)

// weekly is what is archived beside the samples.
type weekly struct {
	entries map[string][]lake.Entry // by site
}

// readWeekly reads the catalogue, and finds out early whether it can be read.
func (r *run) readWeekly(ctx context.Context) (*weekly, error) {
	w := &weekly{entries: map[string][]lake.Entry{}}
	if r.o.Catalogue == nil {
		r.report.SkippedWeekly = true
		return w, nil
	}
	err := r.o.Catalogue.Entries(ctx, "", func(e *catalogue.Entry) error {
		w.entries[e.Site] = append(w.entries[e.Site], lake.Entry{Gateway: e.Gateway, Tag: e.Tag, Stream: e.Stream, Source: e.Source, Type: e.Type, Unit: e.Unit,
			Description: e.Description, Counter: e.Counter, CounterMax: e.CounterMax, Since: e.Since})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, list := range w.entries {
		slices.SortFunc(list, func(a, b lake.Entry) int {
			return cmp.Or(strings.Compare(a.Tag, b.Tag), strings.Compare(a.Gateway, b.Gateway), strings.Compare(a.Stream, b.Stream))
		})
	}
	return w, nil
}

// writeWeekly writes the gap records of the week and the present catalogue. The
// files of gaps are named in the manifest; those of the catalogue are not, since
// each week's archive brings them up to date.
func (r *run) writeWeekly(ctx context.Context, m *manifest.Manifest, w *weekly) error {
	var old []manifest.File
	if r.old != nil {
		for _, f := range r.old.Files {
			if k, ok := lake.ParseKey(f.Key); ok && k.Kind == lake.Gaps {
				old = append(old, f)
			}
		}
	}
	m.Files = slices.DeleteFunc(m.Files, func(f manifest.File) bool {
		k, ok := lake.ParseKey(f.Key)
		return ok && k.Kind == lake.Gaps
	})
	if r.o.Catalogue == nil {
		m.Files = append(m.Files, old...)
		sortManifest(m)
		return nil
	}
	sites := map[string]bool{}
	for site := range w.entries {
		sites[site] = true
	}
	for _, d := range m.Days {
		sites[d.Site] = true
	}
	for _, site := range sorted(sites) {
		if err := r.writeCatalogue(ctx, site, w.entries[site]); err != nil {
			return err
		}
		files, err := r.writeGaps(ctx, site)
		if err != nil {
			return err
		}
		m.Files = append(m.Files, files...)
	}
	// Gap records are never taken back, so a file of them that is named stays.
	for _, f := range old {
		if !slices.ContainsFunc(m.Files, func(have manifest.File) bool { return have.Key == f.Key }) {
			m.Files = append(m.Files, f)
		}
	}
	sortManifest(m)
	return nil
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func (r *run) writeCatalogue(ctx context.Context, site string, entries []lake.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	var b bytes.Buffer
	if err := lake.WriteCatalogue(&b, entries); err != nil {
		return err
	}
	// No manifest names it, and another week's run may write it meanwhile.
	_, err := r.putChanged(ctx, lake.CatalogueKey(site, 0), b.Bytes(), int64(len(entries)), false)
	return err
}

// writeGaps writes the gaps of a site that begin in the week.
func (r *run) writeGaps(ctx context.Context, site string) ([]manifest.File, error) {
	byDay := map[int64][]lake.Gap{}
	end := r.start.AddDate(0, 0, 7)
	err := r.o.Catalogue.Gaps(ctx, site, r.start, end, func(g *catalogue.Gap) error {
		if g.Start().Before(r.start) || !g.Start().Before(end) {
			return nil
		}
		out := lake.Gap{Gateway: g.Gateway, ID: g.Identity(), Cause: string(g.Cause), Source: g.Source, Sources: strings.Join(g.Sources, ","), Tag: g.Tag, Stream: g.Stream,
			FromSeq: g.FromSeq, ToSeq: g.ToSeq, From: g.From, To: g.To, Declared: g.At, Sinks: strings.Join(g.Sinks, ",")}
		if g.Count != nil {
			n := int64(min(*g.Count, 1<<63-1))
			out.Count = &n
		}
		day := g.Start().UTC().Truncate(24 * time.Hour).UnixNano()
		byDay[day] = append(byDay[day], out)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the gap records of site %s: %w", site, err)
	}
	var files []manifest.File
	for day, gaps := range byDay {
		slices.SortFunc(gaps, func(a, b lake.Gap) int {
			return cmp.Or(a.From.Compare(b.From), strings.Compare(a.Gateway, b.Gateway), strings.Compare(a.ID, b.ID))
		})
		var b bytes.Buffer
		if err := lake.WriteGaps(&b, gaps); err != nil {
			return nil, err
		}
		f, err := r.putChanged(ctx, lake.GapsKey(site, time.Unix(0, day), 0), b.Bytes(), int64(len(gaps)), true)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// putChanged writes a small file, unless it is there as it is. named says that
// the manifest will name it.
func (r *run) putChanged(ctx context.Context, key string, data []byte, rows int64, named bool) (manifest.File, error) {
	sum := sha256.Sum256(data)
	f := manifest.File{Key: key, Bytes: int64(len(data)), Rows: rows, SHA256: hex.EncodeToString(sum[:])}
	there, err := objects.Read(ctx, r.o.Place, key, 0)
	if err == nil && bytes.Equal(there, data) {
		return f, nil
	}
	if err != nil && !errors.Is(err, objects.ErrNone) {
		return f, fmt.Errorf("read %s in %s: %w", key, r.o.Place, err)
	}
	out, err := r.temp("small-*")
	if err != nil {
		return f, err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Close()); err != nil {
		return f, err
	}
	return f, errors.Join(r.put(ctx, f, out.Name(), named), os.Remove(out.Name()))
}
