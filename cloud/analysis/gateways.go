package analysis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
)

// delivering knows the gateways of each day with samples. What was read of a file
// is kept beside the results, so that each version of it is opened once.
type delivering struct {
	*inventory
	place   objects.Place
	months  map[string]*deliveries // by key
	changed map[string]bool
}

// deliveries are a state object: the days of one month.
type deliveries struct {
	Version int                   `json:"version"`
	Days    map[string][]delivery `json:"days"` // by date, a file each
}

// delivery is a file of samples and the gateways that are in it.
type delivery struct {
	Key      string   `json:"key"`
	Size     int64    `json:"size"`
	Hash     string   `json:"hash,omitempty"`
	Gateways []string `json:"gateways"`
}

func (d *delivery) is(in *Input) bool {
	return d.Key == in.Key && d.Size == in.Size && d.Hash == in.Hash
}

func deliveriesKey(day time.Time) string {
	return result.Prefix + "state/gateways/" + day.Format("2006-01") + ".json"
}

func newDelivering(v *inventory, place objects.Place) *delivering {
	return &delivering{inventory: v, place: place, months: map[string]*deliveries{}, changed: map[string]bool{}}
}

// of lists the gateways of which there are samples of a day, sorted.
func (d *delivering) of(ctx context.Context, day time.Time) ([]Gateway, error) {
	files := d.files[Samples][day]
	if len(files) == 0 {
		return nil, nil
	}
	key, date := deliveriesKey(day), day.Format(time.DateOnly)
	m := d.months[key]
	if m == nil {
		m = &deliveries{}
		if err := readState(ctx, d.place, key, m); err != nil {
			return nil, err
		}
		if m.Version != stateVersion || m.Days == nil {
			m = &deliveries{Version: stateVersion, Days: map[string][]delivery{}}
		}
		d.months[key] = m
	}
	known := m.Days[date]
	now := make([]delivery, 0, len(files))
	var out []Gateway
	for i := range files {
		in := &files[i]
		at := slices.IndexFunc(known, func(was delivery) bool { return was.is(in) })
		var file delivery
		if at >= 0 {
			file = known[at]
		} else {
			names, err := gatewaysOf(ctx, d.place, in.Key)
			if err != nil {
				return nil, fmt.Errorf("read who delivered %s of %s: %w", in.Key, d.place, err)
			}
			file = delivery{Key: in.Key, Size: in.Size, Hash: in.Hash, Gateways: names}
			d.changed[key] = true
		}
		now = append(now, file)
		for _, name := range file.Gateways {
			out = append(out, Gateway{Site: in.Site, Name: name})
		}
	}
	m.Days[date] = now
	slices.SortFunc(out, func(a, b Gateway) int { return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Name, b.Name)) })
	return slices.Compact(out), nil
}

// keep stores what was read.
func (d *delivering) keep(ctx context.Context) error {
	for key := range d.changed {
		if err := writeState(ctx, d.place, key, d.months[key]); err != nil {
			return err
		}
	}
	clear(d.changed)
	return nil
}

func gatewaysOf(ctx context.Context, place objects.Place, key string) (names []string, err error) {
	file, err := objects.Open(ctx, place, key)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return lake.Gateways(file, file.Size)
}
