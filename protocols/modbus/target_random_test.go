package modbus

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"millrace/internal/sim/modbussim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// mixes is a PLC whose blocks hold version n beside the value n, or are wrong.
type mixes struct {
	bank
	value, version, validity int
	newest                   uint32 // version of the newest command
	found                    []string
	// late is called once that many writes have been carried out.
	after int
	late  func()
}

func (m *mixes) write(slave uint8, t modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	m.bank.write(slave, t, address, values)
	if m.after--; m.after == 0 {
		m.late()
	}
	if m.registers[m.validity].Load() != 1 {
		return 0
	}
	value := math.Float32frombits(m.registers[m.value].Load()<<16 | m.registers[m.value+1].Load())
	version := m.registers[m.version].Load()<<16 | m.registers[m.version+1].Load()
	if float32(version) != value || version == 0 || version > m.newest {
		m.found = append(m.found, fmt.Sprintf("value %g with version %d", value, version))
	}
	return 0
}

// Writes and states in any order, with any fault at any request and a PLC that
// forgets everything now and then: no mix is ever marked as valid, nothing is
// sent after it was said that it was not, and what was confirmed stands there.
func TestTargetUnderRandomFaults(t *testing.T) {
	t.Parallel()
	for _, shape := range []struct {
		name  string
		set   func(*TargetConfig)
		steps int
	}{{"side by side", side, 1}, {"apart", apart, 4}} {
		t.Run(shape.name, func(t *testing.T) {
			t.Parallel()
			outcomes := map[protocols.WriteOutcome]int{}
			for seed := range uint64(2) {
				m := &mixes{value: 100, version: 102, validity: 104}
				if shape.steps > 1 {
					m.version, m.validity = 110, 120
				}
				sim := startSim(t, modbussim.Options{Read: m.read, Write: m.write})
				cfg := testConfig(sim)
				cfg.Timeout = 15 * time.Millisecond
				conn, err := cfg.Open(protocolstest.Settings())
				if err != nil {
					t.Fatal(err)
				}
				l := conn.(*connection).link
				l.retry.Base, l.retry.Max = time.Microsecond, time.Microsecond
				target, _ := openTargetOn(t, conn, cfg, sample.Float64, shape.set)
				r := rand.New(rand.NewPCG(seed, 1))
				stands := func() uint32 { return m.registers[m.version].Load()<<16 | m.registers[m.version+1].Load() }
				for n := range uint32(100) {
					f := modbussim.Faults{}
					switch r.IntN(8) {
					case 0:
						f.Truncate = 1
					case 1:
						f.Drop = 1
					case 2:
						f.Functions = map[byte]modbussim.Exception{byte(6 + 10*r.IntN(2)): []modbussim.Exception{2, 3, 4, 6, 11}[r.IntN(5)]}
					case 3:
						sim.Disconnect()
					case 4:
						for i := range uint16(40) {
							m.registers[96+i].Store(0)
						}
					}
					sim.SetFaults(modbussim.Faults{})
					if m.after, m.late = r.IntN(shape.steps), func() { sim.SetFaults(f) }; m.after == 0 {
						m.late()
					}
					switch r.IntN(4) {
					case 0:
						// Its outcome is in what the PLC finds.
						_ = target.Tell(t.Context(), protocols.State{Valid: r.IntN(2) == 0, Heartbeat: uint16(n)})
					default:
						before := stands()
						m.newest = n + 1
						err := target.Write(t.Context(), command(sample.FloatValue(float64(n+1)), uint64(n+1)))
						is := stands()
						switch o := protocols.OutcomeOf(err); {
						case err == nil && is != n+1:
							t.Fatalf("seed %d: command %d was confirmed and %d stands there", seed, n+1, is)
						case err != nil && o != protocols.Unknown && is != before:
							t.Fatalf("seed %d: command %d is %s and %d stands where %d was", seed, n+1, o, is, before)
						case err != nil:
							outcomes[o]++
						}
					}
				}
				if len(m.found) > 0 {
					t.Errorf("seed %d: the PLC could use %q", seed, m.found)
				}
				conn.Close()
				sim.Stop()
			}
			if outcomes[protocols.Unknown] == 0 || outcomes[protocols.Rejected] == 0 || shape.steps > 1 && outcomes[protocols.Unsent] == 0 {
				t.Errorf("the faults gave %v only", outcomes)
			}
		})
	}
}
