package warehouse

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/parquet-go/parquet-go"
)

// Postgres is a PostgreSQL of version 15 or newer, for a warehouse of one's own
// and for tests: the statements are Redshift's, and COPY is fed with the rows of
// the files.
type Postgres struct {
	conn *pgx.Conn
}

// oldest is the first version that has MERGE.
const oldest = 150000

// OpenPostgres connects by a URL as in postgres://loader@127.0.0.1:5432/plant.
// The password is better in PGPASSWORD or ~/.pgpass than in the URL. Beyond this
// machine the server's certificate is verified, unless the URL says otherwise by
// sslmode.
func OpenPostgres(ctx context.Context, url string) (*Postgres, error) {
	cfg, err := postgresConfig(url)
	if err != nil {
		// pgx repeats the text, and finds not every password in it.
		return nil, fmt.Errorf("--postgres is no URL of PostgreSQL%s; write it as in postgres://loader@127.0.0.1:5432/plant", reason(err))
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL at %s as user %s: %s", net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))), cfg.User, unconnected(err))
	}
	p := &Postgres{conn: conn}
	version, err := p.Query(ctx, "SELECT current_setting('server_version_num')")
	if err != nil {
		return nil, errors.Join(err, p.Close(ctx))
	}
	n := 0
	if _, err := fmt.Sscan(version[0][0], &n); err != nil || n < oldest {
		return nil, errors.Join(fmt.Errorf("PostgreSQL at %s is of version %d: MERGE came with 15", cfg.Host, n/10000), p.Close(ctx))
	}
	return p, nil
}

// unconnected is why there is no connection, and what to do. pgx says it on a line
// for each address and again without TLS.
func unconnected(err error) string {
	var pg *pgconn.PgError
	var network *net.OpError
	var name *net.DNSError
	switch {
	case errors.As(err, &pg) && strings.HasPrefix(pg.Code, "28"):
		return cause(err) + "; check the user, and the password in PGPASSWORD or ~/.pgpass"
	case errors.As(err, &pg) && pg.Code == "3D000":
		return cause(err) + "; create the database, or correct its name in --postgres"
	case errors.As(err, &pg):
		return cause(err) + "; look at the server's log"
	case errors.As(err, &name):
		return name.Error() + "; check the host in --postgres, and this machine's DNS"
	case errors.As(err, &network):
		return network.Error() + "; start the server, or correct host and port in --postgres"
	}
	var all *pgconn.ConnectError
	if errors.As(err, &all) {
		err = all.Unwrap() // without the URL's parts
	}
	return strings.Join(strings.Fields(err.Error()), " ") + "; check host, port and sslmode in --postgres"
}

// reason is what is wrong with a URL, without anything of it.
func reason(err error) string {
	var number *strconv.NumError
	switch {
	case errors.As(err, &number):
		return ", its port or a time is no number"
	case errors.Is(err, os.ErrNotExist):
		return ", a file of certificates that it names is not there"
	}
	return ""
}

// postgresConfig reads a URL, and asks for a verified server where that is not
// this machine and nothing is said of it: pgx itself would take one without TLS.
func postgresConfig(url string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil || local(cfg.Host) || strings.Contains(url, "sslmode=") || os.Getenv("PGSSLMODE") != "" {
		return cfg, err
	}
	switch {
	case !strings.Contains(url, "://"):
		url += " "
	case strings.Contains(url, "?"):
		url += "&"
	default:
		url += "?"
	}
	return pgx.ParseConfig(url + "sslmode=verify-full")
}

// local says that a host is this machine, by its loopback or a socket's folder.
func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || ip != nil && ip.IsLoopback()
}

// Close ends the connection.
func (p *Postgres) Close(ctx context.Context) error { return p.conn.Close(ctx) }

// Dialect implements Database.
func (p *Postgres) Dialect() Dialect { return PostgreSQL }

// Run implements Database.
func (p *Postgres) Run(ctx context.Context, b Batch) error {
	tx, err := p.conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("%s: begin: %w", b.Name, err)
	}
	// After a commit it does nothing; its own error says less than the first.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	for i, s := range b.Statements {
		sql := s.SQL
		if s.Copy != nil {
			sql = "COPY " + s.Copy.Table + " FROM " + s.Copy.From
			err = copyFiles(ctx, tx, s.Copy)
		} else {
			_, err = tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: interrupted, nothing of it was kept: %w", b.Name, ctx.Err())
		}
		if err != nil {
			return &StatementError{Batch: b.Name, Number: i + 1, SQL: sql, Cause: cause(err), Hint: s.Hint}
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("%s: commit: %w", b.Name, err)
	}
	return nil
}

// cause is an error in the server's words, with the detail that names the row.
func cause(err error) string {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err.Error()
	}
	text := pg.Message + " (SQLSTATE " + pg.Code + ")"
	if pg.Detail != "" {
		text += ": " + pg.Detail
	}
	return text
}

// copyFiles feeds COPY with the rows of files.
func copyFiles(ctx context.Context, tx pgx.Tx, c *Copy) error {
	schema, table, _ := strings.Cut(c.Table, ".")
	for _, file := range c.Files {
		if err := file.open(c.columns, func(p *parquet.File) error {
			next, stop := iter.Pull2(rowsOf(p, c.columns))
			defer stop()
			_, err := tx.CopyFrom(ctx, pgx.Identifier{schema, table}, columnNames(c.columns), pgx.CopyFromFunc(func() ([]any, error) {
				row, err, _ := next()
				return row, err // nil at the end
			}))
			return err
		}); err != nil {
			return fmt.Errorf("%s: %w", file.Key, err)
		}
	}
	return nil
}

// Query implements Database.
func (p *Postgres) Query(ctx context.Context, sql string) ([][]string, error) {
	rows, err := p.conn.Query(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out [][]string
	for rows.Next() {
		var row []string
		for _, v := range rows.RawValues() { // text, by the simple protocol
			row = append(row, string(v))
		}
		out = append(out, row)
	}
	if err := rows.Err(); err != nil {
		return nil, errors.New(cause(err))
	}
	return out, nil
}
