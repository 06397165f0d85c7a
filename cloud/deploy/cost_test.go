package deploy

import (
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"millrace/cloud/lake"
	"millrace/internal/bench/codec"
	"millrace/internal/weekitem"
	"millrace/sample/block"
)

const costPage = "../../docs/cost.md"

var update = flag.Bool("update", false, "write the tables of docs/cost.md anew, from its own prices")

const (
	hoursAMonth   = 730
	secondsAMonth = hoursAMonth * 3600
	daysAMonth    = hoursAMonth / 24.0
	gigabyte      = 1 << 30 // as AWS counts one
	billion       = 1e9
	requestBytes  = 64 << 10 // SQS bills one request for each begun
)

// What is assumed beside prices and measurements; the page says the same.
const (
	attributeBytes = 400  // names, types and values of a message's attributes, at most
	yearInTables   = 53.0 // weeks that a week table is kept: --retention-weeks' default
	coldAfter      = 90.0 // days: ArchiveColdDays' default
	archived       = 365.0
	putsADay       = 6.0  // samples, gaps, catalogue, manifest, results
	getsADay       = 40.0 // retire reads each file, analysis and COPY too
	laneReceives   = 4 * secondsAMonth / 20
	runMinutes     = 15.0
	alarmMetrics   = 9 // five alarms, and two of target tracking with two metrics each
	imageGigabytes = 0.1
)

// plant is a plant of so many streams, each a block in every period.
type plant struct {
	title   string
	period  int // seconds in a block
	streams []stream
}

type stream struct{ samples, block, item, units, message int }

// newPlant measures blocks of the generated plant: for each stream so many of
// its tags, each at every step-th second.
func newPlant(t *testing.T, title string, period, step int, tags ...int) *plant {
	t.Helper()
	names, samples := codec.Plant(period)
	p := &plant{title: title, period: period}
	for i, n := range tags {
		enc, err := block.NewEncoder()
		if err != nil {
			t.Fatal(err)
		}
		enc.Reset(names[:n])
		for k := 0; k < period; k += step {
			for tag := range n {
				s := samples[k][tag]
				enc.Add(tag, &s)
			}
		}
		h := block.Header{Site: "plant1", Gateway: "gw1", Stream: fmt.Sprintf("s%04d", i+1), Epoch: 1 << 60, Seq: 1, Produced: uint64(n * period / step)}
		data, err := enc.Encode(nil, h)
		if err != nil {
			t.Fatal(err)
		}
		if h, err = block.ReadHeader(data); err != nil {
			t.Fatal(err)
		}
		size := weekitem.Size(&h, len(data))
		p.streams = append(p.streams, stream{h.Count, len(data), size, weekitem.WriteUnits(size), base64.StdEncoding.EncodedLen(len(data)) + attributeBytes})
	}
	return p
}

func (p *plant) sum(of func(stream) int) (n float64) {
	for _, s := range p.streams {
		n += float64(of(s))
	}
	return n
}

// periods is how many blocks of each stream hold so many samples.
func (p *plant) periods(samples float64) float64 {
	return samples / p.sum(func(s stream) int { return s.samples })
}

// monthly is what the plant sends in a month.
func (p *plant) monthly() float64 {
	return p.sum(func(s stream) int { return s.samples }) * secondsAMonth / float64(p.period)
}

func (p *plant) unitsPerMillion() float64 {
	return p.periods(1e6) * p.sum(func(s stream) int { return s.units })
}

// parquetBytes is what a sample takes in the archive, of an hour of the plant.
func parquetBytes(t *testing.T) float64 {
	t.Helper()
	names, samples := codec.Plant(3600)
	byName := make([]int, len(names))
	for i := range byName {
		byName[i] = i
	}
	slices.SortFunc(byName, func(a, b int) int { return strings.Compare(names[a], names[b]) })
	var buf bytes.Buffer
	w := lake.NewWriter(&buf)
	n := 0
	for _, i := range byName {
		for k := range samples {
			row := lake.Row{Sample: samples[k][i], Gateway: "gw1", Stream: "s0001"}
			row.Tag = names[i]
			if err := w.Write(&row); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return float64(buf.Len()) / float64(n)
}

// prices reads the page's own.
func prices(t *testing.T, page string) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| ([0-9.]+) \\|").FindAllStringSubmatch(page, -1) {
		v, err := strconv.ParseFloat(row[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		out[row[1]] = v
	}
	return out
}

// books has the page's tables, by what stands before them.
type books struct {
	t     *testing.T
	price map[string]float64
}

func (b *books) at(name string) float64 {
	v, ok := b.price[name]
	if !ok {
		b.t.Fatalf("docs/cost.md has no price %s", name)
	}
	return v
}

// sqs is what so many periods' blocks cost to send, receive and delete, one by
// one and all of ten at a time.
func (b *books) sqs(p *plant, periods float64) (alone, packed float64) {
	var units, bytes, blocks float64
	for _, s := range p.streams {
		units += math.Ceil(float64(s.message) / requestBytes)
		bytes += float64(s.message)
		blocks++
	}
	each := b.at("sqs-request") + b.at("sqs-fair")
	alone = periods * (2*units + blocks) * each / 1e6
	packed = periods * (2*max(blocks/10, bytes/requestBytes) + blocks/10) * each / 1e6
	return alone, packed
}

func (b *books) writes(p *plant, periods float64) float64 {
	return periods * p.sum(func(s stream) int { return s.units }) * b.at("dynamodb-write") / 1e6
}

// reads: the archive scans a table once, and retire once more.
func (b *books) reads(p *plant, periods float64) float64 {
	return 2 * periods * p.sum(func(s stream) int { return s.item }) / 4096 * b.at("dynamodb-read") / 1e6
}

func (b *books) objects(days float64) float64 {
	return days * (putsADay*b.at("s3-put")/1000 + getsADay*b.at("s3-get")/1000 + b.at("s3-transition")/1000)
}

func dollars(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.3f", v)
	}
	return fmt.Sprintf("%.4f", v)
}

func table(head []string, rows [][]string) string {
	out := "| " + strings.Join(head, " | ") + " |\n|" + strings.Repeat("---|", len(head)) + "\n"
	for _, r := range rows {
		out += "| " + strings.Join(r, " | ") + " |\n"
	}
	return out
}

// TestCostPage computes docs/cost.md from the prices that stand on it and from
// bytes measured here, and holds each of its figures to that.
func TestCostPage(t *testing.T) {
	text, err := os.ReadFile(costPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	b := &books{t, prices(t, page)}
	plants := []*plant{
		newPlant(t, "200 tags at 1 s, blocks of 60 s", 60, 1, 200),
		newPlant(t, "50 meters of 10 tags at 10 s, blocks of 60 s", 60, 10, 200, 200, 100),
		newPlant(t, "the same, blocks of 600 s", 600, 10, 200, 200, 100),
	}
	parquet := parquetBytes(t)
	if units := plants[0].unitsPerMillion(); units > 600 {
		t.Errorf("%.0f write units a million samples of 200 tags at 1 s; at most 600", units)
	}
	if parquet > 1.5 {
		t.Errorf("%.2f bytes a sample in the archive, at most 1.5", parquet)
	}

	titles := []string{"", plants[0].title, plants[1].title, plants[2].title}
	row := func(name string, of func(p *plant) string) []string {
		out := []string{name}
		for _, p := range plants {
			out = append(out, of(p))
		}
		return out
	}
	each := func(of func(s stream) int) func(p *plant) string {
		return func(p *plant) string {
			var parts []string
			for _, s := range p.streams {
				if v := strconv.Itoa(of(s)); len(parts) == 0 || parts[len(parts)-1] != v {
					parts = append(parts, v)
				}
			}
			return strings.Join(parts, ", ")
		}
	}
	want := map[string]string{}
	want["measured"] = table(titles, [][]string{
		row("samples in a block", each(func(s stream) int { return s.samples })),
		row("bytes of the block", each(func(s stream) int { return s.block })),
		row("bytes a sample", func(p *plant) string {
			return fmt.Sprintf("%.2f", p.sum(func(s stream) int { return s.block })/p.sum(func(s stream) int { return s.samples }))
		}),
		row("bytes of its message", each(func(s stream) int { return s.message })),
		row("bytes of its item", each(func(s stream) int { return s.item })),
		row("write units of its item", each(func(s stream) int { return s.units })),
		row("write units a million samples", func(p *plant) string { return fmt.Sprintf("%.0f", p.unitsPerMillion()) }),
		row("million samples a month", func(p *plant) string { return fmt.Sprintf("%.1f", p.monthly()/1e6) }),
	})
	want["parquet"] = fmt.Sprintf("A sample takes %.2f bytes in the archive's Parquet, measured on an hour of the 200 tags.\n", parquet)

	requests := func(p *plant) float64 {
		n := p.periods(billion)
		alone, _ := b.sqs(p, n)
		return alone + b.writes(p, n) + b.reads(p, n) + b.objects(billion/p.monthly()*daysAMonth)
	}
	want["billion"] = table(titles, [][]string{
		row("SQS, each block by itself: send, receive, delete", func(p *plant) string { alone, _ := b.sqs(p, p.periods(billion)); return dollars(alone) }),
		row("(SQS, ten blocks in each request)", func(p *plant) string { _, packed := b.sqs(p, p.periods(billion)); return "(" + dollars(packed) + ")" }),
		row("DynamoDB, writes on demand", func(p *plant) string { return dollars(b.writes(p, p.periods(billion))) }),
		row("DynamoDB, read by archive and retire", func(p *plant) string { return dollars(b.reads(p, p.periods(billion))) }),
		row("S3, requests and transitions", func(p *plant) string { return dollars(b.objects(billion / p.monthly() * daysAMonth)) }),
		row("**requests in all**", func(p *plant) string { return "**" + dollars(requests(p)) + "**" }),
	})
	if v := requests(plants[0]); v >= 1 {
		t.Errorf("%.2f dollars of requests for 1e9 samples of the plant, the goal is less than one", v)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if words := dollars(requests(plants[0])) + " dollars of requests for 1,000,000,000 samples"; !strings.Contains(string(readme), words) {
		t.Errorf("the README does not say %q", words)
	}

	month := func(p *plant) (lines []float64) {
		n := p.periods(p.monthly())
		alone, _ := b.sqs(p, n)
		inTables := yearInTables * 7 / daysAMonth * n * p.sum(func(s stream) int { return s.item }) / gigabyte
		gb := p.monthly() * parquet / gigabyte / daysAMonth // a day
		return []float64{alone, b.writes(p, n), b.reads(p, n), b.objects(daysAMonth), inTables * b.at("dynamodb-gb"),
			gb*coldAfter*b.at("s3-gb") + gb*(archived-coldAfter)*b.at("s3-cold-gb")}
	}
	names := []string{"SQS, each block by itself", "DynamoDB, writes on demand", "DynamoDB, read by archive and retire", "S3, requests and transitions",
		"DynamoDB, 53 weeks of tables", "S3, a year of samples"}
	var lines [][]string
	for i, name := range names {
		lines = append(lines, row(name, func(p *plant) string { return dollars(month(p)[i]) }))
	}
	total := func(p *plant) (v float64) {
		for _, l := range month(p) {
			v += l
		}
		return v
	}
	want["month"] = table(titles, append(lines, row("**in all**", func(p *plant) string { return "**" + dollars(total(p)) + "**" })))

	runs := daysAMonth * (runMinutes + 2) / 60 // two minutes for tables ensure
	fixed := []struct {
		name string
		cost float64
	}{
		{"one worker, t4g.small on Spot", hoursAMonth * b.at("spot-t4g-small")},
		{"its disk of 8 GB", 8 * b.at("ebs-gb")},
		{"its public address (without one: NAT, which is dearer)", hoursAMonth * b.at("ipv4-hour")},
		{"its long polls when nothing comes", laneReceives * b.at("sqs-request") / 1e6},
		{"the pipeline on Fargate, 15 minutes a day", runs * (2*b.at("fargate-vcpu") + 8*b.at("fargate-gb") + 30*b.at("fargate-disk"))},
		{"alarms", alarmMetrics * b.at("alarm-metric")},
		{"the alarms' key", b.at("kms-key")},
		{"the image", imageGigabytes * b.at("ecr-gb")},
	}
	var sum float64
	lines = nil
	for _, f := range fixed {
		sum += f.cost
		lines = append(lines, []string{f.name, dollars(f.cost)})
	}
	want["fixed"] = table([]string{"", "dollars a month"}, append(lines, []string{"**in all**", "**" + dollars(sum) + "**"}))

	full := b.at("dynamodb-wcu") / 3600 * 1e6
	want["provisioned"] = table([]string{"writes", "dollars a million units", "1e9 samples of the 200 tags", "the 200 tags for a month"}, [][]string{
		{"on demand", dollars(b.at("dynamodb-write")), dollars(b.writes(plants[0], plants[0].periods(billion))), dollars(b.writes(plants[0], plants[0].periods(plants[0].monthly())))},
		{"provisioned, fully used", dollars(full), dollars(b.writes(plants[0], plants[0].periods(billion)) * full / b.at("dynamodb-write")),
			dollars(math.Ceil(plants[0].sum(func(s stream) int { return s.units })/float64(plants[0].period)) * hoursAMonth * b.at("dynamodb-wcu"))},
	})
	want["even"] = fmt.Sprintf("Provisioned units are cheaper from %.0f %% use on.\n", 100*full/b.at("dynamodb-write"))
	want["caps"] = table([]string{"part", "cap as an example", "dollars a month at most"}, [][]string{
		{"Redshift Serverless", "`WarehouseRPUHours=60`", dollars(60 * b.at("rpu-hour"))},
		{"EMR Serverless", "`SparkVCpus=32`, an hour a day", dollars(daysAMonth * 32 * (b.at("emr-vcpu") + 4*b.at("emr-gb")))},
		{"more workers", "`WorkersMax=4`, all month", dollars(3 * (hoursAMonth*(b.at("spot-t4g-small")+b.at("ipv4-hour")) + 8*b.at("ebs-gb")))},
	})

	for name, expected := range want {
		begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
		before, rest, ok := strings.Cut(page, begin)
		got, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Errorf("docs/cost.md has no part %s", name)
			continue
		}
		if got != expected {
			t.Errorf("docs/cost.md, %s: it has\n%s\nand it comes to\n%s", name, got, expected)
			page = before + begin + expected + end + after
		}
	}
	if *update {
		if err := os.WriteFile(costPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
