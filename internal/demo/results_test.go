package demo

import (
	"strings"
	"testing"

	"millrace/internal/sim/plant"
	"millrace/sample"
	"millrace/sample/result"
)

// TestTheMirrorsLedgerNotices changes one thing at a time in an account that
// balances.
func TestTheMirrorsLedgerNotices(t *testing.T) {
	sent := func(version uint64, value float64) *result.Result {
		return &result.Result{Version: version, Value: sample.FloatValue(value)}
	}
	type account struct {
		sent     []*result.Result
		outcomes []outcome
		stands   plant.Written
		told     []plant.Written
	}
	for name, c := range map[string]struct {
		change func(*account)
		want   string
	}{
		"balanced":            {func(*account) {}, ""},
		"an outcome is lost":  {func(a *account) { a.outcomes = a.outcomes[1:] }, "nobody says what became of version 1"},
		"another value":       {func(a *account) { a.told[0].Value++ }, "counts as written, and the PLC was told"},
		"never told":          {func(a *account) { a.told = a.told[1:] }, "counts as written, and the PLC was told 0"},
		"told though refused": {func(a *account) { a.outcomes[4].Outcome = "refused" }, "was refused, and the PLC was told"},
		"told twice":          {func(a *account) { a.told = append(a.told, a.told[1]) }, "version 4 after version 4"},
		"told an older one":   {func(a *account) { a.told[0], a.told[1] = a.told[1], a.told[0] }, "version 1 after version 4"},
		"stands another":      {func(a *account) { a.stands.Value = 0 }, "stands in the PLC"},
		"of nobody":           {func(a *account) { a.sent = a.sent[1:] }, "results that nobody sent"},
		"two ends":            {func(a *account) { a.outcomes = append(a.outcomes, outcome{Outcome: "refused", Version: 1, N: 9}) }, "version 1 was written, and refused"},
		"none refused": {func(a *account) {
			a.sent, a.outcomes = []*result.Result{a.sent[0], a.sent[3]}, []outcome{a.outcomes[0], a.outcomes[4]}
		}, "should be some of both"},
	} {
		t.Run(name, func(t *testing.T) {
			a := account{
				sent: []*result.Result{sent(1, 820.3), sent(2, 2000), sent(3, 821), sent(4, 822)},
				outcomes: []outcome{
					{Outcome: "written", Version: 1, N: 3}, {Outcome: "refused", Version: 2, N: 4}, {Outcome: "superseded", Version: 3, N: 5},
					{Outcome: "unsent", Version: 4, N: 6}, {Outcome: "written", Version: 4, N: 8},
				},
				stands: plant.Written{Value: 822, Version: 4}, told: []plant.Written{{Value: 820.3, Version: 1}, {Value: 822, Version: 4}},
			}
			c.change(&a)
			var r Result
			r.mirrored(a.sent, a.outcomes, a.stands, a.told)
			said := strings.Join(r.Findings, "; ")
			if r.MirrorBalanced != (c.want == "") || !strings.Contains(said, c.want) {
				t.Errorf("balanced %t: %s; want %q", r.MirrorBalanced, said, c.want)
			}
		})
	}
}
