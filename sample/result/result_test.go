package result

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"millrace/sample"
)

func files(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return paths
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func example() *Result {
	noon := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	return &Result{
		ID: "r-20261128-000017", Site: "north", Target: "sp1", Version: 17, Value: sample.FloatValue(41.5), Unit: "kW",
		ComputedAt: noon, ValidFrom: noon, ValidUntil: noon.Add(10 * time.Minute), Run: "optimiser-4711",
	}
}

// refusal is the *Error of a message that must be refused.
func refusal(t *testing.T, what string, r *Result, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || r != nil {
		t.Fatalf("%s: %+v, %v, want an *Error alone", what, r, err)
	}
	if e.Problem == "" || strings.ContainsAny(e.Error(), "\n\r") || len(e.Error()) > 300 {
		t.Errorf("%s: the error is not one line of words: %q", what, e.Error())
	}
	return e
}

// TestBadMessages holds each file in testdata/bad to the reason and the field
// in its name: reason.field.what.json, "-" for the message as a whole.
func TestBadMessages(t *testing.T) {
	seen := map[string]bool{}
	for _, path := range files(t, "testdata/bad/*.json") {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		reason, field, _ := strings.Cut(name, ".")
		r, err := Parse(read(t, path))
		e := refusal(t, path, r, err)
		seen[e.Reason] = true
		if e.Field == "" {
			e.Field = "-"
		}
		if e.Reason != reason || field != e.Field && !strings.HasPrefix(field, e.Field+".") {
			t.Errorf("%s: refused for %s at %s: %s", path, e.Reason, e.Field, e.Problem)
		}
		if e.ID != "" && e.ID != "r-20261128-000017" || e.Target != "" && e.Target != "sp1" || e.Version != 0 && e.Version != 17 {
			t.Errorf("%s: the error names %q, %q, %d", path, e.ID, e.Target, e.Version)
		}
		if broken := reason == NotJSON; broken == (e.Target == "sp1") && e.Field != "target" {
			t.Errorf("%s: the error names the target %q", path, e.Target)
		}
	}
	for _, reason := range []string{
		TooLarge, NotJSON, UnknownSchema, MissingField, UnknownField, DuplicateField, WrongType, NotANumber, BadTime, BadName,
	} {
		if !seen[reason] {
			t.Errorf("no message in testdata/bad is refused for %s", reason)
		}
	}
}

func TestGoodMessages(t *testing.T) {
	for _, path := range files(t, "testdata/good/*.json") {
		r, err := Parse(read(t, path))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		text, err := r.Encode()
		if err != nil {
			t.Errorf("%s: encoded: %v", path, err)
			continue
		}
		if again, err := Parse(text); err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%s: comes back as %+v, %v, want %+v", path, again, err, r)
		}
	}
}

func TestParseTakesEveryField(t *testing.T) {
	r, err := Parse(read(t, "testdata/good/signed.json"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Signature.Key != "cloud" || len(r.Signature.Sum) != ed25519.SignatureSize {
		t.Errorf("signature %+v", r.Signature)
	}
	r.Signature = Signature{}
	if want := example(); !reflect.DeepEqual(r, want) {
		t.Errorf("parsed as %+v, want %+v", r, want)
	}
	if r, err = Parse(read(t, "testdata/good/nanoseconds-and-offset.json")); err != nil {
		t.Fatal(err)
	}
	if got := r.ComputedAt.Format(time.RFC3339Nano); got != "2026-11-28T12:00:00.123456789Z" {
		t.Errorf("computed at %s", got)
	}
}

func TestValuesAreExact(t *testing.T) {
	for _, v := range []sample.Value{
		sample.FloatValue(math.Copysign(0, -1)), sample.FloatValue(math.MaxFloat64), sample.FloatValue(5e-324), sample.FloatValue(0.1),
		sample.FloatValue(41), sample.FloatValue(1e21), sample.IntValue(math.MaxInt64), sample.IntValue(math.MinInt64),
		sample.IntValue(1<<53 + 1), sample.BoolValue(false), sample.StringValue(""), sample.StringValue("\"\\\n\u2028<&>\U0001F600"),
	} {
		r := example()
		r.Value = v
		text, err := r.Encode()
		if err != nil {
			t.Errorf("%v: %v", v, err)
			continue
		}
		if back, err := Parse(text); err != nil || back.Value != v {
			t.Errorf("%v comes back as %+v, %v from %s", v, back, err, text)
		}
	}
}

func TestSize(t *testing.T) {
	text, err := example().Encode()
	if err != nil {
		t.Fatal(err)
	}
	full := append(text, bytes.Repeat([]byte(" "), MaxBytes-len(text))...)
	if _, err := Parse(full); err != nil {
		t.Errorf("a message of %d bytes: %v", len(full), err)
	}
	r, err := Parse(append(full, ' '))
	if e := refusal(t, "one byte more", r, err); e.Reason != TooLarge || e.Field != "" {
		t.Errorf("one byte more: %v", e)
	}
	long := example()
	long.Value = sample.StringValue(strings.Repeat("x", MaxValueBytes+1))
	_, err = long.Encode()
	if e := refusal(t, "a long string", nil, err); e.Reason != TooLarge || e.Field != "value" {
		t.Errorf("a long string: %v", e)
	}
	long.Value = sample.StringValue(strings.Repeat("\x01", MaxValueBytes))
	_, err = long.Encode()
	if e := refusal(t, "a string of escapes", nil, err); e.Reason != TooLarge || e.Field != "" {
		t.Errorf("a string of escapes: %v", e)
	}
}

// TestEncodeRefuses what Parse would.
func TestEncodeRefuses(t *testing.T) {
	for want, change := range map[string]func(*Result){
		"bad_name id":                  func(r *Result) { r.ID = "" },
		"bad_name site":                func(r *Result) { r.Site = "a/b" },
		"bad_name target":              func(r *Result) { r.Target = "\xff" },
		"bad_name run":                 func(r *Result) { r.Run = "a\u0085" },
		"too_large unit":               func(r *Result) { r.Unit = strings.Repeat("k", 129) },
		"wrong_type version":           func(r *Result) { r.Version = 0 },
		"wrong_type value":             func(r *Result) { r.Value = sample.Value{} },
		"not_a_number value":           func(r *Result) { r.Value = sample.FloatValue(math.NaN()) },
		"bad_time computed_at":         func(r *Result) { r.ComputedAt = time.Time{} },
		"bad_time valid_until":         func(r *Result) { r.ValidUntil = r.ValidFrom },
		"bad_name signature.key":       func(r *Result) { r.Signature.Sum = make([]byte, 64) },
		"wrong_type signature.ed25519": func(r *Result) { r.Signature = Signature{Key: "cloud", Sum: make([]byte, 63)} },
	} {
		r := example()
		change(r)
		text, err := r.Encode()
		e := refusal(t, want, nil, err)
		if text != nil || e.Reason+" "+e.Field != want {
			t.Errorf("want %s: %q, %v", want, text, e)
		}
	}
	r := example()
	r.Version = 1 << 63
	if text, err := r.Encode(); err == nil {
		t.Errorf("version 2^63 is encoded: %s", text)
	}
}

type vectorFile struct {
	PrivateSeedHex string `json:"private_seed_hex"`
	PublicHex      string `json:"public_hex"`
	Key            string `json:"key"`
	Vectors        []struct {
		Name      string          `json:"name"`
		Message   json.RawMessage `json:"message"`
		SignedHex string          `json:"signed_hex"`
	} `json:"vectors"`
}

func vectors(t *testing.T) (vectorFile, ed25519.PrivateKey) {
	t.Helper()
	var v vectorFile
	if err := json.Unmarshal(read(t, "testdata/vectors.json"), &v); err != nil {
		t.Fatal(err)
	}
	seed, err := hex.DecodeString(v.PrivateSeedHex)
	if err != nil {
		t.Fatal(err)
	}
	private := ed25519.NewKeyFromSeed(seed)
	if got := hex.EncodeToString(private.Public().(ed25519.PublicKey)); got != v.PublicHex {
		t.Fatalf("the public key is %s, want %s", got, v.PublicHex)
	}
	return v, private
}

// TestVectors holds signing to messages that another program has signed.
func TestVectors(t *testing.T) {
	v, private := vectors(t)
	keys := map[string]ed25519.PublicKey{v.Key: private.Public().(ed25519.PublicKey)}
	for _, c := range v.Vectors {
		r, err := Parse(c.Message)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		if got := hex.EncodeToString(r.signedBytes()); got != c.SignedHex {
			t.Errorf("%s: the signed bytes are\n%s, want\n%s", c.Name, got, c.SignedHex)
		}
		if err := r.Verify(keys); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		sum := r.Signature.Sum
		if r.Sign(v.Key, private); !bytes.Equal(r.Signature.Sum, sum) {
			t.Errorf("%s: signed as %x, want %x", c.Name, r.Signature.Sum, sum)
		}
	}
}

// TestEveryFieldIsSigned changes one field at a time after signing.
func TestEveryFieldIsSigned(t *testing.T) {
	_, private := vectors(t)
	public := private.Public().(ed25519.PublicKey)
	keys := map[string]ed25519.PublicKey{"cloud": public, "other": public}
	for what, change := range map[string]func(*Result){
		"id": func(r *Result) { r.ID += "x" }, "site": func(r *Result) { r.Site = "nort" }, "target": func(r *Result) { r.Target = "sp2" },
		"version": func(r *Result) { r.Version++ }, "value": func(r *Result) { r.Value = sample.FloatValue(41.6) },
		"type": func(r *Result) { r.Value = sample.IntValue(int64(math.Float64bits(41.5))) },
		"unit": func(r *Result) { r.Unit = "" }, "quality": func(r *Result) { r.Quality = sample.Uncertain },
		"computed_at": func(r *Result) { r.ComputedAt = r.ComputedAt.Add(1) }, "valid_from": func(r *Result) { r.ValidFrom = r.ValidFrom.Add(-1) },
		"valid_until": func(r *Result) { r.ValidUntil = r.ValidUntil.Add(time.Hour) }, "run": func(r *Result) { r.Run = "optimiser" },
		"key": func(r *Result) { r.Signature.Key = "other" }, "sum": func(r *Result) { r.Signature.Sum[63] ^= 1 },
		"short sum":            func(r *Result) { r.Signature.Sum = r.Signature.Sum[:63] },
		"a byte moved onwards": func(r *Result) { r.ID, r.Site = r.ID+"n", "orth" },
	} {
		r := example()
		r.Sign("cloud", private)
		if err := r.Verify(keys); err != nil {
			t.Fatalf("unchanged: %v", err)
		}
		change(r)
		if err := r.Verify(keys); !errors.Is(err, ErrBadSignature) {
			t.Errorf("%s changed: %v", what, err)
		}
	}
}

func TestVerifyTellsWhy(t *testing.T) {
	_, private := vectors(t)
	public := private.Public().(ed25519.PublicKey)
	r := example()
	if err := r.Verify(map[string]ed25519.PublicKey{"": public}); !errors.Is(err, ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
	r.Sign("cloud", private)
	for _, keys := range []map[string]ed25519.PublicKey{nil, {"plant": public}, {"cloud": public[:31]}} {
		if err := r.Verify(keys); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("with the keys %v: %v", keys, err)
		}
	}
	stranger := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	if err := r.Verify(map[string]ed25519.PublicKey{"cloud": stranger}); !errors.Is(err, ErrBadSignature) {
		t.Errorf("by another key: %v", err)
	}
}
