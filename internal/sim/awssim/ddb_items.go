package awssim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// checkKey reports what is wrong with one key attribute.
func (k keyAttribute) check(it item, most int) *apiError {
	v, ok := it[k.Name]
	if !ok {
		return validation("One or more parameter values were invalid: Missing the key " + k.Name + " in the item")
	}
	if v.kind() != k.Type {
		return validation(fmt.Sprintf("One or more parameter values were invalid: Type mismatch for key %s expected: %s actual: %s", k.Name, k.Type, v.kind()))
	}
	if n := v.size(); n == 0 || n > most {
		return validation(fmt.Sprintf("One or more parameter values were invalid: the key %s has %d bytes, of 1 to %d", k.Name, n, most))
	}
	if err := v.check(); err != nil {
		return validation(err.Error())
	}
	return nil
}

// checkItem reports what is wrong with an item to store.
func (tb *table) checkItem(it item) *apiError {
	for _, v := range it {
		if err := v.check(); err != nil {
			return validation(err.Error())
		}
	}
	if err := tb.hash.check(it, maxPartition); err != nil {
		return err
	}
	if tb.sort.Name != "" {
		if err := tb.sort.check(it, maxSort); err != nil {
			return err
		}
	}
	if it.size() > maxItemBytes {
		return validation("Item size has exceeded the maximum allowed size")
	}
	return nil
}

// checkKey reports what is wrong with a key, which has nothing but key attributes.
func (tb *table) checkKey(key item) *apiError {
	n := 1
	if tb.sort.Name != "" {
		n = 2
	}
	if len(key) != n {
		return validation("The provided key element does not match the schema")
	}
	if err := tb.hash.check(key, maxPartition); err != nil {
		return validation("The provided key element does not match the schema")
	}
	if tb.sort.Name != "" {
		if err := tb.sort.check(key, maxSort); err != nil {
			return validation("The provided key element does not match the schema")
		}
	}
	return nil
}

// keyOf returns an item's key attributes.
func (tb *table) keyOf(it item) item {
	key := item{tb.hash.Name: it[tb.hash.Name]}
	if tb.sort.Name != "" {
		key[tb.sort.Name] = it[tb.sort.Name]
	}
	return key
}

// keyText returns a text that two items share exactly when their keys do.
func (tb *table) keyText(it item) string {
	text := it[tb.hash.Name].keyText()
	if tb.sort.Name != "" {
		text += "\x00" + it[tb.sort.Name].keyText()
	}
	return text
}

// search finds an item's place in its partition.
func (tb *table) search(p *partition, key item) (int, bool) {
	if tb.sort.Name == "" {
		return 0, len(p.items) > 0
	}
	want := key[tb.sort.Name]
	return slices.BinarySearchFunc(p.items, want, func(it item, v value) int {
		order, _ := it[tb.sort.Name].compare(v) // both have the table's key type
		return order
	})
}

func (tb *table) lookup(key item) item {
	p := tb.partitions[key[tb.hash.Name].keyText()]
	if p == nil {
		return nil
	}
	if i, found := tb.search(p, key); found {
		return p.items[i]
	}
	return nil
}

// store puts an item, in place of one with the same key.
func (tb *table) store(it item) {
	text := it[tb.hash.Name].keyText()
	p := tb.partitions[text]
	if p == nil {
		p = &partition{hash: it[tb.hash.Name]}
		tb.partitions[text] = p
	}
	i, found := tb.search(p, it)
	if found {
		p.items[i] = it
		return
	}
	p.items = slices.Insert(p.items, i, it)
}

func (tb *table) remove(key item) {
	text := key[tb.hash.Name].keyText()
	p := tb.partitions[text]
	if p == nil {
		return
	}
	if i, found := tb.search(p, key); found {
		p.items = slices.Delete(p.items, i, i+1)
	}
	if len(p.items) == 0 {
		delete(tb.partitions, text)
	}
}

// accept notes a stored item for OnAccept.
func (tb *table) accept(c *call, it item) *apiError {
	a, err := tb.describe(it)
	if err != nil {
		return err
	}
	c.accepted = append(c.accepted, a)
	return nil
}

func (tb *table) describe(it item) (Accepted, *apiError) {
	body, err := json.Marshal(it)
	if err != nil {
		return Accepted{}, badRequest("SerializationException", err.Error())
	}
	key, err := json.Marshal(tb.keyOf(it))
	if err != nil {
		return Accepted{}, badRequest("SerializationException", err.Error())
	}
	return Accepted{Service: ServiceDynamoDB, Place: tb.name, Key: key, Body: body}, nil
}

// refused reports an item that a fault has refused.
func (tb *table) refused(c *call, it item) *apiError {
	a, err := tb.describe(it)
	if err != nil {
		return err
	}
	if c.refuse(a) {
		return validation("One or more parameter values were invalid")
	}
	return nil
}

// single is what the requests for one item have in common.
type single struct {
	TableName                           string
	Item                                item
	Key                                 item
	ConditionExpression                 string
	UpdateExpression                    string
	ProjectionExpression                string
	ExpressionAttributeNames            map[string]string
	ExpressionAttributeValues           map[string]value
	ReturnValues                        string
	ReturnValuesOnConditionCheckFailure string
}

// oneItem is a request for one item, on its way.
type oneItem struct {
	*single
	table *table
	old   item // what is stored, nil where nothing is
	p     *params
	cond  *cond
}

// open decodes a request, finds its table and item, and reads its condition.
func (t *tables) open(c *call) (*oneItem, *apiError) {
	in := &single{}
	if err := c.decode(in); err != nil {
		return nil, err
	}
	tb, err := t.active(in.TableName)
	if err != nil {
		return nil, err
	}
	key := in.Key
	if in.Item != nil {
		if err := tb.checkItem(in.Item); err != nil {
			return nil, err
		}
		key = tb.keyOf(in.Item)
	} else if err := tb.checkKey(key); err != nil {
		return nil, err
	}
	o := &oneItem{single: in, table: tb, old: tb.lookup(key), p: newParams(in.ExpressionAttributeNames, in.ExpressionAttributeValues)}
	o.cond, err = parseCond(in.ConditionExpression, o.p)
	return o, err
}

// check ends the reading of a request: every substitute is used, and the
// condition holds.
func (o *oneItem) check() *apiError {
	if err := o.p.checkUsed(); err != nil {
		return err
	}
	if o.cond != nil && !o.cond.holds(o.old) {
		err := badRequest("ConditionalCheckFailedException", "The conditional request failed")
		if o.ReturnValuesOnConditionCheckFailure == "ALL_OLD" {
			err.item = o.old
		}
		return err
	}
	return nil
}

// returned builds the Attributes of an answer.
func returned(want string, old, now item) any {
	out := map[string]item{}
	if want == "ALL_OLD" && old != nil {
		out["Attributes"] = old
	}
	if want == "ALL_NEW" && now != nil {
		out["Attributes"] = now
	}
	return out
}

func (t *tables) put(c *call) (any, *apiError) {
	o, err := t.open(c)
	if err != nil {
		return nil, err
	}
	if o.Item == nil {
		return nil, validation("Item must not be null")
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	o.table.store(o.Item)
	return returned(o.ReturnValues, o.old, nil), o.table.accept(c, o.Item)
}

func (t *tables) get(c *call) (any, *apiError) {
	o, err := t.open(c)
	if err != nil {
		return nil, err
	}
	project, err := parseProjection(o.ProjectionExpression, o.p)
	if err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	out := map[string]item{}
	if o.old != nil {
		out["Item"] = project.of(o.old)
	}
	return out, nil
}

func (t *tables) deleteItem(c *call) (any, *apiError) {
	o, err := t.open(c)
	if err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	o.table.remove(o.Key)
	return returned(o.ReturnValues, o.old, nil), nil
}

// projection is a list of attribute names; nil is all.
type projection [][]string

func parseProjection(text string, p *params) (projection, *apiError) {
	var out projection
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		path, err := p.path(strings.TrimSpace(part))
		if err != nil {
			return nil, validation("Invalid ProjectionExpression: " + err.Error())
		}
		if len(path) > 1 {
			return nil, validation("the simulator projects whole attributes only")
		}
		out = append(out, path)
	}
	return out, nil
}

func (pr projection) of(it item) item {
	if pr == nil {
		return it
	}
	out := item{}
	for _, path := range pr {
		if v, ok := it[path[0]]; ok {
			out[path[0]] = v
		}
	}
	return out
}

// writeRequest is an entry of BatchWriteItem.
type writeRequest struct {
	PutRequest    *struct{ Item item } `json:",omitempty"`
	DeleteRequest *struct{ Key item }  `json:",omitempty"`
}

func (t *tables) batchWrite(c *call) (any, *apiError) {
	var in struct{ RequestItems map[string][]writeRequest }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	total := 0
	for _, list := range in.RequestItems {
		total += len(list)
	}
	if total < 1 || total > maxPutBatch {
		return nil, validation(fmt.Sprintf("Too many items requested for the BatchWriteItem call, or none: %d of 1 to %d", total, maxPutBatch))
	}
	if len(c.body) > maxBatchBytes {
		return nil, validation("the request is larger than 16 MB")
	}
	// Everything is checked before anything is written.
	for name, list := range in.RequestItems {
		tb, err := t.active(name)
		if err != nil {
			return nil, err
		}
		if err := tb.checkWrites(list); err != nil {
			return nil, err
		}
		for _, w := range list {
			if w.PutRequest == nil {
				continue
			}
			if err := tb.refused(c, w.PutRequest.Item); err != nil {
				return nil, err
			}
		}
	}
	left := map[string][]writeRequest{}
	done := 0
	for name, list := range in.RequestItems {
		tb := t.byName[name]
		for _, w := range list {
			if c.partial() {
				left[name] = append(left[name], w)
				continue
			}
			done++
			if w.DeleteRequest != nil {
				tb.remove(w.DeleteRequest.Key)
				continue
			}
			tb.store(w.PutRequest.Item)
			if err := tb.accept(c, w.PutRequest.Item); err != nil {
				return nil, err
			}
		}
	}
	if done == 0 {
		return nil, badRequest("ProvisionedThroughputExceededException",
			"The level of configured provisioned throughput for the table was exceeded.")
	}
	return map[string]any{"UnprocessedItems": left}, nil
}

// checkWrites reports what is wrong with a table's entries in a batch.
func (tb *table) checkWrites(list []writeRequest) *apiError {
	seen := map[string]bool{}
	for _, w := range list {
		var key item
		switch {
		case (w.PutRequest == nil) == (w.DeleteRequest == nil):
			return validation("Supplied AttributeValue has more than one datatypes set, or none: a write is a put or a delete")
		case w.PutRequest != nil:
			if err := tb.checkItem(w.PutRequest.Item); err != nil {
				return err
			}
			key = w.PutRequest.Item
		default:
			if err := tb.checkKey(w.DeleteRequest.Key); err != nil {
				return err
			}
			key = w.DeleteRequest.Key
		}
		text := tb.keyText(key)
		if seen[text] {
			return validation("Provided list of item keys contains duplicates")
		}
		seen[text] = true
	}
	return nil
}

// keysAndAttributes is a table's share of BatchGetItem.
type keysAndAttributes struct {
	Keys                     []item
	ProjectionExpression     string            `json:",omitempty"`
	ExpressionAttributeNames map[string]string `json:",omitempty"`
	ConsistentRead           bool              `json:",omitempty"`
}

func (t *tables) batchGet(c *call) (any, *apiError) {
	var in struct{ RequestItems map[string]keysAndAttributes }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	found := map[string][]item{}
	left := map[string]keysAndAttributes{}
	total, bytes := 0, 0
	for name, want := range in.RequestItems {
		tb, err := t.active(name)
		if err != nil {
			return nil, err
		}
		p := newParams(want.ExpressionAttributeNames, nil)
		project, err := parseProjection(want.ProjectionExpression, p)
		if err != nil {
			return nil, err
		}
		if err := p.checkUsed(); err != nil {
			return nil, err
		}
		seen := map[string]bool{}
		rest := want
		rest.Keys = nil
		found[name] = []item{}
		for _, key := range want.Keys {
			if err := tb.checkKey(key); err != nil {
				return nil, err
			}
			if text := tb.keyText(key); seen[text] {
				return nil, validation("Provided list of item keys contains duplicates")
			} else {
				seen[text] = true
			}
			if total++; total > maxGetBatch {
				return nil, validation("Too many items requested for the BatchGetItem call")
			}
			it := tb.lookup(key)
			if it != nil && bytes+it.size() > maxBatchBytes || c.partial() {
				rest.Keys = append(rest.Keys, key)
				continue
			}
			if it != nil {
				bytes += it.size()
				found[name] = append(found[name], project.of(it))
			}
		}
		if len(rest.Keys) > 0 {
			left[name] = rest
		}
	}
	if total == 0 {
		return nil, validation("The batch get request list for a table cannot be empty")
	}
	return map[string]any{"Responses": found, "UnprocessedKeys": left}, nil
}
