package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/analysis"
	"millrace/internal/clouddemo"
	"millrace/internal/command"
	"millrace/sample/weektable"
)

// idle computes nothing: the demo has no results then, and goes on.
type idle struct{}

func (idle) Compute(context.Context, analysis.Query) (int64, error) { return 0, nil }

// TestDemoExitCode sees that one item that is gone makes the command fail.
func TestDemoExitCode(t *testing.T) {
	lose := func(ctx context.Context, after string, p *clouddemo.Parts) error {
		if after != clouddemo.AfterTables {
			return nil
		}
		names, err := p.DB.ListTables(ctx, &dynamodb.ListTablesInput{})
		if err != nil {
			return err
		}
		for _, name := range names.TableNames {
			if _, _, week := weektable.ParseTable(name); !week {
				continue
			}
			out, err := p.DB.Scan(ctx, &dynamodb.ScanInput{TableName: &name})
			if err != nil {
				return err
			}
			if len(out.Items) == 0 {
				continue
			}
			it := out.Items[0]
			key := map[string]types.AttributeValue{weektable.AttrPartition: it[weektable.AttrPartition], weektable.AttrSort: it[weektable.AttrSort]}
			_, err = p.DB.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &name, Key: key})
			return err
		}
		return nil
	}
	cmd := command.Command{Name: "demo", Run: func(ctx context.Context, c *command.Call) error {
		return runDemo(ctx, c, clouddemo.Options{Between: lose, Engine: idle{}, Results: []string{"hourly"}})
	}}
	p := command.Program{Name: "millrace-cloud", Commands: []command.Command{cmd}}
	var out, errs bytes.Buffer
	code := p.Run(t.Context(), []string{"demo", "--duration", clouddemo.MinDuration.String()}, &out, &errs)
	if code != command.ExitFailed || !strings.Contains(out.String(), "DOES NOT BALANCE: week tables: ") || !strings.Contains(errs.String(), "the loop does not balance") {
		t.Errorf("code %d, %s%s", code, out.String(), errs.String())
	}
}
