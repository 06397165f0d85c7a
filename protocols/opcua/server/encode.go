package server

import (
	"reflect"

	"github.com/gopcua/opcua/ua"
)

// encodeService encodes a response with its type in front, OPC 10000-6, 5.2.9
// and 6.7.2.
func encodeService(r ua.Response) ([]byte, error) {
	complete(reflect.ValueOf(r).Elem())
	body := ua.NewBuffer(nil)
	body.WriteStruct(ua.NewFourByteExpandedNodeID(0, ua.ServiceTypeID(r)))
	body.WriteStruct(r)
	return body.Bytes(), body.Error()
}

// complete puts an empty structure where there is none: the library leaves
// those out, and what follows would be read in their place.
func complete(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			switch v.Interface().(type) {
			case *ua.ExtensionObject: // the library writes an empty one
				return
			case *ua.ExpandedNodeID:
				v.Set(reflect.ValueOf(ua.NewTwoByteExpandedNodeID(0)))
				return
			}
			v.Set(reflect.New(v.Type().Elem()))
		}
		switch v.Interface().(type) {
		case *ua.NodeID, *ua.ExpandedNodeID, *ua.LocalizedText, *ua.Variant, *ua.DataValue, *ua.DiagnosticInfo:
			return // they encode themselves
		case *ua.ExtensionObject:
			if x := v.Interface().(*ua.ExtensionObject); x.Value != nil {
				complete(reflect.ValueOf(x.Value))
			}
			return
		}
		complete(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				complete(f)
			}
		}
	case reflect.Slice:
		if k := v.Type().Elem().Kind(); k == reflect.Pointer || k == reflect.Struct {
			for i := range v.Len() {
				complete(v.Index(i))
			}
		}
	}
}
