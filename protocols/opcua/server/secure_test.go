package server

import (
	"testing"

	"github.com/gopcua/opcua/ua"
)

func TestConnectAndRead(t *testing.T) {
	r := start(t, plain(t), nil)
	c := r.client()
	v := value(t, c, "ns=1;s=north/meter1/power")
	if v.Status != ua.StatusOK || v.Value.Value() != 41.5 || v.SourceTimestamp.IsZero() || v.ServerTimestamp.IsZero() {
		t.Errorf("got %+v %v", v, v.Value.Value())
	}
}

func TestSecuredEndpoints(t *testing.T) {
	r := start(t, secure(t), nil)
	for _, policy := range []string{ua.SecurityPolicyURIBasic256Sha256, ua.SecurityPolicyURIAes128Sha256RsaOaep} {
		for _, mode := range []ua.MessageSecurityMode{ua.MessageSecurityModeSign, ua.MessageSecurityModeSignAndEncrypt} {
			e := r.endpoint(policy, mode)
			c, err := r.dial(r.login(e, certificates(t).client, userName, password)...)
			if err != nil {
				t.Fatalf("%s %s: %v\n%s", policy, mode, err, r.log)
			}
			if v := value(t, c, "ns=1;s=north/meter1/power"); v.Status != ua.StatusOK || v.Value.Value() != 41.5 {
				t.Errorf("%s %s: got %v %v", policy, mode, v.Status, v.Value)
			}
			if err := c.Close(ctxOf(t)); err != nil {
				t.Error(err)
			}
		}
	}
}
