package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/export"
	"millrace/cloud/pipeline"
	"millrace/cloud/results"
	"millrace/internal/bytesize"
	"millrace/internal/strictyaml"
	"millrace/sample"
	"millrace/sample/weektable"
)

// checker looks at what was read.
type checker struct {
	*strictyaml.Decoder
	cfg *Config
}

func (c *checker) check() {
	if err := weektable.CheckPrefix(c.cfg.Prefix); err != nil {
		c.Wrong("prefix", err.Error(), "it begins the names of all tables")
	}
	if c.cfg.Region != "" {
		c.setting(connect.CheckRegion("region", c.cfg.Region))
	}
	for _, e := range []struct{ path, value string }{{"endpoints.dynamodb", c.cfg.Endpoints.DynamoDB}, {"endpoints.s3", c.cfg.Endpoints.S3}, {"endpoints.redshift", c.cfg.Endpoints.Redshift}, {"endpoints.emr", c.cfg.Endpoints.EMR}} {
		c.endpoint(e.path, e.value)
	}
	if c.cfg.Queue.URL != "" {
		c.queue("queue.url", c.cfg.Queue.URL)
	}
	c.tables()
	c.archive()
	c.analyze()
	c.warehouse()
	c.exports()
	c.results()
	c.pipeline()
}

func (c *checker) endpoint(path, value string) {
	c.setting(connect.CheckEndpoint(path, value))
}

// setting takes over a fault that package connect found.
func (c *checker) setting(err error) {
	var wrong *connect.SettingError
	if errors.As(err, &wrong) {
		c.Wrong(wrong.Setting, strictyaml.Quoted(wrong.Value)+" "+wrong.Problem, wrong.Hint)
	}
}

func (c *checker) queue(path, value string) {
	if err := connect.CheckQueueURL(value); err != nil {
		problem, hint, _ := strings.Cut(err.Error(), ": ")
		c.Wrong(path, problem, hint)
	} else if strings.HasSuffix(value, ".fifo") {
		c.Wrong(path, "is a FIFO queue's", "make a standard queue: gateways and workers do without order, and FIFO queues cost more")
	}
}

// between checks a number's range.
func between[N int | int64 | time.Duration](c *checker, path string, value, least, most N, hint string) {
	if value < least || value > most {
		c.Wrong(path, fmt.Sprintf("%v is not between %v and %v", value, least, most), hint)
	}
}

func (c *checker) tables() {
	t := &c.cfg.Tables
	between(c, "tables.ahead", t.Ahead, 0, 8, "1 is good: next week's table is there before the week")
	between(c, "tables.behind", t.Behind, 0, 53, "0 is good: only a backlog that is older than the first table needs more")
	if t.Behind > 0 && t.Behind <= 53 && t.Behind >= t.RetentionWeeks {
		c.Wrong("tables.behind", fmt.Sprintf("%d is not below tables.retention_weeks, %d", t.Behind, t.RetentionWeeks), "no block of a week that old goes to its table")
	}
	c.OneOf("tables.billing", t.Billing, "on_demand", "provisioned")
	c.OneOf("tables.class", t.Class, "standard", "infrequent")
	provisioned := t.Billing == "provisioned"
	for _, u := range []struct {
		key         string
		value       int64
		provisioned bool
	}{{"read_units", t.ReadUnits, true}, {"write_units", t.WriteUnits, true}, {"warm_read", t.WarmRead, false}, {"warm_write", t.WarmWrite, false}} {
		path := "tables." + u.key
		switch {
		case u.provisioned != provisioned && u.value != 0:
			c.Wrong(path, "has no meaning with billing: "+t.Billing, "leave it out")
		case provisioned && u.provisioned && u.value < 1:
			c.Wrong(path, "is missing", "provisioned tables need it; docs/cloud.md says how many units a million samples take")
		case u.value < 0:
			c.Wrong(path, fmt.Sprintf("%d is less than 0", u.value), "leave it out for AWS's own")
		}
	}
	between(c, "tables.dial_to", t.DialTo, 1, 40_000, "5 is good: past weeks get late blocks only")
	between(c, "tables.retention_weeks", t.RetentionWeeks, 1, 10_000, "it is that of the gateways' sinks and of the workers")
	if t.Retire && c.cfg.Archive.Place == "" {
		c.Wrong("tables.retire", "tables go only once they are archived, and there is no archive.place", "write archive: {place: s3://bucket/prefix}, or retire: false")
	}
}

func (c *checker) archive() {
	a := &c.cfg.Archive
	written := c.Nodes["archive"] != nil
	switch {
	case a.Place == "" && written:
		c.Wrong("archive.place", "is missing", "write s3://bucket/prefix or a folder")
	case a.Place == "":
		if c.Nodes["warehouse"] != nil || len(c.cfg.Export) > 0 || len(c.cfg.Results.Targets) > 0 {
			c.Wrong("archive", "is missing, and what follows is made of it", "write archive: {place: s3://bucket/prefix}")
		}
	default:
		c.place("archive.place", a.Place)
	}
	if a.Dir == "" {
		c.Wrong("archive.dir", "is empty", "name a folder with room for the largest week, for what is on its way")
	}
	between(c, "archive.segments", a.Segments, 1, 64, "4 is good for two cores")
	between(c, "archive.recent_weeks", a.RecentWeeks, 1, 10_000, "2 is good: this week and the last")
}

// place checks s3://bucket/prefix or a folder.
func (c *checker) place(path, value string) {
	rest, remote := strings.CutPrefix(value, "s3://")
	if remote && strings.Trim(strings.SplitN(rest, "/", 2)[0], " ") == "" || !remote && strings.Contains(value, "://") {
		c.Wrong(path, fmt.Sprintf("%s is neither s3://bucket/prefix nor a folder", strictyaml.Quoted(value)), "write for example s3://plant-archive")
	}
}

// named checks a list of results.
func (c *checker) named(path string, names []string) {
	for i, name := range names {
		if !slices.Contains(known(), name) {
			c.unknown(fmt.Sprintf("%s[%d]", path, i), "result", name, known())
		}
	}
}

func (c *checker) unknown(path, what, name string, known []string) {
	hint := "there are " + strings.Join(known, ", ")
	if near := strictyaml.Nearest(name, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	c.Wrong(path, fmt.Sprintf("there is no %s %s", what, strictyaml.Quoted(name)), hint)
}

// known lists the results that there are.
func known() (names []string) {
	for _, r := range result.All() {
		names = append(names, r.Name)
	}
	return names
}

func (c *checker) analyze() {
	a := &c.cfg.Analyze
	c.OneOf("analyze.engine", a.Engine, "duckdb", "spark", "none")
	if a.Engine == "spark" {
		for _, n := range []struct{ path, value, hint string }{{"analyze.application", a.Application, "write the id of the EMR Serverless application"},
			{"analyze.job_role", a.JobRole, "write the ARN of the role that the job runs as"}} {
			if n.value == "" {
				c.Wrong(n.path, "is missing, and engine is spark", n.hint)
			}
		}
		if c.cfg.Archive.Place != "" && !strings.HasPrefix(c.cfg.Archive.Place, "s3://") {
			c.Wrong("archive.place", "is a folder, which EMR Serverless cannot read", "write s3://bucket/prefix, or engine: duckdb")
		}
	}
	between(c, "analyze.job_timeout", a.JobTimeout, 5*time.Minute, 7*24*time.Hour, "2h is good: a job that takes longer is ended")
	c.named("analyze.results", a.Results)
	if a.Memory < 256*bytesize.MiB {
		c.Wrong("analyze.memory", fmt.Sprintf("%s is less than 256MiB", a.Memory), "1GiB is good for a plant of some thousand tags")
	}
	between(c, "analyze.threads", a.Threads, 0, 1024, "leave it out for one for each core")
	if a.Dir == "" {
		c.Wrong("analyze.dir", "is empty", "name a folder, for what does not fit into memory")
	}
}

func (c *checker) warehouse() {
	w := &c.cfg.Warehouse
	if c.Nodes["warehouse"] == nil {
		return
	}
	places := 0
	for _, p := range []string{w.Workgroup, w.Cluster, w.Postgres} {
		if p != "" {
			places++
		}
	}
	switch {
	case places == 0:
		c.Wrong("warehouse", "names no warehouse", "write workgroup (Redshift Serverless), cluster (Redshift) or postgres (a URL)")
	case places > 1:
		c.Wrong("warehouse", "names more than one warehouse", "keep one of workgroup, cluster and postgres")
	case w.Postgres != "":
		if u, err := url.Parse(w.Postgres); err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
			c.Wrong("warehouse.postgres", "is no URL of PostgreSQL", "write it as in postgres://loader@127.0.0.1/plant")
		} else if _, ok := u.User.Password(); ok || u.Query().Has("password") || u.Query().Has("sslpassword") {
			c.Wrong("warehouse.postgres", "holds a password", "take it out, and give it in ~/.pgpass or PGPASSWORD")
		}
	case w.Database == "":
		c.Wrong("warehouse.database", "is missing", "name the database in the "+map[bool]string{true: "workgroup", false: "cluster"}[w.Workgroup != ""])
	case c.cfg.Archive.Place != "" && !strings.HasPrefix(c.cfg.Archive.Place, "s3://"):
		c.Wrong("archive.place", "is a folder, which Redshift cannot read", "write s3://bucket/prefix, or load a PostgreSQL (warehouse.postgres)")
	}
	c.named("warehouse.results", w.Results)
	if w.Schema == "" {
		c.Wrong("warehouse.schema", "is empty", "leave it out for millrace")
	}
}

func (c *checker) exports() {
	names, places := map[string]string{}, map[string]string{}
	all := append([]string{export.Samples}, known()...)
	for i := range c.cfg.Export {
		e, path := &c.cfg.Export[i], fmt.Sprintf("export[%d]", i)
		c.name(path+".name", e.Name, "export", names)
		if len(e.What) == 0 {
			c.Wrong(path+".what", "is missing", "write [samples], or results such as [hourly, energy]")
		}
		for k, what := range e.What {
			at := fmt.Sprintf("%s.what[%d]", path, k)
			if !slices.Contains(all, what) {
				c.unknown(at, "result", what, all)
			} else if first, ok := places[e.To+" "+what]; ok {
				c.Wrong(at, fmt.Sprintf("%s goes to the same place as in line %d, and each would replace the other's files", what, c.At(first).Line), "give one of them another place")
			} else {
				places[e.To+" "+what] = at
			}
		}
		if len(e.Tags)+len(e.Sites) > 0 && !slices.Contains(e.What, export.Samples) {
			c.Wrong(path, "has sites or tags, which are of samples", "leave them out, or write what: [samples]")
		}
		for k, tag := range e.Tags {
			if err := catalogue.CheckPattern(tag); err != nil {
				c.Wrong(fmt.Sprintf("%s.tags[%d]", path, k), err.Error(), "write it as in north/meter1/power or north/*/power")
			}
		}
		c.OneOf(path+".format", e.Format, "csv", "json", "parquet", "senml")
		if e.Gzip && e.Format == "parquet" {
			c.Wrong(path+".gzip", "has no meaning with format: parquet, which is packed by itself", "leave it out")
		}
		if e.To == "" {
			c.Wrong(path+".to", "is missing", "write s3://bucket/prefix or a folder")
		} else {
			c.place(path+".to", e.To)
		}
		between(c, path+".days", e.Days, 1, 3660, "it is how many days before today are exported")
	}
}

// name checks one name against those before it.
func (c *checker) name(path, name, what string, names map[string]string) {
	if name == "" {
		c.Wrong(path, "is missing", "each "+what+" needs a name of its own")
		return
	}
	if first, ok := names[name]; ok {
		c.Wrong(path, fmt.Sprintf("%s %s stands in line %d already", what, strictyaml.Quoted(name), c.At(first).Line), "give each a name of its own")
		return
	}
	names[name] = path
}

func (c *checker) results() {
	r := &c.cfg.Results
	if c.Nodes["results"] == nil {
		return
	}
	between(c, "results.settle", r.Settle, 0, 24*time.Hour, "5m is good: blocks come within a minute or two, and late ones are published when they do")
	switch {
	case r.Unsigned && (r.Key != "" || !r.PrivateKey.IsZero()):
		c.Wrong("results.unsigned", "stands beside a key", "keep one of them")
	case r.Unsigned:
	case r.Key == "":
		c.Wrong("results.key", "is missing", "write the name under which the plants know the public key, or unsigned: true where they ask for no signature")
	case r.PrivateKey.IsZero():
		c.Wrong("results.private_key", "is missing", "write credential:NAME, file:/path or env:NAME; docs/cloud-results.md says how to make one")
	}
	for site, queue := range r.Queues {
		path := strictyaml.Join("results.queues", site)
		if err := sample.CheckName(site); err != nil {
			c.Wrong(path, err.Error(), "write the site's name as the gateway's configuration has it")
		}
		c.queue(path, queue)
	}
	if len(r.Targets) == 0 {
		c.Wrong("results.targets", "there is none, so nothing would be published", "add one; "+Example+" shows one")
	}
	names := map[string]string{}
	for i := range r.Targets {
		c.target(&r.Targets[i], fmt.Sprintf("results.targets[%d]", i), names)
	}
}

func (c *checker) target(t *Target, path string, names map[string]string) {
	for _, n := range []struct{ key, value, hint string }{{"site", t.Site, "write the site of the plant"}, {"target", t.Target, "write the mirror target's name, as the gateway's configuration has it"}} {
		if n.value == "" {
			c.Wrong(path+"."+n.key, "is missing", n.hint)
		} else if err := sample.CheckName(n.value); err != nil {
			c.Wrong(path+"."+n.key, err.Error(), n.hint)
		}
	}
	if t.Site != "" && c.cfg.Results.Queues[t.Site] == "" {
		c.Wrong(path+".site", fmt.Sprintf("there is no queue of site %s", strictyaml.Quoted(t.Site)), "add it to results.queues")
	}
	if t.Site != "" && t.Target != "" {
		c.name(path+".target", t.Site+"/"+t.Target, "target", names)
	}
	if t.Of == "" {
		c.Wrong(path+".of", "is missing", "write the full name of the tag, as in north/meter1/power, or of the device for kpi")
	}
	switch {
	case t.Result == "":
		c.Wrong(path+".result", "is missing", "there are "+strings.Join(known(), ", "))
	case !slices.Contains(known(), t.Result):
		c.unknown(path+".result", "result", t.Result, known())
	default:
		rule := t.rule("")
		if field, problem := rule.Check(); problem != "" {
			problem, hint, _ := strings.Cut(problem, "; ")
			c.Wrong(path+"."+field, problem, hint)
		}
	}
	c.OneOf(path+".type", t.Type, "float64", "int64")
	if t.Scale == 0 {
		c.Wrong(path+".scale", "is 0, so the value would not matter", "leave it out for 1")
	}
	between(c, path+".validity", t.Validity, time.Minute, 31*24*time.Hour, "it is how long after its hour or day a value may be used; longer than the time from one run to the next")
	if t.AtLeast == nil && c.Nodes[path+".at_least"] == nil {
		c.Wrong(path+".at_least", "is missing", "say how much data a value needs, as in at_least: {good: 3000}, or {} where it does not matter")
	}
}

func (c *checker) pipeline() {
	p := &c.cfg.Pipeline
	between(c, "pipeline.every", p.Every, time.Minute, 31*24*time.Hour, "24h is good")
	if p.Offset < 0 || p.Offset >= max(p.Every, time.Minute) {
		c.Wrong("pipeline.offset", fmt.Sprintf("%s is not between 0s and every (%s)", p.Offset, p.Every), "30m is good: half past midnight UTC, each day")
	}
	between(c, "pipeline.retry", p.Retry, time.Second, 24*time.Hour, "15m is good")
	between(c, "pipeline.resume", p.Resume, 0, 366*24*time.Hour, "somewhat less than the schedule's period: what failed before that is left behind by the next run")
	between(c, "pipeline.lease", p.Lease, pipeline.MinLease, pipeline.MaxLease, "1m is good: it is what a run waits for one that crashed")
}

// rule is a target as package results takes it.
func (t *Target) rule(queue string) results.Rule {
	r := results.Rule{Site: t.Site, Target: t.Target, Queue: queue, Result: t.Result, Of: t.Of, Column: t.Column, Type: sample.Float64, Unit: t.Unit,
		Scale: t.Scale, Offset: t.Offset, Validity: t.Validity}
	if t.Type == "int64" {
		r.Type = sample.Int64
	}
	if t.AtLeast != nil {
		r.AtLeast = *t.AtLeast
	}
	return r
}

// Rules are the targets as package results takes them.
func (r *Results) Rules() []results.Rule {
	rules := make([]results.Rule, len(r.Targets))
	for i := range r.Targets {
		rules[i] = r.Targets[i].rule(r.Queues[r.Targets[i].Site])
	}
	return rules
}
