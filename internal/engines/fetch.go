package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// keyring is where the package debian-archive-keyring has the keys that sign all of Debian's suites.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// binary is what REDIS_SERVER is set to: a script that counts its starts and becomes the server.
func (e engine) binary(dir string) string { return filepath.Join(dir, e.server) }

// get unpacks the engine into dir, unless it is there.
func (e engine) get(ctx context.Context, dir string) error {
	if _, err := os.Stat(e.binary(dir)); err == nil {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil { // the remains of an earlier try
		return err
	}
	a, err := newApt(ctx, filepath.Join(dir, "apt"), e.suites)
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	if err := a.unpack(ctx, e.server, root); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte(a.versions[e.server]), 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(a.dir); err != nil {
		return err
	}
	return e.wrap(ctx, dir, root)
}

func (e engine) version(dir string) (string, error) {
	version, err := os.ReadFile(filepath.Join(dir, "version"))
	return e.server + " " + string(version), err
}

// wrap writes the script. The server runs with the loader and the C library of its own suite, whatever this machine's are.
func (e engine) wrap(ctx context.Context, dir, root string) error {
	var loader string
	var libraries []string
	for _, lib := range []string{"lib", "usr/lib"} {
		found, err := filepath.Glob(filepath.Join(root, lib, "*-linux-gnu*"))
		if err != nil {
			return err
		}
		for _, path := range found {
			libraries = append(libraries, path)
			loaders, err := filepath.Glob(filepath.Join(path, "ld-linux*.so.*"))
			if err != nil {
				return err
			}
			if len(loaders) > 0 {
				loader = loaders[0]
			}
		}
	}
	if loader == "" {
		return errors.New("the unpacked libc6 has no loader where this program looks for it")
	}
	server := filepath.Join(root, "usr", "bin", e.server)
	path := strings.Join(libraries, ":")
	if out, err := exec.CommandContext(ctx, loader, "--library-path", path, "--list", server).CombinedOutput(); err != nil || bytes.Contains(out, []byte("not found")) {
		return fmt.Errorf("libraries of %s: %v: %s", e.server, err, out)
	}
	script := fmt.Sprintf("#!/bin/sh\necho >>%s\nexec %s --argv0 %s --library-path %s %s \"$@\"\n",
		quote(starts(dir)), quote(loader), quote(e.server), quote(path), quote(server))
	return os.WriteFile(e.binary(dir), []byte(script), 0o755)
}

// starts is the file that has a line for each start of the engine.
func starts(dir string) string { return filepath.Join(dir, "starts") }

// quote is for sh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// apt is an apt of our own: it has its own sources, lists and cache, and knows of no installed package.
type apt struct {
	dir      string
	versions map[string]string // of what unpack unpacked
}

// newApt makes one that knows the packages of the suites.
func newApt(ctx context.Context, dir string, suites []string) (*apt, error) {
	at, err := mirrors(ctx)
	if err != nil {
		return nil, err
	}
	var sources strings.Builder
	for _, s := range suites {
		uri := at["Debian"]
		if strings.HasSuffix(s, "-security") {
			if uri = at["Debian-Security"]; uri == "" {
				continue // the machine does without, so do we
			}
		}
		fmt.Fprintf(&sources, "deb [signed-by=%s target=Packages] %s %s main\n", keyring, uri, s)
	}
	a := &apt{dir: dir, versions: map[string]string{}}
	config := ""
	for _, setting := range [][2]string{
		{"Dir::State", a.path("state")}, {"Dir::State::status", a.path("status")}, {"Dir::Cache", a.path("cache")},
		{"Dir::Etc::sourcelist", a.path("sources.list")}, {"Dir::Etc::sourceparts", "/dev/null"},
		{"Dir::Etc::preferences", "/dev/null"}, {"Dir::Etc::preferencesparts", "/dev/null"},
		{"APT::Sandbox::User", ""}, // its own user may not enter this directory
	} {
		config += fmt.Sprintf("%s %q;\n", setting[0], setting[1])
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(a.path(d), 0o755); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{"sources.list": sources.String(), "status": "", "apt.conf": config} {
		if err := os.WriteFile(a.path(name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	_, err = a.run(ctx, "apt-get", "-q", "--error-on=any", "update")
	return a, err
}

func (a *apt) path(name string) string { return filepath.Join(a.dir, name) }

func (a *apt) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.path("apt.conf"), "LC_ALL=C")
	return output(cmd)
}

func output(cmd *exec.Cmd) (string, error) {
	var out, complaints strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%v: %w: %s", cmd.Args, err, strings.TrimSpace(complaints.String()))
	}
	return out.String(), nil
}

// mirrors tells where this machine has Debian and its security suites from, by their labels.
func mirrors(ctx context.Context) (map[string]string, error) {
	out, err := output(exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"))
	if err != nil {
		return nil, err
	}
	at := map[string]string{}
	for line := range strings.Lines(out) {
		if f := strings.Split(strings.TrimSpace(line), "|"); len(f) == 3 && f[0] == "Debian" && at[f[1]] == "" {
			at[f[1]] = f[2]
		}
	}
	if at["Debian"] == "" {
		return nil, errors.New("apt has no lists of Debian; run apt-get update")
	}
	return at, nil
}

// planned finds the packages and versions in what apt-get -s prints.
var planned = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) `)

// wanted are packages with programs and libraries; what is left out of those that a server depends on is for its service.
var wanted = regexp.MustCompile(`^(lib|lua|zlib|.*-(server|tools)$)`)

type release struct{ name, version string }

func parsePlan(text string) (all []release) {
	for _, m := range planned.FindAllStringSubmatch(text, -1) {
		if wanted.MatchString(m[1]) && !strings.Contains(m[1], "perl") {
			all = append(all, release{m[1], m[2]})
		}
	}
	return all
}

// unpack puts the server and the libraries that it depends on into root.
func (a *apt) unpack(ctx context.Context, server, root string) error {
	plan, err := a.run(ctx, "apt-get", "-s", "--no-install-recommends", "install", server)
	if err != nil {
		return err
	}
	get := []string{"-q", "download"}
	for _, p := range parsePlan(plan) {
		get = append(get, p.name+"="+p.version)
		a.versions[p.name] = p.version
	}
	if _, err := a.run(ctx, "apt-get", get...); err != nil {
		return err
	}
	packages, err := filepath.Glob(a.path("*.deb"))
	if err != nil {
		return err
	}
	if len(packages) != len(get)-2 {
		return fmt.Errorf("apt-get download brought %d packages of %d", len(packages), len(get)-2)
	}
	for _, p := range packages {
		if _, err := a.run(ctx, "dpkg-deb", "-x", p, root); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(root, "usr", "share"))
}
