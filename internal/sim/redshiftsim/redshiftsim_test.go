package redshiftsim_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/redshiftdata"
	"github.com/aws/smithy-go"

	"millrace/internal/sim/redshiftsim"
)

// TestRefusals: what AWS would refuse is refused, so that a client's tests see it.
func TestRefusals(t *testing.T) {
	ran := 0
	s, err := redshiftsim.Start(redshiftsim.Options{Run: func([]string) (int, string) { ran++; return 0, "" }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := redshiftdata.New(redshiftdata.Options{Region: "eu-central-1", BaseEndpoint: aws.String(s.URL()), Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", "")})
	good := func() *redshiftdata.BatchExecuteStatementInput {
		return &redshiftdata.BatchExecuteStatementInput{Sqls: []string{"SELECT 1"}, Database: aws.String("plant"), WorkgroupName: aws.String("plant"), ClientToken: aws.String("a")}
	}
	if _, err := c.BatchExecuteStatement(t.Context(), good()); err != nil || ran != 1 {
		t.Fatal(err)
	}
	for why, change := range map[string]func(*redshiftdata.BatchExecuteStatementInput){
		"41 statements":    func(in *redshiftdata.BatchExecuteStatementInput) { in.Sqls = make([]string, 41) },
		"more than 100 KB": func(in *redshiftdata.BatchExecuteStatementInput) { in.Sqls[0] = strings.Repeat("x", 100<<10+1) },
		"out of 1 to 64": func(in *redshiftdata.BatchExecuteStatementInput) {
			in.ClientToken = aws.String(strings.Repeat("x", 65))
		},
		"one of WorkgroupName":  func(in *redshiftdata.BatchExecuteStatementInput) { in.ClusterIdentifier = aws.String("plant") },
		"DbUser is for":         func(in *redshiftdata.BatchExecuteStatementInput) { in.DbUser = aws.String("loader") },
		"Database is missing":   func(in *redshiftdata.BatchExecuteStatementInput) { in.Database = nil },
		"has no SessionId":      func(in *redshiftdata.BatchExecuteStatementInput) { in.SessionId = aws.String("x") },
		"used for another":      func(in *redshiftdata.BatchExecuteStatementInput) { in.Sqls[0] = "SELECT 2" },
		"statement 1 is empty ": func(in *redshiftdata.BatchExecuteStatementInput) { in.Sqls[0] = "" },
	} {
		in := good()
		change(in)
		_, err := c.BatchExecuteStatement(t.Context(), in)
		var api smithy.APIError
		if !errors.As(err, &api) || api.ErrorCode() != "ValidationException" || !strings.Contains(api.ErrorMessage(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
	if ran != 1 {
		t.Errorf("ran %d", ran)
	}
	resp, err := http.Post(s.URL(), "application/x-amz-json-1.1", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("no signature, no operation: %s", resp.Status)
	}
}
