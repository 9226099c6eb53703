package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/onceward/coordinator/chaos/caller"
)

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--group", "weather"}, `no group "weather"`},
		{[]string{"--processes", "1"}, "--processes must be 2 or more"},
		{[]string{"--duration=-1s"}, "--duration must not be negative"},
		{[]string{"--nonsense"}, "see chaos --help"},
	} {
		var out, errs bytes.Buffer
		if status := execute(context.Background(), test.args, streams{strings.NewReader(""), &out, &errs}); status != exitUsage {
			t.Errorf("%v: status %d", test.args, status)
		}
		if !strings.Contains(errs.String(), test.want) {
			t.Errorf("%v: %q does not say %q", test.args, &errs, test.want)
		}
	}
}

func TestCallerWantsItsConfiguration(t *testing.T) {
	var out bytes.Buffer
	if err := caller.Main(strings.NewReader("no"), &out); err == nil {
		t.Error("a process of callers begins without a configuration")
	}
}
