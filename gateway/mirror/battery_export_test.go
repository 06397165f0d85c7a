package mirror

import "millrace/gateway/mirror/audit"

// NewWithAudit is New with an audit log of a test's making.
func NewWithAudit(cfg Config, s Settings, o audit.Options) (*Mirror, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l, err := audit.Open(o)
	if err != nil {
		return nil, err
	}
	return newMirror(cfg, s, auditLog{l})
}
