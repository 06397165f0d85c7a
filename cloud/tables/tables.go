// Package tables looks after the week tables: makes them ahead, lists them,
// dials them down when their week is over, and deletes them when the archive has
// been proved to hold all of theirs.
package tables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/internal/weekitem"
	"millrace/sample/weektable"
)

// Tables is what is asked of DynamoDB.
type Tables interface {
	CreateTable(context.Context, *dynamodb.CreateTableInput, ...func(*dynamodb.Options)) (*dynamodb.CreateTableOutput, error)
	DescribeTable(context.Context, *dynamodb.DescribeTableInput, ...func(*dynamodb.Options)) (*dynamodb.DescribeTableOutput, error)
	UpdateTable(context.Context, *dynamodb.UpdateTableInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateTableOutput, error)
	DeleteTable(context.Context, *dynamodb.DeleteTableInput, ...func(*dynamodb.Options)) (*dynamodb.DeleteTableOutput, error)
	ListTables(context.Context, *dynamodb.ListTablesInput, ...func(*dynamodb.Options)) (*dynamodb.ListTablesOutput, error)
	Scan(context.Context, *dynamodb.ScanInput, ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error)
}

// Manager looks after the tables of one prefix.
type Manager struct {
	DB     Tables
	Prefix string
	Now    time.Time
	// Sleep waits for d, or until ctx is done, and reports whether it waited to
	// the end.
	Sleep func(ctx context.Context, d time.Duration) bool
}

const (
	week      = 7 * 24 * time.Hour
	pollEvery = 2 * time.Second // a table that is being made, changed or deleted
	maxWait   = 15 * time.Minute
)

// Settings are those of the tables that Ensure makes.
type Settings struct {
	Provisioned bool
	Read, Write int64 // units; of provisioned tables
	// WarmRead and WarmWrite are how many units a second an on-demand table can
	// take at once; 0 leaves AWS's own (12,000 and 4,000).
	WarmRead, WarmWrite int64
	Infrequent          bool // table class
	Protected           bool // against deletion
	Tags                map[string]string
	// Behind is for how many weeks before this one tables are made, too. Those that
	// were archived and retired are left out, which the Archive tells; where it is
	// nil, keep Behind below the retention.
	Behind  int
	Archive objects.Place
}

// Made is what Ensure has done about one table.
type Made struct {
	Table string
	New   bool
	// Retired is set where no table was made, since the archive has a manifest of it.
	Retired bool
}

// Ensure makes the tables of this week, of as many as ahead after it and as
// s.Behind before it, the one of blocks that cannot be placed, and those of the
// catalogue, the gaps and the newest readings, and waits until all are ACTIVE. It
// leaves tables that exist as they are, and makes none again that was retired.
func (m *Manager) Ensure(ctx context.Context, s Settings, ahead int) ([]Made, error) {
	names := []string{weektable.Unplaced(m.Prefix)}
	for i := -s.Behind; i <= ahead; i++ {
		names = append(names, weektable.Table(m.Prefix, m.Now.Add(time.Duration(i)*week)))
	}
	names = append(names, catalogue.Tables(m.Prefix)...)
	var out []Made
	for _, name := range names {
		t, err := m.describe(ctx, name)
		if err != nil {
			return out, err
		}
		made := Made{Table: name}
		if t == nil {
			if made.Retired, err = m.retired(ctx, s.Archive, name); err != nil {
				return out, err
			}
			if made.New = !made.Retired; made.New {
				if err := m.create(ctx, name, s); err != nil {
					return out, err
				}
			}
		}
		out = append(out, made)
	}
	for _, made := range out {
		if made.Retired {
			continue
		}
		name := made.Table
		t, err := m.await(ctx, name)
		if err != nil {
			return out, err
		}
		if t == nil {
			return out, fmt.Errorf("table %s: it was deleted while it was waited for", name)
		}
		if err := weekitem.CheckKeys(t); err != nil {
			return out, fmt.Errorf("table %s: %w; remove it, or choose another --prefix", name, err)
		}
	}
	return out, nil
}

// retired reports whether a table that is not there is one of a past week that was
// archived: it was retired, and what still comes of its week is late.
func (m *Manager) retired(ctx context.Context, archive objects.Place, name string) (bool, error) {
	_, start, ofWeek := weektable.ParseTable(name)
	if archive == nil || !ofWeek || m.Now.Before(start.Add(week)) {
		return false, nil
	}
	_, err := manifest.Read(ctx, archive, name)
	if errors.Is(err, objects.ErrNone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("table %s is not made: whether it was retired, its manifest %s in %s does not tell: %w", name, manifest.Key(name), archive, err)
	}
	return true, nil
}

// describe returns nil where there is no such table.
func (m *Manager) describe(ctx context.Context, name string) (*types.TableDescription, error) {
	out, err := m.DB.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &name})
	if err != nil {
		if connect.ClassOf(err) == connect.Missing {
			return nil, nil
		}
		return nil, explain("look at", name, err)
	}
	if out.Table == nil {
		return nil, fmt.Errorf("look at table %s: the answer is empty", name)
	}
	return out.Table, nil
}

func explain(op, table string, err error) error {
	return fmt.Errorf("%s table %s: %s", op, table, connect.Brief(err))
}

// create asks for a table. One that somebody else makes at this moment is as good.
func (m *Manager) create(ctx context.Context, name string, s Settings) error {
	keys, attributes := weekitem.Keys()
	// All others take little, and are on demand.
	_, _, ofWeek := weektable.ParseTable(name)
	in := &dynamodb.CreateTableInput{TableName: &name, KeySchema: keys, AttributeDefinitions: attributes, BillingMode: types.BillingModePayPerRequest}
	if s.Provisioned && ofWeek {
		in.BillingMode = types.BillingModeProvisioned
		in.ProvisionedThroughput = &types.ProvisionedThroughput{ReadCapacityUnits: &s.Read, WriteCapacityUnits: &s.Write}
	} else if ofWeek && (s.WarmRead > 0 || s.WarmWrite > 0) {
		in.WarmThroughput = &types.WarmThroughput{}
		if s.WarmRead > 0 {
			in.WarmThroughput.ReadUnitsPerSecond = &s.WarmRead
		}
		if s.WarmWrite > 0 {
			in.WarmThroughput.WriteUnitsPerSecond = &s.WarmWrite
		}
	}
	if s.Infrequent && !slices.Contains(catalogue.Tables(m.Prefix), name) { // those are read all the time
		in.TableClass = types.TableClassStandardInfrequentAccess
	}
	if s.Protected {
		in.DeletionProtectionEnabled = aws.Bool(true)
	}
	for key, value := range s.Tags {
		in.Tags = append(in.Tags, types.Tag{Key: &key, Value: &value})
	}
	_, err := m.DB.CreateTable(ctx, in)
	var exists *types.ResourceInUseException
	if err == nil || errors.As(err, &exists) {
		return nil
	}
	return explain("create", name, err)
}

// await waits until a table is ACTIVE, or gone (nil).
func (m *Manager) await(ctx context.Context, name string) (*types.TableDescription, error) {
	for waited := time.Duration(0); ; waited += pollEvery {
		t, err := m.describe(ctx, name)
		if err != nil || t == nil {
			return nil, err
		}
		if t.TableStatus == types.TableStatusActive {
			return t, nil
		}
		if waited >= maxWait {
			return nil, fmt.Errorf("table %s is still %s after %v; run the command again", name, t.TableStatus, maxWait)
		}
		if !m.Sleep(ctx, pollEvery) {
			return nil, errors.New("interrupted")
		}
	}
}

// Row is one table of a list. Items and Bytes are DynamoDB's own figures, which
// it brings up to date about every six hours.
type Row struct {
	Table      string `json:"table"`
	State      string `json:"state"`
	Items      int64  `json:"items"`
	Bytes      int64  `json:"bytes"`
	Billing    string `json:"billing"` // on_demand or provisioned
	WriteUnits int64  `json:"write_units,omitempty"`
	ReadUnits  int64  `json:"read_units,omitempty"`
	Class      string `json:"class"`
	Protected  bool   `json:"protected"`
	// Age is since the end of the table's week, negative while it lasts; 0 for
	// tables that are of no week.
	Age time.Duration `json:"-"`
	// AgeDays is Age in days.
	AgeDays float64 `json:"age_days"`
}

// List returns the tables of the prefix by name, so the weeks oldest first.
func (m *Manager) List(ctx context.Context) ([]Row, error) {
	var names []string
	in := &dynamodb.ListTablesInput{}
	for {
		out, err := m.DB.ListTables(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("list tables: %s", connect.Brief(err))
		}
		for _, name := range out.TableNames {
			if prefix, _, ok := weektable.ParseTable(name); ok && prefix == m.Prefix || name == weektable.Unplaced(m.Prefix) || slices.Contains(catalogue.Tables(m.Prefix), name) {
				names = append(names, name)
			}
		}
		if out.LastEvaluatedTableName == nil {
			break
		}
		in.ExclusiveStartTableName = out.LastEvaluatedTableName
	}
	slices.Sort(names)
	rows := []Row{}
	for _, name := range names {
		t, err := m.describe(ctx, name)
		if err != nil {
			return nil, err
		}
		if t == nil {
			continue // deleted meanwhile
		}
		rows = append(rows, m.row(name, t))
	}
	return rows, nil
}

func (m *Manager) row(name string, t *types.TableDescription) Row {
	r := Row{Table: name, State: string(t.TableStatus), Items: aws.ToInt64(t.ItemCount), Bytes: aws.ToInt64(t.TableSizeBytes),
		Billing: "provisioned", Class: "standard", Protected: aws.ToBool(t.DeletionProtectionEnabled)}
	if t.BillingModeSummary != nil && t.BillingModeSummary.BillingMode == types.BillingModePayPerRequest {
		r.Billing = "on_demand"
	}
	if p := t.ProvisionedThroughput; p != nil && r.Billing == "provisioned" {
		r.ReadUnits, r.WriteUnits = aws.ToInt64(p.ReadCapacityUnits), aws.ToInt64(p.WriteCapacityUnits)
	}
	if t.TableClassSummary != nil && t.TableClassSummary.TableClass == types.TableClassStandardInfrequentAccess {
		r.Class = "infrequent"
	}
	if _, start, ok := weektable.ParseTable(name); ok {
		r.Age = m.Now.Sub(start.Add(week))
		r.AgeDays = float64(r.Age.Round(time.Hour)/time.Hour) / 24
	}
	return r
}

// TableOf returns the table of a week that is written as in 2026-w48.
func TableOf(prefix, text string) (table string, start time.Time, err error) {
	name := prefix + "-samples-" + strings.ToLower(text)
	_, start, ok := weektable.ParseTable(name)
	if !ok {
		return "", time.Time{}, fmt.Errorf("%q is no week: write it as in 2026-w48", text)
	}
	return name, start, nil
}
