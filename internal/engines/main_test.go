package main

import (
	"slices"
	"strings"
	"testing"
)

func TestCalled(t *testing.T) {
	for info, want := range map[string]string{
		"# Server\r\nredis_version:7.0.15\r\nredis_git_sha1:0\r\n":                              "Redis 7.0.15",
		"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n":     "Valkey 8.0.1",
		"# Server\r\nredict_version:7.3.6\r\nredis_version:7.2.4\r\nredict_git_dirty:0\r\n\r\n": "Redict 7.3.6",
	} {
		if got := called(info); got != want {
			t.Errorf("%q is called %q, want %q", info, got, want)
		}
	}
}

func TestPlan(t *testing.T) {
	const plan = `NOTE: This is only a simulation!
Inst gcc-12-base (12.2.0-14 Debian:12.15/oldstable [amd64])
Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []
Inst libperl5.36 (5.36.0-7 Debian:12.15/oldstable [amd64])
Inst zlib1g (1:1.2.13.dfsg-1 Debian:12.15/oldstable [amd64])
Inst adduser (3.134 Debian:12.15/oldstable [all])
Inst valkey-tools (8.0.1+dfsg1-1~bpo12+1 Debian Backports:oldstable-backports [amd64])
Inst valkey-server (8.0.1+dfsg1-1~bpo12+1 Debian Backports:oldstable-backports [amd64])
Conf libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64])
`
	want := []string{"libc6=2.36-9+deb12u14", "zlib1g=1:1.2.13.dfsg-1", "valkey-tools=8.0.1+dfsg1-1~bpo12+1", "valkey-server=8.0.1+dfsg1-1~bpo12+1"}
	var got []string
	for _, p := range parsePlan(plan) {
		got = append(got, p.name+"="+p.version)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCount(t *testing.T) {
	const events = `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"told by x\n"}
{"Action":"fail","Package":"p","Test":"TestA/x"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"told by B\n"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p","Elapsed":2}
{"Action":"pass","Package":"q","Elapsed":1}
{"Action":"skip","Package":"no tests"}
{"Action":"build-output","ImportPath":"r","Output":"does not compile\n"}
{"Action":"build-fail","ImportPath":"r"}
{"Action":"fail","Package":"r","FailedBuild":"r"}
`
	var o outcome
	var log, out strings.Builder
	if err := o.count(strings.NewReader(events), &log, &out); err != nil {
		t.Fatal(err)
	}
	if o.Packages != (count{OK: 1, Failed: 2}) || o.Tests != (count{OK: 1, Failed: 1, Skipped: 1}) {
		t.Errorf("packages %+v, tests %+v", o.Packages, o.Tests)
	}
	if !slices.Equal(o.Failures, []string{"p.TestA", "r"}) || !slices.Equal(o.Skips, []string{"p.TestC"}) {
		t.Errorf("failures %q, skips %q", o.Failures, o.Skips)
	}
	for text, told := range map[string]bool{"told by x": true, "told by B": false, "does not compile": true} {
		if strings.Contains(out.String(), text) != told || !strings.Contains(log.String(), text) {
			t.Errorf("%q stands in %q, or not in %q", text, out.String(), log.String())
		}
	}
}

func TestTable(t *testing.T) {
	clean := &outcome{Packages: count{OK: 15}, Tests: count{OK: 260}, Started: 66, Seconds: 121}
	broken := &outcome{Packages: count{OK: 14, Failed: 1}, Failures: []string{"p.TestA"}}
	rows := []row{
		{Engine: "one", Needed: true, Server: "Redis 7.0.15", outcome: clean},
		{Engine: "two", Needed: true, Error: "cannot be had: no such suite"},
		{Engine: "three", Error: "cannot be had: no such suite"},
		{Engine: "four", Server: "Valkey 8.0.1", outcome: broken},
		{Engine: "five", outcome: clean, Error: "a test started what REDIS_SERVER does not name: redis-cli"},
	}
	var bad []string
	for _, r := range rows {
		if r.bad() {
			bad = append(bad, r.Engine)
		}
	}
	if want := []string{"two", "four", "five"}; !slices.Equal(bad, want) {
		t.Errorf("bad are %q, want %q", bad, want)
	}
	var out strings.Builder
	if err := table(&out, rows); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one     Redis 7.0.15  15           0       260       0       0        66               2m1s\n", "two     -", "two: cannot be had", "four: FAIL p.TestA\n", "five: a test started"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
