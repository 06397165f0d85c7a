package modbus

import (
	"context"
	"strings"
	"testing"
	"time"

	"millrace/internal/sim/modbussim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
)

func TestValidateReportsEveryFault(t *testing.T) {
	c := &Config{URL: "tcp://plc:70000", Slave: 250, ByteOrder: "middle", AddressBase: 2,
		MaxRegisters: 126, MaxCoils: 0, MaxGap: -1, Pause: -1, IdleReconnect: -1, ConnectTimeout: -1}
	src := &protocols.SourceConfig{ScanRate: time.Second, Tags: []protocols.Tag{
		{Address: "holding:1", Type: "float32"}, // in order
		{Address: "40001", Type: "real", Order: "XYZW"},
		{Address: "holding:65535", Type: "float32"},
		{Address: "holding:1", Type: "string"},
		{Address: "holding:1", Type: "string", Length: 251},
		{Address: "holding:1", Type: "int16", Length: 3},
		{Address: "holding:1", Type: "bool"},
		{Address: "holding:1.1", Type: "int16"},
		{Address: "coil:1", Type: "uint16"},
		{Address: "holding:1", ScanRate: time.Microsecond},
	}}
	c.Slave = 250
	want := map[string]string{
		"connection.url":             "port",
		"connection.slave":           "unit id",
		"connection.timeout":         "timeout",
		"connection.connect_timeout": "timeout",
		"connection.byte_order":      "big or little",
		"connection.word_order":      "big or little",
		"connection.address_base":    "0 or 1",
		"connection.max_registers":   "1 to 125",
		"connection.max_coils":       "1 to 2000",
		"connection.max_gap":         "0 to 125",
		"connection.pause":           "0 to 1m",
		"connection.idle_reconnect":  "negative",
		"tags[1].address":            "reference number",
		"tags[1].type":               `"real" is not known`,
		"tags[1].order":              `"XYZW" is not known`,
		"tags[2].address":            "beyond offset 65535",
		"tags[3].length":             "0 characters",
		"tags[4].length":             "251 characters",
		"tags[5].length":             "has no length",
		"tags[6].type":               "cannot be bool",
		"tags[7].type":               "is one bit",
		"tags[8].type":               "is one bit",
		"tags[9].scan_rate":          "too short",
	}
	for _, f := range c.Validate(src) {
		if w, ok := want[f.Path]; !ok || !strings.Contains(f.Problem, w) || f.Hint == "" {
			t.Errorf("%+v, want %q", f, w)
		}
		delete(want, f.Path)
	}
	for path := range want {
		t.Errorf("no fault at %s", path)
	}
}

func TestValidateURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"tcp://10.0.0.5":          true,
		"tcp://10.0.0.5:502":      true,
		"tcp://[2001:db8::1]:502": true,
		"tcp://plc-7.example:1":   true,
		"":                        false,
		"10.0.0.5:502":            false,
		"http://10.0.0.5":         false,
		"tcp://:502":              false,
		"tcp://10.0.0.5:0":        false,
		"tcp://10.0.0.5/x":        false,
		"tcp://u:p@10.0.0.5":      false,
		"tcp://10.0.0.5:502?a=b":  false,
		"%zz":                     false,
	} {
		c := Protocol{}.NewConfig().(*Config)
		c.URL = url
		faults := c.Validate(&protocols.SourceConfig{ScanRate: time.Second, Tags: []protocols.Tag{{Address: "coil:0"}}})
		if (len(faults) == 0) != ok {
			t.Errorf("%q: %+v", url, faults)
		}
		if _, err := c.Open(protocolstest.Settings()); (err == nil) != ok {
			t.Errorf("Open %q: %v", url, err)
		}
	}
}

func TestLinkKeyHoldsWhatMatters(t *testing.T) {
	a, b := Protocol{}.NewConfig().(*Config), Protocol{}.NewConfig().(*Config)
	a.URL, b.URL = "tcp://10.0.0.5", "tcp://10.0.0.5:502"
	if got := a.LinkKey(); got != "modbus tcp://10.0.0.5:502" || got != b.LinkKey() {
		t.Errorf("keys %q and %q", got, b.LinkKey())
	}
	b.WordOrder = "little"
	if a.LinkKey() == b.LinkKey() {
		t.Error("two word orders share a connection that has one")
	}
}

func TestCheckNamesEachAddress(t *testing.T) {
	t.Parallel()
	sim := startSim(t, modbussim.Options{Read: numbered})
	sim.SetFaults(modbussim.Faults{
		Silent: map[uint8]bool{9: true},
		Exceptions: []modbussim.ExceptionRange{
			{Table: modbussim.Holding, From: 12, To: 13, Code: modbussim.IllegalDataAddress},
			{Table: modbussim.Input, From: 0, To: 9, Code: modbussim.IllegalDataAddress, Joined: 1},
		}})
	conn, err := testConfig(sim).Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	src := &protocols.SourceConfig{ScanRate: time.Second, Tags: []protocols.Tag{
		{Name: "plant/a/ok", Address: "holding:11"},
		{Name: "plant/a/missing", Address: "holding:12"},
		{Name: "plant/a/half", Address: "holding:13", Type: "float32"},
		{Name: "plant/a/single", Address: "input:1"},
		{Name: "plant/a/singles", Address: "input:2"},
		{Name: "plant/a/mute", Address: "9/holding:0"},
		{Name: "plant/a/mute2", Address: "9/coil:0"},
	}}
	errs := conn.(protocols.Checker).Check(t.Context(), src)
	want := []string{"tag plant/a/missing: read slave 1 holding 12: exception 2", "tag plant/a/half: read slave 1 holding 13..14: exception 2", "slave 9 holding 0: no answer within"}
	if len(errs) != len(want) {
		t.Fatalf("got %d errors: %v", len(errs), errs)
	}
	for i, w := range want {
		if !strings.Contains(errs[i].Error(), w) || !strings.Contains(errs[i].Error(), "; ") {
			t.Errorf("got %q, want %q and a hint", errs[i], w)
		}
	}

	sim.Stop()
	errs = conn.(protocols.Checker).Check(t.Context(), src)
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "connect") {
		t.Errorf("an unreachable device gives %v", errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if errs := conn.(protocols.Checker).Check(ctx, src); len(errs) != 1 {
		t.Errorf("a check that is stopped gives %v", errs)
	}
}

// TestMessages pins the messages that an operator sees most.
func TestMessages(t *testing.T) {
	t.Parallel()
	sim := startSim(t, modbussim.Options{Read: numbered})
	addr := strings.TrimPrefix(sim.URL(), "tcp://")
	for _, c := range []struct {
		name string
		make func()
		want string
	}{
		{"no answer", func() { sim.SetFaults(modbussim.Faults{Drop: -1}) },
			"modbus tcp://" + addr + ": tag plant/dev/t0: read slave 1 holding 5: no answer within 500ms; check that the device is powered and its slave number, then raise connection.timeout"},
		{"refused", sim.Stop,
			"modbus tcp://" + addr + ": tag plant/dev/t0: read slave 1 holding 5: cannot connect: connection refused; check the device, its address and port, the network, and whether it allows another connection"},
	} {
		c.make()
		r := newRig(t, testConfig(sim), addresses("holding:5")...)
		r.scanAll(t)
		changes := r.health.Changes()
		if len(changes) != 1 || changes[0] == nil || changes[0].Error() != c.want {
			t.Errorf("%s:\ngot  %v\nwant %s", c.name, changes, c.want)
		}
	}
}
