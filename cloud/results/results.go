// Package results publishes what the analysis has computed: as mirror messages
// (sample/result), signed, to the results queue of a site, whose gateway fetches
// them, checks them against what the plant allows, and writes them.
//
// What was sent is remembered in a table, target by target, each step on a
// condition: docs/cloud-results.md.
package results

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
	"millrace/cloud/state"
	"millrace/sample"
	message "millrace/sample/result"
)

// Rule says what becomes of one result: the value of one column, in the newest
// row of one tag or device, for one target of one site.
type Rule struct {
	Site, Target string
	// Queue is the URL of the site's results queue.
	Queue string
	// Result names the table of results, as in hourly; Of is the tag, or the
	// device for a result by devices; Column is what is sent.
	Result, Of, Column string
	Type               sample.Kind // Float64 or Int64, as the target's configuration has it
	Unit               string      // letter by letter as there
	// The value is Scale times the column's, plus Offset; an int64 is rounded.
	Scale, Offset float64
	// Validity is how long after its period's end a value may be used.
	Validity time.Duration
	// AtLeast holds the least that other columns of the row must have, so that a
	// value that was computed of too little data is not sent.
	AtLeast map[string]float64
}

// String names the rule by where its value goes.
func (r *Rule) String() string { return r.Site + "/" + r.Target }

// source names what the rule takes. A rule that is changed to take something
// else begins anew, but for its versions.
func (r *Rule) source() string { return r.Result + " " + r.Column + " " + r.Of }

// Check reports the first thing that is wrong with a rule: which field, and what.
func (r *Rule) Check() (field, problem string) {
	res, err := result.Named(r.Result)
	if err != nil {
		return "result", err.Error()
	}
	number := func(field, name string) (string, string) {
		i := slices.IndexFunc(res.Columns, func(c result.Column) bool { return c.Name == name })
		if i < 0 || res.Columns[i].Type != result.Double && res.Columns[i].Type != result.Integer {
			return field, fmt.Sprintf("%q is no number of %s; there are %s", name, r.Result, strings.Join(numbers(res), ", "))
		}
		return "", ""
	}
	if field, problem := number("column", r.Column); problem != "" {
		return field, problem
	}
	for _, name := range sorted(r.AtLeast) {
		if field, problem := number("at_least", name); problem != "" {
			return field, problem
		}
	}
	return "", ""
}

// numbers lists the columns of a result that hold one.
func numbers(res result.Result) (names []string) {
	for _, c := range res.Columns {
		if c.Type == result.Double || c.Type == result.Integer {
			names = append(names, c.Name)
		}
	}
	return names
}

func sorted(m map[string]float64) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Period is how long what a row stands for lasts: an hour, or a day.
func Period(res result.Result) time.Duration {
	if res.Time() == "day" {
		return 24 * time.Hour
	}
	return time.Hour
}

// Queue is what is asked of SQS.
type Queue interface {
	SendMessage(context.Context, *sqs.SendMessageInput, ...func(*sqs.Options)) (*sqs.SendMessageOutput, error)
}

// Options are those of Publish.
type Options struct {
	Place objects.Place // the archive
	// Table is where what was sent is remembered.
	Table state.Table
	// Queue gives the client for a queue's URL.
	Queue func(queueURL string) Queue
	Rules []Rule
	// Key is the name under which the sites know the public key of Private. Empty:
	// nothing is signed.
	Key     string
	Private ed25519.PrivateKey
	// Now is the present, and Through up to when the data of the analysis is
	// whole: a period that ends later than Through less Settle is not complete.
	// A zero Through is Now.
	Now     func() time.Time
	Through time.Time
	Settle  time.Duration
	DryRun  bool   // say what would be sent, and neither send nor remember
	Dir     string // for files that are looked into; "" is the system's
	Log     *slog.Logger
}

// TableName is the name of the table of what was sent.
func TableName(prefix string) string { return prefix + "-published" }

// Outcome is what became of one rule.
type Outcome struct {
	Rule    string    `json:"target"` // site/target
	What    What      `json:"outcome"`
	Period  time.Time `json:"period,omitzero"`  // the row's, its start
	Version uint64    `json:"version,omitzero"` // sent now, or the last
	Value   string    `json:"value,omitempty"`
	Until   time.Time `json:"valid_until,omitzero"`
	Detail  string    `json:"detail,omitempty"`
}

// What is an outcome's kind.
type What string

// The outcomes.
const (
	Published What = "published" // or would be, in a dry run
	Again     What = "again"     // sent again: nothing tells that it was sent before
	Unchanged What = "unchanged" // the newest row was sent already
	Nothing   What = "nothing"   // there is no row of a complete period that could still be valid
	TooLittle What = "too_little"
	NoValue   What = "no_value" // null, or none that the type holds
	Stale     What = "stale"    // its time is over
	Error     What = "failed"
)

// Publish goes through the rules and sends what is due. It goes on after a rule
// that fails; the error names the first and how many there were.
func Publish(ctx context.Context, o Options) ([]Outcome, error) {
	if o.Through.IsZero() || o.Through.After(o.Now()) {
		o.Through = o.Now()
	}
	if !o.DryRun {
		if err := o.Table.Ensure(ctx); err != nil {
			return nil, err
		}
	}
	var outcomes []Outcome
	var first error
	failed := 0
	p := &publisher{Options: o}
	for i := range o.Rules {
		r := &o.Rules[i]
		out, err := p.publish(ctx, r)
		if err != nil && ctx.Err() != nil {
			return outcomes, fmt.Errorf("interrupted at %s: %w; what was sent is remembered", r, context.Cause(ctx))
		}
		if err != nil {
			failed++
			if first == nil {
				first = fmt.Errorf("%s: %w", r, err)
			}
			out = Outcome{What: Error, Detail: err.Error()}
		}
		out.Rule = r.String()
		outcomes = append(outcomes, out)
	}
	if failed > 1 {
		first = fmt.Errorf("%d of %d targets failed, the first is %w", failed, len(o.Rules), first)
	}
	return outcomes, first
}

type publisher struct{ Options }

// tries bounds how often a rule is looked at anew because another publisher was
// quicker.
const tries = 5

var errQuicker = errors.New("another publisher was quicker")

// publish sends one rule's result where it is due.
func (p *publisher) publish(ctx context.Context, r *Rule) (Outcome, error) {
	for range tries {
		out, err := p.once(ctx, r)
		if !errors.Is(err, errQuicker) {
			return out, err
		}
	}
	return Outcome{}, fmt.Errorf("%w, %d times; are there many of them?", errQuicker, tries)
}

// once looks at what was sent, and only then at the row: who has seen an old row
// fails at the condition when another has sent a new one meanwhile.
func (p *publisher) once(ctx context.Context, r *Rule) (Outcome, error) {
	sent, err := p.last(ctx, r)
	if err != nil {
		return Outcome{}, err
	}
	res, err := result.Named(r.Result)
	if err != nil {
		return Outcome{}, err
	}
	row, err := p.newest(ctx, r, res)
	if err != nil {
		return Outcome{}, err
	}
	if row == nil {
		return Outcome{What: Nothing, Version: sent.version, Detail: "no row of a complete period that could still be valid"}, nil
	}
	m, out := p.message(r, res, row)
	if m == nil {
		return out, nil
	}
	hash := contentOf(m, row.period, p.Key)
	switch {
	case sent.source == r.source() && row.period.Before(sent.period):
		return Outcome{What: Unchanged, Period: sent.period, Version: sent.version, Detail: "a later period was sent already"}, nil
	case hash == sent.hash && sent.done:
		out.What, out.Version = Unchanged, sent.version
		return out, nil
	case hash == sent.hash: // it may have been sent: the same once more
		out.What, out.Version = Again, sent.version
		if p.DryRun {
			return out, nil
		}
		return out, p.send(ctx, r, sent)
	}
	m.Version = max(sent.version+1, uint64(max(p.Now().Unix(), 1)))
	out.What, out.Version = Published, m.Version
	m.ID = fmt.Sprintf("%s-%s-%d", r.Result, row.period.UTC().Format("20060102T15"), m.Version)
	if p.Key != "" {
		m.Sign(p.Key, p.Private)
	}
	body, err := m.Encode()
	if err != nil {
		return Outcome{}, fmt.Errorf("its message: %w", err)
	}
	if p.DryRun {
		return out, nil
	}
	next := &sending{version: m.Version, period: row.period, source: r.source(), hash: hash, body: string(body)}
	if err := p.reserve(ctx, r, sent, next); err != nil {
		return Outcome{}, err
	}
	return out, p.send(ctx, r, next)
}

// message makes the message of a row, without version, id and signature; nil
// where nothing is to be sent, for the reason in the outcome.
func (p *publisher) message(r *Rule, res result.Result, row *row) (*message.Result, Outcome) {
	end := row.period.Add(Period(res))
	out := Outcome{Period: row.period, Until: end.Add(r.Validity)}
	if !out.Until.After(p.Now()) {
		out.What, out.Detail = Stale, "its time is over"
		return nil, out
	}
	for _, name := range sorted(r.AtLeast) {
		if got, ok := row.numbers[name].Number(); !ok || got < r.AtLeast[name] {
			out.What, out.Detail = TooLittle, fmt.Sprintf("%s is %s, and at least %g is asked for", name, row.numbers[name], r.AtLeast[name])
			return nil, out
		}
	}
	value, problem := r.value(row.numbers[r.Column])
	if problem != "" {
		out.What, out.Detail = NoValue, problem
		return nil, out
	}
	out.Value = strings.TrimSpace(value.String() + " " + r.Unit)
	return &message.Result{Site: r.Site, Target: r.Target, Value: value, Unit: r.Unit, Quality: sample.Good,
		ComputedAt: p.Through.UTC().Truncate(time.Second), ValidFrom: end, ValidUntil: out.Until, Run: "millrace-cloud " + r.Result}, out
}

// value scales a column's number into the target's type.
func (r *Rule) value(of sample.Value) (v sample.Value, problem string) {
	number, ok := of.Number()
	if !ok {
		return v, r.Column + " is null"
	}
	if r.Type == sample.Int64 && of.Kind() == sample.Int64 && r.Scale == 1 && r.Offset == 0 {
		return of, ""
	}
	f := number*r.Scale + r.Offset
	if r.Type == sample.Int64 {
		f = math.Round(f)
		if !(f >= -(1<<63) && f < 1<<63) {
			return v, fmt.Sprintf("%g is beyond an int64", f)
		}
		return sample.IntValue(int64(f)), ""
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return v, fmt.Sprintf("%g is no number", f)
	}
	return sample.FloatValue(f), ""
}
