package format

import (
	"encoding/json"
	"io"

	"millrace/sample"
	"millrace/sample/ledger"
)

// lines writes JSON Lines: a sample as the gateway's file sink writes it
// (sample.AppendJSONLine), with unit, gateway and stream behind where they are
// known; a gap as {"gap":{…}}.
type lines struct {
	w   io.Writer
	buf []byte
}

// Sample implements Writer.
func (l *lines) Sample(r *Row) error {
	l.buf = sample.AppendJSONLine(l.buf[:0], &r.Sample)
	l.buf = l.buf[:len(l.buf)-1]
	for _, f := range [...]struct{ name, value string }{{"unit", r.Unit}, {"gateway", r.Gateway}, {"stream", r.Stream}} {
		if f.value != "" {
			l.buf = append(append(append(l.buf, `,"`...), f.name...), `":`...)
			l.buf = sample.AppendJSONText(l.buf, f.value)
		}
	}
	l.buf = append(l.buf, "}\n"...)
	_, err := l.w.Write(l.buf)
	return err
}

// Gap implements Writer.
func (l *lines) Gap(g *Gap) error {
	type record struct {
		Site    string `json:"site"`
		Gateway string `json:"gateway"`
		ledger.Gap
	}
	text, err := json.Marshal(struct {
		Gap record `json:"gap"`
	}{record{g.Site, g.Gateway, g.Gap}})
	if err != nil {
		return err
	}
	_, err = l.w.Write(append(text, '\n'))
	return err
}

// Close implements Writer.
func (*lines) Close() error { return nil }
