package clouddemo

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

// gatewayPath is the gateway's program, built for all tests.
var gatewayPath string

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // to which the simulated OPC UA server prints
	dir, err := os.MkdirTemp("", "clouddemo-test-")
	if err == nil {
		gatewayPath, err = build(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// TestDemo runs the loop once, and then breaks one thing of thousands at each
// stage: the account has to say so, and to balance again when it is mended.
func TestDemo(t *testing.T) {
	w := &world{o: Options{Duration: MinDuration, Millrace: gatewayPath, Out: io.Discard, Keep: t.TempDir(), Engine: plainEngine{}, Results: []string{"hourly"}}}
	w.prepare(w.o.Keep)
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !w.report.Balanced() {
		t.Fatalf("the loop does not balance: %q", w.report.Findings)
	}
	for _, s := range w.report.Stages {
		if s.Count < 1 || s.Plant >= 0 && s.Plant != w.truth.Produced() || s.Plant >= 0 && s.Plant < 1000 {
			t.Errorf("%d, %d of the plant, %s is no demo", s.Count, s.Plant, s.Name)
		}
	}
	t.Run("tables", func(t *testing.T) { testTables(t, w) })
	t.Run("archive", func(t *testing.T) { testArchive(t, w) })
	t.Run("catalogue", func(t *testing.T) { testCatalogue(t, w) })
	t.Run("results", func(t *testing.T) { testResults(t, w) })
	t.Run("export", func(t *testing.T) { testExport(t, w) })
	t.Run("warehouse", func(t *testing.T) { testWarehouse(t, w) })
}

// again takes the account of one stage anew.
func (w *world) again(t *testing.T, account func(context.Context) error) []string {
	t.Helper()
	w.report = &Report{}
	if err := account(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w.report.Findings
}

// testTables changes one item of the week tables at a time.
func testTables(t *testing.T, w *world) {
	table, item, b := anItem(t, w)
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	// changed is the block with one of its samples changed, with keys that fit.
	var tags []string
	for i := range b.Columns {
		tags = append(tags, b.Columns[i].Tag)
	}
	changed := func(change func(list []sample.Sample) []sample.Sample) map[string]types.AttributeValue {
		var list []sample.Sample
		for s := range b.All() {
			list = append(list, s)
		}
		enc.Reset(tags)
		for _, s := range change(list) {
			enc.Add(slices.Index(tags, s.Tag), &s)
		}
		data, err := enc.Encode(nil, b.Header)
		if err != nil {
			t.Fatal(err)
		}
		h, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := weekitem.New(&h, data)
		return out
	}
	for name, c := range map[string]struct {
		instead map[string]types.AttributeValue // of the item
		beside  map[string]types.AttributeValue
		want    string
	}{
		"an item is gone":   {nil, nil, "is missing"},
		"a sample is gone":  {changed(func(l []sample.Sample) []sample.Sample { return l[1:] }), nil, "1 values of the devices are missing"},
		"a sample is twice": {changed(func(l []sample.Sample) []sample.Sample { return append(l[:1:1], l...) }), nil, "1 are there twice"},
		"a value is another": {changed(func(l []sample.Sample) []sample.Sample {
			l[0].Value = sample.FloatValue(l[0].Value.Float() + 0.1)
			return l
		}), nil, "are wrong"},
		"another block of that identity": {item, changed(func(l []sample.Sample) []sample.Sample { return l[1:] }), "different"},
	} {
		remove(t, w.db, table, item)
		put(t, w.db, table, c.instead)
		put(t, w.db, table, c.beside)
		if said := strings.Join(w.again(t, w.tablesAccount), "\n"); !strings.Contains(said, c.want) {
			t.Errorf("%s: the account says %q, not %q", name, said, c.want)
		}
		remove(t, w.db, table, c.beside)
		remove(t, w.db, table, c.instead)
		put(t, w.db, table, item)
		if said := w.again(t, w.tablesAccount); len(said) > 0 {
			t.Fatalf("%s, and mended: %q", name, said)
		}
	}
}

// anItem finds a block of the meters' tags.
func anItem(t *testing.T, w *world) (table string, item map[string]types.AttributeValue, b *block.Block) {
	t.Helper()
	dec, err := block.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	names, err := w.db.ListTables(t.Context(), &dynamodb.ListTablesInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names.TableNames {
		if _, _, week := weektable.ParseTable(name); !week {
			continue
		}
		out, err := w.db.Scan(t.Context(), &dynamodb.ScanInput{TableName: aws.String(name)})
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range out.Items {
			b, err := dec.Decode(item[weektable.AttrBlock].(*types.AttributeValueMemberB).Value)
			if err != nil {
				t.Fatal(err)
			}
			if b.Header.Seq < 2 {
				continue // the gateway may have read a meter before the plant counted
			}
			for s := range b.All() {
				if strings.HasPrefix(s.Tag, Site+"/meter01/reg00") && s.Quality.IsGood() {
					return name, item, b
				}
				break
			}
		}
	}
	t.Fatal("no block of the meters is in the tables")
	return "", nil, nil
}

func put(t *testing.T, db *dynamodb.Client, table string, item map[string]types.AttributeValue) {
	t.Helper()
	if item == nil {
		return
	}
	if _, err := db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, db *dynamodb.Client, table string, item map[string]types.AttributeValue) {
	t.Helper()
	if item == nil {
		return
	}
	key := map[string]types.AttributeValue{weektable.AttrPartition: item[weektable.AttrPartition], weektable.AttrSort: item[weektable.AttrSort]}
	if _, err := db.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &table, Key: key}); err != nil {
		t.Fatal(err)
	}
}

func TestRefused(t *testing.T) {
	if _, err := Run(t.Context(), Options{Duration: time.Second, Out: io.Discard}); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("a demo of a second: %v", err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), Options{Duration: MinDuration, Out: io.Discard, Keep: full}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a folder that holds something: %v", err)
	}
	if _, err := Run(t.Context(), Options{Duration: MinDuration, Out: io.Discard, Millrace: "/nonexistent/millrace"}); err == nil || !strings.Contains(err.Error(), "give --millrace PATH") {
		t.Errorf("no gateway: %v", err)
	}
	if _, err := Run(t.Context(), Options{Duration: MinDuration, Out: io.Discard, Millrace: "/bin/false"}); err == nil || !strings.Contains(err.Error(), "the gateway ended by itself (exit status 1)") {
		t.Errorf("a gateway that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel)
	if _, err := Run(ctx, Options{Duration: MinDuration, Out: io.Discard, Millrace: gatewayPath}); err == nil || err.Error() != "interrupted" {
		t.Errorf("interrupted: %v", err)
	}
}
