package coordinator_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/onceward/coordinator"

// listed is what these tests need of a package that go list tells of.
type listed struct {
	ImportPath string
	Standard   bool
	Module     *struct{ Path string }
	Imports    []string
}

func goList(t *testing.T, args ...string) (all []listed) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Module,Imports"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, failed.Stderr)
		}
		t.Fatal(err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// A program that imports only the root package links go-redis, what that needs, and nothing else.
func TestRootLinksGoRedisOnly(t *testing.T) {
	const client = "github.com/redis/go-redis/v9"
	brought := map[string]bool{client: true}
	for _, p := range goList(t, "-deps", client) {
		brought[p.ImportPath] = true
	}
	for _, p := range goList(t, "-deps", module) {
		if p.ImportPath != module && !p.Standard && !brought[p.ImportPath] && !slices.Contains(chapters, p.ImportPath) {
			t.Errorf("%s is linked into every program that imports the root package", p.ImportPath)
		}
	}
}

// Imports go one way: programs, adapters, the core.
func TestImportDirection(t *testing.T) {
	modules := strings.Fields(run(t, "go", "list", "-m"))
	patterns := []string{}
	for _, m := range modules {
		patterns = append(patterns, m+"/...")
	}
	seen := map[string]bool{}
	for _, p := range goList(t, patterns...) {
		layer, name := layerOf(p.ImportPath)
		seen[name] = true
		for _, imported := range p.Imports {
			if imported != module && !strings.HasPrefix(imported, module+"/") {
				continue
			}
			below, other := layerOf(imported)
			switch {
			case name == other, below < layer:
			case layer == coreLayer:
				t.Errorf("%s imports %s; the core imports no package of ours but internal ones for tests", p.ImportPath, imported)
			case layer == adapterLayer && below == adapterLayer:
				t.Errorf("%s imports %s; adapters do not import each other", p.ImportPath, imported)
			default:
				t.Errorf("%s imports %s; imports go from programs to adapters to the core", p.ImportPath, imported)
			}
		}
	}
	if !seen["coordinator"] || !seen["examples"] {
		t.Errorf("go list found %v only", slices.Sorted(maps.Keys(seen)))
	}
}

const (
	internalLayer = iota // chapters of the core, and what only tests use; they import each other alone
	coreLayer
	adapterLayer
	programLayer
)

// layerOf sorts a package of ours: what may import it, and the name of what it belongs to.
func layerOf(path string) (layer int, name string) {
	if path == module {
		return coreLayer, "coordinator"
	}
	name, _, _ = strings.Cut(strings.TrimPrefix(path, module+"/"), "/")
	switch {
	case name == "internal", name == "scripts":
		return internalLayer, "internal"
	case strings.HasPrefix(name, "coord"):
		return adapterLayer, name
	}
	return programLayer, name
}

// chapters are the packages that the core is made of, beside the root; it uses no other of ours.
var chapters = []string{
	module + "/scripts", module + "/internal/carrier", module + "/internal/flight", module + "/internal/keyname", module + "/internal/protocol",
	module + "/internal/renewal", module + "/internal/replaycache", module + "/internal/wakeup",
}

// The core's own files (not its tests) use nothing of the project but its chapters; the rest brings testing and processes.
func TestCoreUsesOnlyItsOwnChapters(t *testing.T) {
	for _, p := range goList(t, append(slices.Clone(chapters), module)...) {
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, module+"/") && !slices.Contains(chapters, imported) {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
