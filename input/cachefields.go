package input

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/kafka-failover/kafka-failover/internal/kafka"
	"github.com/kafka-failover/kafka-failover/internal/position"
)

const (
	fieldResumeCache = "resume_cache"
	fieldMaxInFlight = "max_in_flight"
)

// cacheFields are those of resume: cache.
func cacheFields() []*service.ConfigField {
	return []*service.ConfigField{
		service.NewStringField(fieldResumeCache).Default("").
			Description("With `resume: cache`: the label of the cache resource that keeps the positions. It is to outlive the relay, and must not let them expire. They stand under the keys `kafka_failover.NAME.0` and `.1`, where NAME is the input's `relay`, else its label, else that of the stream."),
		service.NewIntField(fieldMaxInFlight).Default(1).Advanced().
			Description("With `resume: cache`: batches that may be unacknowledged. With more than 1 an output may write them in any order. One that gathers messages (`batching`) needs a `period`, or more than 1. A `kafka_failover` output has a `max_in_flight` of its own."),
	}
}

// cacheLint are the cases of the lint rule that concern resume: cache.
const cacheLint = `
  this.resume.or("") == "cache" && this.resume_cache.or("") == "" => [ "resume: cache needs a resume_cache: name the cache resource that keeps the positions" ]
  this.resume.or("") != "cache" && this.resume_cache.or("") != "" => [ "resume_cache is only used with resume: cache" ]
  this.max_in_flight.or(1).number(1) < 1 => [ "max_in_flight must be at least 1" ]
  this.resume.or("") != "cache" && this.max_in_flight.or(1).number(1) != 1 => [ "max_in_flight of the input is only used with resume: cache; a kafka_failover output has its own" ]
  this.resume.or("") == "cache" && $topics.any(t -> t.contains(":")) => [ "topics: with resume: cache write source topics alone; the output says where records go" ]
  this.resume.or("") == "cache" && !this.relay.or("").re_match("^[a-zA-Z0-9._-]{0,128}$") => [ "relay names the positions in the cache: letters, digits, '.', '_' and '-', at most 128" ]`

// cacheConf is the configuration of resume: cache.
type cacheConf struct {
	// resource is the label of the cache; empty without resume: cache.
	resource    string
	maxInFlight int
}

var cacheName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,128}$`)

// parseCache reads the fields of resume: cache, and notes what does not fit.
func (c *config) parseCache(r *kafka.Fields) {
	c.cache = cacheConf{resource: r.String(fieldResumeCache), maxInFlight: r.Int(fieldMaxInFlight, 1, 1024)}
	if c.resume != position.ResumeCache {
		if c.cache.resource != "" {
			r.Note(errors.New("resume_cache is only used with resume: cache"))
		}
		if c.cache.maxInFlight > 1 {
			r.Note(errors.New("max_in_flight of the input is only used with resume: cache; a kafka_failover output has its own"))
		}
		return
	}
	if c.cache.resource == "" {
		r.Note(errors.New("resume: cache needs a resume_cache: name the cache resource that keeps the positions"))
	}
	for _, route := range c.routes {
		if route.String() != route.Source {
			r.Note(fmt.Errorf("topics: %q names more than the source topic; with resume: cache the output says where records go", route))
		}
	}
	if c.relay != "" && !cacheName.MatchString(c.relay) {
		r.Note(fmt.Errorf("relay %q names the positions in the cache: letters, digits, '.', '_' and '-', at most 128", c.relay))
	}
}

// cacheNameOf is the name under which an input keeps its positions.
func cacheNameOf(conf config, res *service.Resources) string {
	for _, name := range []string{conf.relay, res.Label(), res.StreamID()} {
		if name = notInName.ReplaceAllString(name, "_"); cacheName.MatchString(name) {
			return name
		}
	}
	return "relay"
}

var notInName = regexp.MustCompile(`[^a-zA-Z0-9._-]`)
