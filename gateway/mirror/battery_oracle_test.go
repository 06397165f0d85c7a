package mirror_test

import (
	"fmt"
	"math"
	"slices"
	"time"

	"millrace/gateway/mirror"
	"millrace/sample"
)

// oracle says what may have become of each command. It reads the audit log from
// its beginning, beside what the PLC, the queue and the plant know themselves,
// and shares no code with the guards.
type oracle struct {
	w        *world
	rules    map[string]*rule
	strict   bool                // signatures are required of all targets
	commands map[string]*command // by the message's key
	state    map[string]*known
	counts   map[string]int // outcomes, and reasons of refusals
	vague    int            // refusals of which another reason would have been right as well
	faults   []string
	left     int // faults of this kind that are still kept
}

// known is what the log has said of a target so far.
type known struct {
	floors  []floor // what a version has to be above, by the record from which on
	lasts   []last
	used    uint64
	pending uint64 // that waits
	batch   uint64 // superseded within its batch, by one that is recorded next
	before  uint64 // used before the open intent

	pendingMessage, openMessage string
	settled                     map[string]string // messages with an outcome that ends them
}

type floor struct {
	from    uint64
	version uint64
	// batch is higher where a version was superseded within its batch. It counts
	// no more when a kill comes before the newer one is recorded.
	batch uint64
}

type last struct {
	from  uint64
	value *sample.Value
}

// history is what a fact was, from when on.
type history struct{ changes []change }

type change struct {
	from time.Time
	is   string // of a target's arming: by name
	of   string
}

// set notes a change.
func (h *history) set(at time.Time, of, is string) {
	h.changes = append(h.changes, change{at, is, of})
}

// current is what a fact of everything is now.
func (h *history) current() string { return h.changes[len(h.changes)-1].is }

// within lists what a fact was at some time from a to b, both included; at the
// very moment of a change it was both.
func (h *history) within(of string, a, b time.Time) (out []string) {
	last := ""
	for _, c := range h.changes {
		switch {
		case c.of != of:
		case c.from.Before(a):
			last = c.is
		case !c.from.After(b):
			out = append(out, c.is)
		}
	}
	return append(out, last)
}

// reordering is how much earlier than its record a decision may have been made:
// an answer of the PLC comes in between.
const reordering = 6 * slowest

// nextTry is the longest wait between two tries to record something.
const nextTry = 6 * time.Second

func newOracle(w *world, rules []*rule, strict bool) *oracle {
	o := &oracle{w: w, rules: map[string]*rule{}, strict: strict, commands: map[string]*command{}, state: map[string]*known{}, counts: map[string]int{}}
	for _, r := range rules {
		o.rules[r.name] = r
		o.state[r.name] = &known{settled: map[string]string{}, floors: []floor{{}}, lasts: []last{{}}}
	}
	return o
}

// faultsShown is how many faults of each kind are kept.
const faultsShown = 10

func (o *oracle) fault(format string, args ...any) {
	if o.left--; o.left >= 0 {
		o.faults = append(o.faults, fmt.Sprintf(format, args...))
	}
}

// facts is one state of the world in which a decision may have been made.
type facts struct {
	at            time.Time
	synced        string
	mode          string
	floor         uint64
	last, present *sample.Value
	enable        string
}

// reason is why a command is refused in a state of the world, or "".
func (o *oracle) reason(c *command, f *facts) string {
	r := o.rules[c.target]
	switch {
	case c.malformed != "":
		return c.malformed
	case r == nil:
		return "unknown_target"
	case f.mode == "off":
		return "mode_off"
	case c.site != siteName:
		return "wrong_site"
	case c.signed == signedNot && (o.strict || r.setpoint):
		return "unsigned"
	case c.signed == signedStrangely:
		return "unknown_key"
	case c.signed == signedBadly:
		return "bad_signature"
	case f.synced == "no":
		return "clock_unsynchronised"
	case !f.at.Before(c.until):
		return "expired"
	case c.from.After(f.at.Add(time.Second)), c.computed.After(f.at.Add(time.Second)):
		return "not_yet_valid"
	case r.maxAge > 0 && f.at.Sub(c.computed) > r.maxAge:
		return "too_old"
	case c.version <= f.floor:
		return "not_newer"
	case c.value.Kind() != r.kind:
		return "wrong_type"
	case c.unit != r.unit:
		return "wrong_unit"
	case c.quality>>30 >= 2:
		return "bad_quality"
	}
	if r.limited {
		n, _ := c.value.Number()
		switch {
		case n < r.min && !r.clamp:
			return "below_min"
		case n > r.max && !r.clamp:
			return "above_max"
		}
		n = math.Min(r.max, math.Max(r.min, n))
		if r.maxStep > 0 && f.last != nil {
			if from, _ := f.last.Number(); math.Abs(n-from) > r.maxStep {
				return "step_from_last"
			}
		}
		if r.maxStep > 0 && f.present != nil {
			if from, _ := f.present.Number(); math.Abs(n-from) > r.maxStep {
				return "step_from_present"
			}
		}
	}
	if r.enable && f.enable != "yes" {
		return "not_enabled"
	}
	return ""
}

// possible lists the reasons that a command may have been refused for, "" among
// them where it may have been accepted, by a record. The decision was made when
// the message came, or, where it had waited, just before the record.
func (o *oracle) possible(c *command, rec *record) []string {
	var out []string
	k := o.state[c.target]
	if k == nil || c.malformed != "" {
		return []string{o.reason(c, &facts{})}
	}
	from := o.w.disk.earliest(rec.At)
	floors, lasts := []uint64{k.used}, k.lastsSince(rec.N-1, rec.N)
	if k.openMessage == rec.Message {
		floors = []uint64{k.before}
	}
	if rec.intake() {
		d := o.w.delivered(rec)
		from, floors, lasts = d.at, k.floorsSince(d.records, rec.N), k.lastsSince(d.records, rec.N)
	}
	f := facts{}
	for _, f.at = range []time.Time{from, rec.At} {
		for _, f.mode = range o.w.armed.within(c.target, from, rec.At) {
			for _, f.synced = range o.w.synced.within("", from, rec.At) {
				for _, f.enable = range o.w.enable.within("", from, rec.At) {
					for _, f.floor = range floors {
						for _, f.last = range lasts {
							for _, f.present = range o.presents(rec, from) {
								if reason := o.reason(c, &f); !slices.Contains(out, reason) {
									out = append(out, reason)
								}
							}
						}
					}
				}
			}
		}
	}
	return out
}

// earliest is when a decision may have been made that was recorded at some time:
// while the disk is full it waits to be recorded, and then for the next try.
func (d *disk) earliest(at time.Time) time.Time {
	from := at.Add(-reordering)
	end := at
	for _, c := range slices.Backward(d.fills.changes) {
		switch {
		case c.from.After(at):
		case c.is != "full":
			end = c.from
		case !end.Before(from.Add(-nextTry)) && c.from.Add(-reordering).Before(from):
			from = c.from.Add(-reordering)
		}
	}
	return from
}

// delivered is the last delivery of a record's message before it.
func (w *world) delivered(rec *record) delivery {
	for _, d := range slices.Backward(w.deliveries[rec.Message]) {
		if !d.at.After(rec.At) && d.records < rec.N {
			return d
		}
	}
	return delivery{}
}

func (k *known) floorsSince(from, to uint64) (out []uint64) {
	for i := len(k.floors) - 1; i >= 0; i-- {
		if f := k.floors[i]; f.from < to {
			for _, version := range []uint64{f.version, f.batch} {
				if !slices.Contains(out, version) {
					out = append(out, version)
				}
			}
		}
		if k.floors[i].from <= from {
			break
		}
	}
	return out
}

func (k *known) lastsSince(from, to uint64) (out []*sample.Value) {
	for i := len(k.lasts) - 1; i >= 0; i-- {
		if k.lasts[i].from < to {
			out = append(out, k.lasts[i].value)
		}
		if k.lasts[i].from <= from {
			break
		}
	}
	return out
}

// presents lists what the PLC may have answered before a decision, or that
// nothing was read, as is always so when a message has just come.
func (o *oracle) presents(rec *record, from time.Time) []*sample.Value {
	out := []*sample.Value{nil}
	if rec.intake() {
		return out
	}
	all := o.w.reads[rec.Target]
	i, _ := slices.BinarySearchFunc(all, from, func(a answer, t time.Time) int { return a.at.Compare(t) })
	for ; i < len(all) && !all[i].at.After(rec.At); i++ {
		if v := all[i].value; v != nil && (len(out) == 1 || *out[len(out)-1] != *v) {
			out = append(out, v)
		}
	}
	return out
}

// read goes through the whole log.
func (o *oracle) read(records []record) {
	o.faults = append(o.faults, o.w.faults...)
	o.left = faultsShown
	o.plc()
	o.left = faultsShown
	for i := range records {
		o.one(&records[i])
	}
	o.left = faultsShown
	o.complete()
}

func (o *oracle) one(rec *record) {
	c := o.commands[rec.Message]
	k := o.state[rec.Target]
	switch rec.Kind {
	case "held", "outcome", "intent":
		if rec.Version == 0 && rec.Message == "" {
			return // the fallback value
		}
		if c == nil {
			o.fault("record %d is of message %q, which nobody sent", rec.N, rec.Message)
			return
		}
	default:
		return
	}
	what := func() string {
		return fmt.Sprintf("record %d at %s, command %d (%s) for %s, version %d, delivered %v, synchronised %v,", rec.N, rec.At.Format("15:04:05.000000"), c.no,
			c.kind, c.target, c.version, o.w.deliveries[rec.Message], o.w.synced.within("", rec.At.Add(-time.Minute), rec.At))
	}
	if c.malformed == "" && (rec.Version != c.version || rec.Target != c.target || rec.ID != c.id) {
		o.fault("%s: it says %s, version %d, id %s", what(), rec.Target, rec.Version, rec.ID)
	}
	may := o.possible(c, rec)
	switch rec.Kind {
	case "held":
		if !slices.Contains(may, "") {
			o.fault("%s was accepted, and is to be refused for %q", what(), may)
		}
		k.pending, k.pendingMessage, k.batch = c.version, rec.Message, 0
		// One that was superseded and comes again may be taken, if that newer one
		// was never written.
		delete(k.settled, rec.Message)
	case "intent":
		if !slices.Contains(may, "") {
			o.fault("%s was about to be written, and is to be refused for %q", what(), may)
		}
		if c.version <= k.used || rec.Message != k.pendingMessage {
			o.fault("%s was about to be written after version %d, while %d waited", what(), k.used, k.pending)
		}
		k.before, k.used, k.openMessage = k.used, c.version, rec.Message
		k.pending, k.pendingMessage = 0, ""
	case "outcome":
		o.outcome(rec, c, k, may, what)
	}
	if k != nil {
		f := floor{version: max(k.used, k.pending)}
		f.batch = max(f.version, k.batch)
		if is := k.floors[len(k.floors)-1]; is.version != f.version || is.batch != f.batch {
			f.from = rec.N
			k.floors = append(k.floors, f)
		}
	}
}

// outcome holds an outcome to what it may be.
func (o *oracle) outcome(rec *record, c *command, k *known, may []string, what func() string) {
	o.counts[rec.Outcome]++
	switch rec.Outcome {
	case "malformed":
		if c.malformed == "" || rec.Reason != c.malformed {
			o.fault("%s was found malformed for %s, and it is for %q", what(), rec.Reason, c.malformed)
		}
		o.counts["malformed: "+rec.Reason]++
		return
	case "refused", "expired_held":
		o.counts["refused: "+rec.Reason]++
		if !slices.Contains(may, rec.Reason) {
			o.fault("%s was refused for %s, and is to be for one of %q", what(), rec.Reason, may)
		}
		if len(slices.DeleteFunc(may, func(reason string) bool { return reason == "" })) > 1 {
			o.vague++
		}
		if k == nil {
			return
		}
	}
	if k == nil {
		o.fault("%s: %s, for a target that does not exist", what(), rec.Outcome)
		return
	}
	open := k.openMessage == rec.Message && !rec.intake()
	switch rec.Outcome {
	case "superseded":
		if rec.intake() {
			k.batch = c.version
		}
		if !o.newer(c, rec) {
			o.fault("%s was superseded, and no newer one was there", what())
		}
	case "dry_run":
		if !slices.Contains(o.w.armed.within(c.target, o.w.disk.earliest(rec.At), rec.At), "dry_run") {
			o.fault("%s: a dry run of a target that was armed", what())
		}
		k.used = max(k.used, c.version)
	case "unsuited":
		if _, ok := o.rules[c.target].fits(c.value); ok {
			o.fault("%s was found unsuited, and suits", what())
		}
	case "written":
		v := *rec.Value
		k.lasts = append(k.lasts, last{rec.N, &v})
	}
	if slices.Contains([]string{"written", "unverified"}, rec.Outcome) && !open {
		o.fault("%s: %s without an intent", what(), rec.Outcome)
	}
	if rec.intake() {
		return
	}
	if open {
		k.openMessage = ""
	}
	switch {
	case rec.Outcome == "unsent" && open:
		k.used, k.pending, k.pendingMessage = k.before, c.version, rec.Message
		return
	case rec.Outcome == "unsent":
		return
	case open && slices.Contains([]string{"superseded", "refused", "expired_held"}, rec.Outcome):
		k.used = k.before // the device was away, or the guards had something against it in the end: it was not sent
	case k.pendingMessage == rec.Message:
		k.pending, k.pendingMessage = 0, ""
	}
	if before := k.settled[rec.Message]; before != "" {
		o.fault("%s: %s, after it was %s already", what(), rec.Outcome, before)
	}
	k.settled[rec.Message] = rec.Outcome
}

// newer reports whether another command of a higher version had come by then.
func (o *oracle) newer(c *command, rec *record) bool {
	for key, other := range o.commands {
		if other.target != c.target || other.version <= c.version || other.malformed != "" {
			continue
		}
		for _, d := range o.w.deliveries[key] {
			if !d.at.After(rec.At) {
				return true
			}
		}
	}
	return false
}

// plc holds what came to stand in the PLC to what was allowed at that moment.
func (o *oracle) plc() {
	newest := map[string]uint64{}
	lastAt := map[string]time.Time{}
	for _, w := range o.w.writes {
		r := o.rules[w.target]
		say := func(format string, args ...any) {
			o.fault("version %d, %s, was written to %s at %s: %s", w.command.Version, w.command.Value, w.target, w.at.Format(time.RFC3339Nano), fmt.Sprintf(format, args...))
		}
		modes := o.w.armed.within(w.target, w.at, w.at)
		if !slices.Contains(modes, "armed") {
			say("the target was not armed, it was %q", modes)
		}
		if r.enable && !slices.Contains(o.w.enable.within("", w.at.Add(-slowest), w.at), "yes") {
			say("the enable tag was not set")
		}
		if w.intents == 0 {
			say("no intent was on the disk")
		}
		if w.command.Version == 0 {
			if r.fallback == nil || w.command.Value != *r.fallback {
				say("nobody asked for it")
			}
			continue
		}
		if w.command.Version <= newest[w.target] {
			say("version %d was there before", newest[w.target])
		}
		newest[w.target] = w.command.Version
		if at, ok := lastAt[w.target]; ok && w.at.Sub(at) < r.minInterval-slowest {
			say("%s after the last one, the shortest interval is %s", w.at.Sub(at), r.minInterval)
		}
		lastAt[w.target] = w.at
		if n, ok := w.command.Value.Number(); ok && r.maxStep > 0 && w.before != nil && w.at.Sub(w.changed) > mirror.PresentFor+reordering {
			if from, _ := w.before.Number(); math.Abs(n-from) > r.maxStep {
				say("%s stood there, and max_step is %g", w.before, r.maxStep)
			}
		}
		if !o.authorised(&w) {
			say("no command that had come allows it")
		}
	}
}

// authorised reports whether a command says what was written, and might be
// written then.
func (o *oracle) authorised(w *write) bool {
	r := o.rules[w.target]
	for key, c := range o.commands {
		if c.target != w.target || c.version != w.command.Version || c.malformed != "" || len(o.w.deliveries[key]) == 0 {
			continue
		}
		v := c.value
		if n, ok := v.Number(); ok && r.clamp && r.limited && v.Kind() == r.kind {
			v = number(r, math.Min(r.max, math.Max(r.min, n)))
		}
		if v != w.command.Value || !c.until.Equal(w.command.ValidUntil) {
			continue
		}
		for _, at := range []time.Time{w.at, w.at.Add(-slowest)} {
			for _, synced := range o.w.synced.within("", w.at.Add(-slowest), w.at) {
				// The steps, which depend on what was read before, are held to the records.
				f := facts{at: at, mode: "armed", enable: "yes", synced: synced}
				if o.reason(c, &f) == "" {
					return true
				}
			}
		}
	}
	return false
}

// complete wants an end for each command that came.
func (o *oracle) complete() {
	for key := range o.commands {
		if len(o.w.deliveries[key]) > 0 && !o.w.disk.decided[key] {
			o.fault("message %s came, and the log has no word of it", key)
		}
	}
	for name, k := range o.state {
		if k.pendingMessage != "" || k.openMessage != "" {
			o.fault("at the end message %q waits for %s, and %q is open", k.pendingMessage, name, k.openMessage)
		}
	}
}
