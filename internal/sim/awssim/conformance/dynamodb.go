package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// ddbTest is one test's client and its table, with keys pk (S) and sk (S).
type ddbTest struct {
	*testing.T
	c     *dynamodb.Client
	table *string
}

type attrs = map[string]types.AttributeValue

// DynamoDB runs the suite on a DynamoDB endpoint.
func DynamoDB(t *testing.T, e Endpoint) {
	client := dynamodb.NewFromConfig(e.config())
	for name, test := range map[string]func(ddbTest){
		"tables": ddbTables, "table limits": ddbTableLimits, "put and get": ddbPutGet, "types": ddbTypes, "conditions": ddbConditions, "update": ddbUpdate,
		"delete": ddbDelete, "batch write": ddbBatchWrite, "batch limits": ddbBatchLimits, "batch get": ddbBatchGet, "item size": ddbItemSize,
		"query": ddbQuery, "query pages": ddbQueryPages, "query of a megabyte": ddbQueryMegabyte, "filter": ddbFilter, "scan": ddbScan,
		"number keys": ddbNumberKeys, "expressions": ddbExpressions, "missing table": ddbMissing,
	} {
		e.run(t, name, func(t *testing.T) {
			d := ddbTest{t, client, aws.String(unique("conf"))}
			d.create(*d.table, types.ScalarAttributeTypeS)
			defer func() {
				_, err := client.DeleteTable(context.WithoutCancel(t.Context()), &dynamodb.DeleteTableInput{TableName: d.table})
				if err != nil {
					t.Errorf("delete the test's table: %v", err)
				}
			}()
			test(d)
		})
	}
}

// create makes a table and waits until it is ACTIVE.
func (d ddbTest) create(name string, sort types.ScalarAttributeType) *types.TableDescription {
	d.Helper()
	out := must[*dynamodb.CreateTableOutput](d.T)(d.c.CreateTable(d.Context(), createInput(name, sort)))
	wait := dynamodb.NewTableExistsWaiter(d.c, func(o *dynamodb.TableExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 20*time.Millisecond, time.Second
	})
	if err := wait.Wait(d.Context(), &dynamodb.DescribeTableInput{TableName: &name}, 20*time.Second); err != nil {
		d.Fatal(err)
	}
	return out.TableDescription
}

func createInput(name string, sort types.ScalarAttributeType) *dynamodb.CreateTableInput {
	return &dynamodb.CreateTableInput{TableName: &name, BillingMode: types.BillingModePayPerRequest,
		KeySchema: []types.KeySchemaElement{{AttributeName: aws.String("pk"), KeyType: types.KeyTypeHash}, {AttributeName: aws.String("sk"), KeyType: types.KeyTypeRange}},
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("pk"), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String("sk"), AttributeType: sort}}}
}

func s(v string) types.AttributeValue { return &types.AttributeValueMemberS{Value: v} }
func n(v int) types.AttributeValue    { return &types.AttributeValueMemberN{Value: strconv.Itoa(v)} }
func b(v []byte) types.AttributeValue { return &types.AttributeValueMemberB{Value: v} }

func key(pk, sk string) attrs { return attrs{"pk": s(pk), "sk": s(sk)} }

func (d ddbTest) put(it attrs) {
	d.Helper()
	if _, err := d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: it}); err != nil {
		d.Fatal(err)
	}
}

func (d ddbTest) get(k attrs) attrs {
	d.Helper()
	return must[*dynamodb.GetItemOutput](d.T)(d.c.GetItem(d.Context(), &dynamodb.GetItemInput{TableName: d.table, Key: k, ConsistentRead: aws.Bool(true)})).Item
}

func text(v types.AttributeValue) string {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return v.Value
	case *types.AttributeValueMemberN:
		return v.Value
	case *types.AttributeValueMemberB:
		return string(v.Value)
	}
	return ""
}

func sortKeys(items []attrs) []string {
	var out []string
	for _, it := range items {
		out = append(out, text(it["sk"]))
	}
	return out
}

func ddbTables(d ddbTest) {
	name := unique("tables")
	made := d.create(name, types.ScalarAttributeTypeS)
	if made.TableStatus != types.TableStatusCreating && made.TableStatus != types.TableStatusActive {
		d.Errorf("a table begins as %s", made.TableStatus)
	}
	_, err := d.c.CreateTable(d.Context(), createInput(name, types.ScalarAttributeTypeS))
	mustFail(d.T, "the same name again", err, "ResourceInUseException")
	out := must[*dynamodb.DescribeTableOutput](d.T)(d.c.DescribeTable(d.Context(), &dynamodb.DescribeTableInput{TableName: &name})).Table
	if out.TableStatus != types.TableStatusActive || *out.TableName != name || len(out.KeySchema) != 2 || *out.KeySchema[0].AttributeName != "pk" ||
		out.BillingModeSummary == nil || out.BillingModeSummary.BillingMode != types.BillingModePayPerRequest || !strings.HasPrefix(aws.ToString(out.TableArn), "arn:aws:dynamodb:") {
		d.Errorf("DescribeTable gives %+v", out)
	}
	_, err = d.c.UpdateTable(d.Context(), &dynamodb.UpdateTableInput{TableName: &name, BillingMode: types.BillingModeProvisioned,
		ProvisionedThroughput: &types.ProvisionedThroughput{ReadCapacityUnits: aws.Int64(3), WriteCapacityUnits: aws.Int64(7)}})
	if err != nil {
		d.Fatal(err)
	}
	found := false
	pages := dynamodb.NewListTablesPaginator(d.c, &dynamodb.ListTablesInput{Limit: aws.Int32(1)})
	for pages.HasMorePages() {
		page := must[*dynamodb.ListTablesOutput](d.T)(pages.NextPage(d.Context()))
		if len(page.TableNames) > 1 {
			d.Errorf("a page of 1 has %v", page.TableNames)
		}
		found = found || slices.Contains(page.TableNames, name)
	}
	if !found {
		d.Error("ListTables does not name it")
	}
	wait := dynamodb.NewTableExistsWaiter(d.c, func(o *dynamodb.TableExistsWaiterOptions) { o.MinDelay, o.MaxDelay = 20*time.Millisecond, time.Second })
	if out, err := wait.WaitForOutput(d.Context(), &dynamodb.DescribeTableInput{TableName: &name}, 20*time.Second); err != nil {
		d.Fatal(err)
	} else if p := out.Table.ProvisionedThroughput; *p.WriteCapacityUnits != 7 || *p.ReadCapacityUnits != 3 {
		d.Errorf("after UpdateTable it has %d and %d units", *p.ReadCapacityUnits, *p.WriteCapacityUnits)
	}
	if _, err := d.c.DeleteTable(d.Context(), &dynamodb.DeleteTableInput{TableName: &name}); err != nil {
		d.Fatal(err)
	}
	gone := dynamodb.NewTableNotExistsWaiter(d.c, func(o *dynamodb.TableNotExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 20*time.Millisecond, time.Second
	})
	if err := gone.Wait(d.Context(), &dynamodb.DescribeTableInput{TableName: &name}, 20*time.Second); err != nil {
		d.Error(err)
	}
}

func ddbTableLimits(d ddbTest) {
	try := func(what string, change func(*dynamodb.CreateTableInput)) {
		d.Helper()
		in := createInput(unique("limits"), types.ScalarAttributeTypeS)
		change(in)
		_, err := d.c.CreateTable(d.Context(), in)
		mustFail(d.T, what, err, "ValidationException")
	}
	try("a name with a space", func(in *dynamodb.CreateTableInput) { in.TableName = aws.String("not a name") })
	try("a name of two letters", func(in *dynamodb.CreateTableInput) { in.TableName = aws.String("ab") })
	try("a key that is not defined", func(in *dynamodb.CreateTableInput) { in.KeySchema[1].AttributeName = aws.String("other") })
	try("an attribute that is no key", func(in *dynamodb.CreateTableInput) {
		in.AttributeDefinitions = append(in.AttributeDefinitions, types.AttributeDefinition{AttributeName: aws.String("x"), AttributeType: types.ScalarAttributeTypeS})
	})
	try("provisioned without units", func(in *dynamodb.CreateTableInput) { in.BillingMode = types.BillingModeProvisioned })
}

func ddbPutGet(d ddbTest) {
	it := key("a", "1")
	it["v"] = s("x")
	d.put(it)
	it["v"] = s("y")
	out := must[*dynamodb.PutItemOutput](d.T)(d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: it, ReturnValues: types.ReturnValueAllOld}))
	if text(out.Attributes["v"]) != "x" {
		d.Errorf("a put in place of another returns %v", out.Attributes)
	}
	if got := d.get(key("a", "1")); len(got) != 3 || text(got["v"]) != "y" {
		d.Errorf("got %v", got)
	}
	if got := d.get(key("a", "2")); got != nil {
		d.Errorf("got %v, where nothing is", got)
	}
	part := must[*dynamodb.GetItemOutput](d.T)(d.c.GetItem(d.Context(), &dynamodb.GetItemInput{TableName: d.table, Key: key("a", "1"), ProjectionExpression: aws.String("v")})).Item
	if len(part) != 1 || text(part["v"]) != "y" {
		d.Errorf("a projection gives %v", part)
	}
	for what, bad := range map[string]attrs{
		"no sort key": {"pk": s("a")}, "a number as key": {"pk": s("a"), "sk": n(1)}, "an empty key": {"pk": s(""), "sk": s("1")},
	} {
		_, err := d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: bad})
		mustFail(d.T, what, err, "ValidationException")
	}
	_, err := d.c.GetItem(d.Context(), &dynamodb.GetItemInput{TableName: d.table, Key: attrs{"pk": s("a")}})
	mustFail(d.T, "half a key", err, "ValidationException")
}

func ddbTypes(d ddbTest) {
	it := key("types", "1")
	raw := bytes.Repeat([]byte{0, 1, 127, 128, 255}, 100)
	it["b"], it["n"], it["t"], it["z"] = b(raw), &types.AttributeValueMemberN{Value: "-9223372036854775808"}, &types.AttributeValueMemberBOOL{Value: true}, &types.AttributeValueMemberNULL{Value: true}
	it["l"] = &types.AttributeValueMemberL{Value: []types.AttributeValue{s("x"), n(1)}}
	it["m"] = &types.AttributeValueMemberM{Value: attrs{"k": s("v")}}
	it["ss"] = &types.AttributeValueMemberSS{Value: []string{"a", "b"}}
	d.put(it)
	got := d.get(key("types", "1"))
	if text(got["b"]) != string(raw) || text(got["n"]) != "-9223372036854775808" || len(got) != len(it) {
		d.Errorf("got %v", got)
	}
	if m, ok := got["m"].(*types.AttributeValueMemberM); !ok || text(m.Value["k"]) != "v" {
		d.Errorf("the map comes back as %v", got["m"])
	}
	it["n"] = &types.AttributeValueMemberN{Value: "one"}
	_, err := d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: it})
	mustFail(d.T, "a number that is none", err, "ValidationException")
}

func ddbConditions(d ddbTest) {
	put := func(v int, condition string, values attrs) error {
		it := key("c", "1")
		it["v"] = n(v)
		_, err := d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: it, ConditionExpression: &condition, ExpressionAttributeValues: values})
		return err
	}
	mustFail(d.T, "a condition on what is not there", put(0, "attribute_exists(pk)", nil), "ConditionalCheckFailedException")
	if err := put(1, "attribute_not_exists(pk)", nil); err != nil {
		d.Fatal(err)
	}
	mustFail(d.T, "the same again", put(2, "attribute_not_exists(pk)", nil), "ConditionalCheckFailedException")
	if err := put(5, "v < :new AND NOT v = :five", attrs{":new": n(5), ":five": n(5)}); err != nil {
		d.Errorf("a version that rises: %v", err)
	}
	mustFail(d.T, "a version that does not", put(5, "v < :new", attrs{":new": n(5)}), "ConditionalCheckFailedException")
	if err := put(10, "(v BETWEEN :a AND :b OR v IN (:a, :b)) AND v <> :b", attrs{":a": n(4), ":b": n(6)}); err != nil {
		d.Errorf("between: %v", err)
	}
	if err := put(9, "v > :n", attrs{":n": n(9)}); err != nil { // by number, not by text
		d.Errorf("10 > 9: %v", err)
	}
	var failed *types.ConditionalCheckFailedException
	if err := put(1, "v > :n", attrs{":n": n(9)}); !errors.As(err, &failed) {
		d.Errorf("a failed condition is %v", err)
	}
	if got := text(d.get(key("c", "1"))["v"]); got != "9" {
		d.Errorf("the value is %s, want 9", got)
	}
}

func ddbUpdate(d ddbTest) {
	update := func(expression string, values attrs, condition *string) (attrs, error) {
		out, err := d.c.UpdateItem(d.Context(), &dynamodb.UpdateItemInput{TableName: d.table, Key: key("u", "1"), UpdateExpression: &expression,
			ExpressionAttributeValues: values, ConditionExpression: condition, ReturnValues: types.ReturnValueAllNew})
		if err != nil {
			return nil, err
		}
		return out.Attributes, nil
	}
	got := must[attrs](d.T)(update("SET v = :v, w = :w", attrs{":v": n(1), ":w": s("x")}, nil)) // makes the item
	if text(got["v"]) != "1" || text(got["w"]) != "x" || text(got["pk"]) != "u" {
		d.Errorf("an update of nothing gives %v", got)
	}
	got = must[attrs](d.T)(update("SET v = v + :one, k = if_not_exists(k, :seven) REMOVE w", attrs{":one": n(1), ":seven": n(7)}, nil))
	if _, there := got["w"]; there || text(got["v"]) != "2" || text(got["k"]) != "7" {
		d.Errorf("the second update gives %v", got)
	}
	_, err := update("SET v = :v", attrs{":v": n(9)}, aws.String("attribute_not_exists(pk)"))
	mustFail(d.T, "a condition that fails", err, "ConditionalCheckFailedException")
	_, err = update("SET pk = :v", attrs{":v": s("other")}, nil)
	mustFail(d.T, "an update of a key", err, "ValidationException")
}

func ddbDelete(d ddbTest) {
	d.put(key("d", "1"))
	for range 2 { // the second time nothing is there, which is no error
		if _, err := d.c.DeleteItem(d.Context(), &dynamodb.DeleteItemInput{TableName: d.table, Key: key("d", "1")}); err != nil {
			d.Fatal(err)
		}
	}
	if d.get(key("d", "1")) != nil {
		d.Error("it is still there")
	}
	_, err := d.c.DeleteItem(d.Context(), &dynamodb.DeleteItemInput{TableName: d.table, Key: key("d", "1"), ConditionExpression: aws.String("attribute_exists(pk)")})
	mustFail(d.T, "a condition that fails", err, "ConditionalCheckFailedException")
}

func puts(from, to int) []types.WriteRequest {
	var out []types.WriteRequest
	for i := from; i < to; i++ {
		it := key("batch", fmt.Sprintf("%04d", i))
		it["v"] = n(i)
		out = append(out, types.WriteRequest{PutRequest: &types.PutRequest{Item: it}})
	}
	return out
}

// write sends a batch until nothing is unprocessed.
func (d ddbTest) write(list []types.WriteRequest) error {
	left := map[string][]types.WriteRequest{*d.table: list}
	for range 50 {
		out, err := d.c.BatchWriteItem(d.Context(), &dynamodb.BatchWriteItemInput{RequestItems: left})
		if err != nil {
			return err
		}
		if left = out.UnprocessedItems; len(left) == 0 {
			return nil
		}
	}
	return errors.New("items stay unprocessed")
}

func ddbBatchWrite(d ddbTest) {
	if err := d.write(puts(0, 25)); err != nil {
		d.Fatal(err)
	}
	mixed := append(puts(25, 27), types.WriteRequest{DeleteRequest: &types.DeleteRequest{Key: key("batch", "0003")}})
	if err := d.write(mixed); err != nil {
		d.Fatal(err)
	}
	if d.get(key("batch", "0003")) != nil || text(d.get(key("batch", "0026"))["v"]) != "26" || text(d.get(key("batch", "0000"))["v"]) != "0" {
		d.Error("the batch was not carried out")
	}
}

func ddbBatchLimits(d ddbTest) {
	mustFail(d.T, "26 items", d.write(puts(0, 26)), "ValidationException")
	mustFail(d.T, "no item", d.write(nil), "ValidationException")
	mustFail(d.T, "a key twice", d.write(append(puts(0, 2), puts(1, 2)...)), "ValidationException")
	bad := puts(0, 2)
	delete(bad[1].PutRequest.Item, "sk")
	mustFail(d.T, "an item without its key", d.write(bad), "ValidationException")
	if d.get(key("batch", "0000")) != nil {
		d.Error("a part of a refused batch was written")
	}
	none := unique("none")
	_, err := d.c.BatchWriteItem(d.Context(), &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{none: puts(0, 1)}})
	mustFail(d.T, "a table that is missing", err, "ResourceNotFoundException")
}

func ddbBatchGet(d ddbTest) {
	if err := d.write(puts(0, 20)); err != nil {
		d.Fatal(err)
	}
	var keys []attrs
	for i := range 22 {
		keys = append(keys, key("batch", fmt.Sprintf("%04d", i)))
	}
	out := must[*dynamodb.BatchGetItemOutput](d.T)(d.c.BatchGetItem(d.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{*d.table: {Keys: keys}}}))
	if got := len(out.Responses[*d.table]); got != 20 || len(out.UnprocessedKeys) != 0 {
		d.Errorf("%d items came, want 20", got)
	}
	_, err := d.c.BatchGetItem(d.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{*d.table: {Keys: []attrs{keys[0], keys[0]}}}})
	mustFail(d.T, "a key twice", err, "ValidationException")
}

func ddbItemSize(d ddbTest) {
	const limit = 400 << 10
	fixed := len("pk") + len("p") + len("sk") + len("s") + len("data")
	put := func(size int) error {
		it := key("p", "s")
		it["data"] = b(make([]byte, size-fixed))
		_, err := d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: it})
		return err
	}
	if err := put(limit); err != nil {
		d.Errorf("an item of 400 KiB with its names: %v", err)
	}
	mustFail(d.T, "an item of a byte more", put(limit+1), "ValidationException")
	it := key("p", strings.Repeat("s", 1025))
	_, err := d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: it})
	mustFail(d.T, "a sort key of 1025 bytes", err, "ValidationException")
	it = key(strings.Repeat("p", 2049), "s")
	_, err = d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: it})
	mustFail(d.T, "a partition key of 2049 bytes", err, "ValidationException")
}

// query returns the sort keys of a query on partition q.
func (d ddbTest) query(condition string, values attrs, change ...func(*dynamodb.QueryInput)) []string {
	d.Helper()
	values[":pk"] = s("q")
	in := &dynamodb.QueryInput{TableName: d.table, KeyConditionExpression: aws.String("pk = :pk" + condition), ExpressionAttributeValues: values}
	for _, c := range change {
		c(in)
	}
	return sortKeys(must[*dynamodb.QueryOutput](d.T)(d.c.Query(d.Context(), in)).Items)
}

func ddbQuery(d ddbTest) {
	for _, sk := range []string{"b", "a", "c#1", "c#2", "c", "é", "Z", "d"} {
		d.put(key("q", sk))
		d.put(key("other", sk))
	}
	all := []string{"Z", "a", "b", "c", "c#1", "c#2", "d", "é"} // by bytes of UTF-8
	back := slices.Clone(all)
	slices.Reverse(back)
	for _, c := range []struct {
		condition string
		values    attrs
		want      []string
	}{
		{"", attrs{}, all},
		{" AND sk = :x", attrs{":x": s("b")}, []string{"b"}},
		{" AND sk < :x", attrs{":x": s("b")}, []string{"Z", "a"}},
		{" AND sk <= :x", attrs{":x": s("b")}, []string{"Z", "a", "b"}},
		{" AND sk > :x", attrs{":x": s("c#2")}, []string{"d", "é"}},
		{" AND sk >= :x", attrs{":x": s("c#2")}, []string{"c#2", "d", "é"}},
		{" AND sk BETWEEN :x AND :y", attrs{":x": s("b"), ":y": s("c#1")}, []string{"b", "c", "c#1"}},
		{" AND begins_with(sk, :x)", attrs{":x": s("c#")}, []string{"c#1", "c#2"}},
	} {
		if got := d.query(c.condition, c.values); !slices.Equal(got, c.want) {
			d.Errorf("query%s gives %q, want %q", c.condition, got, c.want)
		}
	}
	if got := d.query("", attrs{}, func(in *dynamodb.QueryInput) { in.ScanIndexForward = aws.Bool(false) }); !slices.Equal(got, back) {
		d.Errorf("backwards the query gives %q", got)
	}
	for what, condition := range map[string]string{"no partition": "sk = :pk", "a range of partitions": "pk > :pk", "an attribute that is no key": "pk = :pk AND v = :pk"} {
		_, err := d.c.Query(d.Context(), &dynamodb.QueryInput{TableName: d.table, KeyConditionExpression: &condition, ExpressionAttributeValues: attrs{":pk": s("q")}})
		mustFail(d.T, what, err, "ValidationException")
	}
}

func ddbQueryPages(d ddbTest) {
	if err := d.write(puts(0, 25)); err != nil {
		d.Fatal(err)
	}
	for _, forward := range []bool{true, false} {
		var got []string
		pages := dynamodb.NewQueryPaginator(d.c, &dynamodb.QueryInput{TableName: d.table, KeyConditionExpression: aws.String("pk = :pk"),
			ExpressionAttributeValues: attrs{":pk": s("batch")}, Limit: aws.Int32(7), ScanIndexForward: &forward})
		for pages.HasMorePages() {
			page := must[*dynamodb.QueryOutput](d.T)(pages.NextPage(d.Context()))
			if len(page.Items) > 7 || int(page.Count) != len(page.Items) {
				d.Errorf("a page of %d items, Count %d", len(page.Items), page.Count)
			}
			got = append(got, sortKeys(page.Items)...)
		}
		if !forward {
			slices.Reverse(got)
		}
		if len(got) != 25 || !slices.IsSorted(got) {
			d.Errorf("the pages hold %q", got)
		}
	}
	count := must[*dynamodb.QueryOutput](d.T)(d.c.Query(d.Context(), &dynamodb.QueryInput{TableName: d.table, KeyConditionExpression: aws.String("pk = :pk"),
		ExpressionAttributeValues: attrs{":pk": s("batch")}, Select: types.SelectCount}))
	if count.Count != 25 || len(count.Items) != 0 {
		d.Errorf("COUNT gives %d and %d items", count.Count, len(count.Items))
	}
}

func ddbQueryMegabyte(d ddbTest) {
	for i := range 5 {
		it := key("q", fmt.Sprint(i))
		it["data"] = b(make([]byte, 300<<10))
		d.put(it)
	}
	var got []string
	n := 0
	pages := dynamodb.NewQueryPaginator(d.c, &dynamodb.QueryInput{TableName: d.table, KeyConditionExpression: aws.String("pk = :pk"), ExpressionAttributeValues: attrs{":pk": s("q")}})
	for pages.HasMorePages() {
		page := must[*dynamodb.QueryOutput](d.T)(pages.NextPage(d.Context()))
		got = append(got, sortKeys(page.Items)...)
		n++
	}
	if len(got) != 5 || n < 2 {
		d.Errorf("1.5 MB came in %d pages with %q, want at least two", n, got)
	}
}

func ddbFilter(d ddbTest) {
	if err := d.write(puts(0, 20)); err != nil {
		d.Fatal(err)
	}
	out := must[*dynamodb.QueryOutput](d.T)(d.c.Query(d.Context(), &dynamodb.QueryInput{TableName: d.table, KeyConditionExpression: aws.String("pk = :pk"),
		FilterExpression: aws.String("#v >= :v"), ExpressionAttributeNames: map[string]string{"#v": "v"},
		ExpressionAttributeValues: attrs{":pk": s("batch"), ":v": n(15)}, ProjectionExpression: aws.String("sk")}))
	if out.Count != 5 || out.ScannedCount != 20 || len(out.Items[0]) != 1 {
		d.Errorf("a filter gives %d of %d, %v", out.Count, out.ScannedCount, out.Items)
	}
}

func ddbScan(d ddbTest) {
	want := map[string]bool{}
	for i := range 30 {
		k := key(fmt.Sprintf("p%d", i%4), fmt.Sprintf("%02d", i))
		d.put(k)
		want[text(k["pk"])+text(k["sk"])] = true
	}
	check := func(what string, segments int32) {
		d.Helper()
		seen := map[string]bool{}
		for seg := range max(segments, 1) {
			in := &dynamodb.ScanInput{TableName: d.table, Limit: aws.Int32(4)}
			if segments > 0 {
				in.Segment, in.TotalSegments = aws.Int32(seg), &segments
			}
			pages := dynamodb.NewScanPaginator(d.c, in)
			for pages.HasMorePages() {
				for _, it := range must[*dynamodb.ScanOutput](d.T)(pages.NextPage(d.Context())).Items {
					k := text(it["pk"]) + text(it["sk"])
					if seen[k] {
						d.Errorf("%s: %s comes twice", what, k)
					}
					seen[k] = true
				}
			}
		}
		if len(seen) != len(want) {
			d.Errorf("%s: %d items, want %d", what, len(seen), len(want))
		}
	}
	check("a scan in pages", 0)
	check("a scan in three segments", 3)
}

func ddbNumberKeys(d ddbTest) {
	name := unique("numbers")
	d.create(name, types.ScalarAttributeTypeN)
	d.table = &name
	for _, v := range []string{"10", "9", "-1", "1.5", "100", "-2"} {
		d.put(attrs{"pk": s("q"), "sk": &types.AttributeValueMemberN{Value: v}})
	}
	if got, want := d.query("", attrs{}), []string{"-2", "-1", "1.5", "9", "10", "100"}; !slices.Equal(got, want) {
		d.Errorf("numbers sort as %q, want %q", got, want)
	}
	d.put(attrs{"pk": s("q"), "sk": &types.AttributeValueMemberN{Value: "9.0"}, "v": s("same")})
	if got := d.query(" AND sk = :n", attrs{":n": n(9)}); len(got) != 1 {
		d.Errorf("9 and 9.0 are %d items, want 1", len(got))
	}
}

func ddbExpressions(d ddbTest) {
	try := func(what, condition string, names map[string]string, values attrs) {
		d.Helper()
		_, err := d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: key("e", "1"), ConditionExpression: &condition,
			ExpressionAttributeNames: names, ExpressionAttributeValues: values})
		mustFail(d.T, what, err, "ValidationException")
	}
	try("a reserved word", "attribute_not_exists(count)", nil, nil)
	try("a value that is not given", "v = :v", nil, nil)
	try("a name that is not given", "attribute_exists(#v)", nil, nil)
	try("a value that is not used", "attribute_exists(pk)", nil, attrs{":v": n(1)})
	try("a name that is not used", "attribute_exists(pk)", map[string]string{"#v": "v"}, nil)
	try("no expression", "pk pk", nil, nil)
	try("an open parenthesis", "(attribute_exists(pk)", nil, nil)
	_, err := d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: d.table, Item: key("e", "1"), ConditionExpression: aws.String("attribute_not_exists(#c)"),
		ExpressionAttributeNames: map[string]string{"#c": "count"}})
	if err != nil {
		d.Errorf("a reserved word behind a substitute: %v", err)
	}
}

func ddbMissing(d ddbTest) {
	none := aws.String(unique("none"))
	_, err := d.c.DescribeTable(d.Context(), &dynamodb.DescribeTableInput{TableName: none})
	mustFail(d.T, "DescribeTable", err, "ResourceNotFoundException")
	_, err = d.c.PutItem(d.Context(), &dynamodb.PutItemInput{TableName: none, Item: key("a", "b")})
	mustFail(d.T, "PutItem", err, "ResourceNotFoundException")
	_, err = d.c.Scan(d.Context(), &dynamodb.ScanInput{TableName: none})
	mustFail(d.T, "Scan", err, "ResourceNotFoundException")
	_, err = d.c.DeleteTable(d.Context(), &dynamodb.DeleteTableInput{TableName: none})
	mustFail(d.T, "DeleteTable", err, "ResourceNotFoundException")
}
