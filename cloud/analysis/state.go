package analysis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

// stateVersion is the version of the state's form. Another one is as none: all
// is computed again.
const stateVersion = 1

// maxState bounds a state object that is read.
const maxState = 16 << 20

// made says what a day of a result was made of, and what it is.
type made struct {
	Inputs string `json:"inputs"` // hash of Step.Inputs and the text
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // of the output
}

// month is a state object: the days of one month of one result.
type month struct {
	Version int             `json:"version"`
	Days    map[string]made `json:"days"` // by date, as in 2026-11-28
}

// state is what has been computed so far. It is written after the output that it
// speaks of, so a step that was interrupted is made again.
type state struct {
	place  objects.Place
	months map[string]*month // by key; nil Days where there is none yet
}

// stateKey is where the days of a result's month are:
// results/state/hourly/2026-11.json.
func stateKey(name string, day time.Time) string {
	return result.Prefix + "state/" + name + "/" + day.Format("2006-01") + ".json"
}

func (s *state) month(ctx context.Context, name string, day time.Time) (*month, error) {
	key := stateKey(name, day)
	if m := s.months[key]; m != nil {
		return m, nil
	}
	m := &month{}
	if err := readState(ctx, s.place, key, m); err != nil {
		return nil, err
	}
	// What is of another version is as if nothing had been computed.
	if m.Version != stateVersion || m.Days == nil {
		m = &month{Version: stateVersion, Days: map[string]made{}}
	}
	s.months[key] = m
	return m, nil
}

// readState reads an object of the state. Where there is none, or one that does
// not read, into is left empty.
func readState[T any](ctx context.Context, place objects.Place, key string, into *T) error {
	r, err := place.Get(ctx, key)
	if errors.Is(err, objects.ErrNone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxState))
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	var was T
	if json.Unmarshal(text, &was) == nil {
		*into = was
	}
	return nil
}

// writeState stores an object of the state.
func writeState(ctx context.Context, place objects.Place, key string, state any) error {
	text, err := json.MarshalIndent(state, "", "\t")
	if err != nil {
		return err
	}
	if err := place.Put(ctx, key, append(text, '\n')); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

// of returns what is known of a day of a result.
func (s *state) of(ctx context.Context, name string, day time.Time) (made, bool, error) {
	m, err := s.month(ctx, name, day)
	if err != nil {
		return made{}, false, err
	}
	d, ok := m.Days[day.Format(time.DateOnly)]
	return d, ok, nil
}

// set stores what a day was made of.
func (s *state) set(ctx context.Context, name string, day time.Time, d made) error {
	m, err := s.month(ctx, name, day)
	if err != nil {
		return err
	}
	m.Days[day.Format(time.DateOnly)] = d
	return writeState(ctx, s.place, stateKey(name, day), m)
}

// hash is over all that decides a step's rows: the text, the files that it reads
// and the gateways of the day after.
func (s *Step) hash() (string, error) {
	text, err := Text(s.Result.Name)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d\x00%s\x00%s\x00", stateVersion, text, s.Day.Format(time.DateOnly))
	for _, in := range s.Inputs {
		if in.View == Catalogue {
			in.Size = 0 // its hash is of what the text reads of it
		}
		fmt.Fprintf(h, "%s\x00%s\x00%s\x00%d\x00%s\n", in.View, in.Site, in.Key, in.Size, in.Hash)
	}
	for _, g := range s.NextDay {
		fmt.Fprintf(h, "next_day\x00%s\x00%s\n", g.Site, g.Name)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
