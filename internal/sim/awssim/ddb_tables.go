package awssim

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxItemBytes  = 400 << 10
	maxBatchBytes = 16 << 20
	maxPageBytes  = 1 << 20 // of a Query or Scan
	maxPutBatch   = 25
	maxGetBatch   = 100
	maxPartition  = 2048 // bytes of a partition key
	maxSort       = 1024 // bytes of a sort key
)

var tableName = regexp.MustCompile(`^[A-Za-z0-9_.-]{3,255}$`)

func validation(message string) *apiError { return badRequest("ValidationException", message) }

func noTable(name string) *apiError {
	return badRequest("ResourceNotFoundException", "Requested resource not found: Table: "+name+" not found")
}

// tables is the DynamoDB service.
type tables struct {
	region string
	delay  time.Duration

	mu     sync.Mutex
	byName map[string]*table
}

// table is one table. tables.mu guards it.
type table struct {
	name       string
	id         string
	hash, sort keyAttribute // sort.Name is empty where there is none
	billing    string
	read       int
	write      int
	protected  bool
	class      string     // STANDARD or STANDARD_INFREQUENT_ACCESS
	warm       *warmUnits // nil where it is the service's own
	tags       []tag
	created    time.Time
	status     string    // CREATING, UPDATING, DELETING or ACTIVE
	settled    time.Time // when the status ends
	partitions map[string]*partition
}

type keyAttribute struct{ Name, Type string }

// partition holds the items of one partition key in the order of the sort key.
type partition struct {
	hash  value
	items []item
}

func newTables(region string, delay time.Duration) *tables {
	return &tables{region: region, delay: delay, byName: map[string]*table{}}
}

// serve carries out one action.
func (t *tables) serve(c *call) (any, *apiError) {
	actions := map[string]func(*call) (any, *apiError){
		"CreateTable": t.create, "DescribeTable": t.describe, "UpdateTable": t.update, "DeleteTable": t.delete, "ListTables": t.list, "ListTagsOfResource": t.listTags,
		"PutItem": t.put, "GetItem": t.get, "UpdateItem": t.updateItem, "DeleteItem": t.deleteItem,
		"BatchWriteItem": t.batchWrite, "BatchGetItem": t.batchGet, "Query": t.query, "Scan": t.query,
	}
	act := actions[c.action]
	if act == nil {
		return nil, badRequest("UnknownOperationException", "the simulator does not know "+c.action)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settle()
	return act(c)
}

// settle ends the states whose time is over.
func (t *tables) settle() {
	now := time.Now()
	for name, tb := range t.byName {
		if tb.status == "ACTIVE" || now.Before(tb.settled) {
			continue
		}
		if tb.status == "DELETING" {
			delete(t.byName, name)
			continue
		}
		tb.status = "ACTIVE"
	}
}

// active returns a table that takes items.
func (t *tables) active(name string) (*table, *apiError) {
	if !tableName.MatchString(name) {
		return nil, validation("TableName must be at least 3 characters long and at most 255 characters long, of a-z, A-Z, 0-9, '_', '-' and '.'")
	}
	tb := t.byName[name]
	if tb == nil || tb.status == "CREATING" || tb.status == "DELETING" {
		return nil, noTable(name)
	}
	return tb, nil
}

type throughput struct{ ReadCapacityUnits, WriteCapacityUnits int }

// warmUnits is how much a table on demand takes at once, units a second.
type warmUnits struct {
	ReadUnitsPerSecond  *int `json:",omitempty"`
	WriteUnitsPerSecond *int `json:",omitempty"`
}

type tag struct{ Key, Value string }

type keySchema struct{ AttributeName, KeyType string }

type attributeDefinition struct{ AttributeName, AttributeType string }

func (t *tables) create(c *call) (any, *apiError) {
	var in struct {
		TableName                 string
		KeySchema                 []keySchema
		AttributeDefinitions      []attributeDefinition
		BillingMode               string
		ProvisionedThroughput     *throughput
		DeletionProtectionEnabled bool
		TableClass                string
		WarmThroughput            *warmUnits
		Tags                      []tag
		GlobalSecondaryIndexes    []any
		LocalSecondaryIndexes     []any
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if !tableName.MatchString(in.TableName) {
		return nil, validation("TableName must be at least 3 characters long and at most 255 characters long, of a-z, A-Z, 0-9, '_', '-' and '.'")
	}
	if len(in.GlobalSecondaryIndexes)+len(in.LocalSecondaryIndexes) > 0 {
		return nil, validation("the simulator has no secondary indexes")
	}
	if t.byName[in.TableName] != nil {
		return nil, badRequest("ResourceInUseException", "Table already exists: "+in.TableName)
	}
	if in.TableClass != "" && in.TableClass != "STANDARD" && in.TableClass != "STANDARD_INFREQUENT_ACCESS" {
		return nil, validation("Member must satisfy enum value set: [STANDARD, STANDARD_INFREQUENT_ACCESS]")
	}
	tb := &table{name: in.TableName, id: newID(), created: time.Now(), protected: in.DeletionProtectionEnabled,
		class: in.TableClass, warm: in.WarmThroughput, tags: in.Tags,
		partitions: map[string]*partition{}}
	types := map[string]string{}
	for _, d := range in.AttributeDefinitions {
		if d.AttributeType != "S" && d.AttributeType != "N" && d.AttributeType != "B" {
			return nil, validation("Member must satisfy enum value set: [B, N, S]")
		}
		types[d.AttributeName] = d.AttributeType
	}
	if len(in.KeySchema) < 1 || len(in.KeySchema) > 2 || in.KeySchema[0].KeyType != "HASH" ||
		len(in.KeySchema) == 2 && in.KeySchema[1].KeyType != "RANGE" {
		return nil, validation("Invalid KeySchema: The first KeySchemaElement is not a HASH key type, or the second is not a RANGE key type")
	}
	for i, k := range in.KeySchema {
		kind, ok := types[k.AttributeName]
		if !ok {
			return nil, validation("One or more parameter values were invalid: Some index key attributes are not defined in AttributeDefinitions. Keys: [" + k.AttributeName + "]")
		}
		if i == 0 {
			tb.hash = keyAttribute{k.AttributeName, kind}
		} else {
			tb.sort = keyAttribute{k.AttributeName, kind}
		}
	}
	if len(types) != len(in.KeySchema) {
		return nil, validation("One or more parameter values were invalid: Number of attributes in KeySchema does not exactly match number of attributes defined in AttributeDefinitions")
	}
	if err := tb.bill(in.BillingMode, in.ProvisionedThroughput); err != nil {
		return nil, err
	}
	tb.enter("CREATING", t.delay)
	t.byName[tb.name] = tb
	return map[string]any{"TableDescription": t.description(tb)}, nil
}

// bill sets the billing mode; an empty mode is PROVISIONED.
func (tb *table) bill(mode string, p *throughput) *apiError {
	switch mode {
	case "PAY_PER_REQUEST":
		if p != nil && (p.ReadCapacityUnits > 0 || p.WriteCapacityUnits > 0) {
			return validation("One or more parameter values were invalid: Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST")
		}
		tb.billing, tb.read, tb.write = mode, 0, 0
		return nil
	case "", "PROVISIONED":
		if p == nil || p.ReadCapacityUnits < 1 || p.WriteCapacityUnits < 1 {
			return validation("One or more parameter values were invalid: ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is PROVISIONED")
		}
		tb.billing, tb.read, tb.write = "PROVISIONED", p.ReadCapacityUnits, p.WriteCapacityUnits
		return nil
	}
	return validation("Member must satisfy enum value set: [PROVISIONED, PAY_PER_REQUEST]")
}

// enter starts a state; it ends after delay, at once where that is 0.
func (tb *table) enter(status string, delay time.Duration) {
	tb.status, tb.settled = status, time.Now().Add(delay)
}

func (t *tables) describe(c *call) (any, *apiError) {
	tb, err := t.named(c)
	if err != nil {
		return nil, err
	}
	return map[string]any{"Table": t.description(tb)}, nil
}

// named returns the table of a request, in whatever state it is.
func (t *tables) named(c *call) (*table, *apiError) {
	var in struct{ TableName string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	tb := t.byName[in.TableName]
	if tb == nil {
		return nil, noTable(in.TableName)
	}
	return tb, nil
}

func (t *tables) update(c *call) (any, *apiError) {
	var in struct {
		BillingMode               string
		ProvisionedThroughput     *throughput
		DeletionProtectionEnabled *bool
	}
	tb, err := t.named(c)
	if err != nil {
		return nil, err
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if tb.status != "ACTIVE" {
		return nil, badRequest("ResourceInUseException", "Attempt to change a resource which is still in use: Table is being "+tb.status)
	}
	if in.DeletionProtectionEnabled != nil {
		tb.protected = *in.DeletionProtectionEnabled
	}
	if in.BillingMode != "" || in.ProvisionedThroughput != nil {
		mode := in.BillingMode
		if mode == "" {
			mode = tb.billing
		}
		if err := tb.bill(mode, in.ProvisionedThroughput); err != nil {
			return nil, err
		}
	}
	tb.enter("UPDATING", t.delay)
	return map[string]any{"TableDescription": t.description(tb)}, nil
}

func (t *tables) delete(c *call) (any, *apiError) {
	tb, err := t.named(c)
	if err != nil {
		return nil, err
	}
	if tb.protected {
		return nil, validation("Resource cannot be deleted as it is currently protected against deletion. Disable deletion protection first.")
	}
	if tb.status != "ACTIVE" {
		return nil, badRequest("ResourceInUseException", "Attempt to change a resource which is still in use: Table is being "+tb.status)
	}
	tb.enter("DELETING", t.delay)
	return map[string]any{"TableDescription": t.description(tb)}, nil
}

func (t *tables) list(c *call) (any, *apiError) {
	var in struct {
		Limit                   *int
		ExclusiveStartTableName string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	most := 100
	if in.Limit != nil {
		if most = *in.Limit; most < 1 || most > 100 {
			return nil, validation("Member must have value between 1 and 100")
		}
	}
	out := struct {
		TableNames             []string
		LastEvaluatedTableName string `json:",omitempty"`
	}{TableNames: []string{}}
	for _, name := range slices.Sorted(maps.Keys(t.byName)) {
		if name <= in.ExclusiveStartTableName {
			continue
		}
		if len(out.TableNames) == most {
			out.LastEvaluatedTableName = out.TableNames[most-1]
			break
		}
		out.TableNames = append(out.TableNames, name)
	}
	return out, nil
}

func (t *tables) listTags(c *call) (any, *apiError) {
	var in struct{ ResourceArn string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	tb := t.byName[in.ResourceArn[strings.LastIndexByte(in.ResourceArn, '/')+1:]]
	if tb == nil {
		return nil, noTable(in.ResourceArn)
	}
	return map[string]any{"Tags": append([]tag{}, tb.tags...)}, nil
}

func (t *tables) description(tb *table) map[string]any {
	schema := []keySchema{{tb.hash.Name, "HASH"}}
	attrs := []attributeDefinition{{tb.hash.Name, tb.hash.Type}}
	if tb.sort.Name != "" {
		schema = append(schema, keySchema{tb.sort.Name, "RANGE"})
		attrs = append(attrs, attributeDefinition{tb.sort.Name, tb.sort.Type})
	}
	count, bytes := 0, 0
	for _, p := range tb.partitions {
		count += len(p.items)
		for _, it := range p.items {
			bytes += it.size()
		}
	}
	out := map[string]any{
		"TableName": tb.name, "TableStatus": tb.status, "TableId": tb.id,
		"TableArn":         fmt.Sprintf("arn:aws:dynamodb:%s:%s:table/%s", t.region, account, tb.name),
		"CreationDateTime": float64(tb.created.UnixMilli()) / 1000, "KeySchema": schema, "AttributeDefinitions": attrs,
		"ItemCount": count, "TableSizeBytes": bytes, "DeletionProtectionEnabled": tb.protected,
		"ProvisionedThroughput": map[string]int{"ReadCapacityUnits": tb.read, "WriteCapacityUnits": tb.write, "NumberOfDecreasesToday": 0},
	}
	if tb.billing == "PAY_PER_REQUEST" {
		out["BillingModeSummary"] = map[string]string{"BillingMode": tb.billing}
	}
	if tb.class != "" {
		out["TableClassSummary"] = map[string]string{"TableClass": tb.class}
	}
	if tb.warm != nil {
		out["WarmThroughput"] = tb.warm
	}
	return out
}
