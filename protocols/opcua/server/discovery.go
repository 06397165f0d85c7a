package server

import (
	"net"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"
)

const (
	productURI       = "urn:millrace"
	transportProfile = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary"
	// The ids of the user token policies.
	tokenAnonymous = "anonymous"
	tokenUser      = "user"
)

// endpointURL is by which a client reaches the server: as it has dialled it, so
// that a name of its own network goes on to work.
func (s *Server) endpointURL(dialled string) string {
	_, port, err := net.SplitHostPort(s.cfg.Listen)
	if s.addr != nil {
		_, port, err = net.SplitHostPort(s.addr.String())
	}
	if err != nil {
		port = "4840"
	}
	if u, err := url.Parse(dialled); err == nil && u.Scheme == "opc.tcp" && u.Hostname() != "" {
		if p := u.Port(); p != "" {
			port = p // there may be a port forwarded
		}
		return "opc.tcp://" + net.JoinHostPort(u.Hostname(), port)
	}
	h, _, err := net.SplitHostPort(s.cfg.Listen)
	if ip := net.ParseIP(h); err != nil || h == "" || ip != nil && ip.IsUnspecified() {
		if h, err = os.Hostname(); err != nil {
			h = "localhost"
		}
	}
	if len(s.cfg.Hosts) > 0 {
		h = s.cfg.Hosts[0]
	}
	return "opc.tcp://" + net.JoinHostPort(h, port)
}

func (s *Server) name() string {
	if s.cfg.Name != "" {
		return s.cfg.Name
	}
	return "millrace " + s.site
}

func (s *Server) application(dialled string) *ua.ApplicationDescription {
	return &ua.ApplicationDescription{
		ApplicationURI: s.identity.URI, ProductURI: productURI, ApplicationName: ua.NewLocalizedText(s.name()),
		ApplicationType: ua.ApplicationTypeServer, DiscoveryURLs: []string{s.endpointURL(dialled)},
	}
}

// tokens lists how users may show who they are, at an endpoint.
func (s *Server) tokens(policy string) []*ua.UserTokenPolicy {
	var out []*ua.UserTokenPolicy
	if s.cfg.Anonymous {
		out = append(out, &ua.UserTokenPolicy{PolicyID: tokenAnonymous, TokenType: ua.UserTokenTypeAnonymous})
	}
	if len(s.cfg.Users) > 0 && (policy != ua.SecurityPolicyURINone || s.cfg.InsecurePassword) {
		out = append(out, &ua.UserTokenPolicy{PolicyID: tokenUser, TokenType: ua.UserTokenTypeUserName, SecurityPolicyURI: s.passwordPolicy(policy)})
	}
	return out
}

// passwordPolicy is that by which a password is encrypted, beside the channel.
func (s *Server) passwordPolicy(channel string) string {
	if channel == ua.SecurityPolicyURINone && s.cfg.secured() {
		return ua.SecurityPolicyURIBasic256Sha256
	}
	return channel
}

// endpoints lists what is offered: OPC 10000-4, 5.5.4. The strongest first.
func (s *Server) endpoints(dialled string) []*ua.EndpointDescription {
	var out []*ua.EndpointDescription
	add := func(policy string, mode ua.MessageSecurityMode, level uint8) {
		e := &ua.EndpointDescription{
			EndpointURL: s.endpointURL(dialled), Server: s.application(dialled), SecurityMode: mode, SecurityPolicyURI: policy,
			UserIdentityTokens: s.tokens(policy), TransportProfileURI: transportProfile, SecurityLevel: level,
		}
		if s.identity.Leaf != nil {
			e.ServerCertificate = s.identity.Leaf.Raw
		}
		out = append(out, e)
	}
	if s.cfg.secured() {
		for i, p := range s.cfg.Policies {
			uri, _ := policyURI(p)
			for _, m := range s.cfg.Modes {
				mode, _ := modeOf(m)
				level := uint8(100 - i)
				if mode == ua.MessageSecurityModeSign {
					level -= 50
				}
				add(uri, mode, level)
			}
		}
	}
	if s.cfg.AllowNone {
		add(ua.SecurityPolicyURINone, ua.MessageSecurityModeNone, 0)
	}
	slices.SortStableFunc(out, func(a, b *ua.EndpointDescription) int { return int(b.SecurityLevel) - int(a.SecurityLevel) })
	return out
}

func (cl *call) getEndpoints(r *ua.GetEndpointsRequest) (ua.Response, error) {
	resp := new(ua.GetEndpointsResponse)
	if len(r.ProfileURIs) > 0 && !slices.Contains(r.ProfileURIs, transportProfile) {
		return resp, nil
	}
	resp.Endpoints = cl.conn.srv.endpoints(cl.dialled(r.EndpointURL))
	return resp, nil
}

func (cl *call) findServers(r *ua.FindServersRequest) (ua.Response, error) {
	s, resp := cl.conn.srv, new(ua.FindServersResponse)
	if len(r.ServerURIs) == 0 || slices.Contains(r.ServerURIs, s.identity.URI) {
		resp.Servers = []*ua.ApplicationDescription{s.application(cl.dialled(r.EndpointURL))}
	}
	return resp, nil
}

// dialled is the URL that the client says it has dialled, here or in its Hello.
func (cl *call) dialled(here string) string {
	if here != "" && len(here) <= maxURL {
		return here
	}
	return cl.conn.url
}

func buildInfo() *ua.BuildInfo {
	info := &ua.BuildInfo{ProductURI: productURI, ManufacturerName: "millrace", ProductName: "millrace", SoftwareVersion: "unknown"}
	if b, ok := debug.ReadBuildInfo(); ok {
		info.SoftwareVersion = b.Main.Version
		for _, setting := range b.Settings {
			switch setting.Key {
			case "vcs.revision":
				info.BuildNumber = setting.Value
			case "vcs.time":
				if t, err := time.Parse(time.RFC3339, setting.Value); err == nil {
					info.BuildDate = t
				}
			}
		}
	}
	return info
}
