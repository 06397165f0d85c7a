package mirror

import "millrace/gateway/mirror/audit"

// PresentFor is how old the reading may be that a step is measured from.
const PresentFor = presentFor

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

// ForgetVersions is an engine that does not compare versions.
func (m *Mirror) ForgetVersions() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.state.Targets {
		t.Version = 0
	}
}
