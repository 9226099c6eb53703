package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/alecthomas/kong"
)

// config is a file of flags. Unlike kong's own it refuses names that no flag has: a misspelt one would be left out silently.
type config map[string]any

func readConfig(r io.Reader) (kong.Resolver, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	c := config{}
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("it is not a JSON object of flags: %w", err)
	}
	return c, nil
}

// Resolve implements [kong.Resolver].
func (c config) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	return c[flag.Name], nil
}

// Validate implements [kong.Resolver].
func (c config) Validate(app *kong.Application) error {
	command := slices.IndexFunc(app.Children, func(n *kong.Node) bool { return n.Name == "proxy" })
	for name := range c {
		if !slices.ContainsFunc(app.Children[command].Flags, func(f *kong.Flag) bool { return f.Name == name }) {
			return fmt.Errorf("--config: there is no flag %q; write flags by their names, without the dashes in front", name)
		}
	}
	return nil
}
