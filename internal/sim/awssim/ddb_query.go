package awssim

import (
	"fmt"
	"hash/crc32"
	"maps"
	"math/big"
	"slices"
	"strings"
)

// search is what Query and Scan have in common.
type search struct {
	TableName                 string
	KeyConditionExpression    string
	FilterExpression          string
	ProjectionExpression      string
	ExpressionAttributeNames  map[string]string
	ExpressionAttributeValues map[string]value
	ExclusiveStartKey         item
	Limit                     *int
	ScanIndexForward          *bool
	Select                    string
	Segment                   *int
	TotalSegments             *int
}

// query serves Query and Scan: a page ends at Limit items or 1 MB, before the
// filter is applied. API Reference, Query and Scan.
func (t *tables) query(c *call) (any, *apiError) {
	var in search
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	tb, err := t.active(in.TableName)
	if err != nil {
		return nil, err
	}
	p := newParams(in.ExpressionAttributeNames, in.ExpressionAttributeValues)
	keyCond, err := parseCond(in.KeyConditionExpression, p)
	if err != nil {
		return nil, err
	}
	filter, err := parseCond(in.FilterExpression, p)
	if err != nil {
		return nil, err
	}
	project, err := parseProjection(in.ProjectionExpression, p)
	if err != nil {
		return nil, err
	}
	if err := p.checkUsed(); err != nil {
		return nil, err
	}
	if in.Limit != nil && *in.Limit < 1 {
		return nil, validation("Member must have value greater than or equal to 1")
	}
	if in.ExclusiveStartKey != nil {
		if err := tb.checkKey(in.ExclusiveStartKey); err != nil {
			return nil, validation("The provided starting key is invalid: " + err.message)
		}
	}
	var candidates []item
	if c.action == "Query" {
		candidates, err = tb.keyMatches(keyCond, &in)
	} else {
		candidates, err = tb.scan(&in)
	}
	if err != nil {
		return nil, err
	}
	return page(tb, candidates, &in, filter, project), nil
}

// page cuts a page from the candidates and applies the filter.
func page(tb *table, candidates []item, in *search, filter *cond, project projection) any {
	out := struct {
		Items            []item `json:",omitempty"`
		Count            int
		ScannedCount     int
		LastEvaluatedKey item `json:",omitempty"`
	}{}
	bytes := 0
	for i, it := range candidates {
		bytes += it.size()
		out.ScannedCount++
		if filter == nil || filter.holds(it) {
			out.Count++
			if in.Select != "COUNT" {
				out.Items = append(out.Items, project.of(it))
			}
		}
		full := in.Limit != nil && out.ScannedCount == *in.Limit || bytes >= maxPageBytes
		if full && i < len(candidates)-1 {
			out.LastEvaluatedKey = tb.keyOf(it)
			break
		}
		if full && in.Limit != nil && out.ScannedCount == *in.Limit {
			// A limit that is met names a last key even where nothing follows.
			out.LastEvaluatedKey = tb.keyOf(it)
		}
	}
	return out
}

// keyMatches returns the items that a key condition selects, in order, after
// ExclusiveStartKey.
func (tb *table) keyMatches(c *cond, in *search) ([]item, *apiError) {
	if c == nil {
		return nil, validation("Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.")
	}
	parts := []*cond{c}
	if c.op == "AND" {
		parts = c.children
	}
	var hash, sort *cond
	for _, k := range parts {
		if len(k.args) < 2 || len(k.args[0].path) != 1 || slices.ContainsFunc(k.args[1:], func(o operand) bool { return o.path != nil }) {
			return nil, validation("Invalid KeyConditionExpression: Invalid operator used in KeyConditionExpression: " + k.op)
		}
		switch name := k.args[0].path[0]; {
		case name == tb.hash.Name && k.op == "=" && hash == nil:
			hash = k
		case name == tb.sort.Name && sort == nil && slices.Contains([]string{"=", "<", "<=", ">", ">=", "BETWEEN", "begins_with"}, k.op):
			sort = k
		default:
			return nil, validation("Query key condition not supported")
		}
	}
	if hash == nil {
		return nil, validation("Query condition missed key schema element: " + tb.hash.Name)
	}
	if hash.args[1].value.kind() != tb.hash.Type {
		return nil, validation("One or more parameter values were invalid: Condition parameter type does not match schema type")
	}
	p := tb.partitions[hash.args[1].value.keyText()]
	if p == nil {
		return nil, nil
	}
	backward := in.ScanIndexForward != nil && !*in.ScanIndexForward
	var out []item
	for _, it := range p.items {
		if sort != nil && !sort.holds(it) {
			continue
		}
		if start := in.ExclusiveStartKey; start != nil && tb.sort.Name != "" {
			order, _ := it[tb.sort.Name].compare(start[tb.sort.Name]) // both have the table's key type
			if !backward && order <= 0 || backward && order >= 0 {
				continue
			}
		}
		out = append(out, it)
	}
	if backward {
		slices.Reverse(out)
	}
	return out, nil
}

// scan returns all items in a fixed order, after ExclusiveStartKey, of one
// segment where that is asked for.
func (tb *table) scan(in *search) ([]item, *apiError) {
	if (in.Segment == nil) != (in.TotalSegments == nil) || in.Segment != nil && (*in.Segment < 0 || *in.Segment >= *in.TotalSegments) {
		return nil, validation("The Segment parameter is zero-based and must be less than parameter TotalSegments")
	}
	start, startHash := in.ExclusiveStartKey, ""
	if start != nil {
		startHash = start[tb.hash.Name].keyText()
	}
	var out []item
	for _, text := range slices.Sorted(maps.Keys(tb.partitions)) {
		if start != nil && text < startHash {
			continue
		}
		if in.Segment != nil && int(crc32.ChecksumIEEE([]byte(text))%uint32(*in.TotalSegments)) != *in.Segment {
			continue
		}
		for _, it := range tb.partitions[text].items {
			if start != nil && text == startHash {
				if tb.sort.Name == "" {
					continue
				}
				if order, _ := it[tb.sort.Name].compare(start[tb.sort.Name]); order <= 0 {
					continue
				}
			}
			out = append(out, it)
		}
	}
	return out, nil
}

// updateItem knows SET with values, paths, + and -, if_not_exists, and REMOVE.
func (t *tables) updateItem(c *call) (any, *apiError) {
	o, err := t.open(c)
	if err != nil {
		return nil, err
	}
	now := o.old.clone()
	for k, v := range o.Key {
		now[k] = v
	}
	var fault error
	if o.UpdateExpression != "" {
		ps := &parser{tokenize(o.UpdateExpression), o.p}
		fault = ps.update(o.table, o.old, now)
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if fault != nil {
		return nil, validation("Invalid UpdateExpression: " + fault.Error())
	}
	if err := o.table.checkItem(now); err != nil {
		return nil, err
	}
	o.table.store(now)
	return returned(o.ReturnValues, o.old, now), o.table.accept(c, now)
}

// update applies an update expression: old is read, now is changed.
func (ps *parser) update(tb *table, old, now item) error {
	for len(ps.tokens) > 0 {
		clause := strings.ToUpper(ps.next())
		if clause != "SET" && clause != "REMOVE" {
			return fmt.Errorf("the simulator knows SET and REMOVE, not %q", clause)
		}
		for {
			path, err := ps.p.path(ps.next())
			if err != nil {
				return err
			}
			if len(path) != 1 {
				return fmt.Errorf("the simulator updates whole attributes only")
			}
			if path[0] == tb.hash.Name || path[0] == tb.sort.Name {
				return fmt.Errorf("cannot update attribute %s; this attribute is part of the key", path[0])
			}
			if clause == "REMOVE" {
				delete(now, path[0])
			} else if err := ps.set(path[0], old, now); err != nil {
				return err
			}
			if !ps.word(",") {
				break
			}
		}
	}
	return nil
}

func (ps *parser) set(name string, old, now item) error {
	if err := ps.expect("="); err != nil {
		return err
	}
	v, err := ps.term(old)
	if err != nil {
		return err
	}
	for ps.peek() == "+" || ps.peek() == "-" {
		op := ps.next()
		w, err := ps.term(old)
		if err != nil {
			return err
		}
		if v.N == nil || w.N == nil {
			return fmt.Errorf("incorrect operand type for operator or function; operator: %s", op)
		}
		a, errA := number(*v.N)
		b, errB := number(*w.N)
		if errA != nil || errB != nil {
			return fmt.Errorf("an operand of %s is no number", op)
		}
		if op == "-" {
			b = new(big.Rat).Neg(b)
		}
		sum := new(big.Rat).Add(a, b)
		digits, _ := sum.FloatPrec()
		text := sum.FloatString(min(digits, 38))
		v = value{N: &text}
	}
	now[name] = v
	return nil
}

// term reads one operand of SET and gives its value in the old item.
func (ps *parser) term(old item) (value, error) {
	if ps.word("if_not_exists") {
		if err := ps.expect("("); err != nil {
			return value{}, err
		}
		o, err := ps.operand()
		if err == nil {
			err = ps.expect(",")
		}
		if err != nil {
			return value{}, err
		}
		v, err := ps.term(old)
		if err == nil {
			err = ps.expect(")")
		}
		if have, ok := o.get(old); ok {
			return have, err
		}
		return v, err
	}
	o, err := ps.operand()
	if err != nil {
		return value{}, err
	}
	v, ok := o.get(old)
	if !ok {
		return value{}, fmt.Errorf("the provided expression refers to an attribute that does not exist in the item")
	}
	return v, nil
}
