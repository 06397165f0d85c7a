package redshiftsim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

func (st *statement) status() string {
	switch {
	case st.step < st.last:
		return steps()[st.step]
	case st.aborted:
		return "ABORTED"
	case st.failed > 0:
		return "FAILED"
	}
	return "FINISHED"
}

// describe answers DescribeStatement, and lets the statement go a step on.
func (st *statement) describe() any {
	status := st.status()
	st.step = min(st.step+1, st.last)
	out := map[string]any{"Id": st.id, "Status": status, "HasResultSet": !st.batch}
	if status == "FAILED" {
		out["Error"] = st.cause
	}
	if !st.batch {
		return out
	}
	var subs []map[string]any
	for i, sql := range st.sqls {
		sub := map[string]any{"Id": fmt.Sprintf("%s:%d", st.id, i+1), "QueryString": sql, "Status": "FINISHED"}
		switch {
		case status != "FAILED":
			sub["Status"] = status
		case i+1 == st.failed:
			sub["Status"], sub["Error"] = "FAILED", st.cause
		case i+1 > st.failed:
			sub["Status"] = "ABORTED"
		}
		subs = append(subs, sub)
	}
	out["SubStatements"] = subs
	return out
}

// result is one page of a result.
func (st *statement) result(body map[string]any, pageRows int) any {
	at := 0
	if token, there := body["NextToken"].(string); there {
		at, _ = strconv.Atoi(token) // what is no token of ours begins anew
	}
	end := min(at+pageRows, len(st.rows))
	records := make([][]map[string]any, 0, end-at)
	for _, row := range st.rows[at:end] {
		var record []map[string]any
		for _, v := range row {
			switch v := v.(type) {
			case nil:
				record = append(record, map[string]any{"isNull": true})
			case int64:
				record = append(record, map[string]any{"longValue": v})
			case float64:
				record = append(record, map[string]any{"doubleValue": v})
			case bool:
				record = append(record, map[string]any{"booleanValue": v})
			default:
				record = append(record, map[string]any{"stringValue": v})
			}
		}
		records = append(records, record)
	}
	out := map[string]any{"Records": records, "TotalNumRows": len(st.rows)}
	if end < len(st.rows) {
		out["NextToken"] = strconv.Itoa(end)
	}
	return out
}

// members are those of a request that this stand-in knows.
func members(operation string) []string {
	who := []string{"ClientToken", "StatementName", "Database", "WorkgroupName", "ClusterIdentifier", "SecretArn", "DbUser"}
	switch operation {
	case "BatchExecuteStatement":
		return append(who, "Sqls")
	case "ExecuteStatement":
		return append(who, "Sql")
	case "DescribeStatement":
		return []string{"Id"}
	case "GetStatementResult":
		return []string{"Id", "NextToken"}
	case "ListStatements":
		return []string{"StatementName", "Status", "MaxResults", "NextToken", "Database", "WorkgroupName", "ClusterIdentifier", "RoleLevel"}
	}
	return nil
}

// validate holds a request against the API reference: what is required, lengths,
// and what does not go together. It returns what is wrong, "" for nothing.
func validate(operation string, body map[string]any) string {
	for key := range body {
		if !slices.Contains(members(operation), key) {
			return operation + " has no " + key
		}
	}
	for _, bound := range []struct {
		key         string
		least, most int
	}{{"ClientToken", 1, 64}, {"StatementName", 0, 500}, {"WorkgroupName", 3, 128}, {"Database", 1, 128}, {"Id", 36, 40}} {
		text, _ := body[bound.key].(string)
		if _, there := body[bound.key]; there && (len(text) < bound.least || len(text) > bound.most) {
			return fmt.Sprintf("%s has a length of %d, which is out of %d to %d", bound.key, len(text), bound.least, bound.most)
		}
	}
	if n, _ := body["MaxResults"].(float64); n > 100 {
		return "MaxResults is at most 100"
	}
	if strings.HasSuffix(operation, "ExecuteStatement") {
		return validateExecute(operation, body)
	}
	return ""
}

func validateExecute(operation string, body map[string]any) string {
	_, workgroup := body["WorkgroupName"]
	_, cluster := body["ClusterIdentifier"]
	_, user := body["DbUser"]
	_, database := body["Database"]
	switch {
	case workgroup == cluster:
		return "one of WorkgroupName and ClusterIdentifier has to be there"
	case !database:
		return "Database is missing"
	case user && workgroup:
		return "DbUser is for clusters"
	}
	sqls := texts(body["Sqls"])
	if operation == "ExecuteStatement" {
		sqls = texts([]any{body["Sql"]})
	}
	if len(sqls) < 1 || len(sqls) > 40 {
		return fmt.Sprintf("%d statements, 1 to 40 are taken", len(sqls))
	}
	for i, sql := range sqls {
		if sql == "" || len(sql) > 100<<10 {
			return fmt.Sprintf("statement %d is empty or has more than 100 KB", i+1)
		}
	}
	return ""
}
