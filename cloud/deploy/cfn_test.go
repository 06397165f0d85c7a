package deploy

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// template is a CloudFormation template, and the parameters it is made a stack of.
type template struct {
	t          *testing.T
	root       map[string]any
	parameters map[string]any
}

// load reads a template with its default parameters, and with those given.
func load(t *testing.T, name string, parameters map[string]any) *template {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	root, ok := plain(t, doc.Content[0]).(map[string]any)
	if !ok {
		t.Fatalf("%s is no mapping", name)
	}
	tm := &template{t: t, root: root, parameters: map[string]any{
		"AWS::Partition": "aws", "AWS::Region": "eu-central-1", "AWS::AccountId": "123456789012", "AWS::URLSuffix": "amazonaws.com",
		"AWS::StackName": "millrace"}}
	for p, v := range root["Parameters"].(map[string]any) {
		tm.parameters[p] = v.(map[string]any)["Default"]
	}
	for p, v := range parameters {
		if _, ok := tm.parameters[p]; !ok {
			t.Fatalf("%s has no parameter %s", name, p)
		}
		tm.parameters[p] = v
	}
	return tm
}

// plain is a node with its short intrinsic functions in the long form.
func plain(t *testing.T, n *yaml.Node) (v any) {
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if _, twice := m[key]; twice {
				t.Fatalf("line %d: %s stands there twice", n.Content[i].Line, key)
			}
			m[key] = plain(t, n.Content[i+1])
		}
		v = m
	case yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			list = append(list, plain(t, c))
		}
		v = list
	default:
		if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
			v = n.Value
		} else if err := n.Decode(&v); err != nil {
			t.Fatal(err)
		}
	}
	switch {
	case n.Tag == "!Ref" || n.Tag == "!Condition":
		return map[string]any{n.Tag[1:]: v}
	case strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!"):
		return map[string]any{"Fn::" + n.Tag[1:]: v}
	}
	return v
}

// none stands where AWS::NoValue takes a property or an entry away.
type none struct{}

// resolve works out the intrinsic functions of a value as CloudFormation does.
// What only AWS knows, such as an ID, is the resource's name in angle brackets.
func (tm *template) resolve(v any) any {
	switch v := v.(type) {
	case []any:
		out := []any{}
		for _, e := range v {
			if r := tm.resolve(e); r != (none{}) {
				out = append(out, r)
			}
		}
		return out
	case map[string]any:
		if len(v) == 1 {
			for fn, arg := range v {
				if r, ok := tm.call(fn, arg); ok {
					return r
				}
			}
		}
		out := map[string]any{}
		for k, e := range v {
			if r := tm.resolve(e); r != (none{}) {
				out[k] = r
			}
		}
		return out
	}
	return v
}

func (tm *template) call(fn string, arg any) (any, bool) {
	switch fn {
	case "Ref":
		return tm.ref(arg.(string)), true
	case "Fn::GetAtt":
		return tm.attribute(fmt.Sprint(arg)), true
	case "Fn::Sub":
		return tm.sub(arg.(string)), true
	case "Fn::Base64":
		return tm.resolve(arg), true // read here, not run
	case "Fn::Join":
		list := arg.([]any)
		var parts []string
		for _, e := range tm.resolve(list[1]).([]any) {
			parts = append(parts, fmt.Sprint(e))
		}
		return strings.Join(parts, list[0].(string)), true
	case "Fn::If":
		list := arg.([]any)
		if tm.holds(list[0].(string)) {
			return tm.resolve(list[1]), true
		}
		return tm.resolve(list[2]), true
	case "Fn::Equals":
		list := tm.resolve(arg).([]any)
		return fmt.Sprint(list[0]) == fmt.Sprint(list[1]), true
	case "Fn::Not":
		return !tm.resolve(arg).([]any)[0].(bool), true
	}
	if strings.HasPrefix(fn, "Fn::") {
		tm.t.Fatalf("%s is not known to this test", fn)
	}
	return nil, false
}

func (tm *template) holds(condition string) bool {
	c, ok := tm.root["Conditions"].(map[string]any)[condition]
	if !ok {
		tm.t.Fatalf("there is no condition %s", condition)
	}
	return tm.resolve(c).(bool)
}

func (tm *template) ref(name string) any {
	if name == "AWS::NoValue" {
		return none{}
	}
	if v, ok := tm.parameters[name]; ok {
		if v == nil {
			tm.t.Fatalf("parameter %s has no value", name)
		}
		return v
	}
	r := tm.resource(name)
	named := map[string]string{"AWS::S3::Bucket": "BucketName", "AWS::Scheduler::ScheduleGroup": "Name", "AWS::RedshiftServerless::Namespace": "NamespaceName",
		"AWS::RedshiftServerless::Workgroup": "WorkgroupName", "AWS::Logs::LogGroup": "LogGroupName", "AWS::ECR::Repository": "RepositoryName"}
	if property, ok := named[r["Type"].(string)]; ok {
		return tm.resolve(r["Properties"].(map[string]any)[property])
	}
	switch r["Type"] {
	case "AWS::EC2::SecurityGroup":
		return fmt.Sprintf("sg-%08x", len(name))
	case "AWS::SQS::Queue":
		return fmt.Sprintf("https://sqs.eu-central-1.amazonaws.com/123456789012/%v", tm.resolve(r["Properties"].(map[string]any)["QueueName"]))
	case "AWS::SNS::Topic", "AWS::ECS::TaskDefinition", "AWS::IAM::ManagedPolicy":
		return tm.attribute(name + ".Arn")
	}
	return "<" + name + ">"
}

func (tm *template) attribute(path string) any {
	name, attribute, _ := strings.Cut(path, ".")
	r := tm.resource(name)
	properties := tm.resolve(r["Properties"]).(map[string]any)
	switch {
	case r["Type"] == "AWS::SQS::Queue" && attribute == "Arn":
		return fmt.Sprintf("arn:aws:sqs:eu-central-1:123456789012:%v", properties["QueueName"])
	case r["Type"] == "AWS::SQS::Queue" && attribute == "QueueName":
		return properties["QueueName"]
	case r["Type"] == "AWS::S3::Bucket" && attribute == "Arn":
		return fmt.Sprintf("arn:aws:s3:::%v", properties["BucketName"])
	case r["Type"] == "AWS::IAM::Role" && attribute == "Arn":
		return "arn:aws:iam::123456789012:role/" + name
	case r["Type"] == "AWS::IAM::ManagedPolicy":
		return "arn:aws:iam::123456789012:policy/" + name
	case strings.HasSuffix(attribute, "Arn"):
		service := strings.ToLower(strings.Split(fmt.Sprint(r["Type"]), "::")[1])
		return fmt.Sprintf("arn:aws:%s:eu-central-1:123456789012:%s", service, name)
	}
	return "<" + path + ">"
}

var placeholder = regexp.MustCompile(`\$\{(!?)([A-Za-z0-9:.]+)\}`)

func (tm *template) sub(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(m string) string {
		part := placeholder.FindStringSubmatch(m)
		switch {
		case part[1] == "!":
			return "${" + part[2] + "}"
		case strings.Contains(part[2], ".") && !strings.Contains(part[2], "::"):
			return fmt.Sprint(tm.attribute(part[2]))
		}
		return fmt.Sprint(tm.ref(part[2]))
	})
}

func (tm *template) resource(name string) map[string]any {
	tm.t.Helper()
	r, ok := tm.root["Resources"].(map[string]any)[name].(map[string]any)
	if !ok {
		tm.t.Fatalf("there is no resource %s", name)
	}
	return r
}

// properties are a resource's own, resolved.
func (tm *template) properties(name string) map[string]any {
	tm.t.Helper()
	return tm.resolve(tm.resource(name)["Properties"]).(map[string]any)
}

// made are the names of the resources that these parameters make, by type; all
// where it is "".
func (tm *template) made(kind string) []string {
	var names []string
	for name, v := range tm.root["Resources"].(map[string]any) {
		r := v.(map[string]any)
		if c, ok := r["Condition"].(string); ok && !tm.holds(c) {
			continue
		}
		if kind == "" || r["Type"] == kind {
			names = append(names, name)
		}
	}
	return names
}

// at walks into a resolved value: keys, and numbers for entries of a list.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for i, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok || m[p] == nil {
				t.Fatalf("there is no %v", path[:i+1])
			}
			v = m[p]
		case int:
			list, ok := v.([]any)
			if !ok || len(list) <= p {
				t.Fatalf("there is no %v", path[:i+1])
			}
			v = list[p]
		}
	}
	return v
}
