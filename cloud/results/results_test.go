package results

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"

	"millrace/cloud/state"
	"millrace/internal/sim/awssim"
	"millrace/sample"
)

func TestAResultIsPublishedOnce(t *testing.T) {
	r := newRig(t)
	r.expect(Nothing)
	r.write("hourly", ten, hourly("north/m1/other", ten, 1, 3600), hourly(powerTag, ten.Add(-time.Hour), 40_000, 3600),
		hourly(powerTag, ten, 41_500, 3590), hourly(powerTag, ten.Add(time.Hour), 99_000, 600)) // 11:00 is under way
	r.o.DryRun = true
	dry := r.expect(Published)
	if bodies, _ := r.arrive(); len(bodies) != 0 || dry.Value != "41.5 kW" {
		t.Fatalf("a dry run: %+v, sent %v", dry, bodies)
	}
	r.o.DryRun = false
	out := r.expect(Published)
	_, all := r.arrive()
	if len(all) != 1 {
		t.Fatalf("%d messages", len(all))
	}
	m := all[0]
	if m.Site != "north" || m.Target != "sp1" || m.Value != sample.FloatValue(41.5) || m.Unit != "kW" || m.Quality != sample.Good || m.Version != out.Version ||
		!m.ValidFrom.Equal(ten.Add(time.Hour)) || !m.ValidUntil.Equal(ten.Add(4*time.Hour)) || !m.ComputedAt.Equal(r.now) || m.Run != "millrace-cloud hourly" {
		t.Errorf("%+v", m)
	}
	if want := uint64(r.now.Unix()); m.Version != want || m.ID != fmt.Sprintf("hourly-20261128T10-%d", want) {
		t.Errorf("version %d, id %s", m.Version, m.ID)
	}
	for range 3 {
		r.set(r.time().Add(time.Minute))
		r.expect(Unchanged)
	}
	// Late data changes the row.
	r.write("hourly", ten, hourly(powerTag, ten, 41_600, 3599))
	out2 := r.expect(Published)
	if out2.Version <= out.Version || out2.Value != "41.6 kW" {
		t.Errorf("%+v after %+v", out2, out)
	}
	r.expect(Unchanged)
	// The next hour.
	r.write("hourly", ten, hourly(powerTag, ten, 41_600, 3599), hourly(powerTag, ten.Add(time.Hour), 42_000, 3599))
	r.set(ten.Add(2*time.Hour - time.Second))
	r.expect(Unchanged) // it is not over
	r.set(ten.Add(2 * time.Hour))
	r.o.Settle = 5 * time.Minute
	r.expect(Unchanged) // and not settled
	r.set(ten.Add(2*time.Hour + 5*time.Minute))
	if out := r.expect(Published); out.Value != "42.0 kW" && out.Value != "42 kW" {
		t.Errorf("%+v", out)
	}
	// The file of before comes back: an older row after a newer one.
	r.write("hourly", ten, hourly(powerTag, ten, 41_700, 3599))
	if out := r.expect(Unchanged); !strings.Contains(out.Detail, "a later period was sent already") {
		t.Errorf("%+v", out)
	}
	bodies, _ := r.arrive()
	if len(bodies) != 2 {
		t.Errorf("%d messages", len(bodies))
	}
}

func TestVersionsRiseWhateverTheClock(t *testing.T) {
	r := newRig(t)
	r.write("hourly", ten, hourly(powerTag, ten, 41_500, 3600))
	first := r.expect(Published)
	for i := range 3 { // in the same second, and with a clock that has gone back
		r.set(r.time().Add(-time.Duration(i) * time.Minute))
		r.o.Through = ten.Add(70 * time.Minute)
		r.write("hourly", ten, hourly(powerTag, ten, 41_501+float64(i), 3600))
		r.o.Rules[0].Validity += time.Second
		r.o.Settle = -time.Hour
		if out := r.expect(Published); out.Version != first.Version+uint64(i)+1 {
			t.Errorf("%+v, the first was %d", out, first.Version)
		}
	}
}

func TestWhatIsNotSent(t *testing.T) {
	for name, c := range map[string]struct {
		row    cells
		change func(r *rig)
		want   What
		detail string
	}{
		"too little data":     {hourly(powerTag, ten, 41_500, 2999), nil, TooLittle, "good is 2999, and at least 3000 is asked for"},
		"too little is null":  {hourly(powerTag, ten, 41_500, 3600), func(r *rig) { r.o.Rules[0].AtLeast = map[string]float64{"standard_deviation": 0} }, TooLittle, "standard_deviation is null"},
		"no value":            {cells{"site": "north", "tag": powerTag, "hour": ten, "good": int64(3600)}, nil, NoValue, "mean is null"},
		"beyond an int64":     {hourly(powerTag, ten, 1e300, 3600), func(r *rig) { r.o.Rules[0].Type = sample.Int64 }, NoValue, "is beyond an int64"},
		"beyond a float64":    {hourly(powerTag, ten, 1e300, 3600), func(r *rig) { r.o.Rules[0].Scale = 1e300 }, NoValue, "+Inf is no number"},
		"stale":               {hourly(powerTag, ten, 41_500, 3600), func(r *rig) { r.set(ten.Add(4 * time.Hour)) }, Stale, "its time is over"},
		"long stale":          {hourly(powerTag, ten, 41_500, 3600), func(r *rig) { r.set(ten.Add(400 * time.Hour)) }, Nothing, ""},
		"another tag":         {hourly("north/m1/power2", ten, 41_500, 3600), nil, Nothing, "no row"},
		"not yet analysed":    {hourly(powerTag, ten, 41_500, 3600), func(r *rig) { r.o.Through = ten.Add(30 * time.Minute) }, Nothing, "no row"},
		"good enough to send": {hourly(powerTag, ten, 41_500, 3000), nil, Published, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.write("hourly", ten, c.row)
			if c.change != nil {
				c.change(r)
			}
			if out := r.publish(); out.What != c.want || !strings.Contains(out.Detail, c.detail) {
				t.Errorf("%+v", out)
			}
			bodies, _ := r.arrive()
			if sent := len(bodies) == 1; sent != (c.want == Published) {
				t.Errorf("sent %v", bodies)
			}
		})
	}
}

func TestIntegersAndDays(t *testing.T) {
	r := newRig(t)
	day := ten.Truncate(24 * time.Hour)
	r.write("kpi", day.AddDate(0, 0, -1), cells{"site": "north", "device": "north/m1", "day": day.AddDate(0, 0, -1), "oee": 0.756, "availability": 0.9})
	r.write("kpi", day, cells{"site": "north", "device": "north/m1", "day": day, "oee": 0.1, "availability": 0.5}) // today
	r.o.Rules[0] = Rule{Site: "north", Target: "oee", Queue: r.queue, Result: "kpi", Of: "north/m1", Column: "oee", Type: sample.Int64, Unit: "%",
		Scale: 100, Offset: 0.5, Validity: 26 * time.Hour, AtLeast: map[string]float64{"availability": 0.8}}
	if out := r.expect(Published); out.Value != "76 %" || !out.Period.Equal(day.AddDate(0, 0, -1)) {
		t.Errorf("%+v", out)
	}
	if _, all := r.arrive(); len(all) != 1 || all[0].Value != sample.IntValue(76) || !all[0].ValidUntil.Equal(day.Add(26*time.Hour)) {
		t.Errorf("%+v", all)
	}
	// Whole numbers keep every digit.
	const odd = 1<<53 + 1
	r.write("hourly", ten, hourly(powerTag, ten, 1, odd))
	r.o.Rules[0] = Rule{Site: "north", Target: "n", Queue: r.queue, Result: "hourly", Of: powerTag, Column: "good", Type: sample.Int64, Scale: 1, Validity: 3 * time.Hour}
	r.expect(Published)
	if _, all := r.arrive(); len(all) != 1 || all[0].Value != sample.IntValue(odd) {
		t.Errorf("%+v", all)
	}
}

// dying is a process that ends at its n-th request of the table or the queue,
// before or after it is carried out.
type dying struct {
	state.DB
	queue   Queue
	mu      sync.Mutex
	left    int
	applied bool
}

var errDead = &smithy.GenericAPIError{Code: "Crash", Message: "the process is gone"}

func (d *dying) dead() (dead, carry bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left--
	return d.left < 0, d.left >= 0 || d.left == -1 && d.applied
}

func (d *dying) PutItem(ctx context.Context, in *dynamodb.PutItemInput, opts ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	dead, carry := d.dead()
	if carry {
		out, err := d.DB.PutItem(ctx, in, opts...)
		if !dead {
			return out, err
		}
	}
	return nil, errDead
}

func (d *dying) GetItem(ctx context.Context, in *dynamodb.GetItemInput, opts ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error) {
	if dead, _ := d.dead(); dead {
		return nil, errDead
	}
	return d.DB.GetItem(ctx, in, opts...)
}

func (d *dying) SendMessage(ctx context.Context, in *sqs.SendMessageInput, opts ...func(*sqs.Options)) (*sqs.SendMessageOutput, error) {
	dead, carry := d.dead()
	if carry {
		out, err := d.queue.SendMessage(ctx, in, opts...)
		if !dead {
			return out, err
		}
	}
	return nil, errDead
}

// TestACrashAnywhere: after it the same message, byte by byte, or none; in the
// end the site has one content for the version.
func TestACrashAnywhere(t *testing.T) {
	for _, applied := range []bool{false, true} {
		for n, finished := 0, false; !finished; n++ {
			r := newRig(t)
			r.write("hourly", ten, hourly(powerTag, ten, 41_500, 3600))
			d := &dying{DB: r.db, queue: r.sqs, left: n, applied: applied}
			o := r.o
			o.Table, o.Queue = r.table(d), func(string) Queue { return d }
			_, err := Publish(t.Context(), o)
			finished = err == nil
			if finished && n != 4 {
				t.Errorf("it took %d requests", n)
			}
			r.set(r.time().Add(time.Minute))
			r.publish()
			r.expect(Unchanged)
			bodies, _ := r.arrive()
			if len(bodies) == 0 || len(bodies) > 2 || bodies[0] != bodies[len(bodies)-1] {
				t.Errorf("a crash at request %d (carried out: %v): %q", n, applied, bodies)
			}
		}
	}
}

// TestACrashAndThenNewData: what was stored and perhaps sent gives way to a higher
// version.
func TestACrashAndThenNewData(t *testing.T) {
	r := newRig(t)
	r.write("hourly", ten, hourly(powerTag, ten, 41_500, 3600))
	d := &dying{DB: r.db, queue: r.sqs, left: 3}
	o := r.o
	o.Table, o.Queue = r.table(d), func(string) Queue { return d }
	if _, err := Publish(t.Context(), o); err == nil || !strings.Contains(err.Error(), "Crash") {
		t.Fatal(err)
	}
	r.write("hourly", ten, hourly(powerTag, ten, 41_600, 3600))
	r.expect(Published)
	_, all := r.arrive()
	if len(all) != 2 || all[0].Version >= all[1].Version || all[1].Value != sample.FloatValue(41.6) {
		t.Errorf("%+v", all)
	}
}

// TestManyPublishers run at once, while the results change under them. No version
// has two contents, and no older content comes under a higher version.
func TestManyPublishers(t *testing.T) {
	r := newRig(t)
	r.write("hourly", ten, hourly(powerTag, ten, 40_000, 3600))
	if err := r.o.Table.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{AnswerLost: 0.1})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 8 {
				if _, err := Publish(t.Context(), r.o); err != nil && !errors.Is(err, errQuicker) {
					t.Error(err)
				}
			}
		})
	}
	for i := range 20 {
		r.write("hourly", ten, hourly(powerTag, ten, 40_000+float64(1000*(i+1)), 3600))
		time.Sleep(time.Millisecond) // spreads the changes; what is tested does not depend on it
	}
	wg.Wait()
	r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{})
	r.publish()
	bodies, all := r.arrive()
	content := map[uint64]string{}
	value := map[uint64]float64{}
	for i, m := range all {
		if before, ok := content[m.Version]; ok && before != bodies[i] {
			t.Errorf("version %d has two contents:\n%s\n%s", m.Version, before, bodies[i])
		}
		content[m.Version], value[m.Version] = bodies[i], m.Value.Float()
	}
	last, top := 0.0, uint64(0)
	for v := uint64(r.now.Unix()); len(value) > 0; v++ {
		if f, ok := value[v]; ok {
			if f < last {
				t.Errorf("version %d brings back %g after %g", v, f, last)
			}
			last, top = f, v
			delete(value, v)
		}
	}
	if last != 60 {
		t.Errorf("the last version, %d, is %g", top, last)
	}
}

// between is a table's client that has something happen before its first put.
type between struct {
	state.DB
	once sync.Once
	act  func()
}

func (b *between) PutItem(ctx context.Context, in *dynamodb.PutItemInput, opts ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	b.once.Do(b.act)
	return b.DB.PutItem(ctx, in, opts...)
}

// TestOvertaken: a publisher that has looked at an old row finds, when it is about
// to store its message, that another has sent a new one: first with nothing in
// the table, then after a message.
func TestOvertaken(t *testing.T) {
	r := newRig(t)
	for i, old := range []float64{40_000, 42_000} {
		r.write("hourly", ten, hourly(powerTag, ten, old, 3600))
		o := r.o
		o.Table = r.table(&between{DB: r.db, act: func() {
			r.write("hourly", ten, hourly(powerTag, ten, old+1000, 3600))
			r.expect(Published)
		}})
		out, err := Publish(t.Context(), o)
		if err != nil || out[0].What != Unchanged {
			t.Errorf("%+v, %v", out, err)
		}
		_, all := r.arrive()
		if len(all) != 1 || all[0].Value != sample.FloatValue(old/1000+1) || all[0].Version != uint64(r.now.Unix())+uint64(i) {
			t.Errorf("%+v", all)
		}
	}
}

func TestFaultsAreSaid(t *testing.T) {
	r := newRig(t)
	r.write("hourly", ten, hourly(powerTag, ten, 41_500, 3600))
	r.o.Rules = append(r.o.Rules, r.o.Rules[0], r.o.Rules[0])
	r.o.Rules[0].Queue, r.o.Rules[0].Target = r.queue+"-none", "sp0"
	r.o.Rules[1].Result, r.o.Rules[1].Target = "energy", "sp2"
	if err := r.place.Put(t.Context(), "results/energy/date=2026-11-28/part-00000.parquet", []byte("PAR1 and no more")); err != nil {
		t.Fatal(err)
	}
	out, err := Publish(t.Context(), r.o)
	if len(out) != 3 || out[0].What != Error || out[1].What != Error || out[2].What != Published {
		t.Errorf("%+v", out)
	}
	if err == nil || !strings.HasPrefix(err.Error(), "2 of 3 targets failed, the first is north/sp0: send version ") || !strings.Contains(err.Error(), "create the queue, or correct its URL") {
		t.Error(err)
	}
	if !strings.Contains(out[1].Detail, "analyze that day again") {
		t.Errorf("%+v", out[1])
	}
	if _, err := json.Marshal(out); err != nil {
		t.Error(err)
	}
	// A file of other columns.
	data, err := file("availability", []cells{{"site": "north", "tag": powerTag, "hour": ten}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.place.Put(t.Context(), "results/hourly/date=2026-11-28/part-00000.parquet", data); err != nil {
		t.Fatal(err)
	}
	r.o.Rules = r.o.Rules[2:]
	if _, err := Publish(t.Context(), r.o); err == nil || !strings.Contains(err.Error(), "it has 7 columns, hourly has 13") {
		t.Error(err)
	}
	// Interrupted.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Publish(ctx, r.o); err == nil {
		t.Error("no error")
	}
}

func TestRulesAreChecked(t *testing.T) {
	for want, rule := range map[string]Rule{
		"":                       {Result: "energy", Column: "used", AtLeast: map[string]float64{"readings": 50}},
		"result there is no res": {Result: "weekly", Column: "used"},
		`column "unit" is no number of energy; there are used, readings, rollovers, resets`: {Result: "energy", Column: "unit"},
		`at_least "good" is no number of energy`:                                            {Result: "energy", Column: "used", AtLeast: map[string]float64{"good": 1}},
	} {
		if field, problem := rule.Check(); !strings.HasPrefix(strings.TrimSpace(field+" "+problem), want) || want == "" && problem != "" {
			t.Errorf("%s %s, want %s", field, problem, want)
		}
	}
}
