package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
)

func TestLoad(t *testing.T) {
	server := miniredis.RunT(t)
	server.RequireUserAuth("ops", "secret")
	got := invoke(t.Context(), "load", "--redis", "redis://ops:secret@"+server.Addr())
	if lines := strings.Split(strings.TrimSpace(got.out), "\n"); got.status != exitOK || len(lines) < 2 ||
		!strings.HasPrefix(lines[1], server.Addr()) || !strings.HasSuffix(lines[1], "ok") {
		t.Errorf("%+v", got)
	}

	got = invoke(t.Context(), "load", "--redis", "redis://ops:wrong@"+server.Addr())
	if got.status != exitFailed || !strings.Contains(got.out, "error: ") || strings.Contains(got.out+got.err, "wrong@") {
		t.Errorf("with a wrong password: %+v", got)
	}
}

func TestLoadFromEnvironment(t *testing.T) {
	server := miniredis.RunT(t)
	t.Setenv("COORDCTL_REDIS", server.Addr())
	if got := invoke(t.Context(), "load"); got.status != exitOK {
		t.Errorf("%+v", got)
	}
}

func TestLoadNowhere(t *testing.T) {
	t.Setenv("COORDCTL_REDIS", "")
	server := miniredis.RunT(t)
	addr := server.Addr()
	server.Close()
	for _, test := range []struct{ args, says string }{
		{"load", "--redis"},
		{"load --redis http://localhost", "redis://"},
		{"load --redis " + addr, "1 of 1 nodes"},
		{"load --redis " + addr + " --cluster", "masters"},
	} {
		got := invoke(t.Context(), strings.Fields(test.args)...)
		if got.status != exitFailed || !strings.Contains(got.err, test.says) {
			t.Errorf("coordctl %s: %+v", test.args, got)
		}
	}
}

func TestLoadCluster(t *testing.T) {
	cluster := servers.Cluster(t)
	got := invoke(t.Context(), "load", "--json", "--redis", strings.Join(cluster.Addrs(), ","))
	var printed struct{ Nodes []node }
	if err := json.Unmarshal([]byte(got.out), &printed); err != nil || got.status != exitOK {
		t.Fatalf("%v: %+v", err, got)
	}
	masters := map[string]bool{}
	for _, n := range printed.Nodes {
		masters[n.Address] = true
		if !n.OK || !strings.Contains(n.Server, " ") {
			t.Errorf("%+v", n)
		}
	}
	if len(printed.Nodes) != 3 || len(masters) != 3 {
		t.Errorf("%d lines for 3 masters: %s", len(printed.Nodes), got.out)
	}

	// A single address is one server, unless it is said to be a cluster's; then it leads to all masters.
	got = invoke(t.Context(), "load", "--cluster", "--redis", "redis://"+cluster.Addrs()[0])
	if got.status != exitOK || strings.Count(got.out, "ok\n") != 3 {
		t.Errorf("%+v", got)
	}
}

func TestLoadClusterWithDeadMaster(t *testing.T) {
	cluster := servers.Cluster(t)
	dead, err := cluster.MasterFor(t.Context(), "any")
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Kill(); err != nil { // the pool mends it for the next test
		t.Fatal(err)
	}
	got := invoke(t.Context(), "load", "--redis", strings.Join(alive(cluster.Addrs(), dead.Addr()), ","))
	if got.status != exitFailed || strings.Count(got.out, "ok\n") != 2 || strings.Count(got.out, "error: ") != 1 {
		t.Errorf("%+v", got)
	}
}

// alive leaves one address out.
func alive(addrs []string, dead string) []string {
	var rest []string
	for _, addr := range addrs {
		if addr != dead {
			rest = append(rest, addr)
		}
	}
	return rest
}
