// Package analysistest makes archives for the tests of engines, and compares
// what two of them have made.
package analysistest

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/sample"
)

// Plant says how large an archive is. The same Plant makes the same archive, byte
// for byte.
type Plant struct {
	First   time.Time // 00:00 UTC
	Days    int
	Sites   []string
	Devices int           // of each site, with seven tags each
	Every   time.Duration // between two samples of a tag
}

// tags of a device. Two are counters: one of 16 bits, and one that nobody knows
// the end of.
var tags = []string{"count", "energy", "level", "pressure", "running", "state", "temperature"}

// Write makes the archive of a plant, one file of samples for each site and day,
// and returns how many samples there are. Among them are Bad and Uncertain ones,
// duplicates, text, holes with gap records and without, counters that go round
// and that are reset, and the gateways' own records.
func (p Plant) Write(ctx context.Context, place objects.Place) (int64, error) {
	dir, err := os.MkdirTemp("", "plant-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	var total int64
	for n, site := range p.Sites {
		s := &siteState{plant: p, site: site, rand: rand.New(rand.NewPCG(uint64(n), 5)), last: map[string]float64{}}
		for d := range p.Days {
			rows, gaps := s.day(p.First.AddDate(0, 0, d))
			total += int64(len(rows))
			day := p.First.AddDate(0, 0, d)
			err := put(ctx, place, dir, lake.SamplesKey(site, day, 0), func(f *os.File) error {
				w := lake.NewWriter(f)
				for i := range rows {
					if err := w.Write(&rows[i]); err != nil {
						return err
					}
				}
				return w.Close()
			})
			if err == nil && len(gaps) > 0 {
				err = put(ctx, place, dir, lake.GapsKey(site, day, 0), func(f *os.File) error { return lake.WriteGaps(f, gaps) })
			}
			if err != nil {
				return total, err
			}
		}
		if err := put(ctx, place, dir, lake.CatalogueKey(site, 0), func(f *os.File) error { return lake.WriteCatalogue(f, s.catalogue()) }); err != nil {
			return total, err
		}
	}
	return total, nil
}

func put(ctx context.Context, place objects.Place, dir, key string, write func(*os.File) error) error {
	path := filepath.Join(dir, "file")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := cmp.Or(write(f), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return place.PutFile(ctx, key, path)
}

// siteState is a site while its days are made, one after another.
type siteState struct {
	plant Plant
	site  string
	rand  *rand.Rand
	last  map[string]float64 // where counters and walks stand, by tag
}

func (s *siteState) tag(device int, name string) string {
	return fmt.Sprintf("%s/press%02d/%s", s.site, device, name)
}

func (s *siteState) catalogue() []lake.Entry {
	var out []lake.Entry
	for d := range s.plant.Devices {
		for _, name := range tags {
			e := lake.Entry{Gateway: "gw1", Tag: s.tag(d, name), Stream: stream(d), Source: fmt.Sprintf("plc%d", d), Since: s.plant.First}
			switch name {
			case "count":
				e.Counter, e.CounterMax = true, 65535
			case "energy":
				e.Counter, e.Unit = true, "kWh"
			}
			out = append(out, e)
		}
	}
	return out
}

func stream(device int) string { return fmt.Sprintf("s%04d", device/2+1) }

// day makes the samples of a day, sorted as the archive has them, and its gaps.
func (s *siteState) day(day time.Time) ([]lake.Row, []lake.Gap) {
	var rows []lake.Row
	// What another sink lost and is here.
	gaps := []lake.Gap{{Gateway: "gw1", ID: "files", Cause: "evicted", Stream: stream(0), Sinks: "files", From: day.Add(time.Hour), To: day.Add(3 * time.Hour), Declared: day}}
	for d := range s.plant.Devices {
		// A hole of up to two hours each day, declared but for every third.
		from := day.Add(time.Duration(s.rand.Int64N(int64(22 * time.Hour))))
		to := from.Add(time.Duration(s.rand.Int64N(int64(2 * time.Hour))))
		switch s.rand.IntN(3) {
		case 0:
			gaps = append(gaps, lake.Gap{Gateway: "gw1", ID: fmt.Sprint(d), Cause: "gateway_down", Source: fmt.Sprintf("plc%d", d), From: from, To: to, Declared: to})
		case 1:
			gaps = append(gaps, lake.Gap{Gateway: "gw1", ID: fmt.Sprint(d), Cause: "evicted", Source: "plc", Sources: fmt.Sprintf("plc%d,plc99", d), Stream: stream(d), From: from, To: to, Declared: to})
			if d%2 == 0 && d == s.plant.Devices-1 { // alone in its stream, so that nothing of it is here
				gaps[len(gaps)-1].Sinks = "files,sqs"
			}
		}
		if s.rand.IntN(6) == 0 {
			s.last[s.tag(d, "count")] = 0 // reset
			s.last[s.tag(d, "energy")] = 0
		}
		for _, name := range tags {
			rows = s.series(rows, d, name, day, from, to)
		}
	}
	for h := range 24 {
		beat := sample.Sample{Tag: s.site + "/gw1/$heartbeat", Value: sample.StringValue("{}"), Time: day.Add(time.Duration(h) * time.Hour).UnixNano()}
		rows = append(rows, lake.Row{Gateway: "gw1", Stream: "sys", Sample: beat})
	}
	slices.SortStableFunc(rows, func(a, b lake.Row) int {
		return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.PrimaryTime(), b.PrimaryTime()))
	})
	return rows, gaps
}

// series adds a tag's samples of a day, but for those in the hole.
func (s *siteState) series(rows []lake.Row, device int, name string, day, from, to time.Time) []lake.Row {
	tag := s.tag(device, name)
	end := day.AddDate(0, 0, 1)
	for at := day; at.Before(end); at = at.Add(s.plant.Every) {
		stamp := at.Add(time.Duration(s.rand.Int64N(int64(s.plant.Every / 2))))
		value := s.value(tag, name, stamp)
		if !stamp.Before(from) && stamp.Before(to) || name == "level" && s.rand.IntN(10) > 0 {
			continue // level is thinned out by a deadband
		}
		row := lake.Row{Gateway: "gw1", Stream: stream(device), Sample: sample.Sample{Tag: tag, Value: value, Time: stamp.UnixNano()}}
		switch s.rand.IntN(200) {
		case 0:
			row.Quality, row.Value = sample.BadTimeout, sample.Value{}
		case 1:
			row.Quality = sample.BadOutOfRange
		case 2:
			row.Quality = sample.UncertainLastUsableValue
		case 3:
			row.SourceTime = stamp.Add(-time.Microsecond).UnixNano()
		}
		rows = append(rows, row)
		if s.rand.IntN(1000) == 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

func (s *siteState) value(tag, name string, at time.Time) sample.Value {
	last := s.last[tag]
	switch name {
	case "count": // about one turn in ten hours
		last = math.Mod(last+math.Floor(s.plant.Every.Seconds()*(1+1.6*s.rand.Float64())), 65536)
	case "energy":
		last += math.Round(s.rand.Float64()*1000) / 100
	case "running":
		if s.rand.IntN(50) == 0 {
			last = 1 - last
		}
		s.last[tag] = last
		return sample.BoolValue(last == 1)
	case "state":
		return sample.StringValue([]string{"idle", "runs", "läuft"}[s.rand.IntN(3)])
	default:
		// A wave over the day, with noise, and a spike now and then.
		wave := 50 + 20*math.Sin(2*math.Pi*float64(at.Unix()%86400)/86400)
		last = math.Round(10*(wave+s.rand.NormFloat64())) / 10
		if s.rand.IntN(2000) == 0 {
			last *= 3
		}
		if name == "pressure" {
			return sample.FloatValue(last / 3)
		}
	}
	s.last[tag] = last
	if name == "count" {
		return sample.IntValue(int64(last))
	}
	return sample.FloatValue(last)
}
