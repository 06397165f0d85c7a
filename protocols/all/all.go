// Package all lists the protocols that the gateway knows, one line each.
package all

import (
	"millrace/protocols"
	"millrace/protocols/modbus"
)

// List returns every protocol.
func List() []protocols.Protocol {
	return []protocols.Protocol{
		modbus.Protocol{},
	}
}
