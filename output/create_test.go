package output

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/relay"
)

func sourceTopics(t *testing.T, partitions int32, specs ...string) (out []relay.SourceTopic) {
	t.Helper()
	routes, err := relay.ParseRoutes(specs)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range routes {
		out = append(out, relay.SourceTopic{Route: r, Partitions: partitions + int32(i)})
	}
	return out
}

// What a target topic must have follows from its routes, the largest of several
// counting; what is created has what the source has.
func TestDemands(t *testing.T) {
	settings := map[string]kafka.Settings{
		"a": {"cleanup.policy": "delete", "retention.ms": "1000", "retention.bytes": "-1", "max.message.bytes": "100"},
		"b": {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "5", "max.message.bytes": "2000", "segment.ms": "7"},
	}
	type want struct {
		Topic               string
		Partitions, Created int32
		Settings            string
	}
	a := "--config cleanup.policy=delete --config max.message.bytes=100 --config retention.bytes=-1 --config retention.ms=1000"
	both := "--config cleanup.policy=delete --config max.message.bytes=2000 --config retention.bytes=-1 --config retention.ms=-1 --config segment.ms=7"
	for name, c := range map[string]struct {
		topics []string
		dead   string
		want   []want
	}{
		"same name":                       {[]string{"a"}, "", []want{{"a", 3, 3, a}}},
		"another name":                    {[]string{"a:x"}, "", []want{{"x", 3, 3, a}}},
		"by key":                          {[]string{"a:x:auto"}, "", []want{{"x", 1, 3, a}}},
		"into one partition":              {[]string{"a:x:0"}, "", []want{{"x", 1, 3, a}}},
		"into a high partition":           {[]string{"a:x:5"}, "", []want{{"x", 6, 6, a}}},
		"two into one":                    {[]string{"a:x", "b:x"}, "", []want{{"x", 4, 4, both}}},
		"two into one, the first by key":  {[]string{"a:x:auto", "b:x"}, "", []want{{"x", 4, 4, both}}},
		"two into one, the second by key": {[]string{"a:x", "b:x:auto"}, "", []want{{"x", 3, 4, both}}},
		"dead letters as large as records": {[]string{"a", "b"}, "dead", []want{{"a", 3, 3, a}, {"b", 4, 4, settings["b"].String()},
			{"dead", 1, 1, "--config cleanup.policy=delete --config max.message.bytes=2000"}}},
		"settings not known": {[]string{"c"}, "dead", []want{{"c", 3, 3, ""}, {"dead", 1, 1, "--config cleanup.policy=delete"}}},
	} {
		var got []want
		for _, d := range demands(sourceTopics(t, 3, c.topics...), settings, c.dead) {
			got = append(got, want{d.topic, d.partitions, d.created, d.settings.String()})
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestRemedies(t *testing.T) {
	missing := kafka.Topic{Err: kerr.UnknownTopicOrPartition}
	settings := map[string]kafka.Settings{"a": {"cleanup.policy": "compact"}, "b": {"cleanup.policy": "delete"}}
	all := may{create: true, grow: true, replication: 3}
	none := may{replication: -1}
	for name, c := range map[string]struct {
		topics []string
		target kafka.Topic
		may    may
		want   action
		err    string
	}{
		"there":                       {[]string{"a"}, kafka.Topic{Partitions: 3}, none, nothing, ""},
		"more partitions":             {[]string{"a"}, kafka.Topic{Partitions: 9}, all, nothing, ""},
		"missing, may create":         {[]string{"a"}, missing, all, create, ""},
		"missing, may only grow":      {[]string{"a"}, missing, may{grow: true, replication: 2}, nothing, `target topic "a" (route a) does not exist on the target; create it: kafka-topics.sh --bootstrap-server b:1 --create --topic a --partitions 3 --replication-factor 2 --config cleanup.policy=compact`},
		"missing, may not":            {[]string{"b:x:7"}, missing, none, nothing, `target topic "x" (route b:x:7) does not exist on the target; create it: kafka-topics.sh --bootstrap-server b:1 --create --topic x --partitions 8 --config cleanup.policy=delete`},
		"few, may grow":               {[]string{"a"}, kafka.Topic{Partitions: 2}, all, grow, ""},
		"few, may only create":        {[]string{"a"}, kafka.Topic{Partitions: 2}, may{create: true}, nothing, `target topic "a" (route a) has 2 partitions and needs 3; add them: kafka-topics.sh --bootstrap-server b:1 --alter --topic a --partitions 3`},
		"few, by key":                 {[]string{"a:x:auto"}, kafka.Topic{Partitions: 2}, all, nothing, ""},
		"may not be described":        {[]string{"a"}, kafka.Topic{Err: kerr.TopicAuthorizationFailed}, all, nothing, `target topic "a": TOPIC_AUTHORIZATION_FAILED: Not authorized to access topics: [Topic authorization failed.]`},
		"without a leader":            {[]string{"a"}, kafka.Topic{Partitions: 3, Leaderless: []int32{1}}, all, nothing, `target partition a/1 has no leader`},
		"two policies":                {[]string{"a:x", "b:x"}, missing, all, nothing, `target topic "x" (route b:x) does not exist, and its source topics have different settings of cleanup.policy (compact, delete of b); create it with the one that fits: kafka-topics.sh --bootstrap-server b:1 --create --topic x --partitions 4 --replication-factor 3 --config cleanup.policy=compact`},
		"two policies, but it exists": {[]string{"a:x", "b:x"}, kafka.Topic{Partitions: 4}, all, nothing, ""},
	} {
		got, err := demands(sourceTopics(t, 3, c.topics...), settings, "")[0].remedy(c.target, c.may, "b:1")
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != c.want || text != c.err {
			t.Errorf("%s: action %d, want %d, error\n%s\nwant\n%s", name, got, c.want, text, c.err)
		}
	}
}
