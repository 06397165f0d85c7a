package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/cloud/config"
	"millrace/cloud/worker"
)

// CloudFormation takes a template of this size without a bucket to fetch it from.
func TestTemplatesAreSmallEnough(t *testing.T) {
	for _, name := range []string{"template.yaml", "site.yaml"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 51200 {
			t.Errorf("%s has %d bytes", name, info.Size())
		}
	}
}

func TestQueues(t *testing.T) {
	tm := everything(t)
	q, dead := tm.properties("Queue"), tm.properties("DeadLetterQueue")
	day := int((24 * time.Hour).Seconds())
	for name, p := range map[string]map[string]any{"Queue": q, "DeadLetterQueue": dead} {
		if p["MaximumMessageSize"] != 1<<20 || p["MessageRetentionPeriod"] != 14*day || p["SqsManagedSseEnabled"] != true {
			t.Errorf("%s: %v", name, p)
		}
	}
	if at(t, q, "RedrivePolicy", "maxReceiveCount") != 1000 || at(t, q, "RedrivePolicy", "deadLetterTargetArn") != "arn:aws:sqs:eu-central-1:123456789012:plant-dead" {
		t.Errorf("%v", q["RedrivePolicy"])
	}
	if v := time.Duration(q["VisibilityTimeout"].(int)) * time.Second; v != worker.NewOptions().Visibility {
		t.Errorf("visibility %s, the worker's is %s", v, worker.NewOptions().Visibility)
	}
	if got := list(at(t, dead, "RedriveAllowPolicy", "sourceQueueArns")); !slices.Equal(got, []string{"arn:aws:sqs:eu-central-1:123456789012:plant"}) {
		t.Errorf("%v may send dead letters", got)
	}
	alarm := tm.properties("QueueAgeAlarm")
	if alarm["MetricName"] != "ApproximateAgeOfOldestMessage" || alarm["Threshold"] != 7*day || at(t, alarm, "Dimensions", 0, "Value") != "plant" {
		t.Errorf("%v", alarm)
	}
}

// Every alarm is heard.
func TestAlarmsAreHeard(t *testing.T) {
	tm := everything(t)
	alarms := tm.made("AWS::CloudWatch::Alarm")
	for _, name := range []string{"QueueAgeAlarm", "QueueBehindAlarm", "DeadLetterAlarm", "ThrottleAlarm", "ScheduleAlarm"} {
		if !slices.Contains(alarms, name) {
			t.Errorf("there is no %s", name)
		}
	}
	for _, name := range alarms {
		p := tm.properties(name)
		if !slices.Equal(list(p["AlarmActions"]), list(tm.ref("Alarms"))) || p["AlarmDescription"] == nil {
			t.Errorf("%s: %v", name, p)
		}
	}
	if at(t, tm.properties("PipelineFailed"), "Targets", 0, "Arn") != tm.ref("Alarms") || at(t, tm.properties("AlarmMail"), "TopicArn") != tm.ref("Alarms") {
		t.Error("a failed pipeline is not heard")
	}
	for i := range 2 {
		if at(t, tm.properties("Budget"), "NotificationsWithSubscribers", i, "Subscribers", 0, "Address") != tm.ref("Alarms") {
			t.Error("the budget is not heard")
		}
	}
	// Who publishes there may, and may use the key.
	senders := []string{"cloudwatch.amazonaws.com", "events.amazonaws.com", "budgets.amazonaws.com"}
	for _, got := range []any{at(t, tm.properties("AlarmSenders"), "PolicyDocument", "Statement", 0, "Principal", "Service"),
		at(t, tm.properties("AlarmKey"), "KeyPolicy", "Statement", 1, "Principal", "Service")} {
		if !slices.Equal(list(got), senders) {
			t.Errorf("%v may publish", got)
		}
	}
}

// What holds data is encrypted, and speaks TLS only.
func TestEncrypted(t *testing.T) {
	tm, site := everything(t), everySite(t)
	if site.properties("ResultsQueue")["SqsManagedSseEnabled"] != true {
		t.Error("the results queue is not encrypted")
	}
	bucket := tm.properties("Archive")
	if at(t, bucket, "BucketEncryption", "ServerSideEncryptionConfiguration", 0, "ServerSideEncryptionByDefault", "SSEAlgorithm") != "AES256" {
		t.Error("the archive is not encrypted")
	}
	for _, k := range []string{"BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"} {
		if at(t, bucket, "PublicAccessBlockConfiguration", k) != true {
			t.Errorf("%s is off", k)
		}
	}
	if at(t, tm.properties("WorkerTemplate"), "LaunchTemplateData", "BlockDeviceMappings", 0, "Ebs", "Encrypted") != true {
		t.Error("the workers' disks are not encrypted")
	}
	if tm.properties("Alarms")["KmsMasterKeyId"] == nil || at(t, tm.properties("Repository"), "EncryptionConfiguration", "EncryptionType") != "AES256" {
		t.Error("topic or repository are not encrypted")
	}
	denies := map[string]any{
		"queues":  at(t, tm.properties("QueuesTLS"), "PolicyDocument", "Statement", 0),
		"archive": at(t, tm.properties("ArchivePolicy"), "PolicyDocument", "Statement", 0),
		"alarms":  at(t, tm.properties("AlarmSenders"), "PolicyDocument", "Statement", 1),
		"results": at(t, site.properties("ResultsQueueTLS"), "PolicyDocument", "Statement", 0),
	}
	for what, st := range denies {
		if at(t, st, "Effect") != "Deny" || at(t, st, "Principal") != "*" || at(t, st, "Condition", "Bool", "aws:SecureTransport") != "false" {
			t.Errorf("%s: %v", what, st)
		}
	}
	if got := list(at(t, denies["queues"], "Resource")); len(got) != len(tm.made("AWS::SQS::Queue")) {
		t.Errorf("TLS is asked of %v only", got)
	}
	if tm.properties("Warehouse")["PubliclyAccessible"] != false || tm.properties("WarehouseSpace")["ManageAdminPassword"] != true {
		t.Error("the warehouse is open, or its password is in the template")
	}
	for _, tmpl := range []*template{tm, site} {
		for _, name := range tmpl.made("AWS::EC2::SecurityGroup") {
			p := tmpl.properties(name)
			if p["SecurityGroupIngress"] != nil || len(asList(p["SecurityGroupEgress"])) != 1 || at(t, p, "SecurityGroupEgress", 0, "FromPort") != 443 {
				t.Errorf("%s: %v", name, p)
			}
		}
	}
}

// The archive outlives its stack, and nothing in it expires but former versions.
func TestArchiveIsKept(t *testing.T) {
	tm := everything(t)
	for _, name := range []string{"Queue", "DeadLetterQueue", "Archive", "Results", "WarehouseSpace"} {
		if r := tm.resource(name); r["DeletionPolicy"] != "Retain" || r["UpdateReplacePolicy"] != "Retain" {
			t.Errorf("%s goes with the stack", name)
		}
	}
	p := tm.properties("Archive")
	if at(t, p, "VersioningConfiguration", "Status") != "Enabled" {
		t.Error("what is overwritten is gone")
	}
	var ids []string
	for _, v := range at(t, p, "LifecycleConfiguration", "Rules").([]any) {
		rule := v.(map[string]any)
		ids = append(ids, rule["Id"].(string))
		if rule["ExpirationInDays"] != nil || rule["ExpirationDate"] != nil {
			t.Errorf("%s: %v", rule["Id"], rule)
		}
	}
	if !slices.Equal(ids, []string{"uploads", "former-versions", "samples", "late"}) {
		t.Errorf("%v", ids)
	}
	if len(tm.made("AWS::DynamoDB::Table")) != 1 {
		t.Error("week tables must not be a stack's: it would delete them")
	}
}

func TestWorkersAreOnSpotAndScaleByBacklog(t *testing.T) {
	tm := everything(t)
	group := tm.properties("Workers")
	if at(t, group, "MixedInstancesPolicy", "InstancesDistribution", "OnDemandPercentageAboveBaseCapacity") != 0 ||
		at(t, group, "MixedInstancesPolicy", "InstancesDistribution", "OnDemandBaseCapacity") != 0 ||
		len(at(t, group, "MixedInstancesPolicy", "LaunchTemplate", "Overrides").([]any)) < 3 {
		t.Errorf("%v", group["MixedInstancesPolicy"])
	}
	if !slices.Contains(list(at(t, group, "MetricsCollection", 0, "Metrics")), "GroupInServiceInstances") {
		t.Error("the group does not say how many workers it has")
	}
	metrics := at(t, tm.properties("WorkersByBacklog"), "TargetTrackingConfiguration", "CustomizedMetricSpecification", "Metrics").([]any)
	text, returned := map[string]string{}, 0
	for _, m := range metrics {
		m := m.(map[string]any)
		text[m["Id"].(string)] = fmt.Sprint(m["Expression"], m["MetricStat"])
		if m["ReturnData"] == true {
			returned++
		}
	}
	for id, want := range map[string]string{"m1": "ApproximateNumberOfMessagesVisible", "m2": "GroupInServiceInstances", "workers": "FILL(m2, 0)", "backlog": "m1 / IF(workers < 1, 1, workers)"} {
		if !strings.Contains(text[id], want) {
			t.Errorf("%s is %s, want %s", id, text[id], want)
		}
	}
	if returned != 1 || at(t, metrics[len(metrics)-1], "ReturnData") != true {
		t.Errorf("%d series are returned", returned)
	}
}

// The unit waits a little longer than the worker takes, and starts it with flags
// that it has.
func TestWorkerUnit(t *testing.T) {
	tm := everything(t)
	data := at(t, tm.properties("WorkerTemplate"), "LaunchTemplateData")
	if at(t, data, "MetadataOptions", "HttpTokens") != "required" || at(t, data, "MetadataOptions", "HttpPutResponseHopLimit") != 1 {
		t.Errorf("%v", data)
	}
	script := at(t, data, "UserData").(string)
	for _, line := range []string{"TimeoutStopSec=110", "DynamicUser=yes", "NoNewPrivileges=yes", "Restart=always",
		"echo '" + strings.Repeat("ab", 32) + "  millrace-cloud.new' | sha256sum --check --status"} {
		if !strings.Contains(script, line+"\n") {
			t.Errorf("the instance's script has no line %s", line)
		}
	}
	if strings.Contains(script, "${") {
		t.Error("something in the script is not substituted")
	}
	text, err := os.ReadFile("../../docs/cloud.md")
	if err != nil {
		t.Fatal(err)
	}
	start := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/millrace-cloud worker (.*)$`).FindStringSubmatch(script)
	if start == nil {
		t.Fatal("the unit does not start a worker")
	}
	_, section, _ := strings.Cut(string(text), "## Worker\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(start[1], -1) {
		if !strings.Contains(section, "| `"+flag+"`") && !strings.Contains(section, ", `"+flag+"`") {
			t.Errorf("docs/cloud.md knows no flag %s of the worker", flag)
		}
	}
}

// The schedule starts the pipeline with its own time, and the tables by themselves;
// both in the container that the task has.
func TestSchedules(t *testing.T) {
	tm := everything(t)
	container := at(t, tm.properties("Pipeline"), "ContainerDefinitions", 0)
	name := at(t, container, "Name")
	var input struct {
		ContainerOverrides []struct {
			Name        string
			Command     []string
			Environment []struct{ Name, Value string }
		}
	}
	for _, s := range []string{"RunPipeline", "EnsureTables"} {
		if err := json.Unmarshal([]byte(at(t, tm.properties(s), "Target", "Input").(string)), &input); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if len(input.ContainerOverrides) != 1 || input.ContainerOverrides[0].Name != name {
			t.Fatalf("%s: %+v", s, input)
		}
		o := input.ContainerOverrides[0]
		switch s {
		case "RunPipeline":
			if len(o.Environment) != 1 || o.Environment[0].Value != "<aws.scheduler.scheduled-time>" || !strings.Contains(at(t, container, "Command", 0).(string), "$"+o.Environment[0].Name+`"`) {
				t.Errorf("the task does not know the schedule's time: %+v", o)
			}
		case "EnsureTables":
			// One argument: the entry point is a shell.
			if !slices.Equal(o.Command, []string{"exec millrace-cloud tables ensure --prefix plant --protect --tag millrace=plant"}) {
				t.Errorf("%q", o.Command)
			}
		}
	}
	if !slices.Equal(list(at(t, container, "EntryPoint")), []string{"/bin/sh", "-c"}) || at(t, container, "ReadonlyRootFilesystem") != true || at(t, container, "User") != "65532:65532" {
		t.Errorf("%v", container)
	}
}

// The configuration of docs/cloud-deploy.md is one that the pipeline takes, on
// the queues and in the places that the templates make.
func TestDocumentedConfiguration(t *testing.T) {
	text, err := os.ReadFile("../../docs/cloud-deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "   ```yaml\n")
	block, _, _ := strings.Cut(after, "   ```\n")
	cfg, err := config.Parse("docs/cloud-deploy.md", []byte(regexp.MustCompile(`(?m)^   `).ReplaceAllString(strings.ReplaceAll(block, "NAME", "plant-archive"), "")))
	if err != nil {
		t.Fatal(err)
	}
	tm, site := everything(t), everySite(t)
	if cfg.Queue.URL != tm.ref("Queue") || cfg.Results.Queues["Nord"] != site.ref("ResultsQueue") || cfg.Archive.Place != tm.sub("s3://${ArchiveBucket}") {
		t.Errorf("%+v", cfg)
	}
	if ref := cfg.Results.PrivateKey.String(); ref != "env:"+at(t, tm.properties("Pipeline"), "ContainerDefinitions", 0, "Secrets", 1, "Name").(string) {
		t.Errorf("the key is sought in %s", ref)
	}
	for _, dir := range []string{cfg.Archive.Dir, cfg.Analyze.Dir} {
		if !strings.HasPrefix(dir, at(t, tm.properties("Pipeline"), "ContainerDefinitions", 0, "MountPoints", 0, "ContainerPath").(string)+"/") {
			t.Errorf("%s cannot be written to", dir)
		}
	}
}

// What can cost without end has a cap.
func TestCaps(t *testing.T) {
	tm := everything(t)
	if at(t, tm.properties("Spark"), "MaximumCapacity", "Cpu") != "16 vCPU" {
		t.Errorf("%v", tm.properties("Spark"))
	}
	if at(t, tm.properties("WarehouseCap"), "RPUHours") != 60 || at(t, tm.properties("Warehouse"), "MaxCapacity") != 16 {
		t.Error("the warehouse has no cap")
	}
	if code := at(t, tm.properties("CapFunction"), "Code", "ZipFile").(string); strings.Count(code, `breachAction="deactivate"`) != 2 || len(code) > 4096 {
		t.Error("the cap does not stop the warehouse, or its function is too long")
	}
	if at(t, tm.properties("Workers"), "MaxSize") != 4 {
		t.Error("workers have no cap")
	}
	for _, name := range load(t, "template.yaml", map[string]any{"PipelineImageTag": "", "SparkVCpus": 0, "WarehouseRPUHours": 0}).made("") {
		for _, dear := range []string{"Spark", "SparkRole", "Warehouse", "WarehouseSpace", "WarehouseCap", "CapFunction", "CopyRole", "RunPipeline", "EnsureTables", "Results"} {
			if name == dear {
				t.Errorf("%s is made unasked", name)
			}
		}
	}
}

// Each thing that can carry a tag has ours, so that the budget sees it.
func TestTagged(t *testing.T) {
	untaggable := []string{"AWS::SQS::QueuePolicy", "AWS::S3::BucketPolicy", "AWS::SNS::TopicPolicy", "AWS::SNS::Subscription", "AWS::IAM::InstanceProfile", "AWS::IAM::ManagedPolicy",
		"AWS::AutoScaling::ScalingPolicy", "AWS::Scheduler::Schedule", "AWS::Events::Rule", "AWS::Budgets::Budget", "Custom::UsageLimit"}
	for _, tm := range []*template{everything(t), everySite(t)} {
		for _, name := range tm.made("") {
			if slices.Contains(untaggable, tm.resource(name)["Type"].(string)) {
				continue
			}
			p := tm.properties(name)
			tags := fmt.Sprint(p["Tags"], p["TagSpecifications"])
			if !strings.Contains(tags, "Key:millrace") || !strings.Contains(tags, "Value:plant") {
				t.Errorf("%s (%v) has no tag: %s", name, tm.resource(name)["Type"], tags)
			}
		}
	}
}
