// Package config reads the YAML file of the cloud half: strictly, with every
// fault at once, each with its file, line, YAML path and what to do.
package config

import (
	"reflect"
	"time"

	"millrace/cloud/pipeline"
	"millrace/internal/bytesize"
	"millrace/internal/secret"
	"millrace/internal/strictyaml"
)

// Config is a checked configuration. A section that is not there leaves its stage
// of the pipeline out.
type Config struct {
	Prefix    string    `yaml:"prefix"` // of the tables' names
	Region    string    `yaml:"region"` // of AWS; "" as the environment or ~/.aws says
	Endpoints Endpoints `yaml:"endpoints"`
	Queue     Queue     `yaml:"queue"`
	Tables    Tables    `yaml:"tables"`
	Archive   Archive   `yaml:"archive"`
	Analyze   Analyze   `yaml:"analyze"`
	Warehouse Warehouse `yaml:"warehouse"`
	Export    []Export  `yaml:"export"`
	Results   Results   `yaml:"results"`
	Pipeline  Pipeline  `yaml:"pipeline"`
}

// Endpoints are URLs in place of AWS's own, for local stand-ins and VPC endpoints.
// A queue's is in its URL.
type Endpoints struct {
	DynamoDB string `yaml:"dynamodb"`
	S3       string `yaml:"s3"`
	Redshift string `yaml:"redshift"`
	EMR      string `yaml:"emr"`
}

// Queue is where gateways send blocks to.
type Queue struct {
	URL string `yaml:"url"`
}

// Tables says how week tables are made, and when they go.
type Tables struct {
	Ahead      int               `yaml:"ahead"`  // weeks
	Behind     int               `yaml:"behind"` // weeks
	Billing    string            `yaml:"billing"`
	ReadUnits  int64             `yaml:"read_units"`
	WriteUnits int64             `yaml:"write_units"`
	WarmRead   int64             `yaml:"warm_read"` // units a second
	WarmWrite  int64             `yaml:"warm_write"`
	Class      string            `yaml:"class"`
	Protect    bool              `yaml:"protect"`
	Tags       map[string]string `yaml:"tags"`
	DialTo     int64             `yaml:"dial_to"` // write units
	// FillCatalogue reads the week tables' system streams in each run, for
	// gateways that write to DynamoDB directly.
	FillCatalogue bool `yaml:"fill_catalogue"`
	// RetentionWeeks is that of the gateways' sinks and of the workers. Retire
	// deletes the tables that are older once they are proved to be archived.
	RetentionWeeks int  `yaml:"retention_weeks"`
	Retire         bool `yaml:"retire"`
}

// Archive is where the Parquet files are.
type Archive struct {
	Place string `yaml:"place"`
	// Dir is a folder for what is on its way.
	Dir      string `yaml:"dir"`
	Segments int    `yaml:"segments"`
	// RecentWeeks is how many weeks, this one among them, are looked through in
	// each run. Of older ones only those are that DynamoDB counts other items of
	// than their manifest has, or that late blocks wait for.
	RecentWeeks int `yaml:"recent_weeks"`
}

// Analyze says what is computed, and by what.
type Analyze struct {
	Engine  string        `yaml:"engine"`
	Results []string      `yaml:"results"` // none: all
	Memory  bytesize.Size `yaml:"memory"`
	Threads int           `yaml:"threads"` // 0: one for each core
	Dir     string        `yaml:"dir"`
	// What follows is of the engine spark, on EMR Serverless.
	Application string        `yaml:"application"`
	JobRole     string        `yaml:"job_role"` // ARN
	SparkSubmit string        `yaml:"spark_submit"`
	JobTimeout  time.Duration `yaml:"job_timeout"`
	JobLogs     string        `yaml:"job_logs"`
}

// Warehouse is Redshift, or PostgreSQL in its place.
type Warehouse struct {
	Workgroup string   `yaml:"workgroup"`
	Cluster   string   `yaml:"cluster"`
	Database  string   `yaml:"database"`
	Secret    string   `yaml:"secret"` // the ARN of one in AWS
	DBUser    string   `yaml:"db_user"`
	CopyRole  string   `yaml:"copy_role"`
	Postgres  string   `yaml:"postgres"`
	Schema    string   `yaml:"schema"`
	Results   []string `yaml:"results"` // none: all
	History   bool     `yaml:"history"`
	Dir       string   `yaml:"dir"`
}

// Configured reports whether there is a warehouse.
func (w *Warehouse) Configured() bool {
	return w.Workgroup != "" || w.Cluster != "" || w.Postgres != ""
}

// Export is a set of files for another application.
type Export struct {
	Name   string   `yaml:"name"`
	What   []string `yaml:"what"` // samples, and names of results
	Sites  []string `yaml:"sites"`
	Tags   []string `yaml:"tags"` // of samples; names or patterns
	Format string   `yaml:"format"`
	Gzip   bool     `yaml:"gzip"`
	To     string   `yaml:"to"`
	// Days is how many days before today are exported each time; today is not.
	Days int `yaml:"days"`
}

// Results says which results go back to the plants.
type Results struct {
	Key        string     `yaml:"key"` // the sites' name of the public key
	PrivateKey secret.Ref `yaml:"private_key"`
	Unsigned   bool       `yaml:"unsigned"`
	// Settle is how long after its end a period is complete.
	Settle  time.Duration     `yaml:"settle"`
	Queues  map[string]string `yaml:"queues"` // site to URL
	Targets []Target          `yaml:"targets"`
}

// Target is one target of a site's mirror, and what it is given.
type Target struct {
	Site     string              `yaml:"site"`
	Target   string              `yaml:"target"`
	Result   string              `yaml:"result"`
	Of       string              `yaml:"of"` // tag or device
	Column   string              `yaml:"column"`
	Type     string              `yaml:"type"`
	Unit     string              `yaml:"unit"`
	Scale    float64             `yaml:"scale"`
	Offset   float64             `yaml:"offset"`
	Validity time.Duration       `yaml:"validity"`
	AtLeast  *map[string]float64 `yaml:"at_least"`
}

// Pipeline says when runs begin, and how they keep out of each other's way.
type Pipeline struct {
	Every  time.Duration `yaml:"every"`
	Offset time.Duration `yaml:"offset"`
	Retry  time.Duration `yaml:"retry"`
	Resume time.Duration `yaml:"resume"`
	Lease  time.Duration `yaml:"lease"`
}

// defaults is a file in which nothing is set.
func defaults() Config {
	return Config{
		Prefix:    "millrace",
		Tables:    Tables{Ahead: 1, Billing: "on_demand", Class: "standard", DialTo: 5, RetentionWeeks: 53},
		Archive:   Archive{Dir: "/var/lib/millrace-cloud/archive", Segments: 4, RecentWeeks: 2},
		Analyze:   Analyze{Engine: "duckdb", Memory: bytesize.GiB, Dir: "/var/lib/millrace-cloud/analyze", JobTimeout: 2 * time.Hour},
		Warehouse: Warehouse{CopyRole: "default", Schema: "millrace"},
		Results:   Results{Settle: 5 * time.Minute},
		Pipeline:  Pipeline{Every: 24 * time.Hour, Offset: 30 * time.Minute, Retry: 15 * time.Minute, Resume: 20 * time.Hour, Lease: pipeline.DefaultLease},
	}
}

// Defaults implements strictyaml.Defaulter.
func (t *Target) Defaults() { t.Type, t.Scale = "float64", 1 }

// Defaults implements strictyaml.Defaulter.
func (e *Export) Defaults() { e.Format, e.Days = "csv", 1 }

// Example is the file to start from.
const Example = "configs/millrace-cloud.example.yaml"

// Load reads and checks a file. Its error is of type strictyaml.Errors.
func Load(path string) (*Config, error) {
	data, err := strictyaml.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse checks a configuration. The name stands in its faults.
func Parse(name string, data []byte) (*Config, error) {
	d := strictyaml.New(name, Example, "split it over several files")
	root := d.Parse(data)
	if root == nil {
		return nil, d.Errors
	}
	cfg := defaults()
	d.Decode(root, "", reflect.ValueOf(&cfg).Elem())
	c := &checker{Decoder: d, cfg: &cfg}
	if !d.Exhausted() {
		c.check()
	}
	if len(d.Errors) > 0 {
		d.Errors.Sort()
		return nil, d.Errors
	}
	return &cfg, nil
}

// Shapes returns the structs whose yaml keys a file may hold, filled with the
// defaults, for a test that every key and its default is documented.
func Shapes() map[string]any {
	var t Target
	var e Export
	t.Defaults()
	e.Defaults()
	return map[string]any{"the file": defaults(), "a target": t, "an export": e}
}
