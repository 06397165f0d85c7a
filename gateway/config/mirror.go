package config

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"millrace/feeds"
	"millrace/internal/strictyaml"
	"millrace/protocols"
	"millrace/sample"
)

// Mirror brings results of the cloud back into SCADA.
type Mirror struct {
	Enabled bool
	// Dir holds the audit log, which is the mirror's memory too.
	Dir string
	// Signature is Required or Optional.
	Signature string
	Keys      map[string]ed25519.PublicKey
	// AuditKeep is how many files of the audit log are kept; 0 is all.
	AuditKeep int
	Feeds     []Feed
	Devices   []Device
	Targets   []Target
}

// The words of Mirror.Signature.
const (
	Required = "required" // an unsigned result is refused
	Optional = "optional" // it is taken; one that is signed must be right
)

// Feed is one place where results wait, ready to be opened.
type Feed struct {
	Name, Type string
	Kind       feeds.Kind
	Config     feeds.Config
}

// Device is a link or a server that no source has.
type Device struct {
	Name, Type string
	Protocol   protocols.Protocol
	Connection protocols.Config
	Spec       *protocols.SourceConfig
	// Server says that it is one of the gateway's own, which SCADA reads from.
	Server bool
	// MaxAge is after how long a tag that it shows reads as Bad, by tag; one
	// that is not in it is shown however old it is.
	MaxAge map[string]time.Duration
}

type fileMirror struct {
	Enabled   bool        `yaml:"enabled"`
	Dir       string      `yaml:"dir"`
	Signature string      `yaml:"signature"`
	Keys      []fileKey   `yaml:"keys"`
	AuditKeep int         `yaml:"audit_keep"`
	Feeds     []yaml.Node `yaml:"feeds"`
	Devices   []yaml.Node `yaml:"devices"`
	Targets   []yaml.Node `yaml:"targets"`
}

type fileKey struct {
	Name    string `yaml:"name"`
	Ed25519 string `yaml:"ed25519"`
}

type fileFeed struct {
	Name string `yaml:"name"`
	Type string `yaml:"type"`
}

type fileDevice struct {
	Name       string      `yaml:"name"`
	Type       string      `yaml:"type"`
	Connection yaml.Node   `yaml:"connection"`
	Tags       []fileShown `yaml:"tags"`
}

// fileShown is a live tag that a server shows.
type fileShown struct {
	Tag     string        `yaml:"tag"`
	Address string        `yaml:"address"`
	Type    string        `yaml:"type"`
	Length  int           `yaml:"length"`
	Order   string        `yaml:"order"`
	MaxAge  time.Duration `yaml:"max_age"`
}

// statusSource is the source of the mirror's own samples, its outcomes.
const statusSource = "mirror"

// maxAuditKeep bounds the files of the audit log, of 16 MiB each.
const maxAuditKeep = 100_000

func defaultMirror() fileMirror {
	return fileMirror{Dir: "/var/lib/millrace/mirror", Signature: Required}
}

// mirrors collects what the checks of targets need of the parts before them.
type mirrors struct {
	to     map[string]*place // by the name of a source or device
	places map[string]string // what a target writes, with its link, to the target's path
	feeds  map[string]bool
	// signature is that of the section.
	signature string
}

// place is what `write.to` can name.
type place struct {
	what   string // "source meter1"
	typ    string
	config protocols.Config
	key    string // the link's; "" where the connection is wrong
}

func (c *checker) mirror(raw *fileMirror) {
	m := &c.cfg.Mirror
	m.Enabled, m.Dir, m.Signature, m.AuditKeep = raw.Enabled, raw.Dir, raw.Signature, raw.AuditKeep
	c.mirrors = &mirrors{to: map[string]*place{}, places: map[string]string{}, feeds: map[string]bool{}, signature: raw.Signature}
	for i := range c.cfg.Sources {
		s := &c.cfg.Sources[i]
		c.mirrors.to[s.Name] = &place{what: "source " + s.Name, typ: s.Type, config: s.Connection, key: c.keys[s.Name]}
	}
	c.mirrorGeneral(raw)
	for i := range raw.Feeds {
		c.feed(fmt.Sprintf("mirror.feeds[%d]", i), &raw.Feeds[i])
	}
	for i := range raw.Devices {
		c.device(fmt.Sprintf("mirror.devices[%d]", i), &raw.Devices[i])
	}
	for i := range raw.Targets {
		if !c.Exhausted() {
			c.target(fmt.Sprintf("mirror.targets[%d]", i), &raw.Targets[i])
		}
	}
	c.mirrorKeys(raw)
	c.aims()
}

// aims looks whether the targets that feeds make results for are there and take
// them.
func (c *checker) aims() {
	var names []string
	for i := range c.cfg.Mirror.Targets {
		names = append(names, c.cfg.Mirror.Targets[i].Name)
	}
	for i := range c.cfg.Mirror.Feeds {
		f := &c.cfg.Mirror.Feeds[i]
		aimed, ok := f.Config.(feeds.Aimed)
		if !ok || aimed.Aim() == "" {
			continue
		}
		path := c.names["feed "+f.Name]
		switch k := slices.Index(names, aimed.Aim()); {
		case k < 0:
			hint := "name one of mirror.targets"
			if near := strictyaml.Nearest(aimed.Aim(), names); near != "" {
				hint = "did you mean " + near + "?"
			}
			c.Wrong(path, fmt.Sprintf("feed %q makes results for target %q, which there is not", f.Name, aimed.Aim()), hint)
		case !slices.Contains(c.cfg.Mirror.Targets[k].Feeds, f.Name):
			c.Wrong(path, fmt.Sprintf("feed %q makes results for target %q, which does not take them", f.Name, aimed.Aim()), fmt.Sprintf("name the feed under feeds of target %s", aimed.Aim()))
		case c.cfg.Mirror.Targets[k].Class == Setpoint:
			c.Wrong(path, fmt.Sprintf("feed %q makes results of a tag, which nobody signs, and a setpoint needs signed results, as target %q is one", f.Name, aimed.Aim()),
				"write class: mirror_tag for the target, and let SCADA's own logic decide; or have who computes the value sign it")
		}
	}
}

func (c *checker) mirrorGeneral(raw *fileMirror) {
	switch dir, spool := filepath.Clean(raw.Dir), filepath.Clean(c.cfg.Spool.Dir); {
	case raw.Dir == "":
		c.Wrong("mirror.dir", "is empty", "name a folder on a disk that survives a power cut; it holds the audit log")
	case dir == spool:
		c.Wrong("mirror.dir", "is the spool's folder", "give the mirror a folder of its own")
	}
	c.OneOf("mirror.signature", raw.Signature, Required, Optional)
	if raw.AuditKeep < 0 || raw.AuditKeep > maxAuditKeep {
		c.Wrong("mirror.audit_keep", fmt.Sprintf("%d is not between 0 and %d", raw.AuditKeep, maxAuditKeep), "it is how many files of 16MiB are kept; leave it out to keep all")
	}
	if path, ok := c.names["source "+statusSource]; ok && raw.Enabled {
		c.Wrong(path, fmt.Sprintf("%q is what the mirror's own samples come from", statusSource), "rename the source; with device: "+statusSource+" its tags keep their names")
	}
	if raw.Enabled && len(raw.Targets) == 0 {
		c.Wrong("mirror.targets", "there is no target, so nothing would be mirrored", "add one, or write enabled: false")
	}
}

// mirrorKeys reads the keys by which results are signed, and looks whether
// there is one where one is needed.
func (c *checker) mirrorKeys(raw *fileMirror) {
	keys := map[string]ed25519.PublicKey{}
	for i := range raw.Keys {
		path, k := fmt.Sprintf("mirror.keys[%d]", i), &raw.Keys[i]
		c.name(path, k.Name, "key")
		if k.Ed25519 == "" {
			c.Wrong(path+".ed25519", "is missing", "write the public key's 32 bytes in base64, or file:/path to a PEM file")
			continue
		}
		key, problem, hint := publicKey(k.Ed25519)
		if problem != "" {
			c.Wrong(path+".ed25519", problem, hint)
			continue
		}
		keys[k.Name] = key
	}
	c.cfg.Mirror.Keys = keys
	signed := false
	for i := range c.cfg.Mirror.Feeds {
		_, local := c.cfg.Mirror.Feeds[i].Config.(feeds.Aimed)
		signed = signed || !local
	}
	if raw.Signature == Required && signed && len(raw.Keys) == 0 {
		c.Wrong("mirror.keys", "there is no key, and signature is required, so every result would be refused", "add the public key of what signs the results; docs/mirror.md says how to make a pair")
	}
}

// publicKey reads an Ed25519 public key: base64 of its 32 bytes, or file:/path
// of a PEM file that holds a SubjectPublicKeyInfo. RFC 8410, section 4.
func publicKey(text string) (key ed25519.PublicKey, problem, hint string) {
	const how = "openssl pkey -in key.pem -pubout makes it of the private key"
	path, isFile := strings.CutPrefix(text, "file:")
	if !isFile {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Sprintf("is not base64 of the %d bytes of a public key", ed25519.PublicKeySize), "write these, or file:/path to a PEM file; docs/mirror.md says how to make a pair"
		}
		return ed25519.PublicKey(raw), "", ""
	}
	data, err := readKey(path)
	if err != nil {
		return nil, fmt.Sprintf("the key file %s cannot be read: %s", path, strictyaml.Reason(err)), "name a PEM file that the service can read"
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Sprintf("the key file %s is not PEM", path), how
	}
	if block.Type != "PUBLIC KEY" {
		hint := how
		if strings.Contains(block.Type, "PRIVATE KEY") {
			hint = "the private key stays where results are signed, and is not to be here: " + how
		}
		return nil, fmt.Sprintf("the key file %s holds a %s and not a PUBLIC KEY", path, block.Type), hint
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	key, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Sprintf("the key file %s does not hold an Ed25519 key", path), "make one with openssl genpkey -algorithm ed25519"
	}
	return key, "", ""
}

// readKey reads a small file; a pipe that nobody writes to holds nothing up.
func readKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 64 << 10
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = errors.New("it is larger than 64KiB")
	}
	return data, err
}

func (c *checker) feed(path string, n *yaml.Node) {
	c.Nodes[path] = n
	if strictyaml.IsNull(n) {
		return // reported
	}
	if n.Kind != yaml.MappingNode {
		c.Unreadable(n, path, "keys are expected here, not "+strictyaml.KindName(n), "write - name: …, and type: … below it")
		return
	}
	var raw fileFeed
	pairs := c.Pairs(n, path)
	for _, p := range pairs { // the type says which keys there are, and the name which feed is meant
		switch p.Key.Value {
		case "type":
			c.Decode(p.Value, path+".type", reflect.ValueOf(&raw.Type).Elem())
		case "name":
			c.Decode(p.Value, path+".name", reflect.ValueOf(&raw.Name).Elem())
		}
	}
	c.mirrors.feeds[raw.Name] = true
	f := Feed{Name: raw.Name, Type: raw.Type}
	var types []string
	for _, k := range c.registry.Feeds {
		types = append(types, k.Type())
		if k.Type() == raw.Type {
			f.Kind, f.Config = k, k.NewConfig()
		}
	}
	if f.Kind == nil {
		c.unknownType(path, raw.Type, types)
		return
	}
	c.Fields(pairs, path, reflect.ValueOf(&raw).Elem(), reflect.ValueOf(f.Config).Elem())
	c.name(path, raw.Name, "feed")
	for _, fault := range f.Config.Validate() {
		c.Wrong(path+"."+fault.Path, fault.Problem, fault.Hint)
	}
	c.cfg.Mirror.Feeds = append(c.cfg.Mirror.Feeds, f)
}

func (c *checker) device(path string, n *yaml.Node) {
	var raw fileDevice
	c.Decode(n, path, reflect.ValueOf(&raw).Elem())
	if n.Kind != yaml.MappingNode || c.Exhausted() {
		return // reported
	}
	c.name(path, raw.Name, "device")
	if first, ok := c.names["source "+raw.Name]; ok && raw.Name != "" {
		c.Wrong(path+".name", fmt.Sprintf("source %q has the name already, in line %d", raw.Name, c.At(first).Line),
			"targets can write to a source's device by its source's name; where this is another device, give it a name of its own")
	}
	d := Device{Name: raw.Name, Type: raw.Type, MaxAge: map[string]time.Duration{}}
	types := make([]string, 0, len(c.registry.Protocols))
	for _, p := range c.registry.Protocols {
		types = append(types, p.Type())
		if p.Type() == raw.Type {
			d.Protocol = p
		}
	}
	to := &place{what: "device " + raw.Name, typ: raw.Type}
	if c.mirrors.to[raw.Name] == nil {
		c.mirrors.to[raw.Name] = to
	}
	if d.Protocol == nil {
		c.unknownType(path, raw.Type, types)
		return
	}
	d.Connection = d.Protocol.NewConfig()
	to.config = d.Connection
	if s, ok := d.Connection.(protocols.Sourceless); ok {
		d.Server = s.Serves()
	}
	d.Spec = &protocols.SourceConfig{Name: raw.Name, Device: raw.Name, ScanRate: time.Second}
	for k := range raw.Tags {
		c.shown(fmt.Sprintf("%s.tags[%d]", path, k), &d, &raw.Tags[k])
	}
	if len(raw.Tags) > 0 && !d.Server {
		c.Wrong(path+".tags", "type "+raw.Type+" shows no tags: it is no server of the gateway's own", "put what is read from it under sources:, and take the tags away here")
	}
	if raw.Connection.Kind != 0 {
		c.Decode(&raw.Connection, path+".connection", reflect.ValueOf(d.Connection).Elem())
	}
	to.key = c.deviceLink(path, &d)
	c.cfg.Mirror.Devices = append(c.cfg.Mirror.Devices, d)
}

// deviceLink checks the connection of a device and returns its link's key, or
// "" where it is wrong.
func (c *checker) deviceLink(path string, d *Device) string {
	wrong := false
	for _, f := range d.Connection.Validate(d.Spec) {
		if f.Path == "tags" && len(d.Spec.Tags) == 0 {
			continue // nothing is read from a device that is only written to
		}
		wrong = true
		c.Wrong(path+"."+f.Path, f.Problem, f.Hint)
	}
	if wrong {
		return ""
	}
	return c.link(path, d.Connection, d.Server)
}

func (c *checker) shown(path string, d *Device, raw *fileShown) {
	if raw.Tag == "" {
		c.Wrong(path+".tag", "is missing", "write the full name of a tag of this gateway: site/device/name")
	} else if _, ok := c.tags[raw.Tag]; !ok {
		c.Wrong(path+".tag", fmt.Sprintf("there is no tag %s", raw.Tag), c.nearTag(raw.Tag))
	}
	if raw.MaxAge < 0 || raw.MaxAge > 24*time.Hour {
		c.Wrong(path+".max_age", fmt.Sprintf("%s is not between 0s and 24h", raw.MaxAge), "an older value is shown as Bad; leave it out to show the value as its source last had it")
	}
	if raw.MaxAge > 0 {
		d.MaxAge[raw.Tag] = raw.MaxAge
	}
	tag := protocols.Tag{Name: raw.Tag, Address: raw.Address, Type: raw.Type, Length: raw.Length, Order: raw.Order}
	if t := c.configured(raw.Tag); t != nil {
		tag.Unit, tag.Description = t.Unit, t.Description
	}
	d.Spec.Tags = append(d.Spec.Tags, tag)
}

// nearTag is the hint at a tag that no source has.
func (c *checker) nearTag(tag string) string {
	if near := strictyaml.Nearest(tag, sortedKeys(c.tags)); near != "" {
		return "did you mean " + near + "?"
	}
	return "write the full name, site/device/name, of a tag that stands under sources:"
}

// isBool reports whether a tag of that type reads as true or false; of one
// without a type nobody knows.
func isBool(typ string) bool {
	return typ == "" || strings.HasPrefix(strings.ToLower(typ), "bool")
}

// configured returns the tag of that name, or nil.
func (c *checker) configured(name string) *Tag {
	for i := range c.cfg.Sources {
		for k := range c.cfg.Sources[i].Tags {
			if t := &c.cfg.Sources[i].Tags[k]; t.Name == name {
				return t
			}
		}
	}
	return nil
}

// statusTag is the tag of a target's outcomes.
func statusTag(site, target string) string {
	return sample.JoinTag(site, "mirror", "mirror/"+target+"/status")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
