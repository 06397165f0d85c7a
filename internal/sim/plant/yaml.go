package plant

import (
	"fmt"
	"strings"
)

// YAML is the plant as a gateway's sources, with batches sealed at maxAge.
func (p *Plant) YAML(maxAge string) string {
	var b strings.Builder
	source := func(name, typ, scanRate, connection string) {
		fmt.Fprintf(&b, "  - name: %s\n    type: %s\n    scan_rate: %s\n    batch: {max_age: %s}\n    connection: {%s}\n",
			name, typ, scanRate, maxAge, connection)
	}
	list := func(name string) {
		b.WriteString("    tags:\n")
		for _, t := range p.tags {
			if t.Source != name {
				continue
			}
			fmt.Fprintf(&b, "      - {name: %s, address: %q", t.Name, t.Address)
			if t.Source == SourceModbus {
				fmt.Fprintf(&b, ", type: %s", t.Type)
			}
			if t.Order != "" {
				fmt.Fprintf(&b, ", order: %s", t.Order)
			}
			if t.Length > 0 {
				fmt.Fprintf(&b, ", length: %d", t.Length)
			}
			if t.Tenths {
				b.WriteString(", scale: 0.1")
			}
			b.WriteString("}\n")
		}
	}
	source(SourceModbus, "modbus", "200ms", fmt.Sprintf("url: %q, timeout: 1s", p.meters.URL()))
	list(SourceModbus)
	source(SourceOPCUA, "opcua", "250ms", fmt.Sprintf("url: %q, security: None", p.line.URL()))
	list(SourceOPCUA)
	source(SourceMQTT, "mqtt", "1s", fmt.Sprintf("url: %q, qos: 1", p.broker.URL()))
	list(SourceMQTT)
	source(SourceHTTP, "http", "1s", fmt.Sprintf("listen: %q", p.labAddr))
	return b.String()
}
