package awssim

import (
	"fmt"
	"strings"
)

// reservedWords are words that an expression may not use as a bare attribute
// name: those of DynamoDB's list that are likely in items of ours. Developer
// Guide, "Reserved words in DynamoDB".
var reservedWords = map[string]bool{
	"ADD": true, "ALL": true, "AND": true, "ANY": true, "AS": true, "ASC": true, "AT": true, "ATTRIBUTE": true,
	"BATCH": true, "BETWEEN": true, "BINARY": true, "BLOB": true, "BLOCK": true, "BOOLEAN": true, "BY": true,
	"BYTE": true, "CAPACITY": true, "CHECK": true, "COLUMN": true, "CONDITION": true, "CONNECTION": true,
	"CONSUMED": true, "COUNT": true, "COUNTER": true, "CURRENT": true, "DATA": true, "DATE": true, "DAY": true,
	"DELETE": true, "DESC": true, "ELEMENT": true, "END": true, "EXISTS": true, "EXPIRES": true,
	"FILE": true, "FILTER": true, "FIRST": true, "FLOAT": true, "FORMAT": true, "FROM": true, "GROUP": true,
	"HASH": true, "HOUR": true, "HOURS": true, "IF": true, "IN": true, "INDEX": true, "INTEGER": true, "ITEM": true,
	"ITEMS": true, "KEY": true, "KEYS": true, "LAST": true, "LENGTH": true, "LEVEL": true, "LIMIT": true, "LIST": true,
	"LOCATION": true, "MAP": true, "MAX": true, "METHOD": true, "METRICS": true, "MIN": true, "MINUTE": true,
	"MODE": true, "MONTH": true, "NAME": true, "NAMES": true, "NEW": true, "NEXT": true, "NOT": true, "NULL": true,
	"NUMBER": true, "OBJECT": true, "OF": true, "OFFSET": true, "ON": true, "OPTION": true, "OR": true, "ORDER": true,
	"OUTPUT": true, "OWNER": true, "PARTITION": true, "PATH": true, "PERIOD": true, "POSITION": true, "RANGE": true,
	"RATE": true, "READ": true, "REGION": true, "RESULT": true, "ROW": true, "SEARCH": true,
	"SECOND": true, "SECTION": true, "SEQUENCE": true, "SESSION": true, "SET": true, "SIZE": true, "SOURCE": true,
	"SPACE": true, "START": true, "STATE": true, "STATUS": true, "STORED": true, "STRING": true, "SUM": true,
	"SYSTEM": true, "TABLE": true, "TIME": true, "TIMESTAMP": true, "TO": true, "TOKEN": true, "TOTAL": true,
	"TTL": true, "TYPE": true, "UNIT": true, "UPDATE": true, "URL": true, "USER": true, "USING": true, "UUID": true,
	"VALUE": true, "VALUES": true, "VIEW": true, "WHERE": true, "WITH": true, "WRITE": true, "YEAR": true,
	"ZONE": true,
}

// params are an expression's substitutes, and which of them were used.
type params struct {
	names  map[string]string
	values map[string]value
	used   map[string]bool
}

func newParams(names map[string]string, values map[string]value) *params {
	return &params{names, values, map[string]bool{}}
}

// checkUsed reports a substitute that no expression used.
func (p *params) checkUsed() *apiError {
	for n := range p.names {
		if !p.used[n] {
			return validation("Value provided in ExpressionAttributeNames unused in expressions: keys: {" + n + "}")
		}
	}
	for n := range p.values {
		if !p.used[n] {
			return validation("Value provided in ExpressionAttributeValues unused in expressions: keys: {" + n + "}")
		}
	}
	return nil
}

// operand is a path into the item, or a value.
type operand struct {
	path  []string // nil for a value
	value value
	size  bool // size(path)
}

func (o operand) get(it item) (value, bool) {
	if o.path == nil {
		return o.value, true
	}
	v, ok := it[o.path[0]]
	for _, name := range o.path[1:] {
		if !ok || v.M == nil {
			return value{}, false
		}
		v, ok = (*v.M)[name]
	}
	if ok && o.size {
		n := fmt.Sprint(v.size())
		return value{N: &n}, true
	}
	return v, ok
}

// cond is a node of a condition: an operator with operands, or AND, OR, NOT
// with children.
type cond struct {
	op       string // =, <>, <, <=, >, >=, BETWEEN, IN, AND, OR, NOT, or a function's name
	args     []operand
	children []*cond
}

// holds evaluates the condition; a missing attribute makes a comparison false.
func (c *cond) holds(it item) bool {
	switch c.op {
	case "AND":
		return c.children[0].holds(it) && c.children[1].holds(it)
	case "OR":
		return c.children[0].holds(it) || c.children[1].holds(it)
	case "NOT":
		return !c.children[0].holds(it)
	}
	left, exists := c.args[0].get(it)
	switch c.op {
	case "attribute_exists":
		return exists
	case "attribute_not_exists":
		return !exists
	}
	if !exists {
		return c.op == "<>"
	}
	right := make([]value, 0, 2)
	for _, a := range c.args[1:] {
		v, ok := a.get(it)
		if !ok {
			return c.op == "<>"
		}
		right = append(right, v)
	}
	switch c.op {
	case "attribute_type":
		return right[0].S != nil && left.kind() == *right[0].S
	case "begins_with":
		return left.S != nil && right[0].S != nil && strings.HasPrefix(*left.S, *right[0].S) ||
			left.B != nil && right[0].B != nil && strings.HasPrefix(string(*left.B), string(*right[0].B))
	case "contains":
		return left.S != nil && right[0].S != nil && strings.Contains(*left.S, *right[0].S)
	case "=":
		return left.equal(right[0])
	case "<>":
		return !left.equal(right[0])
	case "IN":
		for _, v := range right {
			if left.equal(v) {
				return true
			}
		}
		return false
	case "BETWEEN":
		low, ok1 := left.compare(right[0])
		high, ok2 := left.compare(right[1])
		return ok1 && ok2 && low >= 0 && high <= 0
	}
	order, ok := left.compare(right[0])
	if !ok {
		return false
	}
	switch c.op {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	}
	return order >= 0
}

// parser reads condition and update expressions. Developer Guide, "Condition
// and filter expressions, operators, and functions".
type parser struct {
	tokens []string
	p      *params
}

// parseCond reads a whole condition; an empty text is no condition.
func parseCond(text string, p *params) (*cond, *apiError) {
	if text == "" {
		return nil, nil
	}
	ps := &parser{tokenize(text), p}
	c, err := ps.or()
	if err == nil && len(ps.tokens) > 0 {
		err = fmt.Errorf("syntax error; token: %q", ps.tokens[0])
	}
	if err != nil {
		return nil, validation("Invalid expression: " + err.Error())
	}
	return c, nil
}

// tokenize cuts an expression at spaces and at operators.
func tokenize(text string) []string {
	var out []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		n := 1
		switch {
		case strings.HasPrefix(text, "<>"), strings.HasPrefix(text, "<="), strings.HasPrefix(text, ">="):
			n = 2
		case !strings.ContainsRune("=<>(),+-", rune(text[0])):
			if n = strings.IndexAny(text, " \t\r\n=<>(),+-"); n < 0 {
				n = len(text)
			}
		}
		out = append(out, text[:n])
		text = text[n:]
	}
	return out
}

func (ps *parser) peek() string {
	if len(ps.tokens) == 0 {
		return ""
	}
	return ps.tokens[0]
}

func (ps *parser) next() string {
	t := ps.peek()
	if t != "" {
		ps.tokens = ps.tokens[1:]
	}
	return t
}

// word takes the next token if it is that keyword, in any case.
func (ps *parser) word(w string) bool {
	if !strings.EqualFold(ps.peek(), w) {
		return false
	}
	ps.next()
	return true
}

func (ps *parser) expect(w string) error {
	if !ps.word(w) {
		return fmt.Errorf("syntax error; token: %q, expected %q", ps.peek(), w)
	}
	return nil
}

func (ps *parser) or() (*cond, error) {
	left, err := ps.and()
	for err == nil && ps.word("OR") {
		var right *cond
		right, err = ps.and()
		left = &cond{op: "OR", children: []*cond{left, right}}
	}
	return left, err
}

func (ps *parser) and() (*cond, error) {
	left, err := ps.not()
	for err == nil && ps.word("AND") {
		var right *cond
		right, err = ps.not()
		left = &cond{op: "AND", children: []*cond{left, right}}
	}
	return left, err
}

func (ps *parser) not() (*cond, error) {
	if ps.word("NOT") {
		c, err := ps.not()
		return &cond{op: "NOT", children: []*cond{c}}, err
	}
	if ps.word("(") {
		c, err := ps.or()
		if err == nil {
			err = ps.expect(")")
		}
		return c, err
	}
	return ps.comparison()
}

// functions are the boolean functions and how many arguments each takes.
var functions = map[string]int{"attribute_exists": 1, "attribute_not_exists": 1, "attribute_type": 2, "begins_with": 2, "contains": 2}

func (ps *parser) comparison() (*cond, error) {
	if n, ok := functions[ps.peek()]; ok {
		c := &cond{op: ps.next()}
		err := ps.expect("(")
		for i := 0; err == nil && i < n; i++ {
			if i > 0 {
				if err = ps.expect(","); err != nil {
					break
				}
			}
			var o operand
			o, err = ps.operand()
			c.args = append(c.args, o)
		}
		if err == nil {
			err = ps.expect(")")
		}
		return c, err
	}
	left, err := ps.operand()
	if err != nil {
		return nil, err
	}
	c := &cond{args: []operand{left}}
	separator := ""
	switch op := strings.ToUpper(ps.next()); op {
	case "=", "<>", "<", "<=", ">", ">=":
		c.op = op
	case "BETWEEN":
		c.op, separator = op, "AND"
	case "IN":
		c.op, separator = op, ","
		if err := ps.expect("("); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("syntax error; token: %q, expected a comparison", op)
	}
	for {
		right, err := ps.operand()
		if err != nil {
			return nil, err
		}
		c.args = append(c.args, right)
		if c.op == "BETWEEN" && len(c.args) == 3 || separator == "" || !ps.word(separator) {
			break
		}
	}
	switch {
	case c.op == "IN":
		err = ps.expect(")")
	case c.op == "BETWEEN" && len(c.args) != 3:
		err = fmt.Errorf("syntax error; BETWEEN needs two values")
	}
	return c, err
}

// operand reads a path, a substitute or size(path).
func (ps *parser) operand() (operand, error) {
	if ps.peek() == "size" {
		ps.next()
		if err := ps.expect("("); err != nil {
			return operand{}, err
		}
		o, err := ps.operand()
		if err == nil {
			err = ps.expect(")")
		}
		o.size = true
		return o, err
	}
	t := ps.next()
	if t == "" {
		return operand{}, fmt.Errorf("syntax error; the expression ends too early")
	}
	if t[0] == ':' {
		v, ok := ps.p.values[t]
		if !ok {
			return operand{}, fmt.Errorf("an expression attribute value used in expression is not defined; attribute value: %s", t)
		}
		ps.p.used[t] = true
		return operand{value: v}, nil
	}
	path, err := ps.p.path(t)
	return operand{path: path}, err
}

// path resolves a document path; list indexes are not known.
func (p *params) path(text string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(text, ".") {
		switch {
		case strings.HasPrefix(part, "#"):
			name, ok := p.names[part]
			if !ok {
				return nil, fmt.Errorf("an expression attribute name used in the document path is not defined; attribute name: %s", part)
			}
			p.used[part] = true
			part = name
		case reservedWords[strings.ToUpper(part)]:
			return nil, fmt.Errorf("attribute name is a reserved keyword; reserved keyword: %s", part)
		case part == "" || strings.ContainsAny(part, "[]"):
			return nil, fmt.Errorf("syntax error; token: %q", text)
		}
		out = append(out, part)
	}
	return out, nil
}
