package main

import (
	"strings"
	"testing"
)

func TestParseEndpoint(t *testing.T) {
	for _, test := range []struct {
		spec    string
		cluster bool
		want    string // kind and addresses
		plain   bool
	}{
		{"localhost:6379", false, "server localhost:6379", true},
		{"localhost:6379", true, "cluster localhost:6379", true},
		{"a:1, b:2", false, "cluster a:1 b:2", true},
		{"redis://user:secret@a:1/3", false, "server a:1", true},
		{"redis://a:1", true, "cluster a:1", true},
		{"redis://a:1?addr=b:2&addr=c:3", false, "cluster a:1 b:2 c:3", true},
		{"rediss://a:1", false, "server a:1", false},
		{"rediss://a:1?addr=b:2", false, "cluster a:1 b:2", false},
		{"unix:///run/redis.sock", false, "server /run/redis.sock", false},
		{"redis://a:1?master_name=main&addr=b:2", false, "failover a:1 b:2", true},
	} {
		e, err := parseEndpoint(test.spec, test.cluster)
		if err != nil {
			t.Errorf("%s: %v", test.spec, err)
			continue
		}
		var got string
		switch {
		case e.server != nil:
			got = "server " + e.server.Addr
		case e.cluster != nil:
			got = "cluster " + strings.Join(e.cluster.Addrs, " ")
		case e.failover != nil:
			got = "failover " + strings.Join(e.failover.SentinelAddrs, " ")
		}
		if got != test.want || e.plain() != test.plain {
			t.Errorf("%s: %s, plain %v; want %s, %v", test.spec, got, e.plain(), test.want, test.plain)
		}
		if err := e.client(nil).Close(); err != nil {
			t.Errorf("%s: %v", test.spec, err)
		}
	}
}

func TestParseEndpointRefuses(t *testing.T) {
	for _, spec := range []string{
		"", "localhost", ":6379", "a:1,b", "http://user:secret@a:1", "redis://user:secret@a b", "redis://user:secret@a:1/notanumber",
		"redis://user:secret@a:1?no_such_option=1", "redis://user:secret@a:port",
	} {
		_, err := parseEndpoint(spec, false)
		if err == nil {
			t.Errorf("%q was taken", spec)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error shows the password: %v", spec, err)
		}
	}
}
