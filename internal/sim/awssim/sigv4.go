package awssim

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// signatureWindow is how far a request's date may be off. IAM User Guide,
// "AWS Signature Version 4 for API requests", elements of a request.
const signatureWindow = 15 * time.Minute

// verify checks a request's Signature Version 4 as the IAM User Guide's
// "Create a signed AWS API request" describes it. Without known keys it checks
// the header's form, the service and the date only.
func verify(r *http.Request, body []byte, service string, keys map[string]string, now time.Time) *apiError {
	auth := r.Header.Get("Authorization")
	if auth == "" {
		return &apiError{status: http.StatusForbidden, code: "MissingAuthenticationToken", message: "Request is missing Authentication Token"}
	}
	fields, ok := strings.CutPrefix(auth, "AWS4-HMAC-SHA256 ")
	part := map[string]string{}
	for f := range strings.SplitSeq(fields, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(f), "=")
		part[k] = v
	}
	scope := strings.Split(part["Credential"], "/") // key id, day, region, service, aws4_request
	if !ok || len(scope) != 5 || part["SignedHeaders"] == "" || part["Signature"] == "" || scope[4] != "aws4_request" {
		return badRequest("IncompleteSignature", "The request signature does not conform to AWS standards.")
	}
	secret, known := keys[scope[0]]
	if keys != nil && !known {
		if service == ServiceSQS {
			return &apiError{status: http.StatusForbidden, code: "InvalidClientTokenId", message: "The security token included in the request is invalid."}
		}
		return badRequest("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	stamp := r.Header.Get("X-Amz-Date")
	date, err := time.Parse("20060102T150405Z", stamp)
	if err != nil || !strings.HasPrefix(stamp, scope[1]) {
		return badRequest("IncompleteSignature", "Date in Credential scope does not match the date of the request.")
	}
	if off := now.Sub(date); off > signatureWindow || off < -signatureWindow {
		return badRequest("InvalidSignatureException", fmt.Sprintf("Signature expired: %s is too far from %s (15 min.)", stamp, now.UTC().Format("20060102T150405Z")))
	}
	if scope[3] != service {
		return badRequest("InvalidSignatureException", "Credential should be scoped to correct service: '"+service+"'.")
	}
	if keys != nil && !hmac.Equal([]byte(signature(r, body, scope, stamp, part["SignedHeaders"], secret)), []byte(part["Signature"])) {
		return badRequest("InvalidSignatureException",
			"The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.")
	}
	return nil
}

// signature computes the hexadecimal signature that the request should have.
func signature(r *http.Request, body []byte, scope []string, stamp, signedHeaders, secret string) string {
	names := strings.Split(signedHeaders, ";")
	slices.Sort(names)
	var headers strings.Builder
	for _, n := range names {
		value := strings.Join(r.Header.Values(n), ",")
		switch n {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		headers.WriteString(n + ":" + strings.Join(strings.Fields(value), " ") + "\n")
	}
	path := (&url.URL{Path: r.URL.Path}).EscapedPath()
	if path == "" {
		path = "/"
	}
	query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
	canonical := strings.Join([]string{r.Method, path, query, headers.String(), signedHeaders, hexSHA256(body)}, "\n")
	toSign := strings.Join([]string{"AWS4-HMAC-SHA256", stamp, strings.Join(scope[1:], "/"), hexSHA256([]byte(canonical))}, "\n")
	key := []byte("AWS4" + secret)
	for _, s := range scope[1:] {
		key = mac(key, s)
	}
	return hex.EncodeToString(mac(key, toSign))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// newID returns a random identifier in the form of a UUID.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
