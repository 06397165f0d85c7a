// Package all lists the protocols that the gateway knows, one line each.
package all

import (
	"millrace/protocols"
	"millrace/protocols/csv"
	"millrace/protocols/http"
	"millrace/protocols/modbus"
	"millrace/protocols/mqtt"
	"millrace/protocols/opcua"
	opcuaserver "millrace/protocols/opcua/server"
)

// List returns every protocol.
func List() []protocols.Protocol {
	return []protocols.Protocol{
		csv.Protocol{},
		http.Protocol{},
		modbus.Protocol{},
		modbus.ServerProtocol{},
		mqtt.Protocol{},
		opcua.Protocol{},
		opcuaserver.Protocol{},
	}
}
