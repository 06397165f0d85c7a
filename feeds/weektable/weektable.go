// Package weektable makes results of a tag in the week tables: the newest value
// of another plant's meter, say, for a target of this one. docs/feeds.md
// describes the settings.
package weektable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/feeds"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/result"
	"millrace/sample/weektable"
	"millrace/uploader"
	"millrace/uploader/awsconf"
)

// queryTimeout bounds one query.
const queryTimeout = 15 * time.Second

// Kind is the kind of feed `type: weektable`.
type Kind struct{}

// Type implements feeds.Kind.
func (Kind) Type() string { return "weektable" }

// NewConfig implements feeds.Kind.
func (Kind) NewConfig() feeds.Config {
	return &Config{TablePrefix: "millrace", Interval: time.Minute, ValidFor: 3 * time.Minute, CatalogueWeeks: 53}
}

// Config is a feed's settings.
type Config struct {
	// TablePrefix begins the tables' names, as with the sink that wrote them.
	TablePrefix string `yaml:"table_prefix"`
	// Tag is the full name of the tag that is read: south/boiler/temp.
	Tag string `yaml:"tag"`
	// Gateway is the id of the gateway that sent it.
	Gateway string `yaml:"gateway"`
	// Stream is the stream that carries the tag; where empty the gateway's
	// catalogue records say it.
	Stream string `yaml:"stream"`
	// CatalogueWeeks is how many weeks back these are looked for, 1 to 520.
	CatalogueWeeks int `yaml:"catalogue_weeks"`
	// Target is the mirror's target that the values are for.
	Target string `yaml:"target"`
	// Type is what the target takes, where the tag's values are of another kind
	// that fits exactly: float64 or int64. Empty is the value's own.
	Type string `yaml:"value_type"`
	// Unit is the value's; where empty the catalogue record says it.
	Unit string `yaml:"unit"`
	// Interval is how often the tables are asked; 1 s to 24 h.
	Interval time.Duration `yaml:"interval"`
	// ValidFor is how long a value may be used after it was taken; 1 s to 31 days.
	ValidFor       time.Duration `yaml:"valid_for"`
	awsconf.Config `yaml:",inline"`
}

// Aim implements feeds.Aimed.
func (c *Config) Aim() string { return c.Target }

// Validate implements feeds.Config.
func (c *Config) Validate() []uploader.Fault {
	faults := c.Config.Validate()
	add := func(wrong bool, path, problem, hint string) {
		if wrong {
			faults = append(faults, uploader.Fault{Path: path, Problem: problem, Hint: hint})
		}
	}
	if err := weektable.CheckPrefix(c.TablePrefix); err != nil {
		add(true, "table_prefix", err.Error(), "write the word that the sink has, for example millrace")
	}
	if err := sample.CheckTag(c.Tag); err != nil {
		add(true, "tag", err.Error(), "write the full name of a tag, site/device/name")
	}
	if err := sample.CheckName(c.Gateway); err != nil {
		add(true, "gateway", err.Error(), "write gateway.id of the gateway that sends the tag")
	}
	add(c.Target == "", "target", "it is missing", "name the target that the values are for")
	add(c.Type != "" && c.Type != sample.Float64.String() && c.Type != sample.Int64.String(), "value_type", fmt.Sprintf("%q is not float64 or int64", c.Type), "leave it out where target and tag have the same type")
	add(c.Interval < time.Second || c.Interval > 24*time.Hour, "interval", fmt.Sprintf("%s is not between 1s and 24h", c.Interval), "1m is good: blocks are sealed once a minute")
	add(c.ValidFor < time.Second || c.ValidFor > 31*24*time.Hour, "valid_for", fmt.Sprintf("%s is not between 1s and 744h", c.ValidFor), "write at least the interval and the age at which batches are sealed, together")
	add(c.CatalogueWeeks < 1 || c.CatalogueWeeks > 520, "catalogue_weeks", fmt.Sprintf("%d is not between 1 and 520", c.CatalogueWeeks), "or name the stream")
	return faults
}

// Open implements feeds.Config.
func (c *Config) Open(s feeds.Settings) (feeds.Feed, error) {
	cfg, err := c.Load("", 1, s.Dial)
	if err != nil {
		return nil, fmt.Errorf("feed %s: %w", s.Name, err)
	}
	dec, err := block.NewDecoder()
	if err != nil {
		return nil, fmt.Errorf("feed %s: %w", s.Name, err)
	}
	return &feed{
		client: awsddb.NewFromConfig(cfg, func(o *awsddb.Options) { o.HTTPSignerV4 = awsconf.Signer{} }),
		conf:   *c, here: s.Site, log: s.Log.With("tag", c.Tag), clock: s.Clock, dec: dec, cursor: known(s.Cursor),
		stream: c.Stream, unit: c.Unit, poll: feeds.Poll{Interval: c.Interval},
	}, nil
}

// cursorDigits is the length of a cursor, which sorts as the times do.
const cursorDigits = 20

// known is the cursor where it is one of a week table. A feed of another kind
// may have had the name before, and its cursor would keep all values away.
func known(cursor string) string {
	if len(cursor) != cursorDigits || strings.Trim(cursor, "0123456789") != "" {
		return ""
	}
	return cursor
}

type feed struct {
	client *awsddb.Client
	conf   Config
	here   string // the site of this gateway, which the results are for
	log    *slog.Logger
	clock  clock.Clock
	dec    *block.Decoder
	poll   feeds.Poll

	stream string // empty until the catalogue has told it
	unit   string
	known  bool   // the catalogue was asked for the unit
	cursor string // of the newest value handed over
	state  string // what was last said of the tag, so that it is said once
	// passedOver is what did not read at the last poll, toldOver what was said of it.
	passedOver, toldOver string
}

// Receive implements feeds.Feed.
func (f *feed) Receive(ctx context.Context) ([]feeds.Message, error) {
	if due, err := f.poll.Wait(ctx); !due || err != nil {
		return nil, err
	}
	f.passedOver = ""
	newest, err := f.newest(ctx)
	if f.passedOver != f.toldOver {
		if f.toldOver = f.passedOver; f.passedOver != "" {
			f.log.Warn("something in the week tables is passed over", "why", f.passedOver)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err // and it is due again: the caller spaces the tries
	}
	f.poll.Asked()
	if newest == nil {
		f.say("no value of the tag is younger than valid_for; nothing is mirrored until one is")
		return nil, nil
	}
	m, err := f.message(newest)
	if err != nil {
		f.say(err.Error())
		return nil, nil
	}
	f.say("")
	if m.Cursor <= f.cursor {
		return nil, nil
	}
	f.cursor = m.Cursor
	return []feeds.Message{m}, nil
}

// say logs a state of the tag once. Empty is that all is well.
func (f *feed) say(state string) {
	if state == f.state {
		return
	}
	if f.state = state; state == "" {
		f.log.Info("the tag has values that are mirrored again")
		return
	}
	f.log.Warn("a tag of the week tables gives nothing to mirror", "why", state)
}

// message makes a result of a sample.
func (f *feed) message(s *sample.Sample) (feeds.Message, error) {
	value, err := convert(s.Value, f.conf.Type)
	if err != nil {
		return feeds.Message{}, err
	}
	if s.Quality.IsBad() || value.Kind() == sample.Null {
		return feeds.Message{}, fmt.Errorf("the tag is %s where it comes from; nothing is mirrored until it is Good", s.Quality)
	}
	taken := s.PrimaryTime()
	if taken <= 0 {
		return feeds.Message{}, errors.New("the tag's time is before 1970: set the clock of the gateway that sends it")
	}
	at := time.Unix(0, taken).UTC()
	r := &result.Result{
		ID: fmt.Sprintf("tag-%d", taken), Site: f.here, Target: f.conf.Target, Version: uint64(taken), Value: value, Unit: f.unit, Quality: s.Quality,
		ComputedAt: at, ValidFrom: at, ValidUntil: at.Add(f.conf.ValidFor), Run: "weektable/" + f.conf.Gateway,
	}
	body, err := r.Encode()
	if err != nil {
		return feeds.Message{}, fmt.Errorf("the tag's value does not make a result: %w", err)
	}
	return feeds.Message{Key: fmt.Sprintf("%s@%s", f.conf.Tag[:min(len(f.conf.Tag), 200)], at.Format(time.RFC3339Nano)), Body: body, Cursor: fmt.Sprintf("%0*d", cursorDigits, taken), Local: true}, nil
}

// convert turns a number into what the target takes, where it fits exactly.
func convert(v sample.Value, typ string) (sample.Value, error) {
	switch {
	case typ == sample.Float64.String() && v.Kind() == sample.Int64:
		f := float64(v.Int())
		if f >= 1<<63 || int64(f) != v.Int() {
			return v, fmt.Errorf("the tag's value %s is not exact as a float64", v)
		}
		return sample.FloatValue(f), nil
	case typ == sample.Int64.String() && v.Kind() == sample.Float64:
		f := v.Float()
		if f < -(1<<63) || f >= 1<<63 || f != float64(int64(f)) {
			return v, fmt.Errorf("the tag's value %s is no whole number", v)
		}
		return sample.IntValue(int64(f)), nil
	}
	return v, nil
}

// Done implements feeds.Feed. The mirror's own log remembers the cursor.
func (f *feed) Done(context.Context, []feeds.Message) error { return nil }

// Check implements feeds.Feed.
func (f *feed) Check(ctx context.Context) error {
	if err := f.locate(ctx); err != nil {
		return err
	}
	_, err := f.newest(ctx)
	return err
}

// Close implements feeds.Feed.
func (f *feed) Close() error { return nil }

// explain classifies an error of DynamoDB.
func explain(table string, err error) error {
	out := awsconf.Wrap("query table", table, err)
	if out.Class == uploader.Permanent {
		out.Class, out.Hint = uploader.Hold, "is it a week table of millrace? look at table_prefix"
	}
	return out
}

// walk hands over the blocks of a stream in one week's table, the newest first,
// until more says that it is enough. A table that is not there has none.
func (f *feed) walk(ctx context.Context, stream string, week time.Time, more func(last int64, data []byte) bool) error {
	table := weektable.Table(f.conf.TablePrefix, week)
	site, _, _ := cutTag(f.conf.Tag)
	in := &awsddb.QueryInput{
		TableName: &table, ScanIndexForward: aws.Bool(false), Limit: aws.Int32(4),
		KeyConditionExpression:   aws.String("#pk = :pk"),
		ProjectionExpression:     aws.String("#last, #block"),
		ExpressionAttributeNames: map[string]string{"#pk": weektable.AttrPartition, "#last": weektable.AttrLast, "#block": weektable.AttrBlock},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":pk": &types.AttributeValueMemberS{Value: weektable.Partition(site, f.conf.Gateway, stream)},
		},
	}
	for {
		limited, cancel := context.WithTimeout(ctx, queryTimeout)
		out, err := f.client.Query(limited, in)
		cancel()
		var none *types.ResourceNotFoundException
		if errors.As(err, &none) {
			return nil
		}
		if err != nil {
			return explain(table, err)
		}
		for _, item := range out.Items {
			data, ok := item[weektable.AttrBlock].(*types.AttributeValueMemberB)
			last, ok2 := item[weektable.AttrLast].(*types.AttributeValueMemberN)
			if !ok || !ok2 {
				f.passedOver = "an item of table " + table + " is no block"
				continue
			}
			if !more(parseInt(last.Value), data.Value) {
				return nil
			}
		}
		if in.ExclusiveStartKey = out.LastEvaluatedKey; len(in.ExclusiveStartKey) == 0 {
			return nil
		}
	}
}
