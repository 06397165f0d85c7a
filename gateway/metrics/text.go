package metrics

import (
	"bytes"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	vm "github.com/VictoriaMetrics/metrics"

	"millrace/internal/histogram"
)

// prefix begins the name of everything that is the gateway's own.
const prefix = "millrace_"

// labels are names and values in turn.
type labels []string

// family is a metric with its series.
type family struct {
	help, kind string
	lines      []string
}

// emitter collects metrics and writes them in Prometheus' text format, version
// 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
type emitter map[string]*family

func (e emitter) add(name, kind, help string, lines ...string) {
	f := e[name]
	if f == nil {
		f = &family{help: help, kind: kind}
		e[name] = f
	}
	f.lines = append(f.lines, lines...)
}

func (e emitter) gauge(name, help string, v float64, l labels) {
	e.add(name, "gauge", help, series(name, l, number(v)))
}

func (e emitter) counter(name, help string, v uint64, l labels) {
	e.add(name, "counter", help, series(name, l, strconv.FormatUint(v, 10)))
}

func (e emitter) histogram(name, help string, h histogram.Snapshot, l labels) {
	for i, b := range h.Bounds {
		e.add(name, "histogram", help, series(name+"_bucket", append(slices.Clone(l), "le", number(b.Seconds())), strconv.FormatUint(h.Counts[i], 10)))
	}
	count := strconv.FormatUint(h.Count, 10)
	e.add(name, "histogram", help,
		series(name+"_bucket", append(slices.Clone(l), "le", "+Inf"), count),
		series(name+"_sum", l, number(h.Sum.Seconds())),
		series(name+"_count", l, count))
}

// write writes the families by name, then those of Go and of the process.
func (e emitter) write(w io.Writer) error {
	b := &bytes.Buffer{}
	for _, name := range slices.Sorted(maps.Keys(e)) {
		f := e[name]
		b.WriteString("# HELP " + prefix + name + " " + f.help + "\n# TYPE " + prefix + name + " " + f.kind + "\n")
		for _, line := range f.lines {
			b.WriteString(line)
		}
	}
	vm.WriteProcessMetrics(b)
	_, err := w.Write(b.Bytes())
	return err
}

func series(name string, l labels, value string) string {
	var b strings.Builder
	b.WriteString(prefix + name)
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	for i := 0; i+1 < len(l); i += 2 {
		b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		b.WriteString(l[i] + `="` + escape.Replace(l[i+1]) + `"`)
	}
	if len(l) > 0 {
		b.WriteString("}")
	}
	b.WriteString(" " + value + "\n")
	return b.String()
}

func number(v float64) string {
	if math.IsInf(v, 1) {
		return "+Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
