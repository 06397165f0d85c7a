package warehouse

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestPostgresIsVerifiedBeyondThisMachine, unless the URL says otherwise.
func TestPostgresIsVerifiedBeyondThisMachine(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for url, verified := range map[string]bool{
		"postgres://loader@db.plant.example/plant":                    true,
		"postgres://loader@db.plant.example/plant?application_name=x": true,
		"host=db.plant.example user=loader dbname=plant":              true,
		"postgres://loader@192.168.1.9:5432/plant":                    true,
		"postgres://loader@db.plant.example/plant?sslmode=disable":    false,
		"postgres://loader@127.0.0.1/plant":                           false,
		"postgres://loader@localhost/plant":                           false,
		"postgres://loader@[::1]/plant":                               false,
		"host=/var/run/postgresql user=loader dbname=plant":           false,
	} {
		cfg, err := postgresConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		got := cfg.TLSConfig != nil && !cfg.TLSConfig.InsecureSkipVerify && cfg.TLSConfig.ServerName != ""
		for _, f := range cfg.Fallbacks {
			got = got && f.TLSConfig != nil && !f.TLSConfig.InsecureSkipVerify
		}
		if got != verified {
			t.Errorf("%s: verified %v", url, got)
		}
	}
}

// TestNoErrorHoldsAPassword, in whatever form the text is that does not read.
func TestNoErrorHoldsAPassword(t *testing.T) {
	for _, url := range []string{
		"postgres://loader:topsecret@db:port/plant",
		"postgres://loader:topsecret%zz@db.example/plant",
		"postgres://loader:topsecret@a:b%@127.0.0.1:x/plant",
		"postgres://loader:a/topsecret@127.0.0.1/plant",
		"postgres://127.0.0.1/plant?password=topsecret&port=abc",
		"host=127.0.0.1 password = topsecret port=abc",
		"host=127.0.0.1 password='a topsecret' port=abc",
		"host=127.0.0.1 password='topsecret",
		"postgres://loader:topsecret@127.0.0.1:1/plant",
	} {
		if _, err := OpenPostgres(t.Context(), url); err == nil || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestUnconnectedIsOneLine, with what to do, for each way in which there is no
// connection.
func TestUnconnectedIsOneLine(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	_, refused := OpenPostgres(t.Context(), "postgres://x:topsecret@127.0.0.1:1/plant")
	if refused == nil || !strings.HasPrefix(refused.Error(), "connect to PostgreSQL at 127.0.0.1:1 as user x: ") {
		t.Fatal(refused)
	}
	for _, c := range []struct {
		text, want string
	}{
		{refused.Error(), "connection refused; start the server, or correct host and port in --postgres"},
		{unconnected(&pgconn.PgError{Code: "28P01", Message: "password authentication failed"}), "(SQLSTATE 28P01); check the user, and the password in PGPASSWORD or ~/.pgpass"},
		{unconnected(&pgconn.PgError{Code: "3D000", Message: "no such database"}), "create the database, or correct its name in --postgres"},
		{unconnected(&pgconn.PgError{Code: "53300", Message: "too many clients"}), "too many clients (SQLSTATE 53300); look at the server's log"},
		{unconnected(&net.DNSError{Err: "no such host", Name: "db"}), "no such host; check the host in --postgres"},
		{unconnected(errors.New("tls:\n\twrong certificate\n")), "tls: wrong certificate; check host, port and sslmode in --postgres"},
	} {
		if !strings.Contains(c.text, c.want) || strings.ContainsAny(c.text, "\n\t") || strings.Contains(c.text, "topsecret") {
			t.Errorf("%q, want %q", c.text, c.want)
		}
	}
}
