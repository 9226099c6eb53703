package coordgrpc

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/grpc.md has a paragraph for each reason, which begins with its code, and a row of a table, and no others.
func TestDocsReasons(t *testing.T) {
	text, err := os.ReadFile("../docs/grpc.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("status.go")
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, m := range regexp.MustCompile(`(?m)^\tReason\w+ +Reason = "(\w+)" +// (\w+)`).FindAllStringSubmatch(string(source), -1) {
		reasons = append(reasons, m[1])
		if !strings.Contains(string(text), "\n### "+m[1]+"\n\n"+m[2]) {
			t.Errorf("docs/grpc.md has no paragraph on %s that begins with %s", m[1], m[2])
		}
		sort, there := sorts[Reason(m[1])]
		if code := strings.ReplaceAll(strings.ToUpper(sort.code.String()), "_", ""); there && code != strings.ReplaceAll(m[2], "_", "") {
			t.Errorf("%s is said to be %s and is %s", m[1], m[2], sort.code)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(string(text), -1) {
		if !slices.Contains(reasons, m[1]) {
			t.Errorf("docs/grpc.md has a paragraph on %s, which is no reason", m[1])
		}
	}
	if len(reasons) != len(sorts)+1 {
		t.Errorf("this test finds %d reasons of %d", len(reasons), len(sorts)+1)
	}
}
