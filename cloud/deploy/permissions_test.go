package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// everything makes all that can be made.
func everything(t *testing.T) *template {
	return load(t, "template.yaml", map[string]any{
		"ArchiveBucket": "plant-archive", "AlarmEmail": "you@example.com", "VpcId": "vpc-00000001", "SubnetIds": []any{"subnet-00000001", "subnet-00000002", "subnet-00000003"},
		"ProgramBucket": "programs", "ProgramSHA256": strings.Repeat("ab", 32), "WorkerImage": "ami-00000001", "PipelineImageTag": "1.0.0",
		"SigningSecretArn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:key", "RetireByPipeline": "yes", "ResultsTable": "yes",
		"SparkVCpus": 16, "WarehouseRPUHours": 60})
}

// everySite makes all that a site can have.
func everySite(t *testing.T) *template {
	return load(t, "site.yaml", map[string]any{"Site": "Nord", "SiteId": "nord", "Sink": "both", "Feed": "queue", "MirroredSite": "South",
		"TrustAnchorArn": "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/1", "CertificateName": "nord.example.com"})
}

func list(v any) []string {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		var out []string
		for _, e := range v {
			out = append(out, fmt.Sprint(e))
		}
		return out
	}
	return []string{fmt.Sprint(v)}
}

// grant is a statement of a policy, with the condition of the template under
// which it is there.
type grant struct {
	holder, when       string
	actions, resources []string
	statement          map[string]any
}

// grants are the statements of one policy document.
func (tm *template) grants(holder string, document any) (out []grant) {
	for _, raw := range document.(map[string]any)["Statement"].([]any) {
		g := grant{holder: holder}
		if chosen, ok := raw.(map[string]any)["Fn::If"].([]any); ok {
			if !reflect.DeepEqual(chosen[2], map[string]any{"Ref": "AWS::NoValue"}) {
				tm.t.Errorf("%s: a statement gives way to another by %v", holder, chosen[0])
			}
			g.when, raw = chosen[0].(string), chosen[1]
		}
		g.statement = tm.resolve(raw).(map[string]any)
		g.actions, g.resources = list(g.statement["Action"]), list(g.statement["Resource"])
		out = append(out, g)
	}
	return out
}

// allGrants are those of every role and managed policy of a template.
func (tm *template) allGrants() (out []grant) {
	resources := tm.root["Resources"].(map[string]any)
	for _, name := range sorted(resources) {
		r := resources[name].(map[string]any)
		p, _ := r["Properties"].(map[string]any)
		made, _ := r["Condition"].(string)
		before := len(out)
		switch r["Type"] {
		case "AWS::IAM::Role":
			for _, policy := range asList(p["Policies"]) {
				out = append(out, tm.grants(name, policy.(map[string]any)["PolicyDocument"])...)
			}
		case "AWS::IAM::ManagedPolicy":
			out = append(out, tm.grants(name, p["PolicyDocument"])...)
		case "AWS::IAM::Policy":
			tm.t.Errorf("%s: write a role's actions where the role is", name)
		}
		for i := range out[before:] {
			if g := &out[before+i]; g.when == "" {
				g.when = made
			}
		}
	}
	return out
}

func asList(v any) []any {
	l, _ := v.([]any)
	return l
}

func sorted(m map[string]any) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// when says in which stacks a statement is.
var when = map[string]string{
	"":               "always",
	"ToQueue":        "`Sink` is queue or both",
	"ToTables":       "`Sink` is tables or both",
	"FromQueue":      "`Feed` is queue",
	"FromTable":      "`Feed` is table",
	"FromWeekTables": "`MirroredSite` is given",
	"Scheduled":      "`PipelineImageTag` is given",
	"Signed":         "`SigningSecretArn` is given",
	"Retire":         "`RetireByPipeline` is yes",
	"WithSpark":      "`SparkVCpus` is not 0",
	"WithWarehouse":  "`WarehouseRPUHours` is not 0",
}

// The table of docs/cloud-deploy.md has every statement of every role, and
// nothing else.
func TestDocumentNamesEachPermission(t *testing.T) {
	text, err := os.ReadFile("../../docs/cloud-deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "| role | may | on | where |\n|---|---|---|---|\n")
	table, _, _ := strings.Cut(after, "\n\n")
	documented := strings.Split(table, "\n")
	short := strings.NewReplacer("arn:aws:", "", "eu-central-1", "", ":123456789012:", "::", "123456789012", "", "plant-archive", "BUCKET", "plant", "PREFIX",
		"programs/millrace-cloud-linux-arm64", "PROGRAM", "Nord", "SITE", "nord", "SITEID", "South", "MIRROREDSITE")
	var want []string
	for _, tm := range []*template{everySite(t), everything(t)} {
		for _, g := range tm.allGrants() {
			words, ok := when[g.when]
			if !ok {
				t.Errorf("%s: condition %s has no words here", g.holder, g.when)
			}
			var on []string
			for _, r := range g.resources {
				on = append(on, "`"+short.Replace(r)+"`")
			}
			if c, ok := g.statement["Condition"]; ok {
				text, err := json.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				on = append(on, "if `"+short.Replace(string(text))+"`")
			}
			want = append(want, fmt.Sprintf("| %s | `%s` | %s | %s |", g.holder, strings.Join(g.actions, "`, `"), strings.Join(on, ", "), words))
		}
	}
	for _, row := range want {
		if !slices.Contains(documented, row) {
			t.Errorf("docs/cloud-deploy.md has no row\n%s", row)
		}
	}
	for _, row := range documented {
		if !slices.Contains(want, row) {
			t.Errorf("docs/cloud-deploy.md has a row of which no template knows:\n%s", row)
		}
	}
}

// A gateway may do what its stack says it is for, and nothing else, in every
// combination.
func TestGatewayMayNothingElse(t *testing.T) {
	const queues, tables = "arn:aws:sqs:eu-central-1:123456789012:", "arn:aws:dynamodb:eu-central-1:123456789012:table/"
	for _, sink := range []string{"queue", "tables", "both"} {
		for _, feed := range []string{"none", "queue", "table"} {
			for _, mirrored := range []string{"", "South"} {
				tm := load(t, "site.yaml", map[string]any{"Site": "Nord", "SiteId": "nord", "Sink": sink, "Feed": feed, "MirroredSite": mirrored})
				var want []string
				if sink != "tables" {
					want = append(want, "sqs:SendMessage on "+queues+"plant")
				}
				if sink != "queue" {
					want = append(want, "dynamodb:BatchWriteItem on "+tables+"plant-samples-* of Nord#*")
				}
				switch feed {
				case "queue":
					want = append(want, "sqs:ReceiveMessage,sqs:DeleteMessage on "+queues+"plant-results-nord")
				case "table":
					want = append(want, "dynamodb:Query on "+tables+"plant-results of Nord")
				}
				if mirrored != "" {
					want = append(want, "dynamodb:Query on "+tables+"plant-samples-* of South#*")
				}
				var got []string
				for _, s := range at(t, tm.properties("GatewayPolicy"), "PolicyDocument", "Statement").([]any) {
					st := s.(map[string]any)
					if st["Effect"] != "Allow" || st["NotAction"] != nil || st["NotResource"] != nil {
						t.Errorf("statement %v", st)
					}
					line := strings.Join(list(st["Action"]), ",") + " on " + strings.Join(list(st["Resource"]), ",")
					if c, ok := st["Condition"].(map[string]any); ok {
						for _, v := range c {
							line += " of " + strings.Join(list(v.(map[string]any)["dynamodb:LeadingKeys"]), ",")
						}
					}
					got = append(got, line)
				}
				if !slices.Equal(got, want) {
					t.Errorf("sink %s, feed %s, mirrored %q:\n%s\nwant\n%s", sink, feed, mirrored, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				if queue := slices.Contains(tm.made("AWS::SQS::Queue"), "ResultsQueue"); queue != (feed == "queue") {
					t.Errorf("feed %s: a results queue is made: %v", feed, queue)
				}
				for _, kind := range []string{"AWS::IAM::User", "AWS::IAM::Role"} {
					for _, name := range tm.made(kind) {
						p := tm.properties(name)
						if p["Policies"] != nil || !slices.Equal(list(p["ManagedPolicyArns"]), list(tm.ref("GatewayPolicy"))) {
							t.Errorf("%s may more: %v", name, p)
						}
					}
				}
			}
		}
	}
}

// A role is taken by one service, and by a gateway only with its own certificate.
func TestWhoTakesTheRoles(t *testing.T) {
	want := map[string]string{"WorkerRole": "ec2.amazonaws.com", "StartRole": "ecs-tasks.amazonaws.com", "PipelineRole": "ecs-tasks.amazonaws.com",
		"ScheduleRole": "scheduler.amazonaws.com", "SparkRole": "emr-serverless.amazonaws.com", "CapRole": "lambda.amazonaws.com",
		"CopyRole": "redshift.amazonaws.com redshift-serverless.amazonaws.com", "GatewayRole": "rolesanywhere.amazonaws.com"}
	seen := 0
	for _, tm := range []*template{everything(t), everySite(t)} {
		for _, name := range tm.made("AWS::IAM::Role") {
			seen++
			statements := at(t, tm.properties(name), "AssumeRolePolicyDocument", "Statement").([]any)
			if len(statements) != 1 {
				t.Errorf("%s: %d statements", name, len(statements))
			}
			st := statements[0].(map[string]any)
			if got := strings.Join(list(at(t, st, "Principal", "Service")), " "); got != want[name] || len(st["Principal"].(map[string]any)) != 1 {
				t.Errorf("%s is taken by %s, want %s", name, got, want[name])
			}
			// EC2 and Lambda name no source when they take a role.
			if st["Condition"] == nil && name != "WorkerRole" && name != "CapRole" {
				t.Errorf("%s: another account's service could take it", name)
			}
		}
	}
	if seen != len(want) {
		t.Errorf("%d roles, want %d", seen, len(want))
	}
	site := everySite(t)
	condition := at(t, site.properties("GatewayRole"), "AssumeRolePolicyDocument", "Statement", 0, "Condition")
	if at(t, condition, "StringEquals", "aws:PrincipalTag/x509Subject/CN") != "nord.example.com" || at(t, condition, "ArnEquals", "aws:SourceArn") != site.parameters["TrustAnchorArn"] {
		t.Errorf("%v", condition)
	}
}

// "*" as a resource stands only where AWS takes nothing else, and an action is
// always named in full.
func TestNoWildcards(t *testing.T) {
	needed := map[string]string{
		"dynamodb:ListTables":                  "lists all tables of account and region",
		"ecr:GetAuthorizationToken":            "is the account's own",
		"redshift-data:DescribeStatement":      "takes no resource; bound to the statement's owner",
		"redshift-data:GetStatementResult":     "takes no resource; bound to the statement's owner",
		"redshift-data:ListStatements":         "takes no resource; bound to the statement's owner",
		"redshift-serverless:CreateUsageLimit": "its ARN is not known before it is there",
		"redshift-serverless:UpdateUsageLimit": "its ARN is not known before it is there",
		"redshift-serverless:ListUsageLimits":  "takes no resource",
	}
	for _, tm := range []*template{everything(t), everySite(t)} {
		for _, g := range tm.allGrants() {
			if g.statement["Effect"] != "Allow" || g.statement["NotAction"] != nil || g.statement["NotResource"] != nil {
				t.Errorf("%s: %v", g.holder, g.statement)
			}
			if len(g.actions) == 0 || len(g.resources) == 0 {
				t.Errorf("%s: a statement without action or resource: %v", g.holder, g.statement)
			}
			for _, a := range g.actions {
				if strings.ContainsAny(a, "*?") || !strings.Contains(a, ":") {
					t.Errorf("%s: action %s", g.holder, a)
				}
				if slices.Contains(g.resources, "*") && needed[a] == "" {
					t.Errorf("%s: %s on every resource", g.holder, a)
				}
				if strings.HasPrefix(a, "redshift-data:") && slices.Contains(g.resources, "*") && !strings.Contains(fmt.Sprint(g.statement["Condition"]), "${aws:userid}") {
					t.Errorf("%s: %s of everybody's statements", g.holder, a)
				}
				if a == "iam:PassRole" && !strings.Contains(fmt.Sprint(g.statement["Condition"]), "iam:PassedToService") {
					t.Errorf("%s hands its role to any service", g.holder)
				}
			}
			for _, r := range g.resources {
				// Beyond the prefix of a name, or a whole bucket's keys, a wildcard is too wide.
				if r != "*" && (!strings.HasPrefix(r, "arn:aws:") || strings.Contains(r, ":*:") || strings.Count(r, "*") > 1 || strings.HasSuffix(r, "/plant-*") || strings.HasSuffix(r, ":plant-*")) {
					t.Errorf("%s: resource %s", g.holder, r)
				}
			}
		}
	}
}

// docs/cloud.md has the worker's policy to be copied; it is the one of the template.
func TestWorkerPolicyIsTheDocumentsOne(t *testing.T) {
	text, err := os.ReadFile("../../docs/cloud.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "IAM, for the worker's role:\n\n```json\n")
	block, _, _ := strings.Cut(after, "```")
	var want any
	if err := json.Unmarshal([]byte(block), &want); !ok || err != nil {
		t.Fatalf("docs/cloud.md has no policy of the worker's: %v", err)
	}
	// Numbers aside, JSON and YAML read alike; the template's goes through JSON once.
	data, err := json.Marshal(at(t, everything(t).properties("WorkerRole"), "Policies", 0, "PolicyDocument"))
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the template has\n%s\nand docs/cloud.md\n%s", data, block)
	}
}
