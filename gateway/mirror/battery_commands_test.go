package mirror_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"millrace/sample"
	"millrace/sample/result"
)

// signed is how a command is signed.
type signed int

const (
	signedWell signed = iota
	signedNot
	signedStrangely // by a key that the site does not know
	signedBadly
)

// command is one generated message, with all that the oracle has to know of it.
type command struct {
	no        int
	kind      string // what was done to it
	body      []byte
	malformed string // the reason, where it is no result

	id, site, target      string
	version               uint64
	value                 sample.Value
	unit                  string
	quality               sample.Quality
	computed, from, until time.Time
	signed                signed
	resultRun             string
}

// generator makes commands: most of them wrong in some way.
type generator struct {
	rnd     *rand.Rand
	now     func() time.Time
	targets []*rule
	keys    map[string]ed25519.PrivateKey
	stray   ed25519.PrivateKey
	made    int
	next    map[string]uint64 // the next version of each target
	center  map[string]float64
	held    []*command // made, and kept back to be sent out of order
	sent    []*command // some of the last, to be sent again
}

const (
	goodKey  = "cloud"
	strayKey = "stranger"
)

func newGenerator(rnd *rand.Rand, now func() time.Time, targets []*rule) *generator {
	seed := func(b byte) ed25519.PrivateKey {
		s := make([]byte, ed25519.SeedSize)
		s[0] = b
		return ed25519.NewKeyFromSeed(s)
	}
	return &generator{
		rnd: rnd, now: now, targets: targets, keys: map[string]ed25519.PrivateKey{goodKey: seed(1)}, stray: seed(2),
		next: map[string]uint64{}, center: map[string]float64{},
	}
}

// spoiling is one way to spoil a command, and how often it is chosen.
type spoiling struct {
	name   string
	weight int
	do     func(g *generator, c *command, r *rule)
}

func spoilings() []spoiling {
	shift := func(c *command, d time.Duration) {
		c.computed, c.from, c.until = c.computed.Add(d), c.from.Add(d), c.until.Add(d)
	}
	return []spoiling{
		{"as it should be", 34, func(*generator, *command, *rule) {}},
		{"expired", 4, func(g *generator, c *command, _ *rule) {
			shift(c, -c.until.Sub(g.now())-time.Duration(g.rnd.IntN(7200))*time.Second)
		}},
		{"expiring soon", 4, func(g *generator, c *command, _ *rule) {
			c.until = g.now().Add(time.Duration(1+g.rnd.IntN(5000)) * time.Millisecond)
		}},
		{"not yet valid", 4, func(g *generator, c *command, _ *rule) {
			c.from = g.now().Add(1001*time.Millisecond + time.Duration(g.rnd.IntN(3600))*time.Second)
			c.until = c.from.Add(10 * time.Minute)
		}},
		{"computed in the future", 1, func(g *generator, c *command, _ *rule) { c.computed = g.now().Add(time.Minute) }},
		{"too old", 3, func(g *generator, c *command, r *rule) {
			c.computed = g.now().Add(-r.maxAge - time.Duration(1+g.rnd.IntN(3600))*time.Second)
			c.from = c.computed
		}},
		{"below the minimum", 3, func(g *generator, c *command, r *rule) { g.beyond(c, r, true) }},
		{"above the maximum", 4, func(g *generator, c *command, r *rule) { g.beyond(c, r, false) }},
		{"too large a step", 5, func(g *generator, c *command, r *rule) {
			if r.maxStep > 0 {
				c.value = number(r, g.center[r.name]+float64(1-2*g.rnd.IntN(2))*(2*r.maxStep+float64(g.rnd.IntN(100))))
			}
		}},
		{"unsigned", 3, func(_ *generator, c *command, _ *rule) { c.signed = signedNot }},
		{"signed by a stranger", 3, func(_ *generator, c *command, _ *rule) { c.signed = signedStrangely }},
		{"badly signed", 4, func(_ *generator, c *command, _ *rule) { c.signed = signedBadly }},
		{"for an unknown target", 3, func(g *generator, c *command, _ *rule) { c.target = fmt.Sprintf("sp%d", 100+g.rnd.IntN(9)) }},
		{"for another site", 3, func(_ *generator, c *command, _ *rule) { c.site = "south" }},
		{"of another type", 3, func(g *generator, c *command, r *rule) { c.value = otherKind(g.rnd, r.kind) }},
		{"of another unit", 3, func(_ *generator, c *command, _ *rule) { c.unit += "h" }},
		{"of bad quality", 2, func(_ *generator, c *command, _ *rule) { c.quality = sample.BadOutOfRange }},
		{"of uncertain quality", 1, func(_ *generator, c *command, _ *rule) { c.quality = sample.UncertainLastUsableValue }},
		{"of an old version", 5, func(g *generator, c *command, _ *rule) { c.version = 1 + uint64(g.rnd.Int64N(int64(c.version))) }},
		{"unsuited to the device", 2, func(_ *generator, c *command, r *rule) {
			switch r.device {
			case "uint16":
				c.value = sample.IntValue(70_000)
			case "text":
				c.value = sample.StringValue(strings.Repeat("x", 40))
			}
		}},
	}
}

// number is a value of a numeric target's type.
func number(r *rule, f float64) sample.Value {
	if r.kind == sample.Int64 {
		return sample.IntValue(int64(f))
	}
	return sample.FloatValue(f)
}

func otherKind(rnd *rand.Rand, kind sample.Kind) sample.Value {
	for {
		v := []sample.Value{sample.FloatValue(41.5), sample.IntValue(41), sample.BoolValue(true), sample.StringValue("41.5")}[rnd.IntN(4)]
		if v.Kind() != kind {
			return v
		}
	}
}

func (g *generator) beyond(c *command, r *rule, low bool) {
	by := []float64{1, 1000, 1e12}[g.rnd.IntN(3)]
	switch {
	case r.kind != sample.Float64 && r.kind != sample.Int64:
	case low:
		c.value = number(r, r.min-by)
	default:
		c.value = number(r, r.max+by)
	}
}

// make makes one command for a target.
func (g *generator) make() *command {
	r := g.targets[g.rnd.IntN(len(g.targets))]
	now := g.now()
	g.made++
	g.next[r.name] += 1 + uint64(g.rnd.IntN(3))
	c := &command{
		no: g.made, id: fmt.Sprintf("c%d", g.made), site: siteName, target: r.name, version: g.next[r.name], value: g.value(r), unit: r.unit,
		computed: now.Add(-time.Duration(g.rnd.IntN(60_000)) * time.Millisecond), resultRun: "battery",
	}
	c.from = c.computed
	c.until = now.Add(time.Duration(30+g.rnd.IntN(600)) * time.Second)
	g.spoil(c, r)
	if g.rnd.IntN(8) == 0 { // wrong in two ways: the first guard decides
		g.spoil(c, r)
	}
	g.encode(c)
	if g.rnd.IntN(12) == 0 {
		g.garble(c)
	}
	return c
}

func (g *generator) spoil(c *command, r *rule) {
	all := spoilings()
	total := 0
	for _, s := range all {
		total += s.weight
	}
	n := g.rnd.IntN(total)
	for _, s := range all {
		if n -= s.weight; n < 0 {
			s.do(g, c, r)
			c.kind += s.name + " "
			return
		}
	}
}

// value wanders about within the target's limits.
func (g *generator) value(r *rule) sample.Value {
	switch r.kind {
	case sample.Bool:
		return sample.BoolValue(g.rnd.IntN(2) == 0)
	case sample.String:
		return sample.StringValue([]string{"eco", "auto", "läuft", "Stufe 2"}[g.rnd.IntN(4)])
	}
	at, ok := g.center[r.name]
	if !ok {
		at = (r.min + r.max) / 2
	}
	width := (r.max - r.min) / 50
	at = math.Round(math.Min(r.max, math.Max(r.min, at+(g.rnd.Float64()*2-1)*width))*4) / 4
	g.center[r.name] = at
	return number(r, at)
}

// encode signs the command and writes it as JSON, by code of its own.
func (g *generator) encode(c *command) {
	r := result.Result{
		ID: c.id, Site: c.site, Target: c.target, Version: c.version, Value: c.value, Unit: c.unit, Quality: c.quality, ComputedAt: c.computed,
		ValidFrom: c.from, ValidUntil: c.until, Run: c.resultRun,
	}
	switch c.signed {
	case signedWell:
		r.Sign(goodKey, g.keys[goodKey])
	case signedStrangely:
		r.Sign(strayKey, g.stray)
	case signedBadly:
		switch g.rnd.IntN(3) {
		case 0: // by another key under the good one's name
			r.Sign(goodKey, g.stray)
		case 1: // one bit is wrong
			r.Sign(goodKey, g.keys[goodKey])
			r.Signature.Sum[g.rnd.IntN(len(r.Signature.Sum))] ^= 1 << g.rnd.IntN(8)
		default: // what was signed is another version
			r.Version++
			r.Sign(goodKey, g.keys[goodKey])
		}
	case signedNot:
	}
	text := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		return string(b)
	}
	instant := func(t time.Time) string { return `"` + t.UTC().Format("2006-01-02T15:04:05.999999999Z") + `"` }
	kind, value := "", ""
	switch c.value.Kind() {
	case sample.Float64:
		kind, value = "float64", strconv.FormatFloat(c.value.Float(), 'f', -1, 64)
	case sample.Int64:
		kind, value = "int64", strconv.FormatInt(c.value.Int(), 10)
	case sample.Bool:
		kind, value = "bool", strconv.FormatBool(c.value.Bool())
	default:
		kind, value = "string", text(c.value.Str())
	}
	fields := []string{
		`"schema":"millrace/result/1"`, `"id":` + text(c.id), `"site":` + text(c.site), `"target":` + text(c.target),
		`"version":` + strconv.FormatUint(c.version, 10), `"value":` + value, `"type":` + text(kind), `"unit":` + text(c.unit),
		`"quality":` + text(c.quality.String()), `"computed_at":` + instant(c.computed), `"valid_from":` + instant(c.from),
		`"valid_until":` + instant(c.until), `"run":` + text(c.resultRun),
	}
	if r.Signature.Key != "" {
		fields = append(fields, `"signature":{"key":`+text(r.Signature.Key)+`,"ed25519":"`+base64.StdEncoding.EncodeToString(r.Signature.Sum)+`"}`)
	}
	g.rnd.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	c.body = []byte("{" + strings.Join(fields, ",") + "}")
	if !c.until.After(c.from) {
		c.malformed = "bad_time"
	}
}

// garble makes what is no result of a command.
func (g *generator) garble(c *command) {
	body := string(c.body)
	ways := []struct {
		reason string
		do     func() string
	}{
		{"not_json", func() string { return body[:g.rnd.IntN(len(body))] }},
		{"not_json", func() string { return body + "{}" }},
		{"not_json", func() string { return "" }},
		{"not_a_number", func() string { return replaceValue(body, "NaN") }},
		{"not_a_number", func() string { return replaceValue(body, "-Infinity") }},
		{"wrong_type", func() string { return replaceValue(body, "null") }},
		{"unknown_schema", func() string { return strings.Replace(body, "result/1", "result/2", 1) }},
		{"missing_field", func() string { return strings.Replace(body, `"run":"battery"`, `"unit":""`, 1) }},
		{"unknown_field", func() string { return strings.Replace(body, `"run":`, `"ran":`, 1) }},
		{"duplicate_field", func() string { return body[:len(body)-1] + `,"value":1}` }},
		{"too_large", func() string { return body + strings.Repeat(" ", 1<<20) }},
	}
	w := ways[g.rnd.IntN(len(ways))]
	if w.reason == "missing_field" { // the unit stands there already, so it has to go first
		body = strings.Replace(strings.Replace(body, `"run":"battery",`, "", 1), `,"run":"battery"`, "", 1)
		w.do = func() string { return body }
	}
	c.kind, c.malformed, c.body = c.kind+w.reason, w.reason, []byte(w.do())
	if len(c.body) > result.MaxBytes { // as a feed does
		c.body = c.body[:result.MaxBytes+1]
	}
}

// replaceValue puts another text in the place of the value.
func replaceValue(body, by string) string {
	from := strings.Index(body, `"value":`) + len(`"value":`)
	to := from
	for quoted := false; to < len(body) && (quoted || body[to] != ',' && body[to] != '}'); to++ {
		if body[to] == '"' {
			quoted = !quoted
		}
	}
	return body[:from] + by + body[to:]
}

// batch is what the cloud sends next: new commands, some of them kept back for
// later so that they arrive out of order, and some that were sent before.
func (g *generator) batch(n int) []*command {
	var out []*command
	for range n {
		switch k := g.rnd.IntN(20); {
		case k == 0 && len(g.sent) > 0:
			out = append(out, g.sent[g.rnd.IntN(len(g.sent))]) // replayed
			continue
		case k == 1:
			g.held = append(g.held, g.make())
			continue
		case k == 2 && len(g.held) > 0:
			i := g.rnd.IntN(len(g.held))
			out = append(out, g.held[i])
			g.held = append(g.held[:i], g.held[i+1:]...)
			continue
		}
		c := g.make()
		out = append(out, c)
		if len(g.sent) < 50 {
			g.sent = append(g.sent, c)
		} else {
			g.sent[g.rnd.IntN(len(g.sent))] = c
		}
	}
	g.rnd.Shuffle(len(out), func(i, j int) {
		if g.rnd.IntN(4) == 0 {
			out[i], out[j] = out[j], out[i]
		}
	})
	return out
}
