package csv

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"millrace/protocols"
	"millrace/sample"
)

// Target is what `write:` of a mirror target in a folder holds.
type Target struct {
	// File is its name in the folder; the target's name with .csv where empty.
	File string `yaml:"file"`
	// Columns are the names and the order of the columns.
	Columns []string `yaml:"columns"`
	// HeartbeatFile gets a count; none where empty.
	HeartbeatFile string `yaml:"heartbeat_file"`

	info protocols.TargetInfo
}

// NewTarget implements protocols.Writable.
func (c *Config) NewTarget() protocols.TargetConfig { return &Target{Columns: allColumns()} }

// Describe implements protocols.Described: the name and the unit go into the
// file, which has no types of its own.
func (t *Target) Describe(info protocols.TargetInfo) { t.info = info }

func (t *Target) file() string {
	if t.File == "" && t.info.Name != "" {
		return t.info.Name + ".csv"
	}
	return t.File
}

// badName says what is wrong with the name of a file, or "". A point at the
// beginning hides a file from importers, and is what the temporary one has.
func badName(name string) string {
	switch {
	case name == "":
		return "is missing"
	case strings.ContainsAny(name, "/\\\x00") || strings.HasPrefix(name, "."):
		return fmt.Sprintf("%q is not the name of a file in the folder", name)
	case len(name) > 200:
		return fmt.Sprintf("a name of %d bytes is longer than 200", len(name))
	}
	return ""
}

// Validate implements protocols.TargetConfig.
func (t *Target) Validate(sample.Kind) []protocols.Fault {
	var out []protocols.Fault
	add := func(bad bool, path, problem, hint string) {
		if bad {
			out = append(out, protocols.Fault{Path: path, Problem: problem, Hint: hint})
		}
	}
	problem := badName(t.file())
	add(problem != "", "file", problem, "write a name without folders, for example setpoint.csv")
	if t.HeartbeatFile != "" {
		problem := badName(t.HeartbeatFile)
		add(problem != "", "heartbeat_file", problem, "write a name without folders, for example mirror.csv")
		add(t.HeartbeatFile == t.file(), "heartbeat_file", "is the value's file", "give it another name")
	}
	known := allColumns()
	for i, c := range t.Columns {
		path := fmt.Sprintf("columns[%d]", i)
		add(!slices.Contains(known, c), path, fmt.Sprintf("%q is not known", c), "write some of "+strings.Join(known, ", "))
		add(slices.Contains(t.Columns[:i], c), path, fmt.Sprintf("%s stands twice", c), "remove one")
	}
	for _, c := range []string{columnValue, columnQuality} {
		add(!slices.Contains(t.Columns, c), "columns", fmt.Sprintf("%s is missing", c), "value and quality are needed: a value that is stale has quality Bad")
	}
	return out
}

// Places implements protocols.TargetConfig.
func (t *Target) Places() []string {
	out := []string{t.file()}
	if t.HeartbeatFile != "" {
		out = append(out, t.HeartbeatFile)
	}
	return out
}

// OpenTarget implements protocols.TargetOpener.
func (f *folder) OpenTarget(cfg protocols.TargetConfig, h protocols.Health) (protocols.Target, error) {
	own, ok := cfg.(*Target)
	if !ok {
		panic(fmt.Sprintf("BUG: settings of a CSV target are %T", cfg))
	}
	return &target{folder: f, cfg: *own, name: own.file(), health: h}, nil
}

// target implements protocols.Target.
type target struct {
	folder *folder
	cfg    Target
	name   string // of the file
	health protocols.Health
	closed bool

	last *row  // the last command; nil where that is not known
	told *bool // the validity that stands in the file; nil where that is not known
}

// Prepare implements protocols.Target. It needs no folder.
func (t *target) Prepare(_ context.Context, v sample.Value) (sample.Value, error) {
	p, err := fit(v, t.cfg.info.Kind)
	if err != nil {
		return sample.Value{}, protocols.Unsuitedf("file %s: %w", t.name, err)
	}
	return p, nil
}

// Write implements protocols.Target. The file is on the disk when it returns.
func (t *target) Write(ctx context.Context, c protocols.Command) error {
	v, err := t.Prepare(ctx, c.Value)
	if err != nil {
		return err
	}
	r := row{target: t.cfg.info.Name, value: v, unit: t.cfg.info.Unit, quality: c.Quality, time: c.Time, version: c.Version, validUntil: c.ValidUntil}
	if err := t.put(ctx, r); err != nil {
		return err
	}
	valid := true
	t.last, t.told = &r, &valid
	return nil
}

// put replaces the file by one that says r.
func (t *target) put(ctx context.Context, r row) error {
	data, err := t.folder.form.encode(t.cfg.Columns, r)
	if err != nil {
		return protocols.Unsuitedf("file %s: %w", t.name, err)
	}
	if err := t.replace(ctx, t.name, data, true); err != nil {
		if protocols.OutcomeOf(err) == protocols.Unknown {
			t.last, t.told = nil, nil
		}
		return err
	}
	return nil
}

func (t *target) replace(ctx context.Context, name string, data []byte, durable bool) error {
	unsent := func(err error) error { return &protocols.WriteError{Outcome: protocols.Unsent, Err: err} }
	if t.closed {
		return unsent(fmt.Errorf("file %s: the target is closed, so nothing was written", name))
	}
	if ctx.Err() != nil {
		return unsent(t.folder.explain(name, context.Cause(ctx)))
	}
	if err := t.folder.replace(ctx, name, data, durable); err != nil {
		explained := t.folder.explain(name, err)
		t.health.Down(explained)
		return &protocols.WriteError{Outcome: outcome(err), Err: explained}
	}
	t.health.Up()
	return nil
}

// Read implements protocols.Target. Where there is no file, since nothing was
// written yet or the importer took it away, the reading is null and Bad.
func (t *target) Read(ctx context.Context) (protocols.Reading, error) {
	r, err := t.stands(ctx)
	now := t.folder.clock.Now()
	switch {
	case err != nil:
		return protocols.Reading{}, err
	case r == nil:
		return protocols.Reading{Quality: sample.Bad, Time: now}, nil
	}
	return protocols.Reading{Value: r.value, Quality: r.quality, Time: now, SourceTime: r.time, Version: r.version}, nil
}

// stands returns what the file says, nil where there is none.
func (t *target) stands(ctx context.Context) (*row, error) {
	data, err := t.folder.read(ctx, t.name)
	if err != nil {
		err = t.folder.explain(t.name, err)
		t.health.Down(err)
		return nil, err
	}
	if data == nil {
		return nil, nil
	}
	r, err := t.folder.form.decode(data, t.cfg.Columns, t.cfg.info.Kind)
	if err != nil {
		return nil, fmt.Errorf("file %s in %s cannot be read back: %s: see what else writes it", t.name, t.folder.dir, oneLine(err))
	}
	return &r, nil
}

// Tell implements protocols.Target. The heartbeat's file is written each time,
// the value's when the validity changes: with quality Bad, and all else as it
// is. A file that is not there any more is not made again for that.
func (t *target) Tell(ctx context.Context, s protocols.State) error {
	if t.cfg.HeartbeatFile != "" {
		data, err := t.folder.form.lines([]string{"heartbeat"}, []string{strconv.Itoa(int(s.Heartbeat))})
		if err == nil {
			// Not for the disk's sake each second: after a power cut the mirror
			// does not count anyway.
			err = t.replace(ctx, t.cfg.HeartbeatFile, data, false)
		}
		if err != nil {
			return err
		}
	}
	if t.told != nil && *t.told == s.Valid {
		return nil
	}
	if err := t.mark(ctx, s.Valid); err != nil {
		return err
	}
	t.told = &s.Valid
	return nil
}

// mark writes the file again with the quality that belongs to the validity.
func (t *target) mark(ctx context.Context, valid bool) error {
	there, err := t.stands(ctx)
	if err != nil || there == nil {
		return err
	}
	r := *there
	switch {
	case !valid && !r.quality.IsBad():
		r.quality = sample.Bad
	case valid && r.quality.IsBad() && t.last != nil && t.last.version == r.version && t.last.value == r.value:
		r.quality = t.last.quality
	default:
		return nil
	}
	return t.put(ctx, r)
}

// Close implements protocols.Target.
func (t *target) Close() error {
	t.closed = true
	return nil
}
