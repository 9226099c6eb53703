package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onceward/coordinator/internal/redistest"
	"github.com/onceward/coordinator/internal/scaling/estimate"
)

var page = filepath.Join("..", "..", "docs", "scaling.md")

// What the page shows is what this program works out.
func TestPage(t *testing.T) {
	t.Parallel()
	if err := run(t.Context(), []string{"-check", "-page", page}, nil); err != nil {
		t.Error(err)
	}
}

func TestCheckFindsWhatDiffers(t *testing.T) {
	parts := []part{{"one", "| a |\n"}, {"two", "| b |\n"}}
	path := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("head\n\n<!-- scaling: one -->\n<!-- end -->\n\n<!-- scaling: two -->\nold\n<!-- end -->\n")
	if compare(path, parts) == nil {
		t.Error("a page with other tables passes")
	}
	if err := rewrite(path, parts); err != nil {
		t.Fatal(err)
	}
	if err := compare(path, parts); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"without a mark":               "<!-- scaling: one -->\n| a |\n<!-- end -->\n",
		"with a mark that is no one's": "<!-- scaling: one -->\n| a |\n<!-- end -->\n<!-- scaling: two -->\n| b |\n<!-- end -->\n<!-- scaling: three -->\n<!-- end -->\n",
	} {
		write(text)
		if compare(path, parts) == nil {
			t.Errorf("a page %s passes", name)
		}
	}
}

// Servers are measured, and the figures are of the right order: the commands did what they should.
func TestMeasure(t *testing.T) {
	redistest.Need(t)
	t.Parallel()
	c, err := measure(t.Context(), estimate.Costs{}, 1, 500)
	if err != nil {
		t.Fatal(err)
	}
	for name, cost := range map[string]estimate.Cost{"claim": c.Claim, "complete": c.Complete, "replay": c.Replay, "renew": c.Renew, "refused": c.Refused} {
		if cost.Pipelined < c.Get.Pipelined/2 || cost.Single <= 0 || cost.Single > 10_000 {
			t.Errorf("%s: %+v, a GET %+v", name, cost, c.Get)
		}
	}
	is, err := estimate.Measured()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Memory, is.Memory; got.Name != want.Name || got.InFlight != want.InFlight || got.Completed != want.Completed {
		t.Errorf("records have other lengths than costs.json says: %+v, %+v", got, want)
	}
	if c.Wire.Cycle < 512 || c.Wire.Replay < 512 || c.Wire.Renew < 150 {
		t.Errorf("bytes on the wire: %+v", c.Wire)
	}
	if !strings.HasPrefix(c.Server, "redis ") && !strings.HasPrefix(c.Server, "valkey ") {
		t.Errorf("the server is %q", c.Server)
	}
}

func TestNumbers(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 7: "7", 7.25: "7.2", 363.4: "363", 1234.5: "1,230", 1234: "1,234", 123_456: "123,000", 10e6: "10,000,000"} {
		if got := count(x); got != want {
			t.Errorf("count(%v) = %s, want %s", x, got, want)
		}
	}
	if got := about(10_064); got != "10,100" {
		t.Errorf("about(10,064) = %s", got)
	}
	for x, want := range map[float64]string{512: "512 B", 1500: "1.5 kB", 32e9: "32 GB", 9.6e12: "9.6 TB", 4096: "4 KiB"} {
		if got := bytes(x); got != want {
			t.Errorf("bytes(%v) = %s, want %s", x, got, want)
		}
	}
	for x, want := range map[float64]string{0: "0", .0001: "under 0.1 %", .016: "1.6 %", .0999: "10 %", 24.26: "2,426 %"} {
		if got := percent(x); got != want {
			t.Errorf("percent(%v) = %s, want %s", x, got, want)
		}
	}
}
