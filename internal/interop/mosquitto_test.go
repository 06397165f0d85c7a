//go:build interop

package interop

import (
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/base64"
	"strings"
	"testing"
)

// broker is a Mosquitto with a state that survives its restarts.
type broker struct {
	t    *testing.T
	port int
	conf string
	*server
}

// startBroker starts Mosquitto with a listener on the loopback interface and
// more lines of configuration, for example for TLS.
func startBroker(t *testing.T, lines ...string) *broker {
	t.Helper()
	installed(t, "MOSQUITTO")
	state := t.TempDir() + "/"
	b := &broker{t: t, port: freePort(t)}
	// Run by root it would change to a user who may not read these files.
	b.conf = write(t, "mosquitto.conf", "user root\nlistener %d 127.0.0.1\npersistence true\npersistence_location %s\nautosave_interval 1\nlog_type all\n%s\n",
		b.port, state, strings.Join(lines, "\n"))
	b.start()
	return b
}

func (b *broker) start() {
	b.t.Helper()
	args := []string{"-c", b.conf}
	b.server = start(b.t, b.port, nil, nil, installed(b.t, "MOSQUITTO"), args...)
}

// restart stops the broker, which saves its state, and starts it again on the
// same port.
func (b *broker) restart() {
	b.t.Helper()
	b.stop()
	b.start()
}

// passwords writes a password file in Mosquitto's form (mosquitto_passwd(1)):
// $7$iterations$salt$PBKDF2-HMAC-SHA512.
func passwords(t *testing.T, name, password string) string {
	t.Helper()
	const iterations = 101
	salt := []byte("interop salt")
	sum, err := pbkdf2.Key(sha512.New, password, salt, iterations, sha512.Size)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return write(t, "passwords", "%s:$7$%d$%s$%s\n", name, iterations, b64(salt), b64(sum))
}
