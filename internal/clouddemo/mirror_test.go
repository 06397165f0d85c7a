package clouddemo

import (
	"strings"
	"testing"

	"millrace/internal/sim/plant"
	"millrace/sample"
	"millrace/sample/result"
)

// TestMirrorNotices changes one thing at a time in an account that balances.
func TestMirrorNotices(t *testing.T) {
	type account struct {
		published []*result.Result
		refused   []string
		ends      map[uint64]string
		stands    plant.Written
		told      []plant.Written
	}
	for name, c := range map[string]struct {
		change func(*account)
		want   string
	}{
		"balanced":               {func(*account) {}, ""},
		"nothing published":      {func(a *account) { a.published = nil }, "0 messages were published"},
		"published twice":        {func(a *account) { a.published = append(a.published, a.published[0]) }, "2 messages were published"},
		"a wrong signature":      {func(a *account) { a.refused = []string{"a message: the signature is wrong"} }, "the signature is wrong"},
		"another value":          {func(a *account) { a.published[0].Value = sample.FloatValue(800.06) }, "the logger recorded 800.05"},
		"no outcome":             {func(a *account) { a.ends = nil }, "nobody says what became of version 7"},
		"refused":                {func(a *account) { a.ends[7] = "refused" }, "version 7 was refused"},
		"not in the register":    {func(a *account) { a.stands, a.told = plant.Written{}, nil }, "in the PLC stands version 0, 0"},
		"another in the PLC":     {func(a *account) { a.stands.Value = 800; a.told[0].Value = 800 }, "in the PLC stands version 7, 800"},
		"another version in it":  {func(a *account) { a.stands.Version, a.told[0].Version = 6, 6 }, "in the PLC stands version 6"},
		"overwritten by another": {func(a *account) { a.told = append(a.told, plant.Written{Value: 1, Version: 8}) }, "the PLC was told version 8, 1, too"},
	} {
		a := account{
			published: []*result.Result{{Version: 7, Value: sample.FloatValue(800.05)}}, ends: map[uint64]string{7: "written"},
			stands: plant.Written{Value: 800.05, Version: 7}, told: []plant.Written{{Value: 800.05, Version: 7}},
		}
		c.change(&a)
		r := &Report{}
		r.mirrorAccount(a.published, a.refused, a.ends, a.stands, a.told, 800.05)
		if said := strings.Join(r.Findings, "; "); (said == "") != (c.want == "") || !strings.Contains(said, c.want) {
			t.Errorf("%s: %q; want %q", name, said, c.want)
		}
	}
}
