package mqtt

import "github.com/eclipse/paho.mqtt.golang/packets"

// noStore keeps nothing. What is not acknowledged the broker keeps, and a write
// whose connection breaks is reported and not repeated.
type noStore struct{}

// Open implements paho.Store.
func (noStore) Open() {}

// Put implements paho.Store.
func (noStore) Put(string, packets.ControlPacket) {}

// Get implements paho.Store.
func (noStore) Get(string) packets.ControlPacket { return nil }

// All implements paho.Store.
func (noStore) All() []string { return nil }

// Del implements paho.Store.
func (noStore) Del(string) {}

// Close implements paho.Store.
func (noStore) Close() {}

// Reset implements paho.Store.
func (noStore) Reset() {}
