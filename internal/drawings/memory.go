package main

import (
	"fmt"
	"math"
	"time"

	"github.com/onceward/coordinator/internal/scaling/estimate"
)

// memory draws what completed records take over the rate of keys, as docs/scaling.md tells it.
func memory() *drawing {
	const (
		left, right, top, bottom = 110, 690, 50, 490
		decade                   = (right - left) / 5 // from 1 to 100,000 keys a second
		least, most              = 1e6, 1e14          // bytes
		payload                  = 512
	)
	costs, err := estimate.Measured()
	if err != nil {
		panic(err) // the file is part of this program, and tests read it
	}
	d := &drawing{
		name: "memory.svg", width: 860, height: 560,
		title: "Memory over the rate of keys",
		about: "Memory of completed records with results of 512 bytes and fingerprints of 32, over keys per second from 1 to 100,000, both on logarithmic scales, for retentions of an hour, " +
			"a day and a week: three parallel lines. Dashed lines show what records may take on 1, 30 and 300 masters of 32 GB each, filled by 80 percent. " +
			fmt.Sprintf("One such master is full at %.0f keys a second with a retention of a day.", estimate.Planned.Fits(&costs, 24*time.Hour, payload)),
	}
	x := func(decades float64) int { return left + int(math.Round(decades*decade)) }
	y := func(bytes float64) int {
		return bottom - int(math.Round(math.Log10(bytes/least)/math.Log10(most/least)*(bottom-top)))
	}
	d.label(left, 28, "name", "start", "memory of all masters")
	for i, name := range []string{"1 MB", "100 MB", "10 GB", "1 TB", "100 TB"} {
		bytes := least * math.Pow(100, float64(i))
		d.label(left-14, y(bytes)+5, "small", "end", name)
		d.path("line", point{left - 6, y(bytes)}, point{left, y(bytes)})
	}
	for i, name := range []string{"1", "10", "100", "1,000", "10,000", "100,000"} {
		d.label(x(float64(i)), bottom+24, "small", "middle", name)
		d.path("line", point{x(float64(i)), bottom}, point{x(float64(i)), bottom + 6})
	}
	d.label((left+right)/2, bottom+50, "name", "middle", "keys a second")
	d.path("line", point{left, top}, point{left, bottom}, point{right, bottom})
	for _, full := range []struct {
		masters float64
		name    string
	}{{1, "1 master"}, {30, "30 masters"}, {300, "300 masters"}} {
		at := y(full.masters * estimate.Planned.Max * estimate.Planned.Filled)
		d.path("dashed", point{left, at}, point{right, at})
		d.label(left+12, at-6, "small", "start", full.name)
	}
	for _, kept := range []struct {
		retention time.Duration
		name      string
		down      int
	}{{time.Hour, "kept 1 h", 0}, {24 * time.Hour, "kept 24 h", 6}, {7 * 24 * time.Hour, "kept 7 d", 0}} {
		one := kept.retention.Seconds() * float64(costs.All(costs.Completed(payload)))
		var line []point
		for decades := 0.0; decades <= 5; decades += .5 { // in pieces, so that labels can stand beside it
			line = append(line, point{x(decades), y(one * math.Pow(10, decades))})
		}
		d.path("line", line...)
		d.label(right+14, y(one*1e5)+5+kept.down, "", "start", kept.name)
	}
	return d
}
