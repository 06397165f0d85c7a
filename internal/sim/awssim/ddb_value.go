package awssim

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// value is an attribute value in the wire form: exactly one member is set.
type value struct {
	S    *string           `json:"S,omitempty"`
	N    *string           `json:"N,omitempty"`
	B    *[]byte           `json:"B,omitempty"`
	BOOL *bool             `json:"BOOL,omitempty"`
	NULL *bool             `json:"NULL,omitempty"`
	M    *map[string]value `json:"M,omitempty"`
	L    *[]value          `json:"L,omitempty"`
	SS   []string          `json:"SS,omitempty"`
	NS   []string          `json:"NS,omitempty"`
	BS   [][]byte          `json:"BS,omitempty"`
}

// item is a stored item.
type item map[string]value

// kind returns the name of the value's type, or "" where it has none or several.
func (v value) kind() string {
	kind, n := "", 0
	for name, set := range map[string]bool{"S": v.S != nil, "N": v.N != nil, "B": v.B != nil, "BOOL": v.BOOL != nil, "NULL": v.NULL != nil,
		"M": v.M != nil, "L": v.L != nil, "SS": v.SS != nil, "NS": v.NS != nil, "BS": v.BS != nil} {
		if set {
			kind, n = name, n+1
		}
	}
	if n != 1 {
		return ""
	}
	return kind
}

// number parses a DynamoDB number: at most 38 digits, magnitude between 1E-130
// and 9.99E+125. Developer Guide, "Data types".
func number(text string) (*big.Rat, error) {
	r, ok := new(big.Rat).SetString(text)
	if !ok || strings.ContainsAny(text, "/_xXpP") || len(text) > 200 {
		return nil, fmt.Errorf("the parameter cannot be converted to a numeric value: %s", text)
	}
	digits := strings.TrimLeft(strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return c
		}
		return -1
	}, strings.ToLower(strings.SplitN(strings.ToLower(text), "e", 2)[0])), "0")
	if len(strings.TrimRight(digits, "0")) > 38 {
		return nil, fmt.Errorf("attempting to store more than 38 significant digits in a number")
	}
	return r, nil
}

// check reports what is wrong with a value of an item.
func (v value) check() error {
	switch v.kind() {
	case "":
		return fmt.Errorf("supplied AttributeValue is empty or has more than one type, must contain exactly one of the supported datatypes")
	case "N":
		_, err := number(*v.N)
		return err
	case "NS":
		for _, n := range v.NS {
			if _, err := number(n); err != nil {
				return err
			}
		}
	case "M":
		for _, e := range *v.M {
			if err := e.check(); err != nil {
				return err
			}
		}
	case "L":
		for _, e := range *v.L {
			if err := e.check(); err != nil {
				return err
			}
		}
	}
	return nil
}

// size is the value's share of an item's size. Developer Guide, "DynamoDB item
// sizes and formats"; of a number the guide gives an approximation only.
func (v value) size() int {
	sum := 0
	switch v.kind() {
	case "S":
		return len(*v.S)
	case "N":
		return numberSize(*v.N)
	case "B":
		return len(*v.B)
	case "BOOL", "NULL":
		return 1
	case "M":
		sum = 3
		for k, e := range *v.M {
			sum += len(k) + e.size() + 1
		}
	case "L":
		sum = 3
		for _, e := range *v.L {
			sum += e.size() + 1
		}
	case "SS":
		for _, s := range v.SS {
			sum += len(s)
		}
	case "NS":
		for _, s := range v.NS {
			sum += numberSize(s)
		}
	case "BS":
		for _, b := range v.BS {
			sum += len(b)
		}
	}
	return sum
}

func numberSize(text string) int { return (len(strings.Trim(text, "-+0."))+1)/2 + 1 }

// size is the item's size in bytes, names counted.
func (it item) size() int {
	sum := 0
	for k, v := range it {
		sum += len(k) + v.size()
	}
	return sum
}

// compare orders two values of the same type S, N or B; ok is false for others.
func (v value) compare(o value) (order int, ok bool) {
	kind := v.kind()
	if kind != o.kind() {
		return 0, false
	}
	switch kind {
	case "S":
		return strings.Compare(*v.S, *o.S), true
	case "B":
		return bytes.Compare(*v.B, *o.B), true
	case "N":
		a, errA := number(*v.N)
		b, errB := number(*o.N)
		if errA != nil || errB != nil {
			return 0, false
		}
		return a.Cmp(b), true
	}
	return 0, false
}

// equal compares two values of any type.
func (v value) equal(o value) bool {
	if order, ok := v.compare(o); ok {
		return order == 0
	}
	if kind := v.kind(); kind == "" || kind != o.kind() || kind == "S" || kind == "N" || kind == "B" {
		return false
	}
	a, errA := json.Marshal(v.sorted())
	b, errB := json.Marshal(o.sorted())
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// sorted returns a set in a fixed order.
func (v value) sorted() value {
	v.SS, v.NS = slices.Sorted(slices.Values(v.SS)), slices.Sorted(slices.Values(v.NS))
	v.BS = slices.SortedFunc(slices.Values(v.BS), bytes.Compare)
	return v
}

// keyText returns a text that two key values share exactly when they are equal.
func (v value) keyText() string {
	switch v.kind() {
	case "S":
		return "S" + *v.S
	case "B":
		return "B" + string(*v.B)
	case "N":
		if r, err := number(*v.N); err == nil {
			return "N" + r.RatString()
		}
	}
	return ""
}

// clone copies a value so that the stored one cannot change with it.
func (it item) clone() item {
	out := make(item, len(it))
	for k, v := range it {
		out[k] = v
	}
	return out
}

// ItemBinary returns a binary attribute of an item as Accepted.Body holds it.
func ItemBinary(body []byte, attribute string) ([]byte, error) {
	var it map[string]struct{ B *string }
	if err := json.Unmarshal(body, &it); err != nil {
		return nil, fmt.Errorf("item: %w", err)
	}
	if it[attribute].B == nil {
		return nil, fmt.Errorf("item has no binary attribute %q", attribute)
	}
	b, err := base64.StdEncoding.DecodeString(*it[attribute].B)
	if err != nil {
		return nil, fmt.Errorf("item attribute %q: %w", attribute, err)
	}
	return b, nil
}
