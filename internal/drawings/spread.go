package main

import (
	"fmt"
	"math"
	"sync"

	"github.com/onceward/coordinator/internal/scaling/estimate"
)

// spreads takes a moment, and the drawing is made more than once in a test.
var spreads = sync.OnceValue(func() []estimate.Spread { return estimate.Spreads(estimate.Thrown, estimate.Seed) })

// spread draws how unevenly keys of each shape lie on masters, as docs/scaling.md tells it.
func spread() *drawing {
	const left, top, row, bar, perDoubling = 200, 86, 46, 18, 110
	shapes := spreads()
	d := &drawing{
		name: "spread.svg", width: 860, height: top + len(shapes)*row + 44,
		title: "The fullest master against the mean, by the shape of the keys",
		about: "Two bars for each shape of keys, for 30 and for 300 masters, on a scale that doubles at even steps. Keys with a tag of their own " +
			"(UUIDs, sequences, ids of tenants and webhooks) and keys of a million resources stay close to one. " +
			"Keys of a thousand resources, of fifty, and of resources of which few get most keys, do not.",
	}
	at := func(times float64) int { return left + int(math.Round(perDoubling*math.Log2(times))) }
	d.label(left, 28, "name", "start", "fullest master ÷ mean")
	d.box(left+230, 16, 30, 16, "first")
	d.label(left+268, 29, "", "start", "30 masters")
	d.box(left+380, 16, 30, 16, "second")
	d.label(left+418, 29, "", "start", "300 masters")
	bottom := top + len(shapes)*row
	for times := 1; times <= 32; times *= 2 {
		d.label(at(float64(times)), 66, "small", "middle", fmt.Sprintf("%d", times))
		d.path("dashed", point{at(float64(times)), 74}, point{at(float64(times)), top - 4})
	}
	for i, s := range shapes {
		y := top + i*row
		d.label(left-12, y+bar+5, "", "end", s.Name)
		for j, masters := range []int{30, 300} {
			class := []string{"first", "second"}[j]
			end := max(at(s.Master[masters]), left+2)
			d.box(left, y+j*bar, end-left, bar, class)
			d.label(end+8, y+j*bar+14, "small", "start", fmt.Sprintf("%.2f", s.Master[masters]))
		}
	}
	d.path("line", point{left - 4, top - 4}, point{left - 4, bottom})
	d.label(left, bottom+26, "small", "start", fmt.Sprintf("%d,%03d keys of each shape, simulated with a fixed seed", estimate.Thrown/1000, estimate.Thrown%1000))
	return d
}
