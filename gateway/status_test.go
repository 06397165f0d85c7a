package gateway_test

import (
	"encoding/json"
	"reflect"
	"regexp"
	"testing"

	"millrace/gateway"
)

// TestStatusKeysAreSnakeCase walks what `millrace status --json` prints: a
// field without a name of its own would show under its Go name.
func TestStatusKeysAreSnakeCase(t *testing.T) {
	key := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*(,omitempty|,omitzero)?$`)
	seen := 0
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Array:
			walk(path, typ.Elem())
		case reflect.Struct:
			if typ.Implements(reflect.TypeFor[json.Marshaler]()) {
				return // it says itself how it prints
			}
			for f := range typ.Fields() {
				if f.Anonymous && f.Tag.Get("json") == "" { // its fields print as if they stood here
					walk(path, f.Type)
					continue
				}
				if tag := f.Tag.Get("json"); f.IsExported() && tag != "-" {
					seen++
					if !key.MatchString(tag) {
						t.Errorf("%s.%s has the JSON key %q", path, f.Name, tag)
					}
					walk(path+"."+f.Name, f.Type)
				}
			}
		}
	}
	walk("Status", reflect.TypeFor[gateway.Status]())
	walk("Listed", reflect.TypeFor[gateway.Listed]())
	if seen < 40 {
		t.Errorf("only %d fields were seen", seen)
	}
}
