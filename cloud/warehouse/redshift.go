package warehouse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/redshiftdata"
	"github.com/aws/aws-sdk-go-v2/service/redshiftdata/types"

	"millrace/cloud/connect"
	"millrace/internal/backoff"
)

// The Data API's limits (Amazon Redshift Management Guide, "Considerations when
// calling the Amazon Redshift Data API").
const (
	maxStatements = 40      // in a batch
	maxStatement  = 100_000 // bytes of a statement
)

// DataAPI is what is used of the Redshift Data API.
type DataAPI interface {
	BatchExecuteStatement(context.Context, *redshiftdata.BatchExecuteStatementInput, ...func(*redshiftdata.Options)) (*redshiftdata.BatchExecuteStatementOutput, error)
	ExecuteStatement(context.Context, *redshiftdata.ExecuteStatementInput, ...func(*redshiftdata.Options)) (*redshiftdata.ExecuteStatementOutput, error)
	DescribeStatement(context.Context, *redshiftdata.DescribeStatementInput, ...func(*redshiftdata.Options)) (*redshiftdata.DescribeStatementOutput, error)
	GetStatementResult(context.Context, *redshiftdata.GetStatementResultInput, ...func(*redshiftdata.Options)) (*redshiftdata.GetStatementResultOutput, error)
	ListStatements(context.Context, *redshiftdata.ListStatementsInput, ...func(*redshiftdata.Options)) (*redshiftdata.ListStatementsOutput, error)
}

// Where says which warehouse, and as whom.
type Where struct {
	Workgroup string // of Redshift Serverless; or
	Cluster   string // a provisioned cluster's identifier
	Database  string
	// Secret is the ARN of a secret with user and password; without one the user
	// is derived from the IAM identity, or is User, which clusters only have.
	Secret, User string
	// Role is the ARN of the role by which COPY reads S3, or "default" for the
	// warehouse's own.
	Role string
}

// Check reports what is missing or does not go together.
func (w Where) Check() error {
	switch {
	case w.Workgroup == "" && w.Cluster == "":
		return errors.New("say where the warehouse is: --workgroup of Redshift Serverless, --cluster, or --postgres URL")
	case w.Workgroup != "" && w.Cluster != "":
		return errors.New("--workgroup and --cluster exclude each other")
	case w.Database == "":
		return errors.New("--database is missing")
	case w.User != "" && w.Cluster == "":
		return errors.New("--db-user is for --cluster; a workgroup's user is that of the IAM identity or the secret")
	case w.User != "" && w.Secret != "":
		return errors.New("--db-user and --secret exclude each other: the user is in the secret")
	case w.Role != "default" && !strings.HasPrefix(w.Role, "arn:"):
		return fmt.Errorf("--copy-role %q: write a role's ARN, or default", w.Role)
	}
	return nil
}

// RedshiftDB is Redshift behind its Data API: no connection is kept, so nothing
// breaks when this end goes away while a statement runs.
type RedshiftDB struct {
	api     DataAPI
	where   Where
	archive string // s3://bucket/prefix
	sleep   func(context.Context, time.Duration) bool
}

// NewRedshift makes a client. archive is where the Parquet files are,
// s3://bucket/prefix: COPY reads from S3 alone.
func NewRedshift(api DataAPI, w Where, archive string) (*RedshiftDB, error) {
	if err := w.Check(); err != nil {
		return nil, err
	}
	return &RedshiftDB{api: api, where: w, archive: archive, sleep: backoff.Sleep}, nil
}

// Dialect implements Database.
func (r *RedshiftDB) Dialect() Dialect { return Redshift }

// Run implements Database. The token of a batch is a hash of its statements,
// which name the files' hashes, and the number of times that this very batch has
// ended before. So where an answer is lost, or a process dies and another comes
// to the same batch, the Data API hands out the statement that is under way and
// runs nothing twice. One that has ended does not count: it failed and is tried
// anew, or the ledger does not know of it, since somebody has dropped the tables.
func (r *RedshiftDB) Run(ctx context.Context, b Batch) error {
	sqls, err := r.texts(b)
	if err != nil {
		return err
	}
	name := statementName(r.where, sqls)
	ended, err := r.ended(ctx, name)
	if err != nil {
		return fmt.Errorf("%s: %w", b.Name, err)
	}
	id, err := r.submit(ctx, name, fmt.Sprintf("%s#%d", name, ended), sqls)
	if err != nil {
		return fmt.Errorf("%s: %w", b.Name, err)
	}
	out, err := r.wait(ctx, id)
	if err != nil {
		return fmt.Errorf("%s: %w", b.Name, err)
	}
	if out.Status == types.StatusStringFinished {
		return nil
	}
	return failure(b, sqls, out)
}

// statementName names a batch by what it does and where.
func statementName(w Where, sqls []string) string {
	h := sha256.New()
	for _, s := range append([]string{w.Workgroup, w.Cluster, w.Database}, sqls...) {
		fmt.Fprintf(h, "%d %s\n", len(s), s)
	}
	return "millrace-" + hex.EncodeToString(h.Sum(nil))[:40]
}

// texts are a batch's statements as Redshift takes them.
func (r *RedshiftDB) texts(b Batch) ([]string, error) {
	if len(b.Statements) > maxStatements {
		return nil, fmt.Errorf("BUG: %s: %d statements, the Data API takes %d in a batch", b.Name, len(b.Statements), maxStatements)
	}
	out := make([]string, len(b.Statements))
	for i, s := range b.Statements {
		out[i] = s.SQL
		if s.Copy != nil {
			if !strings.HasPrefix(r.archive, "s3://") {
				return nil, fmt.Errorf("%s: the archive is at %s, and Redshift copies from S3 only: give --archive s3://bucket/prefix", b.Name, r.archive)
			}
			out[i] = copyText(s.Copy, r.archive, r.where.Role)
		}
		if len(out[i]) > maxStatement {
			return nil, fmt.Errorf("%s: statement %d has %d bytes, the Data API takes %d: there are too many files in one day", b.Name, i+1, len(out[i]), maxStatement)
		}
	}
	return out, nil
}

// copyText is COPY of all files whose keys begin alike. It takes no REGION: the
// bucket has to be in the warehouse's own. No compression is said, since it is
// in the files.
func copyText(c *Copy, archive, role string) string {
	if role != "default" {
		role = quote(role)
	}
	from := strings.ReplaceAll(strings.ReplaceAll(archive+"/"+c.From+"part-", `\`, `\\`), "'", "''")
	return fmt.Sprintf("COPY %s (%s)\nFROM '%s'\nIAM_ROLE %s\nFORMAT AS PARQUET", c.Table, names(columnNames(c.columns)), from, role)
}

// ended counts how often a batch of this name has ended in what the API remembers,
// a day. Tokens count for eight hours.
func (r *RedshiftDB) ended(ctx context.Context, name string) (int, error) {
	in := &redshiftdata.ListStatementsInput{StatementName: &name, Status: types.StatusStringAll, MaxResults: 100,
		Database: &r.where.Database, WorkgroupName: some(r.where.Workgroup), ClusterIdentifier: some(r.where.Cluster)}
	n := 0
	for {
		var out *redshiftdata.ListStatementsOutput
		err := r.try(ctx, func() (err error) {
			out, err = r.api.ListStatements(ctx, in)
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("list earlier statements: %w", err)
		}
		for _, s := range out.Statements {
			if over(s.Status) {
				n++
			}
		}
		if out.NextToken == nil || *out.NextToken == "" {
			return n, nil
		}
		in.NextToken = out.NextToken
	}
}

func (r *RedshiftDB) submit(ctx context.Context, name, token string, sqls []string) (string, error) {
	var id string
	err := r.try(ctx, func() error {
		out, err := r.api.BatchExecuteStatement(ctx, &redshiftdata.BatchExecuteStatementInput{Sqls: sqls, ClientToken: &token, StatementName: &name,
			Database: &r.where.Database, WorkgroupName: some(r.where.Workgroup), ClusterIdentifier: some(r.where.Cluster),
			SecretArn: some(r.where.Secret), DbUser: some(r.where.User)})
		if err != nil {
			return err
		}
		id = *out.Id
		return nil
	})
	return id, err
}

// over says that a statement is in its last state.
func over(s types.StatusString) bool {
	return s == types.StatusStringFinished || s == types.StatusStringFailed || s == types.StatusStringAborted
}

// wait polls a statement until it has ended, more and more slowly. Where ctx
// ends before, the statement goes on: the next load finds it by its token.
func (r *RedshiftDB) wait(ctx context.Context, id string) (*redshiftdata.DescribeStatementOutput, error) {
	poll := backoff.Policy{Base: 500 * time.Millisecond, Max: 10 * time.Second}
	for attempt := 0; ; attempt++ {
		var out *redshiftdata.DescribeStatementOutput
		err := r.try(ctx, func() (err error) {
			out, err = r.api.DescribeStatement(ctx, &redshiftdata.DescribeStatementInput{Id: &id})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("describe statement %s: %w", id, err)
		}
		if over(out.Status) {
			return out, nil
		}
		if !r.sleep(ctx, poll.Wait(attempt)) {
			return nil, fmt.Errorf("interrupted while statement %s runs on in the warehouse: run the same again, which waits for it: %w", id, ctx.Err())
		}
	}
}

// failure tells what failed in a batch, by the first statement that did.
func failure(b Batch, sqls []string, out *redshiftdata.DescribeStatementOutput) error {
	cause := said(out.Error)
	for i, s := range out.SubStatements {
		if i < len(sqls) && (s.Status == types.StatementStatusStringFailed || s.Status == types.StatementStatusStringAborted && said(s.Error) != "") {
			if e := said(s.Error); e != "" {
				cause = e
			}
			return &StatementError{Batch: b.Name, Number: i + 1, SQL: sqls[i], Cause: cause, Hint: b.Statements[i].Hint}
		}
	}
	if out.Status == types.StatusStringAborted {
		return fmt.Errorf("%s: statement %s was aborted, by somebody or after 24 h, and nothing of it was kept: %s; run the same again", b.Name, said(out.Id), cause)
	}
	return fmt.Errorf("%s: statement %s failed, nothing of it was kept: %s", b.Name, said(out.Id), cause)
}

// Query implements Database.
func (r *RedshiftDB) Query(ctx context.Context, sql string) ([][]string, error) {
	var id string
	err := r.try(ctx, func() error {
		out, err := r.api.ExecuteStatement(ctx, &redshiftdata.ExecuteStatementInput{Sql: &sql, Database: &r.where.Database,
			WorkgroupName: some(r.where.Workgroup), ClusterIdentifier: some(r.where.Cluster), SecretArn: some(r.where.Secret), DbUser: some(r.where.User)})
		if err != nil {
			return err
		}
		id = *out.Id
		return nil
	})
	if err != nil {
		return nil, err
	}
	end, err := r.wait(ctx, id)
	if err != nil {
		return nil, err
	}
	if end.Status != types.StatusStringFinished {
		return nil, fmt.Errorf("query %s ended as %s: %s", id, end.Status, strings.Join(strings.Fields(said(end.Error)), " "))
	}
	return r.result(ctx, id)
}

// result reads all pages of a result.
func (r *RedshiftDB) result(ctx context.Context, id string) (rows [][]string, err error) {
	in := &redshiftdata.GetStatementResultInput{Id: &id}
	for {
		var out *redshiftdata.GetStatementResultOutput
		err := r.try(ctx, func() (err error) {
			out, err = r.api.GetStatementResult(ctx, in)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the result of statement %s: %w", id, err)
		}
		for _, record := range out.Records {
			row := make([]string, len(record))
			for i, field := range record {
				row[i] = fieldText(field)
			}
			rows = append(rows, row)
		}
		if out.NextToken == nil || *out.NextToken == "" {
			return rows, nil
		}
		in.NextToken = out.NextToken
	}
}

func fieldText(f types.Field) string {
	switch v := f.(type) {
	case *types.FieldMemberStringValue:
		return v.Value
	case *types.FieldMemberLongValue:
		return strconv.FormatInt(v.Value, 10)
	case *types.FieldMemberDoubleValue:
		return strconv.FormatFloat(v.Value, 'g', -1, 64)
	case *types.FieldMemberBooleanValue:
		return strconv.FormatBool(v.Value)
	}
	return "" // null; no query of ours returns bytes
}

// maxTries is for how long a request is made again that was throttled or had no
// answer: about five minutes.
const maxTries = 12

// try makes a request, and makes it again where what is wrong passes.
func (r *RedshiftDB) try(ctx context.Context, request func() error) error {
	again := backoff.Policy{Base: time.Second, Max: 40 * time.Second}
	for attempt := 0; ; attempt++ {
		err := request()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch connect.ClassOf(err) {
		case connect.Throttled, connect.Transient:
			if attempt+1 < maxTries && r.sleep(ctx, again.Wait(attempt)) {
				continue
			}
		}
		if connect.Code(err) == "ResourceNotFoundException" {
			return fmt.Errorf("there is no such warehouse: %s; correct --workgroup or --cluster, and --region", message(err))
		}
		return errors.New(connect.Brief(err))
	}
}

func message(err error) string {
	var none *types.ResourceNotFoundException
	if errors.As(err, &none) {
		return none.ErrorMessage()
	}
	return err.Error()
}

// some is a text that is said, or nil.
func some(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func said(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
